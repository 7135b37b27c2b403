"""The paper's results, one table each: what was measured, the paper's claim beside it, and whether it holds."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aru_lab.plots.style import NAMES
from aru_lab.runs.folder import write_result
from aru_lab.runs.provenance import commit, version
from aru_lab.sweep import write_csv

HOLDS, FAILS, UNTESTED = "holds", "does not hold", "not tested at this scale"
UNDECIDED = "undecided: within the spread of the seeds"
RULE = (
    "A claim that one mean over the seeds is above another holds where it is above by more than twice the standard "
    "error of the difference, and does not hold where it is below by as much. Accuracies of the same runs are compared "
    "run by run."
)


@dataclass(frozen=True)
class Row:
    """One measured accuracy: its values over the seeds, and the paper's claim about it, if there is one.

    `against` are the values that the claim compares them with.
    """

    task: str
    model: str
    quantity: str
    values: tuple[float, ...]
    claim: str = ""
    verdict: str = ""
    against: tuple[float, ...] = ()

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
    """A result: its title, what was done, rows, sizes (H and parameters by task and model), figures and remarks."""

    title: str
    description: str
    rows: list[Row]
    sizes: dict[tuple[str, str], tuple[int, int]]
    figures: tuple[Path, ...] = ()
    remarks: tuple[str, ...] = ()


def percent(values: Sequence[float]) -> str:
    """Mean ± standard deviation in percent."""
    if not values:
        return "-"
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.1f}{spread}"


def above(first: Sequence[float], second: Sequence[float]) -> str:
    """Whether the claim holds that `first` has the larger mean, each with its own runs."""
    if min(len(first), len(second)) < 2:
        return UNTESTED
    difference = statistics.fmean(first) - statistics.fmean(second)
    return _verdict(difference, math.sqrt(sum(statistics.variance(part) / len(part) for part in (first, second))))


def above_in_pairs(first: Sequence[float], second: Sequence[float]) -> str:
    """Whether the claim holds that `first` is the larger, both measured on the same runs in the same order."""
    differences = [a - b for a, b in zip(first, second, strict=True)]
    if len(differences) < 2:
        return UNTESTED
    return _verdict(statistics.fmean(differences), statistics.stdev(differences) / math.sqrt(len(differences)))


def _verdict(difference: float, error: float) -> str:
    if abs(difference) <= 2 * error:
        return UNDECIDED
    return HOLDS if difference > 0 else FAILS


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
    text += ["## The paper's claims", "", *_claims(report.rows), "", RULE, ""]
    text += [f"![{figure.stem}]({figure.name})\n" for figure in report.figures]
    text += [f"* {as_markdown(remark)}" for remark in report.remarks]
    text += ["", f"Made by `{command}` (aru_kernels {version()}, commit {commit() or 'unknown'})."]
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
        "claim": row.claim,
        "against": " ".join(f"{value:.6g}" for value in row.against),
        "verdict": row.verdict,
    }


def _pivot(report: Report, rows: Sequence[Row]) -> list[str]:
    quantities = list(dict.fromkeys(row.quantity for row in rows))
    cells = {(row.model, row.quantity): str(row) for row in rows}
    lines = [_markdown("model", "H", "parameters", *quantities), _markdown("---", *["---:"] * (2 + len(quantities)))]
    for model in dict.fromkeys(row.model for row in rows):
        hidden_size, parameters = report.sizes.get((rows[0].task, model), ("-", "-"))
        values = [cells.get((model, quantity), "-") for quantity in quantities]
        lines.append(_markdown(NAMES[model], hidden_size, _thousands(parameters), *values))
    return lines


def _claims(rows: Sequence[Row]) -> list[str]:
    headings = ("task", "network", "quantity", "the paper", "here (%)", "compared with (%)", "verdict")
    lines = [_markdown(*headings), _markdown(*["---"] * len(headings))]
    lines += [
        _markdown(row.task, NAMES[row.model], row.quantity, row.claim, row, percent(row.against), f"**{row.verdict}**")
        for row in rows
        if row.claim
    ]
    return lines


def as_markdown(text: str) -> str:
    """`text` for a Markdown file, in which it is read as it is."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", text)


def _thousands(number: int | str) -> str:
    return f"{number:,}" if isinstance(number, int) else number


def _markdown(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"
