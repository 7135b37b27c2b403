"""The equations of the adaptive recurrent unit in plain PyTorch: the definition of correctness for every backend.

Source: Geadah, Horoi, Kerg, Wolf, Lajoie, "Neural networks with optimized single-neuron adaptation uncover
biologically plausible regularization", PLOS Computational Biology, 2024.

Sizes: T time steps, B batch, H neurons, G controller units.  Everything here is made of differentiable PyTorch
operations: it runs on any device in any floating dtype, differentiates to any order and works under `torch.func`.
Arguments are taken as they come; `aru_kernels.functional` checks them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Trace(NamedTuple):
    """What the neurons did at every step.

    a: pre-activation ("input current"); n: gain; s: saturation.  Each (T, B, H).
    """

    a: Tensor
    n: Tensor
    s: Tensor


def floor_gain(n: Tensor, n_floor: float) -> Tensor:
    """`copysign(max(|n|, n_floor), n)`, with the gradient passed straight to n.  copysign(., -0) = +."""
    floor = torch.full_like(n, n_floor)
    floored = torch.where(n < 0, -floor, floor)
    straight_through = floored + (n - n.detach())
    return torch.where(n.abs() < n_floor, straight_through, n)


def gamma(x: Tensor, n: Tensor, s: Tensor, n_floor: float = 1e-3) -> Tensor:
    """γ(x; n, s) = (1 - s) softplus(n x) / n + s σ(n x), element by element; x, n and s broadcast.

    Written with `e = exp(-|n x|)`: no exponential overflows, and neither the value nor any derivative cancels.  Both
    branches of each `where` continue the same analytic function, so derivatives of every order hold at x = 0 too.
    softplus(n x) / n is summed as x + log1p(e) / n because n x may overflow where x does not.
    """
    n = floor_gain(n, n_floor)
    z = n * x
    positive = z >= 0
    e = torch.exp(torch.where(positive, -z, z))
    softplus_over_n = torch.where(positive, x, 0) + torch.log1p(e) / n
    sigmoid = torch.where(positive, 1, e) / (1 + e)
    return (1 - s) * softplus_over_n + s * sigmoid


def controller_step(
    a: Tensor,
    g: Tensor,
    weight_ag: Tensor,
    weight_gg: Tensor,
    bias_g: Tensor,
    weight_gc: Tensor,
    bias_c: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of the controller that every neuron has a copy of.

    a: (..., H); g: (..., H, G) -> n (..., H), s (..., H), next g (..., H, G).

        g' = tanh(w_ag a + W_gg g + b_g),   (n, s) = W_gc g' + b_c
    """
    g = torch.tanh(a[..., None] * weight_ag + F.linear(g, weight_gg, bias_g))
    n, s = F.linear(g, weight_gc, bias_c).unbind(-1)
    return n, s, g


def leaky(h: Tensor, y: Tensor, leak: Tensor | None) -> Tensor:
    """The next h of neurons with a leak: (1 - leak) h + leak y, or y without a leak."""
    return y if leak is None else (1 - leak) * h + leak * y


def aru_sequence(
    xp: Tensor,
    h0: Tensor,
    g0: Tensor,
    weight_hh: Tensor,
    weight_ag: Tensor,
    weight_gg: Tensor,
    bias_g: Tensor,
    weight_gc: Tensor,
    bias_c: Tensor,
    n_floor: float = 1e-3,
    return_trace: bool = False,
    leak: Tensor | None = None,
) -> tuple[Tensor, Tensor, Trace | None]:
    """The adaptive network over T steps.

    xp: (T, B, H), input projection with bias and drive; h0: (B, H); g0: (B, H, G); leak: (H,)
    -> h (T, B, H), last g (B, H, G), trace if asked for.
    """
    h, g = h0, g0
    steps, trace = [], []
    for xp_t in xp.unbind(0):
        a = xp_t + F.linear(h, weight_hh)
        n, s, g = controller_step(a, g, weight_ag, weight_gg, bias_g, weight_gc, bias_c)
        h = leaky(h, gamma(a, n, s, n_floor), leak)
        steps.append(h)
        if return_trace:
            trace.append((a, n, s))
    return torch.stack(steps), g, stack_trace(trace) if return_trace else None


def gamma_rnn_sequence(
    xp: Tensor,
    h0: Tensor,
    weight_hh: Tensor,
    n: Tensor,
    s: Tensor,
    n_floor: float = 1e-3,
    return_trace: bool = False,
    leak: Tensor | None = None,
) -> tuple[Tensor, Trace | None]:
    """The static network RNN+γ over T steps.

    xp: (T, B, H), input projection with bias and drive; h0: (B, H); n, s: broadcast to (H,); leak: (H,)
    -> h (T, B, H), trace if asked for.
    """
    h = h0
    steps, trace = [], []
    for xp_t in xp.unbind(0):
        a = xp_t + F.linear(h, weight_hh)
        h = leaky(h, gamma(a, n, s, n_floor), leak)
        steps.append(h)
        if return_trace:
            trace.append((a, n.expand_as(a), s.expand_as(a)))
    return torch.stack(steps), stack_trace(trace) if return_trace else None


def stack_trace(steps: list[tuple[Tensor, Tensor, Tensor]]) -> Trace:
    """The trace of a sequence from the (a, n, s) of its steps."""
    return Trace(*(torch.stack(x) for x in zip(*steps, strict=True)))
