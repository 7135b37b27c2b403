"""n and s under a step drive, at rest under noise, and in the isolated controller; the curves fitted to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from lab.paper.second.model import LENGTH, ONSET, Array, Network, controller_step, gamma_slope, run, step_drive

EPSILON = 0.013
SETTLED = round(90 * 112 / 784)  # steps at the end of a drive: 90 of 200, "the last 45%"


def courses(network: Network, x: Array, amplitude: float) -> tuple[Array, Array]:
    """n_t and s_t, means over examples and neurons, (T,), while a step of this amplitude drives every neuron."""
    _, trace = run(network, x, step_drive(amplitude))
    return trace.n.mean((1, 2)), trace.s.mean((1, 2))


def distances(network: Network, x: Array, amplitudes: tuple[float, ...]) -> tuple[Array, Array]:
    """e = |γ'(ξ; n, s) + ε - 1| at rest, and γ'(ξ; n, s) in the first driven step, each (A,); C35, C36."""
    rest, onset = [], []
    for amplitude in amplitudes:
        n, s = courses(network, x, amplitude)
        drive = np.asarray(amplitude)
        end = ONSET + LENGTH
        settled = gamma_slope(drive, n[end - SETTLED : end].mean(), s[end - SETTLED : end].mean())
        rest.append(abs(settled + EPSILON - 1))
        onset.append(gamma_slope(drive, n[ONSET], s[ONSET]))
    return np.array(rest), np.array(onset)


@dataclass
class Fit:
    """A curve through N points: a, b, c (a line has no b), R², AICc and the 95% interval of b."""

    a: float
    b: float
    c: float
    r_squared: float
    aicc: float
    low: float
    high: float


def _linear(y: Array, column: Array) -> tuple[Array, float]:
    """Least squares of y on a column and a constant: (a, c) and the residual sum of squares."""
    design = np.stack((column, np.ones_like(column)), axis=1)
    coefficients = np.linalg.lstsq(design, y, rcond=None)[0]
    return coefficients, float(((y - design @ coefficients) ** 2).sum())


def _aicc(rss: float, n_points: int, parameters: int) -> float:
    """Akaike's criterion for few points; the variance of the residuals is a parameter, too."""
    k = parameters + 1
    return n_points * np.log(rss / n_points) + 2 * k + 2 * k * (k + 1) / (n_points - k - 1)


def fit(x: Array, y: Array, form: str) -> Fit:
    """Fit a line, a x^-b + c ("power") or a e^(-b x) + c ("exponential").

    For a given b the rest is linear least squares, so b is found by a scan and a golden section about its best point.
    """
    total = float(((y - y.mean()) ** 2).sum())
    if form == "line":
        (a, c), rss = _linear(y, x)
        return Fit(a, np.nan, c, 1 - rss / total, _aicc(rss, len(x), 2), np.nan, np.nan)

    def column(b: float) -> Array:
        return x**-b if form == "power" else np.exp(-b * (x - x.min()))

    scan = np.concatenate((-np.geomspace(20, 1e-3, 400), np.geomspace(1e-3, 20, 400)))
    rss = [_linear(y, column(b))[1] for b in scan]
    best = int(np.argmin(rss))
    low, high = scan[max(best - 1, 0)], scan[min(best + 1, len(scan) - 1)]
    golden = (np.sqrt(5) - 1) / 2
    for _ in range(100):
        left, right = high - golden * (high - low), low + golden * (high - low)
        if _linear(y, column(left))[1] < _linear(y, column(right))[1]:
            high = right
        else:
            low = left
    b = (low + high) / 2
    (a, c), error = _linear(y, column(b))
    slope = -a * column(b) * (np.log(x) if form == "power" else x - x.min())
    jacobian = np.stack((column(b), slope, np.ones_like(x)), axis=1)
    covariance = np.linalg.inv(jacobian.T @ jacobian) * error / (len(x) - 3)
    half = student.ppf(0.975, len(x) - 3) * np.sqrt(covariance[1, 1])
    if form == "exponential":
        a *= np.exp(b * x.min())
    return Fit(a, b, c, 1 - error / total, _aicc(error, len(x), 3), b - half, b + half)


def claimed(x: Array, y: Array, form: str) -> tuple[Fit, bool]:
    """The fit of the claimed form, and whether it passes the rule FIT against the other form and a line."""
    fits = {name: fit(x, y, name) for name in ("line", "power", "exponential")}
    this = fits.pop(form)
    better = all(this.aicc + 2 <= other.aicc for other in fits.values())
    return this, bool(this.r_squared >= 0.9 and (this.low > 0 or this.high < 0) and better)


def at_rest_under_noise(network: Network, deviation: float, noise: Array) -> tuple[Array, Array]:
    """n and s (R,) over the last 90 of 200 steps of noise into every neuron, after 200 of weak noise; C22.

    `noise` (400, R, H) has the deviation 1.
    """
    drive = np.concatenate((0.01 * noise[:200], deviation * noise[200:]))
    x = np.zeros((noise.shape[1], len(noise), network.w_ih.shape[1]))
    _, trace = run(network, x, drive)
    return trace.n[310:].mean((0, 2)), trace.s[310:].mean((0, 2))


def on_a_curve(network: Network, repeats: int, rng: np.random.Generator) -> float:
    """Share of the variance of the controller's final states that a cubic explains, each left out in turn; C34."""
    courses = []
    for constant in np.exp(np.linspace(-2, 2, 10)):
        g = rng.normal(size=(repeats, len(network.b_g)))
        states = []
        for t in range(400):
            g, _, _ = controller_step(network, np.full(repeats, 0.0 if t < 201 else constant), g)
            states.append(g.mean(0))
        courses.append(states)
    courses = np.array(courses)  # (inputs, steps, G)
    every = courses.reshape(-1, courses.shape[-1])
    axis = np.linalg.svd(every - every.mean(0), full_matrices=False)[2][0]
    final = courses[:, -1]
    score = (final - every.mean(0)) @ axis
    score = (score - score.mean()) / score.std()
    left = 0.0
    for i in range(len(final)):
        others = np.arange(len(final)) != i
        powers = np.vander(score, 4)
        coefficients = np.linalg.lstsq(powers[others], final[others], rcond=None)[0]
        left += float(((final[i] - powers[i] @ coefficients) ** 2).sum())
    return 1 - left / float(((final - final.mean(0)) ** 2).sum())
