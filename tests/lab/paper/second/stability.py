"""The largest Lyapunov exponent of h -> γ(W_hh h; n, s), and gradient norms by position (C37, C46, C47, C49)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lab.paper.second.model import Array, Network, T, gamma, gamma_slope, run, step_drive


def orthonormal(columns: Array) -> tuple[Array, Array]:
    """Modified Gram-Schmidt: Q, and the diagonal of R, which is positive."""
    q = columns.copy()
    lengths = np.empty(q.shape[1])
    for j in range(q.shape[1]):
        for i in range(j):
            q[:, j] -= (q[:, i] @ q[:, j]) * q[:, i]
        lengths[j] = np.sqrt(q[:, j] @ q[:, j])
        q[:, j] /= lengths[j]
    return q, lengths


def exponents_from(
    network: Network, h: Array, n: Array | None, s: Array | None, q: Array, steps: int, transient: int
) -> Array:
    """The largest exponents (k,) in nats a step, without input, bias and drive, from the state h (H,) and q (H, k).

    Every neuron's n and s are held.
    """
    q, _ = orthonormal(q)
    total = np.zeros(q.shape[1])
    for step in range(transient + steps):
        a = network.w_hh @ h
        slope = (a > 0).astype(np.float64) if n is None else gamma_slope(a, n, s)
        q, lengths = orthonormal(slope[:, None] * (network.w_hh @ q))
        h = np.maximum(a, 0) if n is None else gamma(a, n, s)
        if step >= transient:
            total += np.log(lengths)
    return total / steps


def exponents(
    network: Network, x: Array, amplitude: float, at: int, q: Array, steps: int = 1000, transient: int = 200
) -> Array:
    """Exponents (B, k) from the state of each sequence at step `at` of a run under a step drive, n and s held there."""
    _, trace = run(network, x, step_drive(amplitude))
    found = []
    for i in range(len(x)):
        n, s = (None, None) if network.model == "relu" else (trace.n[at, i], trace.s[at, i])
        found.append(exponents_from(network, trace.h[at, i], n, s, q, steps, transient))
    return np.array(found)


def loss_through(network: Network, x: Array, y: Array, weights: list[Tensor], start: int = 0) -> Tensor:
    """Summed cross-entropy, where step t uses weights[t] as W_hh and the state before step `start` is a constant."""
    w = {key: torch.from_numpy(value) for key, value in vars(network).items() if isinstance(value, np.ndarray)}
    inputs = torch.from_numpy(x)
    h = torch.zeros(len(x), len(network.bias), dtype=torch.float64)
    g = torch.zeros(*h.shape, 1 if network.b_g is None else len(network.b_g), dtype=torch.float64)
    for t in range(x.shape[1]):
        if t == start:
            h, g = h.detach(), g.detach()
        a = inputs[:, t] @ w["w_ih"].T + h @ weights[t].T + w["bias"]
        if network.model == "relu":
            h = a.clamp(min=0)
            continue
        if network.model == "arun":
            g = torch.tanh(a[..., None] * w["w_ag"] + g @ w["w_gg"].T + w["b_g"])
            n, s = (g @ w["w_gc"].T + w["b_c"]).unbind(-1)
        else:
            n, s = w["n"], w["s"]
        z = n * a
        h = (1 - s) * torch.logaddexp(z, torch.zeros_like(z)) / n + s * torch.sigmoid(z)
    scores = h @ w["readout"].T + w["readout_bias"]
    return torch.nn.functional.cross_entropy(scores, torch.from_numpy(y), reduction="sum")


def terms(network: Network, x: Array, y: Array, batch: int = 50) -> Array:
    """The term of each step in the gradient of the mean loss for W_hh, (T, H, H): every step has a W_hh of its own."""
    total = np.zeros((x.shape[1], *network.w_hh.shape))
    for i in range(0, len(x), batch):
        weights = [torch.from_numpy(network.w_hh.copy()).requires_grad_() for _ in range(x.shape[1])]
        loss = loss_through(network, x[i : i + batch], y[i : i + batch], weights)
        for t, gradient in enumerate(torch.autograd.grad(loss, weights)):
            total[t] += gradient.numpy()
    return total / len(x)


def accumulated(gradients: Array, positions: list[int]) -> Array:
    """Norm of the sum of the terms from each position on."""
    return np.array([np.linalg.norm(gradients[p:].sum(0)) for p in positions])


def with_state_held(network: Network, x: Array, y: Array, position: int) -> float:
    """The same norm from its definition: one W_hh, and the state before the position detached."""
    weight = torch.from_numpy(network.w_hh.copy()).requires_grad_()
    weights = [weight.detach() if t < position else weight for t in range(x.shape[1])]
    (gradient,) = torch.autograd.grad(loss_through(network, x, y, weights, position) / len(x), weight)
    return float(gradient.norm())


POSITIONS = list(range(0, T, 4))


def ranks(values: Array) -> Array:
    order = np.argsort(values)
    result = np.empty(len(values))
    result[order] = np.arange(len(values))
    return result


def growth(norms: Array) -> tuple[float, float]:
    """Spearman's ρ of the norm with T - p, and the slope of log10 norm over (T - p)/T, at the positions; C46."""
    lengths = T - np.array(POSITIONS, np.float64)
    rho = np.corrcoef(ranks(norms), ranks(lengths))[0, 1]
    x, y = lengths / T, np.log10(norms)
    return float(rho), float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())


def rise_and_fall(first: Array, second: Array) -> float:
    """log10(norm at the length where the first half's is largest/norm of the whole sequence), second half; C47."""
    return float(np.log10(second[np.argmax(first)] / second[0]))


def early_and_late(gradients: Array) -> float:
    """log10(mean norm of a step's term in the first fifth of the steps/in the last fifth); C49."""
    norms = np.sqrt((gradients**2).sum((1, 2)))
    fifth = len(norms) // 5
    return float(np.log10(norms[:fifth].mean() / norms[-fifth:].mean()))
