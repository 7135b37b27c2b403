"""Claims on n and s of the neurons: how training moves them apart, rotated images, and the shapes of γ."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from aru_lab.experiments.paper import rules
from aru_lab.experiments.paper.claim import Analysis, Collection, Scores, Work
from aru_lab.experiments.paper.evidence import GROUPS, BySeed, Evidence, Lacking, listed, minus
from aru_lab.experiments.paper.rules import ACCURACY, LOG10, Outcome

COLLECTION = Collection()
claim = COLLECTION.claim

HETEROGENEOUS = "gamma-heterogeneous"
LEAST_SD_OF_N, LEAST_SD_OF_S = 0.05, 0.01  # of n as a share of its start
SPREADS = ("sd of n", "sd of s", "det of the covariance of n and s")
VALIDATION = "validation accuracy"  # of the last epoch
UPRIGHT, ROTATED, RETRAINED = "accuracy upright", "accuracy rotated", "accuracy retrained"

# The paper's grid of starts (n, s)
GAINS = (1.0, *(1.25 * k for k in range(1, 17)))
SATURATIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
SHAPES = {"softplus": (1.0, 0.0), "sigmoid": (1.0, 1.0), "ReLU": (20.0, 0.0)}
STRONG = 0.5  # size of a rank correlation that the claim calls strong

Start = tuple[float, float]


def start_name(start: Start) -> str:
    """The variant of networks that start at (n, s).

    Examples:
        >>> start_name((1.25, 0.5))
        'n=1.25,s=0.5'
    """
    return f"n={start[0]:g},s={start[1]:g}"


STARTS = {start_name((n, s)): (n, s) for n in GAINS for s in SATURATIONS}


@claim(
    "C17",
    "2.3, 3a",
    "from a homogeneous start training makes (n, s) differ between neurons",
    "sd of n over neurons minus 5% of its start, sd of s minus 0.01, after training > 0 (0 before)",
    "PT both",
    "R",
    Analysis("heterogeneity", (HETEROGENEOUS,), "homogeneous-start"),
)
def _(evidence: Evidence) -> list[Outcome]:
    files = evidence.arrays("heterogeneity", "homogeneous-start", HETEROGENEOUS)
    of_n = {seed: of["n_after"].std() - LEAST_SD_OF_N * of["n_before"].mean() for seed, of in files.items()}
    of_s = {seed: of["s_after"].std() - LEAST_SD_OF_S for seed, of in files.items()}
    return [rules.paired_t("sd of n - 5%", listed(of_n)), rules.paired_t("sd of s - 0.01", listed(of_s))]


@claim(
    "C19",
    "2.3, B.3, 3a",
    "retraining on rotated digits increases heterogeneity",
    "sd of n, sd of s and det of their covariance over neurons, after minus before retraining > 0",
    "PT each",
    "R",
    Work("rotation", "psmnist", (HETEROGENEOUS,)),
)
def _(evidence: Evidence) -> list[Outcome]:
    def change(name: str) -> BySeed:
        return minus(*(evidence.value("psmnist", HETEROGENEOUS, f"{name} {when}") for when in ("retrained", "trained")))

    return [rules.paired_t(f"change of the {name}", listed(change(name))) for name in SPREADS]


@claim(
    "C20",
    "2.3, B.3",
    "n and s alone recover more than 25% of the loss (94, 42, 56%: 27%)",
    "(retrained - rotated)/(upright - rotated) accuracy on the half of the test images that was not trained on",
    "SH(.25)",
    "R, P",
    Work("rotation", "psmnist", (HETEROGENEOUS,)),
)
def _(evidence: Evidence) -> list[Outcome]:
    upright, rotated, retrained = (
        evidence.value("psmnist", HETEROGENEOUS, name) for name in (UPRIGHT, ROTATED, RETRAINED)
    )
    lost, recovered = minus(upright, rotated), minus(retrained, rotated)
    shares = {seed: recovered[seed] / lost[seed] if lost[seed] > 0 else math.nan for seed in recovered.keys() & lost}
    return [rules.share_above("recovered share", listed(shares), 0.25)]


@claim(
    "C40",
    "A, 6AB",
    "(n, s) shapes the Jacobian norm; λ1 shows regions and agrees with it",
    "random networks over the (n, s) grid: Spearman's ρ of Jacobian norm and λ1 > 0; λ1 has both signs",
    "CO; EX",
    "A",
    Work("random networks"),
)
def _(evidence: Evidence) -> list[Outcome]:
    found = evidence.result("random networks")
    norms, exponents = np.asarray(found["jacobian_norm"]), np.asarray(found["exponent"])
    agreement = [_rank_correlation(a, b) for a, b in zip(norms, exponents, strict=True)]
    signs = [bool(np.nanmin(of) < 0 < np.nanmax(of)) for of in exponents]
    return [rules.correlation("ρ of norm and λ1", agreement), rules.exact("λ1 of both signs, each network", signs)]


def _rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    known = np.isfinite(first) & np.isfinite(second)
    a, b = first[known].ravel(), second[known].ravel()
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(stats.spearmanr(a, b).statistic)


def _starts(evidence: Evidence, group: str) -> list[str]:
    """The starts of a group's networks, in the order of the grid; Lacking where there are none."""
    found = [name for name in STARTS if evidence.scores.get((group, name, "clean"))]
    if len(found) < 2:
        raise Lacking(f"needs the networks of the {GROUPS[group]}")
    return found


def _grid(evidence: Evidence, group: str) -> tuple[np.ndarray, np.ndarray]:
    """log10 of the Jacobian norm (starts,) and test accuracy (seeds, starts) of the seeds that have every start."""
    norms = evidence.result("jacobian norms of the starts")
    accuracy = {name: evidence.accuracy(group, name) for name in _starts(evidence, group)}
    seeds = set.intersection(*(set(of) for of in accuracy.values()))
    of_seeds = [[of[seed] for of in accuracy.values()] for seed in sorted(seeds)]
    return np.log10([float(norms[name]) for name in accuracy]), np.array(of_seeds).reshape(len(seeds), len(accuracy))


@claim(
    "C41",
    "B.2, 6AC",
    "strong correlation of Jacobian norm and performance over (n, s)",
    "Spearman's ρ of |log10 Jacobian norm| with test accuracy over the 85 frozen starts < 0 (strong: < -0.5); a "
    "network that diverged has the accuracy of chance",
    "CO each",
    "R",
    Scores("grid-frozen", tuple(STARTS)),
    Work("jacobian norms of the starts"),
)
def _(evidence: Evidence) -> list[Outcome]:
    norms, accuracy = _grid(evidence, "grid-frozen")
    found = [_rank_correlation(np.abs(norms), of_seed) for of_seed in accuracy]
    strong = [-rho - STRONG for rho in found]
    return [rules.correlation("ρ < 0", found, -1), rules.paired_t("-0.5 - ρ", strong, rules.CORRELATION, "CO")]


@claim(
    "C42",
    "B.2, 5.3",
    "poor regions all explode (Jacobian norm > 1); the best lie near 1",
    "frozen starts: norm > 1 at every start of the worst quarter; |log10 norm|, rest minus best quarter > 0",
    "EX; PT",
    "R",
    Scores("grid-frozen", tuple(STARTS)),
    Work("jacobian norms of the starts"),
)
def _(evidence: Evidence) -> list[Outcome]:
    norms, accuracy = _grid(evidence, "grid-frozen")
    quarter = max(1, len(norms) // 4)
    orders = [np.argsort(of_seed, kind="stable") for of_seed in accuracy]
    exploding = [bool(norms[k] > 0) for order in orders for k in order[:quarter]]
    away = np.abs(norms)
    nearer = [float(away[order[:-quarter]].mean() - away[order[-quarter:]].mean()) for order in orders]
    return [rules.exact("norm > 1 in the worst quarter", exploding), rules.paired_t("rest - best", nearer, LOG10)]


@claim(
    "C43",
    "B.2, 6CD",
    "learned n and s beat fixed standard shapes, ReLU included",
    "test accuracy of trained n, s minus each of softplus (1, 0), sigmoid (1, 1), ReLU (20, 0) frozen > 0; the start "
    "is chosen on the validation of one half of the seeds and tested on the other half, for either half",
    "PT each",
    "R",
    Scores("grid-trained", tuple(STARTS)),
    Scores("grid-frozen", tuple(STARTS)),
)
def _(evidence: Evidence) -> list[Outcome]:
    validation = {name: evidence.value("grid-trained", name, VALIDATION) for name in _starts(evidence, "grid-trained")}
    seeds = sorted(set.intersection(*(set(of) for of in validation.values())))
    if len(seeds) < 2:
        raise Lacking("needs two seeds that have every start of the grid")
    halves = (seeds[: len(seeds) // 2], seeds[len(seeds) // 2 :])
    learned: BySeed = {}
    for chosen_on, tested_on in (halves, halves[::-1]):
        best = _best_start(validation, chosen_on)
        accuracy = evidence.accuracy("grid-trained", best)
        learned |= {seed: accuracy[seed] for seed in tested_on if seed in accuracy}
    return [
        rules.paired_t(
            f"learned - {name}",
            listed(minus(learned, evidence.accuracy("grid-frozen", start_name(start)))),
            ACCURACY,
        )
        for name, start in SHAPES.items()
    ]


def _best_start(validation: dict[str, BySeed], seeds: Sequence[int]) -> str:
    return max(validation, key=lambda name: float(np.mean([validation[name][seed] for seed in seeds])))
