"""The last state of a sequence, which is a result of its own: its gradient is not that of all steps."""

from __future__ import annotations

import pytest
import torch

from aru_kernels import ARUN, GammaRNN
from support.helpers import needs_cpu_kernels
from support.last_state import check_adaptive, check_static, each_use
from support.problems import adaptive_arguments, static_arguments


@needs_cpu_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@each_use
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 3, 5, 4), (19, 9, 21, 6)], ids=str)
@pytest.mark.parametrize("budget", ["1T", "1"], ids=["all kept", "checkpoints"])
def test_adaptive(shape, used, dtype, budget, monkeypatch):
    monkeypatch.setenv("ARU_STATE_BUDGET", budget)
    check_adaptive("cpu", adaptive_arguments(*shape, dtype=dtype), used)


@needs_cpu_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@each_use
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 3, 5), (19, 9, 21)], ids=str)
def test_static(shape, used, dtype):
    check_static("cpu", static_arguments(*shape, (1,), dtype=dtype), used)


def layers() -> list[torch.nn.Module]:
    return [
        ARUN(2, 4, controller_size=3),
        GammaRNN(2, 4),
        ARUN(2, 4, controller_size=3, num_layers=2, bidirectional=True),
    ]


@needs_cpu_kernels
@pytest.mark.parametrize("index", range(3), ids=["ARUN", "GammaRNN", "ARUN of two layers and directions"])
def test_a_layers_last_state_needs_no_gradient_of_all_steps(index):
    layer = layers()[index]
    x = torch.randn(5, 3, 2)
    output, last = layer(x)
    h_n = last[0] if isinstance(last, tuple) else last
    assert torch.equal(h_n[-1 - layer.bidirectional], output[-1, :, :4])
    nodes, names = [h_n.grad_fn], set()
    while nodes:
        node = nodes.pop()
        names.add(node.name())
        if "Eager" not in node.name():
            nodes += [n for n, _ in node.next_functions if n is not None]
    assert not {n for n in names if n.startswith(("Select", "Slice"))}
