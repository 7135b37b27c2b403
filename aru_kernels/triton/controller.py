"""The controller step fused with γ, forward and backward, for rows r = (b, i): every neuron of every sequence.

A program owns BLOCK_R rows at a time and all G units, padded inside to a power of two with zero weights: padded units
are tanh(0) = 0 and pass no gradient.  The backward pass computes g_t again from a_t and g_{t-1}: reading it would take
longer than the product.  Each program of it sums the gradients of the controller's weights over its rows in a fixed
order, into a slice of its own; the slices are added up in float64.  No atomics.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from aru_kernels import _checks as check
from aru_kernels.triton import _math as math
from aru_kernels.triton._launch import OPTIONS, VERSION, accumulator, launching_on, padded, products, warp_size
from aru_kernels.triton._mode import INTERPRETED

# Width of the smallest tl.dot: the columns that the gradients of the controller's vectors share.
_X = tl.constexpr(16)


class Tile(NamedTuple):
    """Rows that a program takes at a time, and its threads."""

    BLOCK_R: int
    threads: int


def tile(GP: int, PRODUCT: str, backward: bool) -> Tile:
    """Tiles by the padded size of the controller and the kind of product.

    The largest that the compiler fits into registers without spilling, on every architecture of the tests' table;
    chosen from its reports alone, not by timing.
    """
    if PRODUCT == "ieee":
        return Tile(16, 256)
    if GP == 128:
        return Tile(16 if backward or PRODUCT == "tf32x3" else 32, 256)
    if not backward:
        return Tile(64, 128)
    if GP == 64:
        return Tile(32, 128 if PRODUCT == "tf32" else 256)
    return Tile(16 if PRODUCT == "tf32x3" and GP == 32 else 32, 128)


def sums_square(GP: int) -> bool:
    """Whether the backward kernel sums dW_gg; with a larger controller the sums do not fit into its registers."""
    return GP <= 64


def large_product(GP: int, backward: str) -> str:
    """The backward kernel's product, for the largest controllers by what the compiler makes of it.

    With three products it spills 50 to 450 bytes a thread there; on float32 units nothing, but as Triton compiled it
    before 3.9 the assembler gave a thread 32 registers and let it spill several KiB.
    """
    if GP == 128 and backward == "tf32x3":
        return "ieee" if VERSION >= (3, 9) else "tf32x3"
    return backward


def max_programs(GP: int) -> int:
    """Programs of the backward pass, each with partial sums of its own: enough to fill the largest GPUs.

    A function of the sizes alone, so that the order of every sum is the same on every GPU.
    """
    return max(256, 16384 // GP)


@triton.jit
def pack_kernel(
    w_ag_ptr,  # (G,)
    w_gg_ptr,  # (G, G)
    b_g_ptr,  # (G,)
    w_gc_ptr,  # (2, G)
    b_c_ptr,  # (2,)
    w_ptr,  # (2 GP + 5, GP): W_gg^T, W_gg, w_ag, b_g, W_gc[0], W_gc[1], b_c; padded with zeros
    G: tl.constexpr,
    GP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """All of the controller's weights in one aligned buffer.  Grid: one program per BLOCK rows."""
    ACC: tl.constexpr = w_ptr.dtype.element_ty
    p = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[:, None]
    j = tl.arange(0, GP)[None, :]
    value = tl.load(w_gg_ptr + j * G + p, (p < G) & (j < G), 0.0).to(ACC)
    i = p - GP
    value += tl.load(w_gg_ptr + i * G + j, (i >= 0) & (i < G) & (j < G), 0.0).to(ACC)
    i = p - 2 * GP
    value += tl.load(w_ag_ptr + j + 0 * i, (i == 0) & (j < G), 0.0).to(ACC)
    value += tl.load(b_g_ptr + j + 0 * i, (i == 1) & (j < G), 0.0).to(ACC)
    value += tl.load(w_gc_ptr + (i - 2) * G + j, (i >= 2) & (i < 4) & (j < G), 0.0).to(ACC)
    value += tl.load(b_c_ptr + j + 0 * i, (i == 4) & (j < 2), 0.0).to(ACC)
    tl.store(w_ptr + p * GP + j, value, p < 2 * GP + 5)


@triton.jit
def _square(w_ptr, GP: tl.constexpr, TRANSPOSED: tl.constexpr):
    """W_gg or its transpose, (GP, GP)."""
    start = 0 if TRANSPOSED else GP * GP
    return tl.load(w_ptr + start + tl.arange(0, GP)[:, None] * GP + tl.arange(0, GP)[None, :])


@triton.jit
def _vector(w_ptr, i: tl.constexpr, GP: tl.constexpr):
    """w_ag, b_g, W_gc[0] or W_gc[1] for i = 0, 1, 2, 3, as (1, GP)."""
    return tl.load(w_ptr + (2 * GP + i) * GP + tl.arange(0, GP))[None, :]


@triton.jit
def next_state(a, g, w_ptr, w_gg_t, GP: tl.constexpr, PRODUCT: tl.constexpr):
    """g_t = tanh(w_ag a_t + W_gg g_{t-1} + b_g) for a (R,), g (R, GP)."""
    u = math.product(g, w_gg_t, PRODUCT) + a[:, None] * _vector(w_ptr, 0, GP) + _vector(w_ptr, 1, GP)
    return math.tanh(u)


@triton.jit
def read_out(g, w_ptr, GP: tl.constexpr):
    """(n, s) = W_gc g + b_c, each (R,)."""
    n = tl.sum(g * _vector(w_ptr, 2, GP), 1) + tl.load(w_ptr + (2 * GP + 4) * GP)
    s = tl.sum(g * _vector(w_ptr, 3, GP), 1) + tl.load(w_ptr + (2 * GP + 4) * GP + 1)
    return n, s


@triton.jit
def controller_fwd_kernel(
    a_ptr,  # (R,)
    g_ptr,  # (R, GS)
    w_ptr,  # packed weights
    h_ptr,  # (R,)
    g_next_ptr,  # (R, GS); may be g itself
    n_ptr,  # (R,), with GAINS
    s_ptr,
    R,
    GS: tl.constexpr,  # units in a row of g: G, or more with zeros at its end
    GP: tl.constexpr,
    GAINS: tl.constexpr,
    N_FLOOR: tl.constexpr,
    PRODUCT: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """Grid: one program per BLOCK_R rows."""
    start = tl.program_id(0).to(tl.int64) * BLOCK_R
    # from here on offsets are those within a tile
    i, j = tl.arange(0, BLOCK_R), tl.arange(0, GP)
    row = i < R - start
    state = i[:, None] * GS + j[None, :]
    mask = row[:, None] & (j < GS)[None, :]
    a = tl.load(a_ptr + start + i, row, 0.0).to(ACC)
    g = tl.load(g_ptr + start * GS + state, mask, 0.0).to(ACC)
    g = next_state(a, g, w_ptr, _square(w_ptr, GP, True), GP, PRODUCT)
    tl.store(g_next_ptr + start * GS + state, g, mask)
    n, s = read_out(g, w_ptr, GP)
    tl.store(h_ptr + start + i, math.gamma(a, n, s, N_FLOOR), row)
    if GAINS:
        tl.store(n_ptr + start + i, n, row)
        tl.store(s_ptr + start + i, s, row)


@triton.jit
def controller_states_kernel(
    a_ptr,  # (STEPS, R)
    g_ptr,  # (STEPS, R, GS): slot 0 is read, the others are written
    w_ptr,
    R,
    STEPS,
    GS: tl.constexpr,
    GP: tl.constexpr,
    PRODUCT: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """The states before each of STEPS steps, from the first and a: given a, a row needs no other.

    Grid: one program per BLOCK_R rows, through all steps.
    """
    start = tl.program_id(0).to(tl.int64) * BLOCK_R
    i, j = tl.arange(0, BLOCK_R), tl.arange(0, GP)
    row = i < R - start
    state = i[:, None] * GS + j[None, :]
    mask = row[:, None] & (j < GS)[None, :]
    a_ptr += start
    g_ptr += start * GS
    g = tl.load(g_ptr + state, mask, 0.0).to(ACC)
    step = 1
    while step < STEPS:
        a = tl.load(a_ptr + i, row, 0.0).to(ACC)
        g = next_state(a, g, w_ptr, _square(w_ptr, GP, True), GP, PRODUCT)
        a_ptr += R
        g_ptr += tl.cast(R, tl.int64) * GS
        tl.store(g_ptr + state, g, mask)
        step += 1


@triton.jit
def add_from(ptr, offset, value, row, ACC: tl.constexpr, PRESENT: tl.constexpr):
    """value plus what stands at ptr + offset, if there is anything."""
    if PRESENT:
        value += tl.load(ptr + offset, row, 0.0).to(ACC)
    return value


@triton.jit
def through_gamma(
    a,  # (R,)
    g,  # (R, GP), g_{t-1}
    d_h,  # (R,)
    d_n_ptr,  # gradients of the trace, with HAS_*
    d_s_ptr,
    offset,
    row,
    d_x,  # (GP, 16), sums over rows, with those of dW_gc in columns 2 and 3
    w_ptr,
    HAS_N: tl.constexpr,
    HAS_S: tl.constexpr,
    GP: tl.constexpr,
    N_FLOOR: tl.constexpr,
    PRODUCT: tl.constexpr,
    ACC: tl.constexpr,
):
    """Back through γ and the read-out: g_t, its d_g, the share of γ in d_a, d_n, d_s, and d_x with these rows."""
    x = tl.arange(0, _X)[None, :]
    g = next_state(a, g, w_ptr, _square(w_ptr, GP, True), GP, PRODUCT)
    n, s = read_out(g, w_ptr, GP)
    by_a, by_n, by_s = math.gamma_derivatives(a, n, s, N_FLOOR)
    d_n = add_from(d_n_ptr, offset, d_h * by_n, row, ACC, HAS_N)
    d_s = add_from(d_s_ptr, offset, d_h * by_s, row, ACC, HAS_S)
    # sums over rows as products: far fewer registers than vectors that are summed up
    gains = tl.where(x == 2, d_n[:, None], tl.where(x == 3, d_s[:, None], 0.0))
    d_x += math.product(tl.trans(g), gains, PRODUCT)
    d_g = d_n[:, None] * _vector(w_ptr, 2, GP) + d_s[:, None] * _vector(w_ptr, 3, GP)
    return g, d_g, d_h * by_a, d_n, d_s, d_x


@triton.jit
def through_tanh(g, d_g, d_a, w_ptr, GP: tl.constexpr):
    """Back through tanh, from d_g in full: d_u, and d_a with the controller's share."""
    d_u = d_g * (1 - g * g)
    return d_u, d_a + tl.sum(d_u * _vector(w_ptr, 0, GP), 1)


@triton.jit
def with_inputs(d_x, d_u_t, a, PRODUCT: tl.constexpr, ACC: tl.constexpr):
    """d_x with the sums of dw_ag and db_g in columns 0 and 1; d_u_t: (GP, R)."""
    x = tl.arange(0, _X)[None, :]
    return d_x + math.product(d_u_t, tl.where(x == 0, a[:, None], tl.where(x == 1, 1.0, 0.0).to(ACC)), PRODUCT)


@triton.jit
def controller_bwd_kernel(
    d_h_ptr,  # (R,) each, with HAS_*
    d_rec_ptr,  # the gradient of h from the next step, through W_hh
    d_a_ptr,  # gradients of the trace
    d_n_ptr,
    d_s_ptr,
    d_g_ptr,  # (R, GS), of g_t
    a_ptr,  # (R,)
    g_ptr,  # (R, GS), g_{t-1}
    w_ptr,
    da_ptr,  # (R,)
    dg_ptr,  # (R, GS), of g_{t-1}; may be d_g
    partial_ptr,  # (programs, partial_size(GP)), added to: columns dw_ag, db_g, dW_gc[0], dW_gc[1]; db_c; dW_gg
    du_ptr,  # (R, GS), of u_t; only without SQUARE
    R,
    tiles,
    HAS_H: tl.constexpr,
    HAS_REC: tl.constexpr,
    HAS_A: tl.constexpr,
    HAS_N: tl.constexpr,
    HAS_S: tl.constexpr,
    HAS_G: tl.constexpr,
    GS: tl.constexpr,
    GP: tl.constexpr,
    SQUARE: tl.constexpr,  # whether dW_gg is summed here
    N_FLOOR: tl.constexpr,
    PRODUCT: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """Grid: any number of programs; each takes every so-many-th tile of BLOCK_R rows."""
    i, j, x = tl.arange(0, BLOCK_R), tl.arange(0, GP), tl.arange(0, _X)[None, :]
    state = i[:, None] * GS + j[None, :]
    columns, ends = j[:, None] * _X + x, GP * _X
    square = ends + _X + j[:, None] * GP + j[None, :]
    partial_ptr += tl.program_id(0) * (ends + _X + GP * GP if SQUARE else ends + _X)
    d_x = tl.load(partial_ptr + columns)
    if SQUARE:
        d_w_gg = tl.load(partial_ptr + square)
    d_b_n, d_b_s = tl.zeros((BLOCK_R,), ACC), tl.zeros((BLOCK_R,), ACC)
    tile = tl.program_id(0)
    while tile < tiles:
        start = tile.to(tl.int64) * BLOCK_R
        row = i < R - start
        mask = row[:, None] & (j < GS)[None, :]
        a = tl.load(a_ptr + start + i, row, 0.0).to(ACC)
        g = tl.load(g_ptr + start * GS + state, mask, 0.0).to(ACC)
        d_h = add_from(d_rec_ptr, start + i, tl.zeros((BLOCK_R,), ACC), row, ACC, HAS_REC)
        d_h = add_from(d_h_ptr, start + i, d_h, row, ACC, HAS_H)
        g, d_g, d_a, d_n, d_s, d_x = through_gamma(
            a, g, d_h, d_n_ptr, d_s_ptr, start + i, row, d_x, w_ptr, HAS_N, HAS_S, GP, N_FLOOR, PRODUCT, ACC
        )
        if HAS_G:
            d_g += tl.load(d_g_ptr + start * GS + state, mask, 0.0).to(ACC)
        d_u, d_a = through_tanh(g, d_g, d_a, w_ptr, GP)
        tl.store(da_ptr + start + i, add_from(d_a_ptr, start + i, d_a, row, ACC, HAS_A), row)
        tl.store(dg_ptr + start * GS + state, math.product(d_u, _square(w_ptr, GP, False), PRODUCT), mask)
        if not SQUARE:
            tl.store(du_ptr + start * GS + state, d_u, mask)
        d_u = tl.trans(d_u)
        d_x = with_inputs(d_x, d_u, a, PRODUCT, ACC)
        if SQUARE:
            # g_{t-1} is read again rather than held in registers all the while
            d_w_gg += math.product(d_u, tl.load(g_ptr + start * GS + state, mask, 0.0).to(ACC), PRODUCT)
        d_b_n += d_n
        d_b_s += d_s
        tile += tl.num_programs(0)
    tl.store(partial_ptr + columns, d_x)
    tl.store(partial_ptr + ends, tl.load(partial_ptr + ends) + tl.sum(d_b_n, 0))
    tl.store(partial_ptr + ends + 1, tl.load(partial_ptr + ends + 1) + tl.sum(d_b_s, 0))
    if SQUARE:
        tl.store(partial_ptr + square, d_w_gg)


def row_length(G: int) -> int:
    """Units in a row of the states that sequences hold: with zeros to a multiple of 16 bytes, for whole vectors."""
    return -(-G // 4) * 4


def partial_size(GP: int) -> int:
    """Elements of a program's partial sums."""
    return (GP + 1) * _X.value + (GP * GP if sums_square(GP) else 0)


class Controller:
    """The controller's weights, and how its kernels are launched for them.

    States g are (..., GS) with GS units in a row: G, or more where those beyond are 0.
    """

    def __init__(self, weights: tuple[Tensor, ...], n_floor: float, precision: str) -> None:
        self.G = G = weights[0].shape[0]
        self.GP = GP = padded(G)
        self.n_floor = n_floor
        self.warp_size = warp_size(weights[0].device)
        forward, backward = products(weights[0].device, precision)
        self.products = forward, large_product(GP, backward)
        self.w = torch.empty(2 * GP + 5, GP, dtype=check.compute_dtype(weights[0].dtype), device=weights[0].device)
        self.constants = {"GP": GP, "ACC": accumulator(weights[0].dtype), **OPTIONS}
        # the interpreter takes its time for every program, whatever its size
        BLOCK = triton.next_power_of_2(len(self.w)) if INTERPRETED else 8
        pack_kernel[(triton.cdiv(len(self.w), BLOCK),)](
            *(x.contiguous() for x in weights), self.w, G, GP, BLOCK, num_warps=4, **OPTIONS
        )

    def copied(self) -> Controller:
        """The same controller on weights of its own."""
        other = copy.copy(self)
        other.w = self.w.clone()
        return other

    def _launch(self, g: Tensor, backward: bool) -> dict[str, object]:
        product = self.products[backward]
        tiles = tile(self.GP, product, backward)
        chosen = {"GS": g.shape[-1], "PRODUCT": product, "BLOCK_R": tiles.BLOCK_R}
        return self.constants | chosen | {"num_warps": tiles.threads // self.warp_size}

    def step(self, a: Tensor, g: Tensor, h: Tensor, g_next: Tensor, n: Tensor | None, s: Tensor | None) -> None:
        """Fills h, g_next and, if given, n and s; g_next may be g."""
        options, R = self._launch(g, False), a.numel()
        controller_fwd_kernel[(triton.cdiv(R, options["BLOCK_R"]),)](
            *(a, g, self.w, h, g_next, n, s, R), GAINS=n is not None, N_FLOOR=self.n_floor, **options
        )

    def states(self, a: Tensor, g: Tensor) -> None:
        """Fills g[1:] from g[0] and a; a (steps, ...), g (steps, ..., GS)."""
        if len(a) > 1:
            options, R = self._launch(g, False), a[0].numel()
            controller_states_kernel[(triton.cdiv(R, options["BLOCK_R"]),)](a, g, self.w, R, len(a), **options)

    def _programs(self, R: int) -> int:
        return min(max_programs(self.GP), triton.cdiv(R, tile(self.GP, self.products[1], True).BLOCK_R))

    def new_sums(self, R: int, GS: int, programs: int | None = None) -> Tensor:
        """The buffer that backward kernels add the weights' gradients to; see `_split`."""
        size = (programs or self._programs(R)) * partial_size(self.GP)
        return self.w.new_zeros(size if sums_square(self.GP) else size + GS * (GS + R))

    def _split(self, sums: Tensor, R: int, GS: int) -> tuple[Tensor, Tensor, Tensor]:
        """Partial sums by program and, where dW_gg is not among them, dW_gg (GS, GS) and room for du (R, GS)."""
        end = len(sums) - (0 if sums_square(self.GP) else GS * (GS + R))
        middle = len(sums) if sums_square(self.GP) else end + GS * GS
        return sums[:end].view(-1, partial_size(self.GP)), sums[end:middle].view(-1, GS), sums[middle:].view(-1, GS)

    def step_backward(
        self,
        d_h: Tensor | None,
        d_rec: Tensor | None,
        d_a: Tensor | None,
        d_n: Tensor | None,
        d_s: Tensor | None,
        d_g: Tensor | None,
        a: Tensor,
        g: Tensor,
        da: Tensor,
        dg: Tensor,
        sums: Tensor,
    ) -> None:
        """Fills da and dg, and adds to the sums; d_g, of g_t, may be dg, of g_{t-1}."""
        options, R, GS = self._launch(g, True), a.numel(), g.shape[-1]
        partials, square, du = self._split(sums, R, GS)
        present = [x is not None for x in (d_h, d_rec, d_a, d_n, d_s, d_g)]
        controller_bwd_kernel[(len(partials),)](
            *(d_h, d_rec, d_a, d_n, d_s, d_g, a, g, self.w, da, dg, partials, du),
            *(R, triton.cdiv(R, options["BLOCK_R"]), *present),
            SQUARE=sums_square(self.GP),
            N_FLOOR=self.n_floor,
            **options,
        )

        if len(square):
            square.addmm_(du.t(), g.reshape(-1, GS).to(square.dtype))

    def weight_gradients(self, sums: Tensor, R: int, GS: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Gradients of weight_ag, weight_gg, bias_g, weight_gc, bias_c after steps of R rows."""
        G, GP = self.G, self.GP
        partials, square, _ = self._split(sums, R, GS)
        total = partials.sum(0, dtype=torch.float64)
        columns, ends, inside = total.split([GP * _X.value, _X.value, len(total) - (GP + 1) * _X.value])
        columns = columns.view(GP, _X.value)[:G, :4].t()
        d_w_gg = square if len(square) else inside.view(GP, GP)
        gradients = columns[0], d_w_gg[:G, :G], columns[1], columns[2:], ends[:2]
        return tuple(x.to(dtype, memory_format=torch.contiguous_format, copy=True) for x in gradients)


def controller_step_fwd(
    a: Tensor,
    g: Tensor,
    weight_ag: Tensor,
    weight_gg: Tensor,
    bias_g: Tensor,
    weight_gc: Tensor,
    bias_c: Tensor,
    n_floor: float,
    precision: str,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """h, next g, n, s and the kept state, which is empty; a (B, H), g (B, H, G)."""
    h, n, s = (a.new_empty(a.shape) for _ in "hns")
    g_next = g.new_empty(g.shape)
    if a.numel():
        with launching_on(a):
            controller = Controller((weight_ag, weight_gg, bias_g, weight_gc, bias_c), n_floor, precision)
            controller.step(a.contiguous(), g.contiguous(), h, g_next, n, s)
    return h, g_next, n, s, a.new_empty(0)


def controller_step_bwd(
    d_h: Tensor | None,
    d_g: Tensor | None,
    d_n: Tensor | None,
    d_s: Tensor | None,
    a: Tensor,
    g: Tensor,
    weight_ag: Tensor,
    weight_gg: Tensor,
    bias_g: Tensor,
    weight_gc: Tensor,
    bias_c: Tensor,
    n: Tensor,
    s: Tensor,
    kept: Tensor,
    n_floor: float,
    precision: str,
) -> tuple[Tensor, ...]:
    """Gradients for a, g and the controller's weights."""
    weights = (weight_ag, weight_gg, bias_g, weight_gc, bias_c)
    da, dg = a.new_empty(a.shape), g.new_empty(g.shape)
    if not a.numel():
        return da, dg, *(w.new_zeros(w.shape) for w in weights)
    with launching_on(a):
        controller = Controller(weights, n_floor, precision)
        R, G = a.numel(), g.shape[-1]
        sums = controller.new_sums(R, G)
        d_h, d_g, d_n, d_s = (x if x is None else x.contiguous() for x in (d_h, d_g, d_n, d_s))
        controller.step_backward(d_h, None, None, d_n, d_s, d_g, a.contiguous(), g.contiguous(), da, dg, sums)
        return da, dg, *controller.weight_gradients(sums, R, G, a.dtype)
