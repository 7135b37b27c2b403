"""Fits of planted curves, their intervals' coverage, and the comparison of the curves."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from aru_lab.analysis.checks import AnalysisError
from aru_lab.analysis.fits import CURVES, compare, compared, fit
from aru_lab.errors import ConfigError

XI = np.array([1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0])
PLANTED = {
    "power": [(0.3, 0.7, 5.4), (-2.0, 1.5, 1.0), (0.5, -0.8, -3.0)],
    "exponential": [(0.006, 0.15, -0.003), (-4.0, 0.05, 9.0), (1.0, 0.9, 0.0)],
}


@pytest.mark.parametrize(("kind", "planted"), [(kind, p) for kind, ps in PLANTED.items() for p in ps])
def test_planted_curve_is_found(kind: str, planted: tuple[float, float, float]) -> None:
    found = fit(kind, XI, CURVES[kind](XI, *planted))
    np.testing.assert_allclose(found.parameters, planted, rtol=1e-5, atol=1e-8)
    assert found.r_squared == pytest.approx(1, abs=1e-9)
    assert found.kind == kind
    np.testing.assert_allclose(found([3.0]), CURVES[kind](np.array([3.0]), *planted), rtol=1e-5)


@pytest.mark.parametrize("kind", PLANTED)
def test_intervals_cover_as_often_as_they_say(kind: str) -> None:
    x = np.linspace(1, 20, 6)  # few: Student's t is well above the normal deviate
    planted = (3.0, 0.8, 2.0) if kind == "power" else (3.0, 0.2, 2.0)
    rng = np.random.RandomState(0)
    inside = np.zeros(3)
    for _ in range(150):
        found = fit(kind, x, CURVES[kind](x, *planted) + 0.005 * rng.randn(6), confidence=0.8)
        inside += (found.low <= planted) & (planted <= found.high)
    assert (abs(inside / 150 - 0.8) < 0.075).all(), inside / 150


def test_wider_confidence_is_a_wider_interval() -> None:
    y = CURVES["power"](XI, 1.0, 0.5, 2.0) + 0.01 * np.cos(np.arange(8) * 2.0)
    narrow, wide = fit("power", XI, y, 0.5), fit("power", XI, y, 0.99)
    assert (wide.low < narrow.low).all()
    assert (wide.high > narrow.high).all()
    assert 0.9 < narrow.r_squared < 1


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        (("parabola", XI, XI), ConfigError, "kind: got 'parabola', expected one of power, exponential, line"),
        (("power", XI[:3], XI[:3]), ConfigError, "x: got 3 different values for 3 of y, expected at least 4"),
        (("power", [1, 1, 2, 2, 3], np.arange(5)), ConfigError, "x: got 3 different values"),
        (("power", XI, XI[1:]), ConfigError, "x: got 8 different values for 7 of y"),
        (("power", XI - 1, XI), ConfigError, "x: got 0, expected values above 0 for a power law"),
        (("exponential", XI, XI, 1.0), ConfigError, "confidence: got 1.0"),
        (
            ("exponential", XI, np.full(8, 3.0)),
            AnalysisError,
            "The 8 points do not determine the curve of kind exponential",
        ),
        (("power", XI, XI * np.nan), ConfigError, "y: got 8 values that are not finite"),
    ],
    ids=["kind", "three", "repeated", "lengths", "zero", "confidence", "constant", "nan"],
)
def test_refusals(arguments: tuple, error: type, sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        fit(*arguments)


def test_line_is_that_of_least_squares() -> None:
    y = 2 - 0.3 * XI + 0.1 * np.cos(np.arange(8) * 2.0)
    found = fit("line", XI, y)
    slope, offset = np.polyfit(XI, y, 1)
    np.testing.assert_allclose(found.parameters, [slope, np.nan, offset])
    # The interval of a line from the covariance of its two parameters, with N - 2 degrees of freedom.
    design = np.stack([XI, np.ones(8)], axis=1)
    residual = y - design @ (slope, offset)
    covariance = residual @ residual / 6 * np.linalg.inv(design.T @ design)
    half = stats.t.ppf(0.975, 6) * np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(found.high[[0, 2]] - half, (slope, offset))
    np.testing.assert_allclose(found([3.0]), slope * 3 + offset)


@pytest.mark.parametrize("kind", CURVES)
def test_planted_form_has_the_least_criterion(kind: str) -> None:
    planted = {"power": (2.0, 1.2, 5.0), "exponential": (2.0, 0.3, 5.0), "line": (0.2, np.nan, 5.0)}[kind]
    y = CURVES[kind](XI, *planted) + 1e-3 * np.random.RandomState(0).randn(8)
    found = compare(XI, y)
    best = list(CURVES).index(kind)
    assert (np.delete(found.aicc, best) > found.aicc[best] + 2).all()
    assert found.r_squared[best] > 0.99
    np.testing.assert_allclose(found.parameters[best, 0], planted, rtol=0.05)


def test_criterion_is_that_of_the_residuals() -> None:
    y = CURVES["exponential"](XI, 3.0, 0.2, 1.0) + 0.05 * np.random.RandomState(1).randn(8)
    found = compare(XI, y)
    for i, kind in enumerate(CURVES):
        one = fit(kind, XI, y)
        rss, k = np.sum((y - one(XI)) ** 2), 3 if kind == "line" else 4
        expected = 8 * np.log(rss / 8) + 2 * k + 2 * k * (k + 1) / (7 - k)
        assert found.aicc[i] == pytest.approx(expected, abs=1e-4)
        assert found.r_squared[i] == pytest.approx(one.r_squared, abs=1e-6)
        np.testing.assert_array_equal(found.parameters[i], [one.parameters, one.low, one.high])


@pytest.mark.parametrize("b", [-0.3, 0.5, 0.9, 2.0])
def test_criterion_of_a_steep_curve(b: float) -> None:
    y = CURVES["exponential"](XI, np.exp(-30 * 0.3) if b < 0 else 3.0, b, 1.0) + 1e-3 * np.random.RandomState(2).randn(
        8
    )
    found = compare(XI, y)
    one = fit("exponential", XI, y)
    i = list(CURVES).index("exponential")
    assert one.parameters[1] == pytest.approx(b, rel=0.05)
    assert found.r_squared[i] == pytest.approx(one.r_squared, abs=1e-9)
    rss = np.sum((y - one(XI)) ** 2)
    assert found.aicc[i] == pytest.approx(8 * np.log(rss / 8) + 8 + 40 / 3, abs=1e-6)
    assert found.aicc[i] < np.delete(found.aicc, i).min() - 2


@pytest.mark.parametrize("kind", ["power", "exponential"])
@pytest.mark.parametrize("odd", [0, 7])
def test_one_point_apart_is_the_limit_of_a_steep_curve(kind: str, odd: int) -> None:
    y = 2 + 1e-3 * np.random.RandomState(3).randn(8)
    y[odd] = 5.0
    found = compare(XI, y)
    others = np.delete(y, odd)
    i = list(CURVES).index(kind)
    residual = (1 - found.r_squared[i]) * np.sum((y - y.mean()) ** 2)
    assert residual <= np.sum((others - others.mean()) ** 2) * (1 + 1e-6)


def test_line_is_never_worse_explained_by_a_curved_form() -> None:
    found = compare(XI, 2 * XI + 1e-3 * np.cos(XI))
    assert (found.r_squared[:2] >= found.r_squared[2]).all()
    assert found.aicc[2] < found.aicc[1]


def test_too_few_or_constant_points_leave_numbers_open() -> None:
    few = compare(XI[:5], XI[:5] ** -0.5)
    assert np.isnan(few.aicc[:2]).all()  # N - k - 1 = 0
    assert np.isfinite(few.aicc[2])
    assert np.isfinite(few.r_squared).all()
    constant = compare(XI, np.full(8, 3.0))
    assert np.isnan(constant.parameters).all()
    assert np.isnan(constant.aicc).all()
    assert len(constant.remarks) == 3
    arrays = compared([few, None], (2,))
    assert arrays["fit_parameters"].shape == (2, 3, 3, 3)
    np.testing.assert_array_equal(arrays["fit_aicc"][0], few.aicc)
    assert np.isnan(arrays["fit_r_squared"][1]).all()
    assert arrays["fit_curves"].tolist() == ["power", "exponential", "line"]
