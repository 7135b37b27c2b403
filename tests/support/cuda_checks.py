"""Sequences on the emulated CUDA kernels, against the reference."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from aru_kernels import cuda, ops, reference
from support import problems
from support.problems import ADAPTIVE, double, weighted_sum
from support.tolerances import assert_all_close

PRECISIONS = ("medium", "high", "highest")

# The kernels take float32.
adaptive_arguments = partial(problems.adaptive_arguments, dtype=torch.float32)
static_arguments = partial(problems.static_arguments, dtype=torch.float32)


def in_force() -> str:
    """The matmul precision that is set."""
    return torch.get_float32_matmul_precision()


def complete(tiling: tuple[int, ...], precision: str, together: int = 4) -> tuple[int, ...]:
    """The tiling with the number of warps that make products together, and fours of warps if those are four."""
    cluster, blocks, slice_, batch, warps, groups = tiling
    if precision not in ("medium", "mixed") or together == 1:
        return *tiling, 1
    return cluster, blocks, slice_, batch, max(warps, -(-slice_ * batch // 128) * 4), groups, together


def gradients(outputs: list[Tensor], arguments: list[Tensor], retain_graph: bool = False) -> list[Tensor]:
    """Of a weighted sum of all outputs."""
    return list(torch.autograd.grad(weighted_sum(outputs), arguments, retain_graph=retain_graph))


def run_adaptive(arguments: list[Tensor], segment: int, trace: bool = True) -> tuple[list[Tensor], list[Tensor]]:
    """The outputs (g, last h, h, a, n, s; without a trace g and the last h) and the gradients of their weighted sum."""
    h, h_last, g, a, n, s, _ = ops.call("cuda", "aru_sequence", *arguments, 1e-3, in_force(), segment, trace)
    outputs = [g, h_last, h, a, n, s] if trace else [g, h_last]
    return outputs, gradients(outputs, arguments)


def check_adaptive(arguments: list[Tensor], precision: str, segment: int, trace: bool = True) -> None:
    """Compares all outputs and gradients with the reference in float64."""
    torch.set_float32_matmul_precision(precision)
    outputs, actual = run_adaptive(arguments, segment, trace)
    exact = double(arguments)
    h, g, traced = reference.aru_sequence(*exact, 1e-3, trace)
    expected = [g, h[-1], h, *traced] if trace else [g, h[-1]]
    kind = f"{precision} products"
    assert_all_close(("g", "h_last", "h", "a", "n", "s")[: len(outputs)], tuple(outputs), tuple(expected), kind)
    # Without a gradient the pass has a tiling of its own.
    with torch.no_grad():
        alone, _, last, *_ = ops.call("cuda", "aru_sequence", *arguments, 1e-3, precision, 0, False)
    assert_all_close(("h", "g"), (alone, last), (h, g), kind)
    assert_all_close(ADAPTIVE, tuple(actual), tuple(gradients(expected, exact)), kind)


# Factors of h0 and xp, W_gg, W_gc and b_c: beyond float16's range, and where its numbers have few bits.
RANGES = {
    "large h": (1e8, 1, 1, 1),
    "small h": (1e-8, 1, 1, 1),
    "small W_gg": (1, 1e-9, 1, 1),
    "large W_gc": (1, 1, 1e6, 1),
    "negative W_gc": (1, 1, -1e6, -1e6),
    "small W_gc": (1, 1, 1e-9, 0),
}


def one_signed_arguments(T: int, B: int, H: int, G: int, factors: tuple[float, float, float, float]) -> list[Tensor]:
    """Arguments of aru_sequence times such factors; rounding errors do not exceed a sum whose terms cancel."""
    arguments = (x.detach().abs() for x in adaptive_arguments(T, B, H, G))
    xp, h0, g0, weight_hh, weight_ag, weight_gg, bias_g, weight_gc, bias_c = arguments
    of_h, of_gg, of_gc, of_bias = factors
    controller = [weight_ag, of_gg * weight_gg, bias_g, of_gc * weight_gc, of_bias * bias_c]
    return [of_h * xp, of_h * h0, g0, weight_hh / 4, *controller]


def check_mixed(arguments: list[Tensor], trace: bool = True) -> None:
    """Compares a forward pass in the second form of "high" with the reference in float64."""
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setenv("ARU_CUDA_HIGH", "mixed")
        (T, B, H), G = arguments[0].shape, arguments[2].shape[-1]
        assert cuda.forward_form(0, "high", 0, (T, B, H, G)) == cuda.MIXED
        h, h_last, g, *traced, _ = ops.call("cuda", "aru_sequence", *arguments, 1e-3, "high", 0, trace)
        exact_h, exact_g, exact = reference.aru_sequence(*double(arguments), 1e-3, trace)
    names, actual, expected = ("g", "h_last", "h"), [g, h_last, h], [exact_g, exact_h[-1], exact_h]
    if trace:
        names, actual, expected = (*names, "a", "n", "s"), [*actual, *traced], [*expected, *exact]
    assert_all_close(names, tuple(actual), tuple(expected), "high products")
