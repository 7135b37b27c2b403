"""Appendix: gradients, eigenspectra, heterogeneity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from aru_lab.errors import ConfigError
from aru_lab.plots.paper.analysed import Analysed, by_model
from aru_lab.plots.style import DARK, GREY, MODELS, PURPLE, letter, new_figure


def appendix(runs: list[Analysed]) -> Any:
    """Norms of gradients, eigenvalues of W_hh, and n and s over neurons."""
    figure = new_figure(6.4)
    groups = by_model(runs)
    rows = [row.subgridspec(1, n) for row, n in zip(figure.add_gridspec(3, 1), (2, len(groups), 2), strict=True)]
    (gradient, each), spectra, shapes = ([figure.add_subplot(place) for place in row] for row in rows)
    for model, group in groups.items():
        files = [run.load("gradients") for run in group]
        text, colour, _ = MODELS[model]
        for panel, name in ((gradient, "accumulated"), (each, "each")):
            for when, dash in (("before", ":"), ("after", "-")):
                curves = _equally_long([f[f"{name}_{when}"] for f in files])
                mean = np.exp(np.log(np.where(curves > 0, curves, np.nan)).mean(0))  # 0 has no place on a log axis
                panel.plot(mean, dash, color=colour, label=text if when == "after" else None)
    gradient.set(ylabel="norm from position t on")
    each.set(ylabel="norm of the term at t")
    for panel in (gradient, each):
        panel.set(xlabel="position t in the sequence", yscale="log")
    each.set_title("dotted: before training", fontsize=7, loc="right")
    figure.legend(*gradient.get_legend_handles_labels(), loc="outside lower center", ncols=len(groups))

    circle = np.exp(2j * np.pi * np.linspace(0, 1, 200))
    limit = 1.0
    for panel, (model, group) in zip(spectra, groups.items(), strict=True):
        content = group[0].load("spectrum")
        name, colour, marker = MODELS[model]
        panel.plot(circle.real, circle.imag, color=GREY, linewidth=0.7)
        for values, mark, look in (
            (content["after"], marker, {"color": colour, "markersize": 3, "fillstyle": "none", "markeredgewidth": 0.7}),
            (content["before"], ".", {"color": DARK, "markersize": 1.5}),
        ):
            panel.plot(values.real, values.imag, mark, **look)
            limit = max(limit, *np.abs(values))
        panel.set_aspect("equal")
        panel.set_xlabel(f"Re λ, {name}", fontsize=7)
    for panel in spectra:
        panel.set(xlim=(-1.1 * limit, 1.1 * limit), ylim=(-1.1 * limit, 1.1 * limit))
        panel.tick_params(labelleft=panel is spectra[0])
    spectra[0].set_ylabel("Im λ(W$_{hh}$)")

    with_gamma = [run for run in runs if run.model == "arun" or run.model.startswith("gamma")]
    for panel, wanted in zip(shapes, ("arun", "gamma-heterogeneous"), strict=True):
        run = next((run for run in with_gamma if run.model == wanted), None)
        if run is None:
            panel.axis("off")
            continue
        content = run.load("heterogeneity")
        marks = {"before": (GREY, "."), "after": (DARK, "o"), "retrained": (PURPLE, "x")}
        for when in content["moments"]:
            colour, mark = marks[str(when)]
            n, s = content[f"n_{when}"], content[f"s_{when}"]
            panel.plot(
                n,
                s,
                mark,
                color=colour,
                markersize=3,
                fillstyle="full" if when == "before" else "none",  # a ring hides no dot
                zorder=3 if when == "before" else 2,
                label=f"{when} training" if when != "retrained" else when,
            )
        panel.set(xlabel="gain n", ylabel="saturation s")
        panel.set_title(MODELS[wanted][0], loc="right")
        if panel is shapes[0] or not shapes[0].axison:
            panel.legend(borderpad=0)
    papers = ["18", "", *("5e" if model in ("arun", "relu") else "" for model in groups), "", "3a"]
    panels = zip((gradient, each, *spectra, *shapes), papers, strict=True)
    for (panel, paper), text in zip((item for item in panels if item[0].axison), "abcdefgh", strict=False):
        letter(panel, text, paper)
    return figure


def _equally_long(curves: Sequence[np.ndarray]) -> np.ndarray:
    if len({len(curve) for curve in curves}) > 1:
        raise ConfigError("runs: got runs of one model on sequences of different lengths, expected one task.")
    return np.stack(list(curves))
