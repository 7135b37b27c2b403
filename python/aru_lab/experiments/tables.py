"""Tables as CSV and Markdown, and the report of a result: measured values."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aru_lab.files import csv_text
from aru_lab.plots.style import NAMES
from aru_lab.runs.folder import write_result
from aru_lab.runs.provenance import commit, version


@dataclass(frozen=True)
class Row:
    """One measured accuracy: its values over the seeds."""

    task: str
    model: str
    quantity: str
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the seeds; NaN where no run succeeded."""
        return statistics.fmean(self.values) if self.values else math.nan

    @property
    def deviation(self) -> float:
        """Standard deviation over the seeds; NaN for fewer than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else math.nan

    def __str__(self) -> str:
        return percent(self.values)


@dataclass(frozen=True)
class Report:
    """A result: title, description, rows, sizes (H and parameters by task and model), figures and remarks."""

    title: str
    description: str
    rows: list[Row]
    sizes: dict[tuple[str, str], tuple[int, int]]
    figures: tuple[Path, ...] = ()
    remarks: tuple[str, ...] = ()


def write_report(report: Report, stem: Path, command: str) -> tuple[Path, Path]:
    """Write STEM.csv, all rows, and STEM.md, the same for the eye; the paths of both."""
    table, markdown = stem.with_suffix(".csv"), stem.with_suffix(".md")
    write_csv([_line(report, row) for row in report.rows], table)
    text = [
        f"# {report.title}",
        "",
        report.description,
        "",
        "Test accuracy in %, mean ± standard deviation over seeds.",
        "",
    ]
    for task in dict.fromkeys(row.task for row in report.rows if row.values):
        text += [f"## {task}", "", *_pivot(report, [row for row in report.rows if row.task == task]), ""]
    text += [f"![{figure.stem}]({figure.name})\n" for figure in report.figures]
    text += [f"* {as_markdown(remark)}" for remark in report.remarks]
    text += ["", made_by(command)]
    write_result("\n".join(text) + "\n", markdown)
    return markdown, table


def _line(report: Report, row: Row) -> dict[str, object]:
    hidden_size, parameters = report.sizes.get((row.task, row.model), ("", ""))
    return {
        "task": row.task,
        "model": row.model,
        "hidden_size": hidden_size,
        "parameters": parameters,
        "quantity": row.quantity,
        "n_seeds": len(row.values),
        "mean": row.mean,
        "deviation": row.deviation,
        "values": " ".join(f"{value:.6g}" for value in row.values),
    }


def _pivot(report: Report, rows: Sequence[Row]) -> list[str]:
    quantities = list(dict.fromkeys(row.quantity for row in rows))
    cells = {(row.model, row.quantity): str(row) for row in rows}
    lines = []
    for model in dict.fromkeys(row.model for row in rows):
        size = report.sizes.get((rows[0].task, model))
        sizes = ("-", "-") if size is None else (size[0], f"{size[1]:,}")
        lines.append((NAMES[model], *sizes, *(cells.get((model, quantity), "-") for quantity in quantities)))
    return markdown_table(("model", "H", "parameters", *quantities), lines, numbers_from=1)


def percent(values: Sequence[float]) -> str:
    """Mean ± standard deviation in percent; a dash where there are no values."""
    return spread([100 * value for value in values], ".1f") if values else "-"


def spread(values: Sequence[float], form: str = ".3g", unit: str = "") -> str:
    """Mean ± standard deviation over the seeds, each number in the format `form`; a single value has no deviation.

    Examples:
        >>> spread([1.0, 2.0], ".1f", "%")
        '1.5 ± 0.7%'
    """
    deviation = f" ± {np.std(values, ddof=1):{form}}" if len(values) > 1 else ""
    return f"{np.mean(values):{form}}{deviation}{unit}"


def markdown_table(
    headings: Sequence[object], rows: Iterable[Sequence[object]], numbers_from: int | None = None
) -> list[str]:
    """The lines of a Markdown table.

    Args:
        headings: of the columns.
        rows: cells; a vertical bar in one is escaped.
        numbers_from: index of the first column that is aligned right, with all that follow; None aligns none.

    Examples:
        >>> markdown_table(("model", "H"), [("ARUN", 64)], numbers_from=1)
        ['| model | H |', '| --- | ---: |', '| ARUN | 64 |']
    """
    n_left = len(headings) if numbers_from is None else numbers_from
    rule = ["---"] * n_left + ["---:"] * (len(headings) - n_left)
    return [_line_of(cells) for cells in (headings, rule, *rows)]


def _line_of(cells: Sequence[object]) -> str:
    return f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def as_markdown(text: str) -> str:
    """`text` for a Markdown file, which shows it as it is."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", text)


def made_by(command: str) -> str:
    """The last line of a report: its command, version and commit."""
    return f"Made by `{command}` (aru_kernels {version()}, commit {commit() or 'unknown'})."


def write_csv(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write rows as CSV, atomically; the columns are all names in the order in which they come up."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    write_result(csv_text(columns, ([row.get(name, "") for name in columns] for row in rows)), path)
