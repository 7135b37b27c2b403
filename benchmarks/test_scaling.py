"""Time against one size at a time; `report` fits the exponent of the time for the useful work."""

from __future__ import annotations

import os

import pytest
import torch

import aru_kernels

from . import work
from .cases import Variant, fused_backends, on, pass_over

BASE = work.Shape(32, 64, 64, 16)
VALUES = {"T": (16, 64, 256, 1024), "B": (8, 32, 128, 512), "H": (32, 64, 128, 256, 512), "G": (8, 16, 32, 64)}


@pytest.mark.parametrize(("size", "value"), [(size, value) for size, values in VALUES.items() for value in values])
def test_scaling(measure, device, size, value):
    backend = fused_backends("aru_sequence", device)[0]
    shape = BASE._replace(**{size: value})
    torch.manual_seed(0)
    layer, x = (
        aru_kernels.ARUN(1, shape.H, controller_size=shape.G, device=device),
        torch.rand(shape.T, shape.B, 1, device=device),
    )
    measure(
        f"scaling in {size}",
        "forward+backward",
        shape._asdict(),
        backend,
        {backend: Variant(on(backend, lambda: pass_over(layer, x, True)))},
        gflop=shape.gflop(True),
        steps=shape.T,
    )


def test_scaling_in_threads(measure, device):
    if device.type != "cpu":
        pytest.skip("threads are the CPU's")
    backend = fused_backends("aru_sequence", device)[0]
    shape = work.MEDIUM
    layer, x = aru_kernels.ARUN(1, shape.H, controller_size=shape.G), torch.rand(shape.T, shape.B, 1)
    before = torch.get_num_threads()
    counts = sorted({1, 2, 4, 8, 16, os.cpu_count() or 1} & set(range(1, (os.cpu_count() or 1) + 1)))

    def with_threads(count: int):
        def run():
            torch.set_num_threads(count)
            try:
                return pass_over(layer, x, True)
            finally:
                torch.set_num_threads(before)

        return run

    variants = {f"{backend}, {n} thread{'s' * (n > 1)}": Variant(on(backend, with_threads(n))) for n in counts}
    measure(
        "scaling in threads",
        "forward+backward",
        shape._asdict(),
        next(iter(variants)),
        variants,
        gflop=shape.gflop(True),
        steps=shape.T,
    )
