"""Kernels that run all time steps of a small network in one launch.

A program owns one sequence through every step, with h, the controller's states and W_hh in registers.  STEPS is the
number of steps of the launch, S in shapes.  H neurons are padded to HP; for G, GP, GS, PRODUCT and ACC see
`controller.py`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from aru_kernels.triton.kernels import math
from aru_kernels.triton.kernels.controller import (
    COLUMNS,
    add_from,
    load_vector,
    load_w_gg,
    next_state,
    read_out,
    through_tanh,
)


@triton.jit
def _load_w_hh(w_ptr, H: tl.constexpr, HP: tl.constexpr):
    """W_hh, (HP, HP), padded with zeros."""
    i, k = tl.arange(0, HP)[:, None], tl.arange(0, HP)[None, :]
    return tl.load(w_ptr + i * H + k, (i < H) & (k < H), 0.0)


@triton.jit
def adaptive_steps_fwd_kernel(
    xp_ptr,
    h_before_ptr,
    g_before_ptr,
    w_hh_ptr,
    w_ptr,
    leak_ptr,
    a_ptr,
    h_ptr,
    g_ptr,
    n_ptr,
    s_ptr,
    B,
    STEPS,
    KEEP_A: tl.constexpr,
    KEEP_G: tl.constexpr,
    GAINS: tl.constexpr,
    HAS_LEAK: tl.constexpr,
    H: tl.constexpr,
    HP: tl.constexpr,
    GS: tl.constexpr,
    GP: tl.constexpr,
    N_FLOOR: tl.constexpr,
    PRODUCT: tl.constexpr,
    ACC: tl.constexpr,
):
    """All steps of the adaptive network.

    Grid: one program per sequence.
    Inputs: xp (S, B, H); h_before (B, H) and g_before (B, H, GS), the states before the first step; w_hh (H, H); the
    controller's packed weights w; leak (H,) with HAS_LEAK.
    Outputs: h (S, B, H); a (S, B, H) with KEEP_A; n and s (S, B, H) with GAINS; g (S, B, H, GS) with KEEP_G, otherwise
    (B, H, GS), the last state, which may be g_before.
    """
    start = tl.program_id(0).to(tl.int64) * H
    i, j = tl.arange(0, HP), tl.arange(0, GP)
    row = i < H
    state = i[:, None] * GS + j[None, :]
    mask = row[:, None] & (j < GS)[None, :]
    w_hh = _load_w_hh(w_hh_ptr, H, HP)
    h = tl.load(h_before_ptr + start + i, row, 0.0).to(ACC)
    g = tl.load(g_before_ptr + start * GS + state, mask, 0.0).to(ACC)
    # g may be g_before, whose elements several threads load
    tl.debug_barrier()
    if HAS_LEAK:
        leak = tl.load(leak_ptr + i, row, 1.0).to(ACC)
    stride = tl.cast(B, tl.int64) * H
    step = 0
    while step < STEPS:
        a = tl.load(xp_ptr + start + i, row, 0.0) + math.sums(w_hh, h[None, :], 1)
        g = next_state(a, g, w_ptr, load_w_gg(w_ptr, GP, True), GP, PRODUCT)
        n, s = read_out(g, w_ptr, GP)
        y = math.gamma(a, n, s, N_FLOOR)
        if HAS_LEAK:
            y = math.leaky(h, y, leak)
        # rows of padding have a gain, too; without this their h could be NaN, and NaN times W_hh's zeros is NaN
        h = tl.where(row, y, 0)
        tl.store(h_ptr + start + i, h, row)
        if KEEP_A:
            tl.store(a_ptr + start + i, a, row)
        if GAINS:
            tl.store(n_ptr + start + i, n, row)
            tl.store(s_ptr + start + i, s, row)
        if KEEP_G:
            tl.store(g_ptr + start * GS + state, g, mask)
        start += stride
        step += 1
    if not KEEP_G:
        tl.store(g_ptr + tl.program_id(0).to(tl.int64) * H * GS + state, g, mask)


@triton.jit
def _through_gamma(
    a,
    g,
    n,
    s,
    d_h,
    d_n_ptr,
    d_s_ptr,
    offset,
    row,
    d_x,
    w_ptr,
    HAS_N: tl.constexpr,
    HAS_S: tl.constexpr,
    GP: tl.constexpr,
    N_FLOOR: tl.constexpr,
    PRODUCT: tl.constexpr,
    ACC: tl.constexpr,
):
    """Back through γ and the read-out, for a, n, s and d_h, the gradient of γ, (HP,), and g_t (HP, GP).

    d_n_ptr, d_s_ptr: gradients of the trace, with HAS_*.  d_x (GP, COLUMNS): sums over rows.
    Returns the read-out's share of the gradient of g_t, γ's share of d_a, d_n, d_s, and d_x with the sums of dW_gc
    added in columns 2 and 3.
    """
    x = tl.arange(0, COLUMNS)[None, :]
    by_a, by_n, by_s = math.gamma_derivatives(a, n, s, N_FLOOR)
    d_n = add_from(d_n_ptr, offset, d_h * by_n, row, ACC, HAS_N)
    d_s = add_from(d_s_ptr, offset, d_h * by_s, row, ACC, HAS_S)
    # sums over rows as a product, which takes far fewer registers than a vector for each sum
    gains = tl.where(x == 2, d_n[:, None], tl.where(x == 3, d_s[:, None], 0.0))
    d_x += math.product(tl.trans(g), gains, PRODUCT)
    d_g = d_n[:, None] * load_vector(w_ptr, 2, GP) + d_s[:, None] * load_vector(w_ptr, 3, GP)
    return d_g, d_h * by_a, d_n, d_s, d_x


@triton.jit
def _with_inputs(d_x, d_u_t, a, PRODUCT: tl.constexpr, ACC: tl.constexpr):
    """d_x with the sums of dw_ag and db_g added in columns 0 and 1; d_u_t: (GP, HP)."""
    x = tl.arange(0, COLUMNS)[None, :]
    return d_x + math.product(d_u_t, tl.where(x == 0, a[:, None], tl.where(x == 1, 1.0, 0.0).to(ACC)), PRODUCT)


@triton.jit
def adaptive_steps_bwd_kernel(
    d_h_ptr,
    d_a_ptr,
    d_n_ptr,
    d_s_ptr,
    a_ptr,
    g_ptr,
    w_hh_ptr,
    w_ptr,
    leak_ptr,
    h_before_ptr,
    da_ptr,
    d_rec_ptr,
    dg_ptr,
    partial_ptr,
    d_leak_ptr,
    B,
    STEPS,
    HAS_H: tl.constexpr,
    HAS_A: tl.constexpr,
    HAS_N: tl.constexpr,
    HAS_S: tl.constexpr,
    HAS_LEAK: tl.constexpr,
    H: tl.constexpr,
    HP: tl.constexpr,
    GS: tl.constexpr,
    GP: tl.constexpr,
    N_FLOOR: tl.constexpr,
    PRODUCT: tl.constexpr,
    ACC: tl.constexpr,
):
    """All steps of the adaptive network backwards.

    Grid: one program per sequence.
    Gradients in: d_h, d_a, d_n and d_s (S, B, H), each with its HAS_*.
    Inputs: a (S, B, H); g (S, B, H, GS) before each step; w_hh (H, H); the controller's packed weights w; with HAS_LEAK
    leak (H,) and h_before (S, B, H), h before each step.
    Outputs: da (S, B, H), the whole gradients of a; with HAS_LEAK d_leak (S, B, H), each step's term of the gradient.
    Updated: d_rec (B, H) and dg (B, H, GS), the gradients of h and g at the step that follows; partial
    (B, GP·COLUMNS + COLUMNS + GP²), to which each program adds its sums: (GP, COLUMNS) of dw_ag, db_g and dW_gc, then
    db_c in COLUMNS elements, then dW_gg (GP, GP).
    """
    i, j, x = tl.arange(0, HP), tl.arange(0, GP), tl.arange(0, COLUMNS)[None, :]
    row = i < H
    state = i[:, None] * GS + j[None, :]
    mask = row[:, None] & (j < GS)[None, :]
    columns, ends = j[:, None] * COLUMNS + x, GP * COLUMNS
    square = ends + COLUMNS + j[:, None] * GP + j[None, :]
    partial_ptr += tl.program_id(0).to(tl.int64) * (ends + COLUMNS + GP * GP)
    d_x, d_w_gg = tl.load(partial_ptr + columns), tl.load(partial_ptr + square)
    d_b_n, d_b_s = tl.zeros((HP,), ACC), tl.zeros((HP,), ACC)
    w_hh = _load_w_hh(w_hh_ptr, H, HP)
    own = tl.program_id(0).to(tl.int64) * H
    d_rec_ptr += own
    dg_ptr += own * GS
    d_rec = tl.load(d_rec_ptr + i, row, 0.0)
    d_g = tl.load(dg_ptr + state, mask, 0.0)
    if HAS_LEAK:
        leak = tl.load(leak_ptr + i, row, 1.0).to(ACC)
    stride = tl.cast(B, tl.int64) * H
    step = STEPS - 1
    while step >= 0:
        start = own + step * stride
        a = tl.load(a_ptr + start + i, row, 0.0).to(ACC)
        g = tl.load(g_ptr + start * GS + state, mask, 0.0).to(ACC)
        d_h = add_from(d_h_ptr, start + i, d_rec, row, ACC, HAS_H)
        g_now = next_state(a, g, w_ptr, load_w_gg(w_ptr, GP, True), GP, PRODUCT)
        n, s = read_out(g_now, w_ptr, GP)
        if HAS_LEAK:
            h = tl.load(h_before_ptr + start + i, row, 0.0).to(ACC)
            past, d_h, d_leak = math.through_leak(d_h, h, math.gamma(a, n, s, N_FLOOR), leak)
            tl.store(d_leak_ptr + start + i, d_leak, row)
        d_g_now, d_a, d_n, d_s, d_x = _through_gamma(
            a, g_now, n, s, d_h, d_n_ptr, d_s_ptr, start + i, row, d_x, w_ptr, HAS_N, HAS_S, GP, N_FLOOR, PRODUCT, ACC
        )
        d_u, d_a = through_tanh(g_now, d_g + d_g_now, d_a, w_ptr, GP)
        d_a = add_from(d_a_ptr, start + i, d_a, row, ACC, HAS_A)
        tl.store(da_ptr + start + i, d_a, row)
        if HAS_LEAK:
            # before the products, which take the registers of `past`
            d_rec = past + math.sums(w_hh, tl.where(row, d_a, 0)[:, None], 0)
        d_g = math.product(d_u, load_w_gg(w_ptr, GP, False), PRODUCT)
        d_u = tl.trans(d_u)
        d_x = _with_inputs(d_x, d_u, a, PRODUCT, ACC)
        d_w_gg += math.product(d_u, g, PRODUCT)
        # rows of padding have a gradient, too
        if not HAS_LEAK:
            d_rec = math.sums(w_hh, tl.where(row, d_a, 0)[:, None], 0)
        d_b_n += d_n
        d_b_s += d_s
        step -= 1
    d_b_n_all = tl.load(partial_ptr + ends) + tl.sum(d_b_n, 0)
    d_b_s_all = tl.load(partial_ptr + ends + 1) + tl.sum(d_b_s, 0)
    # other threads may have loaded the same elements
    tl.debug_barrier()
    tl.store(d_rec_ptr + i, d_rec, row)
    tl.store(dg_ptr + state, d_g, mask)
    tl.store(partial_ptr + columns, d_x)
    tl.store(partial_ptr + ends, d_b_n_all)
    tl.store(partial_ptr + ends + 1, d_b_s_all)
    tl.store(partial_ptr + square, d_w_gg)


@triton.jit
def static_steps_fwd_kernel(
    xp_ptr,
    h_before_ptr,
    w_hh_ptr,
    n_ptr,
    s_ptr,
    leak_ptr,
    a_ptr,
    h_ptr,
    B,
    STEPS,
    KEEP_A: tl.constexpr,
    HAS_LEAK: tl.constexpr,
    H: tl.constexpr,
    HP: tl.constexpr,
    N_FLOOR: tl.constexpr,
    ACC: tl.constexpr,
):
    """All steps of the static network.

    Grid: one program per sequence.
    Inputs: xp (S, B, H); h_before (B, H); w_hh (H, H); n and s (H,); leak (H,) with HAS_LEAK.
    Outputs: h (S, B, H); a (S, B, H) with KEEP_A.
    """
    start = tl.program_id(0).to(tl.int64) * H
    i = tl.arange(0, HP)
    row = i < H
    w_hh = _load_w_hh(w_hh_ptr, H, HP)
    n, s = tl.load(n_ptr + i, row, 1.0), tl.load(s_ptr + i, row, 0.0)
    h = tl.load(h_before_ptr + start + i, row, 0.0).to(ACC)
    if HAS_LEAK:
        leak = tl.load(leak_ptr + i, row, 1.0)
    stride = tl.cast(B, tl.int64) * H
    step = 0
    while step < STEPS:
        a = tl.load(xp_ptr + start + i, row, 0.0) + math.sums(w_hh, h[None, :], 1)
        y = math.gamma(a, n, s, N_FLOOR)
        if HAS_LEAK:
            y = math.leaky(h, y, leak)
        h = tl.where(row, y, 0)
        tl.store(h_ptr + start + i, h, row)
        if KEEP_A:
            tl.store(a_ptr + start + i, a, row)
        start += stride
        step += 1


@triton.jit
def static_steps_bwd_kernel(
    d_h_ptr,
    d_a_ptr,
    a_ptr,
    w_hh_ptr,
    n_ptr,
    s_ptr,
    leak_ptr,
    h_before_ptr,
    da_ptr,
    d_rec_ptr,
    dn_ptr,
    ds_ptr,
    d_leak_ptr,
    B,
    STEPS,
    HAS_H: tl.constexpr,
    HAS_A: tl.constexpr,
    HAS_LEAK: tl.constexpr,
    H: tl.constexpr,
    HP: tl.constexpr,
    N_FLOOR: tl.constexpr,
    ACC: tl.constexpr,
):
    """All steps of the static network backwards.

    Grid: one program per sequence.
    Gradients in: d_h with HAS_H and d_a with HAS_A (S, B, H).
    Inputs: a (S, B, H); w_hh (H, H); n and s (H,); with HAS_LEAK leak (H,) and h_before (S, B, H), h before each step.
    Output: da (S, B, H), the whole gradients of a.
    Updated: d_rec (B, H), the gradient of h at the step that follows; dn and ds (B, H), and with HAS_LEAK d_leak
    (B, H), sums over the steps.
    """
    own = tl.program_id(0).to(tl.int64) * H
    i = tl.arange(0, HP)
    row = i < H
    w_hh = _load_w_hh(w_hh_ptr, H, HP)
    n, s = tl.load(n_ptr + i, row, 1.0), tl.load(s_ptr + i, row, 0.0)
    d_rec = tl.load(d_rec_ptr + own + i, row, 0.0).to(ACC)
    dn, ds = tl.load(dn_ptr + own + i, row, 0.0), tl.load(ds_ptr + own + i, row, 0.0)
    if HAS_LEAK:
        leak, d_leak = tl.load(leak_ptr + i, row, 1.0), tl.load(d_leak_ptr + own + i, row, 0.0)
    stride = tl.cast(B, tl.int64) * H
    step = STEPS - 1
    while step >= 0:
        start = own + step * stride
        a = tl.load(a_ptr + start + i, row, 0.0).to(ACC)
        d_h = add_from(d_h_ptr, start + i, d_rec, row, ACC, HAS_H)
        if HAS_LEAK:
            h = tl.load(h_before_ptr + start + i, row, 0.0).to(ACC)
            past, d_h, d_leak_now = math.through_leak(d_h, h, math.gamma(a, n, s, N_FLOOR), leak)
            d_leak += d_leak_now
        by_a, by_n, by_s = math.gamma_derivatives(a, n, s, N_FLOOR)
        d_a = add_from(d_a_ptr, start + i, d_h * by_a, row, ACC, HAS_A)
        tl.store(da_ptr + start + i, d_a, row)
        dn += d_h * by_n
        ds += d_h * by_s
        d_rec = math.sums(w_hh, tl.where(row, d_a, 0)[:, None], 0)
        if HAS_LEAK:
            d_rec += past
        step -= 1
    # other threads may have loaded the same elements
    tl.debug_barrier()
    tl.store(d_rec_ptr + own + i, d_rec, row)
    tl.store(dn_ptr + own + i, dn, row)
    tl.store(ds_ptr + own + i, ds, row)
    if HAS_LEAK:
        tl.store(d_leak_ptr + own + i, d_leak, row)
