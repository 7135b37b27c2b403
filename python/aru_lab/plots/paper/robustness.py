"""Figure 2: accuracy against the strength of a step drive and of a variable contrast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from aru_lab.errors import ConfigError
from aru_lab.networks.perturbations import Perturbation
from aru_lab.plots.paper.measured import TASKS, Measured, Point, needed
from aru_lab.plots.style import COLUMN, DARK, LOOKS, MODELS, PAGE, drive_scale, letter, line_with_spread, new_figure

SWEEPS = {"step sweep": ("step drive", "amplitude ξ"), "contrast sweep": ("contrast", "amplitude A")}
_STEPS = 200  # of a sketch, where T does not matter


def robustness(measured: Measured) -> Any:
    """The stimuli (a), and accuracy on psMNIST (b) and on sCIFAR10 (c): step drives above, contrast below."""
    groups = [
        group
        for group in TASKS
        if any((group, model, sweep) in measured.scores for model in MODELS for sweep in SWEEPS)
    ]
    if not groups:
        raise needed("2", "score under a step drive or a variable contrast")
    figure = new_figure(3.6, PAGE if len(groups) > 1 else 0.5 * (COLUMN + PAGE))
    axes = figure.subplots(2, 1 + len(groups), width_ratios=(0.6, *[1] * len(groups)))
    for row, (sweep, (name, label)) in enumerate(SWEEPS.items()):
        _sketch(axes[row, 0], measured.stimuli.get(sweep, {}))
        axes[row, 0].set(ylabel="drive" if row == 0 else "factor", xlabel="t / T")
        axes[row, 0].set_title(name, fontsize=7, loc="right")
        for column, group in enumerate(groups, start=1):
            _curves(axes[row, column], measured, group, sweep)
            axes[row, column].set_xlabel(label)
        axes[row, 1].set_ylabel("accuracy (%)")
    for column, group in enumerate(groups, start=1):
        axes[0, column].set_title(measured.tasks[group], fontsize=7, loc="right")
    for axis, text in zip(axes[0], ("a", "b", "c"), strict=False):
        letter(axis, text)
    handles = {}
    for axis in axes[:, 1:].flat:
        for handle, model in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(model, handle)
    ordered = [name for name, *_ in MODELS.values() if name in handles]
    figure.legend(
        [handles[name] for name in ordered], ordered, loc="outside lower center", ncols=6 if len(groups) > 1 else 3
    )
    return figure


def _curves(axes: Any, measured: Measured, group: str, sweep: str) -> None:
    """Mean accuracy and its deviation over seeds; strength 0 is the clean score."""
    shown = {model: found for model in MODELS if (found := measured.scores.get((group, model, sweep)))}
    if not shown:
        axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes)
        return
    strengths = check_equal(sweep, shown.values())
    for place, (model, by_seed) in enumerate(shown.items()):
        clean = measured.scores.get((group, model, "clean"), {})
        start = [] if any(x == 0 for (x,) in strengths) or by_seed.keys() - clean.keys() else [0.0]
        curves = [
            100 * np.array([*(clean[seed][()].accuracy for _ in start), *(of[point].accuracy for point in strengths)])
            for seed, of in by_seed.items()
        ]
        name, colour, marker = MODELS[model]
        look = {"color": colour, "marker": marker, "linestyle": LOOKS[model][2], "markersize": 2.8, "label": name}
        line_with_spread(axes, [*start, *(x for (x,) in strengths)], curves, place, len(shown), **look)
    positive = all(x >= 0 for (x,) in strengths)
    if sweep == "step sweep" and positive:
        drive_scale(axes, sorted({0.0, *(x for (x,) in strengths)}))
    else:
        axes.margins(x=0.1)
    axes.margins(y=0.06)


def check_equal(sweep: str, found: Any) -> list[Point]:
    """The points that all networks share, in rising order.

    Raises:
        ConfigError: networks were tested at other points, or on other numbers of examples.
    """
    kinds = {
        tuple(sorted((point, score.n) for point, score in of.items())) for by_seed in found for of in by_seed.values()
    }
    if len(kinds) > 1:
        raise ConfigError(
            f"runs: got sensitivities to other strengths or on other numbers of test examples ({sweep}), expected the "
            "same; give all runs to one `aru robustness`."
        )
    return [point for point, _ in kinds.pop()]


def _sketch(axes: Any, stimuli: Mapping[Point, Perturbation | None]) -> None:
    """The drive, or the factor of the inputs, against t / T: highest strength solid, middle dashed, lowest dotted."""
    strengths = sorted(point for point, perturbation in stimuli.items() if perturbation is not None)
    chosen = sorted({0, len(strengths) // 2, len(strengths) - 1}, reverse=True) if strengths else []
    for k, dash in zip(chosen, ("-", "--", ":"), strict=False):
        course = course_of(stimuli[strengths[k]], _STEPS)
        axes.plot(np.arange(len(course)) / len(course), course, dash, color=DARK, linewidth=0.9)
    axes.set(xlim=(0, 1))
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.margins(y=0.1)


def course_of(perturbation: Perturbation, n_steps: int) -> np.ndarray:
    """One neuron's drive or one sequence's contrast: (n_steps,)."""
    drive = perturbation.drive(n_steps, 1, [0])
    course = perturbation.contrast(n_steps, [0]) if drive is None else drive
    assert course is not None
    return course.reshape(n_steps).numpy()
