"""Small networks: all steps of a sequence in one launch.

A program owns one sequence and all its neurons through every step, with h, the controller's states and W_hh in
registers; nothing couples sequences, so there is no barrier between programs, and any number of them may run at a time.
Where W_hh or the states of a sequence outgrow a program's registers, W_hh would have to come from the second-level
cache at every step, for every program: 64 MB a step at the paper's size, as long as the step's launches take in a
graph.  There, and where the batch fills a GPU anyway, `sequence.py` goes step by step.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

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
from aru_kernels.triton._launch import OPTIONS, accumulator, warp_size
from aru_kernels.triton.controller import Controller

# What fits into registers without spilling, by the compiler's report: neurons, neurons with a controller, its units.
MAX_STATIC, MAX_ADAPTIVE, MAX_UNITS = 64, 64, 16
# Beyond, the batch alone fills the largest GPUs, and one matrix product a step uses them better.
MAX_BATCH = 1024
# Enough that W_hh and what is carried from step to step fit into their registers.
_THREADS = 256
# tl.dot of so few units costs nothing beside the rest; three products would spill.
_PRODUCT = {"tf32x3": "ieee"}


def fits(B: int, H: int, GP: int = 0) -> bool:
    """Whether a network runs in one launch; GP: padded units of its controller, 0 without one."""
    return B <= MAX_BATCH and (H <= MAX_ADAPTIVE if GP else H <= MAX_STATIC) and GP <= MAX_UNITS


@triton.jit
def _weights(w_ptr, H: tl.constexpr, HP: tl.constexpr):
    """W_hh, (HP, HP), padded with zeros."""
    i, k = tl.arange(0, HP)[:, None], tl.arange(0, HP)[None, :]
    return tl.load(w_ptr + i * H + k, (i < H) & (k < H), 0.0)


@triton.jit
def adaptive_fwd_kernel(
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
    B,
    STEPS,
    KEEP_A: tl.constexpr,
    KEEP_G: tl.constexpr,
    GAINS: tl.constexpr,
    H: tl.constexpr,
    HP: tl.constexpr,
    GS: tl.constexpr,
    GP: tl.constexpr,
    N_FLOOR: tl.constexpr,
    PRODUCT: tl.constexpr,
    ACC: tl.constexpr,
):
    """Grid: one program per sequence."""
    start = tl.program_id(0).to(tl.int64) * H
    i, j = tl.arange(0, HP), tl.arange(0, GP)
    row = i < H
    state = i[:, None] * GS + j[None, :]
    mask = row[:, None] & (j < GS)[None, :]
    w_hh = _weights(w_hh_ptr, H, HP)
    h = tl.load(h_before_ptr + start + i, row, 0.0).to(ACC)
    g = tl.load(g_before_ptr + start * GS + state, mask, 0.0).to(ACC)
    # g_ptr may be g_before_ptr, whose elements several threads load
    tl.debug_barrier()
    stride = tl.cast(B, tl.int64) * H
    step = 0
    while step < STEPS:
        a = tl.load(xp_ptr + start + i, row, 0.0) + math.sums(w_hh, h[None, :], 1)
        g = next_state(a, g, w_ptr, _square(w_ptr, GP, True), GP, PRODUCT)
        n, s = read_out(g, w_ptr, GP)
        # rows of padding have a gain, too, and an h that W_hh's zeros must not meet as NaN
        h = tl.where(row, math.gamma(a, n, s, N_FLOOR), 0)
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
def adaptive_bwd_kernel(
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
    partial_ptr,  # (B, partial_size(GP)), added to
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
    N_FLOOR: tl.constexpr,
    PRODUCT: tl.constexpr,
    ACC: tl.constexpr,
):
    """Grid: one program per sequence."""
    i, j, x = tl.arange(0, HP), tl.arange(0, GP), tl.arange(0, _X)[None, :]
    row = i < H
    state = i[:, None] * GS + j[None, :]
    mask = row[:, None] & (j < GS)[None, :]
    columns, ends = j[:, None] * _X + x, GP * _X
    square = ends + _X + j[:, None] * GP + j[None, :]
    partial_ptr += tl.program_id(0).to(tl.int64) * (ends + _X + GP * GP)
    d_x, d_w_gg = tl.load(partial_ptr + columns), tl.load(partial_ptr + square)
    d_b_n, d_b_s = tl.zeros((HP,), ACC), tl.zeros((HP,), ACC)
    w_hh = _weights(w_hh_ptr, H, HP)
    own = tl.program_id(0).to(tl.int64) * H
    d_rec_ptr += own
    dg_ptr += own * GS
    d_rec = tl.load(d_rec_ptr + i, row, 0.0)
    d_g = tl.load(dg_ptr + state, mask, 0.0)
    stride = tl.cast(B, tl.int64) * H
    step = STEPS - 1
    while step >= 0:
        start = own + step * stride
        a = tl.load(a_ptr + start + i, row, 0.0).to(ACC)
        g = tl.load(g_ptr + start * GS + state, mask, 0.0).to(ACC)
        d_h = add_from(d_h_ptr, start + i, d_rec, row, ACC, HAS_H)
        g_now, d_g_now, d_a, d_n, d_s, d_x = through_gamma(
            a, g, d_h, d_n_ptr, d_s_ptr, start + i, row, d_x, w_ptr, HAS_N, HAS_S, GP, N_FLOOR, PRODUCT, ACC
        )
        d_u, d_a = through_tanh(g_now, d_g + d_g_now, d_a, w_ptr, GP)
        d_a = add_from(d_a_ptr, start + i, d_a, row, ACC, HAS_A)
        tl.store(da_ptr + start + i, d_a, row)
        d_g = math.product(d_u, _square(w_ptr, GP, False), PRODUCT)
        d_u = tl.trans(d_u)
        d_x = with_inputs(d_x, d_u, a, PRODUCT, ACC)
        d_w_gg += math.product(d_u, g, PRODUCT)
        # rows of padding have a gradient, too
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
    xp_ptr,  # (S, B, H)
    h_before_ptr,  # (B, H)
    w_hh_ptr,  # (H, H)
    n_ptr,  # (H,)
    s_ptr,
    a_ptr,  # (S, B, H), with KEEP_A
    h_ptr,  # (S, B, H)
    B,
    STEPS,
    KEEP_A: tl.constexpr,
    H: tl.constexpr,
    HP: tl.constexpr,
    N_FLOOR: tl.constexpr,
    ACC: tl.constexpr,
):
    """Grid: one program per sequence."""
    start = tl.program_id(0).to(tl.int64) * H
    i = tl.arange(0, HP)
    row = i < H
    w_hh = _weights(w_hh_ptr, H, HP)
    n, s = tl.load(n_ptr + i, row, 1.0), tl.load(s_ptr + i, row, 0.0)
    h = tl.load(h_before_ptr + start + i, row, 0.0).to(ACC)
    stride = tl.cast(B, tl.int64) * H
    step = 0
    while step < STEPS:
        a = tl.load(xp_ptr + start + i, row, 0.0) + math.sums(w_hh, h[None, :], 1)
        h = tl.where(row, math.gamma(a, n, s, N_FLOOR), 0)
        tl.store(h_ptr + start + i, h, row)
        if KEEP_A:
            tl.store(a_ptr + start + i, a, row)
        start += stride
        step += 1


@triton.jit
def static_steps_bwd_kernel(
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
    B,
    STEPS,
    HAS_H: tl.constexpr,
    HAS_A: tl.constexpr,
    H: tl.constexpr,
    HP: tl.constexpr,
    N_FLOOR: tl.constexpr,
    ACC: tl.constexpr,
):
    """Grid: one program per sequence."""
    own = tl.program_id(0).to(tl.int64) * H
    i = tl.arange(0, HP)
    row = i < H
    w_hh = _weights(w_hh_ptr, H, HP)
    n, s = tl.load(n_ptr + i, row, 1.0), tl.load(s_ptr + i, row, 0.0)
    d_rec = tl.load(d_rec_ptr + own + i, row, 0.0).to(ACC)
    dn, ds = tl.load(dn_ptr + own + i, row, 0.0), tl.load(ds_ptr + own + i, row, 0.0)
    stride = tl.cast(B, tl.int64) * H
    step = STEPS - 1
    while step >= 0:
        start = own + step * stride
        a = tl.load(a_ptr + start + i, row, 0.0).to(ACC)
        d_h = add_from(d_h_ptr, start + i, d_rec, row, ACC, HAS_H)
        by_a, by_n, by_s = math.gamma_derivatives(a, n, s, N_FLOOR)
        d_a = add_from(d_a_ptr, start + i, d_h * by_a, row, ACC, HAS_A)
        tl.store(da_ptr + start + i, d_a, row)
        dn += d_h * by_n
        ds += d_h * by_s
        d_rec = math.sums(w_hh, tl.where(row, d_a, 0)[:, None], 0)
        step -= 1
    # other threads may have loaded the same elements
    tl.debug_barrier()
    tl.store(d_rec_ptr + own + i, d_rec, row)
    tl.store(dn_ptr + own + i, dn, row)
    tl.store(ds_ptr + own + i, ds, row)


def _constants(H: int, n_floor: float, like: Tensor) -> dict[str, object]:
    sizes = {"H": H, "HP": max(16, triton.next_power_of_2(H))}
    warps = _THREADS // warp_size(like.device)
    return {**sizes, "N_FLOOR": n_floor, "ACC": accumulator(like.dtype), "num_warps": warps, **OPTIONS}


def adaptive_forward(
    weight_hh: Tensor,
    controller: Controller,
    xp: Tensor,
    h_before: Tensor,
    g_before: Tensor,
    a: Tensor,
    h: Tensor,
    g: Tensor,
    n: Tensor | None,
    s: Tensor | None,
) -> None:
    """`Adaptive.forward` in one launch."""
    S, B, H = xp.shape
    adaptive_fwd_kernel[(B,)](
        *(xp, h_before, g_before, weight_hh, controller.w, a, h, g, n, s, B, S),
        *(len(a) == S, len(g) == S, n is not None),
        GS=g.shape[-1],
        GP=controller.GP,
        PRODUCT=_PRODUCT.get(controller.products[0], controller.products[0]),
        **_constants(H, controller.n_floor, xp),
    )


def adaptive_backward(
    weight_hh: Tensor,
    controller: Controller,
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
    """`Adaptive.backward` in one launch; sums: partial sums for every sequence."""
    S, B, H = a.shape
    adaptive_bwd_kernel[(B,)](
        *(d_h, d_a, d_n, d_s, a, g, weight_hh, controller.w, d_xp, d_rec, dg, sums, B, S),
        *(x is not None for x in (d_h, d_a, d_n, d_s)),
        GS=g.shape[-1],
        GP=controller.GP,
        PRODUCT=_PRODUCT.get(controller.products[1], controller.products[1]),
        **_constants(H, controller.n_floor, a),
    )


def static_forward(
    weights: tuple[Tensor, ...], n_floor: float, xp: Tensor, h_before: Tensor, a: Tensor, h: Tensor
) -> None:
    """`Static.forward` in one launch."""
    S, B, H = xp.shape
    static_steps_fwd_kernel[(B,)](*(xp, h_before, *weights, a, h, B, S), len(a) == S, **_constants(H, n_floor, xp))


def static_backward(
    weights: tuple[Tensor, ...],
    n_floor: float,
    d_h: Tensor | None,
    d_a: Tensor | None,
    a: Tensor,
    d_xp: Tensor,
    d_rec: Tensor,
    dn: Tensor,
    ds: Tensor,
) -> None:
    """`Static.backward` in one launch."""
    S, B, H = a.shape
    static_steps_bwd_kernel[(B,)](
        *(d_h, d_a, a, *weights, d_xp, d_rec, dn, ds, B, S),
        *(d_h is not None, d_a is not None),
        **_constants(H, n_floor, a),
    )
