"""Draw a figure of the paper by its number, from runs or from all that a reproduction has measured.

Runs of one model are its seeds: curves against an amplitude are means with bars of their deviation. Panels of single
neurons or trajectories show the first run that has them. A figure is one entry of DRAWINGS.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from aru_lab.arguments import check_choice
from aru_lab.data.tasks import base_of
from aru_lab.errors import ConfigError
from aru_lab.files import is_file
from aru_lab.plots.paper import FIGURES
from aru_lab.plots.paper.activations import activations
from aru_lab.plots.paper.fits import FITS, fits
from aru_lab.plots.paper.fractional import responses
from aru_lab.plots.paper.gradients import gradients
from aru_lab.plots.paper.grids import GRIDS, grid
from aru_lab.plots.paper.heterogeneity import heterogeneity
from aru_lab.plots.paper.maps import maps
from aru_lab.plots.paper.measured import MAIN, TASKS, Analysed, Measured
from aru_lab.plots.paper.robustness import robustness
from aru_lab.plots.paper.stability import stability
from aru_lab.plots.paper.states import states
from aru_lab.plots.paper.transplant import transplant
from aru_lab.plots.population import fixed_points, trajectories
from aru_lab.plots.psychometric import psychometric
from aru_lab.plots.style import MODELS, as_label, save, style
from aru_lab.runs.analyses import AnalysisFolder
from aru_lab.runs.evaluation import Score
from aru_lab.runs.folder import RunFolder
from aru_lab.runs.sensitivity import kept_sweeps

_GAMMA = ("arun", "gamma-heterogeneous", "gamma-homogeneous")
_SINGLE = (*_GAMMA, "relu")  # one matrix W_hh


def _of_runs(drawing: Callable[[list[Analysed]], Any]) -> Callable[[Measured], Any]:
    """A drawing of runs as one of measurements."""
    return lambda measured: drawing(list(measured.runs[MAIN]))


# What draws the figure, and the models whose runs it shows (none: it needs no runs).
DRAWINGS: dict[str, tuple[Callable[[Measured], Any], tuple[str, ...]]] = {
    "1": (activations, ()),
    "2": (robustness, tuple(MODELS)),
    "3": (heterogeneity, ("arun", "gamma-heterogeneous")),
    "4": (responses, _GAMMA),
    "5": (stability, _SINGLE),
    "6": (maps, _GAMMA),
    **{number: (partial(fits, number=number), ("arun",)) for number in FITS},
    **{number: (partial(grid, number=number), tuple(MODELS)) for number in GRIDS},
    "17": (transplant, ("arun",)),
    "18": (gradients, _SINGLE),
    "states": (states, _GAMMA),
    "psychometric": (_of_runs(psychometric), tuple(MODELS)),
    "trajectories": (_of_runs(trajectories), _SINGLE),
    "fixed-points": (_of_runs(fixed_points), _SINGLE),
}
_SWEEPS = {"step-amplitude": "step sweep", "contrast-amplitude": "contrast sweep"}  # of `aru robustness`


def draw_measured(number: str, measured: Measured, output: Path) -> list[Path]:
    """Draw a figure of a reproduction and save it as PNG and PDF.

    Args:
        number: a name in DRAWINGS.
        measured: what the reproduction has measured.
        output: folder of the files.

    Returns:
        The two files.

    Raises:
        ConfigError: an unknown figure, or nothing that it shows was measured.
        RunError: an analysis is damaged.
    """
    check_choice("number", number, tuple(DRAWINGS))
    with style():
        return save(DRAWINGS[number][0](measured), output, f"figure-{number}")


def draw(
    number: str, runs: Sequence[Path], output: Path, remark: Callable[[str], None] = lambda sentence: None
) -> list[Path]:
    """Draw a figure from analysed runs and save it as PNG and PDF.

    Args:
        number: a name in FIGURES.
        runs: folders of analysed runs; figure 1 needs none. Files, such as the table of a sweep, are passed over.
        output: folder of the files.
        remark: called with a sentence on each path that the figure does not show.

    Returns:
        The two files.

    Raises:
        ConfigError: an unknown figure, no runs, none of a model that the figure shows, or runs of several tasks.
        RunError: a folder holds no run, or an analysis is missing; the sentence has the command that makes it.
    """
    check_choice("number", number, FIGURES)
    _, models = DRAWINGS[number]
    files = [path for path in map(Path, runs) if is_file(path)]
    found = [_open(path) for path in map(Path, runs) if path not in files]
    shown = [run for run in found if run.model in models]
    for path in files:
        remark(f"{path} is a file and not the folder of a run; it is passed over.")
    for run in found:
        if models and run.model not in models:
            remark(f"Figure {number} shows {', '.join(models)}, and not {run.files.run}, a run of {run.model}.")
    if models and not shown:
        came = ", ".join(sorted({run.model for run in found})) or "no runs"
        raise ConfigError(f"runs: got {came}, expected at least one run of {', '.join(models)} for figure {number}.")
    # runs of one task with other options stand side by side
    if len(tasks := {base_of(run.task) if number == "psychometric" else run.task for run in shown}) > 1:
        raise ConfigError(f"runs: got runs of {' and '.join(sorted(tasks))}, expected one task in a figure.")
    return draw_measured(number, _measured(number, shown), output)


def _open(path: Path) -> Analysed:
    config, _ = RunFolder(path).read_config()
    return Analysed(AnalysisFolder(path), config.model, config.task)


def _measured(number: str, runs: list[Analysed]) -> Measured:
    """What the runs' folders hold."""
    title = {MAIN: as_label(runs[0].task)} if runs else {}
    measured = Measured(runs={MAIN: runs}, tasks=TASKS | title)
    return _with_scores(measured, runs) if number == "2" else measured


def _with_scores(measured: Measured, runs: list[Analysed]) -> Measured:
    """With the sweeps of `aru robustness` over the amplitude of the step and of the contrast.

    Raises:
        RunError: a run was not tested.
    """
    scores: dict[tuple[str, str, str], dict[int, dict[tuple[float, ...], Score]]] = {}
    stimuli: dict[str, dict[tuple[float, ...], Any]] = {}
    for seed, run in enumerate(runs):
        for name, kept in kept_sweeps(run.files.run).items():
            if name in _SWEEPS:
                points = {(strength,): score for strength, score in kept.scores.items()}
                scores.setdefault((MAIN, run.model, _SWEEPS[name]), {})[seed] = points
                drawn = {(strength,): how for strength, how in kept.perturbations.items() if strength}
                stimuli.setdefault(_SWEEPS[name], drawn)
    return dataclasses.replace(measured, scores=scores, stimuli=stimuli)
