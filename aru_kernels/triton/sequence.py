"""The sequence operations: all T steps, forward and backward.

A step is one matrix product, h_{t-1} W_hh^T, and one launch for everything after it.  Steps run in chunks: as a loop of
launches, or as a CUDA graph of the loop (`_graphs.py`); of a small network, as a single launch (`persistent.py`); of
one that fills a GPU once, where asked for, as one cooperative launch (`cooperative.py`).  The gradient of W_hh is one
product after the loop.

Memory (T, B, H, G of a call; float32): the forward pass keeps a and h, and g before every K-th step; the backward pass
holds K states g at a time, computed again from a by one launch.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from aru_kernels.triton import _math as math
from aru_kernels.triton import cooperative, kept_slots, persistent
from aru_kernels.triton._graphs import GRAPHS, Network, Recorded
from aru_kernels.triton._launch import OPTIONS, accumulator, launching_on, products
from aru_kernels.triton.controller import Controller, row_length

# Steps of a chunk where the checkpoints do not say: long enough that copying in and out of a graph's buffers is a small
# part of its time.
CHUNK = 32


def _chunks(T: int, segment: int, at_once: bool) -> list[slice]:
    steps = segment if segment > 1 else T if at_once else CHUNK
    return [slice(t, min(t + steps, T)) for t in range(0, T, steps)]


def _contiguous(*tensors: Tensor | None) -> Iterator[Tensor | None]:
    return (None if x is None else x.contiguous() for x in tensors)


def _at(x: Tensor | None, index: int) -> Tensor | None:
    """Step `index` of a tensor that has one slot per step, or one for all."""
    return None if x is None else x[min(index, len(x) - 1)]


def padded_rows(g: Tensor) -> Tensor:
    """A copy of states (..., G) with zeros to a whole row."""
    return functional.pad(g, (0, row_length(g.shape[-1]) - g.shape[-1])).clone(memory_format=torch.contiguous_format)


def _cut(x: Tensor | None, steps: slice) -> Tensor | None:
    return None if x is None else x[steps]


class Adaptive:
    """The adaptive network: W_hh and the controller."""

    def __init__(self, weight_hh: Tensor, controller: tuple[Tensor, ...], n_floor: float, precision: str) -> None:
        self.weight_hh = weight_hh.contiguous()
        self.controller = Controller(controller, n_floor, precision)

    def _small(self, B: int) -> bool:
        return persistent.fits(B, len(self.weight_hh), self.controller.GP)

    def _tiling(self, B: int) -> cooperative.Tiling | None:
        H, device = len(self.weight_hh), self.weight_hh.device
        return cooperative.tiling(B, H, device, self.controller.products[0], self.controller.GP)

    def at_once(self, B: int) -> bool:
        """Whether a chunk is a single launch."""
        return self._small(B) or self._tiling(B) is not None

    def programs(self, B: int) -> int | None:
        """Programs of a backward launch that is a whole chunk; each has partial sums of its own."""
        if self._small(B):
            return B
        return None if (cut := self._tiling(B)) is None else cut.programs

    def copied(self) -> Adaptive:
        """The same network on weights of its own."""
        other = copy.copy(self)
        other.weight_hh, other.controller = self.weight_hh.clone(), self.controller.copied()
        return other

    def assign(self, other: Adaptive) -> None:
        """Takes over the other's weights."""
        self.weight_hh.copy_(other.weight_hh)
        self.controller.w.copy_(other.controller.w)

    @property
    def key(self) -> tuple[object, ...]:
        """What a graph depends on beside the sizes of its arguments."""
        precision = torch.get_float32_matmul_precision()
        return "adaptive", self.controller.n_floor, self.controller.products, precision, self.weight_hh.dtype

    def forward(
        self,
        xp: Tensor,
        h_before: Tensor,
        g_before: Tensor,
        a: Tensor,
        h: Tensor,
        g: Tensor,
        n: Tensor | None,
        s: Tensor | None,
    ) -> None:
        """Steps from xp (S, B, H): fills h and, with a slot per step or one for all, a, g, n and s."""
        operands = (self.weight_hh, self.controller, xp, h_before, g_before, a, h, g, n, s)
        if self._small(xp.shape[1]):
            persistent.adaptive_forward(*operands)
            return
        if (cut := self._tiling(xp.shape[1])) is not None:
            cooperative.adaptive_forward(cut, *operands)
            return
        for j in range(len(xp)):
            torch.addmm(xp[j], h_before, self.weight_hh.t(), out=_at(a, j))
            self.controller.step(_at(a, j), g_before, h[j], _at(g, j), _at(n, j), _at(s, j))
            h_before, g_before = h[j], _at(g, j)

    def backward(
        self,
        d_h: Tensor | None,
        d_a: Tensor | None,
        d_n: Tensor | None,
        d_s: Tensor | None,
        a: Tensor,
        g: Tensor,
        d_xp: Tensor,
        d_rec: Tensor,
        dg: Tensor,
        sums: Tensor,
    ) -> None:
        """Steps backwards, with g (S, B, H, G) before each: fills d_xp, updates d_rec, dg and the sums."""
        operands = (self.weight_hh, self.controller, d_h, d_a, d_n, d_s, a, g, d_xp, d_rec, dg, sums)
        if self._small(a.shape[1]):
            persistent.adaptive_backward(*operands)
            return
        if (cut := self._tiling(a.shape[1])) is not None:
            cooperative.adaptive_backward(cut, *operands)
            return
        for j in reversed(range(len(a))):
            upstream = (_at(d_h, j), d_rec, _at(d_a, j), _at(d_n, j), _at(d_s, j), dg)
            self.controller.step_backward(*upstream, a[j], g[j], d_xp[j], dg, sums)
            torch.mm(d_xp[j], self.weight_hh, out=d_rec)


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
    """h, last g, a, n, s and the kept state; a, n and s are empty where neither the trace nor a gradient needs them."""
    T, B, H = xp.shape
    h, last_g = xp.new_empty(xp.shape), g0.new_empty(g0.shape)
    a = xp.new_empty(xp.shape if trace or segment else (0,))
    n, s = (xp.new_empty(xp.shape if trace or segment == 1 else (0,)) for _ in "ns")
    GS = row_length(g0.shape[-1])
    kept = xp.new_empty(kept_slots(T, segment), B, H, GS)
    if not xp.numel():
        return h, last_g, a, n, s, kept.view(-1)
    with launching_on(xp):
        net = Adaptive(weight_hh, (weight_ag, weight_gg, bias_g, weight_gc, bias_c), n_floor, precision)
        xp, h_before = _contiguous(xp, h0)
        state = g_before = padded_rows(g0)
        per_step_a = a if a.numel() else xp.new_empty(1, B, H)
        gains = (n, s) if n.numel() else (None, None)
        if segment == 1:
            kept[0].copy_(g_before)

        def arguments(part: slice) -> tuple[Tensor | None, ...]:
            own_a = per_step_a[part] if a.numel() else per_step_a
            g = kept[1:][part] if segment == 1 else state[None]
            return xp[part], h_before, g_before, own_a, h[part], g, *(_cut(x, part) for x in gains)

        parts = _chunks(T, segment, net.at_once(B))
        with _graph(net, "forward", arguments(parts[0]), written=(3, 4, 5, 6, 7)) as steps:
            for index, part in enumerate(parts):
                if segment > 1:
                    kept[index].copy_(g_before)
                now = arguments(part)
                steps(part, now)
                h_before, g_before = now[4][-1], now[5][-1]
        last_g.copy_(g_before[..., : g0.shape[-1]])
    return h, last_g, a, n, s, kept.view(-1)


def aru_sequence_bwd(
    d_h: Tensor | None,
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
    """Gradients for xp, h0, g0, weight_hh and the controller's weights."""
    controller = (weight_ag, weight_gg, bias_g, weight_gc, bias_c)
    T, B, H = a.shape
    d_xp = a.new_empty(a.shape)
    if not a.numel():
        return d_xp, *(x.new_zeros(x.shape) for x in (h0, g0, weight_hh, *controller))
    with launching_on(a):
        net = Adaptive(weight_hh, controller, n_floor, precision)
        upstream = tuple(_contiguous(d_h, d_a, d_n, d_s))
        kept = kept.view(-1, B, H, row_length(g0.shape[-1]))
        parts = _chunks(T, segment, net.at_once(B))
        # K states before the steps of a chunk
        states = kept[:T] if segment == 1 else a.new_empty(parts[0].stop, *kept.shape[1:])
        d_rec, dg = a.new_empty(B, H), a.new_empty(kept.shape[1:])
        sums = net.controller.new_sums(B * H, kept.shape[-1], net.programs(B))
        example = (*(_cut(x, parts[0]) for x in upstream), a[parts[0]], states[parts[0]], d_xp[parts[0]])
        example += (d_rec, dg, sums)
        with _graph(net, "backward", example, written=(6, 7, 8, 9), updated=(7, 8, 9)) as steps:
            if steps.recorded is not None:
                # what goes from chunk to chunk stays in the graph's own buffers
                *_, own_states, _, d_rec, dg, sums = steps.recorded.buffers
                states = states if segment == 1 else own_states
            d_rec.zero_()
            sums.zero_()
            dg.zero_() if d_g is None else dg.copy_(padded_rows(d_g))
            for index, part in reversed(list(enumerate(parts))):
                if segment == 1:
                    g = states[part]
                else:
                    g = states[: part.stop - part.start]
                    g[0].copy_(kept[index])
                    net.controller.states(a[part], g)
                steps(part, (*(_cut(x, part) for x in upstream), a[part], g, d_xp[part], d_rec, dg, sums))
            d_h0 = d_rec.clone() if steps.recorded is not None else d_rec
            d_g0 = dg[..., : g0.shape[-1]].clone(memory_format=torch.contiguous_format)
            gradients = net.controller.weight_gradients(sums, B * H, kept.shape[-1], a.dtype)
        return d_xp, d_h0, d_g0, _recurrent_gradient(d_xp, h0, h), *gradients


def _recurrent_gradient(d_xp: Tensor, h0: Tensor, h: Tensor) -> Tensor:
    """dW_hh = Σ_t da_t h_{t-1}^T, as one product over all steps but the first."""
    first = torch.mm(d_xp[0].t(), h0)
    return torch.addmm(first, d_xp[1:].flatten(0, 1).t(), h[:-1].flatten(0, 1))


class _Steps:
    """Runs a chunk of time steps: by the graph, if it is of the graph's length, else launch by launch."""

    def __init__(self, network: Network, method: str, length: int, recorded: Recorded | None) -> None:
        self.recorded = recorded
        self._direct = getattr(network, method)
        self._length = length

    def __call__(self, part: slice, arguments: tuple[Tensor | None, ...]) -> None:
        whole = part.stop - part.start == self._length
        (self.recorded if self.recorded is not None and whole else self._direct)(*arguments)


@contextmanager
def _graph(
    network: Network,
    method: str,
    example: tuple[Tensor | None, ...],
    written: tuple[int, ...],
    updated: tuple[int, ...] = (),
) -> Iterator[_Steps]:
    """What runs chunks like the example, which is a whole one."""
    shapes = tuple(None if x is None else x.shape for x in example)
    device = next(x.device for x in example if x is not None)
    length, B = next(x for x in example if x is not None and x.ndim > 2).shape[:2]
    if network.at_once(B):
        yield _Steps(network, method, length, None)
        return
    record = functools.partial(Recorded, network, method, example, written, updated)
    with GRAPHS.use((method, network.key, shapes), network, device, record) as recorded:
        yield _Steps(network, method, length, recorded)


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
    tl.store(dn_ptr + i, tl.load(dn_ptr + i, mask, 0.0) + d_h * by_n, mask)
    tl.store(ds_ptr + i, tl.load(ds_ptr + i, mask, 0.0) + d_h * by_s, mask)


class Static:
    """The static network: W_hh, and a gain and saturation per neuron."""

    BLOCK = 256  # small: a step has no more elements than a GPU has threads

    def __init__(self, weight_hh: Tensor, n: Tensor, s: Tensor, n_floor: float, precision: str) -> None:
        H = weight_hh.shape[0]
        self.weights = tuple(_contiguous(weight_hh, n.expand(H), s.expand(H)))
        self.n_floor = n_floor
        self.product, _ = products(weight_hh.device, precision)

    def _small(self, B: int) -> bool:
        return persistent.fits(B, len(self.weights[0]))

    def _tiling(self, B: int) -> cooperative.Tiling | None:
        return cooperative.tiling(B, len(self.weights[0]), self.weights[0].device, self.product)

    def at_once(self, B: int) -> bool:
        """Whether a chunk is a single launch."""
        return self._small(B) or self._tiling(B) is not None

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
        return "static", self.n_floor, torch.get_float32_matmul_precision(), self.weights[0].dtype

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
        if self._small(xp.shape[1]):
            persistent.static_forward(self.weights, self.n_floor, xp, h_before, a, h)
            return
        if (cut := self._tiling(xp.shape[1])) is not None:
            cooperative.static_forward(cut, self.weights, self.product, self.n_floor, xp, h_before, a, h)
            return
        weight_hh, n, s = self.weights
        grid, options = self._launch(h_before)
        for j in range(len(xp)):
            torch.addmm(xp[j], h_before, weight_hh.t(), out=_at(a, j))
            h_before = h[j]
            static_fwd_kernel[grid](_at(a, j), n, s, h_before, h_before.numel(), h_before.shape[1], **options)

    def backward(
        self, d_h: Tensor | None, d_a: Tensor | None, a: Tensor, d_xp: Tensor, d_rec: Tensor, dn: Tensor, ds: Tensor
    ) -> None:
        """Steps backwards: fills d_xp, updates d_rec and the sums dn and ds over all steps so far, (B, H) each."""
        if self._small(a.shape[1]):
            persistent.static_backward(self.weights, self.n_floor, d_h, d_a, a, d_xp, d_rec, dn, ds)
            return
        if (cut := self._tiling(a.shape[1])) is not None:
            cooperative.static_backward(cut, self.weights, self.product, self.n_floor, d_h, d_a, a, d_xp, d_rec, dn, ds)
            return
        weight_hh, n, s = self.weights
        grid, options = self._launch(d_rec)
        for j in reversed(range(len(a))):
            static_bwd_kernel[grid](
                *(_at(d_h, j), d_rec, _at(d_a, j), a[j], n, s, d_xp[j], dn, ds),
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
        net = Static(weight_hh, n, s, n_floor, precision)
        xp, h_before = _contiguous(xp, h0)
        per_step_a = a if keep else xp.new_empty(1, B, H)

        def arguments(part: slice) -> tuple[Tensor, ...]:
            return xp[part], h_before, per_step_a[part] if keep else per_step_a, h[part]

        parts = _chunks(T, 0, net.at_once(B))
        with _graph(net, "forward", arguments(parts[0]), written=(2, 3)) as steps:
            for part in parts:
                steps(part, arguments(part))
                h_before = h[part][-1]
    return h, a


def gamma_rnn_sequence_bwd(
    d_h: Tensor | None,
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
        net = Static(weight_hh, n, s, n_floor, precision)
        upstream = tuple(_contiguous(d_h, d_a))
        sums = d_rec, dn, ds = tuple(a.new_empty(B, H) for _ in range(3))
        parts = _chunks(T, 0, net.at_once(B))
        example = (*(_cut(x, parts[0]) for x in upstream), a[parts[0]], d_xp[parts[0]], *sums)
        with _graph(net, "backward", example, written=(3, 4, 5, 6), updated=(4, 5, 6)) as steps:
            if steps.recorded is not None:
                sums = d_rec, dn, ds = steps.recorded.buffers[4:]
            for x in sums:
                x.zero_()
            for part in reversed(parts):
                steps(part, (*(_cut(x, part) for x in upstream), a[part], d_xp[part], *sums))
            d_h0 = d_rec.clone() if steps.recorded is not None else d_rec
            dn, ds = (x.sum(0, dtype=torch.float64).sum_to_size(p.shape).to(p.dtype) for x, p in ((dn, n), (ds, s)))
        return d_xp, d_h0, _recurrent_gradient(d_xp, h0, h), dn, ds
