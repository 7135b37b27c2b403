"""From claims and evidence to findings: the verdict on every claim, and the p-values after Holm over the table."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from aru_lab.errors import RunError
from aru_lab.experiments.paper import rules
from aru_lab.experiments.paper.claim import Claim
from aru_lab.experiments.paper.evidence import Evidence, Lacking
from aru_lab.experiments.paper.rules import Outcome


@dataclass(frozen=True)
class Finding:
    """The verdict on one claim, the outcomes of its tests, and a remark on what limits them.

    `p` is that of the claim that all its tests hold; `p_holm` is corrected for all claims of the table. `halves` are
    the findings of the first and of the last half of the seeds, which share no network.
    """

    claim: Claim
    verdict: str
    outcomes: tuple[Outcome, ...] = ()
    remark: str = ""
    p: float | None = None
    p_holm: float | None = None
    halves: tuple[Finding, ...] = ()

    @property
    def n(self) -> int:
        """The smallest number of seeds or cases of its tests."""
        return min((outcome.n for outcome in self.outcomes), default=0)

    @property
    def limits(self) -> list[str]:
        """What a verdict leaves open, from the notes of its tests."""
        if self.verdict == rules.UNTESTED:
            return []
        notes = [note for outcome in self.outcomes for note in outcome.note.split("; ")]
        return [note for note in dict.fromkeys(notes) if note.startswith(rules.DIRECTION_ONLY)]

    @property
    def deciding(self) -> Outcome | None:
        """The test that decides the verdict: of those with the least favourable verdict, the one with the largest p."""
        order = (rules.FAILS, rules.UNTESTED, rules.UNDECIDED, rules.HOLDS)

        def rank(outcome: Outcome) -> tuple[int, float]:
            return order.index(outcome.verdict), -(-1.0 if outcome.p is None else outcome.p)

        return min(self.outcomes, key=rank, default=None)

    def in_halves(self, outcome: Outcome) -> tuple[Outcome | None, ...]:
        """The outcome of one of its tests in each half of the seeds; None where a half lacks measurements."""
        place = self.outcomes.index(outcome)
        same = [len(half.outcomes) == len(self.outcomes) for half in self.halves]
        return tuple(half.outcomes[place] if made else None for half, made in zip(self.halves, same, strict=True))

    @property
    def repeats(self) -> bool:
        """Whether both halves of the seeds give the same verdict."""
        return bool(self.halves) and all(half.verdict == self.verdict for half in self.halves)

    @property
    def needed(self) -> float | None:
        """Of an undecided claim, the number of seeds with which its undecided tests are decided; None if unknown."""
        needed = [outcome.needed for outcome in self.outcomes if outcome.needed is not None]
        return max(needed) if needed and self.verdict == rules.UNDECIDED else None


def judge(claims: Sequence[Claim], evidence: Evidence) -> list[Finding]:
    """A finding for every claim, in their order."""
    halves = evidence.halves()
    found = [_with_halves(_judged(claim, evidence), halves) for claim in claims]
    corrected = rules.holm([finding.p for finding in found])
    return [dataclasses.replace(finding, p_holm=p) for finding, p in zip(found, corrected, strict=True)]


def _with_halves(finding: Finding, halves: Sequence[Evidence]) -> Finding:
    if finding.claim.exact or finding.verdict not in (rules.HOLDS, rules.FAILS, rules.UNDECIDED):
        return finding
    return dataclasses.replace(finding, halves=tuple(_judged(finding.claim, half) for half in halves))


def _judged(claim: Claim, evidence: Evidence) -> Finding:
    untrained = [lacking for group in claim.groups if (lacking := evidence.lacks(group, claim.variants(group)))]
    waiting = f"waits for all its networks ({'; '.join(untrained)})" if untrained else ""
    try:
        outcomes = tuple(claim.judge(evidence))
    except (Lacking, RunError) as error:  # RunError: an analysis of an earlier version lacks an array
        return Finding(claim, rules.UNTESTED, remark=waiting or str(error))
    p = rules.joint_p(outcomes)
    verdict = rules.together(outcomes)
    if not evidence.conclusive:
        return _unjudged(claim, outcomes, "this scale judges no claim")
    if waiting:
        return _unjudged(claim, outcomes, waiting)
    if claim.exact or not evidence.reduced:
        return Finding(claim, verdict, outcomes, "", p)
    size = "; ".join(evidence.sizes[group] for group in claim.groups if group in evidence.sizes)
    if claim.paper_only:
        return Finding(claim, rules.PAPER_SIZE, outcomes, f"at the reduced size ({size}): {verdict}", p)
    return Finding(claim, verdict, outcomes, f"reduced size: {size}", p)


def _unjudged(claim: Claim, outcomes: Sequence[Outcome], remark: str) -> Finding:
    """The numbers without verdicts and p-values."""
    bare = [dataclasses.replace(outcome, verdict=rules.UNTESTED, p=None, needed=None) for outcome in outcomes]
    return Finding(claim, rules.UNTESTED, tuple(bare), remark)


def seeds_needed(needed: float | None) -> str:
    """How a table shows the number of seeds that an undecided claim takes.

    Examples:
        >>> [seeds_needed(n) for n in (None, 23, math.inf)]
        ['', '23', 'over 10,000']
    """
    if needed is None:
        return ""
    return f"over {rules.LARGEST_N:,}" if math.isinf(needed) else f"{needed:,.0f}"
