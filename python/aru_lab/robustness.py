"""How accuracy and loss fall with the strength of a perturbation: the paper's sensitivity figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from aru_lab.arguments import check_whole
from aru_lab.checkpoint import RunFolder, read_configs
from aru_lab.errors import ConfigError, LabError, RunError, failed_together
from aru_lab.evaluation import Score, task_of
from aru_lab.figures import Curve, sensitivity_figure
from aru_lab.jobs import Report, run_jobs
from aru_lab.networks.perturbations import NoisyDrive, Perturbation, StepDrive, VariableContrast, describe, parse
from aru_lab.scores import CLEAN, kept_scores, known_scores
from aru_lab.sweep import write_csv


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


# What the figures call the strength that varies; in braces the one that is held.
LABELS = {
    "step-amplitude": "step drive: amplitude ξ",
    "step-length": "step drive ξ = {:g}: length τ / T",
    "noise-deviation": "noisy drive: deviation σ$_ξ$",
    "contrast-amplitude": "variable contrast: amplitude A",
    "contrast-phase": "variable contrast A = {:g}: phase φ / π",
}


@dataclass(frozen=True)
class Axis:
    """One strength that is swept: its name, what the figure calls it, and the perturbation at each value."""

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


@dataclass(frozen=True)
class Kept:
    """A sweep that a run folder keeps: the label of its axis and, by strength, rising, the score of the network."""

    label: str
    scores: dict[float, Score]


def kept_sweeps(run: Path) -> dict[str, Kept]:
    """What `robustness` measured of a run, by the name of the sweep, without its weights or data.

    Where a sweep was measured at several standards (of an amplitude that is held, or of the number of test examples),
    the one with the most strengths is taken.

    Args:
        run: the run folder.

    Raises:
        RunError: nothing was measured.
    """
    run = Path(run)
    config, _ = RunFolder(run).read_config()
    found: dict[str, dict[tuple[float | None, ...], dict[float, Score]]] = {}
    n_steps = None
    for line in kept_scores(run):
        if line["perturbation"] == CLEAN:
            continue
        score = Score(line["loss"], line["accuracy"], line["n"])
        match parse(line["perturbation"]):
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
            found.setdefault(sweep, {}).setdefault((*held, score.n), {})[strength] = score
    kept = {}
    for sweep, label in LABELS.items():
        held, scores = max(found.get(sweep, {}).items(), key=lambda item: len(item[1]), default=((), {}))
        if len(scores) > 1:
            kept[sweep] = Kept(label.format(held[0]), dict(sorted(scores.items())))
    if not kept:
        raise RunError(f"{run}: its sensitivity is not measured yet; measure it with `aru robustness {run}`.")
    return kept


def measure(item: tuple[Path, Strengths], report: Report) -> list[dict[str, Any]]:
    """One row for each strength of every sweep of one run."""
    run, strengths = item
    config, _ = RunFolder(run).read_config()
    axes = axes_of(strengths, task_of(config).n_steps)
    points = [(axis, value) for axis in axes for value in axis.perturbations]
    perturbations = [axis.perturbations[value] for axis, value in points]
    scores = known_scores(run, perturbations, strengths.test_subset, report=report)
    return [
        {
            "run": run.name,
            "task": config.task,
            "model": config.model,
            "hidden_size": config.hidden_size,
            "seed": config.seed,
            "sweep": axis.name,
            "strength": value,
            "perturbation": describe(perturbation),
            "accuracy": score.accuracy,
            "loss": score.loss,
            "n": score.n,
        }
        for (axis, value), perturbation, score in zip(points, perturbations, scores, strict=True)
    ]


def robustness(
    runs: Sequence[Path],
    stem: Path,
    strengths: Strengths | None = None,
    jobs: int = 1,
    console: Console | None = None,
) -> tuple[list[dict[str, Any]], dict[Path, LabError]]:
    """Sweep all strengths for all runs; write every point to STEM.csv and the figure to STEM.png.

    A run that can't be used does not keep the others: it is left out.

    Args:
        runs: run folders, all of one task; runs of one model are its seeds.
        stem: path of the results without a suffix.
        strengths: what is swept.
        jobs: processes.
        console: for the progress bar.

    Returns:
        The rows of the table, and by folder why runs were left out.

    Raises:
        ConfigError: there are no runs, or they are of different tasks.
        LabError: no run can be used, or a result can't be written.
    """
    strengths = strengths or Strengths()
    if not runs:
        raise ConfigError("run: got no run, expected the folder of at least one.")
    configs, failures = read_configs(runs)
    tasks = {(config.task, config.pixels_per_step) for config in configs.values()}
    if len(tasks) > 1:
        named = ", ".join(f"{task} ({pixels} a step)" for task, pixels in sorted(tasks))
        raise ConfigError(f"run: got runs of {named}, expected runs of one task.")
    results = run_jobs(measure, [(run, strengths) for run in configs], jobs, "robustness", console)
    rows = []
    for run, result in zip(configs, results, strict=True):
        if isinstance(result, LabError):
            failures[run] = result
        else:
            rows += result
    if not rows:
        raise failed_together(list(failures.values()), len(failures))
    config = next(config for run, config in configs.items() if run not in failures)
    table, figure = (stem.with_name(stem.name + suffix) for suffix in (".csv", ".png"))
    write_csv(rows, table)
    draw(rows, axes_of(strengths, task_of(config).n_steps), f"Test of {config.task}", figure)
    return rows, failures


def draw(rows: Sequence[dict[str, Any]], axes: Sequence[Axis], title: str, path: Path) -> None:
    """Accuracy and loss against each strength, a line a model with its spread over the seeds."""
    curves = []
    for row in rows:
        curve = next((c for c in curves if (c.model, c.sweep) == (row["model"], row["sweep"])), None)
        if curve is None:
            curve = Curve(row["model"], row["sweep"], {})
            curves.append(curve)
        curve.points.setdefault(row["strength"], []).append((row["accuracy"], row["loss"]))
    sensitivity_figure(curves, {axis.name: axis.label for axis in axes}, title, path)


def standard(strengths: Strengths) -> dict[str, Perturbation]:
    """The three perturbations at their standard strength, by name."""
    return {
        "step drive": StepDrive(strengths.step_amplitude),
        "noisy drive": NoisyDrive(strengths.noise_deviation, strengths.noise_mean),
        "variable contrast": VariableContrast(strengths.contrast_amplitude, strengths.contrast_frequency),
    }


def mean_over(rows: Sequence[dict[str, Any]], model: str, sweep: str) -> list[float]:
    """Each seed's accuracy averaged over the strengths of a sweep."""
    by_seed: dict[int, list[float]] = {}
    for row in rows:
        if (row["model"], row["sweep"]) == (model, sweep):
            by_seed.setdefault(row["seed"], []).append(row["accuracy"])
    return [sum(values) / len(values) for values in by_seed.values()]
