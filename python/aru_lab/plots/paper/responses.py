"""Figures 3 and 4: responses to steps and to noise."""

from __future__ import annotations

from typing import Any

import numpy as np

from aru_lab.analysis.fits import CURVES
from aru_lab.plots.paper.analysed import Analysed, by_model, common
from aru_lab.plots.style import (
    BLACK,
    BLUE,
    GREY,
    MODELS,
    ORANGE,
    VERMILION,
    amplitude_bar,
    amplitude_colours,
    drive_scale,
    letter,
    line_with_spread,
    new_figure,
    shade,
)


def fractional_orders(runs: list[Analysed]) -> Any:
    """Responses to steps and their fractional order."""
    figure = new_figure(4.7)
    axes = figure.subplots(2, 2)
    example = next((run for run in runs if run.model == "arun"), runs[0])
    responses, orders = example.load("responses"), example.load("fractional")
    xi = responses["amplitudes"]
    courses, distribution, against, error = axes.flat
    shade(courses, int(responses["onset"]), int(responses["end"]))
    chosen = _some(len(xi), 6)
    for i, colour in zip(chosen, amplitude_colours(chosen), strict=True):
        courses.plot(responses["h_isolated"][i].mean(1), color=colour, label=f"{xi[i]:g}")
    courses.set(xlabel="time step t", ylabel="mean rate h, isolated")
    courses.legend(title="ξ", loc="upper right", borderpad=0, labelspacing=0.2, title_fontsize=7)

    bins = np.linspace(-1, 1, 26)
    for c, (name, colour) in enumerate((("network", BLUE), ("isolated", VERMILION))):
        values = orders["order"][c, -1]
        distribution.hist(values, bins, histtype="stepfilled", color=colour, alpha=0.35, label=name)
        distribution.hist(values, bins, histtype="step", color=colour)
        distribution.axvline(orders["order_of_mean"][c, -1], color=colour, linestyle="--")
        error.plot(orders["orders"], orders["errors_of_mean"][c, -1], color=colour, label=name)
        error.plot(*_least(orders["orders"], orders["errors_of_mean"][c, -1]), "o", color=colour)
    distribution.set(xlabel=f"order α at ξ = {xi[-1]:g}", ylabel="neurons")
    distribution.legend(loc="upper left", borderpad=0)
    error.set(xlabel="order α", ylabel="squared error", yscale="log")
    error.legend(borderpad=0)

    for model, group in by_model(runs).items():
        files = [run.load("fractional") for run in group]
        amplitudes = common("amplitudes", files)
        text, colour, marker = MODELS[model]
        for c, (name, dash) in enumerate((("network", "-"), ("isolated", ":"))):
            line_with_spread(
                against,
                amplitudes,
                [f["order_of_mean"][c] for f in files],
                color=colour,
                marker=marker,
                linestyle=dash,
                label=f"{text}, {name}",
            )
    against.set(xlabel="amplitude ξ of the step", ylabel="order α of the mean response")
    drive_scale(against, amplitudes)
    against.axhline(0, color=GREY, linewidth=0.7)
    figure.legend(*against.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    for panel, text in zip((courses, distribution, against, error), "abcd", strict=True):
        letter(panel, text)
    return figure


def gain_scaling(runs: list[Analysed]) -> Any:
    """n and s against the deviation of the noise, with their fits and courses."""
    figure = new_figure(4.2)
    axes = figure.subplots(2, 2, gridspec_kw={"height_ratios": (1.25, 1)})
    files = [run.load("gain-scaling") for run in runs]
    xi = common("amplitudes", files)
    fine = np.geomspace(xi[1], xi[-1], 200)
    kinds = (("power", "n", "gain n"), ("exponential", "s", "saturation s"))
    for column, (kind, name, label) in enumerate(kinds):
        panel = axes[0, column]
        for i, content in enumerate(files):
            colour = BLACK if i == 0 else GREY
            values = content[name]
            panel.errorbar(xi, values.mean(1), values.std(1), fmt="o", color=colour, elinewidth=0.8, zorder=3 - (i > 0))
            parameters, low, high = content["parameters"][column]
            if np.isfinite(parameters).all():
                panel.plot(fine, CURVES[kind](fine, *parameters), "--", color=VERMILION if i == 0 else ORANGE)
                if i == 0:
                    formula = "a σ$^{-b}$ + c" if kind == "power" else "a e$^{-bσ}$ + c"
                    interval = f"b = {parameters[1]:.2g} [{low[1]:.2g}, {high[1]:.2g}]"
                    panel.set_title(f"{formula}, {interval}", fontsize=7, loc="right")
        drive_scale(panel, xi)
        panel.set(xlabel="deviation σ of the noise", ylabel=label)
        course = axes[1, column]
        first, end = files[0]["window"]
        shade(course, 200, end)
        course.axvspan(first, end, ymax=0.04, color=VERMILION, linewidth=0)
        for curve, colour in zip(files[0][f"{name}_course"], amplitude_colours(xi), strict=True):
            course.plot(curve, color=colour, linewidth=0.8)
        course.set(xlabel="time step t", ylabel=f"mean {label}")
    for panel, text in zip(axes.flat, "abcd", strict=True):
        letter(panel, text)
    amplitude_bar(figure, axes[1, :], xi, "σ")
    return figure


def _some(count: int, most: int) -> list[int]:
    """At most `most` of `count` indices, evenly spread, both ends among them."""
    return sorted(set(np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()))


def _least(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    i = int(np.argmin(y))
    return float(x[i]), float(y[i])
