"""Denormal numbers count as 0 in the CPU kernels of x86-64, and only there (csrc/cpu/denormals.h)."""

from __future__ import annotations

import platform
import time

import pytest
import torch

import aru_kernels.functional as F
from aru_kernels import ARUN, cpu, use_backend
from support.helpers import needs_cpu_kernels

pytestmark = [
    needs_cpu_kernels,
    pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="other processors keep denormals"),
]

THREADS = [1, 2]
ELEMENTS = 1 << 18  # enough for torch and for the kernels to divide among threads


@pytest.fixture(params=cpu._C.usable_isas() if cpu._C else [])
def isa(request):
    cpu._C.select_isa(request.param)
    yield request.param
    cpu._C.select_isa("auto")


def denormals() -> torch.Tensor:
    """Products of normal numbers by torch's own kernels; 0 where they are flushed."""
    return torch.full((ELEMENTS,), 1e-30) * torch.full((ELEMENTS,), 1e-10)


@pytest.mark.parametrize("threads", THREADS)
def test_denormal_results_are_zero(isa, set_threads, threads):
    set_threads(threads)
    x, n = torch.full((ELEMENTS,), -8.65), torch.full((ELEMENTS,), 10.0)
    with use_backend("reference"):
        assert (F.gamma(x, n, 0.0) > 0).all()  # softplus(-86.5) / 10 = 2.7e-39
    with use_backend("cpu"):
        assert (F.gamma(x, n, 0.0) == 0).all()


@pytest.mark.parametrize("threads", THREADS)
def test_torch_keeps_its_denormals(set_threads, threads):
    set_threads(threads)
    assert (denormals() > 0).all()
    rnn = ARUN(2, 32)
    with use_backend("cpu"):
        F.gamma(torch.randn(ELEMENTS), 2.0, 0.5)
        rnn(torch.randn(5, 16, 2))[0].sum().backward()
    assert (denormals() > 0).all()


def test_the_callers_own_choice_stays():
    assert torch.set_flush_denormal(True)
    try:
        with use_backend("cpu"):
            F.gamma(torch.randn(100), 2.0, 0.5)
        assert (denormals()[:1] == 0).all()
    finally:
        torch.set_flush_denormal(False)


def seconds(x: torch.Tensor) -> float:
    start = time.thread_time()
    F.gamma(x, 1.0, 0.5)
    return time.thread_time() - start


def test_gamma_is_as_fast_where_its_exponential_is_small(isa, set_threads):
    """e² of e = exp(-50) is denormal: the processors of Intel took 20 times as long."""
    set_threads(1)
    near, far = torch.full((1 << 16,), -3.0), torch.full((1 << 16,), -50.0)
    with use_backend("cpu"):
        times = [(seconds(near), seconds(far)) for _ in range(20)]
    fastest_near, fastest_far = (min(column) for column in zip(*times, strict=True))
    assert fastest_far < 4 * fastest_near
