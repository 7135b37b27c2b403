"""The rules of the claims: samples with a known outcome for every rule and every verdict."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from aru_lab.experiments.paper import rules
from aru_lab.experiments.paper.rules import FAILS, HOLDS, UNDECIDED, UNTESTED, Outcome

RISING = np.array([-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 0.25, -0.25, 0.0])  # mean 0


def around(mean: float, deviation: float = 0.01) -> list[float]:
    """Ten values with exactly this mean and deviation."""
    return (mean + deviation * RISING / RISING.std(ddof=1)).tolist()


def test_paired_t_reports_the_numbers_of_scipy() -> None:
    a, b = np.array([0.5, 0.9, 0.7, 0.6]), np.array([0.4, 0.6, 0.7, 0.3])
    found = rules.paired_t("a - b", a - b)
    expected = stats.ttest_rel(a, b, alternative="greater")
    assert (found.name, found.rule, found.n) == ("a - b", "PT", 4)
    assert found.p == pytest.approx(expected.pvalue)
    two_sided = stats.ttest_1samp(a - b, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((two_sided.low, two_sided.high))
    assert found.mean == pytest.approx(np.mean(a - b))
    assert found.d_z == pytest.approx(np.mean(a - b) / np.std(a - b, ddof=1))


@pytest.mark.parametrize(
    ("differences", "smallest", "verdict"),
    [
        (around(0.02), 0.01, HOLDS),
        (around(-0.02), 0.01, FAILS),  # p > 0.95
        (around(0.001, 0.01), 0.01, FAILS),  # the upper bound is below the smallest effect of interest
        (around(0.001, 0.01), 0.0, UNDECIDED),
        (around(0.001, 0.05), 0.01, UNDECIDED),
    ],
)
def test_paired_t(differences: list[float], smallest: float, verdict: str) -> None:
    assert rules.paired_t("", differences, smallest).verdict == verdict


def test_a_sure_effect_below_the_smallest_of_interest_holds_with_a_note() -> None:
    found = rules.paired_t("", around(0.002, 0.001), 0.01)
    assert (found.verdict, found.note) == (HOLDS, "smaller than the smallest effect of interest")


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        (around(0.0, 0.01), HOLDS),
        (around(0.009, 0.01), UNDECIDED),
        (around(0.03, 0.01), FAILS),
        (around(-0.03, 0.01), FAILS),
        (around(0.0, 0.1), UNDECIDED),
        ([0.0, 0.0, 0.0], HOLDS),
        ([0.02, 0.02], FAILS),
    ],
)
def test_equivalence(differences: list[float], verdict: str) -> None:
    found = rules.equivalent("", differences, 0.01)
    assert (found.verdict, found.rule) == (verdict, "EQ(0.01)")


def test_p_of_equivalence_is_the_larger_one() -> None:
    x = np.array(around(0.004, 0.01))
    expected = [
        stats.ttest_1samp(x, -0.01, alternative="greater").pvalue,
        stats.ttest_1samp(x, 0.01, alternative="less").pvalue,
    ]
    assert rules.equivalent("", x, 0.01).p == pytest.approx(max(expected))


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        (around(1.5, 0.3), HOLDS),
        (around(0.5, 0.3), FAILS),
        (around(1.0, 0.3), UNDECIDED),
        (around(1.1, 0.3), UNDECIDED),
        ([1.0, 1.0], HOLDS),
        ([0.9, 0.9], FAILS),
    ],
)
def test_orders_of_magnitude(ratios: list[float], verdict: str) -> None:
    assert rules.orders_of_magnitude("", ratios, 1).verdict == verdict


@pytest.mark.parametrize(
    ("shares", "verdict"),
    [
        (around(0.8, 0.1), HOLDS),
        (around(0.2, 0.1), FAILS),
        (around(0.5, 0.01), FAILS),  # it is not above by 0.1
        (around(0.55, 0.2), UNDECIDED),
        ([1.0, 1.0, 1.0], HOLDS),
    ],
)
def test_share(shares: list[float], verdict: str) -> None:
    found = rules.share_above("", shares, 0.5)
    assert (found.verdict, found.rule) == (verdict, "SH(0.5)")
    assert found.mean == pytest.approx(np.mean(shares) - 0.5)


@pytest.mark.parametrize(
    ("coefficients", "sign", "verdict"),
    [
        (around(0.6, 0.1), 1, HOLDS),
        (around(-0.6, 0.1), -1, HOLDS),
        (around(-0.6, 0.1), 1, FAILS),
        (around(0.0, 0.05), 1, FAILS),  # its upper bound is below 0.1
        (around(0.05, 0.3), 1, UNDECIDED),
    ],
)
def test_correlation(coefficients: list[float], sign: int, verdict: str) -> None:
    assert rules.correlation("", coefficients, sign).verdict == verdict


def test_exact() -> None:
    assert [rules.exact("", cases).verdict for cases in ([True, True], [True, False], [])] == [HOLDS, FAILS, UNTESTED]
    assert rules.exact("", [True, False], "at ξ = 1").note == "1 of 2 cases; at ξ = 1"


@pytest.mark.parametrize(
    ("met", "of", "verdict"),
    [
        (10, 10, HOLDS),
        (8, 10, HOLDS),
        (4, 5, HOLDS),
        (7, 10, UNDECIDED),
        (5, 10, UNDECIDED),
        (4, 10, FAILS),
        (0, 2, FAILS),
        (1, 1, UNTESTED),
        (0, 0, UNTESTED),
    ],
)
def test_by_seed(met: int, of: int, verdict: str) -> None:
    found = rules.by_seed("", [k < met for k in range(of)])
    assert (found.verdict, found.n) == (verdict, of)
    assert f"{met} of {of} seeds" in found.note


def test_condition_of_a_fit() -> None:
    good = {"r_squared": 0.95, "exponent": (0.2, 0.6), "aicc": -30.0, "others": (-25.0, -28.0)}
    assert rules.fit_is_good(**good)
    assert rules.fit_is_good(**good | {"exponent": (-0.6, -0.2)})
    for change in (
        {"r_squared": 0.89},
        {"r_squared": math.nan},
        {"exponent": (-0.1, 0.6)},
        {"exponent": (math.nan, math.nan)},
        {"exponent": (math.nan, 0.6)},
        {"others": (-25.0, -31.0)},  # the other form is better
        {"others": (-25.0, -31.9)},
        {"others": (-25.0, math.nan)},
        {"others": ()},
        {"aicc": math.inf},
    ):
        assert not rules.fit_is_good(**good | change), change


def test_two_tasks() -> None:
    apart = rules.between_tasks("", around(0.3, 0.1)[:5], around(0.0, 0.1)[:5])
    expected = stats.ttest_ind(around(0.3, 0.1)[:5], around(0.0, 0.1)[:5])
    assert (apart.verdict, apart.n) == (HOLDS, 5)
    assert apart.p == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval(0.95)
    assert (apart.low, apart.high) == pytest.approx((interval.low, interval.high))
    unequal = rules.between_tasks("", around(0.3, 0.1), around(0.0, 0.4)[:7])
    welch = stats.ttest_ind(around(0.3, 0.1), around(0.0, 0.4)[:7], equal_var=False).pvalue
    assert unequal.note == f"Welch's p = {welch:.2g}"
    assert rules.between_tasks("", around(0.01, 0.1), around(0.0, 0.1)).verdict == UNDECIDED
    assert rules.between_tasks("", [1.0], [0.0, 0.1]).verdict == UNTESTED
    assert rules.between_tasks("", [1.0, 1.0], [0.0, 0.0]).verdict == HOLDS
    assert rules.between_tasks("", [1.0, 1.0], [1.0, 1.0]).verdict == UNDECIDED


T_RULES: list[Callable[[list[float]], Outcome]] = [
    lambda x: rules.paired_t("", x),
    lambda x: rules.equivalent("", x),
    lambda x: rules.orders_of_magnitude("", x, 1),
    lambda x: rules.share_above("", x, 0.5),
    lambda x: rules.correlation("", x),
]


@pytest.mark.parametrize("rule", T_RULES)
def test_one_seed_decides_nothing(rule: Callable[[list[float]], Outcome]) -> None:
    for values, n in (([], 0), ([0.7], 1), ([0.7, math.nan], 1)):
        found = rule(values)
        assert (found.verdict, found.n, found.p) == (UNTESTED, n, None)
        assert f"got {n} seeds, expected at least 2" in found.note


@pytest.mark.parametrize("rule", T_RULES)
def test_values_that_are_not_finite_are_left_out_and_counted(rule: Callable[[list[float]], Outcome]) -> None:
    values = around(0.7, 0.2)
    found, expected = rule([*values, math.nan, math.inf]), rule(values)
    assert (found.verdict, found.mean, found.p, found.n) == (expected.verdict, expected.mean, expected.p, 10)
    assert found.note.startswith("2 of 12 seeds left out: no finite value")


@pytest.mark.parametrize("rule", T_RULES)
def test_a_constant_sample_is_the_limit_of_a_small_deviation(rule: Callable[[list[float]], Outcome]) -> None:
    for value in (0.1 + 0.2, 0.7, -0.7, 1.3):
        constant, near = rule([value] * 10), rule(around(value, 1e-7))
        assert constant.verdict == near.verdict
        assert constant.p == pytest.approx(near.p, abs=1e-6)
        assert (constant.low, constant.high) == (constant.mean, constant.mean)


def test_a_constant_zero_is_no_effect() -> None:
    found = rules.paired_t("", [0.0, 0.0, 0.0], 0.01)
    assert (found.verdict, found.p, found.d_z) == (FAILS, 1.0, 0.0)


@pytest.mark.parametrize(("effect", "n"), [(0.5, 27), (0.8, 12), (0.2, 156)])
def test_n_for_a_one_sided_t_test(effect: float, n: int) -> None:
    """The tables of G*Power for α = 0.05 and a power of 0.8."""
    assert rules._n_for_t(effect) == n


@pytest.mark.parametrize(("effect", "n"), [(0.5, 64), (0.8, 26), (0.2, 394)])
def test_n_for_two_samples(effect: float, n: int) -> None:
    """The tables of G*Power for α = 0.05, two-sided, and a power of 0.8."""
    assert rules._n_for_two_samples(effect) == n


def test_n_is_that_of_a_simulation() -> None:
    generator = np.random.default_rng(1)

    def share(test: Callable[[list[float]], Outcome], mean: float, n: int, verdict: str) -> float:
        draws = mean + generator.standard_normal((400, int(n)))
        return float(np.mean([test(row).verdict == verdict for row in draws]))

    n = rules._n_for_t(0.6)
    assert share(lambda x: rules.paired_t("", x), 0.6, n, HOLDS) == pytest.approx(0.8, abs=0.07)
    close = rules._Sample(10, 0.1, 1.0, "")
    n = rules._n_for_equivalence(close, 0.8)
    assert share(lambda x: rules.equivalent("", x, 0.8), 0.1, n, HOLDS) == pytest.approx(0.8, abs=0.07)
    far = rules._Sample(10, 1.4, 1.0, "")
    n = rules._n_for_equivalence(far, 0.8)
    assert share(lambda x: rules.equivalent("", x, 0.8), 1.4, n, FAILS) == pytest.approx(0.8, abs=0.07)


def test_only_what_is_undecided_says_how_many_seeds_it_takes() -> None:
    undecided = rules.paired_t("", around(0.5, 1.0)[:8])
    assert undecided.verdict == UNDECIDED
    assert undecided.needed == rules._n_for_t(abs(undecided.d_z))
    assert rules.paired_t("", around(1.0, 0.1)).needed is None
    assert rules.paired_t("", around(1e-6, 1.0)).needed == math.inf
    # Beside the claimed effect, its absence can be decided: of a small one, sooner.
    assert rules.paired_t("", around(0.001, 0.05), 0.01).needed == rules._n_for_t(0.009 / 0.05)
    assert rules.equivalent("", around(0.0, 0.05)).needed < 300
    assert rules.orders_of_magnitude("", around(1.1, 0.3), 1).needed == rules._n_for_t(1 / 3)
    tasks = rules.between_tasks("", around(0.05, 0.1), around(0.0, 0.1))
    assert tasks.needed == rules._n_for_two_samples(0.5)


def outcome(verdict: str, p: float | None = None) -> Outcome:
    return Outcome("", "PT", verdict, 10, p=p)


def test_several_tests() -> None:
    for verdicts, expected in (
        ((HOLDS, HOLDS), HOLDS),
        ((HOLDS, UNDECIDED), UNDECIDED),
        ((UNDECIDED, FAILS), FAILS),
        ((UNTESTED, FAILS), FAILS),
        ((HOLDS, UNTESTED), UNTESTED),
        ((UNDECIDED, UNTESTED), UNTESTED),
        ((), UNTESTED),
    ):
        assert rules.together([outcome(verdict) for verdict in verdicts]) == expected
    assert rules.joint_p([outcome(HOLDS, 0.01), outcome(HOLDS, 0.03), outcome(HOLDS)]) == 0.03
    assert rules.joint_p([outcome(HOLDS)]) is None


def test_holm() -> None:
    """The example of Holm's procedure: 4 · 0.01, 3 · 0.02, then never smaller; at most 1."""
    assert rules.holm([0.02, 0.01, None, 0.9, 0.021]) == pytest.approx([0.06, 0.04, None, 0.9, 0.06])
    assert rules.holm([0.6, 0.7]) == [1.0, 1.0]
    assert rules.holm([]) == []


def test_a_factor_is_a_direction_at_a_reduced_size() -> None:
    ratios = around(0.5, 0.2)
    whole, reduced = (rules.factor("", ratios, 1, reduced) for reduced in (False, True))
    assert (whole.verdict, whole.rule, whole.note) == (FAILS, "OM(1)", "")
    note = "direction only: the factor of 10^1 needs paper size"
    assert (reduced.verdict, reduced.rule, reduced.note) == (HOLDS, "PT", note)
    assert rules.factor("", around(0.01, 0.05), 1, True).verdict == FAILS
