"""Claims on gradients: through time in trained networks, and their norm while training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from scipy import stats

from aru_lab.experiments.paper import rules
from aru_lab.experiments.paper.claim import Analysis, Collection, Scores
from aru_lab.experiments.paper.evidence import BySeed, Evidence, listed, minus, named
from aru_lab.experiments.paper.rules import LOG10, Outcome
from aru_lab.networks.names import DRIVABLE

COLLECTION = Collection()
claim = COLLECTION.claim

SD_OF_NORMS = "sd of log10 gradient norms"
LEAST_CORRELATION = 0.98
FIFTH = 5  # the first and the last of so many parts of a sequence are compared

Arrays = Mapping[str, np.ndarray]


def _of(evidence: Evidence, model: str, value: Callable[[Arrays], float]) -> BySeed:
    files = evidence.arrays("gradients", "psmnist", model)
    return {seed: float(value(arrays)) for seed, arrays in files.items()}


def _lengths(arrays: Arrays) -> np.ndarray:
    """T - p at the positions, the number of steps over which the gradient is accumulated."""
    return len(arrays["accumulated_after"]) - arrays["positions"]


def _growth(arrays: Arrays) -> float:
    """Spearman's ρ of the norm with the length."""
    norms = arrays["accumulated_after"][arrays["positions"]]
    return float(stats.spearmanr(norms, _lengths(arrays)).statistic) if np.ptp(norms) > 0 else 0.0


def _slope(arrays: Arrays) -> float:
    """Slope of log10 norm over the length in units of T; NaN where a norm is 0."""
    norms = arrays["accumulated_after"][arrays["positions"]]
    lengths = _lengths(arrays) / len(arrays["accumulated_after"])
    return float(np.polyfit(lengths, np.log10(norms), 1)[0]) if (norms > 0).all() else math.nan


def _fall_from_maximum(arrays: Arrays) -> float:
    """log10 of the norm at its maximum over that of the whole sequence; the place is from the other examples."""
    first, second = arrays["accumulated_halves_after"]
    there = arrays["positions"][np.argmax(first[arrays["positions"]])]
    return _log_ratio(second[there], second[0])


def _early_over_late(arrays: Arrays) -> float:
    """log10 of the mean norm of a term over the first fifth of the steps over that of the last fifth."""
    terms = arrays["each_after"]
    part = max(1, len(terms) // FIFTH)
    return _log_ratio(terms[:part].mean(), terms[-part:].mean())


def _log_ratio(a: float, b: float) -> float:
    return math.log10(a / b) if a > 0 and b > 0 else math.nan


@claim(
    "C46",
    "C.5, 18",
    "RNN+ReLU (RNN+γ het. less so): the gradient's norm grows with the length of the sequence",
    "Spearman's ρ of the norm of W_hh's gradient, accumulated from p on, with T - p: at least 0.98 in ReLU; slope of "
    "log10 norm over (T - p)/T, ReLU minus γ het. > 0",
    "EX by seed; PT",
    "R",
    Analysis("gradients", ("relu", "gamma-heterogeneous")),
)
def _(evidence: Evidence) -> list[Outcome]:
    growth = listed(_of(evidence, "relu", _growth))
    slopes = [_of(evidence, model, _slope) for model in ("relu", "gamma-heterogeneous")]
    return [
        rules.by_seed("ρ of ReLU", [rho >= LEAST_CORRELATION for rho in growth], note=f"mean {np.mean(growth):.3f}"),
        rules.paired_t("slope of ReLU - γ het.", listed(minus(*slopes)), LOG10),
    ]


@claim(
    "C47",
    "C.5, 18",
    "ARUN: the norm rises with the length first, then falls",
    "place of the maximum over T - p from half of the examples; on the other half log10(norm there/norm at T) > 0",
    "PT",
    "R, P",
    Analysis("gradients", ("arun",)),
)
def _(evidence: Evidence) -> list[Outcome]:
    return [rules.paired_t("log10 maximum/whole", listed(_of(evidence, "arun", _fall_from_maximum)), LOG10)]


@claim(
    "C48",
    "C.5, 18",
    "over the whole sequence the ARUN's norm is 10 times below those of RNN+ReLU and RNN+γ het.",
    "log10(norm of the other/ARUN) at p = 0, at least 1",
    "OM(1) each",
    "P",
    Analysis("gradients", ("arun", "relu", "gamma-heterogeneous")),
)
def _(evidence: Evidence) -> list[Outcome]:
    def whole(model: str) -> BySeed:
        return _of(evidence, model, lambda arrays: _log_ratio(arrays["accumulated_after"][0], 1.0))

    return [
        rules.factor(
            f"log10 norm of {named(model)}/ARUN", listed(minus(whole(model), whole("arun"))), 1, evidence.reduced
        )
        for model in ("relu", "gamma-heterogeneous")
    ]


@claim(
    "C49",
    "C.5, 18",
    "ARUN: early inputs count more than late ones; RNN+ReLU: less",
    "log10(mean norm of a step's term, first fifth/last fifth of the steps): ARUN > 0; ReLU < 0",
    "PT both",
    "R, P",
    Analysis("gradients", ("arun", "relu")),
)
def _(evidence: Evidence) -> list[Outcome]:
    arun, relu = (listed(_of(evidence, model, _early_over_late)) for model in ("arun", "relu"))
    return [
        rules.paired_t("ARUN: early/late", arun, LOG10),
        rules.paired_t("RNN+ReLU: late/early", [-ratio for ratio in relu], LOG10),
    ]


@claim(
    "C50",
    "3, C.5",
    "adaptive networks keep steadier gradient norms while training",
    "sd over epochs of the log10 of an epoch's mean gradient norm, each other RNN minus ARUN > 0",
    "PT each",
    "R",
    Scores("psmnist", DRIVABLE, ()),
)
def _(evidence: Evidence) -> list[Outcome]:
    def spread(model: str) -> dict[int, float]:
        return evidence.value("psmnist", model, SD_OF_NORMS)

    others = [model for model in DRIVABLE if model != "arun"]
    return [
        rules.paired_t(f"{named(model)} - ARUN", listed(minus(spread(model), spread("arun"))), LOG10)
        for model in others
    ]
