"""Perturbations of a network in tests and, on request, in training: external drives and changes of contrast.

A perturbation is a frozen dataclass with the methods of `Perturbation` and one entry of PERTURBATIONS. On the command
line it is written NAME:PARAMETER=VALUE,..., for example step:amplitude=0.5,onset=100.

T steps of the recurrent network, B sequences, H neurons. Each sequence of a random perturbation has its own seed, so
the result does not depend on the batch size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from aru_lab.arguments import check_finite, check_whole, parse_parameters
from aru_lab.errors import ConfigError
from aru_lab.networks.names import DRIVABLE

PAPER_STEPS = 784  # T of the paper's tests


class Perturbation(Protocol):
    """Interface of all perturbations."""

    def drive(self, n_steps: int, n_neurons: int = 1, seeds: Sequence[int] = ()) -> Tensor | None:
        """The external drive ξ: (T,), or 3-D and broadcastable to (T, B, H); None where there is none.

        Args:
            n_steps: T.
            n_neurons: H.
            seeds: one for each of the B sequences.
        """
        ...

    def contrast(self, n_steps: int, seeds: Sequence[int] = ()) -> Tensor | None:
        """The factor of the inputs: (T,) or (T, B); None where they stay as they are.

        It multiplies inputs above 0. Where a user's data has negative inputs, it multiplies the deviation of each
        input from its mean over the training examples.
        """
        ...


def rescale(steps: int, n_steps: int) -> int:
    """A step or a number of steps of the paper's 784 in a sequence of `n_steps`.

    Examples:
        >>> rescale(200, 784), rescale(200, 112)
        (200, 29)
    """
    return round(steps * n_steps / PAPER_STEPS)


@dataclass(frozen=True)
class _Drive:
    """Base class of drives: they last `length` τ steps from step `onset`; None takes T // 2 and T // 4.

    A `strict` drive leaves its first step out, as in the authors' code.
    """

    def _check(self) -> None:
        for name in ("onset", "length"):
            check_whole(name, getattr(self, name), 0, optional=True)
        _check_flag(self, "strict")

    def _defaults(self, n_steps: int) -> tuple[int, int]:
        """Onset and length where they are None."""
        return n_steps // 4, n_steps // 2

    def bounds(self, n_steps: int) -> tuple[int, int]:
        """First driven step and the step after the last one, in a sequence of `n_steps`.

        Raises:
            ConfigError: the drive does not end within the sequence.
        """
        onset, length = self._defaults(n_steps)
        onset = onset if self.onset is None else self.onset
        length = length if self.length is None else self.length
        if onset + length > n_steps:
            raise ConfigError(
                f"length: got a drive from step {onset} of length {length}, expected it to end within the sequence of "
                f"{n_steps} steps."
            )
        return onset + (self.strict and length > 0), onset + length

    def contrast(self, n_steps: int, seeds: Sequence[int] = ()) -> Tensor | None:
        """None: the inputs stay as they are."""
        return None


@dataclass(frozen=True)
class StepDrive(_Drive):
    """A drive of `amplitude` ξ on every neuron during `length` τ steps from step `onset`, and 0 at the other steps.

    Args:
        amplitude: ξ, in units of the pre-activation; either sign.
        onset: first driven step, counted from 0; None takes T // 4.
        length: τ, number of driven steps; None takes T // 2.
        strict: leave the first step out, as in the authors' code.
    """

    amplitude: float
    onset: int | None = None
    length: int | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        _check_finite(self, "amplitude")
        self._check()

    def drive(self, n_steps: int, n_neurons: int = 1, seeds: Sequence[int] = ()) -> Tensor:
        """The drive of shape (T,), float32."""
        onset, end = self.bounds(n_steps)
        drive = torch.zeros(n_steps)
        drive[onset:end] = self.amplitude
        return drive


@dataclass(frozen=True)
class NoisyDrive(_Drive):
    """A drive with independent normal values for every neuron and step, mean μ_ξ and deviation σ_ξ, during τ steps.

    Args:
        deviation: σ_ξ, in units of the pre-activation.
        mean: μ_ξ.
        onset: first driven step, counted from 0; None takes T // 4.
        length: τ, number of driven steps; None takes T // 2.
        strict: leave the first step out, as in the authors' code.
        shared: draw once for all sequences of a batch, as in the authors' code.
    """

    deviation: float
    mean: float = 0.0
    onset: int | None = None
    length: int | None = None
    strict: bool = False
    shared: bool = False

    def __post_init__(self) -> None:
        _check_flag(self, "shared")
        _check_finite(self, "mean", "deviation")
        if self.deviation < 0:
            raise ConfigError(f"deviation: got {self.deviation!r}, expected a number of at least 0.")
        self._check()

    def drive(self, n_steps: int, n_neurons: int = 1, seeds: Sequence[int] = ()) -> Tensor:
        """The drive of shape (T, B, H), float32, sequence b from seeds[b]."""
        onset, end = self.bounds(n_steps)
        drive = torch.zeros(n_steps, len(seeds), n_neurons)
        for b, seed in enumerate(seeds):
            noise = torch.randn(end - onset, n_neurons, generator=torch.Generator().manual_seed(seed))
            drive[onset:end, b] = self.mean + self.deviation * noise
        return drive


@dataclass(frozen=True)
class VariableContrast:
    """Inputs above 0 times 1 + A sin(2π f t/T + φ), t = 0 ... T-1.

    Args:
        amplitude: A.
        frequency: f, periods in a sequence.
        phase: φ, in radians.
    """

    amplitude: float
    frequency: float = 1.0
    phase: float = 0.0

    def __post_init__(self) -> None:
        _check_finite(self, "amplitude", "frequency", "phase")

    def drive(self, n_steps: int, n_neurons: int = 1, seeds: Sequence[int] = ()) -> Tensor | None:
        """None: there is no drive."""
        return None

    def contrast(self, n_steps: int, seeds: Sequence[int] = ()) -> Tensor:
        """The factor of shape (T,), float32."""
        t = torch.arange(n_steps, dtype=torch.float64)
        return (1 + self.amplitude * torch.sin(2 * math.pi * self.frequency * t / n_steps + self.phase)).float()


@dataclass(frozen=True)
class RandomContrast:
    """Variable contrast of phase 0 and a frequency that each sequence draws from U(0, highest_frequency).

    The augmentation in the authors' code, which draws one frequency a batch; its values are the defaults.

    Args:
        amplitude: A.
        highest_frequency: in periods a sequence.
        shared: draw once for all sequences of a batch, as in the authors' code.
    """

    amplitude: float = 0.2
    highest_frequency: float = 2.0
    shared: bool = False

    def __post_init__(self) -> None:
        _check_flag(self, "shared")
        _check_finite(self, "amplitude", "highest_frequency")

    def drive(self, n_steps: int, n_neurons: int = 1, seeds: Sequence[int] = ()) -> Tensor | None:
        """None: there is no drive."""
        return None

    def contrast(self, n_steps: int, seeds: Sequence[int] = ()) -> Tensor:
        """The factor of shape (T, B), float32, sequence b from seeds[b]."""
        draws = [torch.rand((), generator=torch.Generator().manual_seed(seed)).item() for seed in seeds]
        waves = [VariableContrast(self.amplitude, self.highest_frequency * draw).contrast(n_steps) for draw in draws]
        return torch.stack(waves, dim=1) if waves else torch.ones(n_steps, 0)


class _PaperDrive(_Drive):
    """Base class of the paper's drives: by default from step 200 for 200 steps of 784, in proportion to T."""

    def _defaults(self, n_steps: int) -> tuple[int, int]:
        return rescale(200, n_steps), rescale(200, n_steps)


@dataclass(frozen=True)
class PaperStep(_PaperDrive, StepDrive):
    """The paper's step drive: ξ = 1 from step 200 for 200 steps of 784; arguments as in `StepDrive`."""

    amplitude: float = 1.0


@dataclass(frozen=True)
class PaperNoise(_PaperDrive, NoisyDrive):
    """The paper's noisy drive: mean 5, deviation √2, at the steps of `PaperStep`; arguments as in `NoisyDrive`."""

    deviation: float = math.sqrt(2)
    mean: float = 5.0


@dataclass(frozen=True)
class Sine(VariableContrast):
    """The paper's variable contrast: A = 0.5, f = 1, φ = 0; arguments as in `VariableContrast`."""

    amplitude: float = 0.5


PERTURBATIONS: dict[str, type[Perturbation]] = {
    "step": StepDrive,
    "noisy": NoisyDrive,
    "contrast": VariableContrast,
    "random-contrast": RandomContrast,
    "paper-step": PaperStep,
    "paper-noise": PaperNoise,
    "sine": Sine,
}


def is_defined(model: str, perturbation: Perturbation | None) -> bool:
    """Whether the paper defines a network's response: LSTM and GRU have no one pre-activation that a drive is added to.

    `SequenceClassifier` drives their candidate; tables of the paper's results leave that out.

    Args:
        model: one of names.MODELS.
        perturbation: what the network is under; None is the clean input.

    Examples:
        >>> is_defined("lstm", Sine()), is_defined("lstm", PaperStep()), is_defined("relu", PaperStep())
        (True, False, True)
    """
    return model in DRIVABLE or not isinstance(perturbation, _Drive)


def seeds_of(perturbation: Perturbation | None, first: int, n: int) -> list[int]:
    """The seeds of a batch of n sequences: `first` and those that follow, or all `first` where a draw is shared."""
    shared = getattr(perturbation, "shared", False)
    return [first if shared else first + k for k in range(n)]


def parse(text: str) -> Perturbation:
    """The perturbation written as NAME or NAME:PARAMETER=VALUE,...

    Raises:
        ConfigError: an unknown name or parameter, a missing one, or a value that is not a number.
    """
    return parse_parameters("perturb", text, PERTURBATIONS)


def describe(perturbation: Perturbation) -> str:
    """The perturbation as `parse` reads it; parameters that are None or False are left out."""
    name = next(name for name, kind in PERTURBATIONS.items() if kind is type(perturbation))
    values = {key: value for key, value in vars(perturbation).items() if value is not None and value is not False}
    return f"{name}:" + ",".join(
        f"{key}=true" if value is True else f"{key}={value:.12g}" for key, value in values.items()
    )


def _check_flag(perturbation: object, name: str) -> None:
    if not isinstance(getattr(perturbation, name), bool):
        raise ConfigError(f"{name}: got {getattr(perturbation, name)!r}, expected True or False.")


def _check_finite(perturbation: object, *names: str) -> None:
    for name in names:
        check_finite(name, getattr(perturbation, name))
