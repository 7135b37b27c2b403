"""Fractional differentiation, and the order that a neuron's response to a step has.

The derivative of order α multiplies the Fourier transform by H(f) = (2πi f)^α, H(0) = 0; a negative order integrates.
Source: Geadah et al. 2024, analysis of the fractional order, after Lundstrom, Higgs, Spain, Fairhall, Nature
Neuroscience 2008.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import fft
from scipy.optimize.elementwise import find_minimum

from aru_lab.analysis import checks
from aru_lab.analysis.parts import Part, Report
from aru_lab.analysis.responses import CONNECTIVITY
from aru_lab.analysis.settings import Settings
from aru_lab.errors import ConfigError
from aru_lab.runs.analyses import Result, Run, Table

SHORTEST = 16
ORDERS = np.linspace(-1.0, 1.0, 201)
_CHUNK = 1 << 20  # numbers of one block of filtered signals: 8 MiB


@dataclass(frozen=True)
class FractionalOrder:
    """The order of each response, and how the error depends on it.

    order (...): the arg-min over α, refined between the grid's points; error (...): the mean squared error there;
    at_edge (...): whether the least error lies at an end of the grid, so that the true minimum may lie beyond;
    orders (A,): the grid; errors (..., A): the error at every point of it.
    """

    order: np.ndarray
    error: np.ndarray
    at_edge: np.ndarray
    orders: np.ndarray
    errors: np.ndarray


def derivative(signal: Any, order: Any, dt: float = 1.0) -> np.ndarray:
    """D^α of a signal: the inverse Fourier transform of (2πi f)^α X(f), 0 at f = 0; its real part.

    The transform takes the signal as periodic, and H(0) = 0 takes its mean away. D^β D^α = D^(α+β) and D^-α D^α = 1 for
    signals of mean 0 without a component at the Nyquist frequency (which an odd T does not have).

    Args:
        signal: (..., T), real, on an even grid of time.
        order: α: a number, or an array that broadcasts to (...); negative orders integrate.
        dt: time between two samples; the result is in units of the signal times (unit of time)^-α.

    Returns:
        (..., T), float64.

    Raises:
        ConfigError: a signal of fewer than two samples or with values that are not finite.
    """
    x = checks.array("signal", signal, least=2)
    alpha = np.asarray(order, dtype=np.float64)
    if not np.isfinite(alpha).all():
        raise ConfigError("order: got a value that is not finite, expected finite numbers.")
    frequencies = fft.rfftfreq(x.shape[-1], checks.number("dt", dt, 0, open_end=True))
    return fft.irfft(transfer(frequencies, alpha) * fft.rfft(x), n=x.shape[-1])


def integral(signal: Any, order: Any, dt: float = 1.0) -> np.ndarray:
    """The inverse of `derivative`: D^-α. Arguments, result and errors as there."""
    return derivative(signal, -np.asarray(order, dtype=np.float64), dt)


def transfer(frequencies: np.ndarray, order: Any) -> np.ndarray:
    """H(f) = (2πi f)^α for frequencies f >= 0 of shape (F,), 0 at f = 0: (..., F) for orders α of shape (...)."""
    alpha = np.asarray(order, dtype=np.float64)[..., None]
    response = np.zeros(np.broadcast_shapes(alpha.shape, frequencies.shape), dtype=np.complex128)
    positive = frequencies > 0
    log_omega = np.log(2 * np.pi * frequencies[positive])
    response[..., positive] = np.exp(alpha * (log_omega + 0.5j * np.pi))
    return response


def fractional_order(
    response: Any,
    drive: Any,
    orders: Any = ORDERS,
    baseline: int | tuple[int, int] | None = None,
    window: tuple[int, int] | None = None,
    dt: float = 1.0,
) -> FractionalOrder:
    """The order α for which D^α of the response comes nearest to the drive: grid search, then refinement.

        α = argmin_α  mean over the window of (D^α r(t) - D^α r(before the step) - (d(t) - d(0)))²

    The response of a perfect integrator of order β has α = β, that of a differentiator α = -β. Refinement: minimum in
    the bracket around the best point of the grid (Chandrupatla's method of scipy), to 1e-6.

    Args:
        response: (..., T), for example (H, T): the mean over repeats of every neuron's h.
        drive: (T,), the step that caused it.
        orders: (A,) rising orders to try, at least 3.
        baseline: step, or range of steps whose mean, is subtracted from the filtered response; None takes the second
            quarter of the time before the drive, far from the drive and from the seam of the periodic transform.
        window: (first, end) of the steps compared; None takes the drive and a fifth of its length on either side.
        dt: time between samples.

    Raises:
        ConfigError: fewer than 16 steps, a grid of fewer than 3 points, a drive without a step, a baseline or window
            outside the response.
    """
    r = checks.array("response", response)
    n_steps = r.shape[-1]
    if n_steps < SHORTEST:
        raise ConfigError(
            f"response: got {n_steps} steps, expected at least {SHORTEST}: a shorter response has no fractional order."
        )
    d = checks.array("drive", drive, ndim=1)
    if len(d) != n_steps:
        raise ConfigError(f"drive: got {len(d)} steps, expected {n_steps}, as many as the response has.")
    grid = checks.array("orders", orders, ndim=1)
    if len(grid) < 3 or not (np.diff(grid) > 0).all():
        raise ConfigError(
            f"orders: got a grid of {len(grid)} point{'s' * (len(grid) != 1)}, expected at least 3, rising."
        )
    onset, end = step_bounds(d)
    margin = max(1, (end - onset) // 5)
    first, last = _range("window", window or (max(0, onset - margin), min(n_steps, end + margin)), n_steps)
    base = slice(*_range("baseline", (onset // 4, max(onset // 2, 1)) if baseline is None else baseline, n_steps))
    target = d[first:last] - d[0]

    flat = r.reshape(-1, n_steps)
    spectra = fft.rfft(flat)
    frequencies = fft.rfftfreq(n_steps, checks.number("dt", dt, 0, open_end=True))

    def error(filters: np.ndarray, spectra: np.ndarray) -> np.ndarray:
        filtered = fft.irfft(filters * spectra, n=n_steps)
        deviation = filtered[..., first:last] - filtered[..., base].mean(-1, keepdims=True)
        deviation -= target
        return np.einsum("...t,...t->...", deviation, deviation) / len(target)

    errors = np.empty((len(flat), len(grid)))
    filters = transfer(frequencies, grid)
    per_block = max(1, _CHUNK // (n_steps * len(grid)))
    for start in range(0, len(flat), per_block):
        block = slice(start, start + per_block)
        errors[block] = error(filters, spectra[block, None])

    best = errors.argmin(1)
    at_edge = (best == 0) | (best == len(grid) - 1)
    order, least = grid[best], errors[np.arange(len(flat)), best]
    inner = np.flatnonzero(~at_edge)
    if inner.size:
        bracket = tuple(grid[best[inner] + offset] for offset in (-1, 0, 1))
        found = find_minimum(
            lambda alpha, index: error(transfer(frequencies, alpha), spectra[index]),
            bracket,
            args=(inner,),
            tolerances={"xatol": 1e-6},
        )
        better = found.f_x < least[inner]
        order[inner[better]], least[inner[better]] = found.x[better], found.f_x[better]
    shape = r.shape[:-1]
    return FractionalOrder(
        order.reshape(shape), least.reshape(shape), at_edge.reshape(shape), grid, errors.reshape(*shape, len(grid))
    )


def step_bounds(drive: np.ndarray) -> tuple[int, int]:
    """First step at which the drive (T,) differs from its first value, and the step after the last such.

    Raises:
        ConfigError: it is constant, or begins to differ in the first three steps, which leaves nothing before it.
    """
    differs = np.flatnonzero(drive != drive[0])
    if not differs.size or differs[0] < 3:
        raise ConfigError(
            "drive: got one that is constant or begins in its first three steps, expected a step with time before it."
        )
    return int(differs[0]), int(differs[-1]) + 1


def _range(name: str, value: int | tuple[int, int], n_steps: int) -> tuple[int, int]:
    first, end = (value, value + 1) if isinstance(value, (int, np.integer)) else value
    if not 0 <= first < end <= n_steps:
        raise ConfigError(f"{name}: got {value!r}, expected steps within the response's {n_steps}.")
    return int(first), int(end)


def analyse_orders(run: Run, settings: Settings, report: Report) -> Result:
    """Fractional order of every neuron's response, and of the mean response, at every amplitude but 0."""
    saved = run.files.load("responses")
    amplitudes = saved["amplitudes"][1:]
    neurons, means, curves, edges = [], [], [], []
    for c, name in enumerate(CONNECTIVITY):
        h = saved[f"h_{name}"][1:].astype(np.float64)  # (A, T, H)
        each, mean = [], []
        for i, drive in enumerate(saved["drives"][1:]):
            each.append(fractional_order(h[i].T, drive))
            mean.append(fractional_order(h[i].mean(1), drive))
            report(c * len(amplitudes) + i + 1, len(CONNECTIVITY) * len(amplitudes))
        neurons.append([found.order for found in each])
        edges.append([found.at_edge for found in each])
        means.append([found.order for found in mean])
        curves.append([found.errors for found in mean])
    order, mean = np.array(neurons), np.array(means)  # (2, A, H), (2, A)
    rows = [
        (name, xi, mean[c, i], order[c, i].mean(), order[c, i].std(), np.mean(order[c, i] > 0), np.mean(edges[c][i]))
        for c, name in enumerate(CONNECTIVITY)
        for i, xi in enumerate(amplitudes)
    ]
    header = (
        "connectivity", "amplitude", "order_of_mean", "mean_order", "deviation", "fraction_above_0", "fraction_at_edge",
    )  # fmt: skip
    return Result(
        {
            "amplitudes": amplitudes,
            "order": order,
            "at_edge": np.array(edges),
            "order_of_mean": mean,
            "orders": ORDERS,
            "errors_of_mean": np.array(curves),
        },
        {"fractional": Table(header, rows)},
        f"order of the mean response at ξ = {amplitudes[-1]:g}: {mean[0, -1]:.2f} in the network, {mean[1, -1]:.2f} "
        "isolated",
    )


PART = Part(analyse_orders, ("amplitudes", "repeats", "seed"), needs=("responses",))
