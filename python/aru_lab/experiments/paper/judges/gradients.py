"""Claims on gradients: through time in trained networks, and their norm while training."""

from __future__ import annotations

from aru_lab.experiments.paper import rules
from aru_lab.experiments.paper.claim import Collection, Scores
from aru_lab.experiments.paper.evidence import Evidence, listed, minus, named
from aru_lab.experiments.paper.rules import LOG10, Outcome
from aru_lab.networks.names import DRIVABLE

COLLECTION = Collection()
claim = COLLECTION.claim

SD_OF_NORMS = "sd of log10 gradient norms"


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
