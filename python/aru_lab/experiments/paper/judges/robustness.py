"""Claims on how performance falls under step drives and changes of contrast.

A sweep has the strengths above 0 only. The fall of a model is its clean accuracy minus its mean accuracy over a sweep.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from aru_lab.experiments.paper import rules
from aru_lab.experiments.paper.claim import Collection, Scores
from aru_lab.experiments.paper.evidence import BySeed, Evidence, by_group, listed, minus, named
from aru_lab.experiments.paper.judges.accuracy import better
from aru_lab.experiments.paper.protocol import RNNS
from aru_lab.experiments.paper.rules import ACCURACY, LOG10, Outcome
from aru_lab.networks.names import MODELS

COLLECTION = Collection()
claim = COLLECTION.claim

OTHER_RNNS = tuple(model for model in RNNS if model != "arun")
OTHERS = tuple(model for model in MODELS if model != "arun")
BASELINES = ("relu", "lstm", "gru")
STATIC = ("gamma-heterogeneous", "gamma-homogeneous")
CIFAR = ("scifar10", "scifar10-conv")


def smaller_fall(evidence: Evidence, group: str, first: str, second: str, sweep: str) -> Outcome:
    """PT: the accuracy of the first model falls less over a sweep than that of the second."""
    differences = minus(evidence.fall(group, second, sweep), evidence.fall(group, first, sweep))
    return rules.paired_t(f"fall of {named(second)} - {named(first)}", listed(differences), ACCURACY)


def _log_loss_ratio(evidence: Evidence, group: str, other: str) -> BySeed:
    """log10(loss of `other`/loss of the ARUN), mean over the points of the step grid that are not clean."""
    theirs, ours = (evidence.points(group, model, "step grid") for model in (other, "arun"))
    driven = [(xi, tau) for xi, tau in next(iter(ours.values())) if xi and tau]

    def mean(seed: int) -> float:
        return float(np.mean([math.log10(theirs[seed][point].loss / ours[seed][point].loss) for point in driven]))

    return {seed: mean(seed) for seed in sorted(theirs.keys() & ours.keys())}


def _log_mean_loss_ratio(evidence: Evidence, group: str, other: str, sweep: str) -> BySeed:
    """log10(mean loss of `other` over a grid/that of the ARUN)."""
    theirs, ours = (evidence.loss(group, model, sweep) for model in (other, "arun"))
    return {seed: math.log10(theirs[seed] / ours[seed]) for seed in sorted(theirs.keys() & ours.keys())}


@claim(
    "C9",
    "2.2, 2b",
    "step drive, psMNIST: ARUN is highly robust to its amplitude",
    "mean accuracy over ξ, ARUN minus each other RNN > 0",
    "PT each",
    "R",
    Scores("psmnist", RNNS, ("step sweep",)),
)
def _(evidence: Evidence) -> list[Outcome]:
    return [better(evidence, "psmnist", "arun", model, "step sweep") for model in OTHER_RNNS]


@claim(
    "C10",
    "2.2, 2b",
    "contrast, psMNIST: RNN+γ is more robust than the baselines",
    "fall from A = 0 to the mean over A, each of ReLU, LSTM, GRU minus γ (het. and hom.) > 0",
    "PT each",
    "R",
    Scores("psmnist", (*STATIC, *BASELINES), ("clean", "contrast sweep")),
)
def _(evidence: Evidence) -> list[Outcome]:
    pairs = [(static, baseline) for static in STATIC for baseline in BASELINES]
    return [smaller_fall(evidence, "psmnist", *pair, "contrast sweep") for pair in pairs]


@claim(
    "C11",
    "2.2, 2b",
    "contrast, psMNIST: ARUN falls least, before RNN+γ",
    "fall from A = 0 to the mean over A, each other minus ARUN > 0",
    "PT each",
    "R",
    Scores("psmnist", MODELS, ("clean", "contrast sweep")),
)
def _(evidence: Evidence) -> list[Outcome]:
    return [smaller_fall(evidence, "psmnist", "arun", other, "contrast sweep") for other in OTHERS]


@claim(
    "C12",
    "2.2, 2c",
    "step drive, sCIFAR10: ARUN is more robust (in the paper: less conclusive)",
    "mean accuracy over ξ, ARUN minus each other RNN > 0, both encoders",
    "PT each",
    "P",
    *(Scores(group, RNNS, ("step sweep",)) for group in CIFAR),
)
def _(evidence: Evidence) -> list[Outcome]:
    def more_robust(group: str) -> list[Outcome]:
        return [better(evidence, group, "arun", model, "step sweep") for model in OTHER_RNNS]

    return by_group(CIFAR, more_robust)


@claim(
    "C13",
    "2.2, 2c",
    "contrast, sCIFAR10: ARUN falls less than the baselines",
    "fall from A = 0 to the mean over A, each of ReLU, LSTM, GRU minus ARUN > 0, both encoders",
    "PT each",
    "P",
    *(Scores(group, ("arun", *BASELINES), ("clean", "contrast sweep")) for group in CIFAR),
)
def _(evidence: Evidence) -> list[Outcome]:
    return by_group(
        CIFAR, lambda group: [smaller_fall(evidence, group, "arun", other, "contrast sweep") for other in BASELINES]
    )


def _contrast_grid(evidence: Evidence, group: str) -> list[tuple[str, Sequence[float], float]]:
    """Name, differences in favour of the ARUN and smallest effect of every comparison on the grid of the contrast."""
    found = []
    for other in OTHERS:
        ratios = _log_mean_loss_ratio(evidence, group, other, "contrast grid")
        found.append((f"log10 loss of {named(other)}/ARUN", listed(ratios), LOG10))
        accuracy = (evidence.accuracy(group, model, "contrast grid") for model in ("arun", other))
        found.append((f"accuracy of ARUN - {named(other)}", listed(minus(*accuracy)), ACCURACY))
    return found


@claim(
    "C14",
    "2.2, App.",
    "phase and amplitude of the contrast, psMNIST: ARUN is best",
    "mean over the grid of loss (as log10 of the ratio) and of accuracy: ARUN against each other model",
    "PT each",
    "R",
    Scores("psmnist", MODELS, ("contrast grid",)),
)
def _(evidence: Evidence) -> list[Outcome]:
    return [rules.paired_t(*comparison) for comparison in _contrast_grid(evidence, "psmnist")]


@claim(
    "C15",
    "2.2, App.",
    "amplitude and length of the step, psMNIST: the ARUN's loss is 10 times lower",
    "log10(loss of each other RNN/ARUN), mean over the grid without its clean points, at least 1",
    "OM(1) each",
    "R, P",
    Scores("psmnist", RNNS, ("step grid",)),
)
def _(evidence: Evidence) -> list[Outcome]:
    outcomes = []
    for other in OTHER_RNNS:
        ratios = listed(_log_loss_ratio(evidence, "psmnist", other))
        outcomes.append(rules.factor(f"log10 loss of {named(other)}/ARUN", ratios, 1, evidence.reduced))
    return outcomes


@claim(
    "C16",
    "2.2, App.",
    "the same sweeps, sCIFAR10: no significant difference, the same trend",
    "as C14 and C15, both encoders: within the margin, and in favour of the ARUN",
    "EQ each; PT each for the trend",
    "P",
    *(Scores(group, MODELS, ("contrast grid", "step grid")) for group in CIFAR),
)
def _(evidence: Evidence) -> list[Outcome]:
    return by_group(CIFAR, lambda group: _alike(evidence, group))


def _alike(evidence: Evidence, group: str) -> list[Outcome]:
    comparisons = _contrast_grid(evidence, group)
    for other in OTHER_RNNS:
        ratios = listed(_log_loss_ratio(evidence, group, other))
        comparisons.append((f"step, log10 loss of {named(other)}/ARUN", ratios, LOG10))
    outcomes = []
    for name, differences, margin in comparisons:
        outcomes += [rules.equivalent(name, differences, margin), rules.paired_t(name, differences)]
    return outcomes


@claim(
    "C53",
    "1, 2.3",
    "diversity of the neurons is necessary for robustness (2.3: not significant)",
    "falls over the step sweep and the contrast sweep, γ hom. minus γ het. > 0",
    "PT each",
    "R",
    Scores("psmnist", STATIC, ("clean", "step sweep", "contrast sweep")),
)
def _(evidence: Evidence) -> list[Outcome]:
    return [
        rules.renamed(smaller_fall(evidence, "psmnist", *STATIC, sweep), f"{sweep}, hom. - het.")
        for sweep in ("step sweep", "contrast sweep")
    ]
