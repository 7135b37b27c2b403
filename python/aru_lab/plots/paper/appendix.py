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
    axes = figure.subplots(3, 2)
    groups = by_model(runs)
    gradient, each = axes[0]
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
    for panel, when in zip(axes[1], ("before", "after"), strict=True):
        panel.plot(circle.real, circle.imag, color=GREY, linewidth=0.7)
        for model, group in groups.items():
            values = group[0].load("spectrum")[when]
            _, colour, marker = MODELS[model]
            panel.plot(values.real, values.imag, marker, color=colour, markersize=2.5, fillstyle="none")
        panel.set_aspect("equal")
        panel.set(xlabel="Re λ(W$_{hh}$)", ylabel="Im λ(W$_{hh}$)")
        panel.set_title(f"{when} training", loc="right")
    limit = max(max(map(abs, (*panel.get_xlim(), *panel.get_ylim()))) for panel in axes[1])
    for panel in axes[1]:
        panel.set(xlim=(-limit, limit), ylim=(-limit, limit))

    with_gamma = [run for run in runs if run.model == "arun" or run.model.startswith("gamma")]
    for panel, wanted in zip(axes[2], ("arun", "gamma-heterogeneous"), strict=True):
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
        if panel is axes[2, 0] or not axes[2, 0].axison:
            panel.legend(borderpad=0)
    for panel, text, paper in zip(axes.flat, "abcdef", ("18", "", "5e", "5e", "", "3a"), strict=True):
        if panel.axison:
            letter(panel, text, paper)
    return figure


def _equally_long(curves: Sequence[np.ndarray]) -> np.ndarray:
    if len({len(curve) for curve in curves}) > 1:
        raise ConfigError("runs: got runs of one model on sequences of different lengths, expected one task.")
    return np.stack(list(curves))
