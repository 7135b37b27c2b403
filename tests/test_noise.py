"""Noise for the argument drive: deviations, correlations, generators, wrong arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from aru_kernels import noise


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize(("leak", "factor"), [(1.0, 1.0), (0.5, 2.0), (0.1, math.sqrt(20))])
def test_the_deviation_of_white_noise(leak: float, factor: float):
    xi = noise.gaussian(400, 10, 50, 0.3, leak=leak, generator=seeded())
    assert xi.shape == (400, 10, 50)
    assert abs(xi.std().item() / (0.3 * factor) - 1) < 0.01
    assert abs(xi.mean().item()) < 0.01 * factor
    neighbours = (xi[1:] * xi[:-1]).mean() / xi.var()
    assert abs(neighbours.item()) < 0.01


@pytest.mark.parametrize("time_constant", [0.5, 3.0, 20.0])
def test_the_correlation_of_an_ornstein_uhlenbeck_process(time_constant: float):
    xi = noise.ornstein_uhlenbeck(200, 40, 100, 2.0, time_constant, generator=seeded(), dtype=torch.float64)
    for t in (0, 1, 199):  # stationary from the first step
        assert abs(xi[t].std().item() / 2 - 1) < 0.05
    for lag in (1, 2, 5):
        correlation = ((xi[lag:] * xi[:-lag]).mean() / 4).item()
        assert abs(correlation - math.exp(-lag / time_constant)) < 0.03


@pytest.mark.parametrize("draw", [noise.gaussian, lambda *sizes, **o: noise.ornstein_uhlenbeck(*sizes, 5.0, **o)])
def test_generators_and_dtypes(draw: Callable[..., Tensor]):
    first, second = (draw(6, 2, 3, 1.0, generator=seeded()) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, draw(6, 2, 3, 1.0))
    assert first.dtype == torch.float32
    assert draw(6, 2, 3, 1.0, dtype=torch.float64).dtype == torch.float64
    assert draw(6, 2, 3, 0.0).count_nonzero() == 0


@pytest.mark.parametrize(
    ("arguments", "kind", "sentence"),
    [
        ({"T": 0}, ValueError, r"^T is 0, expected an integer of at least 1"),
        ({"B": 2.5}, TypeError, r"^B must be an integer, got 2\.5"),
        ({"deviation": -1}, ValueError, r"^deviation is -1, expected a finite number of at least 0"),
        ({"deviation": math.nan}, ValueError, r"^deviation is nan"),
        ({"leak": 0}, ValueError, r"^leak is 0, expected a number above 0 and at most 1"),
        ({"leak": 1.5}, ValueError, r"^leak is 1\.5, expected"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], kind: type[Exception], sentence: str):
    with pytest.raises(kind, match=sentence):
        noise.gaussian(**{"T": 2, "B": 2, "H": 2, "deviation": 1.0} | arguments)


@pytest.mark.parametrize("time_constant", [0.0, -1.0, math.inf])
def test_a_wrong_time_constant(time_constant: float):
    with pytest.raises(ValueError, match=rf"^time_constant is {float(time_constant)}, expected"):
        noise.ornstein_uhlenbeck(2, 2, 2, 1.0, time_constant)
