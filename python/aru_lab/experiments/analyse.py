"""`aru analyse`: compute the requested parts, skip finished ones, and keep them when stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from aru_lab.analysis import (
    adaptation,
    controller,
    exponents,
    fixed_points,
    fractional,
    gain_scaling,
    gradients,
    heterogeneity,
    psychometric,
    responses,
    stability,
    states,
    steady_states,
    trajectories,
)
from aru_lab.analysis.checks import AnalysisError
from aru_lab.analysis.parts import Part
from aru_lab.analysis.settings import Settings
from aru_lab.data.tasks import label_of
from aru_lab.errors import ConfigError, typed
from aru_lab.runs.analyses import Run, keys_in
from aru_lab.runs.config_file import options_from, read_values
from aru_lab.runs.runtime import run_on
from aru_lab.terminal import progress_console, say

PARTS: dict[str, Part] = {
    "responses": responses.PART,
    "fractional": fractional.PART,
    "gain-scaling": gain_scaling.PART,
    "controller": controller.PART,
    "adaptation": adaptation.PART,
    "stability": steady_states.PART,
    "lyapunov": exponents.PART,
    "spectrum": stability.PART,
    "gradients": gradients.PART,
    "heterogeneity": heterogeneity.PART,
    "states": states.PART,
    "psychometric": psychometric.PART,
    "trajectories": trajectories.PART,
    "fixed-points": fixed_points.PART,
}


def read_settings(path: Path) -> Settings:
    """The settings of analyses in a file.

    Args:
        path: PART.npz of a run's analysis, or their folder, or one JSON object whose names are those of `Settings`'
            fields. What it lacks has its default: PART.npz has the settings that the part depends on.

    Raises:
        ConfigError: the file can't be read, or has an unknown name or value, or the folder's files contradict each
            other.
    """
    if path.suffix != ".npz" and not path.is_dir():
        return options_from(path, Settings, read_values(path)[0])
    known = {field.name for field in fields(Settings)}
    values: dict[str, Any] = {}
    for file, key in keys_in(path).items():
        own = {name: value for name, value in key.items() if name in known}
        for name, value in own.items():
            if values.setdefault(name, value) != value:
                raise ConfigError(
                    f"{path}: got analyses with {name} {values[name]!r} and {value!r}, expected one value; name "
                    f"{file.name} or another file in it."
                )
    return options_from(path, Settings, values)


def analyse(
    run: Path,
    what: Iterable[str] = (),
    settings: Settings | None = None,
    checkpoint: str = "best",
    retrained: Path | None = None,
    again: bool = False,
    console: Console | None = None,
    report: Callable[[float], None] = lambda fraction: None,
) -> list[str]:
    """Compute analyses of a run and save them in RUN/analysis.

    Args:
        run: the run folder.
        what: names of PARTS; none means all that the run permits, without those that are computed on request. Parts
            that these depend on are computed first.
        settings: None takes the defaults.
        checkpoint: "best" or "last".
        retrained: see `runs.Run`.
        again: whether to compute finished parts again.
        console: where to print; None is standard output.
        report: called with the fraction of the parts that is done.

    Returns:
        The parts that were computed; the others were finished already.

    Raises:
        ConfigError: an unknown part, one that does not suit the run's network, or a network that none suits.
        RunError: the folder holds no run, or no such checkpoint.
        AnalysisError: the numbers do not permit some parts; raised after all others are done.
    """
    results, console = console or Console(), console or progress_console()
    settings = settings or Settings()
    opened = Run(run, checkpoint, retrained)
    names = _plan(opened, tuple(what), console)
    todo = []
    for name in names:
        part = PARTS[name]
        fresh = again or not opened.files.holds(name, opened.key(asdict(settings), part.settings))
        if fresh or any(need in todo for need in part.needs):
            todo.append(name)
        else:
            say(console, f"{name}: finished already")
    failures: list[str] = []
    with run_on(opened.config.backend, opened.model), _progress(console) as bars:
        for k, name in enumerate(todo):
            report(k / len(todo))
            if lacking := [need for need in PARTS[name].needs if not opened.files.holds(need)]:
                failures.append(f"{name} (it needs {' and '.join(lacking)})")
                continue
            bar = bars.add_task(name, total=None)
            try:
                result = PARTS[name].compute(
                    opened, settings, lambda done, total, bar=bar: bars.update(bar, completed=done, total=total)
                )
            except (AnalysisError, ConfigError) as error:
                failures.append(f"{name} ({error})")
                continue
            finally:
                bars.remove_task(bar)
            opened.files.save(name, result, opened.key(asdict(settings), PARTS[name].settings))
            say(bars.console, f"{name}: {result.summary}")
    if failures:
        raise AnalysisError(f"{opened.path}: not possible: {'; '.join(failures)} All other parts asked for are done.")
    say(results, f"Analyses: {opened.files.file('x').parent}")
    return todo


def _plan(run: Run, what: tuple[str, ...], console: Console) -> list[str]:
    """The parts to compute, in the order of PARTS."""
    if unknown := [name for name in what if name not in PARTS]:
        raise ConfigError(f"what: got {unknown[0]!r}, expected some of {', '.join(PARTS)}.")
    if what:
        if reasons := [reason for name in what if (reason := PARTS[name].refusal(name, run))]:
            raise ConfigError(reasons[0])
        wanted = set(what) | {need for name in what for need in PARTS[name].needs}
        return [name for name in PARTS if name in wanted]
    usual = [name for name, part in PARTS.items() if not part.on_request]
    suitable = [name for name in usual if PARTS[name].refusal(name, run) is None]
    if not suitable:
        raise ConfigError(
            f"run: {run.path} is a run of {run.config.model}, expected a network with γ or with a single matrix W_hh; "
            f"its sensitivity is measured by `aru robustness {typed(run.path)}`."
        )
    if len(suitable) < len(usual):
        left_out = ", ".join(name for name in usual if name not in suitable)
        say(console, f"Not for a network of {run.config.model} on {label_of(run.config.task)}: {left_out}")
    return suitable


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TaskProgressColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
