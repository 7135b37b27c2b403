"""Figures 3 and 4: responses to steps and to noise."""

from __future__ import annotations

from typing import Any

import numpy as np

from aru_lab.analysis.fits import CURVES
from aru_lab.plots.paper.analysed import Analysed, by_model, common
from aru_lab.plots.style import (
    DARK,
    GREY,
    MODELS,
    PURPLE,
    amplitude_bar,
    amplitude_colours,
    drive_scale,
    letter,
    line_with_spread,
    new_figure,
    shade,
)

_WHERE = (("network", "-"), ("isolated", ":"))  # dashes; the colour is that of the model


def fractional_orders(runs: list[Analysed]) -> Any:
    """Responses to steps and their fractional order."""
    figure = new_figure(6.6)
    axes = figure.subplots(3, 2)
    courses, error, distribution, against = axes[0, 0], axes[2, 1], axes[0, 1], axes[2, 0]
    example = next((run for run in runs if run.model == "arun"), runs[0])
    responses, orders = example.load("responses"), example.load("fractional")
    name, colour, _ = MODELS[example.model]
    xi = responses["amplitudes"]
    shade(courses, int(responses["onset"]), int(responses["end"]))
    chosen = _some(len(xi), 6)
    for i, shade_of in zip(chosen, amplitude_colours(chosen), strict=True):
        courses.plot(responses["h_isolated"][i].mean(1), color=shade_of, label=f"{xi[i]:g}")
    courses.set(xlabel="time step t", ylabel="mean rate h, isolated")
    courses.legend(title="ξ", loc="upper left", borderpad=0, labelspacing=0.2, title_fontsize=7)

    bins = np.linspace(-1, 1, 26)
    for c, ((where, dash), filled) in enumerate(zip(_WHERE, (0.25, 0.0), strict=True)):
        values = orders["order"][c, -1]
        distribution.hist(values, bins, histtype="stepfilled", color=colour, alpha=filled)
        distribution.hist(values, bins, histtype="step", color=colour, linestyle=dash, label=where)
        distribution.plot(
            orders["order_of_mean"][c, -1],
            0.035,
            "^",
            color=colour,
            markerfacecolor="white" if c else colour,
            transform=distribution.get_xaxis_transform(),
        )
        error.plot(orders["orders"], orders["errors_of_mean"][c, -1], dash, color=colour, label=where)
        error.plot(*_least(orders["orders"], orders["errors_of_mean"][c, -1]), "o", color=colour)
        _by_sign(axes[1, c], responses, orders, c, where)
    distribution.set(xlabel=f"order α at ξ = {xi[-1]:g}, {name}", ylabel="neurons")
    error.set(xlabel=f"order α at ξ = {xi[-1]:g}, {name}", ylabel="squared error", yscale="log")
    for panel in (distribution, error):
        panel.legend(borderpad=0)

    groups = by_model(runs)
    for place, (model, group) in enumerate(groups.items()):
        files = [run.load("fractional") for run in group]
        amplitudes = common("amplitudes", files)
        text, colour, marker = MODELS[model]
        for c, (where, dash) in enumerate(_WHERE):
            line_with_spread(
                against,
                amplitudes,
                [f["order_of_mean"][c] for f in files],
                2 * place + c,
                2 * len(groups),
                color=colour,
                marker=marker,
                linestyle=dash,
                fillstyle="none" if c else "full",
                label=f"{text}, {where}",
            )
    against.set(xlabel="amplitude ξ of the step", ylabel="order α of the mean response")
    drive_scale(against, amplitudes)
    against.axhline(0, color=GREY, linewidth=0.7)
    figure.legend(*against.get_legend_handles_labels(), loc="outside lower center", ncols=len(groups))
    for panel, text, paper in zip(
        axes.flat, "abcdef", ("10-12", "4b, 4c", "4b bottom", "4c bottom", "4d", "10-12"), strict=True
    ):
        letter(panel, text, paper)
    return figure


def _by_sign(axes: Any, responses: dict[str, np.ndarray], orders: dict[str, np.ndarray], c: int, where: str) -> None:
    """Mean course of the neurons with α > 0 and of the others at the largest amplitude, with their number."""
    rates, above = responses[f"h_{where}"][-1], orders["order"][c, -1] > 0
    shade(axes, int(responses["onset"]), int(responses["end"]))
    for chosen, sign, colour, dash in ((above, "> 0", PURPLE, "-"), (~above, "≤ 0", DARK, "--")):
        if chosen.any():
            axes.plot(rates[:, chosen].mean(1), dash, color=colour, label=f"α {sign}: {chosen.sum()} neurons")
    axes.set(xlabel="time step t", ylabel=f"mean rate h, {where}")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.3 * (high - low))  # room for the legend
    axes.legend(loc="upper left", borderpad=0, labelspacing=0.2)


def gain_scaling(runs: list[Analysed]) -> Any:
    """n and s against the deviation of the noise, with their fits and courses."""
    figure = new_figure(4.5)
    axes = figure.subplots(2, 2, gridspec_kw={"height_ratios": (1.25, 1)})
    files = [run.load("gain-scaling") for run in runs]
    xi, fitted = common("amplitudes", files), common("fit_amplitudes", files)
    colour = MODELS["arun"][1]
    fine = np.geomspace(fitted[0], fitted[-1], 200)
    kinds = (("power", "n", "gain n", "a σ$^{-b}$ + c"), ("exponential", "s", "saturation s", "a e$^{-bσ}$ + c"))
    for column, (kind, name, label, formula) in enumerate(kinds):
        panel, determined = axes[0, column], 0
        rises = [_rises(xi, content[name].mean(1), fitted[0]) for content in files]
        for i, (content, up) in enumerate(zip(files, rises, strict=True)):
            values = content[name]
            panel.errorbar(
                xi,
                values.mean(1),
                values.std(1),
                fmt="^" if up else "v",
                color=colour,
                fillstyle="none" if i else "full",
                elinewidth=0.8,
                zorder=2 + (i > 0),
            )
            parameters = content["parameters"][column, 0]
            if np.isfinite(parameters).all():
                determined += 1
                panel.plot(fine, CURVES[kind](fine, *parameters), "-" if up else "--", color=DARK, linewidth=0.9)
        parameters, low, high = files[0]["parameters"][column]
        exponent = f"b = {parameters[1]:.2g} [{low[1]:.2g}, {high[1]:.2g}]"
        lines = (
            f"paper 3b: {name} rises in {sum(rises)}, falls in {len(rises) - sum(rises)} of {len(rises)} seeds",
            f"{formula} fits {determined}" + (f", {exponent}" if np.isfinite(parameters).all() else ""),
        )
        panel.set_xlabel("deviation σ of the noise")
        panel.set_title("\n".join(lines), fontsize=7, loc="right")
        drive_scale(panel, xi)
        panel.set_ylabel(label)
        course = axes[1, column]
        first, end = files[0]["window"]
        shade(course, 200, end)
        course.axvspan(first, end, ymax=0.04, color=DARK, linewidth=0)
        chosen, curves = _some(len(xi), 5), files[0][f"{name}_course"]
        for k, tone in zip(chosen, np.array(amplitude_colours(xi))[chosen], strict=True):
            course.plot(np.arange(200, curves.shape[1]), curves[k, 200:], color=tone, linewidth=0.7)
        course.plot(curves[0, :201], color=DARK, linewidth=0.7)  # the same low noise at every amplitude
        course.set(xlabel="time step t", ylabel=f"mean {label}")
    for panel, text in zip(axes.flat, "abcd", strict=True):
        letter(panel, text)
    amplitude_bar(figure, axes[1, :], xi, "σ")
    return figure


def _rises(x: np.ndarray, y: np.ndarray, first: float) -> bool:
    """Whether y, with values at x, is higher at the largest x than at x = `first`."""
    return bool(y[-1] > y[np.flatnonzero(x == first)[0]])


def _some(count: int, most: int) -> list[int]:
    """At most `most` of `count` indices, evenly spread, both ends among them."""
    return sorted(set(np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()))


def _least(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    i = int(np.argmin(y))
    return float(x[i]), float(y[i])
