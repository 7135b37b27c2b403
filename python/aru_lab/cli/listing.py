"""The command `aru runs`.

Whatever needs torch is imported by the command that runs, so that help and typing errors answer at once.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from aru_lab.runs.overview import RunState


@dataclass(frozen=True)
class ListRuns:
    """List the runs in a folder and below it: how far they have come, how good they are, and which are damaged."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="[FOLDER]")] = Path("runs")
    """Where to look."""

    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print a JSON list with an object for each run, in place of the table. Accuracies are shares from 0 to 1."""

    check: tyro.conf.FlagCreatePairsOff[bool] = False
    """Read every checkpoint to its end and compare its checksum; otherwise one counts as whole if its end is there."""

    def run(self) -> None:
        """Look, and print a table."""
        from rich.console import Console
        from rich.table import Table

        from aru_lab.runs.overview import overview
        from aru_lab.terminal import plain, say

        found = overview(self.folder, self.check)
        if self.json:
            rows = [dataclasses.asdict(run) | {"path": str(run.path)} for run in found]
            sys.stdout.write(json.dumps(rows, indent=2) + "\n")
            return
        console = Console()
        if not found:
            say(console, f"There are no runs in {self.folder}.")
            return
        table = Table()
        for heading in ("run", "task", "model", "epochs", "best", "last", "state"):
            right = heading in ("epochs", "best", "last")
            table.add_column(heading, justify="right" if right else "left", overflow="fold")
        for run in found:
            table.add_row(*map(plain, _cells(run)))
        console.print(table)
        for run in found:
            if run.reason:
                say(console, f"damaged: {run.path} ({run.reason.rstrip('.')})")


def _cells(run: RunState) -> tuple[str, ...]:
    done = "-" if run.epoch is None else f"{run.epoch} of {run.epochs}"
    shown = "R² {:.4f}" if run.measure == "R²" else "{:.2%}"
    scores = ["-" if score is None else shown.format(score) for score in (run.best, run.last)]
    task = "-" if run.task is None else Path(run.task).name
    return (str(run.path), task, run.model or "-", done, *scores, run.state)
