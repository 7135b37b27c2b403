"""Kernels of the controller, and the parts of a step that several kernels share.

A row r = (b, i) is a neuron of a sequence; there are R = B·H of them.  G units are padded to GP, a power of two, with
zero weights: a padded unit is tanh(0) = 0 and passes no gradient.  States in memory have rows of GS >= G units, with
zeros from G on.  Kernels read the weights from one buffer, which `pack_kernel` fills.

PRODUCT: the kind of matrix product, see `math.product`.  ACC: the dtype of the computation.
"""

from __future__ import annotations

import triton
import triton.language as tl

from aru_kernels.triton.kernels import math

# Width of the smallest tl.dot: the columns in which the sums of the controller's vectors are taken as one product.
COLUMNS = tl.constexpr(16)


@triton.jit
def pack_kernel(
    w_ag_ptr,
    w_gg_ptr,
    b_g_ptr,
    w_gc_ptr,
    b_c_ptr,
    w_ptr,
    G: tl.constexpr,
    GP: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """Packs the controller's weights into one aligned buffer, padded with zeros.

    Grid: one program per BLOCK_R rows of the buffer.
    Inputs: w_ag (G,), w_gg (G, G), b_g (G,), w_gc (2, G), b_c (2,).
    Output: w (2 GP + 5, GP) with the rows W_gg^T, W_gg, w_ag, b_g, W_gc[0], W_gc[1], b_c.
    """
    ACC: tl.constexpr = w_ptr.dtype.element_ty
    p = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
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
def load_w_gg(w_ptr, GP: tl.constexpr, TRANSPOSED: tl.constexpr):
    """W_gg or its transpose, (GP, GP), from the packed weights."""
    start = 0 if TRANSPOSED else GP * GP
    return tl.load(w_ptr + start + tl.arange(0, GP)[:, None] * GP + tl.arange(0, GP)[None, :])


@triton.jit
def load_vector(w_ptr, i: tl.constexpr, GP: tl.constexpr):
    """w_ag, b_g, W_gc[0] or W_gc[1] for i = 0, 1, 2, 3, as (1, GP), from the packed weights."""
    return tl.load(w_ptr + (2 * GP + i) * GP + tl.arange(0, GP))[None, :]


@triton.jit
def next_state(a, g, w_ptr, w_gg_t, GP: tl.constexpr, PRODUCT: tl.constexpr):
    """g_t = tanh(w_ag a_t + W_gg g_{t-1} + b_g) for a (BLOCK_R,) and g (BLOCK_R, GP)."""
    u = math.product(g, w_gg_t, PRODUCT) + a[:, None] * load_vector(w_ptr, 0, GP) + load_vector(w_ptr, 1, GP)
    return math.tanh(u)


@triton.jit
def read_out(g, w_ptr, GP: tl.constexpr):
    """(n, s) = W_gc g + b_c, each (BLOCK_R,)."""
    n = math.sums(g, load_vector(w_ptr, 2, GP), 1) + tl.load(w_ptr + (2 * GP + 4) * GP)
    s = math.sums(g, load_vector(w_ptr, 3, GP), 1) + tl.load(w_ptr + (2 * GP + 4) * GP + 1)
    return n, s


@triton.jit
def controller_step_fwd_kernel(
    x_ptr,
    a_ptr,
    total_ptr,
    g_ptr,
    w_ptr,
    leak_ptr,
    h_before_ptr,
    h_ptr,
    g_next_ptr,
    n_ptr,
    s_ptr,
    R,
    HAS_X: tl.constexpr,
    HAS_LEAK: tl.constexpr,
    GS: tl.constexpr,
    GP: tl.constexpr,
    GAINS: tl.constexpr,
    N_FLOOR: tl.constexpr,
    PRODUCT: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """A step of the controller, fused with γ and, with HAS_LEAK, the leak.

    Grid: one program per BLOCK_R rows.
    Inputs: a (R,), to which x (R,) is added with HAS_X; g (R, GS) before the step; the packed weights w; with HAS_LEAK
    leak (R,) and h_before (R,), h before the step.
    Outputs: h (R,); g_next (R, GS), which may be g; n and s (R,) with GAINS; total (R,) = a + x with HAS_X.  total may
    not be a: a row of a tile belongs to several threads, and another one may not have read a yet.
    """
    start = tl.program_id(0).to(tl.int64) * BLOCK_R
    # from here on, offsets are relative to the tile
    i, j = tl.arange(0, BLOCK_R), tl.arange(0, GP)
    row = i < R - start
    state = i[:, None] * GS + j[None, :]
    mask = row[:, None] & (j < GS)[None, :]
    a = tl.load(a_ptr + start + i, row, 0.0).to(ACC)
    if HAS_X:
        a += tl.load(x_ptr + start + i, row, 0.0).to(ACC)
        tl.store(total_ptr + start + i, a, row)
    g = tl.load(g_ptr + start * GS + state, mask, 0.0).to(ACC)
    g = next_state(a, g, w_ptr, load_w_gg(w_ptr, GP, True), GP, PRODUCT)
    # g_next may be g, whose elements several threads load
    tl.debug_barrier()
    tl.store(g_next_ptr + start * GS + state, g, mask)
    n, s = read_out(g, w_ptr, GP)
    at = h_ptr + start + i
    h = math.gamma(a, n, s, N_FLOOR)
    if HAS_LEAK:
        before = tl.load(h_before_ptr + start + i, row, 0.0).to(ACC)
        h = math.leaky(before, h, tl.load(leak_ptr + start + i, row, 1.0).to(ACC))
    tl.store(at, h, row)
    if GAINS:
        tl.store(n_ptr + start + i, n, row)
        tl.store(s_ptr + start + i, s, row)


@triton.jit
def controller_states_kernel(
    a_ptr,
    g_before_ptr,
    g_ptr,
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
    """Recomputes the states of STEPS steps from a; given a, a row needs no other row.

    Grid: one program per BLOCK_R rows, through all steps.
    Inputs: a (STEPS, R); g_before (R, GS_BEFORE), the state before the first step; the packed weights w.
    Output: g (STEPS, R, GS), the state after each step.
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
        # the next step's a, loaded while this step is computed
        ahead = tl.load(a_ptr + i, row & (i + step < i + STEPS), 0.0).to(ACC)
        # rounded as in the forward pass, whose states go through memory
        g = next_state(a, g, w_ptr, load_w_gg(w_ptr, GP, True), GP, PRODUCT).to(g_ptr.dtype.element_ty)
        tl.store(g_ptr + state, g, mask)
        g = g.to(ACC)
        g_ptr += tl.cast(R, tl.int64) * GS
        a = ahead
        step += 1


@triton.jit
def add_from(ptr, offset, value, row, ACC: tl.constexpr, PRESENT: tl.constexpr):
    """value, plus the elements at ptr + offset with PRESENT."""
    if PRESENT:
        value += tl.load(ptr + offset, row, 0.0).to(ACC)
    return value


@triton.jit
def through_tanh(g, d_g, d_a, w_ptr, GP: tl.constexpr):
    """Back through tanh, given the whole gradient of g_t: d_u, and d_a with the controller's share added."""
    d_u = d_g * (1 - g * g)
    return d_u, d_a + math.sums(d_u, load_vector(w_ptr, 0, GP), 1)


@triton.jit
def controller_step_bwd_kernel(
    d_h_ptr,
    d_rec_ptr,
    d_a_ptr,
    d_n_ptr,
    d_s_ptr,
    d_g_ptr,
    du_after_ptr,
    a_ptr,
    g_ptr,
    w_ptr,
    leak_ptr,
    h_before_ptr,
    da_ptr,
    du_ptr,
    a_out_ptr,
    dn_out_ptr,
    ds_out_ptr,
    d_leak_ptr,
    R,
    HAS_H: tl.constexpr,
    HAS_REC: tl.constexpr,
    HAS_A: tl.constexpr,
    HAS_N: tl.constexpr,
    HAS_S: tl.constexpr,
    HAS_G: tl.constexpr,
    HAS_AFTER: tl.constexpr,
    HAS_LEAK: tl.constexpr,
    GS: tl.constexpr,
    GP: tl.constexpr,
    N_FLOOR: tl.constexpr,
    PRODUCT: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """A step of the controller and γ, and with HAS_LEAK of the leak, backwards.

    Grid: one program per BLOCK_R rows.
    Gradients in, each with its HAS_*: d_h, d_a, d_n and d_s (R,) of the step's results; d_rec (R,), of h from the next
    step; du_after (R, GS), of the next step's u, or instead of it d_g (R, GS), of g_t.
    Inputs: a (R,); g (R, GS) after the step; the packed weights w; with HAS_LEAK leak (R,) and h_before (R,), h before
    the step.
    Outputs: da (R,), the whole gradient of a; du (R, GS), of u, which may be du_after; and for the sums of the weights'
    gradients a_out (R,), a copy of a, and dn_out and ds_out (R,), the whole gradients of n and s.  With HAS_LEAK, also
    d_leak (R,), a sum over steps, to which this step is added, and in d_rec the gradient of h_before through the leak.
    """
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
    if HAS_LEAK:
        before = tl.load(h_before_ptr + start + i, row, 0.0).to(ACC)
        leak = tl.load(leak_ptr + start + i, row, 1.0).to(ACC)
        past, d_h, d_leak = math.through_leak(d_h, before, math.gamma(a, n, s, N_FLOOR), leak)
        d_leak += tl.load(d_leak_ptr + start + i, row, 0.0)
        # other threads may have loaded the same elements
        tl.debug_barrier()
        tl.store(d_leak_ptr + start + i, d_leak, row)
        tl.store(d_rec_ptr + start + i, past, row)
    by_a, by_n, by_s = math.gamma_derivatives(a, n, s, N_FLOOR)
    d_n = add_from(d_n_ptr, start + i, d_h * by_n, row, ACC, HAS_N)
    d_s = add_from(d_s_ptr, start + i, d_h * by_s, row, ACC, HAS_S)
    d_g = d_n[:, None] * load_vector(w_ptr, 2, GP) + d_s[:, None] * load_vector(w_ptr, 3, GP)
    if HAS_G:
        d_g += tl.load(d_g_ptr + start * GS + state, mask, 0.0).to(ACC)
    elif HAS_AFTER:
        du = tl.load(du_after_ptr + start * GS + state, mask, 0.0).to(ACC)
        d_g += math.product(du, load_w_gg(w_ptr, GP, False), PRODUCT)
    du, d_a = through_tanh(g, d_g, d_h * by_a, w_ptr, GP)
    tl.store(du_ptr + start * GS + state, du, mask)
    tl.store(da_ptr + start + i, add_from(d_a_ptr, start + i, d_a, row, ACC, HAS_A), row)
    tl.store(a_out_ptr + start + i, a, row)
    tl.store(dn_out_ptr + start + i, d_n, row)
    tl.store(ds_out_ptr + start + i, d_s, row)


@triton.jit
def controller_sums_kernel(
    du_ptr,
    a_ptr,
    g_ptr,
    dn_ptr,
    ds_ptr,
    partial_ptr,
    R,
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
    """The sum over R rows of [du, dn, ds]^T [g, a, 1]: gradients of all the controller's weights.

    Grid: any number of programs; program p takes every tile of BLOCK_R rows whose index is p modulo their number.
    Inputs: g (R, GS); with HAS_U, du (R, GS) of the u that is computed from g, and that step's a (R,); with HAS_GAINS,
    dn and ds (R,) of the gains that are read from g.  `tiles` is cdiv(R, BLOCK_R).
    Output: partial (programs, P, P), P >= G + 2, to which each program adds its sum.  The last two rows belong to dn
    and ds, the last two columns to a and 1.
    STAGES: tiles in flight at a time.
    """
    i, j = tl.arange(0, BLOCK_R), tl.arange(0, P)
    state = i[:, None] * GS + j[None, :]
    square = j[:, None] * P + j[None, :]
    partial_ptr += tl.program_id(0) * P * P
    total = tl.load(partial_ptr + square)
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), num_stages=STAGES):
        start = tl.cast(tile, tl.int64) * BLOCK_R
        row = i < R - start
        mask = row[:, None] & (j < GS)[None, :]
        # zeros from column G on, also where rows reach into the last two columns
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
    # other threads may have loaded the same elements
    tl.debug_barrier()
    tl.store(partial_ptr + square, total)
