"""Figure 17: networks with the controller of another seed."""

from __future__ import annotations

from typing import Any

import numpy as np

from aru_lab.plots.paper.measured import MAIN, SWAPPED, TRANSPLANT, Measured, needed
from aru_lab.plots.style import COLUMN, DARK, MODELS, new_figure

TESTS = {"clean": "clean", "noisy drive": "noise", "step drive": "step", "sine": "sine"}
SCENARIOS = {
    MAIN: ("1: all trained", "full", None),
    TRANSPLANT: ("2: frozen controller of another seed", "none", "////"),
    SWAPPED: ("exchanged after training", "none", None),
}
_WIDTH = 0.26


def transplant(measured: Measured) -> Any:
    """Accuracy of both scenarios under each test, a dot and a line for every seed."""
    shown = [group for group in SCENARIOS if any((group, "arun", test) in measured.scores for test in TESTS)]
    if not {TRANSPLANT, SWAPPED} & set(shown):
        raise needed("17", "score of a network with the controller of another seed")
    figure = new_figure(2.9, COLUMN)
    axes = figure.subplots()
    colour = MODELS["arun"][1]
    for k, test in enumerate(TESTS):
        places = {group: k + _WIDTH * (c - (len(shown) - 1) / 2) for c, group in enumerate(shown)}
        found = {
            group: {seed: 100 * of[()].accuracy for seed, of in measured.scores.get((group, "arun", test), {}).items()}
            for group in shown
        }
        for group, by_seed in found.items():
            label, fill, hatch = SCENARIOS[group]
            look = {"facecolor": colour if fill == "full" else "white", "edgecolor": colour, "hatch": hatch}
            mean = np.mean(list(by_seed.values())) if by_seed else np.nan
            axes.bar(places[group], mean, 0.9 * _WIDTH, label=label if k == 0 else None, linewidth=0.8, **look)
        for seed in sorted(set().union(*found.values())):
            pairs = [(places[group], found[group][seed]) for group in shown if seed in found[group]]
            axes.plot(*zip(*pairs, strict=True), ".-", color=DARK, markersize=2.5, linewidth=0.4)
    axes.set_xticks(range(len(TESTS)), TESTS.values())
    values = [
        100 * of[()].accuracy for g in shown for t in TESTS for of in measured.scores.get((g, "arun", t), {}).values()
    ]
    # Bars begin at 0, and the seeds need room.
    axes.set(ylabel="accuracy (%)", ylim=(0, min(104.0, 1.08 * max(values))))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=1)
    return figure
