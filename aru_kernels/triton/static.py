"""The static network's sequence: a gain and a saturation of every neuron's own; otherwise as `sequence.py`."""

from __future__ import annotations

import copy

import torch
import triton
import triton.language as tl
from torch import Tensor

from aru_kernels._precision import product_precision
from aru_kernels.triton import _math as math
from aru_kernels.triton import persistent
from aru_kernels.triton._launch import OPTIONS, accumulator, launching_on
from aru_kernels.triton._steps import at, chunks, contiguous, graph, recurrent_gradient, slots, start_gradient


@triton.jit
def static_fwd_kernel(
    a_ptr,  # (B, H)
    n_ptr,  # (H,)
    s_ptr,
    h_ptr,  # (B, H)
    total,
    H,
    N_FLOOR: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Grid: one program per BLOCK elements of (B, H)."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < total
    a = tl.load(a_ptr + i, mask, 0.0).to(ACC)
    n = tl.load(n_ptr + i % H, mask, 1.0).to(ACC)
    s = tl.load(s_ptr + i % H, mask, 0.0).to(ACC)
    tl.store(h_ptr + i, math.gamma(a, n, s, N_FLOOR), mask)


@triton.jit
def static_bwd_kernel(
    d_h_ptr,  # (B, H), with HAS_H; d_a likewise
    d_rec_ptr,
    d_a_ptr,
    a_ptr,
    n_ptr,  # (H,)
    s_ptr,
    da_ptr,  # (B, H)
    dn_ptr,  # (B, H), added to: the sum over all steps
    ds_ptr,
    total,
    H,
    HAS_H: tl.constexpr,
    HAS_A: tl.constexpr,
    N_FLOOR: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Grid: one program per BLOCK elements of (B, H)."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < total
    a = tl.load(a_ptr + i, mask, 0.0).to(ACC)
    n = tl.load(n_ptr + i % H, mask, 1.0).to(ACC)
    s = tl.load(s_ptr + i % H, mask, 0.0).to(ACC)
    d_h = tl.load(d_rec_ptr + i, mask, 0.0).to(ACC)
    if HAS_H:
        d_h += tl.load(d_h_ptr + i, mask, 0.0).to(ACC)
    by_a, by_n, by_s = math.gamma_derivatives(a, n, s, N_FLOOR)
    d_a = d_h * by_a
    if HAS_A:
        d_a += tl.load(d_a_ptr + i, mask, 0.0).to(ACC)
    tl.store(da_ptr + i, d_a, mask)
    dn = tl.load(dn_ptr + i, mask, 0.0) + d_h * by_n
    ds = tl.load(ds_ptr + i, mask, 0.0) + d_h * by_s
    # other threads may have loaded the same elements
    tl.debug_barrier()
    tl.store(dn_ptr + i, dn, mask)
    tl.store(ds_ptr + i, ds, mask)


class Static:
    """The static network: W_hh, and a gain and saturation per neuron."""

    BLOCK = 256  # small: a step has no more elements than a GPU has threads

    def __init__(self, weight_hh: Tensor, n: Tensor, s: Tensor, n_floor: float) -> None:
        H = weight_hh.shape[0]
        self.weights = tuple(contiguous(weight_hh, n.expand(H), s.expand(H)))
        self.n_floor = n_floor

    def at_once(self, B: int) -> bool:
        """Whether a chunk is a single launch."""
        return persistent.fits(B, len(self.weights[0]))

    def copied(self) -> Static:
        """The same network on weights of its own."""
        other = copy.copy(self)
        other.weights = tuple(w.clone() for w in self.weights)
        return other

    def assign(self, other: Static) -> None:
        """Takes over the other's weights."""
        for own, value in zip(self.weights, other.weights, strict=True):
            own.copy_(value)

    @property
    def key(self) -> tuple[object, ...]:
        """What a graph depends on beside the sizes of its arguments."""
        return "static", self.n_floor, product_precision("cuda"), self.weights[0].dtype

    def _launch(self, like: Tensor) -> tuple[tuple[int], dict[str, object]]:
        options = {
            "N_FLOOR": self.n_floor,
            "ACC": accumulator(like.dtype),
            "BLOCK": self.BLOCK,
            "num_warps": 4,
            **OPTIONS,
        }
        return (triton.cdiv(like.numel(), self.BLOCK),), options

    def forward(self, xp: Tensor, h_before: Tensor, a: Tensor, h: Tensor) -> None:
        """Steps from xp (S, B, H) and h_before: fills h and, with a slot per step or one for all, a."""
        if self.at_once(xp.shape[1]):
            persistent.static_forward(self.weights, self.n_floor, xp, h_before, a, h)
            return
        weight_hh, n, s = self.weights
        grid, options = self._launch(h_before)
        for j in range(len(xp)):
            torch.addmm(xp[j], h_before, weight_hh.t(), out=at(a, j))
            h_before = h[j]
            static_fwd_kernel[grid](at(a, j), n, s, h_before, h_before.numel(), h_before.shape[1], **options)

    def backward(
        self, d_h: Tensor | None, d_a: Tensor | None, a: Tensor, d_xp: Tensor, d_rec: Tensor, dn: Tensor, ds: Tensor
    ) -> None:
        """Steps backwards: fills d_xp, updates d_rec and the sums dn and ds over all steps so far, (B, H) each."""
        if self.at_once(a.shape[1]):
            persistent.static_backward(self.weights, self.n_floor, d_h, d_a, a, d_xp, d_rec, dn, ds)
            return
        weight_hh, n, s = self.weights
        grid, options = self._launch(d_rec)
        for j in reversed(range(len(a))):
            static_bwd_kernel[grid](
                *(at(d_h, j), d_rec, at(d_a, j), a[j], n, s, d_xp[j], dn, ds),
                *(d_rec.numel(), d_rec.shape[1], d_h is not None, d_a is not None),
                **options,
            )
            torch.mm(d_xp[j], weight_hh, out=d_rec)


def gamma_rnn_sequence_fwd(
    xp: Tensor, h0: Tensor, weight_hh: Tensor, n: Tensor, s: Tensor, n_floor: float, precision: str, keep: bool
) -> tuple[Tensor, Tensor]:
    """h, and a where a gradient or the trace needs it (else empty)."""
    T, B, H = xp.shape
    h, a = xp.new_empty(xp.shape), xp.new_empty(xp.shape if keep else (0,))
    if not xp.numel():
        return h, a
    with launching_on(xp):
        net = Static(weight_hh, n, s, n_floor)
        xp, h_before = contiguous(xp, h0)
        per_step_a = a if keep else xp.new_empty(1, B, H)

        def arguments(part: slice) -> tuple[Tensor, ...]:
            return xp[part], h_before, per_step_a[part] if keep else per_step_a, h[part]

        parts = chunks(T, 0, net.at_once(B))
        with graph(net, "forward", arguments(parts[0]), written=(2, 3)) as steps:
            for part in parts:
                steps(part, arguments(part))
                h_before = h[part][-1]
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
    """Gradients for xp, h0, weight_hh, n and s."""
    T, B, H = a.shape
    d_xp = a.new_empty(a.shape)
    if not a.numel():
        return d_xp, *(x.new_zeros(x.shape) for x in (h0, weight_hh, n, s))
    with launching_on(a):
        net = Static(weight_hh, n, s, n_floor)
        upstream = tuple(contiguous(d_h, d_a))
        sums = d_rec, dn, ds = tuple(a.new_empty(B, H) for _ in range(3))
        parts = chunks(T, 0, net.at_once(B))
        example = (*(slots(x, parts[0]) for x in upstream), a[parts[0]], d_xp[parts[0]], *sums)
        with graph(net, "backward", example, written=(3, 4, 5, 6), updated=(4, 5, 6)) as steps:
            if steps.recorded is not None:
                sums = d_rec, dn, ds = steps.recorded.buffers[4:]
            start_gradient(d_rec, d_h_last)
            for x in (dn, ds):
                x.zero_()
            for part in reversed(parts):
                steps(part, (*(slots(x, part) for x in upstream), a[part], d_xp[part], *sums))
            d_h0 = d_rec.clone() if steps.recorded is not None else d_rec
            dn, ds = (x.sum(0, dtype=torch.float64).sum_to_size(p.shape).to(p.dtype) for x, p in ((dn, n), (ds, s)))
        return d_xp, d_h0, recurrent_gradient(d_xp, h0, h), dn, ds
