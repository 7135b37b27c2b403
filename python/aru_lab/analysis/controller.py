"""The isolated controller: where a constant input current leads its state g, the gain n and the saturation s.

Source: Geadah et al. 2024, analysis of the controller: trajectories under constant input after 201 steps without, their
first two principal components, and (n, s) at the onset of the input and at steady state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn

from aru_kernels import reference
from aru_lab.analysis import checks
from aru_lab.analysis.network import controller_of
from aru_lab.analysis.parts import Part, Report
from aru_lab.analysis.settings import Settings
from aru_lab.errors import ConfigError
from aru_lab.runs.analyses import Result, Run, Table

INPUTS = np.exp(np.linspace(-2, 2, 10))  # the constants of the authors' code
FEWEST = 5  # points that a cubic can be judged on, each predicted from the others


@dataclass(frozen=True)
class Trajectories:
    """The controller under constant input. A inputs, R repeats, T steps, G units.

    inputs (A,); g (A, R, T, G); n, s (A, R, T); onset: first step with the input.
    """

    inputs: np.ndarray
    g: np.ndarray
    n: np.ndarray
    s: np.ndarray
    onset: int

    @property
    def settled(self) -> slice:
        """The last quarter of the steps with the input: a controller that keeps oscillating has its mean there."""
        n_steps = self.g.shape[2]
        return slice(n_steps - max(1, (n_steps - self.onset) // 4), n_steps)

    @property
    def onset_shape(self) -> np.ndarray:
        """(n, s) at the first step with the input, mean over repeats: (A, 2)."""
        return self._shape(slice(self.onset, self.onset + 1))

    @property
    def steady_shape(self) -> np.ndarray:
        """(n, s), mean over the settled steps and repeats: (A, 2)."""
        return self._shape(self.settled)

    @property
    def steady_state(self) -> np.ndarray:
        """State g at the last step: (A, R, G)."""
        return self.g[:, :, -1]

    @property
    def speed(self) -> np.ndarray:
        """How far g still moves in the last step, |g_T - g_(T-1)|: (A, R). 0 at a fixed point."""
        return np.linalg.norm(self.g[:, :, -1] - self.g[:, :, -2], axis=-1)

    def _shape(self, steps: slice) -> np.ndarray:
        return np.stack([self.n[:, :, steps].mean((1, 2)), self.s[:, :, steps].mean((1, 2))], axis=1)


@dataclass(frozen=True)
class Components:
    """Principal components of trajectories.

    scores (A, T, K) of the means over repeats; axes (K, G); mean (G,); explained (K,): fractions of the variance.
    """

    scores: np.ndarray
    axes: np.ndarray
    mean: np.ndarray
    explained: np.ndarray


@dataclass(frozen=True)
class Curve:
    """How near to one dimension points lie.

    explained: fraction of the variance that the curve explains, each point predicted from the others; line: the same
    for the first principal axis; points (P, D) on the curve, in the order of the points' positions along it.
    """

    explained: float
    line: float
    points: np.ndarray


def trajectories(
    network: nn.Module,
    inputs: Any = INPUTS,
    n_steps: int = 199,
    before: int = 201,
    repeats: int = 10,
    spread: float = 1.0,
    carried: bool = False,
    seed: int = 0,
) -> Trajectories:
    """The controller of an ARUN, cut out of the network, under constant input currents.

        g_t = tanh(w_ag a_t + W_gg g_{t-1} + b_g),  a_t = 0 for t < before, then the input

    Args:
        network: ARUN of one layer.
        inputs: (A,), currents a.
        n_steps: steps with the input, at least 2.
        before: steps without.
        repeats: R.
        spread: of the initial states, g ~ N(0, spread²), drawn for each input and repeat.
        carried: whether a repeat draws one state and carries it from the end of each input to the next, as in the
            authors' code.
        seed: of the initial states.

    Raises:
        ConfigError: a network without a controller, or an argument out of its range.
    """
    weights = controller_of(network)
    a = checks.array("inputs", inputs, ndim=1)
    n_steps, before = checks.whole("n_steps", n_steps, 2), checks.whole("before", before, 0)
    repeats = checks.whole("repeats", repeats)
    units = weights[0].shape[0]
    rng = np.random.default_rng(checks.whole("seed", seed, 0))
    drawn = checks.number("spread", spread, 0) * rng.standard_normal((1 if carried else len(a), repeats, units))

    def follow(current: Tensor, g: Tensor) -> list[Tensor]:
        """g, n and s, (A', R, T, ...), under inputs (A', 1) from g (A', R, G)."""
        current = current.expand(g.shape[:2])
        records: list[tuple[Tensor, ...]] = []
        for step in range(before + n_steps):
            n, s, g = reference.controller_step(current if step >= before else torch.zeros_like(current), g, *weights)
            records.append((g, n, s))
        return [torch.stack(x, dim=2) for x in zip(*records, strict=True)]

    current, g = torch.from_numpy(a)[:, None], torch.from_numpy(drawn)
    if carried:
        parts = []
        for one in current.split(1):
            parts.append(follow(one, g))
            g = parts[-1][0][:, :, -1]
        recorded = [torch.cat(x) for x in zip(*parts, strict=True)]
    else:
        recorded = follow(current, g)
    return Trajectories(a, *(x.numpy() for x in recorded), before)


def principal_components(paths: Trajectories, n_components: int = 2) -> Components:
    """Principal components of g, averaged over repeats, over all inputs and steps.

    Args:
        paths: of `trajectories`.
        n_components: K, at most G.

    Raises:
        ConfigError: more components than the controller has units.
    """
    states = paths.g.mean(1)
    units = states.shape[-1]
    if checks.whole("n_components", n_components) > units:
        raise ConfigError(f"n_components: got {n_components}, expected at most {units}, the units of the controller.")
    pca = PCA(n_components=n_components, svd_solver="full")
    scores = pca.fit_transform(states.reshape(-1, units))
    return Components(
        scores.reshape(*states.shape[:-1], n_components), pca.components_, pca.mean_, pca.explained_variance_ratio_
    )


def one_dimensional(points: Any, degree: int = 3, axis: Any = None) -> Curve:
    """How much of the points' variance a smooth one-dimensional curve explains.

    The curve is a polynomial of the score on one axis, in every direction. Every point is predicted from a fit to the
    others (leave-one-out), so that a curve that follows noise explains nothing of it:

        explained = 1 - Σ |p_k - curve without k (t_k)|² / Σ |p_k - mean|²

    Args:
        points: (P, D), for example the steady states g (A·R, G) or the (n, s) of all inputs.
        degree: of the polynomial; P must exceed it by 2 at least.
        axis: (D,), for example the first component of whole trajectories; None takes the points' own first one.

    Raises:
        ConfigError: too few points, or all equal, or an axis of another dimension or on which all are equal.
    """
    p = checks.array("points", points, ndim=2)
    degree = checks.whole("degree", degree)
    if len(p) < degree + 2:
        raise ConfigError(f"points: got {len(p)}, expected at least {degree + 2} for a curve of degree {degree}.")
    centred = p - p.mean(0)
    total = np.sum(centred**2)
    if total <= 1e-24 * max(1.0, np.sum(p**2)):
        raise ConfigError(f"points: got {len(p)} equal points, expected points that differ.")
    pca = PCA(n_components=1, svd_solver="full").fit(p)
    along = pca.components_[0] if axis is None else checks.array("axis", axis, ndim=1)
    if along.shape != p.shape[1:]:
        raise ConfigError(f"axis: got {len(along)} values, expected {p.shape[1]}, the dimension of the points.")
    t = centred @ along
    if np.ptp(t) <= 1e-12 * np.sqrt(total):
        raise ConfigError("axis: got one on which all points have the same score, expected one that tells them apart.")
    design = np.polynomial.chebyshev.chebvander(t / np.abs(t).max(), degree)
    # Leaving point k out of a least-squares fit divides its residual by 1 - leverage (Allen's PRESS). The curve's
    # parameter is the score itself, so along the axis the residual is 0 by construction.
    basis, _ = np.linalg.qr(design)
    residual = centred - basis @ (basis.T @ centred)
    leverage = np.minimum(np.sum(basis**2, axis=1), 1 - 1e-12)
    missed = np.sum((residual / (1 - leverage)[:, None]) ** 2)
    fitted = p.mean(0) + basis @ (basis.T @ centred)
    return Curve(float(1 - missed / total), float(pca.explained_variance_ratio_[0]), fitted[np.argsort(t)])


def analyse_controller(run: Run, settings: Settings, report: Report) -> Result:
    """The controller under constant input: components, onset and steady state, nearness to one dimension."""
    inputs = INPUTS if settings.inputs == "exponential" else np.array([xi for xi in settings.amplitudes if xi > 0])
    paths = trajectories(run.network, inputs, repeats=settings.repeats, carried=settings.carried, seed=settings.seed)
    components = principal_components(paths, min(3, paths.g.shape[-1]))
    final = paths.steady_state.mean(1)
    # Four amplitudes above 0 leave no point to predict from the others.
    curve = Curve(np.nan, np.nan, final)
    if len(inputs) >= FEWEST:
        curve = one_dimensional(final, axis=components.axes[0])
    report(1, 1)
    shapes = np.concatenate([paths.onset_shape, paths.steady_shape], axis=1)
    rows = [(a, *shape, speed) for a, shape, speed in zip(inputs, shapes, paths.speed.max(1), strict=True)]
    return Result(
        {
            "inputs": inputs,
            "scores": components.scores[:, paths.onset - 1 :].astype(np.float32),
            "steady_scores": components.scores[:, paths.settled].mean(1),
            "final_states": final,
            "explained": components.explained,
            "axes": components.axes,
            "n": paths.n.mean(1),
            "s": paths.s.mean(1),
            "onset": np.array(paths.onset),
            "onset_shape": paths.onset_shape,
            "steady_shape": paths.steady_shape,
            "speed": paths.speed,
            "curve_explained": np.array(curve.explained),
            "line_explained": np.array(curve.line),
        },
        {"controller": Table(("input", "n_onset", "s_onset", "n_steady", "s_steady", "last_speed"), rows)},
        f"a curve explains {curve.explained:.1%} of the final states' variance, a line {curve.line:.1%}",
    )


PART = Part(analyse_controller, ("amplitudes", "repeats", "inputs", "carried", "seed"), suits="adaptive")
