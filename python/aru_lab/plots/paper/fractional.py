"""Figure 4: courses of n and s under steps, and the order of the responses."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from aru_lab.analysis.responses import CONNECTIVITY
from aru_lab.plots.paper.measured import LONGER, MAIN, Arrays, Measured, common, needed
from aru_lab.plots.style import (
    DARK,
    GREY,
    MODELS,
    PAGE,
    PURPLE,
    amplitude_bar,
    amplitude_colours,
    bars_apart,
    blank,
    drive_scale,
    letter,
    new_figure,
    shade,
)

OF_THE_FIGURE = 20.0  # the amplitude of panels b and c; where it was not measured, the largest one
_SIGNS = (("> 0", PURPLE, "-"), ("≤ 0", DARK, "--"))


def responses(measured: Measured) -> Any:
    """n and s under steps (a), orders in the network (b) and isolated (c), and against the amplitude (d)."""
    models = ("arun", "gamma-heterogeneous", "gamma-homogeneous")
    adaptation = measured.files("adaptation", "arun")
    pairs = [pair for model in models for pair in pairs_of(measured, MAIN, model)]
    if not pairs and not adaptation:
        raise needed("4", "run with these analyses", "adaptation", "fractional")
    figure = new_figure(4.4, PAGE)
    first, *others, last = figure.subfigures(1, 4, width_ratios=(1.25, 1, 1, 1))
    gains, saturations = first.subplots(2, 1)
    _courses(first, gains, saturations, adaptation)
    letter(gains, "a")
    for c, (part, text, where) in enumerate(zip(others, "bc", CONNECTIVITY, strict=True)):
        panels = part.subplots(3, 1)
        if pairs:
            _by_sign(panels, *pairs[0], c, where)
        else:
            for panel in panels:
                blank(panel)
        letter(panels[0], text)
    against = last.subplots()
    _against(against, measured)
    letter(against, "d")
    return figure


def pairs_of(measured: Measured, group: str, model: str = "arun") -> list[tuple[Arrays, Arrays]]:
    """(responses, fractional) of every run that has both."""
    runs = [run for run in measured.runs.get(group, ()) if run.model == model and run.has("responses", "fractional")]
    return [(run.load("responses"), run.load("fractional")) for run in runs]


def _courses(figure: Any, gains: Any, saturations: Any, files: list[Arrays]) -> None:
    """Mean n_t and s_t of the first network that reads its task under steps."""
    if not files:
        for panel in (gains, saturations):
            blank(panel)
        return
    content = files[0]
    chosen = some(len(content["amplitudes"]), 7)
    for panel, name in ((gains, "n"), (saturations, "s")):
        shade(panel, int(content["onset"]), int(content["end"]))
        for i, colour in zip(chosen, amplitude_colours(chosen), strict=True):
            panel.plot(content[name][i], color=colour, linewidth=0.9, label=f"{content['amplitudes'][i]:g}")
        panel.set(ylabel=f"mean {name}$_t$")
    gains.tick_params(labelbottom=False)
    saturations.set(xlabel="step t")
    amplitude_bar(figure, [gains, saturations], content["amplitudes"][chosen], "amplitude ξ of the step", 60)


def _by_sign(panels: Any, responses: Arrays, orders: Arrays, c: int, where: str) -> None:
    """Distribution of α over neurons, and the mean response of neurons with α > 0 and of the others."""
    top, *traces = panels
    amplitudes = orders["amplitudes"]
    i = int(np.flatnonzero(np.isclose(amplitudes, OF_THE_FIGURE))[0]) if (amplitudes == OF_THE_FIGURE).any() else -1
    alpha = orders["order"][c, i]
    top.hist(alpha, np.linspace(-1, 1, 26), density=True, color=GREY, edgecolor=DARK, linewidth=0.4)
    top.axvline(orders["order_of_mean"][c, i], color=MODELS["arun"][1], linewidth=1.4)
    top.set(xlabel="order α", ylabel="density")
    top.set_title(f"{where}, ξ = {amplitudes[i]:g}", fontsize=7, loc="right")
    above = alpha > 0
    at = int(np.flatnonzero(np.isclose(responses["amplitudes"], amplitudes[i]))[0])
    for panel, chosen, (sign, colour, dash) in zip(traces, (above, ~above), _SIGNS, strict=True):
        shade(panel, int(responses["onset"]), int(responses["end"]))
        if chosen.any():
            panel.plot(responses[f"h_{where}"][at][:, chosen].mean(1), dash, color=colour, linewidth=1)
        panel.set_title(f"α {sign}: {chosen.sum()} neurons", fontsize=7, loc="right")
        panel.set_ylabel("mean h$_t$")
    traces[0].tick_params(labelbottom=False)
    traces[-1].set_xlabel("step t")


def _against(axes: Any, measured: Measured) -> None:
    """α of the mean response of isolated neurons against the amplitude, by task; bars: 95% interval over seeds."""
    series = [
        (f"ARUN, {measured.tasks.get(MAIN, MAIN)}", "arun", MAIN, "full"),
        ("ARUN, sCIFAR10", "arun", LONGER, "none"),
        ("RNN+γ het.", "gamma-heterogeneous", MAIN, "none"),
        ("RNN+γ hom.", "gamma-homogeneous", MAIN, "none"),
    ]
    found = [
        (text, model, group, fill, files)
        for text, model, group, fill in series
        if (files := measured.files("fractional", model, group=group))
    ]
    if not found:
        blank(axes)
        return
    for place, (text, model, group, fill, files) in enumerate(found):
        amplitudes = common("amplitudes", files)
        values = np.array([of["order_of_mean"][CONNECTIVITY.index("isolated")] for of in files])
        interval = None
        if len(values) > 1:
            t = stats.t.ppf(0.975, len(values) - 1)
            interval = t * values.std(0, ddof=1) / np.sqrt(len(values))
        _, colour, marker = MODELS[model]
        label = f"{text}, N = {len(files)}"
        look = {"color": colour, "marker": marker, "fillstyle": fill, "linestyle": "-" if group == MAIN else "--"}
        bars_apart(axes, amplitudes, values.mean(0), interval, place, len(found), label=label, **look)
    drive_scale(axes, amplitudes)
    axes.axhline(0, color=GREY, linewidth=0.7, zorder=0)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -1.05), min(high, 1.05))  # with two seeds an interval exceeds the range of orders
    axes.set(xlabel="amplitude ξ", ylabel="order α of the mean response, isolated")
    handles, labels = axes.get_legend_handles_labels()
    axes.figure.legend(handles, labels, loc="outside lower center", ncols=1)


def some(count: int, most: int) -> list[int]:
    """At most `most` of `count` indices, evenly spread, both ends among them."""
    return sorted(set(np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()))
