"""The layers as torchrl's GRUModule calls them, and the adapter of docs/torchrl.md."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from aru_kernels import ARUN, GammaRNN
from support.helpers import ROOT
from support.tolerances import assert_close

I, H, G, B, T = 3, 5, 4, 3, 6  # noqa: E741


def adapter() -> type[nn.Module]:
    """The class in docs/torchrl.md."""
    text = (ROOT / "docs" / "torchrl.md").read_text()
    blocks = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "class OneState" in block]
    assert len(blocks) == 1
    names: dict[str, object] = {}
    exec(blocks[0], names)
    return names["OneState"]


LAYERS = {
    "GammaRNN": lambda: GammaRNN(I, H, 2, batch_first=True),
    "GammaRNN in the adapter": lambda: adapter()(GammaRNN(I, H, 2, batch_first=True)),
    "ARUN in the adapter": lambda: adapter()(ARUN(I, H, 2, batch_first=True, controller_size=G)),
}


def states(layer: nn.Module, batch: int) -> Tensor:
    return torch.zeros(layer.num_layers * (1 + layer.bidirectional), batch, layer.hidden_size)


@pytest.mark.parametrize("name", LAYERS)
def test_what_gru_module_reads_and_calls(name):
    """A sequence at once is the same as step by step, with zeros for the state where an episode begins."""
    layer = LAYERS[name]()
    assert layer.batch_first
    x, hidden = torch.randn(B, T, I), states(layer, B)
    output, last = layer(x, hidden)
    steps = []
    for t in range(T):
        step, hidden = layer(x[:, t : t + 1], hidden.transpose(0, 1).contiguous().transpose(0, 1))
        steps.append(step)
    assert_close("output", torch.cat(steps, 1), output, "sequence")
    assert_close("state", hidden, last, "sequence")


@pytest.mark.parametrize("name", [name for name in LAYERS if "adapter" in name])
def test_episodes_that_end_within_a_sequence(name):
    layer = LAYERS[name]()
    x, lengths = torch.randn(B, T, I), torch.tensor([2, T, 4])
    mask = torch.arange(T) < lengths[:, None]
    output, last = layer(x, states(layer, B), mask=mask)
    assert output.shape == (B, T, H)
    for b, length in enumerate(lengths.tolist()):
        alone, alone_last = layer(x[b : b + 1, :length], states(layer, 1))
        assert_close(f"output {b}", output[b, :length], alone[0], "sequence")
        assert_close(f"state {b}", last[:, b], alone_last[:, 0], "sequence")


@pytest.mark.parametrize("name", LAYERS)
def test_in_torchrl(name):
    modules, data = pytest.importorskip("torchrl.modules"), pytest.importorskip("tensordict")
    layer = LAYERS[name]()
    module = modules.GRUModule(gru=layer, in_keys=["x", "state"], out_keys=["output", ("next", "state")])
    module.make_tensordict_primer()
    begins = torch.zeros(B, T, 1, dtype=torch.bool)
    begins[:, 0] = True
    if "adapter" in name:
        begins[1, 3] = True
    x, state = torch.randn(B, T, I), states(layer, B).transpose(0, 1)
    whole = data.TensorDict({"x": x, "is_init": begins, "state": state[:, None].expand(-1, T, -1, -1)}, [B, T])
    with modules.set_recurrent_mode(True):
        output = module(whole.clone())["output"]
    for t in range(T):
        step = module(data.TensorDict({"x": x[:, t], "is_init": begins[:, t], "state": state}, [B]))
        state = step["next", "state"]
        assert_close(f"step {t}", step["output"], output[:, t], "sequence")
