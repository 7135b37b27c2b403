"""Kernels of one time step of the static network, without its product with W_hh.

ACC: the dtype of the computation.
"""

from __future__ import annotations

import triton
import triton.language as tl

from aru_kernels.triton.kernels import math


@triton.jit
def static_step_fwd_kernel(
    a_ptr,
    n_ptr,
    s_ptr,
    leak_ptr,
    h_before_ptr,
    h_ptr,
    R,
    H,
    HAS_LEAK: tl.constexpr,
    N_FLOOR: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """h = γ(a; n, s), with HAS_LEAK (1 - leak) h_before + leak γ(a; n, s), for R = B·H rows.

    Grid: one program per BLOCK_R rows.
    Inputs: a (R,); n and s (H,); with HAS_LEAK, leak (H,) and h_before (R,).
    Output: h (R,).
    """
    i = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    row = i < R
    a = tl.load(a_ptr + i, row, 0.0).to(ACC)
    n = tl.load(n_ptr + i % H, row, 1.0).to(ACC)
    s = tl.load(s_ptr + i % H, row, 0.0).to(ACC)
    h = math.gamma(a, n, s, N_FLOOR)
    if HAS_LEAK:
        h = math.leaky(tl.load(h_before_ptr + i, row, 0.0).to(ACC), h, tl.load(leak_ptr + i % H, row, 1.0).to(ACC))
    tl.store(h_ptr + i, h, row)


@triton.jit
def static_step_bwd_kernel(
    d_h_ptr,
    d_rec_ptr,
    d_a_ptr,
    a_ptr,
    n_ptr,
    s_ptr,
    leak_ptr,
    h_before_ptr,
    da_ptr,
    dn_ptr,
    ds_ptr,
    d_leak_ptr,
    R,
    H,
    HAS_H: tl.constexpr,
    HAS_A: tl.constexpr,
    HAS_LEAK: tl.constexpr,
    N_FLOOR: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """A step backwards through γ, and with HAS_LEAK through the leak, for R = B·H rows.

    Grid: one program per BLOCK_R rows.
    Gradients in: d_rec (R,), of h from the next step; d_h with HAS_H and d_a with HAS_A (R,), of the step's results.
    Inputs: a (R,); n and s (H,); with HAS_LEAK, leak (H,) and h_before (R,), h before the step.
    Outputs: da (R,), the whole gradient of a; dn and ds (R,), sums over the steps, to which this step is added; with
    HAS_LEAK d_leak (R,), likewise, and in d_rec the gradient of h_before through the leak.
    """
    i = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    row = i < R
    a = tl.load(a_ptr + i, row, 0.0).to(ACC)
    n = tl.load(n_ptr + i % H, row, 1.0).to(ACC)
    s = tl.load(s_ptr + i % H, row, 0.0).to(ACC)
    d_h = tl.load(d_rec_ptr + i, row, 0.0).to(ACC)
    if HAS_H:
        d_h += tl.load(d_h_ptr + i, row, 0.0).to(ACC)
    if HAS_LEAK:
        leak = tl.load(leak_ptr + i % H, row, 1.0).to(ACC)
        h = tl.load(h_before_ptr + i, row, 0.0).to(ACC)
        past, d_h, d_leak = math.through_leak(d_h, h, math.gamma(a, n, s, N_FLOOR), leak)
        d_leak += tl.load(d_leak_ptr + i, row, 0.0)
    by_a, by_n, by_s = math.gamma_derivatives(a, n, s, N_FLOOR)
    d_a = d_h * by_a
    if HAS_A:
        d_a += tl.load(d_a_ptr + i, row, 0.0).to(ACC)
    tl.store(da_ptr + i, d_a, row)
    dn = tl.load(dn_ptr + i, row, 0.0) + d_h * by_n
    ds = tl.load(ds_ptr + i, row, 0.0) + d_h * by_s
    # other threads may have loaded the same elements
    tl.debug_barrier()
    tl.store(dn_ptr + i, dn, row)
    tl.store(ds_ptr + i, ds, row)
    if HAS_LEAK:
        tl.store(d_leak_ptr + i, d_leak, row)
        tl.store(d_rec_ptr + i, past, row)
