"""Calls of layers that take the short path (`aru_kernels._usual`): the same bits; the others take the general path."""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from aru_kernels import ARUN, GammaRNN, _usual, constraints, use_backend
from support.helpers import needs_cpu_kernels
from support.unusual import TENSORS

pytestmark = needs_cpu_kernels

T, B, I, H, G = 6, 5, 3, 7, 4  # noqa: E741
LAYERS = {
    "ARUN": lambda: ARUN(I, H, controller_size=G),
    "ARUN, no bias": lambda: ARUN(I, H, bias=False, controller_size=G),
    "ARUN, batch first": lambda: ARUN(I, H, batch_first=True, controller_size=G),
    "ARUN, one neuron": lambda: ARUN(I, 1, controller_size=1),
    "ARUN, float64": lambda: ARUN(I, H, controller_size=G, dtype=torch.float64),
    "GammaRNN": lambda: GammaRNN(I, H),
    "GammaRNN, homogeneous": lambda: GammaRNN(I, H, heterogeneous=False),
    "GammaRNN, batch first, no bias": lambda: GammaRNN(I, H, bias=False, batch_first=True),
}
each_layer = pytest.mark.parametrize("name", LAYERS)


def arguments(layer, with_state=True):
    like = layer.weight_hh_l0.detach()
    x = torch.randn(B, T, I).to(like) if layer.batch_first else torch.randn(T, B, I).to(like)
    if not with_state:
        return x, None
    states = [torch.rand(1, B, *sizes).to(like) - 0.5 for sizes in layer._state_sizes()]
    return x, tuple(states) if len(states) > 1 else states[0]


def tensors(outputs):
    """Output and states, flat."""
    output, state = outputs
    return [output, *(state if isinstance(state, tuple) else (state,))]


def is_usual(layer, x, hx=None):
    return layer._usual(x, hx) is not None


def results(layer, x, hx):
    """The outputs, and the gradients of everything."""
    given = () if hx is None else hx if isinstance(hx, tuple) else (hx,)
    x, *states = leaves = [leaf.detach().clone().requires_grad_() for leaf in (x, *given)]
    outputs = tensors(layer(x, None if hx is None else tuple(states) if isinstance(hx, tuple) else states[0]))
    loss = sum((k + 1) * (y * y).sum() for k, y in enumerate(outputs))
    return [*(y.detach() for y in outputs), *torch.autograd.grad(loss, [*leaves, *layer.parameters()])]


@pytest.mark.parametrize("with_state", [True, False], ids=["state", "no state"])
@each_layer
def test_the_bits_are_those_of_the_general_path(name, with_state, monkeypatch):
    torch.manual_seed(1)
    layer = LAYERS[name]()
    x, hx = arguments(layer, with_state)
    assert is_usual(layer, x, hx)
    with torch.no_grad():
        short = tensors(layer(x, hx))
    short_with_gradients = results(layer, x, hx)
    monkeypatch.setattr(_usual, "program", lambda: False)
    assert not is_usual(layer, x, hx)
    with torch.no_grad():
        general = tensors(layer(x, hx))
    for a, b in zip([*short, *short_with_gradients], [*general, *results(layer, x, hx)], strict=True):
        assert a.stride() == b.stride()
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@each_layer
def test_results_can_be_changed_and_detached_in_place(name):
    layer = LAYERS[name]()
    x, hx = arguments(layer)
    for outputs in (layer(x, hx), layer(x.requires_grad_(), hx)):
        for y in tensors(outputs):
            y.detach_().mul_(2)


OTHERS = {
    "two layers": lambda: ARUN(I, H, 2),
    "two directions": lambda: ARUN(I, H, bidirectional=True),
    "a leak": lambda: ARUN(I, H, leak=0.5),
    "a parametrization": lambda: constraints.sparse(ARUN(I, H), 0.5),
}


@pytest.mark.parametrize("what", OTHERS)
def test_other_layers(what):
    assert not is_usual(OTHERS[what](), torch.randn(T, B, I))


@pytest.mark.parametrize("what", TENSORS)
@pytest.mark.parametrize("place", ["input", "h", "g", "weight"])
@pytest.mark.parametrize("name", ["ARUN", "ARUN, batch first"])
def test_an_unusual_tensor(name, place, what):
    layer = LAYERS[name]()
    x, (h, g) = arguments(layer)
    tensors = {"input": x, "h": h, "g": g, "weight": layer.weight_gg_l0.detach()}
    tensors[place] = TENSORS[what](tensors[place])
    layer._parameters["weight_gg_l0"] = tensors["weight"]
    assert not is_usual(layer, tensors["input"], (tensors["h"], tensors["g"]))


def test_other_arguments():
    layer = LAYERS["ARUN"]()
    x, (h, g) = arguments(layer)
    unusual = [
        (x[:, 0], None),
        (x[:, :0], None),
        (pack_sequence([x[:, 0], x[:3, 1]]), None),
        (x.double(), None),
        (x[..., :2], None),
        (x.transpose(0, 1), None),  # not contiguous
        (x, [h, g]),
        (x, (h,)),
        (x, h),
        (x, (h, g[:, :2])),
        (x, (h, None)),
        (x.tolist(), None),
    ]
    for value, hx in unusual:
        assert not is_usual(layer, value, hx)
    with use_backend("reference"):
        assert not is_usual(layer, x)
    assert is_usual(layer, x, (h, g))


def test_a_layer_without_a_parameter_takes_the_path_that_says_so():
    layer = LAYERS["ARUN"]()
    layer.bias_l0 = None
    with pytest.raises(TypeError, match="bias_l0"):
        layer(torch.randn(T, B, I))


def test_a_drive_and_a_trace_are_not_lost():
    layer = LAYERS["ARUN"]()
    x, hx = arguments(layer)
    assert (layer(x, hx, drive=0.5)[0] != layer(x, hx)[0]).any()
    assert len(layer(x, hx, return_trace=True)) == 3
