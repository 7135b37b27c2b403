"""Jacobians against autograd, Proposition 1 against propagated noise, its boundary and path, known spectra."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from aru_kernels import ARUN, GammaRNN, reference
from aru_lab.analysis.stability import (
    MARGIN,
    jacobian_norms,
    noise_decays,
    predicted_path,
    spectrum,
    stability_boundary,
    state_jacobian,
)
from aru_lab.errors import ConfigError


def slope(x: float, n: float, s: float) -> float:
    """γ' by a central difference of the reference."""
    step = 1e-6
    x, n, s = (torch.tensor(value, dtype=torch.float64) for value in (x, n, s))
    return ((reference.gamma(x + step, n, s) - reference.gamma(x - step, n, s)) / (2 * step)).item()


def test_state_jacobian_is_that_of_autograd() -> None:
    W, b, h = (torch.randn(*sizes, dtype=torch.float64) for sizes in ((5, 5), (5,), (3, 5)))
    n, s = torch.tensor(3.0), torch.linspace(-0.2, 0.9, 5)
    found = state_jacobian(h, W, n, s, b)
    assert found.shape == (3, 5, 5)
    for row, jacobian in zip(h, found, strict=True):
        expected = torch.autograd.functional.jacobian(lambda x: reference.gamma(W @ x + b, n.double(), s.double()), row)
        torch.testing.assert_close(jacobian, expected, rtol=1e-12, atol=1e-13)


def test_jacobian_norms_over_the_grid() -> None:
    rng = np.random.RandomState(0)
    W, b = rng.randn(6, 6) / 2, rng.randn(6)
    gains, saturations = [0.5, 2.0, 8.0], [0.0, 0.7]
    found = jacobian_norms(W, gains, saturations, b, samples=4, low=-2, high=3, seed=5)
    assert found.norm.shape == found.error.shape == (3, 2)
    h = np.random.default_rng(5).uniform(-2, 3, (4, 6))
    for i, n in enumerate(gains):
        for j, s in enumerate(saturations):
            slopes = np.vectorize(slope)(h @ W.T + b, n, s)
            norms = [np.linalg.norm(np.diag(row) @ W, 2) for row in slopes]
            assert found.norm[i, j] == pytest.approx(np.mean(norms), rel=1e-6)
            assert found.error[i, j] == pytest.approx(np.std(norms, ddof=1) / 2, rel=1e-4)


def test_relu_like_orthogonal_network_has_norm_one() -> None:
    # For large n and s = 0, γ' is 0 or 1, and with an orthogonal W_hh some neuron of 40 is on: the norm is 1.
    W = GammaRNN(1, 40).weight_hh_l0
    found = jacobian_norms(W, [1e5, 1e6], [0.0, 0.5], samples=5)
    np.testing.assert_allclose(found.norm, [[1, 0.5]] * 2, rtol=1e-6)


def test_steeper_saturating_activations_have_larger_norms() -> None:
    found = jacobian_norms(GammaRNN(1, 20).weight_hh_l0, [1.0, 5.0, 20.0], [0.0, 1.0], samples=10)
    assert (np.diff(found.norm[:, 1]) > 0).all()


def test_proposition_one_is_what_linear_noise_does() -> None:
    # Noise of equal variance on every neuron, W_hh = σ Q with Q orthogonal, linearised at μ.
    rng = np.random.RandomState(0)
    Q, _ = np.linalg.qr(rng.randn(8, 8))
    mean, n = rng.randn(8), rng.uniform(0.5, 6, 8)
    outcomes = set()
    for s, sigma in ((0.0, 1.0), (0.2, 1.0), (1.0, 1.0), (0.5, 1.5), (0.9, 0.6)):
        J = np.diag(np.vectorize(slope)(mean, n, s)) @ (sigma * Q)
        largest = np.linalg.eigvalsh(J @ J.T).max()  # the variance along the worst direction, of 1 before
        assert noise_decays(mean, n, s, sigma).all() == (largest < 1)
        outcomes.add(bool(largest < 1))
    assert outcomes == {True, False}


def test_boundary_is_where_the_slope_times_sigma_is_one() -> None:
    gains = np.array([0.7, 2.0, 6.0])
    for mean in (-0.4, 0.3, 1.5):
        for sigma in (0.8, 1.3):
            low, high = stability_boundary(mean, gains, sigma)
            for n, a, b in zip(gains, low, high, strict=True):
                assert sorted(abs(slope(mean, n, s)) * sigma for s in (a, b)) == pytest.approx([1, 1], abs=1e-5)
                assert noise_decays(mean, n, (a + b) / 2, sigma)
                assert not noise_decays(mean, n, a - 1e-3, sigma)
                assert not noise_decays(mean, n, b + 1e-3, sigma)


def test_authors_boundary_is_their_margin() -> None:
    # For ξ >= 5 and n >= 2, γ' is 1 - s up to 1e-4, so that γ' + 0.013 = 1 at s = 0.013; above it is stable.
    gains = np.linspace(2, 5, 7)
    for xi in (5.0, 10.0, 30.0):
        low, _ = stability_boundary(xi, gains, margin=MARGIN)
        np.testing.assert_allclose(low, 0.013, atol=1e-4)
        assert noise_decays(xi, gains, low + 1e-4, margin=MARGIN).all()
        assert not noise_decays(xi, gains, low - 1e-4, margin=MARGIN).any()
        path = predicted_path([xi], (4.0, -0.01), margin=MARGIN)
        assert abs(slope(xi, *path[0])) + MARGIN == pytest.approx(1, abs=1e-4)


def test_several_matrices_have_states_of_their_own() -> None:
    rng = np.random.RandomState(0)
    W = rng.randn(3, 4, 4)
    found = jacobian_norms(W, [1.0, 3.0], [0.0, 0.5], samples=2, seed=1)
    h = np.random.default_rng(1).uniform(-5, 5, (3, 2, 4))
    slopes = [np.vectorize(slope)(h[d] @ W[d].T, 3.0, 0.5) for d in range(3)]
    norms = [np.linalg.norm(np.diag(row) @ W[d], 2) for d in range(3) for row in slopes[d]]
    assert found.norm[1, 1] == pytest.approx(np.mean(norms), rel=1e-6)
    assert found.error[1, 1] == pytest.approx(np.std(norms, ddof=1) / 6**0.5, rel=1e-4)


def test_boundary_where_the_slope_does_not_depend_on_s() -> None:
    # At μ = 0 γ' = 1/2 + s (n/4 - 1/2): for n = 2 it is 1/2 whatever s.
    low, high = stability_boundary(0.0, [2.0], 1.0)
    assert (low[0], high[0]) == (-np.inf, np.inf)
    low, high = stability_boundary(0.0, [2.0], 3.0)
    assert np.isnan([low[0], high[0]]).all()


def test_path_goes_to_the_nearest_stable_point() -> None:
    start, sigma = (4.0, -0.3), 1.1
    drives = np.array([-3.0, 0.2, 1.0, 4.0])
    path = predicted_path(drives, start, sigma, gains=(0.5, 8.0))
    n, s = np.meshgrid(np.linspace(0.5, 8, 601), np.linspace(-1, 1.5, 1001), indexing="ij")
    for mean, point in zip(drives, path, strict=True):
        stable = noise_decays(mean, n, s, sigma)
        nearest = np.where(stable, np.hypot(n - start[0], s - start[1]), np.inf).min()
        assert np.hypot(*(point - start)) == pytest.approx(nearest, abs=0.006)
        assert abs(slope(mean, *point)) * sigma < 1 + 1e-5
    np.testing.assert_array_equal(path[0], start)
    assert (path[2:] != start).any(axis=1).all()


def test_spectrum_of_a_rotation() -> None:
    network = GammaRNN(1, 6, dtype=torch.float64)
    values = spectrum(network)
    np.testing.assert_allclose(np.abs(values), 1, rtol=1e-12)
    W = network.weight_hh_l0.detach().numpy()
    angles = np.sort([np.arctan2(W[i, i + 1], W[i, i]) for i in (0, 2, 4)])
    np.testing.assert_allclose(np.sort(np.angle(values))[:3], np.sort(-np.abs(angles)), atol=1e-12)


@pytest.mark.parametrize(
    "network", [ARUN(1, 4, controller_size=2), nn.RNN(1, 4, nonlinearity="relu")], ids=["arun", "rnn"]
)
def test_spectrum_of_a_network_is_that_of_its_matrix(network: nn.Module) -> None:
    W = network.weight_hh_l0.detach().double().numpy()
    values = spectrum(network)
    np.testing.assert_array_equal(values, spectrum(W))
    assert (np.diff(np.abs(values)) <= 1e-12).all()
    np.testing.assert_allclose(np.prod(values).real, np.linalg.det(W), rtol=1e-8)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: jacobian_norms(np.eye(3), [1.0], [0.0, 1.0]), "gains: got a grid of 1 point, expected 2 or more"),
        (lambda: jacobian_norms(np.eye(3), [1.0, 2.0], [0.5]), "saturations: got a grid of 1 point"),
        (lambda: jacobian_norms(np.eye(3), [2.0, 1.0], [0.0, 1.0]), "gains: got a grid of 2 points, .* rising"),
        (lambda: jacobian_norms(np.ones((2, 3)), [1, 2], [0, 1]), r"weight_hh: got a matrix of shape \(2, 3\)"),
        (lambda: jacobian_norms(np.eye(3), [1, 2], [0, 1], [1, 2]), "bias: got 2 values, expected one or 3"),
        (lambda: jacobian_norms(np.eye(3), [1, 2], [0, 1], samples=1), "samples: got 1"),
        (lambda: jacobian_norms(np.eye(3), [1, 2], [0, 1], low=2, high=1), "high: got 1, expected a number above low"),
        (lambda: stability_boundary(0.0, [1.0], 0.0), "sigma: got 0.0, expected a finite number above 0"),
        (lambda: noise_decays(0.0, 1.0, 0.0, margin=1.0), "margin: got 1.0, expected .* below 1"),
        (lambda: predicted_path([1.0], (5.0, 0.0), gains=(-1.0, 1.0)), "gains: got .* that does not hold 0"),
        (lambda: predicted_path([1.0], (5.0, np.nan)), "start s: got nan"),
        (lambda: predicted_path([0.0], (2.0, 0.0), 3.0, (2.0, 2.0 + 1e-13), 2), "in which no .* is stable"),
        (lambda: spectrum(nn.LSTM(1, 3)), "network: got an LSTM"),
        (lambda: spectrum(np.ones(3)), r"weight_hh: got an array of shape \(3,\), expected 2 dimensions"),
    ],
    ids=lambda value: "-".join(re.findall("[a-z]+", value)[:4]) if isinstance(value, str) else "",
)
def test_refusals(call: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        call()
