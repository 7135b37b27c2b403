"""Figure 5: the controller under constant input."""

from __future__ import annotations

from typing import Any

import numpy as np

from aru_lab.plots.paper.analysed import Analysed
from aru_lab.plots.style import BLACK, BLUE, GREY, VERMILION, amplitude_bar, amplitude_colours, letter, new_figure


def controller(runs: list[Analysed]) -> Any:
    """The controller's state on its principal components, and n and s against the input."""
    figure = new_figure(4.4)
    axes = figure.subplots(2, 2)
    content = runs[0].load("controller")
    inputs = content["inputs"]
    shown = np.flatnonzero(inputs >= 0)
    colours = amplitude_colours(inputs[shown])
    plane, shapes, gains, saturations = axes.flat
    scores, onset = content["scores"], int(content["onset"])
    second = min(1, scores.shape[-1] - 1)
    for i, colour in zip(shown, colours, strict=True):
        x, y = scores[i, :, 0], scores[i, :, second]
        plane.plot(x, y, color=colour, linewidth=0.9)
        plane.plot(x[0], y[0], "^", color=colour, markeredgecolor=BLACK, markeredgewidth=0.5, zorder=3)
        plane.plot(
            *content["steady_scores"][i, [0, second]],
            "s",
            color=colour,
            markeredgecolor=BLACK,
            markeredgewidth=0.5,
            zorder=3,
        )
        shapes.plot(content["n"][i, onset:], content["s"][i, onset:], color=colour, linewidth=0.9)
        for mark, points in (("^", content["onset_shape"]), ("s", content["steady_shape"])):
            shapes.plot(*points[i], mark, color=colour, markeredgecolor=BLACK, markeredgewidth=0.5, zorder=3)
    percent = 100 * content["explained"]
    plane.set(xlabel=f"PC 1 ({percent[0]:.0f}%)", ylabel=f"PC 2 ({percent[second]:.0f}%)")
    plane.plot([], [], "^", color=GREY, markeredgecolor=BLACK, label="onset")
    plane.plot([], [], "s", color=GREY, markeredgecolor=BLACK, label="steady state")
    plane.legend(borderpad=0)
    shapes.set(xlabel="gain n", ylabel="saturation s")
    for panel, column, label in ((gains, 0, "gain n"), (saturations, 1, "saturation s")):
        for name, mark, colour in (("onset", "^", BLUE), ("steady", "s", VERMILION)):
            text = "steady state" if name == "steady" else name
            panel.plot(inputs, content[f"{name}_shape"][:, column], mark + "-", color=colour, label=text)
        panel.set(xlabel="input current a", ylabel=label)
        panel.set_xscale("symlog", linthresh=1)
        ticks = [t for t in (-30, -5, -1, 0, 1, 5, 30) if inputs[0] <= t <= inputs[-1]]
        panel.set_xticks(ticks, [f"{t:g}" for t in ticks])
        panel.minorticks_off()
    gains.legend(borderpad=0)
    for panel, text in zip(axes.flat, "abcd", strict=True):
        letter(panel, text)
    explained = 100 * content["curve_explained"]
    plane.set_title(f"curve: {explained:.0f}% of steady states", fontsize=7, loc="right")
    amplitude_bar(figure, axes[0, :], inputs[shown], "input a")
    return figure
