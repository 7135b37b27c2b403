"""What was measured on the networks, by group of networks, variant and seed, as the claims read it.

A group is a set of networks that were trained alike (GROUPS). A variant is the model, or the start (n, s) in the groups
of the initialisation grid.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from aru_lab.errors import LabError, RunError
from aru_lab.experiments.paper import rules
from aru_lab.experiments.paper.protocol import Point
from aru_lab.experiments.paper.rules import Outcome
from aru_lab.plots.style import MODELS
from aru_lab.runs.analyses import AnalysisFolder
from aru_lab.runs.evaluation import Score

BySeed = dict[int, float]
_Key = TypeVar("_Key", tuple[str, str], tuple[str, str, str])
_Value = TypeVar("_Value")

DECISION = "perceptual-decision"

GROUPS = {
    "psmnist": "psMNIST",
    "scifar10": "sCIFAR10, linear encoder",
    "scifar10-conv": "sCIFAR10, convolutional encoder",
    "scifar10-conv-long": "sCIFAR10, convolutional encoder, more epochs",
    "homogeneous-start": "psMNIST, all neurons started at one (n, s)",
    "transplant": "psMNIST, frozen controller of another seed",
    "swapped": "psMNIST, trained network with the controller of another seed",
    "rmsprop": "psMNIST, RMSprop",
    "grid-frozen": "initialisation grid, n and s frozen",
    "grid-trained": "initialisation grid, n and s trained",
    DECISION: "NeuroGym, perceptual decision, Dale's law",  # not the paper's
}


class Lacking(LabError):
    """A claim can't be tested, because something was not measured; the sentence says what the claim needs."""


@dataclass
class Evidence:
    """The measurements of one reproduction.

    Args:
        reduced: whether the networks are smaller than the paper's.
        conclusive: whether claims may be judged.
        folders: run folders, by (group, variant) and seed.
        scores: by (group, variant, sweep), then by seed, then by point of the sweep.
        values: other numbers, by (group, variant, name) and seed: sizes of a retraining, validation accuracies.
        records: the same for arrays that figures show: "retraining" and "course", see `plots.paper.measured.Measured`.
        once: results that belong to no trained network, by name.
        sizes: by group, what the networks are: T, H and so on.
        waiting: by (group, variant) whose networks are not all trained yet, how many are and how many will be.
    """

    reduced: bool = True
    conclusive: bool = True
    folders: dict[tuple[str, str], dict[int, Path]] = field(default_factory=dict)
    scores: dict[tuple[str, str, str], dict[int, dict[Point, Score]]] = field(default_factory=dict)
    values: dict[tuple[str, str, str], BySeed] = field(default_factory=dict)
    records: dict[tuple[str, str, str], dict[int, Mapping[str, np.ndarray]]] = field(default_factory=dict)
    once: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    sizes: dict[str, str] = field(default_factory=dict)
    waiting: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)

    def put_scores(self, group: str, variant: str, sweep: str, seed: int, scores: dict[Point, Score]) -> None:
        """Add the scores of one network on a sweep."""
        self.scores.setdefault((group, variant, sweep), {})[seed] = scores

    def put_value(self, group: str, variant: str, name: str, seed: int, value: float) -> None:
        """Add a number of one network."""
        self.values.setdefault((group, variant, name), {})[seed] = value

    def put_record(self, group: str, variant: str, name: str, seed: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Add arrays of one network."""
        self.records.setdefault((group, variant, name), {})[seed] = arrays

    def halves(self) -> tuple[Evidence, Evidence]:
        """Split the seeds of every group into a first and a last half; with an odd number the first has one more.

        Both halves have the results that belong to no seed.
        """
        by_group: dict[str, set[int]] = {}
        for measured in (self.folders, self.scores, self.values, self.records):
            for (group, *_), by_seed in measured.items():
                by_group.setdefault(group, set()).update(by_seed)
        first = {group: set(sorted(seeds)[: (len(seeds) + 1) // 2]) for group, seeds in by_group.items()}
        return self._of(first), self._of({group: seeds - first[group] for group, seeds in by_group.items()})

    def _of(self, seeds: Mapping[str, set[int]]) -> Evidence:
        def chosen(measured: Mapping[_Key, Mapping[int, _Value]]) -> dict[_Key, dict[int, _Value]]:
            return {
                key: {seed: value for seed, value in by_seed.items() if seed in seeds[key[0]]}
                for key, by_seed in measured.items()
            }

        return dataclasses.replace(
            self,
            folders=chosen(self.folders),
            scores=chosen(self.scores),
            values=chosen(self.values),
            records=chosen(self.records),
        )

    def lacks(self, group: str, variants: Iterable[str]) -> str:
        """How many networks of these variants are there, in a sentence; empty where all are."""
        counts = [self.waiting[group, variant] for variant in variants if (group, variant) in self.waiting]
        if not counts:
            return ""
        planned = sum(planned for _, planned in counts)
        return f"{GROUPS[group]}: {sum(there for there, _ in counts)} of {planned} networks are there"

    def points(self, group: str, variant: str, sweep: str) -> dict[int, dict[Point, Score]]:
        """The scores of a sweep, by seed and point.

        Raises:
            Lacking: no network was scored.
        """
        found = self.scores.get((group, variant, sweep))
        if not found:
            raise Lacking(f"needs scores ({sweep}) of {named(variant)}, {GROUPS[group]}")
        return found

    def accuracy(self, group: str, variant: str, sweep: str = "clean") -> BySeed:
        """Mean test accuracy over the points of a sweep, as a fraction."""
        return self.mean_over(group, variant, sweep, lambda score: score.accuracy)

    def loss(self, group: str, variant: str, sweep: str) -> BySeed:
        """Mean test loss over the points of a sweep, in nats."""
        return self.mean_over(group, variant, sweep, lambda score: score.loss)

    def mean_over(self, group: str, variant: str, sweep: str, value: Callable[[Score], float]) -> BySeed:
        """The mean of `value` over the points of a sweep."""
        by_seed = self.points(group, variant, sweep)
        return {seed: float(np.mean([value(score) for score in of.values()])) for seed, of in by_seed.items()}

    def fall(self, group: str, variant: str, sweep: str) -> BySeed:
        """Clean accuracy minus the mean accuracy over the points of a sweep, none of which is clean."""
        return minus(self.accuracy(group, variant), self.accuracy(group, variant, sweep))

    def value(self, group: str, variant: str, name: str) -> BySeed:
        """A number of each network.

        Raises:
            Lacking: it was not measured.
        """
        found = self.values.get((group, variant, name))
        if not found:
            raise Lacking(f"needs the {name} of {named(variant)}, {GROUPS[group]}")
        return found

    def arrays(self, part: str, group: str, variant: str) -> dict[int, Mapping[str, np.ndarray]]:
        """The arrays of an analysis, by seed; networks on which it was not possible are left out.

        Raises:
            Lacking: no network was analysed.
        """
        found: dict[int, Mapping[str, np.ndarray]] = {}
        for seed, folder in self.folders.get((group, variant), {}).items():
            try:
                found[seed] = AnalysisFolder(folder).load(part)
            except RunError:
                continue
        if not found:
            raise Lacking(f"needs the analysis {part} of {named(variant)}, {GROUPS[group]}")
        return found

    def result(self, name: str) -> Mapping[str, Any]:
        """A result that belongs to no trained network.

        Raises:
            Lacking: it was not computed.
        """
        if name not in self.once:
            raise Lacking(f"needs the computation {name}")
        return self.once[name]


def by_group(groups: Iterable[str], judge: Callable[[str], list[Outcome]]) -> list[Outcome]:
    """The outcomes of a judge on each group, named after it; a group that lacks something is not tested.

    Raises:
        Lacking: every group does.
    """
    outcomes: list[Outcome] = []
    lacking: list[Lacking] = []
    for group in groups:
        try:
            outcomes += [rules.renamed(outcome, f"{group}: {outcome.name}") for outcome in judge(group)]
        except Lacking as error:
            lacking.append(error)
            outcomes.append(Outcome(group, "-", rules.UNTESTED, 0, note=str(error)))
    if len(lacking) == len(outcomes):
        raise lacking[0]
    return outcomes


def named(variant: str) -> str:
    """The name of a variant in sentences."""
    return MODELS[variant][0] if variant in MODELS else variant


def minus(first: BySeed, second: BySeed) -> BySeed:
    """first - second of the seeds that both have.

    Examples:
        >>> minus({0: 3.0, 1: 5.0}, {1: 1.0, 2: 7.0})
        {1: 4.0}
    """
    return {seed: first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())}


def listed(by_seed: BySeed) -> list[float]:
    """The values in the order of the seeds."""
    return [by_seed[seed] for seed in sorted(by_seed)]


def best_of(candidates: Mapping[str, BySeed]) -> str:
    """The variant with the highest mean."""
    return max(candidates, key=lambda name: float(np.mean(listed(candidates[name]))))


def available(read: Callable[[str], BySeed], variants: Iterable[str]) -> dict[str, BySeed]:
    """read(variant) of every variant; raises Lacking where one lacks it."""
    return {variant: read(variant) for variant in variants}
