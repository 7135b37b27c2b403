"""Checkpoints of the authors' code, and torch.nn.RNN."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from aru_kernels import convert, use_backend
from support.helpers import needs_cpu_kernels
from support.tolerances import assert_close

SIZES = {
    "Uxh.weight": (5, 3),
    "Uxh.bias": (5,),
    "Whh.weight": (5, 5),
    "Whh.bias": (5,),
    "Uag.weight": (4, 1),
    "Uag.bias": (4,),
    "Wgg.weight": (4, 4),
    "Wgg.bias": (4,),
    "Wgn.weight": (1, 4),
    "Wgn.bias": (1,),
    "Wgs.weight": (1, 4),
    "Wgs.bias": (1,),
}


def checkpoint(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {key: torch.randn(size, dtype=dtype) for key, size in SIZES.items()}


def test_from_nonlinmod_maps_every_weight():
    """docs/maths.md, section 3; biases add up."""
    w = checkpoint()
    state = convert.from_nonlinmod(w).state_dict()
    expected = {
        "weight_ih_l0": w["Uxh.weight"],
        "weight_hh_l0": w["Whh.weight"],
        "bias_l0": w["Uxh.bias"] + w["Whh.bias"],
        "weight_ag_l0": w["Uag.weight"][:, 0],
        "weight_gg_l0": w["Wgg.weight"],
        "bias_g_l0": w["Uag.bias"] + w["Wgg.bias"],
        "weight_gc_l0": torch.cat([w["Wgn.weight"], w["Wgs.weight"]]),
        "bias_c_l0": torch.cat([w["Wgn.bias"], w["Wgs.bias"]]),
    }
    assert state.keys() == expected.keys()
    for name in expected:
        assert torch.equal(state[name], expected[name]), name


def test_from_nonlinmod_takes_prefixes_and_leaves_the_read_out_aside():
    w = checkpoint(torch.float64)
    prefixed = {f"rnn.{key}": value for key, value in w.items()} | {"lin.weight": torch.ones(10, 5)}
    layer, plain = convert.from_nonlinmod(prefixed), convert.from_nonlinmod(w)
    assert layer.weight_hh_l0.dtype == torch.float64
    assert (layer.input_size, layer.hidden_size, layer.controller_size) == (3, 5, 4)
    for name, value in plain.state_dict().items():
        assert torch.equal(layer.state_dict()[name], value)


def test_from_nonlinmod_copies():
    w = {key: nn.Parameter(value) for key, value in checkpoint().items()}
    layer = convert.from_nonlinmod(w)
    before = layer.weight_hh_l0.detach().clone()
    with torch.no_grad():
        w["Whh.weight"].zero_()
    assert torch.equal(layer.weight_hh_l0, before)
    assert all(p.is_leaf and p.requires_grad for p in layer.parameters())


@pytest.mark.parametrize("backend", [pytest.param("cpu", marks=needs_cpu_kernels), "reference"])
@pytest.mark.parametrize(
    ("name", "kind"), [("arun_small", "sequence"), ("arun_odd", "sequence"), ("arun_drive", "authors")]
)
def test_the_layer_reproduces_the_authors(golden, backend, name, kind):
    """The whole layer, drive and trace included, with the authors' weights; their gradients for x and the states."""
    data = golden(name)
    layer = convert.from_nonlinmod({k.removeprefix("weight."): v for k, v in data.items() if k.startswith("weight.")})
    x, h0, g0 = (data[k].requires_grad_() for k in ("x", "h0", "g0"))
    with use_backend(backend):
        output, (h, g), trace = layer(x, (h0[None], g0[None]), drive=data["drive"], return_trace=True)
        loss = (data["loss_weight"] * output).sum() + 0.1 * g.sum()
        loss.backward()
    actual = {"h": output, "a": trace.a, "n": trace.n, "s": trace.s, "g_last": g[0], "loss": loss}
    actual |= {"grad.x": x.grad, "grad.h0": h0.grad, "grad.g0": g0.grad}
    actual |= {"grad.Uxh.weight": layer.weight_ih_l0.grad, "grad.Whh.weight": layer.weight_hh_l0.grad}
    actual |= {"grad.Whh.bias": layer.bias_l0.grad, "grad.Wgg.bias": layer.bias_g_l0.grad}
    actual |= {"grad.Uag.weight": layer.weight_ag_l0.grad[:, None], "grad.Wgg.weight": layer.weight_gg_l0.grad}
    actual |= {"grad.Wgn.weight": layer.weight_gc_l0.grad[:1], "grad.Wgs.weight": layer.weight_gc_l0.grad[1:]}
    actual |= {"grad.Wgn.bias": layer.bias_c_l0.grad[:1], "grad.Wgs.bias": layer.bias_c_l0.grad[1:]}
    for key, value in actual.items():
        assert_close(key, value, data[key], kind)
    assert torch.equal(h[0], output[-1])


def test_from_rnn_keeps_the_options():
    rnn = nn.RNN(3, 5, 2, batch_first=True, bidirectional=True, bias=False, dtype=torch.float64)
    layer = convert.from_rnn(rnn)
    assert (layer.num_layers, layer.batch_first, layer.bidirectional, layer.heterogeneous) == (2, True, True, False)
    assert layer.weight_hh_l1_reverse.dtype == torch.float64
    x, half = torch.randn(4, 6, 3, dtype=torch.float64), torch.full((4, 4, 5), 0.5, dtype=torch.float64)
    assert_close("without bias", 2 * layer(x, half)[0] - 1, rnn(x)[0], "sequence")
