"""The activations, in networks of any kind."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aru_kernels import AdaptiveGamma, ARUNCell, Gamma
from aru_kernels.functional import gamma
from support.tolerances import assert_all_close, assert_close

DOUBLE = torch.float64
I, H, G = 3, 5, 4  # noqa: E741
CONTROLLER = {"weight_ag", "weight_gg", "bias_g", "weight_gc", "bias_c"}


def randn(*sizes: int) -> Tensor:
    return torch.randn(*sizes, dtype=DOUBLE)


def test_adaptive_gamma_in_a_loop_of_ones_own_equals_the_cell():
    cell, act = ARUNCell(I, H, controller_size=G, dtype=DOUBLE), AdaptiveGamma(G, dtype=DOUBLE)
    act.load_state_dict({name: value for name, value in cell.state_dict().items() if name in CONTROLLER})
    h, g = randn(2, H), randn(2, H, G)
    expected = (h, g)
    for _ in range(4):
        x = randn(2, I)
        expected = cell(x, expected)
        h, g = act(x @ cell.weight_ih.T + h @ cell.weight_hh.T + cell.bias, g)
    assert_all_close(("h", "g"), (h, g), expected, "sequence")


def test_adaptive_gamma_works_on_any_shape():
    act = AdaptiveGamma(G, dtype=DOUBLE)
    a = randn(2, 3, 5)
    h, g = act(a)
    assert (h.shape, g.shape) == ((2, 3, 5), (2, 3, 5, G))
    for one, many in zip(act(a[1, 2]), (h[1, 2], g[1, 2]), strict=True):
        assert_close("(H,)", one, many, "element")
    assert_close("g = 0", act(a, torch.zeros_like(g))[0], h, "element")


def test_gamma_module():
    x = randn(2, 7, 3)
    one = Gamma(gain=2.0, saturation=0.25, dtype=DOUBLE)
    assert_close("one pair", one(x), gamma(x, 2.0, 0.25), "element")
    assert torch.equal(one(x[0, 0, 0]), one(x)[0, 0, 0])  # 0-d
    last, middle = Gamma(3, dtype=DOUBLE), Gamma(7, dim=1, dtype=DOUBLE)
    for act in (last, middle):
        nn.init.normal_(act.gain)
        nn.init.normal_(act.saturation)
    for i in range(3):
        assert_close(f"neuron {i}", last(x)[..., i], gamma(x[..., i], *(p[i] for p in last.parameters())), "element")
    for i in range(7):
        assert_close(f"channel {i}", middle(x)[:, i], gamma(x[:, i], *(p[i] for p in middle.parameters())), "element")
    middle(x).sum().backward()
    assert middle.gain.grad.shape == (7,)
    last.reset_parameters()
    assert last.gain.tolist() == [5.0] * 3
    assert last.saturation.tolist() == [0.0] * 3


def test_no_features():
    """As any activation takes an empty tensor, also where a gradient is needed."""
    module, x = AdaptiveGamma(4), torch.empty(2, 0, requires_grad=True)
    h, g = module(x)
    assert (h.shape, g.shape) == ((2, 0), (2, 0, 4))
    h.sum().backward()
    assert x.grad.shape == (2, 0)
    assert all(torch.equal(parameter.grad, torch.zeros_like(parameter)) for parameter in module.parameters())
