"""What a claim of the paper is, and what it needs: networks, scores, analyses and other work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aru_lab.experiments.paper.evidence import Evidence
from aru_lab.experiments.paper.rules import Outcome


@dataclass(frozen=True)
class Scores:
    """Needs test scores of these variants of a group on these sweeps; drives are left out where they are not defined.

    Without sweeps it needs the networks and their logs only.
    """

    group: str
    variants: tuple[str, ...]
    sweeps: tuple[str, ...] = ("clean",)


@dataclass(frozen=True)
class Analysis:
    """Needs a part of `aru analyse` on these models of a group."""

    part: str
    variants: tuple[str, ...]
    group: str = "psmnist"


@dataclass(frozen=True)
class Work:
    """Needs one of `works.WORKS`, such as a retraining or a computation without trained networks.

    `group` and `variants` are the networks that it reads.
    """

    name: str
    group: str = ""
    variants: tuple[str, ...] = ()


Need = Scores | Analysis | Work
Judge = Callable[[Evidence], list[Outcome]]


@dataclass(frozen=True)
class Claim:
    """One claim of the paper.

    Args:
        name: C1 to C53.
        where: the paper's sections, figures (1 to 18) and table (T1).
        says: the claim, in the paper's meaning.
        quantity: what is measured, and what is claimed of it.
        rule: one or more of the rules of `rules`.
        scale: A needs no training; R is decided at a reduced size (T = 112, H = 64), as a statement on the direction
            at that size; P needs the paper's size or a second task.
        needs: what is measured for it.
        judge: the outcomes of its tests; it raises `Lacking` where something was not measured.
    """

    name: str
    where: str
    says: str
    quantity: str
    rule: str
    scale: str
    needs: tuple[Need, ...]
    judge: Judge

    @property
    def number(self) -> int:
        """1 to 53."""
        return int(self.name[1:])

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of networks that it reads, each once."""
        return tuple(dict.fromkeys(need.group for need in self.needs if need.group))

    def variants(self, group: str) -> tuple[str, ...]:
        """The variants of a group that it reads, each once."""
        return tuple(dict.fromkeys(variant for need in self.needs if need.group == group for variant in need.variants))

    @property
    def paper_only(self) -> bool:
        """Whether it is decided at the paper's size only."""
        return self.scale == "P"

    @property
    def exact(self) -> bool:
        """Whether it speaks of no trained network."""
        return self.scale == "A"


class Collection:
    """The claims of one module; `claim` adds one."""

    def __init__(self) -> None:
        self.claims: list[Claim] = []

    def claim(
        self, name: str, where: str, says: str, quantity: str, rule: str, scale: str, *needs: Need
    ) -> Callable[[Judge], Judge]:
        """A decorator that makes a function the judge of a claim; the arguments are those of `Claim`."""

        def add(judge: Judge) -> Judge:
            self.claims.append(Claim(name, where, says, quantity, rule, scale, needs, judge))
            return judge

        return add
