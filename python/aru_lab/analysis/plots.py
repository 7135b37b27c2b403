"""The figures: each draws from the files of `aru analyse` alone; 1 draws γ itself, 2 what `aru robustness` has kept.

A figure is one entry of FIGURES. Runs of one model are its seeds: curves against an amplitude are means with a band of
one standard deviation; panels of single neurons or trajectories show the first run that has them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aru_kernels.functional import gamma
from aru_lab.analysis.drawing import (
    MODELS,
    amplitude_bar,
    amplitude_colours,
    drive_scale,
    letter,
    line_with_spread,
    new_figure,
    save,
    shade,
    style,
)
from aru_lab.analysis.gain_scaling import CURVES
from aru_lab.arguments import check_choice
from aru_lab.errors import ConfigError
from aru_lab.figures import BLACK, BLUE, GREY, ORANGE, VERMILION
from aru_lab.runs.analyses import AnalysisFolder
from aru_lab.runs.folder import RunFolder
from aru_lab.runs.sensitivity import LABELS, kept_sweeps


@dataclass(frozen=True)
class Analysed:
    """The files of one run and the names of its model and task."""

    files: AnalysisFolder
    model: str
    task: str

    def load(self, part: str) -> dict[str, np.ndarray]:
        """The arrays of a part."""
        return self.files.load(part)


def draw(number: str, runs: Sequence[Path], output: Path) -> list[Path]:
    """Draw a figure and save it as PNG and PDF.

    Args:
        number: a name in FIGURES.
        runs: folders of analysed runs; figure 1 needs none.
        output: folder of the files.

    Returns:
        The two files.

    Raises:
        ConfigError: an unknown figure, no runs, none of a model that the figure shows, or runs of several tasks.
        RunError: a folder holds no run, or an analysis is missing; the sentence has the command that makes it.
    """
    check_choice("number", number, tuple(FIGURES))
    drawing, models = FIGURES[number]
    found = [_open(path) for path in map(Path, runs)]
    shown = [run for run in found if run.model in models]
    if models and not shown:
        came = ", ".join(sorted({run.model for run in found})) or "no runs"
        raise ConfigError(f"runs: got {came}, expected at least one run of {', '.join(models)} for figure {number}.")
    if len(tasks := {run.task for run in shown}) > 1:
        raise ConfigError(f"runs: got runs of {' and '.join(sorted(tasks))}, expected one task in a figure.")
    with style():
        return save(drawing(shown), output, f"figure-{number}")


def _open(path: Path) -> Analysed:
    config, _ = RunFolder(path).read_config()
    return Analysed(AnalysisFolder(path), config.model, config.task)


def _activations(_: list[Analysed]) -> Any:
    figure = new_figure(2.1)
    axes = figure.subplots(1, 2, sharey=True)
    x = torch.linspace(-2, 2, 401, dtype=torch.float64)
    panels = (
        ("a", "n", (1.0, 2.0, 5.0, 20.0), lambda n: (n, 0.0), "gain n, with s = 0"),
        ("b", "s", (0.0, 0.25, 0.5, 0.75, 1.0), lambda s: (5.0, s), "saturation s, with n = 5"),
    )
    for panel, (name, symbol, values, shape, title) in zip(axes, panels, strict=True):
        for value, colour in zip(values, amplitude_colours(values), strict=True):
            panel.plot(x, gamma(x, *shape(value)), color=colour, label=f"{symbol} = {value:g}")
        panel.set(xlabel="input current x", title=title)
        panel.legend(loc="upper left", borderpad=0)
        letter(panel, name)
    axes[0].set_ylabel("γ(x; n, s)")
    return figure


def _robustness(runs: list[Analysed]) -> Any:
    figure = new_figure(3.9)
    axes = figure.subplots(2, 3, sharey=True)
    loaded = {model: [kept_sweeps(run.files.run) for run in group] for model, group in _by_model(runs).items()}
    panels = iter(axes.flat)
    for name in LABELS:
        panel, label = next(panels), None
        for model, kept in loaded.items():
            sweeps = [sweeps[name] for sweeps in kept if name in sweeps]
            if not sweeps:
                continue
            label = label or sweeps[0].label
            points = {(sweep.label, tuple((x, score.n) for x, score in sweep.scores.items())) for sweep in sweeps}
            if len(sweeps) < len(kept) or len(points) > 1 or sweeps[0].label != label:
                raise ConfigError(
                    f"runs: got sensitivities to other strengths or on other numbers of test examples ({name}), "
                    "expected the same; give all runs to one `aru robustness`."
                )
            text, colour, marker = MODELS[model]
            curves = [100 * np.array([score.accuracy for score in sweep.scores.values()]) for sweep in sweeps]
            line_with_spread(panel, list(sweeps[0].scores), curves, color=colour, marker=marker, label=text)
        if label is None:
            panel.text(0.5, 0.5, "not measured", ha="center", va="center", transform=panel.transAxes)
        head, _, tail = (label or LABELS[name].format(math.nan)).rpartition(": ")
        panel.set_xlabel(tail)
        panel.set_title(head, fontsize=7, loc="right")
    last = next(panels)
    last.axis("off")
    last.legend(*axes[0, 0].get_legend_handles_labels(), loc="center")
    axes[0, 0].set_ylim(0, 102)
    for row in axes:
        row[0].set_ylabel("accuracy (%)")
    for panel, text in zip(axes.flat, "abcde", strict=False):
        letter(panel, text)
    return figure


def _fractional(runs: list[Analysed]) -> Any:
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

    for model, group in _by_model(runs).items():
        files = [run.load("fractional") for run in group]
        amplitudes = _common("amplitudes", files)
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


def _gain_scaling(runs: list[Analysed]) -> Any:
    figure = new_figure(4.2)
    axes = figure.subplots(2, 2, gridspec_kw={"height_ratios": (1.25, 1)})
    files = [run.load("gain-scaling") for run in runs]
    xi = _common("amplitudes", files)
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


def _controller(runs: list[Analysed]) -> Any:
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


def _stability(runs: list[Analysed]) -> Any:
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
    for model, group in _by_model(runs).items():
        files = [run.load("lyapunov") for run in group]
        drives = _common("amplitudes", files)
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


def _appendix(runs: list[Analysed]) -> Any:
    figure = new_figure(6.4)
    axes = figure.subplots(3, 2)
    groups = _by_model(runs)
    gradient, each = axes[0]
    for model, group in groups.items():
        files = [run.load("gradients") for run in group]
        text, colour, _ = MODELS[model]
        for panel, name in ((gradient, "accumulated"), (each, "each")):
            for when, dash in (("before", ":"), ("after", "-")):
                curves = _equally_long([f[f"{name}_{when}"] for f in files])
                mean = np.exp(np.log(np.where(curves > 0, curves, np.nan)).mean(0))  # 0 has no place on a log axis
                panel.plot(mean, dash, color=colour, label=text if when == "after" else None)
    gradient.set(ylabel="norm from position t on")
    each.set(ylabel="norm of the term at t")
    for panel in (gradient, each):
        panel.set(xlabel="position t in the sequence", yscale="log")
    gradient.set_title("dotted: before training", fontsize=7, loc="right")
    figure.legend(*gradient.get_legend_handles_labels(), loc="outside lower center", ncols=len(groups))

    circle = np.exp(2j * np.pi * np.linspace(0, 1, 200))
    for panel, when in zip(axes[1], ("before", "after"), strict=True):
        panel.plot(circle.real, circle.imag, color=GREY, linewidth=0.7)
        for model, group in groups.items():
            values = group[0].load("spectrum")[when]
            _, colour, marker = MODELS[model]
            panel.plot(values.real, values.imag, marker, color=colour, markersize=2.5, fillstyle="none")
        panel.set_aspect("equal")
        panel.set(xlabel="Re λ(W$_{hh}$)", ylabel="Im λ(W$_{hh}$)", title=f"{when} training")
    limit = max(max(map(abs, (*panel.get_xlim(), *panel.get_ylim()))) for panel in axes[1])
    for panel in axes[1]:
        panel.set(xlim=(-limit, limit), ylim=(-limit, limit))

    with_gamma = [run for run in runs if run.model == "arun" or run.model.startswith("gamma")]
    for panel, wanted in zip(axes[2], ("arun", "gamma-heterogeneous"), strict=True):
        run = next((run for run in with_gamma if run.model == wanted), None)
        if run is None:
            panel.axis("off")
            continue
        content = run.load("heterogeneity")
        marks = {"before": (GREY, "."), "after": (BLACK, "o"), "retrained": (ORANGE, "x")}
        for when in content["moments"]:
            colour, mark = marks[str(when)]
            n, s = content[f"n_{when}"], content[f"s_{when}"]
            panel.plot(
                n,
                s,
                mark,
                color=colour,
                markersize=3,
                alpha=0.7,
                label=f"{when} training" if when != "retrained" else when,
            )
        panel.set(xlabel="gain n", ylabel="saturation s", title=MODELS[wanted][0])
        if panel is axes[2, 0] or not axes[2, 0].axison:
            panel.legend(borderpad=0)
    for panel, text in zip(axes.flat, "abcdef", strict=True):
        if panel.axison:
            letter(panel, text)
    return figure


def _by_model(runs: Iterable[Analysed]) -> dict[str, list[Analysed]]:
    """The runs of every model, models in the order of MODELS."""
    groups = {model: [run for run in runs if run.model == model] for model in MODELS}
    return {model: group for model, group in groups.items() if group}


def _common(name: str, files: Sequence[dict[str, np.ndarray]]) -> np.ndarray:
    """The array that all files share.

    Raises:
        ConfigError: it differs between them.
    """
    first = files[0][name]
    if any(not np.array_equal(first, content[name]) for content in files):
        raise ConfigError(f"runs: got analyses with different {name}, expected the same; give `aru analyse` the same.")
    return first


def _equally_long(curves: Sequence[np.ndarray]) -> np.ndarray:
    if len({len(curve) for curve in curves}) > 1:
        raise ConfigError("runs: got runs of one model on sequences of different lengths, expected one task.")
    return np.stack(list(curves))


def _some(count: int, most: int) -> list[int]:
    """At most `most` of `count` indices, evenly spread, both ends among them."""
    return sorted(set(np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()))


def _least(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    i = int(np.argmin(y))
    return float(x[i]), float(y[i])


_GAMMA = ("arun", "gamma-heterogeneous", "gamma-homogeneous")

# what draws the figure, and the models that it shows (none: it needs no runs)
FIGURES: dict[str, tuple[Callable[[list[Analysed]], Any], tuple[str, ...]]] = {
    "1": (_activations, ()),
    "2": (_robustness, tuple(MODELS)),
    "3": (_fractional, _GAMMA),
    "4": (_gain_scaling, ("arun",)),
    "5": (_controller, ("arun",)),
    "6": (_stability, _GAMMA),
    "appendix": (_appendix, ("arun", "gamma-heterogeneous", "gamma-homogeneous", "relu")),
}
