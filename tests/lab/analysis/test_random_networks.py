"""Random networks: norms of their Jacobians and exponents against closed forms, Proposition 1 by propagated noise."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch

from aru_kernels import GammaRNN, reference
from aru_lab.analysis.lyapunov import network_exponents
from aru_lab.analysis.random_networks import GAINS, SATURATIONS, exponent_grid, henaff, norm_grid, variance_ratio
from aru_lab.analysis.stability import state_jacobian
from aru_lab.errors import ConfigError


def steepest(n: float, s: float) -> float:
    """The supremum of γ' over x."""
    return (1 + s * (n - 1)) ** 2 / (4 * n * s) if s > 1 / (n + 1) else 1 - s


def test_matrices_are_orthogonal_and_differ() -> None:
    weights = henaff(7, 3, seed=1)
    torch.testing.assert_close(weights @ weights.mT, torch.eye(7, dtype=torch.float64).expand(3, 7, 7))
    assert (weights[0] != weights[1]).any()
    torch.testing.assert_close(weights, henaff(7, 3, seed=1), rtol=0, atol=0)


def test_norms_are_those_of_the_matrices() -> None:
    found = norm_grid(12, [1.0, 5.0], [0.0, 0.4, 1.0], draws=5, seed=3)
    weights = henaff(12, 5, seed=3)
    h = torch.from_numpy(np.random.default_rng(3).uniform(-5, 5, (5, 12)))
    for i, n in enumerate(found.gains):
        for j, s in enumerate(found.saturations):
            jacobians = [
                state_jacobian(state, weight, torch.tensor(n), torch.tensor(s))
                for state, weight in zip(h, weights, strict=True)
            ]
            norms = torch.stack([torch.linalg.matrix_norm(jacobian, ord=2) for jacobian in jacobians])
            assert found.norm[i, j] == pytest.approx(norms.mean().item(), rel=1e-10)
            assert found.error[i, j] == pytest.approx(norms.std().item() / math.sqrt(5), rel=1e-8, abs=1e-12)


def test_norms_of_large_networks_come_near_the_steepest_slope() -> None:
    found = norm_grid(400, GAINS, SATURATIONS, draws=4)
    limits = np.array([[steepest(n, s) for s in SATURATIONS] for n in GAINS])
    assert (found.norm <= limits * (1 + 1e-9)).all()
    np.testing.assert_allclose(found.norm, limits, rtol=0.03)


def test_exponents_are_those_of_the_networks() -> None:
    found = exponent_grid(6, [1.0, 4.0, 10.0], [0.2, 1.0], networks=2, steps=50, transient=10, seed=4)
    assert found.exponents.shape == (3, 2, 2)
    starts = np.random.default_rng([4, 1]).uniform(size=(2, 6))
    for k, weight in enumerate(henaff(6, 2, seed=4)):
        network = GammaRNN(1, 6, heterogeneous=False, dtype=torch.float64)
        for i, n in enumerate(found.gains):
            for j, s in enumerate(found.saturations):
                with torch.no_grad():
                    network.weight_hh_l0.copy_(weight)
                    network.gain_l0.fill_(n)
                    network.saturation_l0.fill_(s)
                options = {"initial": starts[k], "steps": 50, "transient": 10, "seed": 4, "bias": False}
                expected = network_exponents(network, 1, **options).exponents[0, 0]
                assert found.exponents[i, j, k] == pytest.approx(expected, rel=1e-9)


def test_exponent_at_a_fixed_point_is_the_logarithm_of_the_largest_eigenvalue() -> None:
    # γ' <= n/4 for s = 1, so with n = 2 and an orthogonal matrix the map contracts.
    found = exponent_grid(5, [2.0], [1.0], networks=3, steps=800, transient=300)
    n, s = torch.tensor(2.0).double(), torch.tensor(1.0).double()
    for k, weight in enumerate(henaff(5, 3, seed=0)):
        h = torch.zeros(5, dtype=torch.float64)
        for _ in range(200):
            h = reference.gamma(weight @ h, n, s)
        radius = np.abs(np.linalg.eigvals(state_jacobian(h, weight, n, s).numpy())).max()
        assert found.exponents[0, 0, k] == pytest.approx(math.log(radius), abs=5e-3)
        assert radius < 0.5 + 1e-9


@pytest.mark.parametrize("sigma", [1e-4, 1e-3, 1e-2])
def test_variance_of_small_noise_is_multiplied_as_proposition_one_says(sigma: float) -> None:
    rng = np.random.RandomState(0)
    mean, n, s = 3 * rng.randn(6), rng.uniform(0.5, 8, 6), rng.uniform(-0.2, 1.2, 6)
    found = variance_ratio(mean, n, s, sigma)
    assert found.measured.shape == found.predicted.shape == (14,)
    np.testing.assert_allclose(found.measured, found.predicted, rtol=30 * sigma, atol=30 * sigma**3)


def test_variance_of_noise_decays_where_the_slope_says_so() -> None:
    # γ'(0; n, 1) = n/4: the variance grows from n = 4 σ^-1 on.
    for n, decays in ((7.6, True), (8.4, False)):
        found = variance_ratio(np.zeros(4), n, 1.0, sigma=0.5)
        assert ((found.predicted < 1) == decays).all()
    linear = variance_ratio(50.0, 5.0, 0.0, sigma=0.9)  # where γ is linear, no σ is too large
    np.testing.assert_allclose(linear.measured, 0.81, rtol=1e-9)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: norm_grid(0), "size: got 0"),
        (lambda: norm_grid(4, draws=1), "draws: got 1, expected a whole number of at least 2"),
        (lambda: exponent_grid(4, gains=[[1.0]]), "gains: got an array of shape"),
        (lambda: exponent_grid(4, networks=0), "networks: got 0"),
        (lambda: variance_ratio(0.0, 1.0, 0.0, sigma=0.0), "sigma: got 0.0, expected a finite number above 0"),
        (lambda: variance_ratio(np.zeros(6), 1.0, 0.0, samples=11), "samples: got 11, expected .* at least 12"),
        (lambda: variance_ratio(np.nan, 1.0, 0.0), "mean: got 1 values that are not finite"),
    ],
    ids=lambda value: "-".join(re.findall("[a-z]+", value)[:4]) if isinstance(value, str) else "",
)
def test_refusals(call: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        call()
