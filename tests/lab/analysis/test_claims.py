"""The paper's claims: planted results hold or fail as they must, and what the seeds do not permit is not tested."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from aru_lab.experiments.claims import CLAIMS, Finding, findings
from aru_lab.experiments.verdicts import FAILS, HOLDS, UNDECIDED, UNTESTED, by_p, in_every_seed, p_value
from aru_lab.plots.paper import FIGURES
from aru_lab.runs.analyses import AnalysisFolder, Result
from aru_lab.runs.sensitivity import kept_sweeps

XI = np.array([0.0, 1.0, 2.0, 5.0, 10.0])


def planted(folder: Path, model: str, part: str, seeds: list[dict[str, np.ndarray]]) -> dict[str, list[Path]]:
    """Folders that hold one part, a seed each."""
    paths = [folder / f"{model}{k}" for k in range(len(seeds))]
    for path, arrays in zip(paths, seeds, strict=True):
        path.mkdir(exist_ok=True)
        AnalysisFolder(path).save(part, Result({name: np.asarray(value) for name, value in arrays.items()}), {})
    return {model: paths}


def judged(number: str, claim: str, runs: dict[str, list[Path]]) -> list[Finding]:
    return [finding for finding in findings(number, runs) if claim in finding.claim]


def test_every_figure_has_claims() -> None:
    assert tuple(CLAIMS) == FIGURES


def test_activation_needs_no_runs() -> None:
    (found,) = findings("1", {})
    assert (found.verdict, found.exact) == (HOLDS, True)


def test_p_value_is_that_of_scipy_or_none() -> None:
    a, b = [3.0, 4.0, 5.5], [1.0, 2.0, 2.5]
    expected = stats.ttest_ind(a, b, equal_var=False, alternative="greater").pvalue
    assert p_value(stats.ttest_ind, a, b, equal_var=False, alternative="greater") == expected
    assert p_value(stats.ttest_ind, [1.0], b) is None
    assert p_value(stats.ttest_ind, [1.0, 1.0], [1.0, 1.0]) is None


def test_verdict_by_a_test_depends_on_its_side() -> None:
    assert [by_p(p) for p in (None, 0.01, 0.5, 0.99)] == [UNTESTED, HOLDS, UNDECIDED, FAILS]
    assert by_p(0.01, right=False) == FAILS
    assert by_p(0.99, sided=False) == UNDECIDED


def test_verdict_of_every_seed_needs_two() -> None:
    assert [in_every_seed(x) for x in ([True], [True, True], [True, False])] == [UNTESTED, HOLDS, FAILS]


def test_robustness_compares_means_over_the_strengths(analysed: dict[str, Path]) -> None:
    runs = {"arun": [analysed["arun"], analysed["arun1"]], "relu": [analysed["relu"], analysed["relu"]]}
    found = findings("2", runs)
    assert len(found) == 10
    named = {finding.claim.partition(":")[0]: finding for finding in found}
    assert named["RNN+γ het., step length"] == Finding(
        "RNN+γ het., step length: adaptive networks are far more robust than RNN+ReLU", "not measured", UNTESTED
    )
    means = {
        model: [
            np.mean([100 * score.accuracy for score in kept_sweeps(path)["noise-deviation"].scores.values()])
            for path in paths
        ]
        for model, paths in runs.items()
    }
    p = stats.ttest_ind(means["arun"], means["relu"], equal_var=False, alternative="greater").pvalue
    assert named["ARUN, noise deviation"].p == pytest.approx(p)
    assert f"{np.mean(means['relu']):.3g}" in named["ARUN, noise deviation"].number


@pytest.mark.parametrize(
    ("orders", "verdict"),
    [
        ([0.4, 0.5, 0.45], HOLDS),
        ([-0.4, -0.5, -0.45], HOLDS),
        ([0.4, -0.5, 0.1], UNDECIDED),
        ([0.8, 0.95, 0.98], FAILS),
    ],
    ids=["integrates", "differentiates", "none", "whole"],
)
def test_order_is_fractional_where_its_interval_lies_between_0_and_1(
    tmp_path: Path, orders: list[float], verdict: str
) -> None:
    seeds = [{"amplitudes": XI[1:], "order_of_mean": np.full((2, 4), order)} for order in orders]
    found = judged("3", "fractional-order filters", planted(tmp_path, "arun", "fractional", seeds))
    assert [finding.verdict for finding in found] == [verdict, verdict]
    (more,) = judged("3", "adaptation makes the order", planted(tmp_path, "arun", "fractional", seeds))
    assert (more.verdict, more.number) == (UNTESTED, "There is no run of gamma-heterogeneous.")


def gain(n: np.ndarray, r_squared: float = 0.99, low: float = 0.5) -> dict[str, np.ndarray]:
    parameters = np.array([[1.0, 1.0, 0.0], [0.5, low, -1.0], [2.0, 2.0, 1.0]])
    values = {"amplitudes": XI, "n": np.stack([n, n], axis=1), "r_squared": np.array([r_squared, 0.95])}
    return values | {"parameters": np.stack([parameters, parameters])}


def test_gain_falls_or_rises(tmp_path: Path) -> None:
    falling, wavy = np.array([5.0, 4.0, 3.0, 2.0, 1.0]), np.array([5.0, 4.0, 2.0, 3.0, 1.0])
    for curves, verdict in (
        ([falling, falling, falling], HOLDS),
        ([falling, wavy, wavy], HOLDS),
        ([-falling, -wavy, -wavy], FAILS),
        ([-falling, -falling], FAILS),
        ([falling], UNTESTED),
    ):
        runs = planted(tmp_path, "arun", "gain-scaling", [gain(curve) for curve in curves])
        (found,) = judged("4", "the gain falls", runs)
        assert found.verdict == verdict
        assert (found.p is None) == (verdict == UNTESTED)


def test_fit_holds_where_every_seed_is_explained(tmp_path: Path) -> None:
    n = XI[::-1]
    for seeds, verdict in (
        ([gain(n), gain(n)], HOLDS),
        ([gain(n), gain(n, 0.5)], FAILS),
        ([gain(n), gain(n, np.nan)], FAILS),
        ([gain(n), gain(n, low=-0.5)], FAILS),
        ([gain(n)], UNTESTED),
    ):
        power, _ = judged("4", "power law", planted(tmp_path, "arun", "gain-scaling", seeds))
        assert power.verdict == verdict


def test_exponents_nearer_to_zero(tmp_path: Path) -> None:
    def seed(adaptive: float, fixed: float) -> dict[str, np.ndarray]:
        values = np.stack([np.full((5, 1), adaptive), np.full((5, 1), fixed), np.full((5, 1), -9.0)])
        values[1, 2] = np.nan
        return {"kinds": np.array(["adaptive", "fixed", "joint"]), "amplitudes": XI, "exponents": values}

    runs = planted(tmp_path, "arun", "lyapunov", [seed(-0.01, 0.5), seed(0.02, -0.4), seed(0.01, -0.6)])
    (found,) = judged("6", "edge of stability", runs)
    assert found.verdict == HOLDS
    assert "3 drives" in found.number
    assert found.p == pytest.approx(stats.ttest_rel([0.01, 0.02, 0.01], [0.5, 0.4, 0.6], alternative="less").pvalue)
    runs = planted(tmp_path, "arun", "lyapunov", [seed(0.5, -0.01), seed(-0.4, 0.02), seed(-0.6, 0.01)])
    assert judged("6", "edge of stability", runs)[0].verdict == FAILS


def test_curve_and_proposition_must_hold_in_every_seed(tmp_path: Path) -> None:
    for explained, verdict in (([0.99, 0.95], HOLDS), ([0.99, 0.5], FAILS), ([0.99], UNTESTED)):
        seeds = [{"curve_explained": x, "line_explained": 0.1} for x in explained]
        assert findings("5", planted(tmp_path, "arun", "controller", seeds))[0].verdict == verdict
    for last, verdict in ((True, HOLDS), (False, FAILS)):
        seeds = [{"stable": [True] * 4 + [end]} for end in (True, last)]
        assert judged("6", "Proposition 1", planted(tmp_path, "arun", "stability", seeds))[0].verdict == verdict


def test_gradients_and_heterogeneity(tmp_path: Path) -> None:
    def reach(*decades: float) -> list[dict[str, np.ndarray]]:
        return [{"state_after": 10.0 ** np.array([decade, 0.0, 0.0])} for decade in decades]

    runs = planted(tmp_path, "arun", "gradients", reach(-0.1, 0.2, -0.1))
    runs |= planted(tmp_path, "relu", "gradients", reach(-3, -4, -3.5))
    assert judged("appendix", "across time", runs)[0].verdict == HOLDS
    swapped = {"arun": runs["relu"], "relu": runs["arun"]}
    assert judged("appendix", "across time", swapped)[0].verdict == FAILS

    generator = np.random.default_rng(0)
    seeds = []
    for width in (1.0, 1.1, 0.9):
        x = generator.normal(size=50)
        same = {"n_before": x / 9, "n_after": width * x, "n_retrained": width * x + 3}
        seeds.append(same | {"s_before": x, "s_after": x, "s_retrained": x})
    runs = planted(tmp_path, "gamma-heterogeneous", "heterogeneity", seeds)
    different = judged("appendix", "different from each other", runs)
    assert [finding.verdict for finding in different] == [HOLDS, UNTESTED]  # s has not changed in any seed
    assert [finding.verdict for finding in judged("appendix", "retraining on", runs)] == [HOLDS, UNDECIDED]
    del seeds[0]["n_retrained"]
    runs = planted(tmp_path, "gamma-heterogeneous", "heterogeneity", seeds)
    (found,) = judged("appendix", "retraining on", runs)
    assert (found.verdict, found.number) == (UNTESTED, "Not all seeds were retrained.")


def test_missing_analysis_is_named(tmp_path: Path) -> None:
    (found,) = findings("5", {"arun": [tmp_path]})
    assert found.verdict == UNTESTED
    assert "make it with `aru analyse" in found.number
