"""Fractional derivatives against the authors' vectors and closed forms; orders of responses against planted ones."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from torch import Tensor

from aru_lab.analysis.fractional import derivative, fractional_order, integral, sharpness, step_bounds, transfer
from aru_lab.analysis.protocols import STEP_PROTOCOLS
from aru_lab.errors import ConfigError

STEP = np.where((np.arange(300) >= 101) & (np.arange(300) < 201), 5.0, 0.0)


def zero_mean(n: int, seed: int = 0) -> np.ndarray:
    x = np.random.RandomState(seed).randn(n)
    return x - x.mean()


def test_authors_vectors(golden: Callable[[str], dict[str, Tensor]]) -> None:
    vectors = {key: value.numpy() for key, value in golden("frac_diff").items()}
    checked = 0
    for key, expected in vectors.items():
        kind, _, order = key.partition("_")
        if order:
            result = {"diff": derivative, "int": integral}[kind](vectors["signal"], float(order))
            np.testing.assert_allclose(result, expected, rtol=0, atol=1e-13 * np.abs(expected).max(), err_msg=key)
            checked += 1
    assert checked == 8


@pytest.mark.parametrize("order", [-1.0, -0.4, 0.0, 0.3, 1.0, 1.7])
def test_derivative_of_a_sine(order: float) -> None:
    # D^α sin(ωt) = ω^α sin(ωt + απ/2)
    t = np.arange(240) * 0.05
    omega = 2 * np.pi * 3 / 12
    expected = omega**order * np.sin(omega * t + order * np.pi / 2)
    np.testing.assert_allclose(derivative(np.sin(omega * t), order, dt=0.05), expected, atol=1e-12)


def test_first_derivative_is_the_cosine_and_the_mean_goes() -> None:
    t = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    np.testing.assert_allclose(derivative(3 + np.sin(2 * t), 1, dt=t[1]), 2 * np.cos(2 * t), atol=1e-12)
    np.testing.assert_allclose(derivative(3 + np.sin(2 * t), 0, dt=t[1]), np.sin(2 * t), atol=1e-12)


@pytest.mark.parametrize("order", [-0.9, 0.2, 0.5, 1.0])
def test_integral_undoes_the_derivative(order: float) -> None:
    x = zero_mean(301)
    np.testing.assert_allclose(integral(derivative(x, order, 0.1), order, 0.1), x, atol=1e-12)
    np.testing.assert_allclose(derivative(derivative(x, 0.3), order - 0.3), derivative(x, order), atol=1e-11)


def test_orders_broadcast_over_signals() -> None:
    x = np.stack([zero_mean(50, seed) for seed in range(3)])
    orders = np.array([-0.5, 0.1, 0.8])
    each = np.stack([derivative(signal, order) for signal, order in zip(x, orders, strict=True)])
    np.testing.assert_allclose(derivative(x, orders), each, atol=1e-14)


def test_transfer_function() -> None:
    f = np.array([0.0, 0.1, 0.4])
    np.testing.assert_allclose(transfer(f, 0.5), [0, *np.sqrt(2j * np.pi * f[1:])], atol=1e-15)


def test_planted_orders_are_found_between_the_points_of_the_grid() -> None:
    planted = np.linspace(-0.93, 0.93, 24).reshape(2, 12)
    responses = 2.0 + derivative(np.broadcast_to(STEP, (2, 12, 300)), -planted)
    found = fractional_order(responses, STEP, orders=np.linspace(-1, 1, 21))
    assert found.order.shape == found.error.shape == found.at_edge.shape == (2, 12)
    np.testing.assert_allclose(found.order, planted, atol=2e-5)
    assert found.error.max() < 1e-6
    assert not found.at_edge.any()
    single = fractional_order(responses[0, 3], STEP, orders=np.linspace(-1, 1, 21))
    assert single.order.shape == ()
    assert single.order == pytest.approx(found.order[0, 3], abs=1e-9)


def test_error_curve_is_the_mean_squared_error() -> None:
    rng = np.random.RandomState(1)
    response = rng.rand(300)
    orders = np.array([-0.5, 0.0, 0.3, 0.9])
    found = fractional_order(response, STEP + 1.5, orders, baseline=25, window=(80, 220))
    frequencies = np.fft.fftfreq(300)
    for order, error in zip(orders, found.errors, strict=True):
        H = np.zeros(300, dtype=complex)
        H[1:] = (2j * np.pi * frequencies[1:]) ** order
        filtered = np.fft.ifft(H * np.fft.fft(response)).real
        expected = np.mean((filtered - filtered[25] - STEP)[80:220] ** 2)
        assert error == pytest.approx(expected, rel=1e-12)
    assert found.error <= found.errors.min()


def test_offset_raises_the_target_and_the_grid_alone_can_be_searched() -> None:
    planted = derivative(STEP, -0.4)
    found = fractional_order(planted, STEP, np.linspace(-1, 1, 21), baseline=25, offset=0.8, refine=False)
    filtered = derivative(planted, 0.4)[81:221]
    assert found.order in found.orders
    assert found.order == pytest.approx(found.orders[found.errors.argmin()])
    at_planted = found.errors[np.abs(found.orders - 0.4).argmin()]
    rebased = filtered - derivative(planted, 0.4)[25]
    assert at_planted == pytest.approx(np.mean((rebased - STEP[81:221] - 0.8) ** 2), rel=1e-9)


def test_sharpness_is_the_error_over_that_beside_the_minimum() -> None:
    rng = np.random.RandomState(4)
    responses = derivative(np.stack([STEP, STEP]), [-0.4, 0.3]) + 0.2 * rng.randn(2, 300)
    options = {"baseline": 25, "window": (80, 220)}
    found = fractional_order(responses, STEP, **options)
    ratio = sharpness(responses, STEP, found, **options)
    for k, order in enumerate(found.order):
        triple = fractional_order(responses[k], STEP, [order - 0.2, order, order + 0.2], **options).errors
        assert ratio[k] == pytest.approx(triple[1] / min(triple[0], triple[2]), rel=1e-9)
    assert (ratio < 0.5).all()


def test_minimum_at_an_edge_or_of_a_flat_response_is_not_sharp() -> None:
    beyond = derivative(STEP, -0.9)
    edge = fractional_order(beyond, STEP, orders=np.linspace(-0.5, 0.5, 11))
    assert sharpness(beyond, STEP, edge) > 1  # 0.2 beyond the edge the error is less
    flat = np.full(300, 5.0)
    assert sharpness(flat, STEP, fractional_order(flat, STEP)) == pytest.approx(1)


@pytest.mark.parametrize("name", STEP_PROTOCOLS)
def test_planted_orders_under_every_protocol(name: str) -> None:
    protocol = STEP_PROTOCOLS[name]
    planted = np.array([0.15, 0.4, 0.75])
    drive = np.zeros(protocol.n_steps)
    drive[protocol.onset : protocol.onset + protocol.length] = 20.0
    responses = derivative(np.stack([drive] * 3), -planted)
    found = fractional_order(
        responses,
        protocol.high(20.0),
        protocol.orders_of_mean,
        protocol.baseline,
        protocol.window,
        offset=protocol.offset_of_mean,
        refine=protocol.refine,
    )
    # The authors' targets are a step too early, or 0.8 too high.
    np.testing.assert_allclose(found.order, planted, atol=1e-5 if name == "standard" else 0.06)
    assert np.ptp(protocol.high(20.0)) == 20
    assert (0.0 in protocol.orders_of_neurons) == (name == "standard")


def test_defaults_of_baseline_and_window() -> None:
    response = np.random.RandomState(2).rand(300)
    explicit = fractional_order(response, STEP, baseline=(25, 50), window=(81, 221))
    assert fractional_order(response, STEP).order == explicit.order


def test_minimum_beyond_the_grid_is_marked() -> None:
    found = fractional_order(derivative(STEP, -0.9), STEP, orders=np.linspace(-0.5, 0.5, 11))
    assert found.at_edge
    assert found.order == 0.5


def test_noise_moves_the_order_little() -> None:
    rng = np.random.RandomState(3)
    responses = derivative(STEP, -0.4) + 0.05 * rng.randn(20, 300)
    assert np.abs(fractional_order(responses, STEP).order - 0.4).max() < 0.03


def test_four_hundred_neurons_take_less_than_two_seconds_of_one_core() -> None:
    responses = derivative(np.broadcast_to(STEP, (400, 300)), np.linspace(-0.8, 0.8, 400))
    seconds = []
    for _ in range(3):
        start = time.process_time()
        fractional_order(responses, STEP, orders=np.linspace(-1, 1, 200))
        seconds.append(time.process_time() - start)
    assert min(seconds) < 2


def test_step_bounds() -> None:
    assert step_bounds(STEP) == (101, 201)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"response": np.zeros(15), "drive": np.zeros(15)}, "response: got 15 steps, expected at least 16"),
        ({"response": np.full(300, np.nan)}, "response: got 300 values that are not finite"),
        ({"response": 3.0}, "response: got an array of shape .*expected at least 1 dimension"),
        ({"response": "abc"}, "response: got str, expected an array of numbers"),
        ({"drive": STEP[:-1]}, "drive: got 299 steps, expected 300"),
        ({"drive": np.ones(300)}, "drive: got one that is constant"),
        ({"orders": [0.5]}, "orders: got a grid of 1 point, expected at least 3"),
        ({"orders": [0.5, 0.2, 0.1]}, "orders: got a grid of 3 points, expected at least 3, rising"),
        ({"window": (200, 400)}, r"window: got \(200, 400\), expected steps within the response's 300"),
        ({"baseline": 300}, "baseline: got 300"),
        ({"dt": 0}, "dt: got 0, expected a finite number above 0"),
    ],
    ids=lambda value: str(next(iter(value))) if isinstance(value, dict) else None,
)
def test_refusals(change: dict, sentence: str) -> None:
    arguments = {"response": np.zeros(300), "drive": STEP} | change
    with pytest.raises(ConfigError, match=sentence):
        fractional_order(**arguments)


def test_refusals_of_the_derivative() -> None:
    with pytest.raises(ConfigError, match=r"signal: got an array of shape .* at least 2 values"):
        derivative([1.0], 0.5)
    with pytest.raises(ConfigError, match="order: got a value that is not finite"):
        derivative([1.0, 2.0], np.inf)
