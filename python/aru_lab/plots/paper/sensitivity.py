"""Figure 2: accuracy and loss against the strength of perturbations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from aru_lab.errors import ConfigError
from aru_lab.networks.perturbations import Perturbation
from aru_lab.plots.paper.analysed import Analysed, by_model
from aru_lab.plots.style import DARK, LOOKS, MODELS, letter, line_with_spread, new_figure
from aru_lab.runs.sensitivity import LABELS, Kept, kept_sweeps

_PAPER = {
    "step-amplitude": "2, 14, 16",
    "step-length": "14, 16",
    "noise-deviation": "",
    "contrast-amplitude": "2, 13, 15",
    "contrast-phase": "13, 15",
}
_SKETCH_STEPS = 200  # of a sketch, where T does not matter


def sensitivity(runs: list[Analysed]) -> Any:
    """Every sweep that `aru robustness` measured: a sketch of the stimulus, accuracy, and loss on a log axis."""
    figure = new_figure(7.6)
    rows = figure.subplots(6, 3, height_ratios=2 * (0.45, 1, 1))
    blocks = rows[:3], rows[3:]
    *shown, last = [block[:, k] for block in blocks for k in range(3)]
    loaded = {model: [kept_sweeps(run.files.run) for run in group] for model, group in by_model(runs).items()}
    for name, text, (sketch, accuracy, loss) in zip(LABELS, "abcde", shown, strict=True):
        label, lowest = None, math.inf
        for place, (model, kept) in enumerate(loaded.items()):
            sweeps = [sweeps[name] for sweeps in kept if name in sweeps]
            if not sweeps:
                continue
            if label is None:
                label = sweeps[0].label
                _sketch(sketch, sweeps[0])
            _check_equal(name, label, kept, sweeps)
            look = {"color": MODELS[model][1], "marker": MODELS[model][2], "linestyle": LOOKS[model][2]}
            for panel, measure, scale in ((accuracy, "accuracy", 100), (loss, "loss", 1)):
                curves = [
                    scale * np.array([getattr(score, measure) for score in sweep.scores.values()]) for sweep in sweeps
                ]
                strengths = list(sweeps[0].scores)
                lowest = min(lowest, np.mean(curves, 0).min()) if measure == "loss" else lowest
                line_with_spread(
                    panel, strengths, curves, place, len(loaded), label=MODELS[model][0], markersize=2.8, **look
                )
        if label is None:
            sketch.axis("off")
            accuracy.text(0.5, 0.5, "not measured", ha="center", va="center", transform=accuracy.transAxes)
        head, _, tail = (label or LABELS[name].format(math.nan)).rpartition(": ")
        loss.set_xlabel(tail)
        _log_loss(loss, lowest)
        accuracy.set_ylim(0, 102)
        accuracy.margins(x=0.1)
        loss.sharex(accuracy)
        accuracy.tick_params(labelbottom=False)
        paper = f"\npaper {_PAPER[name]}" if _PAPER[name] else ""
        sketch.set_title(head + paper, fontsize=7, loc="right")
        letter(sketch, text)
    for block in blocks:
        for axes, label in zip(block[:, 0], ("stimulus", "accuracy (%)", "loss"), strict=True):
            axes.set_ylabel(label)
    for axes in last:
        axes.axis("off")
    handles = {}
    for _, accuracy, _ in shown:
        for handle, model in zip(*accuracy.get_legend_handles_labels(), strict=True):
            handles.setdefault(model, handle)
    last[1].legend(handles.values(), handles, loc="center")
    return figure


def _log_loss(axes: Any, lowest: float) -> None:
    """A log axis with plain numbers; bars that reach towards 0 leave it."""
    from matplotlib import ticker

    axes.set_yscale("log", nonpositive="clip")
    if math.isfinite(lowest) and lowest > 0:
        axes.set_ylim(bottom=max(axes.get_ylim()[0], 0.4 * lowest))
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")


def _check_equal(name: str, label: str, kept: list[dict[str, Kept]], sweeps: list[Kept]) -> None:
    """Raise a ConfigError unless all runs have this sweep with the same label, strengths and numbers of examples."""
    points = {(sweep.label, tuple((x, score.n) for x, score in sweep.scores.items())) for sweep in sweeps}
    if len(sweeps) < len(kept) or len(points) > 1 or sweeps[0].label != label:
        raise ConfigError(
            f"runs: got sensitivities to other strengths or on other numbers of test examples ({name}), "
            "expected the same; give all runs to one `aru robustness`."
        )


def _sketch(axes: Any, sweep: Kept) -> None:
    """The drive, or the factor of the inputs, against t / T: highest strength solid, middle dashed, lowest dotted."""
    strengths = list(sweep.scores)
    chosen = sorted({0, len(strengths) // 2, len(strengths) - 1}, reverse=True)
    for k, dash in zip(chosen, ("-", "--", ":"), strict=False):
        course = _course(sweep.perturbations[strengths[k]], sweep.n_steps or _SKETCH_STEPS)
        axes.plot(np.arange(len(course)) / len(course), course, dash, color=DARK, linewidth=0.8)
    axes.set(xlim=(0, 1), xlabel="t / T")
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.margins(y=0.15)


def _course(perturbation: Perturbation, n_steps: int) -> np.ndarray:
    """One neuron's drive or one sequence's contrast: (n_steps,)."""
    drive = perturbation.drive(n_steps, 1, [0])
    course = perturbation.contrast(n_steps, [0]) if drive is None else drive
    assert course is not None
    return course.reshape(n_steps).numpy()
