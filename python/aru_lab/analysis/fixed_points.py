"""Fixed points and slow points of a network under a constant input, and their stability.

The speed of the state map F at a state z is q(z) = 0.5 |F(z) - z|². Gradient descent on q from states along
trajectories finds its minima: fixed points, where q is 0 to working precision, and slow points. Newton's method makes
the former exact. Everything is in float64. Source: D. Sussillo, O. Barak, Neural Computation 2013.

The state of an ARUN is (h, g); that of the other networks is h.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aru_kernels import reference
from aru_lab.analysis import checks
from aru_lab.analysis.lyapunov import TangentMap, joint_step, joint_tangent, relu_tangent, static_tangent
from aru_lab.analysis.network import layer_of, recurrent_weight
from aru_lab.analysis.parts import Part, Report
from aru_lab.analysis.settings import Settings
from aru_lab.analysis.trajectories import conditions_of, periods_of
from aru_lab.data.cognitive import ContextIntegration
from aru_lab.data.trials import TrialTask
from aru_lab.errors import ConfigError
from aru_lab.networks.classifier import driven_rnn
from aru_lab.runs.analyses import Result, Run, Table
from aru_lab.runs.evaluation import task_of

FIXED = 1e-18  # q below this is a fixed point
SLOW = 1e-4  # q below this is a slow point
DISTANCE = 1e-3  # points nearer to each other than this times the size of a state are one
STEPS = 3000
RATE = 0.02
_NEWTON = 20
_FRACTIONS = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 0.999)  # of a trajectory, at which the descent starts

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class FixedPoints:
    """Minima of the speed. P points of dimension D.

    Args:
        states (P, D): by falling number of starts.
        q (P,): speed.
        counts (P,): starts that came to each.
        fixed (P,): whether it is a fixed point; the others are slow points.
        eigenvalues (P, D): of the Jacobian, complex, by falling modulus.
        lost: starts that came to no such point.
    """

    states: np.ndarray
    q: np.ndarray
    counts: np.ndarray
    fixed: np.ndarray
    eigenvalues: np.ndarray
    lost: int

    @property
    def n_unstable(self) -> np.ndarray:
        """The number of eigenvalues outside the unit circle, (P,); 0 at a stable point."""
        return (np.abs(self.eigenvalues) > 1).sum(axis=1)


def find_fixed_points(
    step: Map,
    tangent: TangentMap,
    starts: Any,
    steps: int = STEPS,
    rate: float = RATE,
    fixed: float = FIXED,
    slow: float = SLOW,
    distance: float = DISTANCE,
    progress: Callable[[int, int], None] | None = None,
) -> FixedPoints:
    """The fixed points and slow points to which gradient descent on the speed comes.

    Args:
        step: the map, (B, D) -> (B, D), rows independent, of differentiable operations.
        tangent: the same with its derivative, see `lyapunov.TangentMap`.
        starts: (B, D).
        steps: of the descent, by Adam with a rate that falls to 0.
        rate: its highest rate.
        fixed, slow: highest speeds q of fixed and of slow points.
        distance: points are one that are nearer to each other than this times (1 + the root mean square of a state).
        progress: called with the steps done and all steps.

    Raises:
        ConfigError: an argument out of its range.

    Examples:
        >>> A = torch.tensor([[0.5, 0.0], [0.0, 2.0]], dtype=torch.float64)
        >>> found = find_fixed_points(lambda z: z @ A.T, lambda z, v, t: (z @ A.T, A @ v), [[1.0, 1.0]])
        >>> bool(abs(found.states).max() < 1e-9), found.eigenvalues.real.tolist(), found.n_unstable.tolist()
        (True, [[2.0, 0.5]], [1])
    """
    z = torch.from_numpy(checks.array("starts", starts, ndim=2).copy()).requires_grad_()
    steps = checks.whole("steps", steps)
    optimizer = torch.optim.Adam([z], lr=checks.number("rate", rate, 0, open_end=True))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for k in range(steps):
        optimizer.zero_grad()
        with torch.enable_grad():
            _speed(step, z).sum().backward()
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress(k + 1, steps)
    states = z.detach()
    with torch.no_grad():
        speeds = _speed(step, states)
    order = torch.argsort(speeds)
    points: list[Tensor] = []
    counts: list[int] = []
    lost = 0
    near = checks.number("distance", distance, 0, open_end=True) * (1 + states.square().mean(dim=1).sqrt())
    for i in order.tolist():
        if not speeds[i] < slow:
            lost += 1
            continue
        gaps = [(point - states[i]).square().mean().sqrt() for point in points]
        same = int(np.argmin(gaps)) if gaps else -1
        if gaps and gaps[same] < near[i]:
            counts[same] += 1
        else:
            points.append(states[i])
            counts.append(1)
    exact = [_polished(tangent, point, fixed) for point in points]
    merged: list[tuple[Tensor, int]] = []
    for point, count in zip(exact, counts, strict=True):  # slow points around a fixed one may lead to it
        twin = next((m for m, (other, _) in enumerate(merged) if (other - point).abs().max() < 1e-8), None)
        if twin is None:
            merged.append((point, count))
        else:
            merged[twin] = (merged[twin][0], merged[twin][1] + count)
    merged.sort(key=lambda item: -item[1])
    size = states.shape[1]
    if not merged:
        nothing = np.zeros(0)
        values = np.zeros((0, size), np.complex128)
        return FixedPoints(values.real, nothing, nothing.astype(np.int64), nothing > 0, values, lost)
    found = torch.stack([point for point, _ in merged])
    with torch.no_grad():
        q = _speed(step, found).numpy()
    eigenvalues = np.stack([_eigenvalues(tangent, point) for point in found])
    return FixedPoints(found.numpy(), q, np.array([count for _, count in merged]), q < fixed, eigenvalues, lost)


def _speed(step: Map, z: Tensor) -> Tensor:
    """q (B,) at states (B, D)."""
    return 0.5 * (step(z) - z).square().sum(dim=1)


def _jacobian(tangent: TangentMap, point: Tensor) -> tuple[Tensor, Tensor]:
    """F and its Jacobian (D, D) at a state (D,)."""
    identity = torch.eye(len(point), dtype=point.dtype)[None]
    with torch.no_grad():
        following, jacobian = tangent(point[None], identity, 0)
    return following[0], jacobian[0]


def _eigenvalues(tangent: TangentMap, point: Tensor) -> np.ndarray:
    values = np.linalg.eigvals(_jacobian(tangent, point)[1].numpy())
    return values[np.argsort(-np.abs(values), kind="stable")].astype(np.complex128)


def _polished(tangent: TangentMap, point: Tensor, fixed: float) -> Tensor:
    """The fixed point to which Newton's method comes from a point nearby; the point itself if it comes to none."""
    z = point
    for _ in range(_NEWTON):
        following, jacobian = _jacobian(tangent, z)
        gap = following - z
        q = 0.5 * gap.square().sum()
        if not q.isfinite():
            return point
        if q < 1e-4 * fixed:
            break
        try:
            z = z + torch.linalg.solve(torch.eye(len(z), dtype=z.dtype) - jacobian, gap)
        except RuntimeError:  # a singular matrix: the point belongs to a line of fixed points
            return point
    following, _ = _jacobian(tangent, z)
    moved = (z - point).square().mean().sqrt()
    reached = 0.5 * (following - z).square().sum() < fixed
    return z if reached and moved < 0.1 * (1 + point.square().mean().sqrt()) else point


def maps_of(network: nn.Module, x: Any) -> tuple[Map, TangentMap]:
    """The state map of a network under a constant input, and its tangent map, in float64.

    Args:
        network: ARUN, GammaRNN or torch.nn.RNN with ReLU, of one layer.
        x: the input, (I,).

    Raises:
        ConfigError: another kind of network, or an input of another size.
    """
    weight = recurrent_weight(network)
    relu = isinstance(network, nn.RNN)
    values = torch.from_numpy(checks.array("x", x, ndim=1))
    if relu:
        parameters = (network.weight_ih_l0, network.bias_ih_l0, network.bias_hh_l0)
        weight_ih, *biases = (one.detach().to("cpu", torch.float64) for one in parameters)
        current = weight_ih @ values + sum(biases)
        return lambda h: (h @ weight.T + current).relu(), relu_tangent(weight, current[None])
    layer = layer_of(network)
    current = layer.weight_ih @ values + layer.bias
    if layer.controller is not None:
        return lambda z: joint_step(layer, z, current), joint_tangent(layer, current[None])

    def step(h: Tensor) -> Tensor:
        a = h @ layer.weight_hh.T + current
        return reference.leaky(h, reference.gamma(a, layer.gain, layer.saturation, layer.n_floor), layer.leak)

    return step, static_tangent(layer, layer.gain, layer.saturation, current[None])


def starts_of(network: nn.Module, x: Tensor) -> np.ndarray:
    """States of a network at seven steps of the sequences x (T, B, I), from which a descent starts: (7 B, D)."""
    found = []
    for fraction in _FRACTIONS:
        prefix = x[: max(1, round(fraction * len(x)))]
        with torch.no_grad():
            if isinstance(network, nn.RNN):
                state = driven_rnn(network, prefix, None)[-1]
            else:
                _, last = network(prefix)
                state = torch.cat([one[0].flatten(1) for one in (last if isinstance(last, tuple) else (last,))], dim=1)
        found.append(state.double().cpu().numpy())
    return np.concatenate(found)


def _groups(run: Run, n: int) -> dict[str, np.ndarray]:
    """By name, the test sequences whose mean input is one constant input: the contexts of `ContextIntegration`."""
    task = task_of(run.config)
    if not (isinstance(task, TrialTask) and isinstance(task.kind, ContextIntegration)):
        return {"all": np.ones(n, bool)}
    members = conditions_of(run, run.test.take(slice(n)))
    return {
        context: np.logical_or.reduce([of for name, of in members.items() if name.startswith(context)])
        for context in dict.fromkeys(name.partition(",")[0] for name in members)
    }


def _input_step(run: Run, settings: Settings, n_steps: int) -> int | None:
    """The step whose mean input is held: the last of the delay, or before the answer; None: the mean over steps.

    Raises:
        ConfigError: the sequences have no such step.
    """
    if settings.input_step is not None:
        if settings.input_step >= n_steps:
            raise ConfigError(f"input_step: got {settings.input_step}, expected at most {n_steps - 1}, the last step.")
        return settings.input_step
    periods = periods_of(run, n_steps)
    if "delay" in periods:
        # the signal to recall is the last step of the delay
        return max(periods["delay"].stop - 2, periods["delay"].start)
    for answer in ("response", "decision"):  # of our tasks, and of NeuroGym's
        if answer in periods:
            return max(periods[answer].start - 1, 0)
    return None


def analyse_fixed_points(run: Run, settings: Settings, report: Report) -> Result:
    """Fixed points and slow points under the mean input of a step, in the components of `trajectories`."""
    saved = run.files.load("trajectories")
    x, _ = run.sequences(settings.sequences)
    step = _input_step(run, settings, len(x))
    groups = _groups(run, x.shape[1])
    H = run.network.hidden_size
    arrays: dict[str, list[Any]] = {name: [] for name in ("states", "q", "counts", "fixed", "eigenvalues", "group")}
    inputs, lost = [], []
    for k, of in enumerate(groups.values()):
        shown = x[:, torch.from_numpy(np.flatnonzero(of)).to(x.device)]
        held = shown.double().mean(dim=1)
        inputs.append((held.mean(dim=0) if step is None else held[step]).cpu().numpy())
        found = find_fixed_points(
            *maps_of(run.network, inputs[-1]),
            starts_of(run.network, shown[:, : settings.starts]),
            settings.descent,
            progress=lambda done, total, k=k: report(k * total + done, len(groups) * total),
        )
        for name in ("states", "q", "counts", "fixed", "eigenvalues"):
            arrays[name].append(getattr(found, name))
        arrays["group"].append(np.full(len(found.q), k))
        lost.append(found.lost)
    joined = {name: np.concatenate(values) for name, values in arrays.items()}
    unstable = (np.abs(joined["eigenvalues"]) > 1).sum(axis=1)
    names = list(groups)
    rows = [
        (
            names[joined["group"][i]],
            "fixed" if joined["fixed"][i] else "slow",
            joined["counts"][i],
            joined["q"][i],
            abs(joined["eigenvalues"][i, 0]),
            unstable[i],
        )
        for i in range(len(unstable))
    ]
    header = ("input", "kind", "starts", "q", "largest_modulus", "unstable_directions")
    n_fixed = int(joined["fixed"].sum())
    n_stable = int((joined["fixed"] & (unstable == 0)).sum())
    joined |= {
        "scores": (joined["states"][:, :H] - saved["mean"]) @ saved["axes"].T,
        "unstable": unstable,
        "groups": np.array(names),
        "inputs": np.stack(inputs),
        "lost": np.array(lost),
        "input_step": np.array(-1 if step is None else step),
    }
    return Result(
        joined,
        {"fixed-points": Table(header, rows)},
        f"{n_fixed} fixed points, {n_stable} of them stable, and {len(unstable) - n_fixed} slow points; {sum(lost)} "
        "starts came to none",
    )


PART = Part(
    analyse_fixed_points,
    ("sequences", "starts", "descent", "input_step"),
    needs=("trajectories",),
    suits="single",
    on_request=True,
)
