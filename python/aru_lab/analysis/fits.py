"""Curves through steady states and courses: power law, exponential, line, and which of them the points favour.

Least squares, intervals of the linearised problem, and Akaike's criterion with its correction for few points. Source of
the forms: Geadah et al. 2024, gain scaling (over ξ) and the decay of n and s after an onset (over time).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats
from scipy.optimize import OptimizeWarning, curve_fit, minimize_scalar

from aru_lab.analysis import checks
from aru_lab.analysis.checks import AnalysisError
from aru_lab.arguments import check_choice
from aru_lab.errors import ConfigError

# The search covers exponents from SLOWEST, in units of 1/range, to FASTEST, in units of 1/(distance of the two points
# at the steep end): from a curve that hardly bends to one that reaches its offset at the second point.
SLOWEST, FASTEST = 0.03, 30.0
_PER_DECADE = 6


@dataclass(frozen=True)
class Fit:
    """A fitted curve y(x) = a f(b x) + c.

    kind: of CURVES; parameters, low, high (3,): a, b, c and the ends of their confidence intervals, b of a line is NaN;
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


@dataclass(frozen=True)
class Comparison:
    """All CURVES fitted to the same points, in the order of CURVES.

    parameters (3, 3, 3): by curve, estimate and the low and high end of its 95% interval, and a, b, c; NaN where the
    points do not determine the curve. r_squared (3,); aicc (3,): Akaike's criterion, corrected; the lower, the better;
    NaN if there are too few points for it. remarks: why a curve has no parameters.
    """

    parameters: np.ndarray
    r_squared: np.ndarray
    aicc: np.ndarray
    remarks: tuple[str, ...]


def power(x: np.ndarray, a: float, b: float, c: float) -> np.ndarray:
    """`a x^-b + c`, for x > 0."""
    return a * x**-b + c


def exponential(x: np.ndarray, a: float, b: float, c: float) -> np.ndarray:
    """`a e^(-b x) + c`."""
    return a * np.exp(-b * x) + c


def line(x: np.ndarray, a: float, _: float, c: float) -> np.ndarray:
    """`a x + c`; it has no exponent."""
    return a * x + c


CURVES: dict[str, Callable[..., np.ndarray]] = {"power": power, "exponential": exponential, "line": line}


def fit(kind: str, x: Any, y: Any, confidence: float = 0.95) -> Fit:
    """Least-squares fit of a power law or an exponential with an offset, or of a line, and the confidence intervals.

    Intervals are those of the linearised problem (scipy's covariance, Student's t with N - 3 degrees of freedom, N - 2
    for a line).

    Args:
        kind: "power" for a x^-b + c, "exponential" for a e^(-b x) + c, "line" for a x + c.
        x, y: (N,), at least 4 points; x > 0 for the power law.
        confidence: level of the intervals, between 0 and 1.

    Raises:
        ConfigError: an argument out of its range, or fewer than 4 points.
        AnalysisError: the points do not determine the curve, as when y is constant.
    """
    x, y = _points(kind, x, y)
    if not 0 < checks.number("confidence", confidence) < 1:
        raise ConfigError(f"confidence: got {confidence!r}, expected a number between 0 and 1.")
    undetermined = AnalysisError(
        f"The {len(x)} points do not determine the curve of kind {kind} (y goes from {y.min():g} to {y.max():g}); "
        "expected points that bend, over a wider range of amplitudes."
    )
    if _constant(y):
        raise undetermined
    if kind == "line":
        found = stats.linregress(x, y)
        errors = np.array([found.stderr, np.nan, found.intercept_stderr])
        parameters = np.array([found.slope, np.nan, found.intercept])
    else:
        start = _start(kind, x, y)
        if not np.isfinite(start).all():  # a steep curve far from x = 0
            raise undetermined
        try:
            with warnings.catch_warnings(), np.errstate(over="ignore"):  # the search may try steeper curves
                warnings.simplefilter("error", OptimizeWarning)
                parameters, covariance = curve_fit(CURVES[kind], x, y, p0=start, maxfev=20000, xtol=1e-12, ftol=1e-12)
        except (OptimizeWarning, RuntimeError) as error:
            raise undetermined from error
        errors = np.sqrt(np.diag(covariance))
        if not np.isfinite(errors).all():
            raise undetermined
    half = stats.t.ppf((1 + confidence) / 2, len(x) - _count(kind)) * errors
    residual = y - CURVES[kind](x, *parameters)
    return Fit(
        kind,
        parameters,
        parameters - half,
        parameters + half,
        float(confidence),
        float(1 - residual @ residual / np.sum((y - y.mean()) ** 2)),
    )


def compare(x: Any, y: Any) -> Comparison:
    """Fit all CURVES and compare them by Akaike's criterion with its correction for few points.

        AICc = N log(RSS / N) + 2 k + 2 k (k + 1) / (N - k - 1),   k: parameters of the curve, and the variance

    RSS is the least over all exponents, also where the points leave the parameters open: an exponential that bends too
    little has the RSS of a line.

    Args:
        x, y: (N,), at least 4 points with x > 0.

    Raises:
        ConfigError: fewer than 4 points, or x of 0 or less.
    """
    x, y = _points("power", x, y)
    parameters = np.full((3, 3, 3), np.nan)
    r_squared, aicc = np.full((2, 3), np.nan)
    remarks = []
    total = np.sum((y - y.mean()) ** 2)
    straight = _least("line", x, y)
    for i, kind in enumerate(CURVES):
        # A line is the limit of both curved forms, so their residual can't exceed its own.
        rss = min(straight, _least(kind, x, y))
        try:
            found = fit(kind, x, y)
        except AnalysisError as error:
            remarks.append(str(error))
        else:
            parameters[i] = found.parameters, found.low, found.high
            rss = min(rss, float(np.sum((y - found(x)) ** 2)))
        if not _constant(y):
            rss = max(rss, len(x) * (np.finfo(np.float64).eps * np.abs(y).max()) ** 2)
            r_squared[i] = 1 - rss / total
            k = _count(kind) + 1
            if len(x) > k + 1:
                aicc[i] = len(x) * np.log(rss / len(x)) + 2 * k + 2 * k * (k + 1) / (len(x) - k - 1)
    return Comparison(parameters, r_squared, aicc, tuple(remarks))


def compared(comparisons: Sequence[Comparison | None], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The arrays of several comparisons, flat in the order of `shape`; None, without enough points, gives NaN.

    Returns:
        fit_curves (3,): names of CURVES; fit_parameters (*shape, 3, 3, 3), fit_r_squared and fit_aicc (*shape, 3): as
        in `Comparison`.
    """
    empty = Comparison(np.full((3, 3, 3), np.nan), np.full(3, np.nan), np.full(3, np.nan), ())
    found = [comparison or empty for comparison in comparisons]

    def stacked(name: str) -> np.ndarray:
        return np.array([getattr(one, name) for one in found]).reshape(*shape, *getattr(empty, name).shape)

    arrays = {f"fit_{name}": stacked(name) for name in ("parameters", "r_squared", "aicc")}
    return {"fit_curves": np.array(list(CURVES))} | arrays


def _points(kind: str, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    check_choice("kind", kind, tuple(CURVES))
    x, y = checks.array("x", x, ndim=1), checks.array("y", y, ndim=1)
    if len(x) != len(y) or len(np.unique(x)) < 4:
        raise ConfigError(
            f"x: got {len(np.unique(x))} different values for {len(y)} of y, expected at least 4 and one for each: a "
            "curve of three parameters needs more points than it has parameters."
        )
    if kind == "power" and x.min() <= 0:
        raise ConfigError(f"x: got {x.min():g}, expected values above 0 for a power law.")
    return x, y


def _constant(y: np.ndarray) -> bool:
    return bool(np.ptp(y) <= 1e-12 * np.abs(y).max())


def _count(kind: str) -> int:
    return 2 if kind == "line" else 3


def _start(kind: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The best (a, b, c) over the exponents tried; infinite where a exceeds float64."""
    exponents = _exponents(kind, x)
    b = exponents[int(np.argmin([_residual(kind, x, y, b)[0] for b in exponents]))]
    a, c = _residual(kind, x, y, b)[1]
    with np.errstate(over="ignore"):
        return np.array([a / CURVES[kind](_steep_end(x, b), 1.0, b, 0.0), b, c])


def _exponents(kind: str, x: np.ndarray) -> np.ndarray:
    """The exponents tried, rising, of either sign, whatever the units of x."""
    # A power law is an exponential of log x.
    u = np.unique(np.log(x) if kind == "power" else x)
    slowest = SLOWEST / np.ptp(u)

    def tried(gap: float) -> np.ndarray:
        return np.geomspace(slowest, FASTEST / gap, 1 + round(_PER_DECADE * np.log10(FASTEST / gap / slowest)))

    return np.concatenate([-tried(u[-1] - u[-2])[::-1], tried(u[1] - u[0])])


def _steep_end(x: np.ndarray, b: float) -> np.ndarray:
    """The x at which a curve of exponent b is steepest."""
    return x.min() if b > 0 else x.max()


def _residual(kind: str, x: np.ndarray, y: np.ndarray, b: float) -> tuple[float, np.ndarray]:
    """Sum of squares, and (a', c) of the best curve a' f(b x) / f(b x') + c, which is linear in them; x' is steepest.

    The curve is at most 1 with a' = 1, so that no exponent overflows.
    """
    if kind == "line":
        column = x
    elif kind == "power":
        column = (x / _steep_end(x, b)) ** -b
    else:
        column = np.exp(-b * (x - _steep_end(x, b)))
    design = np.stack([column, np.ones_like(x)], axis=1)
    solution, *_ = np.linalg.lstsq(design, y, rcond=None)
    return float(np.sum((design @ solution - y) ** 2)), solution


def _least(kind: str, x: np.ndarray, y: np.ndarray) -> float:
    """The least sum of squares over all exponents."""
    if kind == "line":
        return _residual(kind, x, y, 0.0)[0]
    grid = _exponents(kind, x)
    best = int(np.argmin([_residual(kind, x, y, b)[0] for b in grid]))
    ends = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    found = minimize_scalar(
        lambda b: _residual(kind, x, y, b)[0],
        bounds=ends,
        method="bounded",
        options={"xatol": 1e-6 * (ends[1] - ends[0])},
    )
    return float(found.fun)
