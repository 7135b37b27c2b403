"""The controller step fused with γ, forward and backward, for rows r = (b, i): every neuron of every sequence.

A program owns BLOCK_R rows and all G units, padded inside to a power of two with zero weights: padded units are
tanh(0) = 0 and pass no gradient.  The backward pass carries du_t, the gradient of the controller's pre-activation, from
step to step: with dg_t = W_gg^T du_{t+1} + what comes through the read-out, a step has one product.  The gradients of
the controller's weights are sums over rows of products of what the steps leave behind; they are taken over many steps
at once, by one kernel, each of whose programs sums in a fixed order into a slice of its own; the slices are added up in
float64.  No atomics.
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
from aru_kernels.triton._launch import OPTIONS, accumulator, launching_on, padded, products, warp_size
from aru_kernels.triton._mode import INTERPRETED

# Width of the smallest tl.dot: the columns that the gradients of the controller's vectors share.
_X = tl.constexpr(16)


class Tile(NamedTuple):
    """Rows that a program takes at a time, and its threads."""

    BLOCK_R: int
    threads: int


# Below, tiles of 64 rows leave multiprocessors of the largest GPUs idle.
_FEW_ROWS = 8192


def tile(kernel: str, GP: int, PRODUCT: str, R: int) -> Tile:
    """The tile of a kernel ("forward", "states", "backward" or "sums"), by the padded controller, product and rows.

    For GP = 64 the fastest of those timed on an H100 with Triton 3.6, 2026-11-26, at R = 40,000 and 3,200.  Others by
    the compiler's reports: the largest without spills on every architecture of the tests' table.
    """
    if PRODUCT == "ieee":
        return Tile(16, 256)
    if GP == 128:
        return Tile(16 if PRODUCT == "tf32x3" or kernel == "backward" else 32, 256)
    if kernel == "sums":
        return Tile(64 if PRODUCT == "bf16" else 32, 128)
    narrow = {"states": ("tf32",), "backward": ("tf32", "tf32x3")}
    return Tile(32 if R <= _FEW_ROWS or PRODUCT in narrow.get(kernel, ()) else 64, 128)


# Tiles of the sums' kernel that are on their way at a time.
_STAGES = 4
# Programs of the sums' kernel: two for every multiprocessor of the largest GPUs.  The same on every GPU, so that the
# order of every sum is.
_PROGRAMS = 264


def sums_size(G: int) -> int:
    """Rows and columns of the sums of the weights' gradients: the units, and two more at the end."""
    P = padded(G + 2)
    return P if P <= 64 else G + 2


def sums_fit(G: int) -> bool:
    """Whether the kernel takes the sums; those of larger controllers do not fit into its registers: PyTorch does."""
    return padded(G + 2) <= 64


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
    x_ptr,  # (R,), with HAS_X
    a_ptr,  # (R,)
    total_ptr,  # (R,), with HAS_X: a + x goes here, not to a: rows are a few threads' each, and some may yet read a
    g_ptr,  # (R, GS)
    w_ptr,  # packed weights
    h_ptr,  # (R,)
    g_next_ptr,  # (R, GS); may be g itself
    n_ptr,  # (R,), with GAINS
    s_ptr,
    R,
    HAS_X: tl.constexpr,
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
    if HAS_X:
        a += tl.load(x_ptr + start + i, row, 0.0).to(ACC)
        tl.store(total_ptr + start + i, a, row)
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
    g_before_ptr,  # (R, GS_BEFORE)
    g_ptr,  # (STEPS, R, GS)
    w_ptr,
    R,
    STEPS,
    GS_BEFORE: tl.constexpr,
    GS: tl.constexpr,
    GP: tl.constexpr,
    PRODUCT: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """The states after each of STEPS steps, from the one before and a: given a, a row needs no other.

    Grid: one program per BLOCK_R rows, through all steps.
    """
    start = tl.program_id(0).to(tl.int64) * BLOCK_R
    i, j = tl.arange(0, BLOCK_R), tl.arange(0, GP)
    row = i < R - start
    state = i[:, None] * GS + j[None, :]
    mask = row[:, None] & (j < GS)[None, :]
    before = row[:, None] & (j < GS_BEFORE)[None, :]
    a_ptr += start
    g_ptr += start * GS
    g = tl.load(g_before_ptr + start * GS_BEFORE + i[:, None] * GS_BEFORE + j[None, :], before, 0.0).to(ACC)
    a = tl.load(a_ptr + i, row, 0.0).to(ACC)
    step = 1
    while step <= STEPS:
        a_ptr += R
        # on its way while this step is computed
        ahead = tl.load(a_ptr + i, row & (i + step < i + STEPS), 0.0).to(ACC)
        # rounded as the forward pass, which goes through memory
        g = next_state(a, g, w_ptr, _square(w_ptr, GP, True), GP, PRODUCT).to(g_ptr.dtype.element_ty)
        tl.store(g_ptr + state, g, mask)
        g = g.to(ACC)
        g_ptr += tl.cast(R, tl.int64) * GS
        a = ahead
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
    d_g_ptr,  # (R, GS), of g_t, from outside
    du_after_ptr,  # (R, GS), of u_{t+1}; instead
    a_ptr,  # (R,)
    g_ptr,  # (R, GS), g_t
    w_ptr,
    da_ptr,  # (R,)
    du_ptr,  # (R, GS), of u_t; may be du_after
    a_out_ptr,  # (R,): for the sums, a, dn and ds
    dn_out_ptr,
    ds_out_ptr,
    R,
    HAS_H: tl.constexpr,
    HAS_REC: tl.constexpr,
    HAS_A: tl.constexpr,
    HAS_N: tl.constexpr,
    HAS_S: tl.constexpr,
    HAS_G: tl.constexpr,
    HAS_AFTER: tl.constexpr,
    GS: tl.constexpr,
    GP: tl.constexpr,
    N_FLOOR: tl.constexpr,
    PRODUCT: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """Grid: one program per BLOCK_R rows."""
    start = tl.program_id(0).to(tl.int64) * BLOCK_R
    i, j = tl.arange(0, BLOCK_R), tl.arange(0, GP)
    row = i < R - start
    state = i[:, None] * GS + j[None, :]
    mask = row[:, None] & (j < GS)[None, :]
    g = tl.load(g_ptr + start * GS + state, mask, 0.0).to(ACC)
    a = tl.load(a_ptr + start + i, row, 0.0).to(ACC)
    d_h = add_from(d_rec_ptr, start + i, tl.zeros((BLOCK_R,), ACC), row, ACC, HAS_REC)
    d_h = add_from(d_h_ptr, start + i, d_h, row, ACC, HAS_H)
    n, s = read_out(g, w_ptr, GP)
    by_a, by_n, by_s = math.gamma_derivatives(a, n, s, N_FLOOR)
    d_n = add_from(d_n_ptr, start + i, d_h * by_n, row, ACC, HAS_N)
    d_s = add_from(d_s_ptr, start + i, d_h * by_s, row, ACC, HAS_S)
    d_g = d_n[:, None] * _vector(w_ptr, 2, GP) + d_s[:, None] * _vector(w_ptr, 3, GP)
    if HAS_G:
        d_g += tl.load(d_g_ptr + start * GS + state, mask, 0.0).to(ACC)
    elif HAS_AFTER:
        du = tl.load(du_after_ptr + start * GS + state, mask, 0.0).to(ACC)
        d_g += math.product(du, _square(w_ptr, GP, False), PRODUCT)
    du, d_a = through_tanh(g, d_g, d_h * by_a, w_ptr, GP)
    tl.store(du_ptr + start * GS + state, du, mask)
    tl.store(da_ptr + start + i, add_from(d_a_ptr, start + i, d_a, row, ACC, HAS_A), row)
    tl.store(a_out_ptr + start + i, a, row)
    tl.store(dn_out_ptr + start + i, d_n, row)
    tl.store(ds_out_ptr + start + i, d_s, row)


@triton.jit
def controller_sums_kernel(
    du_ptr,  # (rows, GS), of u, with HAS_U
    a_ptr,  # (rows,), the input of the same u, with HAS_U
    g_ptr,  # (rows, GS), the state that u is computed from
    dn_ptr,  # (rows,), of the gains that are read from g, with HAS_GAINS
    ds_ptr,
    partial_ptr,  # (programs, P, P), added to
    rows,
    tiles,
    HAS_U: tl.constexpr,
    HAS_GAINS: tl.constexpr,
    GS: tl.constexpr,
    P: tl.constexpr,
    PRODUCT: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_R: tl.constexpr,
    STAGES: tl.constexpr,
):
    """The sum over rows of [du, dn, ds]^T [g, a, 1], with dn and a in column P - 2, ds and 1 in P - 1.

    Grid: any number of programs; each takes every so-many-th tile of BLOCK_R rows.
    """
    i, j = tl.arange(0, BLOCK_R), tl.arange(0, P)
    state = i[:, None] * GS + j[None, :]
    square = j[:, None] * P + j[None, :]
    partial_ptr += tl.program_id(0) * P * P
    total = tl.load(partial_ptr + square)
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), num_stages=STAGES):
        start = tl.cast(tile, tl.int64) * BLOCK_R
        row = i < rows - start
        mask = row[:, None] & (j < GS)[None, :]
        # where a row is longer than the controller, it has zeros in the last two columns
        x = tl.load(g_ptr + start * GS + state, mask, 0.0).to(ACC)
        y = tl.zeros((BLOCK_R, P), ACC)
        if HAS_U:
            y = tl.load(du_ptr + start * GS + state, mask, 0.0).to(ACC)
            a = tl.load(a_ptr + start + i, row, 0.0).to(ACC)
            x = tl.where(j[None, :] == P - 2, a[:, None], tl.where(j[None, :] == P - 1, 1.0, x))
        if HAS_GAINS:
            d_n = tl.load(dn_ptr + start + i, row, 0.0).to(ACC)
            d_s = tl.load(ds_ptr + start + i, row, 0.0).to(ACC)
            y = tl.where(j[None, :] == P - 2, d_n[:, None], tl.where(j[None, :] == P - 1, d_s[:, None], y))
            if not HAS_U:
                x = tl.where(j[None, :] == P - 1, 1.0, x)
        total += math.product(tl.trans(y), x, PRODUCT)
    tl.store(partial_ptr + square, total)


def row_length(G: int, dtype: torch.dtype = torch.float32) -> int:
    """Units in a row of the states that sequences hold: with zeros to a multiple of 16 bytes, for whole vectors."""
    unit = max(4, 16 // dtype.itemsize)
    return -(-G // unit) * unit


def partial_size(GP: int) -> int:
    """Elements of the partial sums of a program that takes whole sequences."""
    return (GP + 1) * _X.value + GP * GP


class Controller:
    """The controller's weights, and how its kernels are launched for them.

    States g are (..., GS) with GS units in a row: G, or more where those beyond are 0.
    """

    def __init__(self, weights: tuple[Tensor, ...], n_floor: float, precision: str) -> None:
        self.G = G = weights[0].shape[0]
        self.GP = GP = padded(G)
        self.n_floor = n_floor
        self.warp_size = warp_size(weights[0].device)
        self.narrow = precision == "medium" and weights[0].dtype == torch.float32 and sums_fit(G)
        # all steps in one launch: by these, forward and backward; step by step: by the first
        self.products = products(weights[0].device, precision)
        self.w = torch.empty(2 * GP + 5, GP, dtype=check.compute_dtype(weights[0].dtype), device=weights[0].device)
        self.constants = {"ACC": accumulator(weights[0].dtype), **OPTIONS}
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

    def _launch(self, kernel: str, g: Tensor, R: int) -> dict[str, object]:
        product = self.products[0]
        tiles = tile(kernel, self.GP if kernel != "sums" else sums_size(self.G), product, R)
        chosen = {"GS": g.shape[-1], "PRODUCT": product, "BLOCK_R": tiles.BLOCK_R}
        return self.constants | chosen | {"num_warps": tiles.threads // self.warp_size}

    def step(
        self,
        x: Tensor | None,
        a: Tensor,
        total: Tensor | None,
        g: Tensor,
        h: Tensor,
        g_next: Tensor,
        n: Tensor | None,
        s: Tensor | None,
    ) -> None:
        """Fills h, g_next and, if given, n and s, and total with a + x where x is given; g_next may be g."""
        R = a.numel()
        options = self._launch("forward", g, R)
        controller_fwd_kernel[(triton.cdiv(R, options["BLOCK_R"]),)](
            *(x, a, total, g, self.w, h, g_next, n, s, R, x is not None),
            GP=self.GP,
            GAINS=n is not None,
            N_FLOOR=self.n_floor,
            **options,
        )

    def states(self, a: Tensor, g_before: Tensor, g: Tensor) -> None:
        """Fills g, the states after each step, from the one before and a; a (steps, ...), g (steps, ..., GS)."""
        if len(a):
            R = a[0].numel()
            options = self._launch("states", g, R)
            controller_states_kernel[(triton.cdiv(R, options["BLOCK_R"]),)](
                *(a, g_before, g, self.w, R, len(a), g_before.shape[-1]), GP=self.GP, **options
            )

    def step_backward(
        self,
        d_h: Tensor | None,
        d_rec: Tensor | None,
        d_a: Tensor | None,
        d_n: Tensor | None,
        d_s: Tensor | None,
        d_g: Tensor | None,
        du_after: Tensor | None,
        a: Tensor,
        g: Tensor,
        da: Tensor,
        du: Tensor,
        vectors: Tensor,
    ) -> None:
        """Fills da, du and, in vectors (3, ...), what the sums need: a, dn and ds; g: after the step."""
        R = a.numel()
        options = self._launch("backward", g, R)
        optional = (d_h, d_rec, d_a, d_n, d_s, d_g, du_after)
        controller_bwd_kernel[(triton.cdiv(R, options["BLOCK_R"]),)](
            *(*optional, a, g, self.w, da, du, *vectors, R, *(x is not None for x in optional)),
            GP=self.GP,
            N_FLOOR=self.n_floor,
            **options,
        )

    def new_sums(self, rows: int) -> Tensor:
        """Sums of the weights' gradients, for `add_sums` of at most so many rows at a time; 0."""
        P, programs = sums_size(self.G), 1
        if sums_fit(self.G):
            programs = min(_PROGRAMS, triton.cdiv(rows, tile("sums", P, self.products[0], rows).BLOCK_R))
        return self.w.new_zeros(programs, P, P)

    def add_sums(
        self, sums: Tensor, du: Tensor | None, a: Tensor | None, g: Tensor, dn: Tensor | None, ds: Tensor | None
    ) -> None:
        """Adds the rows' [du, dn, ds]^T [g, a, 1] to the sums; du and a, or dn and ds, may be left out."""
        GS, P = g.shape[-1], sums.shape[-1]
        if sums_fit(self.G):
            rows = g.numel() // GS
            options = self._launch("sums", g, rows)
            controller_sums_kernel[(len(sums),)](
                *(du, a, g, dn, ds, sums, rows, triton.cdiv(rows, options["BLOCK_R"])),
                *(du is not None, dn is not None),
                P=P,
                STAGES=_STAGES,
                **options,
            )
            return
        (total,), G = sums, self.G
        g = g.reshape(-1, GS)[:, :G].to(sums.dtype)
        if du is not None:
            du = du.reshape(-1, GS)[:, :G]
            a = a.reshape(-1).to(sums.dtype)
            total[:G, :G] += du.t() @ g
            total[:G, G:] += du.t() @ torch.stack((a, torch.ones_like(a)), 1)
        if dn is not None:
            d_gains = torch.stack((dn.reshape(-1), ds.reshape(-1)))
            total[G:, :G] += d_gains @ g
            total[G:, G + 1] += d_gains.sum(1)

    def weight_gradients(self, sums: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Gradients of weight_ag, weight_gg, bias_g, weight_gc, bias_c from the sums."""
        G, P = self.G, sums.shape[-1]
        total = sums.sum(0, dtype=torch.float64)
        d_w_ag, d_b_g = total[:G, P - 2], total[:G, P - 1]
        return _copies((d_w_ag, total[:G, :G], d_b_g, total[P - 2 :, :G], total[P - 2 :, P - 1]), dtype)

    def before(self, du: Tensor, like: Tensor) -> Tensor:
        """The gradient of g_{t-1}, W_gg^T du_t, of the shape and dtype of `like`, (..., G)."""
        G, GP = self.G, self.GP
        rows = du.reshape(-1, du.shape[-1])[:, :G].to(self.w.dtype)
        return torch.mm(rows, self.w[GP : GP + G, :G]).to(like.dtype).view(like.shape)

    def new_partials(self, programs: int) -> Tensor:
        """Partial sums, 0, for programs that take whole sequences."""
        return self.w.new_zeros(programs, partial_size(self.GP))

    def gradients_of_partials(self, partials: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """As `weight_gradients`."""
        G, GP = self.G, self.GP
        total = partials.sum(0, dtype=torch.float64)
        columns, ends, square = total.split([GP * _X.value, _X.value, GP * GP])
        columns = columns.view(GP, _X.value)[:G, :4].t()
        return _copies((columns[0], square.view(GP, GP)[:G, :G], columns[1], columns[2:], ends[:2]), dtype)


def _copies(tensors: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    return tuple(x.to(dtype, memory_format=torch.contiguous_format, copy=True) for x in tensors)


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
            controller.step(None, a.contiguous(), None, g.contiguous(), h, g_next, n, s)
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
    """Gradients for a, g and the controller's weights; the state after the step is computed again."""
    weights = (weight_ag, weight_gg, bias_g, weight_gc, bias_c)
    da = a.new_empty(a.shape)
    if not a.numel():
        return da, *(w.new_zeros(w.shape) for w in (g, *weights))
    with launching_on(a):
        controller = Controller(weights, n_floor, precision)
        d_h, d_g, d_n, d_s = (x if x is None else x.contiguous() for x in (d_h, d_g, d_n, d_s))
        a, g = a.contiguous(), g.contiguous()
        g_next, du = (controller.w.new_empty(g.shape) for _ in range(2))
        vectors = controller.w.new_empty(3, a.numel())
        controller.states(a[None], g, g_next[None])
        controller.step_backward(d_h, None, None, d_n, d_s, d_g, None, a, g_next, da, du, vectors)
        sums = controller.new_sums(a.numel())
        controller.add_sums(sums, du, vectors[0], g, None, None)
        controller.add_sums(sums, None, None, g_next, *vectors[1:])
        return da, controller.before(du, g), *controller.weight_gradients(sums, a.dtype)
