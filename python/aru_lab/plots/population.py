"""Trajectories of the population in principal components, and fixed points among them; not figures of the paper."""

from __future__ import annotations

from typing import Any

import numpy as np

from aru_lab.plots.paper.measured import Analysed
from aru_lab.plots.style import BLACK, DARK, GREY, as_label, letter, new_figure

_MOST_NAMES = 12  # conditions whose names have room
_MOST_POINTS = 3  # fixed points whose eigenvalues are drawn
_DASHES = ("-", "--", "-.", ":")


def _conditions(content: dict[str, np.ndarray]) -> list[tuple[str, dict[str, Any]]]:
    """Name and look of each condition."""
    import matplotlib

    names = [str(name) for name in content["names"]]
    colours = matplotlib.colormaps["cividis"](np.linspace(0, 0.92, max(len(names), 2)))
    return [
        (as_label(name), {"color": colour, "linestyle": _DASHES[k % len(_DASHES)]})
        for k, (name, colour) in enumerate(zip(names, colours, strict=False))
    ]


def _component(content: dict[str, np.ndarray], k: int) -> np.ndarray:
    """Scores (C, T) on a component, 0 where the network has fewer."""
    scores = content["scores"]
    return scores[..., k] if k < scores.shape[-1] else np.zeros(scores.shape[:-1])


def _label(content: dict[str, np.ndarray], k: int) -> str:
    share = content["explained"][k] if k < len(content["explained"]) else 0.0
    return f"component {k + 1} ({share:.0%})"


def _paths(panel: Any, content: dict[str, np.ndarray], other: int, **options: Any) -> None:
    """The trajectories on the first component and another one, from a triangle to a square."""
    first, second = _component(content, 0), _component(content, other)
    for k, (label, look) in enumerate(_conditions(content)):
        panel.plot(first[k], second[k], label=label, linewidth=1.0, **look | options)
        known = np.flatnonzero(np.isfinite(first[k]))
        for place, marker in ((known[0], "^"), (known[-1], "s")):
            panel.plot(first[k, place], second[k, place], marker, color=look["color"], markersize=3)
    panel.set(xlabel=_label(content, 0), ylabel=_label(content, other))


def trajectories(runs: list[Analysed]) -> Any:
    """Means of each condition of the first run: planes of components, and components against the step."""
    content = runs[0].load("trajectories")
    figure = new_figure(4.6)
    axes = figure.subplots(2, 2)
    for panel, other in zip(axes[0], (1, 2), strict=True):
        _paths(panel, content, other)
    for k, panel in enumerate(axes[1]):
        for condition, (label, look) in enumerate(_conditions(content)):
            panel.plot(_component(content, k)[condition], label=label, linewidth=1.0, **look)
        for start in content["period_starts"][1:]:
            panel.axvline(start, color=GREY, linewidth=0.6, zorder=0)
        for row, (name, start) in enumerate(zip(content["periods"], content["period_starts"], strict=True)):
            # in two rows, for short periods have no room for their names
            place = {"xytext": (2, 2 + 8 * (row % 2)), "textcoords": "offset points", "fontsize": 7, "color": DARK}
            panel.annotate(str(name), (start, 1), xycoords=panel.get_xaxis_transform(), **place)
        panel.set(xlabel="step t", ylabel=_label(content, k))
    for panel, text in zip(axes.flat, "abcd", strict=True):
        letter(panel, text)
    if len(content["names"]) <= _MOST_NAMES:
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def fixed_points(runs: list[Analysed]) -> Any:
    """Fixed and slow points of the first run among its trajectories, and eigenvalues of those with most starts."""
    content, paths = runs[0].load("fixed-points"), runs[0].load("trajectories")
    groups = [str(name) for name in content["groups"]]
    figure = new_figure(2.9)
    axes = figure.subplots(1, len(groups) + 1, squeeze=False)[0]
    for k, (panel, group) in enumerate(zip(axes[:-1], groups, strict=True)):
        _paths(panel, paths, 1, alpha=0.45)
        of = content["group"] == k
        for chosen, marker, filled, label in (
            (content["fixed"] & (content["unstable"] == 0), "o", True, "stable fixed point"),
            (content["fixed"] & (content["unstable"] > 0), "o", False, "unstable fixed point"),
            (~content["fixed"], "x", True, "slow point"),
        ):
            points = content["scores"][of & chosen]
            second = points[:, 1] if points.shape[1] > 1 else np.zeros(len(points))
            face = {} if marker == "x" else {"markerfacecolor": BLACK if filled else "white"}
            panel.plot(points[:, 0], second, marker, color=BLACK, markersize=5, zorder=5, label=label, **face)
        letter(panel, "abcd"[k])
        if group != "all":
            panel.set_title(group, fontsize=7, loc="right")
    circle = np.exp(2j * np.pi * np.linspace(0, 1, 200))
    panel = axes[-1]
    panel.plot(circle.real, circle.imag, color=GREY, linewidth=0.8)
    for values, marker in zip(content["eigenvalues"][:_MOST_POINTS], "o^s", strict=False):
        panel.plot(values.real, values.imag, marker, color=DARK, markersize=2.5, markerfacecolor="none")
    panel.set(xlabel="real part", ylabel="imaginary part", aspect="equal")
    panel.set_title("eigenvalues", fontsize=7, loc="right")
    letter(panel, "abcd"[len(groups)])
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles[-3:], labels[-3:], loc="outside lower center", ncols=3)
    return figure
