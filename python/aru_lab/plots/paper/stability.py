"""Figure 6: stability."""

from __future__ import annotations

from typing import Any

import numpy as np

from aru_lab.plots.paper.analysed import Analysed, by_model, common
from aru_lab.plots.style import (
    BLACK,
    DARK,
    GREY,
    LOOKS,
    MODELS,
    PURPLE,
    amplitude_bar,
    amplitude_colours,
    bars_apart,
    drive_scale,
    letter,
    line_with_spread,
    new_figure,
)

# Looks of an ARUN's kinds. No other model has these colours.
_KINDS = {
    "adaptive": ("ARUN, n and s as driven", MODELS["arun"][1], "o", "-"),
    "fixed": ("ARUN, n and s at rest", PURPLE, "x", "--"),
    "joint": ("ARUN, joint state", GREY, "d", ":"),
}


def stability(runs: list[Analysed]) -> Any:
    """Norm of the Jacobian, Proposition 1's boundary and path, and Lyapunov exponents."""
    figure = new_figure(7.0)
    panels = figure.subplot_mosaic([["a", "b"], ["c", "c"], ["d", "d"]])
    norms, visited, exponents, course = panels.values()
    example = next((run for run in runs if run.model == "arun"), runs[0])
    content = example.load("stability")
    mesh = norms.pcolormesh(
        content["gains"], content["saturations"], content["norm"].T, cmap="cividis", rasterized=True
    )
    figure.colorbar(mesh, ax=norms, pad=0.02, label="mean norm of the Jacobian")
    lines = norms.contour(content["gains"], content["saturations"], content["norm"].T, levels=[1.0], colors="white")
    norms.clabel(lines, fmt="1", fontsize=7)
    norms.set(xlabel="gain n", ylabel="saturation s")

    _visited(figure, visited, content, example.load("adaptation"))
    groups = by_model(runs)
    series = [
        (model, i, str(kind))
        for model, group in groups.items()
        for i, kind in enumerate(group[0].load("lyapunov")["kinds"])
    ]
    for place, (model, i, kind) in enumerate(series):
        files = [run.load("lyapunov") for run in groups[model]]
        drives = common("amplitudes", files)
        name, colour, marker = MODELS[model]
        text, colour, marker, dash = _KINDS.get(kind, (name, colour, marker, LOOKS[model][2]))
        look = {"color": colour, "marker": marker, "linestyle": dash, "label": text}
        curves = [f["exponents"][i, :, 0] for f in files]
        if len(curves) == 1:
            bars_apart(exponents, drives, curves[0], files[0]["error"][i, :, 0], place, len(series), **look)
        else:
            line_with_spread(exponents, drives, curves, place, len(series), **look)
    drive_scale(exponents, drives)
    exponents.set(xlabel="amplitude ξ of the step", ylabel="largest exponent λ (nats/step)")
    exponents.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderpad=0)

    _course(course, example)
    for panel in (exponents, course):
        panel.axhline(0, color=GREY, linewidth=0.7)
    for (text, panel), paper in zip(panels.items(), ("6A", "5b", "5d", "5c"), strict=True):
        letter(panel, text, paper)
    return figure


def _visited(figure: Any, axes: Any, content: dict[str, np.ndarray], adaptation: dict[str, np.ndarray]) -> None:
    """(n, s) under each step, among those boundaries that lie within the axes; the legend is below them."""
    xi, steady, onset = content["amplitudes"], content["steady_shape"], content["onset_shape"]
    driven = slice(int(adaptation["onset"]), int(adaptation["end"]))
    for i, colour in enumerate(amplitude_colours(xi)):
        axes.plot(adaptation["n"][i, driven], adaptation["s"][i, driven], color=colour, linewidth=0.7, alpha=0.7)
        look = {"color": colour, "markeredgecolor": BLACK, "markeredgewidth": 0.5, "alpha": 0.8, "zorder": 3}
        axes.plot(*onset[i], "^", **look)
        axes.plot(*steady[i], "s", **look)
    axes.plot(*content["path"].T, "-.", color=DARK, linewidth=1, zorder=2)
    axes.autoscale_view()
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    gains, crossing = content["boundary_gains"], []
    for i, colour in enumerate(amplitude_colours(xi)):
        for edge in content["boundary"][i]:
            n = np.linspace(left, right, 200)
            values = np.interp(n, gains, edge, left=np.nan, right=np.nan)
            if ((low <= values) & (values <= high)).any():
                axes.plot(n, values, "--", color=colour, linewidth=0.8)
                crossing.append(f"{xi[i]:g}")
    axes.set(xlim=(left, right), ylim=(low, high), xlabel="gain n", ylabel="saturation s")
    amplitude_bar(figure, axes, xi, "step ξ")
    crossing = list(dict.fromkeys(crossing))
    entries = [
        ("^", GREY, "onset"),
        ("s", GREY, "settled"),
        ("-.", DARK, "Prop. 1"),
        ("--", GREY, f"boundary ({len(crossing)} of {len(xi)} ξ)"),
    ]
    handles = [
        axes.plot([], [], mark, color=colour, markeredgecolor=BLACK, label=text)[0]
        for mark, colour, text in (entries if crossing else entries[:3])
    ]
    axes.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.3),
        ncols=2,
        columnspacing=0.8,
        handletextpad=0.4,
        labelspacing=0.2,
        title=None if crossing else "no boundary within the axes",
        title_fontsize=7,
    )


def _course(axes: Any, example: Analysed) -> None:
    """The largest exponent against the time from onset, at some amplitudes; bars: deviation over the starts."""
    content = example.load("lyapunov")
    xi, values = content["amplitudes"], content["course"]
    chosen = [i for i, x in enumerate(xi) if x in (0, 1, 5, 30)]
    chosen = chosen if len(chosen) > 2 else list(range(len(xi)))
    marks = "osD^vPX*"
    for place, (i, colour) in enumerate(zip(chosen, amplitude_colours(chosen), strict=True)):
        look = {"color": colour, "marker": marks[place % len(marks)], "label": f"ξ = {xi[i]:g}"}
        spread = values[i].std(-1, ddof=1) if values.shape[-1] > 1 else None
        bars_apart(axes, content["times"], values[i].mean(-1), spread, place, len(chosen), **look)
    axes.set(xlabel=f"steps from the onset, {MODELS[example.model][0]}", ylabel="largest exponent λ (nats/step)")
    axes.set_xticks(content["times"])
    axes.margins(x=0.06)
    axes.legend(
        loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(chosen), columnspacing=1, handletextpad=0.4, borderpad=0
    )
