"""Figure 5: the controller, n and s under steps, Lyapunov exponents, and eigenvalues of W_hh."""

from __future__ import annotations

from typing import Any

import numpy as np

from aru_lab.plots.paper.measured import Arrays, Measured, common, needed
from aru_lab.plots.style import (
    BLACK,
    DARK,
    GREY,
    LOOKS,
    MODELS,
    PAGE,
    PURPLE,
    amplitude_bar,
    amplitude_colours,
    bars_apart,
    blank,
    drive_scale,
    letter,
    line_with_spread,
    new_figure,
)

STILL = 1e-3  # a controller that moves by more than this in its last step has not settled
_KINDS = {"fixed": "ARUN at rest", "joint": "ARUN, joint state"}
# Looks of an ARUN's other kinds. No model has these colours.
_OTHER = {"fixed": (PURPLE, "x", "--"), "joint": (GREY, "d", ":")}
_COURSES = (0.0, 1.0, 5.0, 30.0)  # the paper's amplitudes of panel c


PARTS = ("controller", "adaptation", "stability", "lyapunov", "spectrum")


def stability(measured: Measured) -> Any:
    """Components of the controller (a), n and s (b), exponents (c, d), eigenvalues of W_hh (e)."""
    parts = {part: measured.files(part, "arun") for part in ("controller", "stability", "lyapunov")}
    exponents = {model: measured.files("lyapunov", model) for model in MODELS if model not in ("lstm", "gru")}
    exponents = {model: files for model, files in exponents.items() if files}
    spectra = {model: files[0] for model in MODELS if (files := measured.files("spectrum", model))}
    if not any(parts.values()) and not exponents and not spectra:
        raise needed("5", "run with these analyses", *PARTS)
    figure = new_figure(7.6, PAGE)
    upper, lower = figure.subfigures(2, 1, height_ratios=(2.2, 1))
    panels = upper.subplot_mosaic([["a", "b"], ["c", "d"]])
    draw_or_blank(panels["a"], parts["controller"], _plane, upper)
    draw_or_blank(panels["b"], parts["stability"], _visited, upper, measured.files("adaptation", "arun"))
    draw_or_blank(panels["c"], parts["lyapunov"], _course)
    _exponents(panels["d"], exponents)
    for name, panel in panels.items():
        letter(panel, name)
    _spectra(lower, spectra)
    return figure


def draw_or_blank(axes: Any, files: list[Arrays], drawing: Any, *more: Any) -> None:
    """Call drawing(axes, first file, ...), or mark the panel as not measured."""
    if files:
        drawing(axes, files[0], *more)
    else:
        blank(axes)


def _plane(axes: Any, content: Arrays, figure: Any) -> None:
    """The controller's states on two principal components; hollow squares are means of what still moves."""
    inputs, moving = content["inputs"], content["speed"].max(1) > STILL
    shown = np.flatnonzero(inputs >= 0)
    scores = content["scores"]
    second = min(1, scores.shape[-1] - 1)
    last = scores.shape[1] - max(1, scores.shape[1] // 4)
    for i, colour in zip(shown, amplitude_colours(inputs[shown]), strict=True):
        # An orbit would cover the rest: only its way there is a line.
        cut = last if moving[i] else scores.shape[1]
        axes.plot(scores[i, :cut, 0], scores[i, :cut, second], color=colour, linewidth=0.4 if moving[i] else 0.9)
        axes.plot(scores[i, 0, 0], scores[i, 0, second], "^", color=colour, markeredgecolor=BLACK, markeredgewidth=0.5)
        face = {"markerfacecolor": "white", "markeredgecolor": colour} if moving[i] else {"markeredgecolor": BLACK}
        end = content["steady_scores"][i, [0, second]] if moving[i] else scores[i, -1, [0, second]]
        axes.plot(*end, "s", color=colour, markeredgewidth=1 if moving[i] else 0.5, zorder=3, **face)
    percent = 100 * content["explained"]
    axes.set(xlabel=f"PC 1 ({percent[0]:.0f}%)", ylabel=f"PC 2 ({percent[second]:.0f}%)")
    explained = 100 * float(content["curve_explained"])
    said = f"a curve explains {explained:.0f}% of final states" if np.isfinite(explained) else ""
    if moving.any():
        said += f"\nhollow: {moving.sum()} of {len(moving)} still move"
    axes.set_title(said, fontsize=7, loc="right")
    amplitude_bar(figure, axes, inputs[shown], "constant input a")


def _visited(axes: Any, content: Arrays, figure: Any, adaptation: list[Arrays]) -> None:
    """(n, s) under each step from the onset (triangle) to rest (square), and the boundaries within the axes."""
    xi, steady, onset = content["amplitudes"], content["steady_shape"], content["onset_shape"]
    colours = amplitude_colours(xi)
    for i, colour in enumerate(colours):
        if adaptation:
            driven = slice(int(adaptation[0]["onset"]), int(adaptation[0]["end"]))
            axes.plot(adaptation[0]["n"][i, driven], adaptation[0]["s"][i, driven], color=colour, linewidth=0.7)
        look = {"color": colour, "markeredgecolor": BLACK, "markeredgewidth": 0.5, "zorder": 3}
        axes.plot(*onset[i], "^", **look)
        axes.plot(*steady[i], "s", **look)
    axes.plot(*content["path"].T, "-.", color=DARK, linewidth=1, zorder=2)
    axes.autoscale_view()
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    n, crossing = np.linspace(left, right, 200), set()
    for i, colour in enumerate(colours):
        for edge in content["boundary"][i]:
            values = np.interp(n, content["boundary_gains"], edge, left=np.nan, right=np.nan)
            if ((low <= values) & (values <= high)).any():
                axes.plot(n, values, "--", color=colour, linewidth=0.8)
                crossing.add(i)
    axes.set(xlim=(left, right), ylim=(low, high), xlabel="gain n", ylabel="saturation s")
    amplitude_bar(figure, axes, xi, "step ξ")
    said = f"boundaries of {len(crossing)} of {len(xi)} ξ" if crossing else "no boundary within the axes"
    axes.set_title(said, fontsize=7, loc="right")


def _course(axes: Any, content: Arrays) -> None:
    """λ1 of the ARUN against the time from the onset; bars: deviation over the starts."""
    xi, values = content["amplitudes"], content["course"]
    chosen = [i for i, x in enumerate(xi) if x in _COURSES]
    chosen = chosen if len(chosen) > 2 else list(range(len(xi)))
    marks = "osD^vPX*"
    for place, (i, colour) in enumerate(zip(chosen, amplitude_colours(chosen), strict=True)):
        look = {"color": colour, "marker": marks[place % len(marks)], "label": f"ξ = {xi[i]:g}"}
        spread = values[i].std(-1, ddof=1) if values.shape[-1] > 1 else None
        bars_apart(axes, content["times"], values[i].mean(-1), spread, place, len(chosen), **look)
    axes.set(xlabel="steps from the onset", ylabel="λ$_1$ of the ARUN (nats/step)")
    axes.set_xticks(content["times"])
    axes.margins(x=0.06)
    axes.axhline(0, color=GREY, linewidth=0.7, zorder=0)
    above = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "borderpad": 0}
    axes.legend(ncols=-(-len(chosen) // 2), columnspacing=0.8, handletextpad=0.3, **above)


def _exponents(axes: Any, files: dict[str, list[Arrays]]) -> None:
    """λ1 against the amplitude; bars: deviation over seeds, or over the starts of a single network."""
    series = [(model, i, str(kind)) for model, of in files.items() for i, kind in enumerate(of[0]["kinds"])]
    if not series:
        blank(axes)
        return
    for place, (model, i, kind) in enumerate(series):
        drives = common("amplitudes", files[model])
        name, colour, marker = MODELS[model]
        colour, marker, dash = _OTHER.get(kind, (colour, marker, LOOKS[model][2]))
        look = {"color": colour, "marker": marker, "linestyle": dash, "label": _KINDS.get(kind, name)}
        curves = [
            np.where(np.isfinite(of["exponents"][i, :, 0]), of["exponents"][i, :, 0], np.nan) for of in files[model]
        ]
        if len(curves) == 1:
            bars_apart(axes, drives, curves[0], files[model][0]["error"][i, :, 0], place, len(series), **look)
        else:
            line_with_spread(axes, drives, curves, place, len(series), **look)
    drive_scale(axes, drives)
    axes.axhline(0, color=GREY, linewidth=0.7, zorder=0)
    axes.set(xlabel="amplitude ξ of the step", ylabel="λ$_1$ (nats/step)")
    above = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "borderpad": 0}
    axes.legend(ncols=2, columnspacing=0.8, handletextpad=0.3, **above)


def _spectra(figure: Any, spectra: dict[str, Arrays]) -> None:
    """Eigenvalues of W_hh before training, which are those of fresh Henaff matrices, and after it."""
    panels = figure.subplots(1, max(1, len(spectra)), squeeze=False)[0]
    letter(panels[0], "e")
    if not spectra:
        blank(panels[0])
        return
    circle = np.exp(2j * np.pi * np.linspace(0, 1, 200))
    limit = 1.1 * max(1.0, *(np.abs(of[when]).max() for of in spectra.values() for when in ("before", "after")))
    for panel, (model, of) in zip(panels, spectra.items(), strict=True):
        name, colour, marker = MODELS[model]
        panel.plot(circle.real, circle.imag, color=GREY, linewidth=0.7)
        ring = {"markersize": 3, "fillstyle": "none", "markeredgewidth": 0.7}  # a ring hides no dot
        panel.plot(of["after"].real, of["after"].imag, marker, color=colour, label="trained", **ring)
        panel.plot(of["before"].real, of["before"].imag, ".", color=DARK, markersize=1.5, label="fresh Henaff")
        panel.set_aspect("equal")
        panel.set(xlim=(-limit, limit), ylim=(-limit, limit), xlabel="Re λ(W$_{hh}$)")
        panel.set_title(name, fontsize=7, loc="right")
        panel.tick_params(labelleft=panel is panels[0])
    panels[0].set_ylabel("Im λ(W$_{hh}$)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
