"""The report's figures: ratio bars, roofline, scaling. Colours of Okabe and Ito."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from aru_lab.plots.style import BLACK, BLUE, GREY, ORANGE, VERMILION

from .records import Record


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=150)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def label(record: Record) -> str:
    """The case in a few characters."""
    if {"B", "T", "H", "G"} <= set(record.shape):
        return "({B}, {T}, {H}, {G})".format(**record.shape)
    return ", ".join(f"{k} {v}" for k, v in record.shape.items())


def ratio_bars(groups: dict[str, list[Record]], ours: str, path: Path) -> None:
    """A panel a mode, a group of bars a shape: how many times as long as ours each peer of the same function takes."""
    figure = _figure(9, 2.6 * len(groups))
    axes = figure.subplots(len(groups), 1, squeeze=False)[:, 0]
    colours = {"reference": GREY, "authors' algorithm": ORANGE, "torch.compile of the step": VERMILION}
    for panel, (mode, records) in zip(axes, groups.items(), strict=True):
        cases = list(dict.fromkeys(label(r) for r in records if r.variant in colours))
        names = [name for name in colours if any(r.variant == name for r in records)]
        for offset, name in enumerate(names):
            found = {label(r): r.ratio for r in records if r.variant == name}
            places = [i for i, case in enumerate(cases) if case in found]
            width = 0.8 / len(names)
            heights = [found[cases[i]] for i in places]
            bars = panel.bar([i + (offset - (len(names) - 1) / 2) * width for i in places], heights, width * 0.95)
            for bar in bars:
                bar.set_color(colours[name])
            bars.set_label(name)
            panel.bar_label(bars, [f"{h:.1f}" for h in heights], fontsize="x-small", padding=1)
        panel.axhline(1, color=BLUE, linewidth=1)
        panel.text(len(cases) - 0.45, 1.05, f"{ours} = 1", color=BLUE, fontsize="x-small", ha="right", va="bottom")
        panel.set_xticks(range(len(cases)), cases, fontsize="small")
        panel.set_yscale("log")
        panel.set_ylim(0.7, 2.2 * max([1, *(r.ratio for r in records if r.variant in colours)]))
        panel.set_ylabel("time / ours")
        panel.set_title(mode, fontsize="medium")
        panel.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("(B, T, H, G)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    _save(figure, path)


def roofline(records: list[Record], path: Path) -> None:
    """Rate of useful work against operations per byte that must move, under the machine's two limits."""
    figure = _figure(6.5, 5)
    axes = figure.subplots()
    peak = max((r for r in records if r.gflops), key=lambda r: r.limit)
    copy = max((r.limit for r in records if r.gbps), default=None)
    intensity = np.logspace(-1, 4, 200)
    if copy is not None:
        label = f"limit: copy and {peak.limit_of}"
        axes.plot(intensity, np.minimum(peak.limit, copy * intensity), color=BLACK, label=label)
    else:
        axes.axhline(peak.limit, color=BLACK, label=f"limit: {peak.limit_of}")
    styles = {"aru_sequence": (BLUE, "o"), "gamma_rnn_sequence": (ORANGE, "s"), "controller_step": (VERMILION, "^")}
    for op, (colour, marker) in styles.items():
        for ours, look in ((True, {"color": colour}), (False, {"facecolors": "none", "edgecolors": GREY})):
            points = [
                (_intensity(r), r.gflops)
                for r in records
                if r.op == op and r.gflops and r.same_function and (r.ratio == 1) is ours
            ]
            if points:
                label = op if ours else f"{op}, by other means"
                axes.scatter(*zip(*points, strict=True), marker=marker, label=label, s=28, **look)
    axes.set(xscale="log", yscale="log", xlabel="useful FLOP per byte of inputs and outputs", ylabel="useful GFLOP/s")
    axes.grid(alpha=0.3)
    figure.legend(frameon=False, fontsize="small", loc="outside lower center", ncols=2)
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _intensity(record: Record) -> float:
    """FLOP per byte of float32 that must move: xp in, h out (backward: the same again twice), the weights."""
    shape = {"T": 1, **record.shape}
    backward = 3 if record.mode.startswith("forward+backward") else 1
    B, T, H, G = (shape[k] for k in "BTHG")
    state = B * H * G if G else 0
    moved = 4 * (2 * T * B * H + 2 * state + H * H + G * G) * backward
    return record.gflops * record.best * 1e9 / moved


def scaling(records: dict[str, list[Record]], exponents: dict[str, float], path: Path) -> None:
    """A panel for each size: the time, and what the useful work predicts."""
    figure = _figure(9, 2.8)
    panels = figure.subplots(1, len(records), squeeze=False)[0]
    for panel, (size, rows) in zip(panels, records.items(), strict=True):
        values = [r.shape[size] for r in rows]
        times = [r.best * 1e3 for r in rows]
        work = [r.gflops * r.best for r in rows]
        panel.plot(values, times, "o-", color=BLUE, label="measured")
        panel.plot(values, [times[-1] * w / work[-1] for w in work], "--", color=GREY, label="as the useful work")
        panel.set(xscale="log", yscale="log", xlabel=size)
        panel.set_xticks(values, [str(v) for v in values], fontsize="x-small")
        panel.minorticks_off()
        panel.set_title(f"time ~ work · {size}^{exponents[size]:+.2f}", fontsize="small")
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("ms, forward + backward")
    panels[0].legend(frameon=False, fontsize="x-small")
    _save(figure, path)
