"""The rules that turn measurements into verdicts. Every verdict on a claim of the paper is made here.

The seed is the unit of every test, because neurons of one network are not independent. A sample has one number a seed.
Values that are not finite are left out, and the note of the outcome counts them.

A claim holds, does not hold, or is undecided; it is "not tested" where there are too few seeds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
PAPER_SIZE, UNTESTED = "needs paper size", "not tested"
VERDICTS = (HOLDS, FAILS, UNDECIDED, PAPER_SIZE, UNTESTED)

ALPHA = 0.05
POWER = 0.8
GOOD_FIT = 0.9  # R² that a fit must reach
AICC_MARGIN = 2.0
MOST_SEEDS, FEWEST_SEEDS = 0.8, 0.5  # shares of the seeds at which a condition holds, and below which it does not
LARGEST_N = 10_000

# Smallest effects of interest
ACCURACY, LOG10, CORRELATION, SHARE = 0.01, 0.1, 0.1, 0.1


# How a note begins that says that a factor was not judged.
DIRECTION_ONLY = "direction only"


@dataclass(frozen=True)
class Outcome:
    """The outcome of one test.

    `mean`, `low` and `high` are the mean over the seeds and its 95% interval, `d_z` is mean/deviation, and `needed` is
    the number of seeds with which an undecided test is decided with power 0.8, if mean and deviation stay as they are
    (infinite above LARGEST_N). What a rule does not have is NaN or None.
    """

    name: str
    rule: str
    verdict: str
    n: int
    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan
    d_z: float = math.nan
    p: float | None = None
    needed: float | None = None
    note: str = ""


@dataclass(frozen=True)
class _Sample:
    """A sample without its values that are not finite; its tests are those of Student's t."""

    n: int
    mean: float
    deviation: float
    note: str

    @classmethod
    def of(cls, values: Sequence[float]) -> _Sample:
        all_values = np.asarray(values, dtype=float).reshape(-1)
        x = all_values[np.isfinite(all_values)]
        left_out = len(all_values) - len(x)
        note = f"{left_out} of {len(all_values)} seeds left out: no finite value" if left_out else ""
        if len(x) < 2:
            return cls(len(x), float(x.mean()) if len(x) else math.nan, math.nan, note)
        deviation = float(x.std(ddof=1))
        # The rounding of equal numbers is no deviation.
        constant = deviation <= 1e-12 * float(np.abs(x).max())
        return cls(len(x), float(x.mean()), 0.0 if constant else deviation, note)

    @property
    def error(self) -> float:
        return self.deviation / math.sqrt(self.n)

    def p_above(self, bound: float) -> float:
        """One-sided p of the hypothesis that the mean is at most `bound`."""
        if self.deviation == 0:
            return 0.0 if self.mean > bound else 1.0
        return float(stats.t.sf((self.mean - bound) / self.error, self.n - 1))

    def p_below(self, bound: float) -> float:
        """One-sided p of the hypothesis that the mean is at least `bound`."""
        if self.deviation == 0:
            return 0.0 if self.mean < bound else 1.0
        return float(stats.t.cdf((self.mean - bound) / self.error, self.n - 1))

    def interval(self, level: float) -> tuple[float, float]:
        """The two-sided interval of the mean."""
        width = float(stats.t.ppf((1 + level) / 2, self.n - 1)) * self.error
        return self.mean - width, self.mean + width

    @property
    def effect(self) -> float:
        """mean/deviation; infinite for a constant other than 0."""
        if self.deviation == 0:
            return math.copysign(math.inf, self.mean) if self.mean else 0.0
        return self.mean / self.deviation

    def outcome(
        self, name: str, rule: str, verdict: str, p: float | None, needed: float | None = None, note: str = ""
    ) -> Outcome:
        low, high = self.interval(1 - ALPHA)
        notes = "; ".join(filter(None, (self.note, note)))
        needed = needed if verdict == UNDECIDED else None
        return Outcome(name, rule, verdict, self.n, self.mean, low, high, self.effect, p, needed, notes)

    def too_few(self, name: str, rule: str) -> Outcome:
        note = "; ".join(filter(None, (self.note, f"got {self.n} seeds, expected at least 2")))
        return Outcome(name, rule, UNTESTED, self.n, self.mean, note=note)


def paired_t(name: str, differences: Sequence[float], smallest: float = 0.0, rule: str = "PT") -> Outcome:
    """PT, a paired t-test over seeds, one-sided: the mean of `differences` is above 0.

    It holds where p < 0.05. It does not hold where p > 0.95, or where the one-sided 95% upper bound of the mean is
    below the smallest effect of interest.

    Args:
        name: what is compared.
        differences: one a seed, positive in the direction of the claim.
        smallest: the smallest effect of interest; 0 where there is none.
        rule: how the rule is called in the outcome.

    Examples:
        >>> paired_t("a - b", [1.0, 2.0, 3.0, 2.0]).verdict
        'holds'
    """
    sample = _Sample.of(differences)
    if sample.n < 2:
        return sample.too_few(name, rule)
    p = sample.p_above(0.0)
    small = sample.p_below(smallest) < ALPHA
    verdict = HOLDS if p < ALPHA else FAILS if p > 1 - ALPHA or small else UNDECIDED
    note = "smaller than the smallest effect of interest" if verdict == HOLDS and smallest and small else ""
    ways = [abs(sample.effect), (smallest - sample.mean) / sample.deviation if sample.deviation else 0.0]
    return sample.outcome(name, rule, verdict, p, min(map(_n_for_t, ways)), note)


def equivalent(name: str, differences: Sequence[float], margin: float = ACCURACY) -> Outcome:
    """EQ(m), paired TOST: the mean of `differences` lies within ±`margin`.

    It holds where both one-sided tests have p < 0.05, and does not hold where the 90% interval lies wholly outside.
    `p` of the outcome is the larger of the two.
    """
    rule, sample = f"EQ({margin:g})", _Sample.of(differences)
    if sample.n < 2:
        return sample.too_few(name, rule)
    p = max(sample.p_above(-margin), sample.p_below(margin))
    low, high = sample.interval(1 - 2 * ALPHA)
    verdict = HOLDS if p < ALPHA else FAILS if low > margin or high < -margin else UNDECIDED
    return sample.outcome(name, rule, verdict, p, _n_for_equivalence(sample, margin))


def orders_of_magnitude(name: str, log_ratios: Sequence[float], orders: float) -> Outcome:
    """OM(k): the mean of the log10 ratios is at least `orders`, by its one-sided 95% bounds."""
    rule, sample = f"OM({orders:g})", _Sample.of(log_ratios)
    if sample.n < 2:
        return sample.too_few(name, rule)
    p = sample.p_above(orders)
    reached = p < ALPHA or (sample.deviation == 0 and sample.mean == orders)
    verdict = HOLDS if reached else FAILS if sample.p_below(orders) < ALPHA else UNDECIDED
    effect = abs(sample.mean - orders) / sample.deviation if sample.deviation else 0.0
    return sample.outcome(name, rule, verdict, p, _n_for_t(effect))


def share_above(name: str, shares: Sequence[float], bound: float) -> Outcome:
    """SH(q), a one-sample t-test: the mean share is above `bound`; mean and interval are those of share - bound."""
    return paired_t(name, [share - bound for share in shares], SHARE, f"SH({bound:g})")


def correlation(name: str, coefficients: Sequence[float], sign: int = 1) -> Outcome:
    """CO: Spearman's ρ over a grid, one a seed, has this sign; mean and interval are those of sign · ρ."""
    return paired_t(name, [sign * coefficient for coefficient in coefficients], CORRELATION, "CO")


def exact(name: str, cases: Sequence[bool], note: str = "") -> Outcome:
    """EX: the condition is met in all cases."""
    met = [bool(case) for case in cases]
    verdict = UNTESTED if not met else HOLDS if all(met) else FAILS
    counted = f"{sum(met)} of {len(met)} cases"
    return Outcome(name, "EX", verdict, len(met), note=f"{counted}; {note}" if note else counted)


def by_seed(name: str, met: Sequence[bool], rule: str = "EX by seed", note: str = "") -> Outcome:
    """EX by seed, and FIT: the condition is met in at least 80% of the seeds; it fails in fewer than half."""
    cases = [bool(case) for case in met]
    counted = f"{sum(cases)} of {len(cases)} seeds"
    notes = f"{counted}; {note}" if note else counted
    if len(cases) < 2:
        return Outcome(name, rule, UNTESTED, len(cases), note=f"{notes}; expected at least 2 seeds")
    share = sum(cases) / len(cases)
    verdict = HOLDS if share >= MOST_SEEDS - 1e-9 else FAILS if share < FEWEST_SEEDS else UNDECIDED
    return Outcome(name, rule, verdict, len(cases), share, note=notes)


def fit_is_good(r_squared: float, exponent: tuple[float, float], aicc: float, others: Sequence[float]) -> bool:
    """The condition of FIT for one seed.

    Args:
        r_squared: of the claimed form.
        exponent: the 95% interval of its exponent.
        aicc: of the claimed form.
        others: AICc of a line and of the other claimed form.

    Returns:
        Whether R² is at least 0.9, the interval excludes 0, and AICc is below each of the others by at least 2; False
        where a number is NaN.
    """
    low, high = exponent
    apart = bool(others) and all(aicc <= other - AICC_MARGIN for other in others)
    return bool(r_squared >= GOOD_FIT and (low > 0 or high < 0) and low <= high and apart)


def between_tasks(name: str, first: Sequence[float], second: Sequence[float]) -> Outcome:
    """WT, a two-sample t-test, two-sided, with equal variances as in the paper; the note has Welch's p.

    A large p does not show that the means are equal, so that the claim of a difference is undecided then.
    """
    a, b = _Sample.of(first), _Sample.of(second)
    n = min(a.n, b.n)
    if n < 2:
        note = "; ".join(filter(None, (a.note, b.note, f"got {a.n} and {b.n} seeds, expected at least 2 each")))
        return Outcome(name, "WT", UNTESTED, n, a.mean - b.mean, note=note)
    freedom = a.n + b.n - 2
    pooled = math.sqrt(((a.n - 1) * a.deviation**2 + (b.n - 1) * b.deviation**2) / freedom)
    error, difference = pooled * math.sqrt(1 / a.n + 1 / b.n), a.mean - b.mean
    if pooled == 0:
        p = welch = float(difference == 0)
        effect = math.copysign(math.inf, difference) if difference else 0.0
    else:
        p = float(2 * stats.t.sf(abs(difference) / error, freedom))
        squares = (a.error**2, b.error**2)
        weights = sum(square**2 / (part.n - 1) for square, part in zip(squares, (a, b), strict=True))
        welch = float(2 * stats.t.sf(abs(difference) / math.sqrt(sum(squares)), sum(squares) ** 2 / weights))
        effect = difference / pooled
    width = float(stats.t.ppf(1 - ALPHA / 2, freedom)) * error
    verdict = HOLDS if p < ALPHA else UNDECIDED
    notes = "; ".join(filter(None, (a.note, b.note, f"Welch's p = {welch:.2g}")))
    needed = _n_for_two_samples(abs(effect)) if verdict == UNDECIDED else None
    return Outcome(name, "WT", verdict, n, difference, difference - width, difference + width, effect, p, needed, notes)


def together(outcomes: Sequence[Outcome]) -> str:
    """The verdict of several tests: it holds if all do, it does not hold if any does not, and else is undecided.

    A test that could not be made keeps the claim from holding.
    """
    verdicts = [outcome.verdict for outcome in outcomes]
    if FAILS in verdicts:
        return FAILS
    if not verdicts or UNTESTED in verdicts:
        return UNTESTED
    return HOLDS if set(verdicts) == {HOLDS} else UNDECIDED


def joint_p(outcomes: Sequence[Outcome]) -> float | None:
    """The p-value of the claim that all tests hold: the largest of them; None where no test has one."""
    values = [outcome.p for outcome in outcomes if outcome.p is not None]
    return max(values) if values else None


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """The p-values after Holm's correction for all of them that are not None.

    Examples:
        >>> holm([0.01, None, 0.04, 0.03])
        [0.03, None, 0.06, 0.06]
    """
    known = sorted((p, k) for k, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, k) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        corrected[k] = largest
    return corrected


def factor(name: str, log_ratios: Sequence[float], orders: float, reduced: bool) -> Outcome:
    """OM(k) at the paper's size; at a reduced size PT of the log10 ratios, which judges their direction only."""
    if not reduced:
        return orders_of_magnitude(name, log_ratios, orders)
    note = f"{DIRECTION_ONLY}: the factor of 10^{orders:g} needs paper size"
    return noted(paired_t(name, log_ratios, LOG10), note)


def renamed(outcome: Outcome, name: str) -> Outcome:
    """The outcome under another name."""
    return dataclasses.replace(outcome, name=name)


def noted(outcome: Outcome, note: str) -> Outcome:
    """The outcome with a further note."""
    return dataclasses.replace(outcome, note="; ".join(filter(None, (outcome.note, note))))


def _smallest_n(power: Callable[[int], float]) -> float:
    """The smallest number of seeds with a power of at least POWER, for a power that grows with their number."""
    low, high = 1, 2
    while power(high) < POWER:
        if high >= LARGEST_N:
            return math.inf
        low, high = high, min(2 * high, LARGEST_N)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    return high


def _n_for_t(effect: float) -> float:
    """Seeds for a one-sample t-test, one-sided, of an effect in deviations."""
    if not effect > 0:
        return math.inf

    def power(n: int) -> float:
        return float(stats.nct.sf(stats.t.ppf(1 - ALPHA, n - 1), n - 1, effect * math.sqrt(n)))

    return 2 if math.isinf(effect) else _smallest_n(power)


def _n_for_two_samples(effect: float) -> float:
    """Seeds of each of two groups for a t-test, two-sided, of an effect in deviations."""
    if not effect > 0:
        return math.inf

    def power(n: int) -> float:
        critical, centre = stats.t.ppf(1 - ALPHA / 2, 2 * n - 2), effect * math.sqrt(n / 2)
        return float(stats.nct.sf(critical, 2 * n - 2, centre) + stats.nct.cdf(-critical, 2 * n - 2, centre))

    return 2 if math.isinf(effect) else _smallest_n(power)


def _n_for_equivalence(sample: _Sample, margin: float) -> float:
    if sample.deviation == 0:
        return 2
    if abs(sample.mean) >= margin:
        return _n_for_t((abs(sample.mean) - margin) / sample.deviation)

    def power(n: int) -> float:
        critical, root = stats.t.ppf(1 - ALPHA, n - 1), math.sqrt(n) / sample.deviation
        above = stats.nct.sf(critical, n - 1, (sample.mean + margin) * root)
        below = stats.nct.cdf(-critical, n - 1, (sample.mean - margin) * root)
        return float(above + below - 1)

    return _smallest_n(power)
