"""Results as one Markdown page with figures, and two commits beside each other.

python -m benchmarks.report                         docs/benchmarks/DEVICE.md from benchmarks/results/
python -m benchmarks.report --compare OLD NEW       table of changes; exit status 1 if something became slower
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from pathlib import Path

import numpy as np

from . import comparison, plots
from .records import FOLDER, Record, latest, load, slug

ROOT = Path(__file__).parents[1]
GROWTH = 0.15  # an exponent of time over useful work beyond this is marked


def fitted_exponent(rows: list[Record], size: str) -> float:
    """Slope of log(time / useful work) against log(size) over the larger half of the sizes, at least three."""
    rows = rows[-max(3, math.ceil(len(rows) / 2)) :]
    x = np.log([r.shape[size] for r in rows])
    y = np.log([1 / r.gflops for r in rows])
    return float(np.polyfit(x, y, 1)[0])


def scaling_rows(records: list[Record]) -> dict[str, list[Record]]:
    """Size -> its records, in the order of the size."""
    found: dict[str, list[Record]] = {}
    for record in records:
        match = re.fullmatch(r"scaling in ([TBHG])", record.op)
        if match:
            found.setdefault(match[1], []).append(record)
    return {size: sorted(rows, key=lambda r: r.shape[size]) for size, rows in found.items() if len(rows) >= 3}


def _rate(record: Record) -> str:
    if record.gflops:
        return f"{record.gflops:.3g} GFLOP/s, {record.fraction:.2f}"
    if record.gbps:
        return f"{record.gbps:.3g} GB/s, {record.fraction:.2f}"
    return ""


def _extra(record: Record) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in record.extra.items())


def _cases(records: list[Record]) -> list[str]:
    lines = []
    for op in dict.fromkeys(r.op for r in records):
        lines += ["", f"## {op}", ""]
        lines += [
            "| mode | sizes | variant | ms (best, median) | times ours | µs a step | rate, fraction of limit | notes |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for record in (r for r in records if r.op == op):
            mode = record.mode if record.precision == "highest" else f"{record.mode}, {record.precision}"
            name = record.variant if record.same_function else f"*{record.variant}*"
            step = f"{record.us_per_step:.3g}" if record.us_per_step else ""
            lines.append(
                f"| {mode} | {plots.label(record)} | {name} | {record.best * 1e3:.4g}, {record.p50 * 1e3:.4g} "
                f"| {record.ratio:.2f} | {step} | {_rate(record)} | {_extra(record)} |"
            )
    return lines


SUMMARY_MODES = ("forward", "forward+backward", "forward+backward, checkpoints")


def summary(records: list[Record]) -> list[str]:
    """The sequence in one table, with a row for each shape."""
    lines = [
        "| B, T, H, G | forward | forward + backward | with checkpoints |",
        "|---|---|---|---|",
    ]
    cases: dict[str, dict[str, dict[str, Record]]] = {}
    for r in records:
        if r.op == "aru_sequence" and r.precision == "highest" and r.mode in SUMMARY_MODES:
            cases.setdefault(plots.label(r).strip("()"), {}).setdefault(r.mode, {})[r.variant] = r
    for shape, modes in cases.items():
        cells = []
        for mode in SUMMARY_MODES:
            variants = modes.get(mode, {})
            eager, own = variants.get("reference"), next(iter(variants.values()), None)
            times = f", {eager.ratio:.3g}x" if eager and eager is not own else ""
            cells.append(f"{own.best * 1e3:.3g} ms{times}, {own.fraction:.2f}" if own and own.fraction else "")
        lines.append(f"| {shape} | {' | '.join(cells)} |")
    return lines if cases else []


def page(records: list[Record], folder: Path) -> str:
    """The page of one device; draws its figures into `folder`."""
    machine = records[-1].machine
    name = slug(str(machine["device"]))
    commits = ", ".join(dict.fromkeys(r.commit[:12] for r in records))
    dates = sorted(r.date[:10] for r in records)
    lines = [
        f"# Benchmarks: {machine['device']}",
        "",
        f"{machine['threads']} threads, {machine['isa']}, torch {machine['torch']}, Triton {machine['triton']}, Python "
        f"{machine['python']}; commit {commits}; {dates[0]} to {dates[-1]}. Measured by `pytest benchmarks/ "
        "--benchmark-only`, which adds to `benchmarks/results/`; written by `python -m benchmarks.report`.",
        "",
        "Best times of calls that took turns in one process, after the results were checked against each other. `times "
        "ours` is a variant's time over that of the first row of its case. The limit is the rate "
        "of the processor's multiply-add units or of a large matrix product (GFLOP/s of useful work, recomputation not "
        "counted) or of a copy (GB/s) in the same run. Variants in *italics* "
        "compute something else or were checked in part: networks of equal size, or the authors' algorithm.",
    ]
    ours = next((r.variant for r in records if r.op == "aru_sequence"), None)
    groups: dict[str, list[Record]] = {}
    for record in records:
        if record.op == "aru_sequence" and record.precision == "highest" and "memory" not in record.mode:
            groups.setdefault(record.mode, []).append(record)
    if groups:
        plots.ratio_bars(groups, ours, folder / f"{name}-ratios.png")
        lines += ["", f"![How many times as long as `{ours}` the same network takes by other means]({name}-ratios.png)"]
    table = summary(records)
    if table:
        limits = " or ".join(sorted({str(r.limit_of) for r in records if r.op == "aru_sequence" and r.limit_of}))
        text = "time, times faster than the reference's eager loop, fraction of the limit"
        lines += ["", f"`{ours}`: {text} ({limits}):", "", *table]
    if any(r.gflops for r in records):
        plots.roofline([r for r in records if r.precision == "highest"], folder / f"{name}-roofline.png")
        lines += ["", f"![Rate of useful work under the machine's limits]({name}-roofline.png)"]
    growing = scaling_rows(records)
    if growing:
        exponents = {size: fitted_exponent(rows, size) for size, rows in growing.items()}
        plots.scaling(growing, exponents, folder / f"{name}-scaling.png")
        lines += ["", f"![Time against each size]({name}-scaling.png)", ""]
        for size, exponent in exponents.items():
            verdict = "grows faster than the work" if exponent > GROWTH else "no faster than the work"
            lines.append(f"* time over useful work ~ {size}^{exponent:+.2f}: {verdict}.")
    return "\n".join([*lines, *_cases(records)]) + "\n"


def write_pages(records: list[Record], folder: Path) -> list[Path]:
    """One page a device."""
    paths = []
    for device in dict.fromkeys(str(r.machine["device"]) for r in records):
        own = [r for r in latest(records) if r.machine["device"] == device]
        path = folder / f"{slug(device)}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page(own, folder), encoding="utf-8")
        paths.append(path)
    return paths


def _of_commit(records: list[Record], commit: str) -> list[Record]:
    found = [r for r in records if r.commit.startswith(commit)]
    if not found:
        known = ", ".join(dict.fromkeys(r.commit for r in records)) or "none"
        raise SystemExit(f"no results of commit {commit!r}; there are results of: {known}")
    return found


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, nargs="+", help="result files (default: all of benchmarks/results)")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "benchmarks", help="folder for pages")
    parser.add_argument("--compare", nargs=2, metavar=("OLD", "NEW"), help="two commits")
    options = parser.parse_args(arguments)
    paths = options.results or sorted(FOLDER.glob("*.jsonl"))
    if not paths:
        raise SystemExit(f"there are no results in {FOLDER}; run `pytest benchmarks/ --benchmark-only` first")
    records = load(paths)
    if options.compare:
        old, new = options.compare
        changes = comparison.compare(_of_commit(records, old), _of_commit(records, new))
        if not changes:
            raise SystemExit(f"commits {old!r} and {new!r} have no case in common")
        print(comparison.as_markdown(changes, old, new), end="")
        return int(any(change.slower for change in changes))
    for path in write_pages(records, options.output):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
