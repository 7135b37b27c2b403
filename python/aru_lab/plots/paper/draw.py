"""Draw a figure of the paper by its name.

Runs of one model are its seeds: curves against an amplitude are means with a band of one standard deviation. Panels of
single neurons or trajectories show the first run that has them. A figure is one entry of DRAWINGS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from aru_lab.arguments import check_choice
from aru_lab.data.tasks import base_of
from aru_lab.errors import ConfigError
from aru_lab.files import is_file
from aru_lab.plots.paper import FIGURES
from aru_lab.plots.paper.activations import activations
from aru_lab.plots.paper.analysed import Analysed
from aru_lab.plots.paper.appendix import appendix
from aru_lab.plots.paper.controller import controller
from aru_lab.plots.paper.responses import fractional_orders, gain_scaling
from aru_lab.plots.paper.sensitivity import sensitivity
from aru_lab.plots.paper.stability import stability
from aru_lab.plots.paper.states import states
from aru_lab.plots.population import fixed_points, trajectories
from aru_lab.plots.psychometric import psychometric
from aru_lab.plots.style import MODELS, save, style
from aru_lab.runs.analyses import AnalysisFolder
from aru_lab.runs.folder import RunFolder

_GAMMA = ("arun", "gamma-heterogeneous", "gamma-homogeneous")

# what draws the figure, and the models that it shows (none: it needs no runs)
DRAWINGS: dict[str, tuple[Callable[[list[Analysed]], Any], tuple[str, ...]]] = {
    "1": (activations, ()),
    "2": (sensitivity, tuple(MODELS)),
    "3": (fractional_orders, _GAMMA),
    "4": (gain_scaling, ("arun",)),
    "5": (controller, ("arun",)),
    "6": (stability, _GAMMA),
    "appendix": (appendix, ("arun", "gamma-heterogeneous", "gamma-homogeneous", "relu")),
    "states": (states, _GAMMA),
    "psychometric": (psychometric, tuple(MODELS)),
    "trajectories": (trajectories, (*_GAMMA, "relu")),
    "fixed-points": (fixed_points, (*_GAMMA, "relu")),
}


def draw(
    number: str, runs: Sequence[Path], output: Path, remark: Callable[[str], None] = lambda sentence: None
) -> list[Path]:
    """Draw a figure and save it as PNG and PDF.

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
    drawing, models = DRAWINGS[number]
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
    with style():
        return save(drawing(shown), output, f"figure-{number}")


def _open(path: Path) -> Analysed:
    config, _ = RunFolder(path).read_config()
    return Analysed(AnalysisFolder(path), config.model, config.task)
