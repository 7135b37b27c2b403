"""Fractional differentiation, and the order that a neuron's response to a step has.

The derivative of order α multiplies the Fourier transform by H(f) = (2πi f)^α, H(0) = 0; a negative order integrates.
Source: Geadah et al. 2024, analysis of the fractional order, after Lundstrom, Higgs, Spain, Fairhall, Nature
Neuroscience 2008.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import fft
from scipy.optimize.elementwise import find_minimum

from aru_lab.analysis import checks
from aru_lab.analysis.parts import Part, Report
from aru_lab.analysis.protocols import STEP_PROTOCOLS, StepProtocol
from aru_lab.analysis.responses import CONNECTIVITY
from aru_lab.analysis.settings import Settings
from aru_lab.errors import ConfigError, number_of
from aru_lab.runs.analyses import Result, Run, Table

SHORTEST = 16
ORDERS = np.linspace(-1.0, 1.0, 201)
NEAR_0 = 0.01  # an order this near to 0 neither integrates nor differentiates
SHARP = 0.5  # a minimum is sharp where the error is less than half of those at α ± 0.2
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
    offset: float = 0.0,
    refine: bool = True,
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
        offset: is added to d(t) - d(0), as the authors' code does for some responses.
        refine: whether to search between the points of the grid.

    Raises:
        ConfigError: fewer than 16 steps, a grid of fewer than 3 points, a drive without a step, a baseline or window
            outside the response.
    """
    grid = checks.array("orders", orders, ndim=1)
    if len(grid) < 3 or not (np.diff(grid) > 0).all():
        raise ConfigError(f"orders: got a grid of {number_of(len(grid), 'point')}, expected at least 3, rising.")
    comparison = _Comparison.of(response, drive, baseline, window, dt, offset)
    spectra, n_steps = comparison.spectra, comparison.n_steps
    errors = np.empty((len(spectra), len(grid)))
    filters = transfer(comparison.frequencies, grid)
    per_block = max(1, _CHUNK // (n_steps * len(grid)))
    for start in range(0, len(spectra), per_block):
        block = slice(start, start + per_block)
        errors[block] = comparison.error(filters, spectra[block, None])

    best = errors.argmin(1)
    at_edge = (best == 0) | (best == len(grid) - 1)
    order, least = grid[best], errors[np.arange(len(spectra)), best]
    inner = np.flatnonzero(~at_edge)
    if refine and inner.size:
        bracket = tuple(grid[best[inner] + shift] for shift in (-1, 0, 1))
        found = find_minimum(
            lambda alpha, index: comparison.error(transfer(comparison.frequencies, alpha), spectra[index]),
            bracket,
            args=(inner,),
            tolerances={"xatol": 1e-6},
        )
        better = found.f_x < least[inner]
        order[inner[better]], least[inner[better]] = found.x[better], found.f_x[better]
    shape = comparison.shape
    return FractionalOrder(
        order.reshape(shape), least.reshape(shape), at_edge.reshape(shape), grid, errors.reshape(*shape, len(grid))
    )


def sharpness(
    response: Any,
    drive: Any,
    found: FractionalOrder,
    baseline: int | tuple[int, int] | None = None,
    window: tuple[int, int] | None = None,
    dt: float = 1.0,
    offset: float = 0.0,
    distance: float = 0.2,
) -> np.ndarray:
    """How sharp the minimum over α is: the error there over the smaller one of those at α ± distance.

    Below 1/2 the minimum counts as sharp. α ± distance may lie outside the grid.

    Args:
        response, drive, baseline, window, dt, offset: as for `fractional_order`.
        found: what it returned for them.
        distance: in α.

    Returns:
        (...), NaN where both errors are 0.
    """
    comparison = _Comparison.of(response, drive, baseline, window, dt, offset)
    order = np.asarray(found.order).reshape(-1)
    beside = [
        comparison.error(transfer(comparison.frequencies, order + shift), comparison.spectra)
        for shift in (-distance, distance)
    ]
    with np.errstate(invalid="ignore", divide="ignore"):
        return (np.asarray(found.error).reshape(-1) / np.minimum(*beside)).reshape(comparison.shape)


@dataclass(frozen=True)
class _Comparison:
    """Responses (of the shape `shape`) in the Fourier domain, and what they are compared with once filtered."""

    spectra: np.ndarray
    shape: tuple[int, ...]
    n_steps: int
    frequencies: np.ndarray
    base: slice
    window: slice
    target: np.ndarray

    @classmethod
    def of(
        cls,
        response: Any,
        drive: Any,
        baseline: int | tuple[int, int] | None,
        window: tuple[int, int] | None,
        dt: float,
        offset: float,
    ) -> _Comparison:
        """Arguments and errors as in `fractional_order`."""
        r = checks.array("response", response)
        n_steps = r.shape[-1]
        if n_steps < SHORTEST:
            raise ConfigError(
                f"response: got {n_steps} steps, expected at least {SHORTEST}: a shorter response has no fractional "
                "order."
            )
        d = checks.array("drive", drive, ndim=1)
        if len(d) != n_steps:
            raise ConfigError(f"drive: got {len(d)} steps, expected {n_steps}, as many as the response has.")
        onset, end = step_bounds(d)
        margin = max(1, (end - onset) // 5)
        first, last = _range("window", window or (max(0, onset - margin), min(n_steps, end + margin)), n_steps)
        base = _range("baseline", (onset // 4, max(onset // 2, 1)) if baseline is None else baseline, n_steps)
        return cls(
            fft.rfft(r.reshape(-1, n_steps)),
            r.shape[:-1],
            n_steps,
            fft.rfftfreq(n_steps, checks.number("dt", dt, 0, open_end=True)),
            slice(*base),
            slice(first, last),
            d[first:last] - d[0] + checks.number("offset", offset),
        )

    def error(self, filters: np.ndarray, spectra: np.ndarray) -> np.ndarray:
        """Mean squared errors of the filtered responses."""
        filtered = fft.irfft(filters * spectra, n=self.n_steps)
        deviation = filtered[..., self.window] - filtered[..., self.base].mean(-1, keepdims=True)
        deviation -= self.target
        return np.einsum("...t,...t->...", deviation, deviation) / len(self.target)


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
    return orders_of(run.files.load("responses"), settings, run.adaptive, report)


def orders_of(
    saved: Mapping[str, np.ndarray],
    settings: Settings,
    adaptive: bool,
    report: Report = lambda done, total: None,
) -> Result:
    """Fractional orders of the arrays of `responses.protocol_responses`.

    Args:
        saved: these arrays.
        settings: the same as there.
        adaptive: whether n and s have responses of their own, as those of an ARUN have.
        report: called with the kinds of responses done and all kinds.

    Returns:
        What the file fractional.npz holds.
    """
    protocol = STEP_PROTOCOLS[settings.fractional]
    kinds = ("h", "n", "s") if adaptive else ("h",)
    arrays = {
        "amplitudes": saved["amplitudes"][1:],
        "orders": protocol.orders_of_mean,
        "orders_of_neurons": protocol.orders_of_neurons,
        "window": np.array(protocol.window),
    }
    for done, kind in enumerate(kinds):
        found = [
            _orders_of(saved[f"{kind}_{name}"][1:].astype(np.float64), saved["amplitudes"][1:], protocol)
            for name in CONNECTIVITY
        ]
        suffix = "" if kind == "h" else f"_{kind}"
        arrays |= {f"{name}{suffix}": np.array([one[name] for one in found]) for name in found[0]}
        report(done + 1, len(kinds))
    summaries = {
        "order_of_mean": arrays["order_of_mean"],
        "mean_order": arrays["order"].mean(2),
        "deviation": arrays["order"].std(2),
        "fraction_above_0": (arrays["order"] > 0).mean(2),
        "fraction_below_0": (arrays["order"] < 0).mean(2),
        "fraction_at_edge": arrays["at_edge"].mean(2),
        "fraction_near_0": (np.abs(arrays["order"]) < NEAR_0).mean(2),
        "fraction_sharp": (arrays["sharpness"] < SHARP).mean(2),
    }
    columns = summaries | {
        "sharpness_of_mean": arrays["sharpness_of_mean"],
        "restored_r_squared": arrays["restored_r_squared"],
    }
    rows = [
        (name, xi, *(values[c, i] for values in columns.values()))
        for c, name in enumerate(CONNECTIVITY)
        for i, xi in enumerate(arrays["amplitudes"])
    ]
    mean, largest = arrays["order_of_mean"], arrays["amplitudes"][-1]
    return Result(
        arrays | summaries,
        {"fractional": Table(("connectivity", "amplitude", *columns), rows)},
        f"order of the mean response at ξ = {largest:g}: {mean[0, -1]:.2f} in the network, {mean[1, -1]:.2f} isolated",
    )


def _orders_of(responses: np.ndarray, amplitudes: np.ndarray, protocol: StepProtocol) -> dict[str, np.ndarray]:
    """Orders of one kind of response (A, T, H), by neuron and of the mean over neurons."""
    results: dict[str, list[Any]] = {}
    for xi, response in zip(amplitudes, responses, strict=True):
        target, mean = protocol.high(xi), response.mean(1)
        options = {"baseline": protocol.baseline, "window": protocol.window}
        each_has, mean_has = (
            options | {"offset": offset} for offset in (protocol.offset_of_neurons, protocol.offset_of_mean)
        )
        each = fractional_order(response.T, target, protocol.orders_of_neurons, refine=protocol.refine, **each_has)
        whole = fractional_order(mean, target, protocol.orders_of_mean, refine=protocol.refine, **mean_has)
        restored = derivative(mean, whole.order)
        restored -= restored[protocol.baseline]
        inside = slice(*protocol.window)
        residual = restored[inside] - target[inside] - protocol.offset_of_mean
        found = {
            "order": each.order,
            "error": each.error,
            "at_edge": each.at_edge,
            "sharpness": sharpness(response.T, target, each, **each_has),
            "order_of_mean": whole.order,
            "error_of_mean": whole.error,
            "errors_of_mean": whole.errors,
            "at_edge_of_mean": whole.at_edge,
            "sharpness_of_mean": sharpness(mean, target, whole, **mean_has),
            "restored": restored,
            "restored_r_squared": _correlation(restored[inside], target[inside]) ** 2,
            "restored_determination": 1 - np.mean(residual**2) / target[inside].var(),
        }
        for name, value in found.items():
            results.setdefault(name, []).append(value)
    return {name: np.array(values) for name, values in results.items()} | {
        "errors_of_neurons": each.errors.astype(np.float32)
    }


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's, 0 where one of them is constant."""
    deviations = [values - values.mean() for values in (x, y)]
    norm = np.prod([np.linalg.norm(values) for values in deviations])
    return float(deviations[0] @ deviations[1] / norm) if norm > 0 else 0.0


PART = Part(analyse_orders, ("amplitudes", "repeats", "fractional", "seed"), needs=("responses",))
