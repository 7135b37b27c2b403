"""Figures 13 to 16: loss and accuracy over two strengths of a perturbation at once."""

from __future__ import annotations

from typing import Any

import numpy as np

from aru_lab.plots.paper.measured import CONVOLUTIONAL, LINEAR, MAIN, Measured, needed
from aru_lab.plots.paper.robustness import check_equal
from aru_lab.plots.style import MODELS, PAGE, letter, new_figure, plain_log

# By figure: the groups, the first of which that was measured is drawn, and the sweep.
GRIDS = {
    "13": ((MAIN,), "contrast grid"),
    "14": ((MAIN,), "step grid"),
    "15": ((LINEAR, CONVOLUTIONAL), "contrast grid"),
    "16": ((LINEAR, CONVOLUTIONAL), "step grid"),
}
# Labels of the first strength (vertical) and the second (horizontal), and the unit of the second.
_AXES = {
    "contrast grid": ("amplitude A", "phase φ / π", np.pi),
    "step grid": ("amplitude ξ", "length τ of 784 steps", 1.0),
}
_TICKS = {"x": 3, "y": 6}  # at most so many, plus one


def grid(measured: Measured, number: str) -> Any:
    """Mean loss on a log scale (a) and accuracy (b) over the seeds, a column for each model."""
    groups, sweep = GRIDS[number]
    shown: dict[str, Any] = {}
    for group in groups:
        shown = shown or {model: found for model in MODELS if (found := measured.scores.get((group, model, sweep)))}
        title = measured.tasks[group] if shown else ""
        if shown:
            break
    if not shown:
        raise needed(number, f"score on the {sweep}")
    points = check_equal(sweep, shown.values())
    first, second = (sorted({point[k] for point in points}) for k in (0, 1))
    maps = {
        measure: {
            model: np.array(
                [[np.mean([getattr(of[a, b], measure) for of in by_seed.values()]) for b in second] for a in first]
            )
            for model, by_seed in shown.items()
        }
        for measure in ("loss", "accuracy")
    }
    figure = new_figure(3.3, PAGE)
    axes = figure.subplots(2, len(shown), sharex=True, sharey=True, squeeze=False)
    vertical, horizontal, unit = _AXES[sweep]
    for row, (measure, label) in enumerate((("loss", "loss (nats)"), ("accuracy", "accuracy (%)"))):
        factor = 100 if measure == "accuracy" else 1
        _row(figure, axes[row], {model: factor * values for model, values in maps[measure].items()}, label)
        axes[row, 0].set_ylabel(vertical)
        letter(axes[row, 0], "ab"[row])
    for panel, (model, by_seed) in zip(axes[0], shown.items(), strict=True):
        panel.set_title(f"{MODELS[model][0]}\nN = {len(by_seed)}", fontsize=7, loc="right", pad=4)
    for panel in axes[1]:
        _ticks(panel.xaxis, np.array(second) / unit, _TICKS["x"])
    _ticks(axes[0, 0].yaxis, np.array(first), _TICKS["y"])
    figure.supxlabel(f"{horizontal} ({title})", fontsize=8)
    return figure


def _row(figure: Any, panels: Any, maps: dict[str, np.ndarray], label: str) -> None:
    """One measure, with one scale of colours for all models: dark is worse."""
    from matplotlib.colors import LogNorm, Normalize

    finite = np.concatenate([values[np.isfinite(values)] for values in maps.values()])
    low, high = (finite.min(), finite.max()) if len(finite) else (0.1, 1.0)
    of_loss = label.startswith("loss")
    norm = LogNorm(max(low, 1e-12), max(high, low * 1.01, 1e-11)) if of_loss else Normalize(low, max(high, low + 1))
    for panel, values in zip(panels, maps.values(), strict=True):
        mesh = panel.pcolormesh(
            np.ma.masked_invalid(values), cmap="cividis_r" if of_loss else "cividis", norm=norm, rasterized=True
        )
        panel.set_facecolor("white")
    bar = figure.colorbar(mesh, ax=list(panels), label=label, pad=0.01, aspect=12)
    if of_loss:
        plain_log(bar.ax.yaxis)


def _ticks(axis: Any, values: np.ndarray, most: int) -> None:
    """Some of the cells' values, evenly spaced, at their centres."""
    places = np.arange(0, len(values), -(-len(values) // most))
    axis.set_ticks(places + 0.5, [f"{values[k]:.3g}" for k in places])
