"""What the runs below a folder are and how far they have come."""

from __future__ import annotations

import os
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

from aru_lab.errors import LabError, RunError
from aru_lab.files import is_file, reason
from aru_lab.runs.folder import RunFolder
from aru_lab.runs.schedules import best_epoch, is_finished
from aru_lab.runs.state import check_resumable, measure_of, read_history

STATES = ("finished", "running", "stopped", "damaged")
_OWN = {"metrics.jsonl", "last.pt", "best.pt", ".lock"}  # other programs have a config.json too


@dataclass(frozen=True)
class RunState:
    """One run.

    Attributes:
        path: its folder.
        state: finished, running (a process trains in the folder), stopped, or damaged.
        task, model: of its configuration; None where that is damaged, as everything below.
        epoch: finished epochs.
        epochs: epochs at most.
        measure: what the next two are: "accuracy" from 0 to 1, or "R²".
        best: validation accuracy of the best epoch; None before the first.
        last: validation accuracy of the last epoch; None before the first.
        reason: what is damaged; "" where nothing is.
    """

    path: Path
    state: str
    task: str | None = None
    model: str | None = None
    epoch: int | None = None
    epochs: int | None = None
    measure: str | None = None
    best: float | None = None
    last: float | None = None
    reason: str = ""


def find_runs(folder: Path) -> list[Path]:
    """The folders of runs in `folder` and below it, in the order of their names; numbers count as numbers.

    Raises:
        RunError: `folder` is no folder, or can't be listed.
    """
    try:
        os.scandir(folder).close()
    except (OSError, ValueError) as error:
        raise RunError(f"{folder} can't be listed ({reason(error)}); expected a folder of runs.") from error
    found = [Path(place) for place, _, names in os.walk(folder) if _is_run(Path(place), set(names))]
    return sorted(found, key=_natural)


def overview(folder: Path, check: bool = False) -> list[RunState]:
    """The state of every run in `folder` and below it, sorted by path.

    Args:
        folder: where to look.
        check: whether to read the checkpoints and compare their checksums; otherwise only their ends are read.

    Raises:
        RunError: as in `find_runs`.
    """
    return [state_of(path, check) for path in find_runs(folder)]


def state_of(path: Path, check: bool = False) -> RunState:
    """The state of one run; no error for a damaged one.

    Args:
        path: the run folder.
        check: as in `overview`.
    """
    folder = RunFolder(path)
    running = folder.in_use()
    try:
        config, environment = folder.read_config()
    except LabError as error:
        return RunState(path, "damaged", reason=str(error))
    told = {"task": config.task, "model": config.model, "epochs": config.epochs, "measure": measure_of(environment)}
    try:
        history = folder.read_metrics()
        if check and not running:
            check_resumable(folder)
            history = read_history(folder)
        elif history and not running:
            _check_ends(folder)
    except LabError as error:
        return RunState(path, "damaged", **told, reason=str(error))
    accuracy = [entry["validation_accuracy"] for entry in history]
    scores = {"best": accuracy[best_epoch(history)], "last": accuracy[-1]} if history else {}
    state = "running" if running else "finished" if is_finished(config, history) else "stopped"
    return RunState(path, state, **told, epoch=len(history), **scores)


def _check_ends(folder: RunFolder) -> None:
    """Refuse checkpoints that are missing or cut off; an archive has its table of contents at its end."""
    for file in (folder.last_file, folder.best_file):
        if not is_file(file):
            raise RunError(f"{file} is missing, though the run has finished epochs.")
        try:
            whole = zipfile.is_zipfile(file)
        except OSError as error:
            raise RunError(f"{file} can't be read ({reason(error)}).") from error
        if not whole:
            raise RunError(f"{file} is damaged: it ends early.")


def _is_run(place: Path, names: set[str]) -> bool:
    if "config.json" not in names:
        return "last.pt" in names and "metrics.jsonl" in names
    if names & _OWN:
        return True
    try:
        RunFolder(place).read_config()
    except LabError:
        return False
    return True


def _natural(path: Path) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d{1,18})", str(path))
    return [(0, int(part), "") if part.isascii() and part.isdigit() else (1, 0, part) for part in parts if part]
