"""The adaptive network's sequence: all T steps, forward and backward.

A step is one matrix product, h_{t-1} W_hh^T, and one launch for everything after it.  Steps run in chunks: as a loop of
launches, or as a CUDA graph of the loop (`_graphs.py`); of a small network, as a single launch (`persistent.py`).  The
gradient of W_hh is one product after the loop, those of the controller's weights are sums over SLOTS steps at a time.

Memory (T, B, H, G of a call; float32): the forward pass keeps a and h, and g before every K-th step; the backward pass
holds K states g at a time, computed again from a by one launch, and SLOTS + 1 of their gradients.  At "medium", where
there are checkpoints, states between them are float16, which has the 11 bits that 1 - g² needs near 1, and their
gradients, which need range, bfloat16.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.nn import functional

from aru_kernels._precision import product_precision
from aru_kernels.triton import kept_slots, persistent
from aru_kernels.triton._launch import launching_on
from aru_kernels.triton._steps import at, chunks, contiguous, graph, recurrent_gradient, slots, start_gradient
from aru_kernels.triton.controller import Controller, row_length

# Steps whose gradients are held for the sums: few enough to be small beside the states.
SLOTS = 16


def padded_rows(g: Tensor, GS: int) -> Tensor:
    """A copy of states (..., G) with zeros to rows of GS."""
    return functional.pad(g, (0, GS - g.shape[-1])).clone(memory_format=torch.contiguous_format)


class Adaptive:
    """The adaptive network: W_hh and the controller."""

    def __init__(self, weight_hh: Tensor, controller: tuple[Tensor, ...], n_floor: float, precision: str) -> None:
        self.weight_hh = weight_hh.contiguous()
        self.controller = Controller(controller, n_floor, precision)

    def at_once(self, B: int) -> bool:
        """Whether a chunk is a single launch."""
        return persistent.fits(B, len(self.weight_hh), self.controller.GP)

    def state_types(self, B: int, segment: int) -> tuple[torch.dtype, torch.dtype]:
        """The dtypes of states between checkpoints, and of their gradients."""
        if self.controller.narrow and segment > 1 and not self.at_once(B):
            return torch.float16, torch.bfloat16
        return self.weight_hh.dtype, self.weight_hh.dtype

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
        precision = product_precision("cuda")
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
        if self.at_once(xp.shape[1]):
            persistent.adaptive_forward(*operands)
            return
        product = torch.empty_like(h_before)
        for j in range(len(xp)):
            # addmm would copy xp first
            torch.mm(h_before, self.weight_hh.t(), out=product)
            self.controller.step(xp[j], product, at(a, j), g_before, h[j], at(g, j), at(n, j), at(s, j))
            h_before, g_before = h[j], at(g, j)

    def backward_at_once(
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
        partials: Tensor,
    ) -> None:
        """Steps backwards, with g (S, B, H, G) before each: fills d_xp, updates d_rec, dg and the partial sums."""
        persistent.adaptive_backward(
            self.weight_hh, self.controller, d_h, d_a, d_n, d_s, a, g, d_xp, d_rec, dg, partials
        )

    def backward(
        self,
        d_h: Tensor | None,
        d_a: Tensor | None,
        d_n: Tensor | None,
        d_s: Tensor | None,
        d_g: Tensor | None,
        a: Tensor,
        g: Tensor,
        d_xp: Tensor,
        d_rec: Tensor,
        du: Tensor,
        vectors: Tensor,
        sums: Tensor,
    ) -> None:
        """Steps backwards, with g (S, B, H, G) after each: fills d_xp, updates d_rec, du and vectors, and the sums.

        d_g: of the last of the steps, after which no other is then.  du and vectors have SLOTS + 1 slots, of which the
        first goes from call to call: the gradient of u, and a, of the first step.
        """
        for end in range(len(a), 0, 1 - len(du)):
            begin = max(0, end - len(du) + 1)
            count = end - begin
            du[count].copy_(du[0])
            vectors[0, count].copy_(vectors[0, 0])
            for j in reversed(range(begin, end)):
                slot, outside = j - begin, d_g is not None and j == len(a) - 1
                of_state = (d_g, None) if outside else (None, du[slot + 1])
                upstream = (at(d_h, j), d_rec, at(d_a, j), at(d_n, j), at(d_s, j), *of_state)
                self.controller.step_backward(*upstream, a[j], g[j], d_xp[j], du[slot], vectors[:, slot])
                torch.mm(d_xp[j], self.weight_hh, out=d_rec)
            # a state's gradients: of the u that follows, and of the gains that are read from it
            after, gains = slice(1, count + 1), slice(count)
            self.controller.add_sums(sums, du[after], vectors[0, after], g[begin:end], *vectors[1:, gains])


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
        xp, h_before = contiguous(xp, h0)
        dtype = net.state_types(B, segment)[0]
        state = g_before = padded_rows(g0, row_length(g0.shape[-1], dtype)).to(dtype)
        per_step_a = a if a.numel() else xp.new_empty(1, B, H)
        gains = (n, s) if n.numel() else (None, None)
        if segment == 1:
            kept[0].copy_(g_before)  # float32 then, and rows of the same length

        def arguments(part: slice) -> tuple[Tensor | None, ...]:
            own_a = per_step_a[part] if a.numel() else per_step_a
            g = kept[1:][part] if segment == 1 else state[None]
            return xp[part], h_before, g_before, own_a, h[part], g, *(slots(x, part) for x in gains)

        parts = chunks(T, segment, net.at_once(B))
        with graph(net, "forward", arguments(parts[0]), written=(3, 4, 5, 6, 7)) as steps:
            for index, part in enumerate(parts):
                if segment > 1:
                    kept[index].copy_(g_before[..., :GS])
                now = arguments(part)
                steps(part, now)
                h_before, g_before = now[4][-1], now[5][-1]
        last_g.copy_(g_before[..., : g0.shape[-1]])
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
    """Gradients for xp, h0, g0, weight_hh and the controller's weights."""
    controller = (weight_ag, weight_gg, bias_g, weight_gc, bias_c)
    _, B, H = a.shape
    d_xp = a.new_empty(a.shape)
    if not a.numel():
        return d_xp, *(x.new_zeros(x.shape) for x in (h0, g0, weight_hh, *controller))
    with launching_on(a):
        net = Adaptive(weight_hh, controller, n_floor, precision)
        upstream = tuple(contiguous(d_h, d_a, d_n, d_s))
        kept = kept.view(-1, B, H, row_length(g0.shape[-1]))
        backward = _backward_at_once if net.at_once(B) else _backward_in_steps
        d_h0, d_g0, gradients = backward(net, upstream, d_h_last, d_g, a, kept, g0, d_xp, segment)
        return d_xp, d_h0, d_g0, recurrent_gradient(d_xp, h0, h), *gradients


def _backward_at_once(
    net: Adaptive,
    upstream: tuple[Tensor | None, ...],
    d_h_last: Tensor | None,
    d_g: Tensor | None,
    a: Tensor,
    kept: Tensor,
    g0: Tensor,
    d_xp: Tensor,
    segment: int,
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Fills d_xp; gradients for h0, g0 and the controller's weights: a launch for every chunk."""
    T, B, H = a.shape
    parts = chunks(T, segment, True)
    # K states before the steps of a chunk
    states = kept[:T] if segment == 1 else a.new_empty(parts[0].stop, *kept.shape[1:])
    d_rec = a.new_empty(B, H)
    start_gradient(d_rec, d_h_last)
    dg = a.new_zeros(kept.shape[1:]) if d_g is None else padded_rows(d_g, kept.shape[-1])
    partials = net.controller.new_partials(B)
    for index, part in reversed(list(enumerate(parts))):
        if segment == 1:
            g = states[part]
        else:
            g = states[: part.stop - part.start]
            g[0].copy_(kept[index])
            net.controller.states(a[part][:-1], g[0], g[1:])
        net.backward_at_once(*(slots(x, part) for x in upstream), a[part], g, d_xp[part], d_rec, dg, partials)
    d_g0 = dg[..., : g0.shape[-1]].clone(memory_format=torch.contiguous_format)
    return d_rec, d_g0, net.controller.gradients_of_partials(partials, a.dtype)


def _backward_in_steps(
    net: Adaptive,
    upstream: tuple[Tensor | None, ...],
    d_h_last: Tensor | None,
    d_g: Tensor | None,
    a: Tensor,
    kept: Tensor,
    g0: Tensor,
    d_xp: Tensor,
    segment: int,
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """As `_backward_at_once`, step by step."""
    T, B, H = a.shape
    controller, parts = net.controller, chunks(T, segment, False)
    state_type, gradient_type = net.state_types(B, segment)
    GS = row_length(g0.shape[-1], state_type)
    count = min(SLOTS, parts[0].stop)
    # states after the steps of a chunk, and what goes from chunk to chunk; a graph has its own: first the sizes alone
    states = kept[1:] if segment == 1 else a.new_empty((), dtype=state_type).expand(parts[0].stop, B, H, GS)
    d_rec, vectors = a.new_empty(()).expand(B, H), a.new_empty(()).expand(3, count + 1, B, H)
    du = a.new_empty((), dtype=gradient_type).expand(count + 1, B, H, GS)
    sums = controller.new_sums(count * B * H)
    example = (*(slots(x, parts[0]) for x in upstream), None, a[parts[0]], states[parts[0]], d_xp[parts[0]])
    example += (d_rec, du, vectors, sums)
    with graph(net, "backward", example, written=(7, 8, 9, 10, 11), updated=(8, 9, 10, 11)) as steps:
        if steps.recorded is None:
            d_rec, du, vectors = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in example[8:11])
            if segment > 1:
                states = torch.empty_like(states, memory_format=torch.contiguous_format)
        else:
            # what goes from chunk to chunk stays in the graph's own buffers
            *_, own_states, _, d_rec, du, vectors, sums = steps.recorded.buffers
            states = states if segment == 1 else own_states
        start_gradient(d_rec, d_h_last)
        for x in (sums, du[0], vectors[0, 0]):
            x.zero_()
        for index, part in reversed(list(enumerate(parts))):
            g = states[part] if segment == 1 else states[: part.stop - part.start]
            if segment > 1:
                controller.states(a[part], kept[index], g)
            now = (*(slots(x, part) for x in upstream), None, a[part], g, d_xp[part], d_rec, du, vectors, sums)
            if d_g is not None and part.stop == T:
                # a graph has no such input
                net.backward(*now[:4], padded_rows(d_g, GS), *now[5:])
            else:
                steps(part, now)
        # of g0, from which no gains are read
        vectors[1:, 0].zero_()
        controller.add_sums(sums, du[0], vectors[0, 0], padded_rows(g0, GS).to(state_type), *vectors[1:, 0])
        d_h0 = d_rec.clone() if steps.recorded is not None else d_rec
        return d_h0, controller.before(du[0], g0), controller.weight_gradients(sums, a.dtype)
