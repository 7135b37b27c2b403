"""Checked arguments to a backend: one compute dtype, the backend's kernel, results in the caller's dtype.

The shapes are right already: `aru_kernels.functional` checks those of its callers, a module knows its own parameters.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aru_kernels import _checks as check
from aru_kernels import backends, ops, reference
from aru_kernels.reference import Trace

CONTROLLER = ("weight_ag", "weight_gg", "bias_g", "weight_gc", "bias_c")
_GAMMA = ("x", "n", "s")
_STEP = ("a", "g", *CONTROLLER)
_ARU_SEQUENCE = ("xp", "h0", "g0", "weight_hh", *CONTROLLER)
_GAMMA_RNN_SEQUENCE = ("xp", "h0", "weight_hh", "n", "s")


def gamma(x: Tensor, n: Tensor, s: Tensor, n_floor: float) -> Tensor:
    """γ; n and s broadcast to x."""
    out_dtype, (x, n, s) = check.unify(_GAMMA, (x, n, s))
    backend = backends.select("gamma", x.device, x.dtype)
    if backend == "reference":
        return reference.gamma(x, n, s, n_floor).to(out_dtype)
    return ops.call(backend, "gamma", x, n, s, n_floor).to(out_dtype)


def controller_step(a: Tensor, g: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """n, s and the next g."""
    out_dtype, tensors = check.unify(_STEP, (a, g, *weights))
    backend = backends.select("controller_step", a.device, tensors[0].dtype)
    if backend == "reference":
        with check.no_autocast(a.device):
            results = reference.controller_step(*tensors)
    else:
        _, g, n, s = _fused_step(backend, *tensors, n_floor=1.0)  # h is not asked for
        results = n, s, g
    return _cast(results, out_dtype)


def adaptive_gamma(a: Tensor, g: Tensor, *weights: Tensor, n_floor: float) -> tuple[Tensor, Tensor]:
    """h and the next g."""
    out_dtype, tensors = check.unify(_STEP, (a, g, *weights))
    backend = backends.select("controller_step", a.device, tensors[0].dtype)
    if backend == "reference":
        with check.no_autocast(a.device):
            n, s, g = reference.controller_step(*tensors)
            results = reference.gamma(tensors[0], n, s, n_floor), g
    else:
        results = _fused_step(backend, *tensors, n_floor=n_floor)[:2]
    return _cast(results, out_dtype)


def _fused_step(backend: str, a: Tensor, g: Tensor, *weights: Tensor, n_floor: float) -> tuple[Tensor, ...]:
    """h, next g, n and s."""
    shape, state_shape = a.shape, g.shape
    if a.ndim != 2:
        a, g = a.reshape(-1, shape[-1]), g.reshape(-1, *state_shape[-2:])
    keep = _needs_gradient(a, g, *weights)
    h, g, n, s, _ = ops.call(backend, "controller_step", a, g, *weights, n_floor, keep)
    if len(shape) != 2:
        return h.view(shape), g.view(state_shape), n.view(shape), s.view(shape)
    return h, g, n, s


def aru_sequence(*tensors: Tensor, n_floor: float, return_trace: bool) -> tuple[Tensor, Tensor, Trace | None]:
    """xp, h0, g0, weight_hh and the controller's weights -> h, last g, trace."""
    out_dtype, tensors = check.unify(_ARU_SEQUENCE, tensors)
    xp, _, g0, *_ = tensors
    backend = backends.select("aru_sequence", xp.device, xp.dtype, g0.shape[-1], xp.shape[-1])
    if backend == "reference":
        with check.no_autocast(xp.device):
            h, g, trace = reference.aru_sequence(*tensors, n_floor, return_trace)
    else:
        needed = _needs_gradient(*tensors)
        segment = ops.choose_segment(backend, *xp.shape, g0.shape[-1], xp.dtype) if needed else 0
        h, g, a, n, s, _ = ops.call(backend, "aru_sequence", *tensors, n_floor, segment, return_trace)
        trace = Trace(a, n, s) if return_trace else None
    return *_cast((h, g), out_dtype), trace and Trace(*_cast(trace, out_dtype))


def gamma_rnn_sequence(*tensors: Tensor, n_floor: float, return_trace: bool) -> tuple[Tensor, Trace | None]:
    """xp, h0, weight_hh, n and s -> h, trace."""
    out_dtype, tensors = check.unify(_GAMMA_RNN_SEQUENCE, tensors)
    xp, *_, n, s = tensors
    backend = backends.select("gamma_rnn_sequence", xp.device, xp.dtype, 0, xp.shape[-1])
    if backend == "reference":
        with check.no_autocast(xp.device):
            h, trace = reference.gamma_rnn_sequence(*tensors, n_floor, return_trace)
    else:
        keep = return_trace or _needs_gradient(*tensors)
        h, a = ops.call(backend, "gamma_rnn_sequence", *tensors, n_floor, keep)
        trace = Trace(a, n.expand_as(a), s.expand_as(a)) if return_trace else None
    return h.to(out_dtype), trace and Trace(*_cast(trace, out_dtype))


def _cast(tensors: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    return tensors if tensors[0].dtype == dtype else tuple(x.to(dtype) for x in tensors)


def _needs_gradient(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
