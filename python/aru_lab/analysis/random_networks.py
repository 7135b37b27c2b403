"""Networks that are not trained: the Jacobian's norm and the largest Lyapunov exponent over (n, s), and Proposition 1.

All weights are random Henaff matrices, which are orthogonal; the input and the bias are 0, and all neurons have the
same n and s. Source: Geadah et al. 2024, analysis of random networks (figure 6), Proposition 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aru_kernels import reference
from aru_kernels.init import henaff_orthogonal_
from aru_lab.analysis import checks
from aru_lab.analysis.lyapunov import lyapunov_exponents, static_tangent
from aru_lab.analysis.network import Layer
from aru_lab.analysis.stability import JacobianNorms, jacobian_norms, slope_at

GAINS = np.linspace(1, 20, 20)
SATURATIONS = np.linspace(0, 1, 10)


@dataclass(frozen=True)
class ExponentGrid:
    """Largest Lyapunov exponent of random networks over a grid of (n, s), nats a step.

    gains (N,), saturations (S,); exponents (N, S, K): of K networks.
    """

    gains: np.ndarray
    saturations: np.ndarray
    exponents: np.ndarray


@dataclass(frozen=True)
class VarianceRatio:
    """What one step does to noise: measured (D,), predicted (D,), along each of D directions; ratios of variances."""

    measured: np.ndarray
    predicted: np.ndarray


def henaff(size: int, count: int, seed: int) -> Tensor:
    """`count` random orthogonal matrices of Henaff's, (count, size, size), float64."""
    generator = torch.Generator().manual_seed(checks.whole("seed", seed, 0))
    weights = torch.empty(checks.whole("count", count), checks.whole("size", size), size, dtype=torch.float64)
    for weight in weights:
        henaff_orthogonal_(weight, generator)
    return weights


def norm_grid(
    size: int = 400,
    gains: Any = GAINS,
    saturations: Any = SATURATIONS,
    draws: int = 100,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> JacobianNorms:
    """Mean of ||dh_t / dh_{t-1}||_2 over random W_hh and h_{t-1} ~ U(-5, 5), at every point of a grid.

    Args:
        size: H.
        gains, saturations: (N,) and (S,), rising; at least two points each.
        draws: how often W_hh and h are drawn.
        seed: of both.
        progress: called with the points done and all points.

    Raises:
        ConfigError: an argument out of its range.
    """
    weights = henaff(size, checks.whole("draws", draws, 2), seed)
    return jacobian_norms(weights, gains, saturations, samples=1, seed=seed, progress=progress)


def exponent_grid(
    size: int = 400,
    gains: Any = GAINS,
    saturations: Any = SATURATIONS,
    networks: int = 10,
    steps: int = 1000,
    transient: int = 200,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> ExponentGrid:
    """Largest Lyapunov exponent of h -> γ(W_hh h; n, s) from h_0 ~ U(0, 1), at every point of a grid.

    Args:
        size: H.
        gains, saturations: (N,) and (S,).
        networks: K, each with W_hh and h_0 of its own, the same ones for every point.
        steps, transient: steps averaged over, and discarded before.
        seed: of W_hh and h_0.
        progress: called with the networks done and all networks.

    Returns:
        The exponents; minus infinity where the Jacobian is singular, NaN where the state leaves the finite numbers.

    Raises:
        ConfigError: an argument out of its range.
    """
    n, s = (checks.array(name, value, ndim=1) for name, value in (("gains", gains), ("saturations", saturations)))
    weights = henaff(size, checks.whole("networks", networks), seed)
    points = [torch.from_numpy(x.reshape(-1, 1)) for x in np.meshgrid(n, s, indexing="ij")]
    starts = np.random.default_rng([seed, 1]).uniform(size=(networks, size))
    zero = torch.zeros(size, dtype=torch.float64)
    found = np.empty((networks, len(n), len(s)))
    for k, weight in enumerate(weights):
        layer = Layer(zero[:, None], weight, zero, None, None, None, 1e-3)
        tangent = static_tangent(layer, *points, zero[None])
        initial = np.tile(starts[k], (len(points[0]), 1))
        exponents = lyapunov_exponents(tangent, initial, 1, steps, transient, seed=seed, strict=False).exponents
        found[k] = exponents.reshape(found.shape[1:])
        if progress is not None:
            progress(k + 1, networks)
    return ExponentGrid(n, s, np.moveaxis(found, 0, 2))


def variance_ratio(
    mean: Any, n: Any, s: Any, sigma: float = 1e-3, samples: int = 2000, directions: int = 8, seed: int = 0
) -> VarianceRatio:
    """Proposition 1: the variance of noise along directions of the state, after one step over before it.

        h = γ(μ + σ W z; n, s),   z of mean 0 and covariance 1,   W orthogonal
        Var(u·h) / Var(u·z) against Σ_i u_i² γ'(μ_i; n_i, s_i)² σ²

    Args:
        mean: μ; n, s: gain and saturation; numbers or (H,), broadcast against each other.
        sigma: σ; the proposition holds for small ones.
        samples: of z, with its sample covariance made exactly 1, so that the ratio has no sampling error for small σ.
        directions: D random unit vectors u; the H neurons come before them.
        seed: of W, z and u.

    Returns:
        The ratios along the H neurons and D random directions, (H + D,).

    Raises:
        ConfigError: an argument out of its range, or fewer than 2 H samples.
    """
    named = {"mean": mean, "n": n, "s": s}
    values = (checks.array(name, np.atleast_1d(value), ndim=1) for name, value in named.items())
    mu, gain, saturation = np.broadcast_arrays(*values)
    size = len(mu)
    sigma = checks.number("sigma", sigma, 0, open_end=True)
    rng = np.random.default_rng(checks.whole("seed", seed, 0))
    z = rng.standard_normal((checks.whole("samples", samples, 2 * size), size))
    z -= z.mean(0)
    z = np.linalg.qr(z)[0] * np.sqrt(len(z))
    weight = henaff(size, 1, seed)[0].numpy()
    along = rng.standard_normal((checks.whole("directions", directions, 0), size))
    along = np.concatenate([np.eye(size), along / np.linalg.norm(along, axis=1, keepdims=True)])
    a, gain, saturation = (torch.from_numpy(np.array(x)) for x in (mu + sigma * z @ weight.T, gain, saturation))
    h = reference.gamma(a, gain, saturation).numpy()
    slope = slope_at(mu, gain, saturation)
    return VarianceRatio((h @ along.T).var(0), along**2 @ (slope * sigma) ** 2)
