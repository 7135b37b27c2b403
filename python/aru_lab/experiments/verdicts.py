"""Verdicts on the paper's claims: every one is made here, by the spread over the seeds, by a test, or seed by seed.

A claim holds, does not hold (the opposite was found), is undecided (neither was found), or is not tested.
"""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Callable, Sequence
from typing import Any

HOLDS, FAILS, UNTESTED = "holds", "does not hold", "not tested at this scale"
UNDECIDED = "undecided: within the spread of the seeds"
ALPHA = 0.05
GOOD_FIT = 0.9  # share of the variance that a curve must explain in every seed

SPREAD_RULE = (
    "A claim that one mean over the seeds is above another holds where it is above by more than twice the standard "
    "error of the difference, and does not hold where it is below by as much. Accuracies of the same runs are compared "
    "run by run."
)
TEST_RULE = (
    f"A claim with a test holds where p < {ALPHA:g}; it does not hold where the same test finds the opposite (p > "
    f"{1 - ALPHA:g} of a one-sided test), and is undecided in between. Tests are over the seeds but where they say "
    "otherwise; p-values are not corrected for the number of claims. A claim about a curve holds where it explains at "
    f"least {GOOD_FIT:.0%} of the variance in every seed and the interval of its exponent, if it has one, excludes 0. "
    "Claims are worded after the paper's abstract and its analyses, and the tests are ours: the paper's own p-values "
    "are not at hand."
)


def above(first: Sequence[float], second: Sequence[float]) -> str:
    """Verdict on the claim that `first` has the larger mean; each sample has its own runs."""
    if min(len(first), len(second)) < 2:
        return UNTESTED
    difference = statistics.fmean(first) - statistics.fmean(second)
    return _by_error(difference, math.sqrt(sum(statistics.variance(part) / len(part) for part in (first, second))))


def above_in_pairs(first: Sequence[float], second: Sequence[float]) -> str:
    """Verdict on the claim that `first` is larger, where both were measured on the same runs in the same order."""
    differences = [a - b for a, b in zip(first, second, strict=True)]
    if len(differences) < 2:
        return UNTESTED
    return _by_error(statistics.fmean(differences), statistics.stdev(differences) / math.sqrt(len(differences)))


def not_above(first: Sequence[float], second: Sequence[float]) -> str:
    """Verdict on the claim that the mean of `first` is not the larger one: it fails where `above` holds."""
    found = above(first, second)
    return {HOLDS: FAILS, FAILS: HOLDS, UNDECIDED: HOLDS}.get(found, found)


def by_p(p: float | None, right: bool = True, sided: bool = True) -> str:
    """Verdict by the p-value of a test; None is not tested.

    Args:
        p: the p-value.
        right: whether the test found what is claimed.
        sided: whether the test is one-sided, so that a large p-value supports the opposite of the claim.
    """
    if p is None:
        return UNTESTED
    return _decided(p < ALPHA and right, (p < ALPHA and not right) or (sided and p > 1 - ALPHA))


def in_every_seed(holds: Sequence[bool]) -> str:
    """Verdict on a claim that must hold in every seed; one seed is not enough."""
    return UNTESTED if len(holds) < 2 else _decided(all(holds), not all(holds))


def exactly(holds: bool) -> str:
    """Verdict on a claim that does not depend on training."""
    return _decided(holds, not holds)


def p_value(test: Callable[..., Any], *samples: Sequence[float], **options: Any) -> float | None:
    """The p-value of a test of scipy.stats; None for fewer than two values in a sample, or values without spread."""
    if min(map(len, samples)) < 2:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of samples that are constant
        p = float(test(*samples, **options).pvalue)
    return p if math.isfinite(p) else None


def _by_error(difference: float, error: float) -> str:
    return _decided(difference > 2 * error, -difference > 2 * error)


def _decided(holds: bool, fails: bool) -> str:
    return HOLDS if holds else FAILS if fails else UNDECIDED
