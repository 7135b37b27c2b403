"""h(t), n(t) and s(t) on a run's own test sequences; this figure is not the paper's."""

from __future__ import annotations

from typing import Any

import numpy as np

from aru_lab.plots.paper.measured import MAIN, Measured
from aru_lab.plots.style import BLACK, GREY, as_label, letter, new_figure

_LABELS = {"h": "state h", "n": "gain n", "s": "saturation s"}
_MOST_CLASSES = 12  # whose names have room


def states(measured: Measured) -> Any:
    """Means over test sequences and neurons, of each class (left); single neurons of one sequence (right)."""
    import matplotlib

    figure = new_figure(5.0)
    axes = figure.subplots(3, 2, sharex=True)
    content = measured.runs[MAIN][0].load("states")
    names = [str(name) for name in content["names"]]
    classes = range(1, min(len(names), _MOST_CLASSES + 1))
    colours = matplotlib.colormaps["turbo"](np.linspace(0.03, 0.97, max(len(classes), 1)))
    neurons = matplotlib.colormaps["cividis"](np.linspace(0, 0.9, len(content["neurons"])))
    for (mean, single), (state, label) in zip(axes, _LABELS.items(), strict=True):
        values, deviation = content[state], content[f"{state}_deviation"][0]
        steps = np.arange(values.shape[1])
        mean.fill_between(steps, values[0] - deviation, values[0] + deviation, color=GREY, alpha=0.2, linewidth=0)
        for k, colour in zip(classes, colours, strict=False):
            mean.plot(steps, values[k], color=colour, linewidth=0.9, label=as_label(names[k]))
        mean.plot(steps, values[0], color=BLACK, label="all, ± sd of neurons")
        for course, colour in zip(content[f"{state}_example"].T, neurons, strict=True):
            single.plot(steps, course, color=colour, linewidth=0.9)
        mean.set_ylabel(label)
    axes[0, 0].set_title("mean over sequences", fontsize=7, loc="right")
    axes[0, 1].set_title("neurons of one sequence", fontsize=7, loc="right")
    for panel in axes[-1]:
        panel.set_xlabel("step t")
    for panel, text in zip(axes.flat, "abcdef", strict=True):
        letter(panel, text)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure
