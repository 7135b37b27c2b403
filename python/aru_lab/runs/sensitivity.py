"""Sensitivity to perturbations: the strengths of each sweep, and the sweeps in a run's scores.

`axes_of` makes the perturbations of every sweep; `kept_sweeps` reads them back from a run's scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from aru_lab.arguments import check_whole
from aru_lab.errors import ConfigError, RunError, typed
from aru_lab.networks.perturbations import NoisyDrive, Perturbation, StepDrive, VariableContrast, parse
from aru_lab.runs.evaluation import Score, task_of
from aru_lab.runs.folder import RunFolder
from aru_lab.runs.scores import CLEAN, kept_scores


@dataclass(frozen=True)
class Strengths:
    """The strengths that are swept; while one varies, the others of its perturbation stay at the standard.

    Drives begin at step T // 4; their standard length is T // 2. Test examples: all, or the first so many.
    """

    step_amplitudes: tuple[float, ...] = (-2.0, -1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0, 2.0)
    """Amplitudes ξ of the step drive."""

    step_lengths: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.75)
    """Lengths τ of the step drive, as fractions of T, at most 0.75."""

    noise_deviations: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0)
    """Deviations σ_ξ of the noisy drive."""

    contrast_amplitudes: tuple[float, ...] = (0.0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
    """Amplitudes A of the variable contrast."""

    contrast_phases: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
    """Phases φ of the variable contrast, in units of π."""

    step_amplitude: float = 0.5
    """Standard amplitude of the step drive."""

    noise_deviation: float = 1.0
    """Deviation of the noisy drive where it does not vary."""

    noise_mean: float = 0.0
    """Mean μ_ξ of the noisy drive."""

    contrast_amplitude: float = 0.5
    """Standard amplitude of the variable contrast (that of the authors' test)."""

    contrast_frequency: float = 1.0
    """Periods of the contrast in a sequence (that of the authors' test)."""

    test_subset: int | None = None
    """Number of test examples; None takes all."""

    def __post_init__(self) -> None:
        for fraction in self.step_lengths:
            if not 0 <= fraction <= 0.75:
                raise ConfigError(f"step_lengths: got {fraction!r}, expected fractions of T from 0 to 0.75.")
        check_whole("test_subset", self.test_subset, 1, optional=True)


# Labels of the varied strengths in figures; braces take the strength that is held.
LABELS = {
    "step-amplitude": "step drive: amplitude ξ",
    "step-length": "step drive ξ = {:g}: length τ / T",
    "noise-deviation": "noisy drive: deviation σ$_ξ$",
    "contrast-amplitude": "variable contrast: amplitude A",
    "contrast-phase": "variable contrast A = {:g}: phase φ / π",
}


@dataclass(frozen=True)
class Axis:
    """One sweep: its name, its label in figures, and the perturbation at each strength."""

    name: str
    label: str
    perturbations: dict[float, Perturbation]


def axes_of(strengths: Strengths, n_steps: int) -> list[Axis]:
    """The five sweeps on sequences of T = n_steps."""
    step, contrast, frequency = strengths.step_amplitude, strengths.contrast_amplitude, strengths.contrast_frequency

    def axis(name: str, values: Sequence[float], make: Callable[[float], Perturbation], held: float = 0.0) -> Axis:
        return Axis(name, LABELS[name].format(held), {value: make(value) for value in values})

    return [
        axis("step-amplitude", strengths.step_amplitudes, StepDrive),
        axis(
            "step-length",
            strengths.step_lengths,
            lambda fraction: StepDrive(step, n_steps // 4, int(fraction * n_steps)),
            step,
        ),
        axis(
            "noise-deviation",
            strengths.noise_deviations,
            lambda deviation: NoisyDrive(deviation, strengths.noise_mean),
        ),
        axis(
            "contrast-amplitude",
            strengths.contrast_amplitudes,
            lambda amplitude: VariableContrast(amplitude, frequency),
        ),
        axis(
            "contrast-phase",
            strengths.contrast_phases,
            lambda phase: VariableContrast(contrast, frequency, phase * math.pi),
            contrast,
        ),
    ]


def standard(strengths: Strengths) -> dict[str, Perturbation]:
    """The three perturbations at their standard strength, by name."""
    return {
        "step drive": StepDrive(strengths.step_amplitude),
        "noisy drive": NoisyDrive(strengths.noise_deviation, strengths.noise_mean),
        "variable contrast": VariableContrast(strengths.contrast_amplitude, strengths.contrast_frequency),
    }


@dataclass(frozen=True)
class Kept:
    """A sweep that a run folder keeps: the label of its axis and, by strength, rising, score and perturbation.

    n_steps: T, None where no perturbation depends on it.
    """

    label: str
    scores: dict[float, Score]
    perturbations: dict[float, Perturbation]
    n_steps: int | None


def kept_sweeps(run: Path) -> dict[str, Kept]:
    """The sweeps that `robustness` measured for a run, by name; reads neither weights nor data.

    Where a sweep was measured at several standards (of an amplitude that is held, or of the number of test examples),
    the one with the most strengths is taken.

    Args:
        run: the run folder.

    Raises:
        RunError: nothing was measured.
    """
    run = Path(run)
    config, _ = RunFolder(run).read_config()
    found: dict[str, dict[tuple[float | None, ...], dict[float, tuple[Score, Perturbation]]]] = {}
    n_steps = None
    for line in kept_scores(run):
        if line["perturbation"] == CLEAN:
            continue
        score = Score(line["loss"], line["accuracy"], line["n"])
        perturbation = parse(line["perturbation"])
        match perturbation:
            case StepDrive(amplitude, None, None):
                places = [("step-amplitude", amplitude, (0.0,))]
            case StepDrive(amplitude, onset, length) if onset is not None and length is not None:
                n_steps = n_steps or task_of(config).n_steps
                places = [("step-length", length / n_steps, (amplitude, onset))]
            case NoisyDrive(deviation, mean, None, None):
                places = [("noise-deviation", deviation, (mean,))]
            case VariableContrast(amplitude, frequency, phase):
                places = [("contrast-phase", phase / math.pi, (amplitude, frequency))]
                if phase == 0:
                    places.append(("contrast-amplitude", amplitude, (0.0, frequency)))
            case _:
                places = []
        for sweep, strength, held in places:
            found.setdefault(sweep, {}).setdefault((*held, score.n), {})[strength] = score, perturbation
    kept = {}
    for sweep, label in LABELS.items():
        held, points = max(found.get(sweep, {}).items(), key=lambda item: len(item[1]), default=((), {}))
        if len(points) > 1:
            points = dict(sorted(points.items()))
            scores = {strength: score for strength, (score, _) in points.items()}
            perturbations = {strength: perturbation for strength, (_, perturbation) in points.items()}
            kept[sweep] = Kept(label.format(held[0]), scores, perturbations, n_steps)
    if not kept:
        raise RunError(f"{run}: its sensitivity is not measured yet; measure it with `aru robustness {typed(run)}`.")
    return kept
