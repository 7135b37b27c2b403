"""The operations on sequences: all T steps of the adaptive and of the static network, forward and backward.

Only h couples the neurons, through the product with W_hh.  Its gradient is one product over all steps after the loop.

Memory of the adaptive network (T, B, H, G of a call; float32): the forward pass keeps a and h, and g before every K-th
step.  The backward pass holds K states g at a time, which one launch recomputes from a, and the gradients of a few of
them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aru_kernels.triton import kept_slots, persistent, stepwise
from aru_kernels.triton.controller import padded_rows, row_length
from aru_kernels.triton.launch import launching_on
from aru_kernels.triton.networks import (
    Adaptive,
    AdaptiveForward,
    AdaptiveUpstream,
    Static,
    StaticBackward,
    StaticForward,
)
from aru_kernels.triton.ways import slots, start_gradient


def _adaptive_way(network: Adaptive, B: int) -> persistent.AdaptiveAtOnce | stepwise.AdaptiveStepByStep:
    small = persistent.fits(B, len(network.weight_hh), network.controller.GP)
    return persistent.AdaptiveAtOnce(network) if small else stepwise.AdaptiveStepByStep(network)


def _static_way(network: Static, B: int) -> persistent.StaticAtOnce | stepwise.StaticStepByStep:
    small = persistent.fits(B, len(network.weight_hh))
    return persistent.StaticAtOnce(network) if small else stepwise.StaticStepByStep(network)


def _contiguous(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


def _recurrent_gradient(d_xp: Tensor, h0: Tensor, h: Tensor) -> Tensor:
    """dW_hh = Σ_t da_t h_{t-1}^T, as a product for the first step and one for all others."""
    first = torch.mm(d_xp[0].t(), h0)
    return torch.addmm(first, d_xp[1:].flatten(0, 1).t(), h[:-1].flatten(0, 1))


def aru_sequence_fwd(
    xp: Tensor,
    h0: Tensor,
    g0: Tensor,
    weight_hh: Tensor,
    weight_ag: Tensor,
    weight_gg: Tensor,
    bias_g: Tensor,
    weight_gc: Tensor,
    bias_c: Tensor,
    n_floor: float,
    precision: str,
    segment: int,
    trace: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """h, the last g, a, n, s and the kept state; a, n and s are empty if neither trace nor a gradient needs them."""
    (T, B, H), G = xp.shape, g0.shape[-1]
    h, last_g = xp.new_empty(xp.shape), g0.new_empty(g0.shape)
    a = xp.new_empty(xp.shape if trace or segment else (0,))
    n, s = (xp.new_empty(xp.shape if trace or segment == 1 else (0,)) for _ in "ns")
    GS = row_length(G)
    kept = xp.new_empty(kept_slots(T, segment), B, H, GS)
    if not xp.numel():
        return h, last_g, a, n, s, kept.view(-1)
    with launching_on(xp):
        network = Adaptive(weight_hh, (weight_ag, weight_gg, bias_g, weight_gc, bias_c), n_floor, precision)
        way = _adaptive_way(network, B)
        xp, h_before, dtype = xp.contiguous(), h0.contiguous(), way.state_type(segment)
        state = g_before = padded_rows(g0, row_length(G, dtype)).to(dtype)
        one_a = None if a.numel() else xp.new_empty(1, B, H)
        if segment == 1:
            kept[0].copy_(g_before)  # in rows of the same length, as float32

        def arguments(part: slice) -> AdaptiveForward:
            return AdaptiveForward(
                xp=xp[part],
                h_before=h_before,
                g_before=g_before,
                a=a[part] if one_a is None else one_a,
                h=h[part],
                g=kept[1:][part] if segment == 1 else state[None],
                n=n[part] if n.numel() else None,
                s=s[part] if s.numel() else None,
            )

        parts = way.chunks(T, segment)
        with way.running(way.forward, arguments(parts[0])) as run:
            for index, part in enumerate(parts):
                if segment > 1:
                    kept[index].copy_(g_before[..., :GS])
                now = arguments(part)
                run(now)
                h_before, g_before = now.h[-1], now.g[-1]
        last_g.copy_(g_before[..., :G])
    return h, last_g, a, n, s, kept.view(-1)


def aru_sequence_bwd(
    d_h: Tensor | None,
    d_h_last: Tensor | None,
    d_g: Tensor | None,
    d_a: Tensor | None,
    d_n: Tensor | None,
    d_s: Tensor | None,
    h0: Tensor,
    g0: Tensor,
    weight_hh: Tensor,
    weight_ag: Tensor,
    weight_gg: Tensor,
    bias_g: Tensor,
    weight_gc: Tensor,
    bias_c: Tensor,
    h: Tensor,
    a: Tensor,
    n: Tensor,
    s: Tensor,
    kept: Tensor,
    n_floor: float,
    precision: str,
    segment: int,
) -> tuple[Tensor, ...]:
    """Gradients of xp, h0, g0, weight_hh and the controller's weights."""
    weights = (weight_ag, weight_gg, bias_g, weight_gc, bias_c)
    _, B, H = a.shape
    d_xp = a.new_empty(a.shape)
    if not a.numel():
        return d_xp, *(x.new_zeros(x.shape) for x in (h0, g0, weight_hh, *weights))
    with launching_on(a):
        network = Adaptive(weight_hh, weights, n_floor, precision)
        upstream = AdaptiveUpstream(*map(_contiguous, (d_h, d_a, d_n, d_s)), d_h_last=d_h_last, d_g=d_g)
        kept = kept.view(-1, B, H, row_length(g0.shape[-1]))
        d_h0, d_g0, gradients = _adaptive_way(network, B).gradients(upstream, a, kept, g0, d_xp, segment)
        return d_xp, d_h0, d_g0, _recurrent_gradient(d_xp, h0, h), *gradients


def gamma_rnn_sequence_fwd(
    xp: Tensor, h0: Tensor, weight_hh: Tensor, n: Tensor, s: Tensor, n_floor: float, precision: str, keep: bool
) -> tuple[Tensor, Tensor]:
    """h, and a if keep, otherwise an empty tensor."""
    T, B, H = xp.shape
    h, a = xp.new_empty(xp.shape), xp.new_empty(xp.shape if keep else (0,))
    if not xp.numel():
        return h, a
    with launching_on(xp):
        way = _static_way(Static(weight_hh, n, s, n_floor), B)
        xp, h_before = xp.contiguous(), h0.contiguous()
        one_a = None if keep else xp.new_empty(1, B, H)

        def arguments(part: slice) -> StaticForward:
            return StaticForward(xp=xp[part], h_before=h_before, a=a[part] if one_a is None else one_a, h=h[part])

        parts = way.chunks(T, 0)
        with way.running(way.forward, arguments(parts[0])) as run:
            for part in parts:
                now = arguments(part)
                run(now)
                h_before = now.h[-1]
    return h, a


def gamma_rnn_sequence_bwd(
    d_h: Tensor | None,
    d_h_last: Tensor | None,
    d_a: Tensor | None,
    h0: Tensor,
    weight_hh: Tensor,
    n: Tensor,
    s: Tensor,
    h: Tensor,
    a: Tensor,
    n_floor: float,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of xp, h0, weight_hh, n and s."""
    T, B, _ = a.shape
    d_xp = a.new_empty(a.shape)
    if not a.numel():
        return d_xp, *(x.new_zeros(x.shape) for x in (h0, weight_hh, n, s))
    with launching_on(a):
        way = _static_way(Static(weight_hh, n, s, n_floor), B)
        d_h, d_a = _contiguous(d_h), _contiguous(d_a)

        def arguments(part: slice, **carried: Tensor) -> StaticBackward:
            return StaticBackward(d_h=slots(d_h, part), d_a=slots(d_a, part), a=a[part], d_xp=d_xp[part], **carried)

        parts, rows = way.chunks(T, 0), a[0]
        # the example gives sizes, and `run` the memory
        example = arguments(parts[0], d_rec=rows, dn=rows, ds=rows)
        with way.running(way.backward, example) as run:
            d_rec, dn, ds = run.buffer("d_rec"), run.zeros("dn"), run.zeros("ds")
            start_gradient(d_rec, d_h_last)
            for part in reversed(parts):
                run(arguments(part, d_rec=d_rec, dn=dn, ds=ds))
            d_h0 = run.result(d_rec)
            dn, ds = (x.sum(0, dtype=torch.float64).sum_to_size(p.shape).to(p.dtype) for x, p in ((dn, n), (ds, s)))
        return d_xp, d_h0, _recurrent_gradient(d_xp, h0, h), dn, ds
