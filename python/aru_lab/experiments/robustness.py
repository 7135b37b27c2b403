"""How accuracy and loss fall with the strength of a perturbation: the paper's sensitivity figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from aru_lab.errors import ConfigError, LabError, failed_together
from aru_lab.experiments.processes import Report, run_jobs
from aru_lab.experiments.slurm import Slurm
from aru_lab.experiments.tables import write_csv
from aru_lab.networks.perturbations import describe
from aru_lab.plots.curves import Curve, sensitivity_figure
from aru_lab.runs.evaluation import task_of
from aru_lab.runs.folder import RunFolder, read_configs
from aru_lab.runs.scores import known_scores
from aru_lab.runs.sensitivity import Axis, Strengths, axes_of


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
    jobs: int | Slurm = 1,
    console: Console | None = None,
) -> tuple[list[dict[str, Any]], dict[Path, LabError]]:
    """Sweep all strengths for all runs; write every point to STEM.csv and the figure to STEM.png.

    A run that can't be used does not keep the others: it is left out.

    Args:
        runs: run folders, all of one task; runs of one model are its seeds.
        stem: path of the results without a suffix.
        strengths: what is swept.
        jobs: processes, or what the jobs of a cluster ask for.
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
    task = task_of(config)
    draw(rows, axes_of(strengths, task.n_steps), f"Test of {config.task}", figure, task.target.is_classes)
    return rows, failures


def draw(rows: Sequence[dict[str, Any]], axes: Sequence[Axis], title: str, path: Path, classes: bool = True) -> None:
    """Accuracy (R² without classes) and loss against each strength, a line a model with its spread over the seeds."""
    curves = []
    for row in rows:
        curve = next((c for c in curves if (c.model, c.sweep) == (row["model"], row["sweep"])), None)
        if curve is None:
            curve = Curve(row["model"], row["sweep"], {})
            curves.append(curve)
        curve.points.setdefault(row["strength"], []).append((row["accuracy"], row["loss"]))
    sensitivity_figure(curves, {axis.name: axis.label for axis in axes}, title, path, classes)


def mean_over(rows: Sequence[dict[str, Any]], model: str, sweep: str) -> list[float]:
    """Each seed's accuracy averaged over the strengths of a sweep."""
    by_seed: dict[int, list[float]] = {}
    for row in rows:
        if (row["model"], row["sweep"]) == (model, sweep):
            by_seed.setdefault(row["seed"], []).append(row["accuracy"])
    return [sum(values) / len(values) for values in by_seed.values()]
