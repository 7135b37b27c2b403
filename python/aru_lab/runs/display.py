"""Display of a run in training: one line for each epoch, and in a terminal a progress bar."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

NO_NUMBERS = {"loss": "-", "accuracy": "", "speed": "-"}


def epoch_line(entry: dict[str, Any], n_epochs: int, classes: bool = True) -> str:
    """One line with the metrics of an epoch, of a network that predicts classes or numbers."""

    def loss(part: str) -> str:
        accuracy = entry[f"{part}_accuracy"]
        return f"{entry[f'{part}_loss']:.4f} ({f'{accuracy:.1%}' if classes else f'R² {accuracy:.3f}'})"

    return (
        f"epoch {entry['epoch']:>{len(str(n_epochs))}}/{n_epochs}  train loss {loss('train')}  "
        f"validation {loss('validation')}  {entry['sequences_per_second']:,.0f} seq/s"
    )


@contextmanager
def training_bar(console: Console) -> Iterator[Progress]:
    """The bar of one run, in steps of the optimiser."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}{task.fields[accuracy]}"),
        TextColumn("{task.fields[speed]} seq/s"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
    )
    # The bar goes away at the end: what stays is one line an epoch. A file or a pipe gets only those.
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield progress
