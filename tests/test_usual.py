"""Calls of cells that take the short path: the same bits; unusual programs and tensors take the general path."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch.autograd import forward_ad
from torch.autograd.graph import save_on_cpu
from torch.profiler import profile
from torch.utils.flop_counter import FlopCounterMode

from aru_kernels import ARUNCell, GammaRNNCell, _usual, constraints, use_backend
from support.helpers import needs_cpu_kernels
from support.unusual import TENSORS

pytestmark = needs_cpu_kernels

B, I, H, G = 5, 3, 7, 6  # noqa: E741
CELLS = {
    "ARUNCell": lambda: ARUNCell(I, H, controller_size=G),
    "ARUNCell, no bias": lambda: ARUNCell(I, H, False, controller_size=G),
    "ARUNCell, one neuron": lambda: ARUNCell(I, 1, controller_size=1),
    "ARUNCell, float64": lambda: ARUNCell(I, H, controller_size=G, dtype=torch.float64),
    "ARUNCell, trained leak": lambda: ARUNCell(I, H, controller_size=G, leak=0.3, train_leak=True),
    "GammaRNNCell": lambda: GammaRNNCell(I, H),
    "GammaRNNCell, homogeneous": lambda: GammaRNNCell(I, H, heterogeneous=False),
    "GammaRNNCell, one neuron": lambda: GammaRNNCell(I, 1, False),
    "GammaRNNCell, float64": lambda: GammaRNNCell(I, H, dtype=torch.float64),
    "GammaRNNCell, leak": lambda: GammaRNNCell(I, H, leak=0.3),
}
each_cell = pytest.mark.parametrize("name", CELLS)


def arguments(cell, batch=B):
    """An input, which is a part of a larger tensor as in a loop over a sequence, and a state."""
    like = cell.weight_hh.detach()
    x = torch.randn(4, batch, I).to(like)[2]
    h = torch.rand(batch, cell.hidden_size).to(like)
    if isinstance(cell, ARUNCell):
        return x, (h, torch.rand(batch, cell.hidden_size, cell.controller_size).to(like) - 0.5)
    return x, h


def is_usual(cell, x, hx, drive=None):
    states = hx if isinstance(hx, tuple) else (hx,)
    op = "controller_step" if isinstance(cell, ARUNCell) else "gamma"
    return cell._usual(op, x, states, drive) is not None


def results(cell, x, hx):
    """Two steps, and the gradients of everything."""
    leaves = [x, *(hx if isinstance(hx, tuple) else (hx,))]
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    x, *states = leaves
    state = cell(x, cell(x, tuple(states) if len(states) > 1 else states[0]))
    outputs = state if isinstance(state, tuple) else (state,)
    parameters = list(cell.parameters())
    gradients = torch.autograd.grad(sum((y * y).sum() for y in outputs), [*leaves, *parameters])
    return [*(y.detach() for y in outputs), *gradients]


@each_cell
def test_the_bits_are_those_of_the_general_path(name, monkeypatch):
    torch.manual_seed(1)
    cell = CELLS[name]()
    x, hx = arguments(cell)
    assert is_usual(cell, x, hx)
    with torch.no_grad():
        short = cell(x, hx)
    short_with_gradients = results(cell, x, hx)
    monkeypatch.setattr(_usual, "program", lambda: False)
    assert not is_usual(cell, x, hx)
    with torch.no_grad():
        torch.testing.assert_close(short, cell(x, hx), rtol=0, atol=0)
    torch.testing.assert_close(short_with_gradients, results(cell, x, hx), rtol=0, atol=0)


@each_cell
def test_an_empty_batch(name):
    cell = CELLS[name]()
    y = results(cell, *arguments(cell, 0))
    assert y[0].shape == (0, cell.hidden_size)
    assert all(not g.any() for g in y)


@pytest.mark.parametrize("name", ["ARUNCell", "GammaRNNCell"])
def test_results_can_be_changed_and_detached_in_place(name):
    cell = CELLS[name]()
    x, hx = arguments(cell)
    for y in (cell(x, hx), cell(x.requires_grad_(), hx)):
        for state in y if isinstance(y, tuple) else (y,):
            state.detach_().mul_(2)


@contextlib.contextmanager
def forward_level():
    with forward_ad.dual_level():
        yield


PROGRAMS = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "a mode": lambda: FlopCounterMode(display=False),
    "a profiler": profile,
    "saved-tensor hooks": save_on_cpu,
    "forward-mode differentiation": forward_level,
    "another backend": lambda: use_backend("reference"),
}


@pytest.mark.parametrize("what", PROGRAMS)
@pytest.mark.parametrize("name", ["ARUNCell", "GammaRNNCell"])
def test_an_unusual_program(name, what):
    cell = CELLS[name]()
    x, hx = arguments(cell)
    with PROGRAMS[what]():
        assert not is_usual(cell, x, hx)
    with use_backend("cpu"):
        assert is_usual(cell, x, hx)


def test_the_backend_of_the_environment(monkeypatch):
    cell = CELLS["ARUNCell"]()
    monkeypatch.setenv("ARU_KERNELS_BACKEND", "reference")
    assert not is_usual(cell, *arguments(cell))
    monkeypatch.setenv("ARU_KERNELS_BACKEND", "cpu")
    assert is_usual(cell, *arguments(cell))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_transforms():
    cell = CELLS["ARUNCell"]()
    x, (h, g) = arguments(cell)
    seen = []

    def step(x, h, g):
        seen.append(is_usual(cell, x, (h, g)))
        return cell(x, (h, g))[0]

    torch.vmap(step)(torch.stack([x, x]), torch.stack([h, h]), torch.stack([g, g]))
    torch.func.jvp(lambda x: step(x, h, g), (x,), (x,))
    cell.requires_grad_(False)
    torch.jit.trace(step, (x, h, g), check_trace=False)
    assert seen == [False] * len(seen)
    assert len(seen) == 3


@pytest.mark.parametrize("what", TENSORS)
@pytest.mark.parametrize("place", ["input", "h", "g", "weight"])
def test_an_unusual_tensor(place, what):
    cell = CELLS["ARUNCell"]()
    x, (h, g) = arguments(cell)
    tensors = {"input": x, "h": h, "g": g, "weight": cell.weight_gg.detach()}
    tensors[place] = TENSORS[what](tensors[place])
    cell._parameters["weight_gg"] = tensors["weight"]
    assert not is_usual(cell, tensors["input"], (tensors["h"], tensors["g"]))


def test_other_arguments_and_weights():
    cell = CELLS["ARUNCell"]()
    x, hx = arguments(cell)
    assert not is_usual(cell, x, hx, 0.5)
    cell.bias = None
    assert not is_usual(cell, x, hx)
    cell = CELLS["ARUNCell"]()
    constraints.sparse(cell, 0.5)
    assert not is_usual(cell, x, hx)
    cell = CELLS["ARUNCell, no bias"]()
    before = cell(x, hx)[0]
    cell.bias = torch.nn.Parameter(torch.zeros(H))
    assert not is_usual(cell, x, hx)
    torch.testing.assert_close(cell(x, hx)[0], before)
    cell.bias = torch.nn.Parameter(torch.ones(H))
    assert (cell(x, hx)[0] != before).all()


def test_a_second_derivative_is_refused():
    cell = CELLS["ARUNCell"]()
    x, hx = arguments(cell)
    h, _ = cell(x.requires_grad_(), hx)
    (d_x,) = torch.autograd.grad(h.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative of controller_step"):
        d_x.sum().backward()
