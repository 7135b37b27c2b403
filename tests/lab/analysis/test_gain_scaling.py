"""Fits of planted curves, their intervals' coverage, and the steady state of made responses."""

from __future__ import annotations

import numpy as np
import pytest

from aru_lab.analysis.checks import AnalysisError
from aru_lab.analysis.gain_scaling import CURVES, fit, steady_state
from aru_lab.analysis.responses import Responses
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
        (("line", XI, XI), ConfigError, "kind: got 'line', expected one of power, exponential"),
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


def made() -> Responses:
    rng = np.random.RandomState(0)
    n, s = rng.rand(2, 3, 2, 60, 4).astype(np.float32)
    return Responses(np.array([0.0, 1.0, 2.0]), 20, 40, n, n, n, s)


def test_steady_state_is_the_mean_of_the_settled_steps() -> None:
    responses = made()
    state = steady_state(responses, settle=0.75)
    assert state.window == (35, 40)
    for name in ("n", "s"):
        values = getattr(responses, name).astype(np.float64)
        np.testing.assert_allclose(getattr(state, name), values[:, :, 35:40].mean((2, 3)))
        np.testing.assert_allclose(getattr(state, f"{name}_neurons"), values[:, :, 35:40].mean((1, 2)))
        np.testing.assert_allclose(getattr(state, f"{name}_course"), values.mean((1, 3)))
    assert steady_state(responses).window == (31, 40)


def test_nothing_left_is_refused() -> None:
    with pytest.raises(ConfigError, match="settle: got 1 of 20 driven steps, which leaves none"):
        steady_state(made(), settle=1.0)
