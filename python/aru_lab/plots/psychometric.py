"""Choices on trials that are drawn, a panel for each run; this figure is not the paper's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from aru_lab.errors import ConfigError
from aru_lab.plots.paper.measured import Analysed
from aru_lab.plots.style import DARK, GREY, MODELS, PURPLE, as_label, letter, new_figure

_ACROSS = 3  # panels in a row
_MOST_RUNS = 12
_LETTERS = "abcdefghijkl"
_MOST_PAIRS = 16  # whose names have room


def psychometric(runs: list[Analysed]) -> Any:
    """Share of a choice against the stimulus, by pair or by position, or predicted against true numbers."""
    if len(runs) > _MOST_RUNS:
        raise ConfigError(f"runs: got {len(runs)}, expected at most {_MOST_RUNS} in this figure.")
    contents = [run.load("psychometric") for run in runs]
    rows = -(-len(runs) // _ACROSS)
    figure = new_figure(0.7 + 2.0 * rows)
    across = min(len(runs), _ACROSS)
    axes = figure.subplots(rows, across, sharex="row", sharey=True, squeeze=False)
    for place, (panel, run, content) in enumerate(zip(axes.flat, runs, contents, strict=False)):
        _FORMS[str(content["form"])](panel, content)
        letter(panel, _LETTERS[place])
        panel.set_title(f"{MODELS[run.model][0]}\n{as_label(run.files.run.name)}", fontsize=7)
        if place % across:
            panel.set_ylabel("")
    for panel in axes.flat[len(runs) :]:
        panel.set_visible(False)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    if labels:
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


def _points(panel: Any, x: Any, content: dict[str, np.ndarray], index: Any = ..., **look: Any) -> None:
    """Shares with their intervals."""
    share, low, high = (content[name][index] for name in ("share", "low", "high"))
    error = np.stack([share - low, high - share]).clip(0)
    panel.errorbar(x, share, error, elinewidth=0.7, capsize=1.5, **look)


def _curves(panel: Any, content: dict[str, np.ndarray]) -> None:
    levels = content["levels"]
    fine = np.linspace(levels[0], levels[-1], 200)
    # what the context makes relevant: filled and solid
    looks = {"motion": (DARK, "o"), "colour": (PURPLE, "s")}
    for k, name in enumerate(map(str, content["curves"])):
        feature, _, context = name.partition(", ")
        relevant = not context or context.startswith(feature)
        colour, marker = looks.get(feature, (DARK, "o"))
        label = name if context else None
        filling = {"markerfacecolor": colour if relevant else "white", "label": label}
        _points(panel, levels, content, k, color=colour, marker=marker, linestyle="none", **filling)
        bias, slope = content["bias"][k], content["slope"][k]
        if np.isfinite(bias):
            p = 1 / (1 + np.exp(-np.clip(slope * (fine - bias), -500, 500)))
            panel.plot(fine, p, "-" if relevant else ":", color=colour)
    panel.axhline(0.5, color=GREY, linewidth=0.6, zorder=0)
    panel.set(xlabel=str(content["axis"]), ylabel=f"share of “{content['choice']}”", ylim=(-0.05, 1.05))


def _pairs(panel: Any, content: dict[str, np.ndarray]) -> None:
    pairs = content["pairs"]
    x = np.arange(len(pairs))
    same = pairs[:, 0] == pairs[:, 1]
    panel.bar(x, content["share"], color=np.where(same, DARK, "#D0D0D0"), edgecolor=DARK, linewidth=0.6, width=0.7)
    _points(panel, x, content, color=PURPLE, marker="none", linestyle="none")
    if len(pairs) <= _MOST_PAIRS:
        panel.set_xticks(x, [f"{a + 1}, {b + 1}" for a, b in pairs], rotation=90 if len(pairs) > 9 else 0)
    panel.set(xlabel="sample, test", ylabel="share of “match”", ylim=(0, 1.05))


def _positions(panel: Any, content: dict[str, np.ndarray]) -> None:
    positions = np.arange(1, len(content["share"]) + 1)
    _points(panel, positions, content, color=DARK, marker="o", linestyle="-")
    panel.set(xlabel="position", ylabel="share of right symbols", ylim=(0, 1.05))
    panel.xaxis.get_major_locator().set_params(integer=True)


def _numbers(panel: Any, content: dict[str, np.ndarray]) -> None:
    true, predicted = content["true"], content["predicted"]
    ends = [float(min(true.min(), predicted.min())), float(max(true.max(), predicted.max()))]
    panel.plot(ends, ends, color=GREY, linewidth=0.8)
    panel.scatter(true, predicted, s=2, color=DARK, alpha=0.4, linewidths=0, rasterized=True)
    panel.text(0.04, 0.96, f"R² {float(content['r_squared']):.3f}", transform=panel.transAxes, va="top", fontsize=7)
    panel.set(xlabel="true sum", ylabel="predicted sum")


_FORMS: dict[str, Callable[[Any, dict[str, np.ndarray]], None]] = {
    "curves": _curves,
    "pairs": _pairs,
    "positions": _positions,
    "numbers": _numbers,
}
