"""Evidence with planted measurements: every claim has a known verdict."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from aru_lab.experiments.paper.evidence import Evidence
from aru_lab.experiments.paper.protocol import SWEEPS, sweeps_of
from aru_lab.networks.names import MODELS
from aru_lab.runs.evaluation import Score

SEEDS = tuple(range(10))
STEPS = 112
PSMNIST = {
    "arun": 0.95,
    "gamma-heterogeneous": 0.95,
    "gamma-homogeneous": 0.945,
    "relu": 0.90,
    "lstm": 0.88,
    "gru": 0.89,
}
SCIFAR10 = PSMNIST | {"gru": 0.99, "lstm": 0.89}
CONVOLUTIONAL = dict.fromkeys(MODELS, 0.997)
# How much accuracy each model loses in a sweep, at its strongest point.
FALLS = {"arun": 0.02, "gamma-heterogeneous": 0.1, "gamma-homogeneous": 0.2, "relu": 0.4, "lstm": 0.5, "gru": 0.3}
CLEAN = {"psmnist": PSMNIST, "scifar10": SCIFAR10, "scifar10-conv": CONVOLUTIONAL}


def plant(
    evidence: Evidence, group: str, variant: str, sweep: str, mean: float, strongest: float | None = None
) -> None:
    """Scores of ten seeds whose accuracy is `mean` at the weakest and `strongest` at the strongest point of a sweep."""
    points = list(SWEEPS[sweep](STEPS))
    course = np.linspace(mean, mean if strongest is None else strongest, len(points))
    evidence.scores[group, variant, sweep] = {
        seed: {
            point: Score(
                float(10 ** (2 * (1 - accuracy))), float(accuracy + 1e-3 * np.sin(7 * seed + len(variant))), 100
            )
            for point, accuracy in zip(points, course, strict=True)
        }
        for seed in SEEDS
    }


def planted(reduced: bool = True, falls: Mapping[str, float] = FALLS) -> Evidence:
    """The scores of all models on all sweeps and tasks, as the paper claims them."""
    evidence = Evidence(reduced=reduced, sizes={"psmnist": "T = 112, H = 64"})
    for group, clean in CLEAN.items():
        for model in MODELS:
            for sweep in sweeps_of(model, tuple(SWEEPS)):
                lost = 0.0 if sweep == "clean" else falls[model]
                plant(evidence, group, model, sweep, clean[model] - lost / 5 * (sweep != "clean"), clean[model] - lost)
    return evidence
