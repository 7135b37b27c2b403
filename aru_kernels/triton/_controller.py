"""Kernels of the controller, launched by `controller.py`, and the parts of a step that all ways of running it share."""

from __future__ import annotations

import triton
import triton.language as tl

from aru_kernels.triton import _math as math

# Width of the smallest tl.dot: the columns that the gradients of the controller's vectors share.
_X = tl.constexpr(16)


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
    n = math.sums(g, _vector(w_ptr, 2, GP), 1) + tl.load(w_ptr + (2 * GP + 4) * GP)
    s = math.sums(g, _vector(w_ptr, 3, GP), 1) + tl.load(w_ptr + (2 * GP + 4) * GP + 1)
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
    # g_next_ptr may be g_ptr, whose elements several threads load
    tl.debug_barrier()
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
    return d_u, d_a + math.sums(d_u, _vector(w_ptr, 0, GP), 1)


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
    # other threads may have loaded the same elements
    tl.debug_barrier()
    tl.store(partial_ptr + square, total)
