"""The operations on sequences: all T steps of the adaptive and of the static network, forward and backward.

Only h couples the neurons, through the product with W_hh.  Its gradient is one product over all steps after the loop.

Memory of the adaptive network (T, B, H, G of a call; float32): the forward pass keeps a and h, and g before every K-th
step.  The backward pass holds K states g at a time, which one launch recomputes from a, and the gradients of a few of
them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aru_kernels._arguments import (
    AruInputs,
    AruOptions,
    AruOutputs,
    AruSaved,
    AruStates,
    GammaRnnInputs,
    GammaRnnOptions,
    GammaRnnOutputs,
    GammaRnnSaved,
    GammaRnnStates,
    LeakyAruInputs,
    LeakyAruSaved,
    LeakyGammaRnnInputs,
    LeakyGammaRnnSaved,
    controller_of,
    leak_of,
)
from aru_kernels.triton import kept_slots, persistent, stepwise
from aru_kernels.triton.controller import padded_rows, row_length
from aru_kernels.triton.launch import launching_on
from aru_kernels.triton.networks import (
    Adaptive,
    AdaptiveForward,
    AdaptiveUpstream,
    Past,
    Static,
    StaticBackward,
    StaticForward,
)
from aru_kernels.triton.ways import over_batch, sized, slots, start_gradient


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


def aru_sequence_fwd(inputs: AruInputs | LeakyAruInputs, options: AruOptions) -> AruStates:
    """h, the last g, a, n, s and the kept state; a, n and s are empty if neither trace nor a gradient needs them."""
    xp, g0, segment, trace = inputs.xp, inputs.g0, options.segment, options.trace
    (T, B, H), G = xp.shape, g0.shape[-1]
    h, last_g = xp.new_empty(xp.shape), g0.new_empty(g0.shape)
    a = xp.new_empty(xp.shape if trace or segment else (0,))
    n, s = (xp.new_empty(xp.shape if trace or segment == 1 else (0,)) for _ in "ns")
    GS = row_length(G)
    kept = xp.new_empty(kept_slots(T, segment), B, H, GS)
    with launching_on(xp):
        network = Adaptive(inputs.weight_hh, controller_of(inputs), options.n_floor, options.precision, leak_of(inputs))
        way = _adaptive_way(network, B)
        xp, h_before, dtype = xp.contiguous(), inputs.h0.contiguous(), way.state_type(segment)
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
    return AruStates(h=h, g=last_g, a=a, n=n, s=s, kept=kept.view(-1))


def aru_sequence_bwd(
    upstream: AruOutputs, saved: AruSaved | LeakyAruSaved, options: AruOptions
) -> AruInputs | LeakyAruInputs:
    """The gradients of the inputs."""
    a, leak = saved.a.contiguous(), leak_of(saved)
    _, B, H = a.shape
    d_xp = torch.empty_like(a)
    with launching_on(a):
        network = Adaptive(saved.weight_hh, controller_of(saved), options.n_floor, options.precision, leak)
        per_step = {f"d_{name}": _contiguous(getattr(upstream, name)) for name in ("h", "a", "n", "s")}
        gradients = AdaptiveUpstream(**per_step, d_h_last=upstream.h_last, d_g=upstream.g)
        kept = saved.kept.contiguous().view(-1, B, H, row_length(saved.g0.shape[-1]))
        past = None if leak is None else Past(saved.h0, saved.h.contiguous())
        way = _adaptive_way(network, B)
        d_h0, d_g0, *others = way.gradients(gradients, a, kept, saved.g0, d_xp, options.segment, past)
        kind = AruInputs if leak is None else LeakyAruInputs
        return kind(d_xp, d_h0, d_g0, _recurrent_gradient(d_xp, saved.h0, saved.h), *others)


def gamma_rnn_sequence_fwd(inputs: GammaRnnInputs | LeakyGammaRnnInputs, options: GammaRnnOptions) -> GammaRnnStates:
    """h, and a if options.keep, otherwise an empty tensor."""
    xp, keep = inputs.xp, options.keep
    T, B, H = xp.shape
    h, a = xp.new_empty(xp.shape), xp.new_empty(xp.shape if keep else (0,))
    with launching_on(xp):
        way = _static_way(Static(inputs.weight_hh, inputs.n, inputs.s, options.n_floor, leak_of(inputs)), B)
        xp, h_before = xp.contiguous(), inputs.h0.contiguous()
        one_a = None if keep else xp.new_empty(1, B, H)

        def arguments(part: slice) -> StaticForward:
            return StaticForward(xp=xp[part], h_before=h_before, a=a[part] if one_a is None else one_a, h=h[part])

        parts = way.chunks(T, 0)
        with way.running(way.forward, arguments(parts[0])) as run:
            for part in parts:
                now = arguments(part)
                run(now)
                h_before = now.h[-1]
    return GammaRnnStates(h=h, a=a)


def gamma_rnn_sequence_bwd(
    upstream: GammaRnnOutputs, saved: GammaRnnSaved | LeakyGammaRnnSaved, options: GammaRnnOptions
) -> GammaRnnInputs | LeakyGammaRnnInputs:
    """The gradients of the inputs."""
    a, n, s, leak = saved.a.contiguous(), saved.n, saved.s, leak_of(saved)
    T, B, H = a.shape
    d_xp = torch.empty_like(a)
    with launching_on(a):
        way = _static_way(Static(saved.weight_hh, n, s, options.n_floor, leak), B)
        d_h, d_a = _contiguous(upstream.h), _contiguous(upstream.a)
        past = None if leak is None else Past(saved.h0, saved.h.contiguous())

        def arguments(part: slice, **others: Any) -> StaticBackward:
            return StaticBackward(d_h=slots(d_h, part), d_a=slots(d_a, part), a=a[part], d_xp=d_xp[part], **others)

        parts, rows = way.chunks(T, 0), a[0]
        # the example gives sizes, and `run` the memory
        example = arguments(
            parts[0],
            d_rec=rows,
            dn=rows,
            ds=rows,
            h_before=None if past is None else sized(a, parts[0].stop, B, H),
            d_leak=None if past is None else rows,
        )
        with way.running(way.backward, example) as run:
            d_rec, dn, ds = run.buffer("d_rec"), run.zeros("dn"), run.zeros("ds")
            d_leak = None if past is None else run.zeros("d_leak")
            start_gradient(d_rec, upstream.h_last)
            for part in reversed(parts):
                h_before = None if past is None else past.before(part)
                run(arguments(part, d_rec=d_rec, dn=dn, ds=ds, h_before=h_before, d_leak=d_leak))
            d_h0 = run.result(d_rec)
            dn, ds = (over_batch(sums, tuple(x.shape)) for sums, x in ((dn, n), (ds, s)))
            d_leak = None if d_leak is None else over_batch(d_leak, (H,))
        gradients = GammaRnnInputs(d_xp, d_h0, _recurrent_gradient(d_xp, saved.h0, saved.h), dn, ds)
        return gradients if d_leak is None else LeakyGammaRnnInputs(*gradients, d_leak)
