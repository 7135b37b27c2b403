"""How much the analyses of a run take. Nothing heavy is imported: the options of `aru analyse` are made from it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from aru_lab.arguments import FLOAT32_MAX, check_whole
from aru_lab.errors import ConfigError


@dataclass(frozen=True)
class Settings:
    """Sizes and seed of the analyses; every finished part is saved with those that it depends on.

    Raises:
        ConfigError: a value out of its range.
    """

    amplitudes: tuple[float, ...] = (0.0, 0.5, 1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0)
    """Drives ξ, rising from 0: amplitudes of steps, standard deviations of noise, inputs of the controller."""

    repeats: int = 10
    """Repeats of every response, each with its own noise."""

    sequences: int = 100
    """Test examples that the networks read for gradients and heterogeneity."""

    steps: int = 1000
    """Steps that Lyapunov exponents are averaged over, after a fifth as many discarded."""

    exponents: int = 5
    """How many Lyapunov exponents, the largest."""

    grid: int = 20
    """Points of n and of s at which the Jacobian's norm is taken."""

    seed: int = 0
    """Seed of noise and initial conditions."""

    def __post_init__(self) -> None:
        lowest = {"repeats": 1, "sequences": 2, "steps": 10, "exponents": 1, "grid": 2, "seed": 0}
        for name, least in lowest.items():
            check_whole(name, getattr(self, name), least)
        xi = self.amplitudes
        rising = all(a < b for a, b in pairwise(xi))
        if len(xi) < 5 or not all(abs(x) <= FLOAT32_MAX for x in xi) or xi[0] != 0 or not rising:
            came = " ".join(f"{x:g}" for x in xi) or "none"
            raise ConfigError(f"amplitudes: got {came}, expected at least 5 rising numbers from 0 on, within float32.")
