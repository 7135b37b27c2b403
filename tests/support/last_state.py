"""Gradients of the last state of a sequence, against the reference."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import aru_kernels
from aru_kernels import _dispatch
from support.problems import ADAPTIVE, STATIC, double, weighted_sum
from support.tolerances import assert_all_close

# The results of which a loss is made, by position in (h, last h, last g).
USES = {"the last h": (1,), "the last state": (1, 2), "h and the last state": (0, 1, 2)}

each_use = pytest.mark.parametrize("used", USES.values(), ids=USES)

Sequence = Callable[..., tuple[Tensor, tuple[Tensor, ...], object]]


def gradients(backend: str, sequence: Sequence, arguments: list[Tensor], used: tuple[int, ...]) -> list[Tensor]:
    """Of a weighted sum of the used results, for all arguments."""
    with aru_kernels.use_backend(backend):
        h, last, _ = sequence(*arguments, n_floor=1e-3, return_trace=False)
    assert torch.equal(h[-1], last[0])
    results = [x for i, x in enumerate((h, *last)) if i in used]
    return list(torch.autograd.grad(weighted_sum(results), arguments, allow_unused=True))


def check_adaptive(backend: str, arguments: list[Tensor], used: tuple[int, ...]) -> None:
    """Compares the gradients of aru_sequence with the reference in float64."""
    expected = gradients("reference", _dispatch.aru_sequence, double(arguments), used)
    actual = gradients(backend, _dispatch.aru_sequence, arguments, used)
    assert_all_close(ADAPTIVE, actual, expected, "sequence")


def check_static(backend: str, arguments: list[Tensor], used: tuple[int, ...]) -> None:
    """Compares the gradients of gamma_rnn_sequence with the reference in float64."""
    expected = gradients("reference", _dispatch.gamma_rnn_sequence, double(arguments), used)
    actual = gradients(backend, _dispatch.gamma_rnn_sequence, arguments, used)
    assert_all_close(STATIC, actual, expected, "sequence")
