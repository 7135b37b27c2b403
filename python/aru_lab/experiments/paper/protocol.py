"""The paper's sweeps and grids of perturbations, for sequences of any length.

The paper's drives are in steps of a sequence of 784; elsewhere a step index or a length t becomes round(t T/784).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from aru_lab.networks.perturbations import PaperNoise, PaperStep, Perturbation, Sine, is_defined, rescale

STEP_AMPLITUDES = (0.0, 0.5, 1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0)
STEP_LENGTHS = (0, 50, 100, 200, 300, 400, 584)
CONTRAST_AMPLITUDES = tuple(k / 10 for k in range(11))
CONTRAST_PHASES = tuple(k * math.pi / 4 for k in range(8))

RNNS = ("relu", "gamma-homogeneous", "gamma-heterogeneous", "arun")

Point = tuple[float, ...]  # the strengths of a sweep's point; () where there is one point only
Points = dict[Point, Perturbation | None]


def step(amplitude: float, length: int, n_steps: int) -> PaperStep:
    """The paper's step drive for `length` steps of 784, in a sequence of `n_steps`."""
    longest = n_steps - PaperStep().bounds(n_steps)[0]  # rounding may not take it beyond the end
    return PaperStep(amplitude, length=min(rescale(length, n_steps), longest))


def _step_grid(n_steps: int) -> Points:
    points = [(xi, tau) for xi in STEP_AMPLITUDES for tau in STEP_LENGTHS]
    return {(xi, tau): step(xi, tau, n_steps) if xi and tau else None for xi, tau in points}


def _contrast_grid(_: int) -> Points:
    points = [(a, phi) for a in CONTRAST_AMPLITUDES for phi in CONTRAST_PHASES]
    return {(a, phi): Sine(a, phase=phi) if a else None for a, phi in points}


# By name, the points of a sweep on sequences of n_steps; None at a point where nothing is done to the network.
SWEEPS: dict[str, Callable[[int], Points]] = {
    "clean": lambda n_steps: {(): None},
    "noisy drive": lambda n_steps: {(): PaperNoise()},
    "step drive": lambda n_steps: {(): PaperStep()},
    "sine": lambda n_steps: {(): Sine()},
    "step sweep": lambda n_steps: {(xi,): PaperStep(xi) for xi in STEP_AMPLITUDES if xi},
    "contrast sweep": lambda n_steps: {(a,): Sine(a) for a in CONTRAST_AMPLITUDES if a},
    "step grid": _step_grid,
    "contrast grid": _contrast_grid,
}
GRIDS = ("step grid", "contrast grid")


def sweeps_of(model: str, sweeps: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the sweeps that are defined for a model."""

    def defined(sweep: str) -> bool:
        return all(is_defined(model, perturbation) for perturbation in SWEEPS[sweep](784).values())

    return tuple(sweep for sweep in sweeps if defined(sweep))
