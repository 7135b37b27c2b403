"""The controller step fused with γ, in Triton's interpreter, against the reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

import aru_kernels.functional as F
from aru_kernels import ops, reference, use_backend
from aru_kernels.triton import controller as kernels
from support.problems import STEP, double, step_arguments
from support.tolerances import assert_all_close, assert_close

OUTPUTS = ("h", "g", "n", "s")


def by_triton(*args: Tensor, n_floor: float = 1e-3) -> tuple[Tensor, ...]:
    return ops.operator("triton", "controller_step")(*args, n_floor, "highest", True)[:4]


def by_reference(*args: Tensor, n_floor: float = 1e-3) -> tuple[Tensor, ...]:
    n, s, g = reference.controller_step(*args)
    return reference.gamma(args[0], n, s, n_floor), g, n, s


def check_against_reference(args: list[Tensor], used: str = "hgns") -> None:
    """All outputs, and the gradients of a sum over those used, in the dtype at hand."""
    wide = double(args)
    results, expected = by_triton(*args), by_reference(*wide)
    assert_all_close(OUTPUTS, tuple(x.detach() for x in results), expected, "sequence")
    keep = [i for i, name in enumerate("hgns") if name in used]
    weights = [torch.rand_like(expected[i]) + 0.5 for i in keep]
    gradients = [
        torch.autograd.grad([y[i] for i in keep], x, [w.to(y[0].dtype) for w in weights], materialize_grads=True)
        for x, y in ((args, results), (wide, expected))
    ]
    assert_all_close(STEP, *gradients, "sequence")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    "shape", [(2, 5, 4), (3, 30, 50), (1, 1, 1), (7, 40, 16), (1, 70, 128), (2, 33, 65), (1, 4, 17)], ids=str
)
def test_sizes(shape, dtype):
    check_against_reference(step_arguments(*shape, dtype))


@pytest.mark.parametrize("used", ["h", "g", "n", "s", "hs", "gn"])
def test_some_outputs_are_not_used(used):
    check_against_reference(step_arguments(2, 5, 4), used)


def test_several_tiles_a_program(monkeypatch):
    """Fewer programs than tiles, and a last tile that is not full."""
    monkeypatch.setattr(kernels, "_PROGRAMS", 3)
    check_against_reference(step_arguments(3, 107, 7))


def test_gradcheck():
    a, g, *weights = step_arguments(1, 2, 3)
    with use_backend("triton"):
        assert gradcheck(F.controller_step, (a, g, *weights), fast_mode=True)
        assert gradcheck(F.adaptive_gamma, (a, g, *weights), fast_mode=True)


def test_leading_dimensions_and_strides():
    a, g, *weights = (x.detach() for x in step_arguments(6, 5, 4))
    with use_backend("triton"):
        n, s, g_next = F.controller_step(a, g, *weights)
        many = F.controller_step(a.view(2, 3, 5), g.view(2, 3, 5, 4), *weights)
        strided = [x.transpose(0, -1).contiguous().transpose(0, -1) for x in (a, g, *weights)]
        assert not strided[1].is_contiguous()
        again = F.controller_step(*strided)
    for one, other, third in zip((n, s, g_next), many, again, strict=True):
        assert torch.equal(one, other.reshape(one.shape))
        assert torch.equal(one, third)


def test_empty_batch():
    args = step_arguments(0, 5, 4)
    h, g, n, s = by_triton(*args)
    assert [x.shape for x in (h, g, n, s)] == [(0, 5), (0, 5, 4), (0, 5), (0, 5)]
    for gradient, x in zip(torch.autograd.grad(h.sum(), args), args, strict=True):
        assert gradient.shape == x.shape
        assert (gradient == 0).all()


def test_n_floor():
    """With gains near 0, which the floor replaces."""
    args = [x.detach() for x in step_arguments(3, 20, 4)]
    args[5][0], args[6][0] = args[5][0] * 0.02, 0.0
    h, _, n, _ = by_triton(*args, n_floor=0.1)
    assert (n.abs() < 0.1).any()
    assert_close("h", h, by_reference(*args, n_floor=0.1)[0], "element")


def test_narrow_tensors_are_rounded_once():
    narrow = [x.detach().half() for x in step_arguments(3, 20, 6)]
    for name, x, exact in zip(OUTPUTS, by_triton(*narrow), by_triton(*(x.float() for x in narrow)), strict=True):
        assert x.dtype == torch.float16
        assert torch.equal(x, exact.half()), name


def test_a_step_keeps_no_state():
    *_, kept = ops.operator("triton", "controller_step")(*step_arguments(2, 5, 4), 1e-3, "highest", True)
    assert kept.numel() == 0


def test_bits_do_not_change_between_runs():
    args = step_arguments(4, 60, 9, torch.float32)
    first, again = (torch.autograd.grad(sum(y.sum() for y in by_triton(*args)), args) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))


def test_a_controller_that_is_too_large():
    with (
        use_backend("triton"),
        pytest.raises(RuntimeError, match=r"^backend 'triton' cannot run controller_step: its controller has at most "),
    ):
        F.controller_step(*step_arguments(1, 2, 129))
    with use_backend("auto"):
        F.controller_step(*step_arguments(1, 2, 129))
