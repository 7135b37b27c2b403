"""Display of a run in training: one line for each epoch, and in a terminal a progress bar."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from aru_lab.data.sequences import TaskData
from aru_lab.data.splits import PARTS
from aru_lab.data.summary import baseline, counts, real_values, targets_of
from aru_lab.data.targets import Target
from aru_lab.data.transform import Scale
from aru_lab.errors import number_of
from aru_lab.runs.evaluation import Evaluation
from aru_lab.runs.measures import balanced_accuracy, confusion_matrix, only_answer, squared_error
from aru_lab.terminal import plain, say, visible

NO_NUMBERS = {"loss": "-", "accuracy": "", "speed": "-"}


MOST_ROWS = 20  # classes that the table of the data lists one by one
MOST_COLUMNS = 12  # classes of a confusion matrix that fits a terminal


def show_data(console: Console, data: TaskData, target: Target, scale: Scale | None = None) -> None:
    """Print what a file of sequences holds: sizes, the counts of each part, and the score of a trivial answer.

    Args:
        console: where to print.
        data: the three parts.
        target: what is predicted.
        scale: of the targets, if they are scaled numbers.
    """
    n, (_, n_steps, input_size) = sum(len(getattr(data, name)) for name in PARTS), data.train.x.shape
    values = real_values(data.train)
    span = f"x from {values.min():.4g} to {values.max():.4g}"
    say(console, f"{number_of(n, 'sequence')}, T = {n_steps}, I = {input_size}, {span}")
    table = Table()
    for heading in ("class" if target.is_classes else "target", *PARTS):
        table.add_column(heading, justify="left" if heading in ("class", "target") else "right", overflow="fold")
    of_part = counts(data, target)
    names = target.names or (f"numbers, O = {target.n_outputs}",)
    listed = len(names) if len(names) <= MOST_ROWS else MOST_ROWS - 1
    for k, name in enumerate(names[:listed]):
        table.add_row(plain(name), *(f"{of_part[part][k]:,}" for part in PARTS))
    if listed < len(names):
        rest = (f"{of_part[part][listed:].sum():,}" for part in PARTS)
        table.add_row(f"{len(names) - listed} further classes", *rest)
    if len(names) > 1:
        table.add_row("all", *(f"{of_part[part].sum():,}" for part in PARTS))
    console.print(table)
    trivial = baseline(data, target)
    if target.is_classes:
        score = f"accuracy {trivial.score:.1%}"
    else:
        error = squared_error(np.array(trivial.numbers), targets_of(data.test), scale)
        score = f"mean squared error {error:.4g}"
    say(console, f"Baseline: always answering {trivial.answer} has the {score} on the test examples")


def show_evaluation(console: Console, found: Evaluation, perturbations: list[str]) -> None:
    """Print the scores of a run, what they would be without learning, and which classes are taken for which.

    Args:
        console: where to print.
        found: the outcomes.
        perturbations: the name of each perturbation.
    """
    table, target = Table(), found.target
    for heading in ("input", *(("accuracy", "loss") if target.is_classes else ("R²", "mean squared error"))):
        table.add_column(heading, justify="left" if heading == "input" else "right")
    for name, outcome in zip(("clean", *perturbations), (found.clean, *found.perturbed), strict=True):
        if target.is_classes:
            table.add_row(name, f"{outcome.score.accuracy:.2%}", f"{outcome.score.loss:.4f}")
        else:
            error = squared_error(outcome.outputs, outcome.y, found.scale)
            table.add_row(name, f"{outcome.score.accuracy:.4f}", f"{error:.4g}")
    console.print(table)
    trivial = found.baseline
    if not target.is_classes:
        error = squared_error(np.array(trivial.numbers), found.clean.y, found.scale)
        say(console, f"Baseline: always answering the training mean has the mean squared error {error:.4g}")
        return
    say(console, f"Baseline: always answering {trivial.answer} has the accuracy {trivial.score:.2%}")
    confusion = confusion_matrix(found.clean.y, found.clean.outputs.argmax(axis=1), target.n_outputs)
    say(console, f"Balanced accuracy: {balanced_accuracy(confusion):.2%}, the mean over the classes")
    if (only := only_answer(confusion)) is not None:
        say(
            console,
            f"The network answers {target.names[only]} to every sequence: it has not learned the classes apart.",
        )
    show_confusion(console, confusion, target.names)


def show_confusion(console: Console, confusion: np.ndarray, names: tuple[str, ...]) -> None:
    """Print the confusion matrix; of many classes, the most frequent confusions.

    No name and no number is broken: where names are too long for columns, numbers stand for them.
    """
    counts = [[f"{count:,}" for count in row] for row in confusion]
    numbers = [str(k) for k in range(1, len(names) + 1)]
    shown = [visible(name) for name in names]
    numbered = [f"{number}: {name}" for number, name in zip(numbers, shown, strict=True)]
    for headings, rows in ((shown, shown), (numbers, numbered), (numbers, numbers)):
        of_answer = zip(headings, zip(*counts, strict=True), strict=True)
        columns = [("class", *rows), *((heading, *cells) for heading, cells in of_answer)]
        # a column has a blank on either side and a line on its right
        width = 1 + sum(3 + max(map(cell_len, column)) for column in columns)
        if len(names) <= MOST_COLUMNS and width <= console.width:
            break
    else:
        _show_confusions(console, confusion, names)
        return
    if rows is numbers:
        for line in numbered:
            say(console, line)
    table = Table(title="Confusion matrix: a row for each class, a column for each answer")
    for k, column in enumerate(columns):
        table.add_column(plain(column[0]), justify="right" if k else "left", no_wrap=True)
    for cells in zip(*(column[1:] for column in columns), strict=True):
        table.add_row(*map(plain, cells))
    console.print(table)


def _show_confusions(console: Console, confusion: np.ndarray, names: tuple[str, ...]) -> None:
    """Print a line for each of the most frequent confusions."""
    wrong = confusion - np.diag(np.diag(confusion))
    for place in np.argsort(-wrong, axis=None, kind="stable")[:MOST_COLUMNS]:
        k, answer = divmod(int(place), len(names))
        if wrong[k, answer]:
            say(
                console, f"{names[k]} is taken for {names[answer]} {wrong[k, answer]:,} times of {confusion[k].sum():,}"
            )


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
    """The bar of one run, in steps of the optimizer."""
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
