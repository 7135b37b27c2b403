"""Checked arguments to a backend: one compute dtype, the backend's kernel, results in the caller's dtype.

The shapes are right already: `aru_kernels.functional` checks those of its callers, a module knows its own parameters.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aru_kernels import _checks as check
from aru_kernels import backends, ops, reference
from aru_kernels._precision import product_precision
from aru_kernels.reference import Trace

CONTROLLER = ("weight_ag", "weight_gg", "bias_g", "weight_gc", "bias_c")
_GAMMA = ("x", "n", "s")
_STEP = ("a", "g", *CONTROLLER)
_ARU_SEQUENCE = ("xp", "h0", "g0", "weight_hh", *CONTROLLER)
_GAMMA_RNN_SEQUENCE = ("xp", "h0", "weight_hh", "n", "s")


def _prepare(
    op: str, names: tuple[str, ...], tensors: tuple[Tensor, ...], H: int = 0, G: int = 0
) -> tuple[str, torch.dtype, tuple[Tensor, ...]]:
    """The backend that runs `op`, the dtype of results, and the tensors in the dtype that its kernel takes."""
    out_dtype = check.common_dtype(names, tensors)
    wide = check.compute_dtype(out_dtype)
    backend = backends.select(op, tensors[0].device, wide, H, G)
    kernel_dtype = out_dtype if backends.BACKENDS[backend].takes(op, out_dtype) else wide
    return backend, out_dtype, check.to_dtype(tensors, kernel_dtype)


def gamma(x: Tensor, n: Tensor, s: Tensor, n_floor: float) -> Tensor:
    """γ; n and s broadcast to x."""
    backend, out_dtype, (x, n, s) = _prepare("gamma", _GAMMA, (x, n, s))
    if backend == "reference":
        return reference.gamma(x, n, s, n_floor).to(out_dtype)
    return ops.call(backend, "gamma", x, n, s, n_floor).to(out_dtype)


def controller_step(a: Tensor, g: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """n, s and the next g."""
    backend, out_dtype, tensors = _prepare("controller_step", _STEP, (a, g, *weights), *g.shape[-2:])
    if backend == "reference":
        with check.no_autocast(a.device):
            results = reference.controller_step(*tensors)
    else:
        _, g, n, s = _fused_step(backend, *tensors, n_floor=1.0)  # h is not asked for
        results = n, s, g
    return _cast(results, out_dtype)


def adaptive_gamma(a: Tensor, g: Tensor, *weights: Tensor, n_floor: float) -> tuple[Tensor, Tensor]:
    """h and the next g."""
    backend, out_dtype, tensors = _prepare("controller_step", _STEP, (a, g, *weights), *g.shape[-2:])
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
    precision = product_precision(a.device.type)
    h, g, n, s, _ = ops.call(backend, "controller_step", a, g, *weights, n_floor, precision, keep)
    if len(shape) != 2:
        return h.view(shape), g.view(state_shape), n.view(shape), s.view(shape)
    return h, g, n, s


def aru_sequence(
    *tensors: Tensor, n_floor: float, return_trace: bool
) -> tuple[Tensor, tuple[Tensor, Tensor], Trace | None]:
    """xp, h0, g0, weight_hh and the controller's weights -> h, last (h, g), trace."""
    backend, out_dtype, tensors = _prepare("aru_sequence", _ARU_SEQUENCE, tensors, *tensors[2].shape[-2:])
    xp, _, g0, *_ = tensors
    if backend == "reference":
        with check.no_autocast(xp.device):
            h, g, trace = reference.aru_sequence(*tensors, n_floor, return_trace)
        h_last = h[-1].clone()
    else:
        needed = _needs_gradient(*tensors)
        precision = product_precision(xp.device.type)
        segment = ops.choose_segment(backend, *xp.shape, g0.shape[-1], xp.dtype, precision) if needed else 0
        arguments = (*tensors, n_floor, precision, segment, return_trace)
        h, h_last, g, a, n, s, _ = ops.call(backend, "aru_sequence", *arguments)
        trace = Trace(a, n, s) if return_trace else None
    h, *last = _cast((h, h_last, g), out_dtype)
    return h, tuple(last), trace and Trace(*_cast(trace, out_dtype))


def gamma_rnn_sequence(
    *tensors: Tensor, n_floor: float, return_trace: bool
) -> tuple[Tensor, tuple[Tensor], Trace | None]:
    """xp, h0, weight_hh, n and s -> h, last (h,), trace."""
    backend, out_dtype, tensors = _prepare("gamma_rnn_sequence", _GAMMA_RNN_SEQUENCE, tensors, tensors[0].shape[-1])
    xp, *_, n, s = tensors
    if backend == "reference":
        with check.no_autocast(xp.device):
            h, trace = reference.gamma_rnn_sequence(*tensors, n_floor, return_trace)
        h_last = h[-1].clone()
    else:
        keep = return_trace or _needs_gradient(*tensors)
        precision = product_precision(xp.device.type)
        h, h_last, a = ops.call(backend, "gamma_rnn_sequence", *tensors, n_floor, precision, keep)
        # copies: a trace that is kept must not change with the parameters
        trace = Trace(a, n.clone().expand_as(a), s.clone().expand_as(a)) if return_trace else None
    h, h_last = _cast((h, h_last), out_dtype)
    return h, (h_last,), trace and Trace(*_cast(trace, out_dtype))


def _cast(tensors: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    return tensors if tensors[0].dtype == dtype else tuple(x.to(dtype) for x in tensors)


def _needs_gradient(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
