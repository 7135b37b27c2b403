"""Figure 2: accuracy against the strength of perturbations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from aru_lab.errors import ConfigError
from aru_lab.plots.paper.analysed import Analysed, by_model
from aru_lab.plots.style import MODELS, letter, line_with_spread, new_figure
from aru_lab.runs.sensitivity import LABELS, kept_sweeps


def sensitivity(runs: list[Analysed]) -> Any:
    """Accuracy against the strength of every sweep that `aru robustness` measured."""
    figure = new_figure(3.9)
    axes = figure.subplots(2, 3, sharey=True)
    loaded = {model: [kept_sweeps(run.files.run) for run in group] for model, group in by_model(runs).items()}
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
