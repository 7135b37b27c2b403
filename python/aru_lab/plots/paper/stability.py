"""Figure 6: stability."""

from __future__ import annotations

from typing import Any

import numpy as np

from aru_lab.plots.paper.analysed import Analysed, by_model, common
from aru_lab.plots.style import (
    BLACK,
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
)


def stability(runs: list[Analysed]) -> Any:
    """Norm of the Jacobian, Proposition 1's boundary and path, and Lyapunov exponents."""
    figure = new_figure(4.8)
    panels = figure.subplot_mosaic([["a", "b"], ["c", "c"]])
    norms, visited, exponents = panels.values()
    example = next((run for run in runs if run.model == "arun"), runs[0])
    content = example.load("stability")
    mesh = norms.pcolormesh(
        content["gains"], content["saturations"], content["norm"].T, cmap="cividis", rasterized=True
    )
    figure.colorbar(mesh, ax=norms, pad=0.02, label="mean norm of the Jacobian")
    lines = norms.contour(content["gains"], content["saturations"], content["norm"].T, levels=[1.0], colors="white")
    norms.clabel(lines, fmt="1", fontsize=7)
    norms.set(xlabel="gain n", ylabel="saturation s")

    xi, steady, onset = content["amplitudes"], content["steady_shape"], content["onset_shape"]
    colours = amplitude_colours(xi)
    for i, colour in enumerate(colours):
        for edge in content["boundary"][i]:
            visited.plot(content["boundary_gains"], edge, "--", color=colour, linewidth=0.8)
        visited.plot(*onset[i], "^", color=colour, markeredgecolor=BLACK, markeredgewidth=0.5, zorder=3)
        visited.plot(*steady[i], "s", color=colour, markeredgecolor=BLACK, markeredgewidth=0.5, zorder=3)
    visited.plot(*content["path"].T, color=VERMILION, linewidth=1, zorder=2)
    points = np.concatenate([steady, onset, content["path"][np.isfinite(content["path"]).all(1)]])
    for set_limits, values in ((visited.set_xlim, points[:, 0]), (visited.set_ylim, points[:, 1])):
        margin = 0.15 * np.ptp(values) + 1e-3
        set_limits(values.min() - margin, values.max() + margin)
    visited.set(xlabel="gain n", ylabel="saturation s")
    amplitude_bar(figure, visited, xi, "step ξ")
    handles = [
        visited.plot([], [], mark, color=colour, markeredgecolor=edge, label=text)[0]
        for mark, colour, edge, text in (
            ("^", GREY, BLACK, "onset"),
            ("s", GREY, BLACK, "steady"),
            ("--", GREY, GREY, "γ'σ = 1"),
            ("-", VERMILION, VERMILION, "Prop. 1"),
        )
    ]
    legend = visited.legend(handles=handles, loc="best", borderpad=0.2, labelspacing=0.2, handletextpad=0.5)
    legend.get_frame().set(visible=True, facecolor="white", edgecolor="none", alpha=0.85)

    names = {"adaptive": ("ARUN, n and s as driven", VERMILION, "o"), "fixed": ("ARUN, n and s at rest", BLACK, "x")}
    names |= {"joint": ("ARUN, joint state", ORANGE, "d")}
    for model, group in by_model(runs).items():
        files = [run.load("lyapunov") for run in group]
        drives = common("amplitudes", files)
        for i, kind in enumerate(files[0]["kinds"]):
            text, colour, marker = names.get(str(kind), MODELS[model])
            curves = [f["exponents"][i, :, 0] for f in files]
            if len(curves) == 1:
                error = files[0]["error"][i, :, 0]
                exponents.errorbar(drives, curves[0], error, color=colour, marker=marker, label=text, elinewidth=0.8)
            else:
                line_with_spread(exponents, drives, curves, color=colour, marker=marker, label=text)
    exponents.axhline(0, color=GREY, linewidth=0.7)
    drive_scale(exponents, drives)
    exponents.set(xlabel="constant drive ξ", ylabel="largest exponent λ (nats/step)")
    figure.legend(*exponents.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    for text, panel in panels.items():
        letter(panel, text)
    return figure
