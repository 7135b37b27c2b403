"""Figure 5: the controller under constant input."""

from __future__ import annotations

from typing import Any

import numpy as np

from aru_lab.plots.paper.analysed import Analysed
from aru_lab.plots.style import BLACK, GREY, MODELS, amplitude_bar, amplitude_colours, letter, new_figure

STILL = 1e-3  # a controller that moves by more than this in its last step has not settled


def controller(runs: list[Analysed]) -> Any:
    """The controller's state on its principal components, and n and s against the input.

    A filled square has settled. A hollow one still moves: it is the mean of the last quarter of the driven steps.
    """
    figure = new_figure(4.8)
    axes = figure.subplots(2, 2)
    content = runs[0].load("controller")
    inputs, moving = content["inputs"], content["speed"].max(1) > STILL
    shown = np.flatnonzero(inputs >= 0)
    colours = amplitude_colours(inputs[shown])
    plane, shapes, gains, saturations = axes.flat
    scores, onset = content["scores"], int(content["onset"])
    second = min(1, scores.shape[-1] - 1)
    last = scores.shape[1] - max(1, scores.shape[1] // 4)
    for i, colour in zip(shown, colours, strict=True):
        x, y = scores[i, :, 0], scores[i, :, second]
        n, s = content["n"][i, onset:], content["s"][i, onset:]
        end = content["steady_scores"][i, [0, second]], content["steady_shape"][i]
        for panel, path, (low, high) in zip((plane, shapes), ((x, y), (n, s)), end, strict=True):
            # An orbit would cover the rest: only its way there is a line, and the orbit itself is thin.
            cut = last if moving[i] else len(path[0])
            panel.plot(path[0][:cut], path[1][:cut], color=colour, linewidth=0.4 if moving[i] else 0.9, alpha=0.7)
            edge = {"markeredgewidth": 0.6, "zorder": 3}
            panel.plot(path[0][0], path[1][0], "^", color=colour, markeredgecolor=BLACK, **edge)
            if moving[i]:
                panel.plot(
                    low, high, "s", markerfacecolor="white", markeredgecolor=colour, **edge | {"markeredgewidth": 1}
                )
            else:
                panel.plot(low, high, "s", color=colour, markeredgecolor=BLACK, **edge)
    percent = 100 * content["explained"]
    plane.set(xlabel=f"PC 1 ({percent[0]:.0f}%)", ylabel=f"PC 2 ({percent[second]:.0f}%)")
    shapes.set(xlabel="gain n", ylabel="saturation s")
    colour = MODELS["arun"][1]
    for panel, column, name in ((gains, 0, "n"), (saturations, 1, "s")):
        tail = content[name][:, -max(1, (content[name].shape[1] - onset) // 4) :]
        mean = content["steady_shape"][:, column]
        panel.plot(inputs, content["onset_shape"][:, column], "^:", color=GREY)
        panel.plot(inputs, mean, color=colour)
        panel.vlines(inputs, tail.min(1), tail.max(1), color=colour, linewidth=0.8)
        for chosen, face in ((~moving, colour), (moving, "white")):
            panel.plot(inputs[chosen], mean[chosen], "s", color=colour, markerfacecolor=face)
        panel.set(xlabel="input current a", ylabel="gain n" if name == "n" else "saturation s")
        panel.set_xscale("symlog", linthresh=1)
        ticks = [t for t in (-30, -5, -1, 0, 1, 5, 30) if inputs[0] <= t <= inputs[-1]]
        panel.set_xticks(ticks, [f"{t:g}" for t in ticks])
        panel.minorticks_off()
    handles = [
        plane.plot([], [], mark, color=GREY, markeredgecolor=BLACK, markerfacecolor=face, label=text)[0]
        for mark, face, text in (
            ("^", GREY, "onset"),
            ("s", GREY, f"settled ({np.sum(~moving)} of {len(moving)} inputs)"),
            ("s", "white", f"still moving, mean ({np.sum(moving)})"),
        )
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    for panel, text in zip(axes.flat, "abcd", strict=True):
        letter(panel, text)
    explained = 100 * content["curve_explained"]
    plane.set_title(f"paper 5a\ncurve: {explained:.0f}% of final states", fontsize=7, loc="right")
    amplitude_bar(figure, axes[0, :], inputs[shown], "input a")
    return figure
