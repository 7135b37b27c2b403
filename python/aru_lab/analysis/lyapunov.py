"""Lyapunov exponents by QR, of any map and of the networks' state maps.

Z_t = J_t Q_t,  Q_{t+1} R_{t+1} = Z_t with diag(R) > 0,  λ_i = mean over t of log (R_t)_ii, in nats a step. All in
float64, batched over initial conditions. Source: Benettin, Galgani, Giorgilli, Strelcyn, Meccanica 1980, as Geadah et
al. 2024 use it. γ's derivatives come from `aru_kernels.reference` by automatic differentiation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aru_kernels import reference
from aru_lab.analysis import checks
from aru_lab.analysis.checks import AnalysisError
from aru_lab.analysis.network import Layer, gamma_derivatives, gamma_slope, layer_of, recurrent_weight
from aru_lab.errors import ConfigError

EPSILON = torch.finfo(torch.float64).eps

# state (B, D), vectors (B, D, k), step -> next state (B, D), J(state) vectors (B, D, k)
TangentMap = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Exponents:
    """Lyapunov exponents. B initial conditions, k exponents.

    exponents (B, k): nats a step, in the order of QR (falling, once converged); error (B, k): standard error of the
    mean over blocks of steps; blocks (N, B, k): the blocks' means; final_state (B, D).
    """

    exponents: np.ndarray
    error: np.ndarray
    blocks: np.ndarray
    final_state: np.ndarray


def lyapunov_exponents(
    tangent: TangentMap,
    initial: Any,
    k: int | None = 1,
    steps: int = 1000,
    transient: int = 200,
    blocks: int = 10,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    strict: bool = True,
) -> Exponents:
    """The k largest Lyapunov exponents of a map, or all.

    Args:
        tangent: `tangent(state, vectors, step)` -> next state and J(state) vectors; `from_map`, `from_jacobian`,
            `static_tangent` and `joint_tangent` make one.
        initial: (B, D) or (D,), initial conditions.
        k: number of exponents; None takes all D.
        steps: steps that are averaged over, at least `blocks`.
        transient: steps discarded first, in which Q turns into the growing directions, too.
        blocks: N >= 2, blocks for the error bar. Too short a block underestimates the error of a correlated series.
        seed: of the random orthonormal Q at the beginning.
        progress: called with the steps done and all steps, transient included.
        strict: whether a failure is an error. Otherwise exponents are minus infinity from the first singular direction
            on, and NaN where the state left the finite numbers; the other initial conditions go on.

    Raises:
        ConfigError: an argument out of its range.
        AnalysisError: a Jacobian is singular in the directions followed (an exponent is minus infinity), or the state
            left the finite numbers.
    """
    state = torch.from_numpy(np.atleast_2d(checks.array("initial", initial)).copy())
    if state.dim() != 2:
        raise ConfigError(f"initial: got shape {tuple(state.shape)}, expected (B, D) or (D,).")
    size = state.shape[1]
    k = size if k is None else checks.whole("k", k)
    if k > size:
        raise ConfigError(f"k: got {k}, expected at most {size}, the dimension of the state.")
    blocks, transient = checks.whole("blocks", blocks, 2), checks.whole("transient", transient, 0)
    if checks.whole("steps", steps) < blocks:
        raise ConfigError(f"steps: got {steps}, expected at least {blocks}, one for each block of the error bar.")
    generator = torch.Generator().manual_seed(checks.whole("seed", seed, 0))
    # One for all initial conditions, so that their exponents do not depend on the others in the batch.
    q, _ = torch.linalg.qr(torch.randn(size, k, dtype=torch.float64, generator=generator))
    q = q.expand(len(state), size, k)
    sums = torch.zeros(blocks, len(state), k, dtype=torch.float64)
    counts = torch.zeros(blocks)
    failed = torch.zeros(len(state), k, dtype=torch.float64)  # what is added to the exponents at the end
    with torch.no_grad():
        for step in range(transient + steps):
            following, z = tangent(state, q, step)
            finite = following.isfinite().all(1) & z.flatten(1).isfinite().all(1)
            turned, stretch = _positive_qr(torch.where(finite[:, None, None], z, q))
            # Below this the QR of Z is rounding error: the Jacobian is singular to working precision.
            regular = stretch > EPSILON * z.flatten(1).norm(dim=1, keepdim=True)
            if not (finite.all() and regular.all()):
                if strict:
                    raise _failure(following, z, regular, step)
                failed += torch.where(regular.cumprod(1).bool(), 0.0, -math.inf)
                failed[~finite] = math.nan
                # What failed counts no more: a state that ran away stays where it was, and 0 has no direction.
                following = torch.where(finite[:, None], following, state)
                turned = torch.where(regular[:, :1, None] & finite[:, None, None], turned, q)
                stretch = torch.where(regular & finite[:, None], stretch, 1.0)
            state, q = following, turned
            if step >= transient:
                block = (step - transient) * blocks // steps
                sums[block] += stretch.log()
                counts[block] += 1
            if progress is not None:
                progress(step + 1, transient + steps)
    means = sums / counts[:, None, None]
    return Exponents(
        (sums.sum(0) / steps + failed).numpy(),
        (means.std(0) / math.sqrt(blocks)).numpy(),
        means.numpy(),
        state.numpy(),
    )


def _positive_qr(z: Tensor) -> tuple[Tensor, Tensor]:
    """Q and diag(R) > 0 of Z = Q R; LAPACK leaves the signs of diag(R) open."""
    if z.shape[-1] == 1:  # Q of one vector is its direction
        length = z.norm(dim=1, keepdim=True)
        return z / torch.where(length > 0, length, 1.0), length[:, 0]
    q, r = torch.linalg.qr(z)
    diagonal = r.diagonal(dim1=-2, dim2=-1)
    return q * torch.where(diagonal < 0, -1.0, 1.0)[:, None, :], diagonal.abs()


def _failure(state: Tensor, z: Tensor, regular: Tensor, step: int) -> AnalysisError:
    if not (state.isfinite().all() and z.isfinite().all()):
        return AnalysisError(
            f"The state or its Jacobian is no longer finite at step {step}: the map runs away from these initial "
            "conditions; start nearer to its attractor or drive it less."
        )
    direction = int((~regular).any(0).nonzero()[0])
    return AnalysisError(
        f"The Jacobian at step {step} is singular: it maps direction {direction + 1} of {len(regular[0])} to zero, so "
        f"that its exponent is minus infinity; expected an invertible Jacobian, or ask for k = {direction} or fewer "
        "exponents."
    )


def from_map(step: Callable[[Tensor], Tensor]) -> TangentMap:
    """The tangent map of `step`: state (B, D) -> (B, D), rows independent, by automatic differentiation.

    The Jacobian comes from D backward passes, so this is for states of few dimensions or a first try.
    """

    def tangent(state: Tensor, vectors: Tensor, _step: int) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = state.detach().requires_grad_()
            following = step(x)
            rows = [torch.autograd.grad(y.sum(), x, retain_graph=True)[0] for y in following.unbind(1)]
        return following.detach(), torch.stack(rows, dim=1) @ vectors

    return tangent


def from_jacobian(step: Callable[[Tensor], Tensor], jacobian: Callable[[Tensor], Tensor]) -> TangentMap:
    """The tangent map of `step`: (B, D) -> (B, D) with an explicit `jacobian`: (B, D) -> (B, D, D)."""
    return lambda state, vectors, _step: (step(state), jacobian(state) @ vectors)


def static_tangent(layer: Layer, n: Tensor, s: Tensor, current: Tensor) -> TangentMap:
    """The tangent map of h -> γ(W_hh h + I_t; n, s) with n and s held: J = diag(γ'(a)) W_hh.

    With a leak α, h -> (1 - α) h + α γ, and J becomes (1 - α) + α J.

    Args:
        layer: of `network.layer_of`.
        n, s: (H,), or (B, H) with values of their own for each initial condition.
        current: I_t = b + W_ih x_t + ξ_t, (T', H) or (T', B, H); the last one stays on after T' steps.
    """

    def tangent(h: Tensor, vectors: Tensor, step: int) -> tuple[Tensor, Tensor]:
        a = h @ layer.weight_hh.T + current[min(step, len(current) - 1)]
        slope = gamma_slope(a, n, s, layer.n_floor)
        moved = slope[..., None] * (layer.weight_hh @ vectors)
        following = reference.leaky(h, reference.gamma(a, n, s, layer.n_floor), layer.leak)
        return following, reference.leaky(vectors, moved, _of_vectors(layer))

    return tangent


def _of_vectors(layer: Layer) -> Tensor | None:
    """The leak for vectors (B, H, k)."""
    return None if layer.leak is None else layer.leak[:, None]


def relu_tangent(weight_hh: Tensor, current: Tensor) -> TangentMap:
    """The tangent map of h -> max(W_hh h + I_t, 0): J = diag(a > 0) W_hh. `current` as in `static_tangent`."""

    def tangent(h: Tensor, vectors: Tensor, step: int) -> tuple[Tensor, Tensor]:
        a = h @ weight_hh.T + current[min(step, len(current) - 1)]
        return a.relu(), (a > 0)[..., None] * (weight_hh @ vectors)

    return tangent


def joint_step(layer: Layer, state: Tensor, current: Tensor) -> Tensor:
    """One step of an ARUN's joint state: (B, H + H·G) = (h, g flattened) -> the next; current (H,) or (B, H)."""
    return _joint_step(layer, state, current)[0]


def _joint_step(layer: Layer, state: Tensor, current: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The next state, and a, n, s (B, H) and g (B, H, G) of the step."""
    H, G = layer.hidden_size, layer.controller_size
    h, g = state[:, :H], state[:, H:].unflatten(1, (H, G))
    a = h @ layer.weight_hh.T + current
    n, s, g = reference.controller_step(a, g, *layer.controller)
    h = reference.leaky(h, reference.gamma(a, n, s, layer.n_floor), layer.leak)
    return torch.cat([h, g.flatten(1)], dim=1), a, n, s, g


def joint_tangent(layer: Layer, current: Tensor) -> TangentMap:
    """The tangent map of `joint_step`, without its Jacobian, whose side is H (1 + G).

        δa = W_hh δh,  δg' = (1 - g'²) (w_ag δa + W_gg δg),  (δn, δs) = W_gc δg'
        δh' = ∂γ/∂x δa + ∂γ/∂n δn + ∂γ/∂s δs;  with a leak α, (1 - α) δh + α δh'

    `current` as in `static_tangent`.
    """
    H, G = layer.hidden_size, layer.controller_size
    weight_ag, weight_gg, _, weight_gc, _ = layer.controller

    def tangent(state: Tensor, vectors: Tensor, step: int) -> tuple[Tensor, Tensor]:
        following, a, n, s, g = _joint_step(layer, state, current[min(step, len(current) - 1)])
        dx, dn, ds = gamma_derivatives(a, n, s, layer.n_floor)
        delta_a = layer.weight_hh @ vectors[:, :H]  # (B, H, k)
        delta_u = weight_ag[:, None] * delta_a[:, :, None] + weight_gg @ vectors[:, H:].unflatten(1, (H, G))
        delta_g = (1 - g**2)[..., None] * delta_u  # (B, H, G, k)
        delta_n, delta_s = (weight_gc @ delta_g).unbind(2)
        delta_h = dx[..., None] * delta_a + dn[..., None] * delta_n + ds[..., None] * delta_s
        delta_h = reference.leaky(vectors[:, :H], delta_h, _of_vectors(layer))
        return following, torch.cat([delta_h, delta_g.flatten(1, 2)], dim=1)

    return tangent


def network_exponents(
    network: nn.Module,
    k: int | None = 1,
    drive: Any = 0.0,
    held: tuple[Any, Any] | None = None,
    initial: Any = None,
    n_initial: int = 4,
    bias: bool = True,
    **options: Any,
) -> Exponents:
    """Lyapunov exponents of a network's state map: how fast small differences of its state grow, in nats a step.

    GammaRNN and torch.nn.RNN: of h. ARUN with `held` = (n, s): of h with n and s held there, the paper's choice. ARUN
    without: of the joint state (h, g), of dimension H (1 + G).

    Args:
        network: ARUN, GammaRNN or torch.nn.RNN with ReLU, of one layer. Its input is 0.
        k: number of exponents, the largest; None takes all.
        drive: input current ξ beside b: a number, (T',), (T', H), or (T', B, H) with drives of their own for each
            initial condition; after T' steps the last one stays on.
        held: n and s, each a number, (H,) or (B, H).
        initial: (B, H) or (B, H + H·G), initial states; None draws `n_initial`: h ~ U(0, 1), g ~ U(-1, 1).
        n_initial: B.
        bias: whether b acts; the paper's map has none.
        options: steps, transient, blocks, seed, progress, strict of `lyapunov_exponents`.

    Raises:
        ConfigError: an argument does not fit the network.
        AnalysisError: as in `lyapunov_exponents`.
    """
    relu = isinstance(network, nn.RNN)
    weight = recurrent_weight(network)
    layer = None if relu else layer_of(network)
    H, G = len(weight), 0 if relu else layer.controller_size
    joint = G > 0 and held is None
    if relu and network.nonlinearity != "relu":
        raise ConfigError(f"network: got an RNN with {network.nonlinearity}, expected one with relu.")
    if held is not None and G == 0:
        raise ConfigError("held: got n and s, expected None: only an ARUN's are held.")
    size = H * (1 + G) if joint else H
    if initial is None:
        rng = np.random.default_rng([options.get("seed", 0), 1])
        initial = rng.uniform(size=(checks.whole("n_initial", n_initial), H))
        if joint:
            initial = np.concatenate([initial, rng.uniform(-1, 1, (n_initial, H * G))], axis=1)
    start = checks.array("initial", np.atleast_2d(initial), ndim=2)
    if start.shape[1] != size:
        raise ConfigError(f"initial: got states of dimension {start.shape[1]}, expected {size}.")
    current = _drive(drive, len(start), H)
    if bias:
        current = current + (layer.bias if layer else (network.bias_ih_l0 + network.bias_hh_l0).detach().to(current))
    if relu:
        return lyapunov_exponents(relu_tangent(weight, current), start, k, **options)
    if joint:
        return lyapunov_exponents(joint_tangent(layer, current), start, k, **options)
    if held is None:
        n, s = layer.gain, layer.saturation
    else:
        n, s = (_held(name, value, len(start), H) for name, value in zip("ns", held, strict=True))
    return lyapunov_exponents(static_tangent(layer, n, s, current), start, k, **options)


def _drive(drive: Any, batch: int, H: int) -> Tensor:
    xi = checks.array("drive", np.atleast_1d(np.asarray(drive, dtype=np.float64)))
    xi = xi[:, None] if xi.ndim == 1 else xi
    if xi.ndim > 3 or xi.shape[-1] not in (1, H) or (xi.ndim == 3 and xi.shape[1] not in (1, batch)):
        raise ConfigError(
            f"drive: got shape {xi.shape}, expected a number, (T',), (T', {H}) or (T', {batch}, {H}): a drive for each "
            "initial condition."
        )
    return torch.tensor(xi).expand(*xi.shape[:-1], H)


def _held(name: str, value: Any, batch: int, size: int) -> Tensor:
    x = checks.array(f"held {name}", np.atleast_1d(np.asarray(value, dtype=np.float64)))
    if x.shape not in ((1,), (size,), (batch, size)):
        raise ConfigError(f"held {name}: got shape {x.shape}, expected a number, ({size},) or ({batch}, {size}).")
    return torch.tensor(x).expand(batch, size)
