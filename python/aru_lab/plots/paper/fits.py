"""Figures 9 to 12: how the fractional order of a network's responses is fitted."""

from __future__ import annotations

from typing import Any

import numpy as np

from aru_lab.analysis.responses import CONNECTIVITY
from aru_lab.plots.paper.fractional import pairs_of, some
from aru_lab.plots.paper.measured import LONGER, MAIN, Arrays, Measured, needed
from aru_lab.plots.style import (
    DARK,
    GREY,
    MODELS,
    PAGE,
    amplitude_bar,
    amplitude_colours,
    drive_scale,
    letter,
    new_figure,
    shade,
)

_BINS = np.linspace(-1, 1, 9)  # the paper's eight
# By figure: the group, the place of the run in it, and the states whose order is fitted.
FITS = {"9": (MAIN, 0, ("n", "s")), "10": (MAIN, 0, ("h",)), "11": (MAIN, 1, ("h",)), "12": (LONGER, 0, ("h",))}


def fits(measured: Measured, number: str) -> Any:
    """How the order is fitted in one isolated network: responses, errors, filtered responses, orders."""
    group, place, states = FITS[number]
    pairs = pairs_of(measured, group)
    if len(pairs) <= place:
        raise needed(number, f"{'second ' if place else ''}run of arun with this analysis", "fractional")
    found, orders = pairs[place]
    figure = new_figure(3.7 * len(states) ** 0.85, PAGE)
    axes = figure.subplots(2 * len(states), 3)
    for row, state in enumerate(states):
        _fit(figure, axes[2 * row : 2 * row + 2], found, orders, state)
    for panel, text in zip(axes.flat, "abcdefghijkl", strict=False):
        letter(panel, text)
    return figure


def _fit(figure: Any, axes: Any, found: Arrays, orders: Arrays, state: str) -> None:
    """Six panels on one state, isolated."""
    suffix, c = ("" if state == "h" else f"_{state}"), CONNECTIVITY.index("isolated")
    (mean, errors, filtered), (neurons, histogram, against) = axes
    amplitudes, alphas = orders["amplitudes"], orders["orders"]
    chosen = some(len(amplitudes), 8)
    onset, end = int(found["onset"]), int(found["end"])
    for i, colour in zip(chosen, amplitude_colours(chosen), strict=True):
        course = found[f"{state}_isolated"][int(np.flatnonzero(found["amplitudes"] == amplitudes[i])[0])].mean(1)
        mean.plot(course, color=colour, linewidth=0.9)
        curve = orders[f"errors_of_mean{suffix}"][c, i]
        errors.plot(alphas, curve, color=colour, linewidth=0.9)
        least = int(np.argmin(curve))
        errors.plot(alphas[least], curve[least], "o", color=colour, markeredgecolor=DARK, markeredgewidth=0.4)
        first, last = orders["window"]
        steps = np.arange(first, last)
        restored = orders[f"restored{suffix}"][c, i, first:last]
        filtered.plot(steps, restored, color=colour, linewidth=0.9)
        filtered.plot(steps, amplitudes[i] * ((steps >= onset) & (steps < end)), ":", color=DARK, linewidth=0.7)
    shade(mean, onset, end)
    mean.set(xlabel="step t", ylabel=f"mean {state}$_t$")
    errors.set(xlabel="order α", ylabel="error of the mean", yscale="log")
    filtered.set(xlabel="step t", ylabel=f"D$^α$ {state}$_t$, dotted: ξ")
    of_neurons = orders[f"errors_of_neurons{suffix}"][c]
    grid = orders["orders_of_neurons"]
    neurons.plot(grid, np.maximum(of_neurons.T, np.finfo(np.float32).tiny), color=GREY, linewidth=0.3)
    best = orders[f"order{suffix}"][c, -1]
    neurons.plot(best, orders[f"error{suffix}"][c, -1], ".", color=MODELS["arun"][1], markersize=2)
    neurons.set(xlabel=f"order α, ξ = {amplitudes[-1]:g}", ylabel="error, each neuron", yscale="log")
    histogram.hist(best, _BINS, color=GREY, edgecolor=DARK, linewidth=0.4)
    histogram.set(xlabel=f"order α, ξ = {amplitudes[-1]:g}", ylabel="neurons")
    against.plot(amplitudes, orders[f"order_of_mean{suffix}"][c], "o-", color=MODELS["arun"][1])
    against.axhline(0, color=GREY, linewidth=0.7, zorder=0)
    drive_scale(against, amplitudes)
    against.set(xlabel="amplitude ξ of the step", ylabel="α of the mean")
    amplitude_bar(figure, list(axes[0]), [amplitudes[i] for i in chosen], "ξ")
