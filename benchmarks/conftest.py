"""What every benchmark shares: the machine's limit, interleaved timing, and the refusal to time a wrong result."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator

import pytest
import torch

import aru_kernels
from aru_kernels import cpu

Work = Callable[[], object]


def best_times(variants: dict[str, Work], rounds: int) -> dict[str, float]:
    """Best seconds of each variant; the variants take turns, so that a slow moment of the machine hits them all."""
    best = dict.fromkeys(variants, float("inf"))
    for work in variants.values():
        work()
    for _ in range(rounds):
        for name, work in variants.items():
            start = time.perf_counter()
            work()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def matrix_product_rate(rounds: int = 5) -> float:
    """GFLOP/s of a 2048³ float32 torch.mm: the limit that other figures are fractions of."""
    a, b, c = (torch.rand(2048, 2048) for _ in range(3))
    return 2 * 2048**3 / best_times({"mm": lambda: torch.mm(a, b, out=c)}, rounds)["mm"] / 1e9


@pytest.fixture(autouse=True)
def highest_precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture
def machine() -> dict[str, object]:
    """What a figure must be read with."""
    return {
        "processor": cpu.processor(),
        "isa": cpu.device() if cpu.unavailable() is None else "none",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "aru_kernels": aru_kernels.__version__,
    }
