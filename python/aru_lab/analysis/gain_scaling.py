"""Gain scaling: how n and s at steady state depend on the amplitude of the drive.

Source: Geadah et al. 2024: power law a ξ^-b + c for the gain, exponential a e^(-b ξ) + c for the saturation, ξ the
standard deviation of the noise into every neuron (`responses.noise_responses`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats
from scipy.optimize import OptimizeWarning, curve_fit

from aru_lab.analysis import checks
from aru_lab.analysis.checks import AnalysisError
from aru_lab.analysis.parts import Part, Report
from aru_lab.analysis.responses import Responses, noise_responses
from aru_lab.analysis.settings import Settings
from aru_lab.arguments import check_choice
from aru_lab.errors import ConfigError
from aru_lab.runs.analyses import Result, Run, Table

# Exponents tried for a start, either sign, so that the search begins in the right basin whatever the units.
_STARTS = np.concatenate([-np.geomspace(8, 0.03, 12), np.geomspace(0.03, 8, 12)])


@dataclass(frozen=True)
class SteadyState:
    """n and s while the drive lasts, once settled. A amplitudes, R repeats, T steps, H neurons.

    amplitudes (A,); n, s (A, R): means over neurons and the settled steps; n_neurons, s_neurons (A, H): means over
    repeats and those steps; n_course, s_course (A, T): means over repeats and neurons; window: the settled steps.
    """

    amplitudes: np.ndarray
    n: np.ndarray
    s: np.ndarray
    n_neurons: np.ndarray
    s_neurons: np.ndarray
    n_course: np.ndarray
    s_course: np.ndarray
    window: tuple[int, int]


@dataclass(frozen=True)
class Fit:
    """A fitted curve y(x) = a f(b x) + c.

    kind: "power" or "exponential"; parameters, low, high (3,): a, b, c and the ends of their confidence intervals;
    confidence: the intervals' level; r_squared: 1 - residual / total sum of squares.
    """

    kind: str
    parameters: np.ndarray
    low: np.ndarray
    high: np.ndarray
    confidence: float
    r_squared: float

    def __call__(self, x: Any) -> np.ndarray:
        """The curve at x, any shape."""
        return CURVES[self.kind](np.asarray(x, dtype=np.float64), *self.parameters)


def power(x: np.ndarray, a: float, b: float, c: float) -> np.ndarray:
    """`a x^-b + c`, for x > 0."""
    return a * x**-b + c


def exponential(x: np.ndarray, a: float, b: float, c: float) -> np.ndarray:
    """`a e^(-b x) + c`."""
    return a * np.exp(-b * x) + c


CURVES: dict[str, Callable[..., np.ndarray]] = {"power": power, "exponential": exponential}


def steady_state(responses: Responses, settle: float = 0.55) -> SteadyState:
    """n and s of the driven neurons once they have settled.

    Args:
        responses: of `noise_responses` or `step_responses`.
        settle: fraction of the driven steps to leave out as transient; 0.55 leaves the last 90 of 200, as the authors
            do.

    Raises:
        ConfigError: nothing is left.
    """
    length = responses.end - responses.onset
    first = responses.onset + round(length * checks.number("settle", settle, 0))
    if first >= responses.end:
        raise ConfigError(
            f"settle: got {settle:g} of {length} driven steps, which leaves none; expected a longer drive or a "
            "fraction below 1."
        )
    window = slice(first, responses.end)
    n, s = (x.astype(np.float64) for x in (responses.n, responses.s))
    return SteadyState(
        responses.amplitudes,
        *(x[:, :, window].mean((2, 3)) for x in (n, s)),
        *(x[:, :, window].mean((1, 2)) for x in (n, s)),
        *(x.mean((1, 3)) for x in (n, s)),
        (first, responses.end),
    )


def fit(kind: str, x: Any, y: Any, confidence: float = 0.95) -> Fit:
    """Least-squares fit of a power law or an exponential with an offset, and the confidence intervals.

    Intervals are those of the linearised problem (scipy's covariance, Student's t with N - 3 degrees of freedom).

    Args:
        kind: "power" for a x^-b + c, "exponential" for a e^(-b x) + c.
        x, y: (N,), at least 4 points; x > 0 for the power law.
        confidence: level of the intervals, between 0 and 1.

    Raises:
        ConfigError: an argument out of its range, or fewer than 4 points.
        AnalysisError: the points do not determine the curve, as when y is constant.
    """
    check_choice("kind", kind, tuple(CURVES))
    if not 0 < checks.number("confidence", confidence) < 1:
        raise ConfigError(f"confidence: got {confidence!r}, expected a number between 0 and 1.")
    x, y = checks.array("x", x, ndim=1), checks.array("y", y, ndim=1)
    if len(x) != len(y) or len(np.unique(x)) < 4:
        raise ConfigError(
            f"x: got {len(np.unique(x))} different values for {len(y)} of y, expected at least 4 and one for each: a "
            "curve of three parameters needs more points than it has parameters."
        )
    if kind == "power" and x.min() <= 0:
        raise ConfigError(f"x: got {x.min():g}, expected values above 0 for a power law.")
    undetermined = AnalysisError(
        f"The {len(x)} points do not determine the curve of kind {kind} (y goes from {y.min():g} to {y.max():g}); "
        "expected points that bend, over a wider range of amplitudes."
    )
    if np.ptp(y) <= 1e-12 * np.abs(y).max():
        raise undetermined
    curve = CURVES[kind]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", OptimizeWarning)
            parameters, covariance = curve_fit(curve, x, y, p0=_start(kind, x, y), maxfev=20000, xtol=1e-12, ftol=1e-12)
    except (OptimizeWarning, RuntimeError) as error:
        raise undetermined from error
    half = stats.t.ppf((1 + confidence) / 2, len(x) - 3) * np.sqrt(np.diag(covariance))
    if not np.isfinite(half).all():
        raise undetermined
    residual = y - curve(x, *parameters)
    return Fit(
        kind,
        parameters,
        parameters - half,
        parameters + half,
        float(confidence),
        float(1 - residual @ residual / np.sum((y - y.mean()) ** 2)),
    )


def _start(kind: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The best (a, b, c) over a grid of b: for a given b the curve is linear in a and c."""
    scale = 1.0 if kind == "power" else np.ptp(x) or 1.0
    best, least = np.zeros(3), np.inf
    for b in _STARTS / scale:
        design = np.stack([CURVES[kind](x, 1.0, b, 0.0), np.ones_like(x)], axis=1)
        if not np.isfinite(design).all():
            continue
        (a, c), *_ = np.linalg.lstsq(design, y, rcond=None)
        residual = np.sum((design @ (a, c) - y) ** 2)
        if residual < least:
            best, least = np.array([a, b, c]), residual
    return best


def analyse_gain_scaling(run: Run, settings: Settings, report: Report) -> Result:
    """n and s under noise of each standard deviation (200/200/200 steps), and the two fits."""
    state = steady_state(noise_responses(run.network, settings.amplitudes, settings.repeats, seed=settings.seed))
    report(1, 1)
    sigma = state.amplitudes[1:]
    parameters = np.full((2, 3, 3), np.nan)  # curve; estimate, low, high; a, b, c
    r_squared, remarks = np.full(2, np.nan), []
    for i, (kind, name) in enumerate((("power", "n"), ("exponential", "s"))):
        try:
            found = fit(kind, sigma, getattr(state, name)[1:].mean(1))
        except AnalysisError as error:
            remarks.append(f"no fit of {name} ({error})")
            continue
        parameters[i] = found.parameters, found.low, found.high
        r_squared[i] = found.r_squared
        remarks.append(f"{name}: {kind}, exponent {found.parameters[1]:.3g}, R² {found.r_squared:.3f}")
    fits = [
        (kind, name, *parameters[i].T.ravel(), r_squared[i])
        for i, (kind, name) in enumerate((("power", "n"), ("exponential", "s")))
    ]
    named = tuple(f"{p}{end}" for p in "abc" for end in ("", "_low", "_high"))
    rows = [
        (xi, n.mean(), n.std(), s.mean(), s.std()) for xi, n, s in zip(state.amplitudes, state.n, state.s, strict=True)
    ]
    return Result(
        {name: np.asarray(value) for name, value in asdict(state).items()}
        | {"parameters": parameters, "r_squared": r_squared},
        {
            "gain-scaling": Table(("deviation", "n", "n_over_repeats", "s", "s_over_repeats"), rows),
            "gain-scaling-fits": Table(("curve", "of", *named, "r_squared"), fits),
        },
        "; ".join(remarks),
    )


PART = Part(analyse_gain_scaling, ("amplitudes", "repeats", "seed"), suits="adaptive")
