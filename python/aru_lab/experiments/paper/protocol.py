"""The paper's perturbations, and the points of its sweeps and grids, for sequences of any length.

The paper's drives are in steps of a sequence of 784; elsewhere a step index or a length t becomes round(t T/784).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from aru_lab.networks.perturbations import NoisyDrive, Perturbation, StepDrive, VariableContrast

PAPER_STEPS = 784
ONSET, LENGTH = 200, 200
STEP_AMPLITUDES = (0.0, 0.5, 1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0)
STEP_LENGTHS = (0, 50, 100, 200, 300, 400, 584)
CONTRAST_AMPLITUDES = tuple(k / 10 for k in range(11))
CONTRAST_PHASES = tuple(k * math.pi / 4 for k in range(8))
STANDARD_STEP, STANDARD_CONTRAST = 1.0, 0.5
NOISE_MEAN, NOISE_DEVIATION = 5.0, math.sqrt(2)

RNNS = ("relu", "gamma-homogeneous", "gamma-heterogeneous", "arun")
GATED = ("lstm", "gru")

Point = tuple[float, ...]  # the strengths of a sweep's point; () where there is one point only
Points = dict[Point, Perturbation | None]


def rescaled(t: int, n_steps: int) -> int:
    """A step index or length of the 784-step task, in a sequence of `n_steps`.

    Examples:
        >>> rescaled(200, 112)
        29
    """
    return round(t * n_steps / PAPER_STEPS)


def drives_are_defined(model: str) -> bool:
    """Whether external drives have a meaning for a model: LSTM and GRU have no counterpart of a neuron's current."""
    return model not in GATED


def step(amplitude: float, n_steps: int, length: int = LENGTH) -> StepDrive:
    """The step drive of the paper, from step 200 of 784, for `length` steps of 784."""
    onset = rescaled(ONSET, n_steps)
    return StepDrive(amplitude, onset, min(rescaled(length, n_steps), n_steps - onset))


def noise(n_steps: int) -> NoisyDrive:
    """The noisy drive of the paper: mean 5 and variance 2, on the steps of the step drive."""
    onset = rescaled(ONSET, n_steps)
    return NoisyDrive(NOISE_DEVIATION, NOISE_MEAN, onset, min(rescaled(LENGTH, n_steps), n_steps - onset))


def _step_grid(n_steps: int) -> Points:
    points = [(xi, tau) for xi in STEP_AMPLITUDES for tau in STEP_LENGTHS]
    return {(xi, tau): step(xi, n_steps, tau) if xi and tau else None for xi, tau in points}


def _contrast_grid(_: int) -> Points:
    points = [(a, phi) for a in CONTRAST_AMPLITUDES for phi in CONTRAST_PHASES]
    return {(a, phi): VariableContrast(a, phase=phi) if a else None for a, phi in points}


# By name, the points of a sweep on sequences of n_steps; None at a point where nothing is done to the network.
SWEEPS: dict[str, Callable[[int], Points]] = {
    "clean": lambda n_steps: {(): None},
    "noisy drive": lambda n_steps: {(): noise(n_steps)},
    "step drive": lambda n_steps: {(): step(STANDARD_STEP, n_steps)},
    "sine": lambda n_steps: {(): VariableContrast(STANDARD_CONTRAST)},
    "step sweep": lambda n_steps: {(xi,): step(xi, n_steps) for xi in STEP_AMPLITUDES if xi},
    "contrast sweep": lambda n_steps: {(a,): VariableContrast(a) for a in CONTRAST_AMPLITUDES if a},
    "step grid": _step_grid,
    "contrast grid": _contrast_grid,
}
DRIVES = ("noisy drive", "step drive", "step sweep", "step grid")
GRIDS = ("step grid", "contrast grid")


def sweeps_of(model: str, sweeps: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the sweeps that are defined for a model."""
    return tuple(name for name in sweeps if name not in DRIVES or drives_are_defined(model))
