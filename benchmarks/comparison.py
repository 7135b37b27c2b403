"""Two commits beside each other: what became slower, beyond the noise.

Machines are shared and clocks move, so seconds of two runs cannot be compared. Each figure is put in units of a
yardstick that was timed in turns with it: the reference's eager loop where the case has it, else the machine's limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from .records import Record

YARDSTICK = "reference"
SLOWDOWN = 0.10


@dataclass(frozen=True)
class Change:
    """One variant of one case in two commits.

    before, after: its time in units of the yardstick; ratio: after over before; noise: how far, as a share, figures of
    the same commit lie apart (or of their quantiles, where there is but one).
    """

    case: tuple[str, ...]
    variant: str
    before: float
    after: float
    noise: float

    @property
    def ratio(self) -> float:
        """More than 1 is slower."""
        return self.after / self.before

    @property
    def slower(self) -> bool:
        """Slower by more than a tenth and by more than the noise."""
        return self.ratio - 1 > max(SLOWDOWN, self.noise)


def relative_times(records: list[Record]) -> dict[tuple[tuple[str, ...], str, str], list[tuple[float, float]]]:
    """(case, variant, yardstick) -> (time in units of the yardstick, spread of its quantiles) of every run.

    Records of one run of a case follow each other in the file, ours first.
    """
    found: dict[tuple[tuple[str, ...], str, str], list[tuple[float, float]]] = {}
    run: dict[str, Record] = {}
    runs: list[dict[str, Record]] = []
    previous: tuple[str, ...] | None = None
    for record in records:
        if record.case != previous or record.variant in run:
            run = {}
            runs.append(run)
        run[record.variant] = record
        previous = record.case
    for run in runs:
        yardstick = run.get(YARDSTICK)
        for variant, record in run.items():
            if variant == YARDSTICK or not record.same_function:
                continue
            spread = (record.p80 - record.p20) / record.p50
            if yardstick is not None:
                name, value = YARDSTICK, record.best / yardstick.best
            elif record.fraction:
                name, value = str(record.limit_of), 1 / record.fraction
            else:
                continue
            found.setdefault((record.case, variant, name), []).append((value, spread))
    return found


def compare(before: list[Record], after: list[Record]) -> list[Change]:
    """Every figure that both commits have in units of the same yardstick, the most slowed first."""
    old, new = relative_times(before), relative_times(after)
    changes = []
    for key in old.keys() & new.keys():
        values = [[value for value, _ in side[key]] for side in (old, new)]
        noise = max(
            (max(v) - min(v)) / median(v) if len(v) > 1 else side[key][0][1] / 2
            for v, side in zip(values, (old, new), strict=True)
        )
        case, variant, _ = key
        changes.append(Change(case, variant, median(values[0]), median(values[1]), noise))
    return sorted(changes, key=lambda change: -change.ratio)


def as_markdown(changes: list[Change], before: str, after: str) -> str:
    """A table, slowdowns marked."""
    slower = [change for change in changes if change.slower]
    lines = [
        f"# {after[:12]} beside {before[:12]}",
        "",
        "Times in units of the reference's eager loop (or of the machine's limit) of the same minute; a ratio of more "
        "than 1 is slower.",
        "",
        f"{len(slower)} of {len(changes)} figures are slower by more than {SLOWDOWN:.0%} and the noise.",
        "",
        "| | op | mode | sizes | dtype | variant | before | after | ratio | noise |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for change in changes:
        op, mode, sizes, dtype, precision = change.case
        kind = dtype if precision == "highest" else f"{dtype}, {precision}"
        lines.append(
            f"| {'SLOWER' if change.slower else ''} | {op} | {mode} | {sizes} | {kind} | {change.variant} "
            f"| {change.before:.4g} | {change.after:.4g} | {change.ratio:.2f} | {change.noise:.0%} |"
        )
    return "\n".join(lines) + "\n"
