"""Claims on test accuracy, clean and under the noisy drive, and on transplanted controllers."""

from __future__ import annotations

from itertools import combinations

from aru_lab.experiments.paper import rules
from aru_lab.experiments.paper.claim import Collection, Scores, Work
from aru_lab.experiments.paper.evidence import Evidence, available, best_of, listed, minus, named
from aru_lab.experiments.paper.protocol import RNNS
from aru_lab.experiments.paper.rules import ACCURACY, Outcome
from aru_lab.networks.names import ADAPTABLE, MODELS

COLLECTION = Collection()
claim = COLLECTION.claim

RETRAINED = ("gamma-heterogeneous", "relu")  # the networks that are trained with RMSprop too
TRANSPLANT_TESTS = ("clean", "noisy drive", "step drive", "sine")


def better(evidence: Evidence, group: str, first: str, second: str, sweep: str = "clean") -> Outcome:
    """PT: the accuracy of the first model is above that of the second."""
    differences = minus(evidence.accuracy(group, first, sweep), evidence.accuracy(group, second, sweep))
    return rules.paired_t(f"{named(first)} - {named(second)}", listed(differences), ACCURACY)


@claim(
    "C1",
    "2.2, T1",
    "optimised γ, static or adaptive, clearly beats RNN+ReLU (psMNIST)",
    "clean accuracy, each of 3 minus ReLU > 0",
    "PT each",
    "R",
    Scores("psmnist", (*ADAPTABLE, "relu")),
)
def _(evidence: Evidence) -> list[Outcome]:
    return [better(evidence, "psmnist", model, "relu") for model in ADAPTABLE]


@claim(
    "C2",
    "2.2, T1",
    "static RNN+γ beats LSTM and GRU (psMNIST)",
    "clean accuracy, γ het. minus LSTM, minus GRU > 0",
    "PT both",
    "P",
    Scores("psmnist", ("gamma-heterogeneous", "lstm", "gru")),
)
def _(evidence: Evidence) -> list[Outcome]:
    return [better(evidence, "psmnist", "gamma-heterogeneous", model) for model in ("lstm", "gru")]


@claim(
    "C3",
    "2.2, T1",
    "no significant difference between ARUN and RNN+γ (psMNIST, clean)",
    "clean accuracy, ARUN minus γ het. within ±1 point",
    "EQ",
    "R",
    Scores("psmnist", ("arun", "gamma-heterogeneous")),
)
def _(evidence: Evidence) -> list[Outcome]:
    return [_equal(evidence, "psmnist", "arun", "gamma-heterogeneous")]


def _equal(evidence: Evidence, group: str, first: str, second: str, margin: float = ACCURACY) -> Outcome:
    differences = minus(evidence.accuracy(group, first), evidence.accuracy(group, second))
    return rules.equivalent(f"{named(first)} - {named(second)}", listed(differences), margin)


@claim(
    "C4",
    "2.2, T1",
    "sCIFAR10 linear: GRU is best by far",
    "clean accuracy, GRU minus the other model with the highest mean > 0 (size reported)",
    "PT",
    "P",
    Scores("scifar10", MODELS),
)
def _(evidence: Evidence) -> list[Outcome]:
    others = available(
        lambda model: evidence.accuracy("scifar10", model), [model for model in MODELS if model != "gru"]
    )
    return [better(evidence, "scifar10", "gru", best_of(others))]


@claim(
    "C5",
    "2.2, T1",
    "sCIFAR10 linear: RNN+γ beats RNN+ReLU and LSTM",
    "clean accuracy, γ het. minus ReLU, minus LSTM > 0",
    "PT both",
    "P",
    Scores("scifar10", ("gamma-heterogeneous", "relu", "lstm")),
)
def _(evidence: Evidence) -> list[Outcome]:
    return [better(evidence, "scifar10", "gamma-heterogeneous", model) for model in ("relu", "lstm")]


@claim(
    "C6",
    "2.2, T1",
    "the convolutional encoder raises every model",
    "clean accuracy, convolutional minus linear sCIFAR10 > 0, six models",
    "PT each",
    "P",
    Scores("scifar10", MODELS),
    Scores("scifar10-conv", MODELS),
)
def _(evidence: Evidence) -> list[Outcome]:
    outcomes = []
    for model in MODELS:
        differences = minus(evidence.accuracy("scifar10-conv", model), evidence.accuracy("scifar10", model))
        outcomes.append(rules.paired_t(f"{named(model)}: convolutional - linear", listed(differences), ACCURACY))
    return outcomes


@claim(
    "C7",
    "2.2, T1",
    "with the convolutional encoder all models perform alike",
    "clean accuracy, all pairs of the six models within ±2 points",
    "EQ(2) each",
    "P",
    Scores("scifar10-conv", MODELS),
)
def _(evidence: Evidence) -> list[Outcome]:
    return [_equal(evidence, "scifar10-conv", *pair, margin=2 * ACCURACY) for pair in combinations(MODELS, 2)]


@claim(
    "C8",
    "2.2, T1",
    "noisy drive, psMNIST: ARUN is the best of the RNNs",
    "accuracy under the noisy drive, ARUN minus the other RNN with the highest mean > 0",
    "PT",
    "R",
    Scores("psmnist", RNNS, ("noisy drive",)),
)
def _(evidence: Evidence) -> list[Outcome]:
    others = available(lambda model: evidence.accuracy("psmnist", model, "noisy drive"), RNNS[:-1])
    return [better(evidence, "psmnist", "arun", best_of(others), "noisy drive")]


@claim(
    "C18",
    "2.3, B.1, 2",
    "heterogeneous RNN+γ is slightly better than homogeneous, not significantly",
    "clean accuracy, het. minus hom. > 0 and within ±1 point",
    "PT for the sign; EQ(1) for 'not significant'",
    "R",
    Scores("psmnist", ("gamma-heterogeneous", "gamma-homogeneous")),
)
def _(evidence: Evidence) -> list[Outcome]:
    pair = ("gamma-heterogeneous", "gamma-homogeneous")
    differences = listed(minus(*(evidence.accuracy("psmnist", model) for model in pair)))
    # Any difference is "slightly better": a small one is what the claim says.
    return [rules.paired_t("het. - hom.", differences), rules.equivalent("het. - hom.", differences)]


@claim(
    "C44",
    "C.4, 17",
    "a transplanted, frozen controller gives the same clean performance",
    "clean accuracy, scenario 2 (controller of another seed, frozen) minus scenario 1 within ±1 point",
    "EQ",
    "R",
    Scores("psmnist", ("arun",)),
    Scores("transplant", ("arun",)),
)
def _(evidence: Evidence) -> list[Outcome]:
    return [_transplanted(evidence, "transplant", "clean", ACCURACY)]


@claim(
    "C45",
    "C.4, 17, 3",
    "the same under noise, step and sine; also with the main network frozen",
    "accuracy under noise, step and sine, scenario 2 minus scenario 1 within ±2 points; the same, clean too, where the "
    "controller of another seed is put into the trained network and nothing is trained again (our reading)",
    "EQ(2) each",
    "R",
    Scores("psmnist", ("arun",), TRANSPLANT_TESTS),
    Scores("transplant", ("arun",), TRANSPLANT_TESTS),
    Work("swapped", "psmnist", ("arun",)),
)
def _(evidence: Evidence) -> list[Outcome]:
    tests = [("transplant", sweep) for sweep in TRANSPLANT_TESTS[1:]]
    tests += [("swapped", sweep) for sweep in TRANSPLANT_TESTS]
    return [_transplanted(evidence, group, sweep, 2 * ACCURACY) for group, sweep in tests]


def _transplanted(evidence: Evidence, group: str, sweep: str, margin: float) -> Outcome:
    differences = minus(evidence.accuracy(group, "arun", sweep), evidence.accuracy("psmnist", "arun", sweep))
    return rules.equivalent(f"{group}, {sweep}", listed(differences), margin)


@claim(
    "C52",
    "5.3",
    "RMSprop gives similar results",
    "clean accuracy, Adam minus RMSprop within ±2 points (γ het., ReLU)",
    "EQ(2) each",
    "R",
    Scores("psmnist", RETRAINED),
    Scores("rmsprop", RETRAINED),
)
def _(evidence: Evidence) -> list[Outcome]:
    outcomes = []
    for model in RETRAINED:
        differences = minus(evidence.accuracy("psmnist", model), evidence.accuracy("rmsprop", model))
        outcomes.append(rules.equivalent(f"{named(model)}: Adam - RMSprop", listed(differences), 2 * ACCURACY))
    return outcomes
