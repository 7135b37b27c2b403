"""Perturbations of a trained network at test time; each gives the external drive ξ that is added to the pre-activation.

A perturbation is a frozen dataclass with a method `drive` and one entry of PERTURBATIONS.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from aru_lab.errors import ConfigError


class Perturbation(Protocol):
    """What every perturbation offers."""

    def drive(self, n_steps: int) -> Tensor:
        """The drive of a sequence of T = n_steps steps: shape (T,), or 3-D and broadcastable to (T, B, H)."""
        ...


@dataclass(frozen=True)
class StepDrive:
    """A drive of `amplitude` ξ on every neuron during `length` τ steps from step `onset`, and 0 at the other steps.

    Args:
        amplitude: ξ, in units of the pre-activation; either sign.
        onset: first driven step, counted from 0; None takes T // 4.
        length: τ, number of driven steps; None takes T // 2.
    """

    amplitude: float
    onset: int | None = None
    length: int | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.amplitude):
            raise ConfigError(f"amplitude: got {self.amplitude!r}, expected a finite number.")
        for name in ("onset", "length"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ConfigError(f"{name}: got {value!r}, expected a whole number of at least 0 or None.")

    def bounds(self, n_steps: int) -> tuple[int, int]:
        """First driven step and the step after the last one, in a sequence of `n_steps`.

        Raises:
            ConfigError: the step does not lie within the sequence.
        """
        onset = n_steps // 4 if self.onset is None else self.onset
        length = n_steps // 2 if self.length is None else self.length
        if onset + length > n_steps:
            raise ConfigError(
                f"length: got a drive from step {onset} of length {length}, expected it to end within the sequence of "
                f"{n_steps} steps."
            )
        return onset, onset + length

    def drive(self, n_steps: int) -> Tensor:
        """The drive of shape (T,), float32."""
        onset, end = self.bounds(n_steps)
        drive = torch.zeros(n_steps)
        drive[onset:end] = self.amplitude
        return drive


PERTURBATIONS: dict[str, type[Perturbation]] = {"step": StepDrive}
