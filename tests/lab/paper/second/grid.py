"""The grid of starts (n, s): test accuracies, the Jacobian's norm, and what C41, C42 and C43 say of them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from lab.paper.second.model import ROOT, Array, gamma_slope

KEPT = ROOT / "docs" / "results" / "networks" / "grid"
STARTS = [(n, s) for n in (1.0, *np.arange(1, 17) * 1.25) for s in (0.0, 0.25, 0.5, 0.75, 1.0)]
SHAPES = {"softplus": (1.0, 0.0), "sigmoid": (1.0, 1.0), "ReLU": (20.0, 0.0)}
SEEDS = range(5)


def read(name: str) -> tuple[Array, Array]:
    """Test accuracy, and the validation accuracy of the last epoch: (seeds, starts)."""
    of: dict[Any, tuple[float, float]] = {}
    for line in (KEPT / name / "networks.jsonl").read_text().splitlines():
        entry = json.loads(line)
        config = entry["config"]
        start = float(config["initial_gain"]), float(config["initial_saturation"])
        of[config["seed"], start] = entry["test_accuracy"], entry["metrics"][-1]["validation_accuracy"]
    assert len(of) == len(SEEDS) * len(STARTS)
    test, validation = np.moveaxis(np.array([[of[seed, start] for start in STARTS] for seed in SEEDS]), 2, 0)
    return test, validation


def norms(size: int = 400, draws: int = 100) -> Array:
    """The mean of |diag(γ'(a)) W|, a = W h: as W is orthogonal, that of the largest γ'(a_i)."""
    rng = np.random.default_rng(5)
    angle = rng.uniform(-np.pi, 0, (draws, size // 2))
    first, second = rng.uniform(-5, 5, (2, draws, size // 2))
    turned = np.cos(angle) * first + np.sin(angle) * second, np.cos(angle) * second - np.sin(angle) * first
    a = np.concatenate(turned, axis=1)
    return np.array([np.abs(gamma_slope(a, np.float64(n), np.float64(s))).max(1).mean() for n, s in STARTS])


def rank_correlation(x: Array, y: Array) -> float:
    """Spearman's ρ; equal values share the mean of their ranks."""

    def ranks(values: Array) -> Array:
        smaller = (values[None, :] < values[:, None]).sum(1)
        return smaller + ((values[None, :] == values[:, None]).sum(1) + 1) / 2

    return float(np.corrcoef(ranks(x), ranks(y))[0, 1])


def exploding(norm: Array, accuracy: Array) -> int:
    """C42: how many of the starts in the worst quarter of each seed have a norm above 1."""
    return sum(int((norm[np.argsort(row, kind="stable")[:21]] > 1).sum()) for row in accuracy)


def learned_minus(shape: str) -> float:
    """C43: mean over the seeds; the start is the best of the other half of the seeds on the validation images."""
    trained, validation = read("trained")
    fixed = read("frozen")[0][:, STARTS.index(SHAPES[shape])]
    halves = ([0, 1], [2, 3, 4])
    differences = []
    for chosen_on, tested_on in (halves, halves[::-1]):
        best = validation[chosen_on].mean(0).argmax()
        differences += list(trained[tested_on, best] - fixed[tested_on])
    return float(np.mean(differences))
