"""Kernels of a grid whose programs wait for each other; `cooperative.py` launches them."""

from __future__ import annotations

import triton
import triton.language as tl

from aru_kernels.triton import _math as math
from aru_kernels.triton._controller import (
    _X,
    _square,
    add_from,
    next_state,
    read_out,
    through_gamma,
    through_tanh,
    with_inputs,
)

# Sequences of a program: the smallest tile of rows of the matrix units.
BLOCK_B = tl.constexpr(16)


@triton.jit
def _meet(counter_ptr, arrivals):
    """Waits until programs have arrived here `arrivals` times in all; what they wrote before is then visible."""
    # one thread arrives for all, after the stores of all
    tl.debug_barrier()
    tl.atomic_add(counter_ptr, 1, sem="release")
    while tl.atomic_add(counter_ptr, 0, sem="acquire") < arrivals:
        pass


@triton.jit
def _slice(
    w_ptr, first, H: tl.constexpr, HP: tl.constexpr, BLOCK_H: tl.constexpr, SPLITS: tl.constexpr, BACKWARD: tl.constexpr
):
    """Columns of W_hh^T (backwards: of W_hh) from `first`, as (SPLITS, HP / SPLITS, BLOCK_H)."""
    K: tl.constexpr = HP // SPLITS
    k = tl.arange(0, SPLITS)[:, None, None] * K + tl.arange(0, K)[None, :, None]
    i = first + tl.arange(0, BLOCK_H)[None, None, :]
    return tl.load(w_ptr + (k * H + i if BACKWARD else i * H + k), (i < H) & (k < H), 0.0)


@triton.jit
def _recurrent(x_ptr, w, sequences, H: tl.constexpr, HP: tl.constexpr, SPLITS: tl.constexpr, PRODUCT: tl.constexpr):
    """Rows x (BLOCK_B, H) times a slice: a warp takes a part of each sum; the parts are added in a fixed order."""
    K: tl.constexpr = HP // SPLITS
    k = tl.arange(0, SPLITS)[:, None, None] * K + tl.arange(0, K)[None, None, :]
    b = tl.arange(0, BLOCK_B)[None, :, None]
    # .cg: what others wrote is in the second-level cache; the first level may hold what was there before
    x = tl.load(x_ptr + b * H + k, (b < sequences) & (k < H), 0.0, cache_modifier=".cg")
    return tl.sum(math.product(x, w, PRODUCT), 0)


@triton.jit
def adaptive_cooperative_fwd_kernel(
    xp_ptr,  # (S, B, H)
    h_before_ptr,  # (B, H)
    g_before_ptr,  # (B, H, GS)
    w_hh_ptr,  # (H, H)
    w_ptr,  # packed weights of the controller
    a_ptr,  # (S, B, H), with KEEP_A
    h_ptr,  # (S, B, H)
    g_ptr,  # (S, B, H, GS) with KEEP_G, else (B, H, GS): the last
    n_ptr,  # (S, B, H), with GAINS
    s_ptr,
    counter_ptr,  # (programs along sequences,), zeros
    B,
    STEPS,
    KEEP_A: tl.constexpr,
    KEEP_G: tl.constexpr,
    GAINS: tl.constexpr,
    H: tl.constexpr,
    HP: tl.constexpr,
    GS: tl.constexpr,
    GP: tl.constexpr,
    BLOCK_H: tl.constexpr,
    SPLITS: tl.constexpr,
    N_FLOOR: tl.constexpr,
    PRODUCT: tl.constexpr,
    ACC: tl.constexpr,
):
    """Grid: (blocks of neurons, blocks of sequences), all at the same time."""
    neuron, sequence = tl.program_id(0) * BLOCK_H, tl.program_id(1) * BLOCK_B
    r, j = tl.arange(0, BLOCK_B * BLOCK_H), tl.arange(0, GP)
    row = (r // BLOCK_H < B - sequence) & (r % BLOCK_H < H - neuron)
    # offsets are those within a program's rows
    i = r // BLOCK_H * H + r % BLOCK_H
    state = i[:, None] * GS + j[None, :]
    mask = row[:, None] & (j < GS)[None, :]
    first = sequence.to(tl.int64) * H
    start, stride = first + neuron, tl.cast(B, tl.int64) * H
    counter_ptr += tl.program_id(1)
    w_hh = _slice(w_hh_ptr, neuron, H, HP, BLOCK_H, SPLITS, False)
    g = tl.load(g_before_ptr + start * GS + state, mask, 0.0).to(ACC)
    recurrent = _recurrent(h_before_ptr + first, w_hh, B - sequence, H, HP, SPLITS, PRODUCT)
    x = tl.load(xp_ptr + start + i, row, 0.0)
    step = 0
    while step < STEPS:
        a = x + tl.reshape(recurrent, (BLOCK_B * BLOCK_H,))
        g = next_state(a, g, w_ptr, _square(w_ptr, GP, True), GP, PRODUCT)
        n, s = read_out(g, w_ptr, GP)
        tl.store(h_ptr + start + i, math.gamma(a, n, s, N_FLOOR), row)
        if KEEP_A:
            tl.store(a_ptr + start + i, a, row)
        if GAINS:
            tl.store(n_ptr + start + i, n, row)
            tl.store(s_ptr + start + i, s, row)
        if KEEP_G:
            tl.store(g_ptr + start * GS + state, g, mask)
        start += stride
        step += 1
        if step < STEPS:
            # on its way while the programs meet
            x = tl.load(xp_ptr + start + i, row, 0.0)
            _meet(counter_ptr, step * tl.num_programs(0))
            recurrent = _recurrent(h_ptr + first, w_hh, B - sequence, H, HP, SPLITS, PRODUCT)
            first += stride
    if not KEEP_G:
        tl.store(g_ptr + (start - STEPS * stride) * GS + state, g, mask)


@triton.jit
def adaptive_cooperative_bwd_kernel(
    d_h_ptr,  # (S, B, H) each, with HAS_*
    d_a_ptr,
    d_n_ptr,
    d_s_ptr,
    a_ptr,  # (S, B, H)
    g_ptr,  # (S, B, H, GS), before each step
    w_hh_ptr,
    w_ptr,
    da_ptr,  # (S, B, H)
    d_rec_ptr,  # (B, H), read and written: the gradient of h from the next step
    dg_ptr,  # (B, H, GS), read and written
    partial_ptr,  # (programs, partial_size(GP)), added to
    counter_ptr,  # (programs along sequences,), zeros
    B,
    STEPS,
    HAS_H: tl.constexpr,
    HAS_A: tl.constexpr,
    HAS_N: tl.constexpr,
    HAS_S: tl.constexpr,
    H: tl.constexpr,
    HP: tl.constexpr,
    GS: tl.constexpr,
    GP: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_R: tl.constexpr,  # rows that are taken at a time
    SPLITS: tl.constexpr,
    N_FLOOR: tl.constexpr,
    PRODUCT: tl.constexpr,
    RECURRENT: tl.constexpr,  # the product with W_hh
    ACC: tl.constexpr,
):
    """Grid: (blocks of neurons, blocks of sequences), all at the same time.

    The sums over rows leave no registers for more: the slice of W_hh is read at every step, and the gradients that a
    step hands to the one before it go through memory, from a program to itself.
    """
    neuron, sequence = tl.program_id(0) * BLOCK_H, tl.program_id(1) * BLOCK_B
    j, x = tl.arange(0, GP), tl.arange(0, _X)[None, :]
    columns, ends = j[:, None] * _X + x, GP * _X
    square = ends + _X + j[:, None] * GP + j[None, :]
    program = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    partial_ptr += program.to(tl.int64) * (ends + _X + GP * GP)
    d_x, d_w_gg = tl.load(partial_ptr + columns), tl.load(partial_ptr + square)
    d_b_n, d_b_s = tl.zeros((BLOCK_R,), ACC), tl.zeros((BLOCK_R,), ACC)
    first = sequence.to(tl.int64) * H
    own, stride = first + neuron, tl.cast(B, tl.int64) * H
    d_rec_ptr += own
    dg_ptr += own * GS
    counter_ptr += tl.program_id(1)
    b, k = tl.arange(0, BLOCK_B)[:, None], tl.arange(0, BLOCK_H)[None, :]
    rows = tl.minimum(B - sequence, BLOCK_B) * BLOCK_H
    step = STEPS - 1
    while step >= 0:
        start = own + step * stride
        done = 0
        while done < rows:
            r = done + tl.arange(0, BLOCK_R)
            row = (r // BLOCK_H < B - sequence) & (r % BLOCK_H < H - neuron)
            i = r // BLOCK_H * H + r % BLOCK_H
            state = i[:, None] * GS + j[None, :]
            mask = row[:, None] & (j < GS)[None, :]
            a = tl.load(a_ptr + start + i, row, 0.0).to(ACC)
            g = tl.load(g_ptr + start * GS + state, mask, 0.0).to(ACC)
            d_h = add_from(d_h_ptr, start + i, tl.load(d_rec_ptr + i, row, 0.0), row, ACC, HAS_H)
            g_now, d_g, d_a, d_n, d_s, d_x = through_gamma(
                a, g, d_h, d_n_ptr, d_s_ptr, start + i, row, d_x, w_ptr, HAS_N, HAS_S, GP, N_FLOOR, PRODUCT, ACC
            )
            d_u, d_a = through_tanh(g_now, d_g + tl.load(dg_ptr + state, mask, 0.0), d_a, w_ptr, GP)
            tl.store(da_ptr + start + i, add_from(d_a_ptr, start + i, d_a, row, ACC, HAS_A), row)
            d_g = math.product(d_u, _square(w_ptr, GP, False), PRODUCT)
            # other threads may have loaded the same elements
            tl.debug_barrier()
            tl.store(dg_ptr + state, d_g, mask)
            d_u = tl.trans(d_u)
            d_x = with_inputs(d_x, d_u, a, PRODUCT, ACC)
            d_w_gg += math.product(d_u, g, PRODUCT)
            d_b_n += d_n
            d_b_s += d_s
            done += BLOCK_R
        # from the first-level cache, while the programs meet
        w_hh = _slice(w_hh_ptr, neuron, H, HP, BLOCK_H, SPLITS, True)
        _meet(counter_ptr, (STEPS - step) * tl.num_programs(0))
        d_rec = _recurrent(da_ptr + first + step * stride, w_hh, B - sequence, H, HP, SPLITS, RECURRENT)
        tl.store(d_rec_ptr + b * H + k, d_rec, (b < B - sequence) & (k < H - neuron))
        # read by other threads than wrote it
        tl.debug_barrier()
        step -= 1
    d_b_n_all = tl.load(partial_ptr + ends) + tl.sum(d_b_n, 0)
    d_b_s_all = tl.load(partial_ptr + ends + 1) + tl.sum(d_b_s, 0)
    # other threads may have loaded the same elements
    tl.debug_barrier()
    tl.store(partial_ptr + columns, d_x)
    tl.store(partial_ptr + ends, d_b_n_all)
    tl.store(partial_ptr + ends + 1, d_b_s_all)
    tl.store(partial_ptr + square, d_w_gg)


@triton.jit
def static_cooperative_fwd_kernel(
    xp_ptr,  # (S, B, H)
    h_before_ptr,  # (B, H)
    w_hh_ptr,  # (H, H)
    n_ptr,  # (H,)
    s_ptr,
    a_ptr,  # (S, B, H), with KEEP_A
    h_ptr,  # (S, B, H)
    counter_ptr,  # (programs along sequences,), zeros
    B,
    STEPS,
    KEEP_A: tl.constexpr,
    H: tl.constexpr,
    HP: tl.constexpr,
    BLOCK_H: tl.constexpr,
    SPLITS: tl.constexpr,
    N_FLOOR: tl.constexpr,
    PRODUCT: tl.constexpr,
    ACC: tl.constexpr,
):
    """Grid: (blocks of neurons, blocks of sequences), all at the same time."""
    neuron, sequence = tl.program_id(0) * BLOCK_H, tl.program_id(1) * BLOCK_B
    b, k = tl.arange(0, BLOCK_B)[:, None], tl.arange(0, BLOCK_H)[None, :]
    i, own = b * H + k, (b < B - sequence) & (k < H - neuron)
    n = tl.load(n_ptr + neuron + k, k < H - neuron, 1.0).to(ACC)
    s = tl.load(s_ptr + neuron + k, k < H - neuron, 0.0).to(ACC)
    first = sequence.to(tl.int64) * H
    start, stride = first + neuron, tl.cast(B, tl.int64) * H
    counter_ptr += tl.program_id(1)
    w_hh = _slice(w_hh_ptr, neuron, H, HP, BLOCK_H, SPLITS, False)
    recurrent = _recurrent(h_before_ptr + first, w_hh, B - sequence, H, HP, SPLITS, PRODUCT)
    x = tl.load(xp_ptr + start + i, own, 0.0)
    step = 0
    while step < STEPS:
        a = x + recurrent
        tl.store(h_ptr + start + i, math.gamma(a, n, s, N_FLOOR), own)
        if KEEP_A:
            tl.store(a_ptr + start + i, a, own)
        start += stride
        step += 1
        if step < STEPS:
            x = tl.load(xp_ptr + start + i, own, 0.0)
            _meet(counter_ptr, step * tl.num_programs(0))
            recurrent = _recurrent(h_ptr + first, w_hh, B - sequence, H, HP, SPLITS, PRODUCT)
            first += stride


@triton.jit
def static_cooperative_bwd_kernel(
    d_h_ptr,  # (S, B, H) each, with HAS_*
    d_a_ptr,
    a_ptr,  # (S, B, H)
    w_hh_ptr,
    n_ptr,  # (H,)
    s_ptr,
    da_ptr,  # (S, B, H)
    d_rec_ptr,  # (B, H), read and written
    dn_ptr,  # (B, H), added to: sums over the steps
    ds_ptr,
    counter_ptr,  # (programs along sequences,), zeros
    B,
    STEPS,
    HAS_H: tl.constexpr,
    HAS_A: tl.constexpr,
    H: tl.constexpr,
    HP: tl.constexpr,
    BLOCK_H: tl.constexpr,
    SPLITS: tl.constexpr,
    N_FLOOR: tl.constexpr,
    PRODUCT: tl.constexpr,
    ACC: tl.constexpr,
):
    """Grid: (blocks of neurons, blocks of sequences), all at the same time."""
    neuron, sequence = tl.program_id(0) * BLOCK_H, tl.program_id(1) * BLOCK_B
    b, k = tl.arange(0, BLOCK_B)[:, None], tl.arange(0, BLOCK_H)[None, :]
    i, mask = b * H + k, (b < B - sequence) & (k < H - neuron)
    n = tl.load(n_ptr + neuron + k, k < H - neuron, 1.0).to(ACC)
    s = tl.load(s_ptr + neuron + k, k < H - neuron, 0.0).to(ACC)
    first = sequence.to(tl.int64) * H
    own, stride = first + neuron, tl.cast(B, tl.int64) * H
    counter_ptr += tl.program_id(1)
    w_hh = _slice(w_hh_ptr, neuron, H, HP, BLOCK_H, SPLITS, True)
    d_rec = tl.load(d_rec_ptr + own + i, mask, 0.0).to(ACC)
    dn, ds = tl.load(dn_ptr + own + i, mask, 0.0), tl.load(ds_ptr + own + i, mask, 0.0)
    step = STEPS - 1
    while step >= 0:
        start = own + step * stride
        a = tl.load(a_ptr + start + i, mask, 0.0).to(ACC)
        d_h = add_from(d_h_ptr, start + i, d_rec, mask, ACC, HAS_H)
        by_a, by_n, by_s = math.gamma_derivatives(a, n, s, N_FLOOR)
        tl.store(da_ptr + start + i, add_from(d_a_ptr, start + i, d_h * by_a, mask, ACC, HAS_A), mask)
        dn += d_h * by_n
        ds += d_h * by_s
        _meet(counter_ptr, (STEPS - step) * tl.num_programs(0))
        d_rec = _recurrent(da_ptr + first + step * stride, w_hh, B - sequence, H, HP, SPLITS, PRODUCT)
        step -= 1
    tl.store(d_rec_ptr + own + i, d_rec, mask)
    tl.store(dn_ptr + own + i, dn, mask)
    tl.store(ds_ptr + own + i, ds, mask)
