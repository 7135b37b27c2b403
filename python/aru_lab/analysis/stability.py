"""Linear stability: the Jacobian's norm over (n, s), Proposition 1, and the spectrum of W_hh.

Source: Geadah et al. 2024, Proposition 1 and the analyses of regularization. γ's derivatives come from
`aru_kernels.reference` by automatic differentiation. Lyapunov exponents: `aru_lab.analysis.lyapunov`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aru_lab.analysis import checks
from aru_lab.analysis.network import gamma_slope, recurrent_weight
from aru_lab.analysis.parts import Part, Report
from aru_lab.analysis.settings import Settings
from aru_lab.errors import ConfigError, number_of
from aru_lab.runs.analyses import Result, Run, Table

MARGIN = 0.013  # ε of the authors' figure: their boundary is γ' + ε = 1


@dataclass(frozen=True)
class JacobianNorms:
    """Mean spectral norm of the Jacobian over a grid of (n, s).

    gains (N,), saturations (S,); norm, error (N, S): mean over samples of h, and its standard error.
    """

    gains: np.ndarray
    saturations: np.ndarray
    norm: np.ndarray
    error: np.ndarray


def state_jacobian(h: Tensor, weight_hh: Tensor, n: Tensor, s: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """J = diag(γ'(a; n, s)) W_hh with a = W_hh h + b: (..., H, H) at states h (..., H); n and s broadcast to h."""
    a = h @ weight_hh.T + bias
    return gamma_slope(a, torch.as_tensor(n).to(a), torch.as_tensor(s).to(a))[..., None] * weight_hh


def jacobian_norms(
    weight_hh: Any,
    gains: Any,
    saturations: Any,
    bias: Any = 0.0,
    samples: int = 50,
    low: float = -5.0,
    high: float = 5.0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> JacobianNorms:
    """Mean of ||diag(γ'(a; n, s)) W_hh||_2 over h ~ U(low, high), a = W_hh h + b, at every point of a grid.

    With an orthogonal W_hh the norm is the largest |γ'(a_i)|, and is computed as such.

    Args:
        weight_hh: (H, H), or (D, H, H), D matrices over which the mean is taken as well.
        gains, saturations: (N,) and (S,), rising; at least two points each. The same n and s for all neurons.
        bias: b, a number or (H,).
        samples: states h for each matrix, the same ones for every point of the grid.
        low, high: ends of h's uniform distribution.
        seed: of the states.
        progress: called with the points done and all points.

    Raises:
        ConfigError: an argument out of its range, a grid of one point, or a single state.
    """
    weight = torch.from_numpy(square("weight_hh", weight_hh, several=True))
    weight = weight.reshape(-1, *weight.shape[-2:])
    size = weight.shape[-1]
    n, s = (_grid(name, value) for name, value in (("gains", gains), ("saturations", saturations)))
    if checks.number("high", high) <= checks.number("low", low):
        raise ConfigError(f"high: got {high:g}, expected a number above low, {low:g}.")
    b = torch.from_numpy(checks.array("bias", np.atleast_1d(np.asarray(bias, dtype=np.float64)), ndim=1))
    if len(b) not in (1, size):
        raise ConfigError(f"bias: got {len(b)} values, expected one or {size}.")
    rng = np.random.default_rng(checks.whole("seed", seed, 0))
    checks.whole("samples", samples, 2 if len(weight) == 1 else 1)
    h = torch.from_numpy(rng.uniform(low, high, (len(weight), samples, size)))
    a = h @ weight.mT + b
    identity = torch.eye(size, dtype=weight.dtype)
    orthogonal = all(torch.allclose(one @ one.T, identity, rtol=0, atol=1e-10) for one in weight)
    norms = np.empty((len(n), len(s), len(weight) * samples))
    for i, gain in enumerate(n):
        for j, saturation in enumerate(s):
            slope = gamma_slope(a, torch.tensor(gain), torch.tensor(saturation))
            if orthogonal:
                found = slope.abs().amax(-1)
            else:
                found = torch.linalg.matrix_norm(slope[..., None] * weight[:, None], ord=2)
            norms[i, j] = found.flatten().numpy()
            if progress is not None:
                progress(i * len(s) + j + 1, len(n) * len(s))
    return JacobianNorms(n, s, norms.mean(2), norms.std(2, ddof=1) / np.sqrt(norms.shape[2]))


def noise_decays(mean: Any, n: Any, s: Any, sigma: float = 1.0, margin: float = 0.0) -> np.ndarray:
    """Proposition 1: whether the variance of small noise on every neuron decays in a step, γ'(μ; n, s)² σ² < 1.

    Args:
        mean: μ, mean pre-activation; n, s: gain and saturation; each broadcasts with the others.
        sigma: σ, deviation of the noise; W_hh is orthogonal.
        margin: ε, by which |γ'| σ must stay below 1; the authors' figure has `MARGIN`.

    Returns:
        Boolean, of the broadcast shape; the variance along any direction of the state decays where all neurons' are
        true.
    """
    return np.abs(slope_at(mean, n, s)) < _limit(sigma, margin)


def stability_boundary(
    mean: float, gains: Any, sigma: float = 1.0, margin: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """The edge of Proposition 1's stable region in the (n, s) plane, at a mean pre-activation μ.

    γ is affine in s, and so is γ'(μ) = p(n) + s q(n), with p and q its values at s = 0 and s = 1 less s = 0. The region
    at a given n is therefore the interval of s between (-l - p)/q and (l - p)/q, with l = (1 - ε)/σ.

    Args:
        mean: μ, for example the drive ξ.
        gains: (N,), n.
        sigma, margin: as in `noise_decays`.

    Returns:
        The lowest and the highest stable s for each gain, (N,) each; where γ' does not depend on s (q = 0), -inf and
        inf if every s is stable, NaN if none is.
    """
    n = checks.array("gains", gains, ndim=1)
    mean = checks.number("mean", mean)
    limit = _limit(sigma, margin)
    p = slope_at(mean, n, 0.0)
    q = slope_at(mean, n, 1.0) - p
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = np.sort(np.stack([(-limit - p) / q, (limit - p) / q]), axis=0)
    flat = np.abs(q) < 1e-12
    everything = np.where(np.abs(p) < limit, np.inf, np.nan)
    return np.where(flat, -everything, ends[0]), np.where(flat, everything, ends[1])


def predicted_path(
    drives: Any,
    start: tuple[float, float],
    sigma: float = 1.0,
    gains: tuple[float, float] = (0.1, 20.0),
    points: int = 4001,
    margin: float = 0.0,
) -> np.ndarray:
    """The (n, s) that Proposition 1 predicts for each drive: the stable point nearest to (n, s) without drive.

    At every drive ξ (taken as the mean pre-activation μ) the stable region of `stability_boundary` is searched for the
    point nearest to `start` in the (n, s) plane; a start that is stable stays. A neuron that changes its activation as
    little as stability asks for moves along this path.

    Args:
        drives: (A,), ξ.
        start: (n, s) without the drive.
        sigma, margin: as in `noise_decays`.
        gains: range of n that is searched, both ends of one sign.
        points: of the search in n.

    Returns:
        (A, 2), the predicted (n, s).

    Raises:
        ConfigError: an argument out of its range, or no stable point in the range of n.
    """
    xi = checks.array("drives", drives, ndim=1)
    n0, s0 = (checks.number(f"start {name}", value) for name, value in zip("ns", start, strict=True))
    if not gains[0] < gains[1] or gains[0] * gains[1] <= 0:
        raise ConfigError(f"gains: got {gains!r}, expected a range of n that does not hold 0.")
    n = np.union1d(np.linspace(*gains, checks.whole("points", points, 2)), n0)
    path = []
    for mean in xi:
        low, high = stability_boundary(mean, n, sigma, margin)
        s = np.clip(s0, low, high)
        distance = np.hypot(n - n0, s - s0)
        if np.isnan(distance).all():
            raise ConfigError(
                f"gains: got {gains!r}, in which no (n, s) is stable at the drive {mean:g}; expected a wider range."
            )
        best = np.nanargmin(distance)
        path.append((n[best], s[best]))
    return np.array(path)


def spectrum(network_or_weight: Any) -> np.ndarray:
    """Eigenvalues of W_hh, complex (H,), by falling modulus.

    Args:
        network_or_weight: ARUN, GammaRNN or torch.nn.RNN of one layer, or a matrix (H, H).

    Raises:
        ConfigError: another kind of network, or not a square matrix.
    """
    values = np.linalg.eigvals(_weight(network_or_weight))
    return values[np.argsort(-np.abs(values), kind="stable")].astype(np.complex128)


def square(name: str, value: Any, several: bool = False) -> np.ndarray:
    """`value` as a square float64 matrix, or as several ones (D, H, H) if `several` permits.

    Raises:
        ConfigError: it is not.
    """
    stacked = several and np.ndim(value) == 3
    matrix = checks.array(name, value, ndim=3 if stacked else 2)
    if matrix.shape[-2] != matrix.shape[-1]:
        raise ConfigError(f"{name}: got a matrix of shape {matrix.shape[-2:]}, expected a square one.")
    return matrix


def _weight(network_or_weight: Any) -> np.ndarray:
    if isinstance(network_or_weight, nn.Module):
        return recurrent_weight(network_or_weight).numpy()
    return square("weight_hh", network_or_weight)


def slope_at(mean: Any, n: Any, s: Any) -> np.ndarray:
    """γ'(μ; n, s), float64 of the broadcast shape."""
    arguments = [torch.as_tensor(np.asarray(x, dtype=np.float64)) for x in (mean, n, s)]
    return gamma_slope(*arguments).numpy()


def _limit(sigma: float, margin: float) -> float:
    """What |γ'| must stay below."""
    if checks.number("margin", margin, 0) >= 1:
        raise ConfigError(f"margin: got {margin!r}, expected a number of at least 0 and below 1.")
    return (1 - margin) / checks.number("sigma", sigma, 0, open_end=True)


def _grid(name: str, value: Any) -> np.ndarray:
    grid = checks.array(name, value, ndim=1)
    if len(grid) < 2 or not (np.diff(grid) > 0).all():
        raise ConfigError(f"{name}: got a grid of {number_of(len(grid), 'point')}, expected 2 or more, rising.")
    return grid


def analyse_spectrum(run: Run, settings: Settings, report: Report) -> Result:
    """Eigenvalues of W_hh before and after training."""
    before, after = (spectrum(model.recurrent) for model in (run.initial_model, run.model))
    report(1, 1)
    rows = [
        (when, value.real, value.imag) for when, values in (("before", before), ("after", after)) for value in values
    ]
    return Result(
        {
            "before": before,
            "after": after,
            "radius_before": np.array(abs(before[0])),
            "radius_after": np.array(abs(after[0])),
        },
        {"spectrum": Table(("training", "real", "imaginary"), rows)},
        f"spectral radius {abs(before[0]):.3f} before training, {abs(after[0]):.3f} after",
    )


PART = Part(analyse_spectrum, (), suits="single")
