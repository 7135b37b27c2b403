"""Curves of runs: learning curves, the figure of `aru demo`, and the sensitivity to perturbations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aru_lab.plots.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    LOOKS,
    NAMES,
    ORANGE,
    SKY,
    VERMILION,
    as_label,
    bars_apart,
    save_picture,
)


@dataclass(frozen=True)
class NeuronCurves:
    """The activation of one neuron at some moments: x and, by the name of the moment, γ(x); all of shape (points,)."""

    title: str
    x: np.ndarray
    moments: dict[str, np.ndarray]


def demo_figure(
    histories: dict[str, list[dict[str, Any]]],
    robustness: dict[str, dict[float, float]],
    neurons: list[NeuronCurves],
    title: str,
    path: Path,
) -> None:
    """Draw the figure of `aru demo` and save it.

    Args:
        histories: by the name of a model, its metrics, one dictionary an epoch.
        robustness: by the name of a model and the amplitude of a step drive, the test accuracy.
        neurons: what is drawn in the panels on the right, one a neuron.
        title: of those panels together.
        path: file to write; its suffix names the format.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.8), layout="constrained", dpi=150)
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.4))
    above, below = left.subfigures(2, 1)
    _learning_curves(above, histories)
    _robustness(below, robustness)
    _neurons(right, neurons, title)
    save_picture(figure, path)


FEW = 4  # runs whose legend has room within the axes


def _colours(n: int) -> list[Any]:
    """A colour for each of n curves, all different."""
    few = [BLUE, ORANGE, GREEN, VERMILION, SKY, BLACK, GREY]
    if n <= len(few):
        return few[:n]
    import matplotlib

    return list(matplotlib.colormaps["turbo"](np.linspace(0.03, 0.97, n)))


def _learning_curves(figure: Any, histories: dict[str, list[dict[str, Any]]], measure: str = "accuracy") -> None:
    axes = figure.subplots()
    lines = []
    for (name, history), colour in zip(histories.items(), _colours(len(histories)), strict=True):
        epochs = [entry["epoch"] for entry in history]
        for part, style in (("validation", "-"), ("train", ":")):
            accuracy = [100 * entry[f"{part}_accuracy"] for entry in history]
            lines += axes.plot(epochs, accuracy, style, color=colour, label=f"{as_label(name)}, {part}")
    axes.set(xlabel="epoch", ylabel=f"{measure} (%)", title="Learning curves")
    axes.set_ylim(0 if measure == "accuracy" else None, 102)
    axes.grid(alpha=0.3)
    if len(histories) <= FEW:
        axes.legend(loc="lower right", frameon=False)
    else:
        axes.set_title("Learning curves: validation solid, training dotted")
        names = [as_label(name) for name in histories]
        figure.legend(lines[::2], names, loc="outside right upper", frameon=False, fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)


def _robustness(figure: Any, accuracies: dict[str, dict[float, float]]) -> None:
    axes = figure.subplots()
    models = zip(accuracies.items(), _colours(len(accuracies)), "osD^v", strict=False)
    for (name, by_amplitude), colour, marker in models:
        values = [100 * accuracy for accuracy in by_amplitude.values()]
        axes.plot(list(by_amplitude), values, "-", marker=marker, markersize=4, color=colour, label=as_label(name))
    axes.set(xlabel="amplitude of the step drive ξ", ylabel="accuracy (%)", title="Test under a step drive")
    axes.set_ylim(0, 102)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower center", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def learning_curves(histories: dict[str, list[dict[str, Any]]], path: Path, measure: str = "accuracy") -> None:
    """Accuracy against epochs, on validation (solid) and training examples (dotted).

    Every run has a colour of its own. The legend of many runs stands beside the axes.

    Args:
        histories: by the name of a run, its metrics, one dictionary an epoch.
        path: file to write; its suffix names the format.
        measure: what the accuracy of the metrics is: "accuracy", "R²", or both where runs differ.
    """
    from matplotlib.figure import Figure

    n = len(histories)
    size = (6.4, 4.2) if n <= FEW else (8.6, max(4.2, 0.6 + 0.19 * n))
    figure = Figure(figsize=size, layout="constrained", dpi=130)
    _learning_curves(figure, histories, measure)
    save_picture(figure, path)


def _neurons(figure: Any, neurons: list[NeuronCurves], title: str) -> None:
    axes = figure.subplots(-(-len(neurons) // 2), 2, squeeze=False)
    styles = ((GREY, "--"), (BLACK, "-"), (VERMILION, "-"))
    for panel, neuron in zip(axes.flat, neurons, strict=False):
        for (moment, curve), (colour, dash) in zip(neuron.moments.items(), styles, strict=False):
            panel.plot(neuron.x, curve, dash, color=colour, label=moment)
        panel.set_title(neuron.title, fontsize="small")
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in axes[-1]:
        panel.set_xlabel("pre-activation x")
    for panel in axes[:, 0]:
        panel.set_ylabel("γ(x; n, s)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(title, fontsize="large")


@dataclass(frozen=True)
class Curve:
    """One model under one sweep: by strength, the (accuracy, loss) of each seed."""

    model: str
    sweep: str
    points: dict[float, list[tuple[float, float]]]


def sensitivity_figure(
    curves: list[Curve], labels: dict[str, str], title: str, path: Path, classes: bool = True
) -> None:
    """Accuracy (above) and loss (below) against strength, a panel a sweep; bars: range of a model's seeds.

    Args:
        curves: what to draw.
        labels: by name of a sweep, the label of its horizontal axis; in the order of the panels.
        title: of the figure.
        path: file to write; its suffix names the format.
        classes: whether classes were predicted; else the accuracy is R² and the loss the mean squared error.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.1 * len(labels), 6.2), layout="constrained", dpi=130)
    panels = figure.subplots(2, len(labels), sharex="col", sharey="row", squeeze=False)
    for column, (sweep, label) in enumerate(labels.items()):
        of_sweep = [curve for curve in curves if curve.sweep == sweep]
        for place, curve in enumerate(of_sweep):
            colour, marker, dash = LOOKS[curve.model]
            strengths = sorted(curve.points)
            for row, scale in ((0, 100), (1, 1)):
                values = [scale * np.array(curve.points[x])[:, row] for x in strengths]
                # of a network that overflows there is nothing to draw
                values = [np.where(np.isfinite(v), v, np.nan) for v in values]
                mean = np.array([v.mean() for v in values])
                lowest, highest = (np.array([end(v) for v in values]) for end in (np.min, np.max))
                look = {"color": colour, "marker": marker, "linestyle": dash, "markersize": 4}
                error = None if max(map(len, values)) == 1 else np.stack([mean - lowest, highest - mean])
                bars_apart(
                    panels[row, column],
                    strengths,
                    mean,
                    error,
                    place,
                    len(of_sweep),
                    label=NAMES[curve.model],
                    **look,
                )
        panels[1, column].set_xlabel(label)
    panels[0, 0].set(ylabel="accuracy (%)" if classes else "R² (%)")
    panels[0, 0].set_ylim(0 if classes else None, 102)
    losses = [loss for curve in curves for scores in curve.points.values() for _, loss in scores]
    drawn = any(0 < loss < math.inf for loss in losses)
    panels[1, 0].set(
        ylabel="cross-entropy (nats)" if classes else "mean squared error", yscale="log" if drawn else "linear"
    )
    for axes in panels.flat:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    handles, names = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    figure.suptitle(f"{as_label(title)}: mean and range over the seeds")
    save_picture(figure, path)
