"""The operations behind the layers: arguments checked, a backend chosen.

Sizes: T time steps, B batch, H neurons, G controller units.  Everything is computed in float32 (float64 for float64
tensors); results have the dtype of the arguments, or float32 under autocast.  All tensors of a call are of one dtype
and on one device.  Every function raises TypeError or ValueError with a sentence for an argument of the wrong type,
dtype, device or shape.  Equations: `aru_kernels.reference`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aru_kernels import _checks as check
from aru_kernels import _dispatch
from aru_kernels.reference import Trace

__all__ = ["adaptive_gamma", "aru_sequence", "controller_step", "gamma", "gamma_rnn_sequence"]


def gamma(x: Tensor, n: Tensor | float, s: Tensor | float, n_floor: float = 1e-3) -> Tensor:
    """The activation γ(x; n, s) = (1 - s) softplus(n x) / n + s σ(n x).

    s = 0 is a softplus whose sharpness is the gain n (ReLU for large n), s = 1 a logistic function of slope n/4.

    Args:
        x: any shape.
        n: gain; a number or a tensor that broadcasts with x, such as () or (H,) or x's shape.
        s: saturation; likewise.  Not clamped to [0, 1].
        n_floor: γ is evaluated at `copysign(max(|n|, n_floor), n)`, so that n = 0 is no singularity; the gradient is
            taken there and passed to n.

    Returns:
        γ, of the broadcast shape.  The gradient of a broadcast parameter is summed over the dimensions it lacks.
    """
    check.tensor("x", x)
    n, s = (
        check.tensor(name, p)
        if isinstance(p, Tensor)
        else torch.full((), check.number_beside_tensor(name, p, x.dtype), dtype=x.dtype, device=x.device)
        for name, p in (("n", n), ("s", s))
    )
    n_floor = check.gain_floor(n_floor)
    _check(x=x, n=n, s=s)
    if not (check.broadcasts_to(n, x.shape) and check.broadcasts_to(s, x.shape)):
        try:
            x = x.expand(torch.broadcast_shapes(x.shape, n.shape, s.shape))
        except RuntimeError:
            raise ValueError(
                f"n and s have shapes {tuple(n.shape)} and {tuple(s.shape)}, which do not broadcast with "
                f"{tuple(x.shape)}, the shape of x."
            ) from None
    return _dispatch.gamma(x, n, s, n_floor)


def controller_step(
    a: Tensor,
    g: Tensor,
    weight_ag: Tensor,
    weight_gg: Tensor,
    bias_g: Tensor,
    weight_gc: Tensor,
    bias_c: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of the controller: g' = tanh(w_ag a + W_gg g + b_g), (n, s) = W_gc g' + b_c, for each neuron.

    Args:
        a: (..., H), pre-activation.
        g: (..., H, G), controller state.
        weight_ag: (G,).  weight_gg: (G, G).  bias_g: (G,).
        weight_gc: (2, G), row 0 for n, row 1 for s.  bias_c: (2,).

    Returns:
        n (..., H), s (..., H) and the next state (..., H, G).
    """
    tensors = {"a": a, "g": g, "weight_ag": weight_ag, "weight_gg": weight_gg, "bias_g": bias_g}
    _check(**tensors, weight_gc=weight_gc, bias_c=bias_c)
    return _dispatch.controller_step(a, g, weight_ag, weight_gg, bias_g, weight_gc, bias_c)


def adaptive_gamma(
    a: Tensor,
    g: Tensor,
    weight_ag: Tensor,
    weight_gg: Tensor,
    bias_g: Tensor,
    weight_gc: Tensor,
    bias_c: Tensor,
    n_floor: float = 1e-3,
) -> tuple[Tensor, Tensor]:
    """The adaptive activation over one step: h = γ(a; n, s) with n, s and the next g from `controller_step`.

    Args:
        a, g and the controller's weights: see `controller_step`.
        n_floor: see `gamma`.

    Returns:
        h (..., H) and the next g (..., H, G).
    """
    n_floor = check.gain_floor(n_floor)
    tensors = {"a": a, "g": g, "weight_ag": weight_ag, "weight_gg": weight_gg, "bias_g": bias_g}
    _check(**tensors, weight_gc=weight_gc, bias_c=bias_c)
    return _dispatch.adaptive_gamma(a, g, weight_ag, weight_gg, bias_g, weight_gc, bias_c, n_floor=n_floor)


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
    *,
    leak: Tensor | None = None,
) -> tuple[Tensor, Tensor, Trace | None]:
    """The adaptive network over T steps, from the input projection on.

        a_t = xp_t + W_hh h_{t-1},  (n_t, s_t), g_t = controller_step(a_t, g_{t-1}),  h_t = γ(a_t; n_t, s_t)

    Args:
        xp: (T, B, H), W_ih x_t + b + drive.
        h0: (B, H).  g0: (B, H, G).
        weight_hh: (H, H).  The controller's weights: see `controller_step`.
        n_floor: see `gamma`.
        return_trace: whether to return a, n and s of every step too.
        leak: (H,), the fraction α of γ that enters h in one step, in (0, 1], which is not checked; then
            h_t = (1 - α) h_{t-1} + α γ(a_t; n_t, s_t).  None for h_t = γ(a_t; n_t, s_t).

    Returns:
        h (T, B, H), the last g (B, H, G), and the trace of a, n and s, each (T, B, H), or None.
    """
    n_floor = check.gain_floor(n_floor)
    check.flag("return_trace", return_trace)
    tensors = {"xp": xp, "h0": h0, "g0": g0, "weight_hh": weight_hh, "weight_ag": weight_ag, "weight_gg": weight_gg}
    tensors |= {"bias_g": bias_g, "weight_gc": weight_gc, "bias_c": bias_c}
    _check(**tensors, **_given(leak))
    h, (_, g), trace = _dispatch.aru_sequence(*tensors.values(), n_floor=n_floor, return_trace=return_trace, leak=leak)
    return h, g, trace


def gamma_rnn_sequence(
    xp: Tensor,
    h0: Tensor,
    weight_hh: Tensor,
    n: Tensor,
    s: Tensor,
    n_floor: float = 1e-3,
    return_trace: bool = False,
    *,
    leak: Tensor | None = None,
) -> tuple[Tensor, Trace | None]:
    """The static network RNN+γ over T steps, from the input projection on: h_t = γ(xp_t + W_hh h_{t-1}; n, s).

    Args:
        xp: (T, B, H), W_ih x_t + b + drive.
        h0: (B, H).
        weight_hh: (H, H).
        n, s: gain and saturation; (1,) or () for all neurons alike, (H,) for one pair per neuron.
        n_floor: see `gamma`.
        return_trace: whether to return a, n and s of every step too.
        leak: see `aru_sequence`.

    Returns:
        h (T, B, H), and the trace of a, n and s, each (T, B, H), or None.
    """
    n_floor = check.gain_floor(n_floor)
    check.flag("return_trace", return_trace)
    _check(xp=xp, h0=h0, weight_hh=weight_hh, n=n, s=s, **_given(leak))
    h, _, trace = _dispatch.gamma_rnn_sequence(
        xp, h0, weight_hh, n, s, n_floor=n_floor, return_trace=return_trace, leak=leak
    )
    return h, trace


def _given(leak: Tensor | None) -> dict[str, Tensor]:
    return {} if leak is None else {"leak": leak}


def _check(**tensors: Tensor) -> None:
    """Checks what the operations take for granted; they check shapes themselves."""
    known = check.memory_is_known()
    for name, value in tensors.items():
        check.tensor(name, value)
        if known and type(value) in check.PLAIN:
            check.in_memory(name, value)
