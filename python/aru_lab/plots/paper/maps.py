"""Figure 6: the Jacobian's norm, the Lyapunov exponent and the accuracy over (n, s)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from aru_lab.plots.paper.measured import COURSE, FROZEN, TRAINED, Arrays, Measured, needed
from aru_lab.plots.style import DARK, PAGE, blank, letter, new_figure

Start = tuple[float, float]


def maps(measured: Measured) -> Any:
    """Norm of the Jacobian (A) and λ1 (B) of random networks, accuracy with n and s frozen (C), their paths (D)."""
    random = measured.once.get("random networks")
    norms = measured.files("stability", "arun", "gamma-heterogeneous", "gamma-homogeneous")
    frozen = _accuracy(measured, FROZEN)
    courses = _courses(measured)
    if random is None and not norms and not frozen and not courses:
        raise needed("6", "random network, network of the initialisation grid, or run with this analysis", "stability")
    figure = new_figure(5.4, PAGE)
    (first, second), (third, fourth) = figure.subplots(2, 2)
    if random is not None:
        grid = random["gains"], random["saturations"]
        _map(figure, first, *grid, random["jacobian_norm"].mean(0), "mean norm of the Jacobian", 1.0)
        exponent = np.where(np.isfinite(random["exponent"]), random["exponent"], np.nan).mean(0)
        _map(figure, second, *grid, exponent, "λ$_1$ (nats/step)", 0.0)
    elif norms:
        _map(
            figure,
            first,
            norms[0]["gains"],
            norms[0]["saturations"],
            norms[0]["norm"],
            "mean norm of the Jacobian",
            1.0,
        )
    _starts(figure, third, frozen)
    _paths(figure, fourth, courses, _accuracy(measured, TRAINED))
    for panel, text in ((first, "A"), (second, "B"), (third, "C"), (fourth, "D")):
        if panel.has_data():
            panel.set(xlabel="gain n", ylabel="saturation s")
        else:
            blank(panel)
        letter(panel, text)
    return figure


def _map(
    figure: Any, axes: Any, gains: np.ndarray, saturations: np.ndarray, values: np.ndarray, label: str, line: float
) -> None:
    """Values (N, S) with the contour at `line`; not finite ones stay white."""
    mesh = axes.pcolormesh(gains, saturations, np.ma.masked_invalid(values.T), cmap="cividis", rasterized=True)
    figure.colorbar(mesh, ax=axes, pad=0.02, label=label)
    if np.nanmin(values) < line < np.nanmax(values):
        contour = axes.contour(gains, saturations, values.T, levels=[line], colors="white")
        axes.clabel(contour, fmt=f"{line:g}", fontsize=7)


def start_of(variant: str) -> Start:
    """(n, s) of the variants of the initialisation grid.

    Examples:
        >>> start_of("n=1.25,s=0.5")
        (1.25, 0.5)
    """
    n, s = (float(part.partition("=")[2]) for part in variant.split(","))
    return n, s


def _accuracy(measured: Measured, group: str) -> dict[Start, float]:
    """Mean clean accuracy (%) over the seeds, by start."""
    found = {}
    for (of_group, variant, sweep), by_seed in measured.scores.items():
        if of_group == group and sweep == "clean" and by_seed:
            found[start_of(variant)] = 100 * float(np.mean([of[()].accuracy for of in by_seed.values()]))
    return found


def _courses(measured: Measured) -> dict[Start, Mapping[int, Arrays]]:
    """The course of n and s while training, by start and seed."""
    found = measured.records.items()
    return {start_of(variant): of for (group, variant, name), of in found if (group, name) == (TRAINED, COURSE)}


def _starts(figure: Any, axes: Any, accuracy: dict[Start, float]) -> None:
    """Accuracy at every start, the best one ringed."""
    if not accuracy:
        return
    n, s = np.array(list(accuracy)).T
    look = {"cmap": "cividis", "marker": "s", "s": 42, "edgecolors": "none"}
    dots = axes.scatter(n, s, c=list(accuracy.values()), **look)
    figure.colorbar(dots, ax=axes, pad=0.02, label="test accuracy, frozen (%)")
    best = max(accuracy, key=lambda start: accuracy[start])
    axes.plot(*best, "s", markersize=9, fillstyle="none", color=DARK)
    axes.set_title(f"best {accuracy[best]:.1f}% at n = {best[0]:g}, s = {best[1]:g}", fontsize=7, loc="right")


def _paths(figure: Any, axes: Any, courses: dict[Start, Mapping[int, Arrays]], accuracy: dict[Start, float]) -> None:
    """(n, s) from every start over the epochs, mean over seeds; the ends' colour is the accuracy."""
    if not courses:
        return
    ends = []
    for start, by_seed in courses.items():
        shortest = min(len(of["shape"]) for of in by_seed.values())
        path = np.mean([of["shape"][:shortest] for of in by_seed.values()], axis=0)
        path = np.concatenate([[start], path])
        axes.plot(*path.T, color=DARK, linewidth=0.6, zorder=1)
        axes.plot(*start, ".", color=DARK, markersize=2, zorder=1)
        ends.append((*path[-1], accuracy.get(start, np.nan)))
    n, s, colour = np.array(ends).T
    dots = axes.scatter(n, s, c=colour, cmap="cividis", s=14, edgecolors=DARK, linewidths=0.4, zorder=2)
    figure.colorbar(dots, ax=axes, pad=0.02, label="test accuracy, trained (%)")
