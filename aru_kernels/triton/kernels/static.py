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
    h_ptr,
    R,
    H,
    N_FLOOR: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """h = γ(a; n, s) for R = B·H rows.

    Grid: one program per BLOCK_R rows.
    Inputs: a (R,); n and s (H,).
    Output: h (R,).
    """
    i = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    row = i < R
    a = tl.load(a_ptr + i, row, 0.0).to(ACC)
    n = tl.load(n_ptr + i % H, row, 1.0).to(ACC)
    s = tl.load(s_ptr + i % H, row, 0.0).to(ACC)
    tl.store(h_ptr + i, math.gamma(a, n, s, N_FLOOR), row)


@triton.jit
def static_step_bwd_kernel(
    d_h_ptr,
    d_rec_ptr,
    d_a_ptr,
    a_ptr,
    n_ptr,
    s_ptr,
    da_ptr,
    dn_ptr,
    ds_ptr,
    R,
    H,
    HAS_H: tl.constexpr,
    HAS_A: tl.constexpr,
    N_FLOOR: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """A step backwards through γ, for R = B·H rows.

    Grid: one program per BLOCK_R rows.
    Gradients in: d_rec (R,), of h from the next step, through W_hh; d_h with HAS_H and d_a with HAS_A (R,), of the
    step's results.
    Inputs: a (R,); n and s (H,).
    Outputs: da (R,), the whole gradient of a; dn and ds (R,), sums over the steps, to which this step is added.
    """
    i = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    row = i < R
    a = tl.load(a_ptr + i, row, 0.0).to(ACC)
    n = tl.load(n_ptr + i % H, row, 1.0).to(ACC)
    s = tl.load(s_ptr + i % H, row, 0.0).to(ACC)
    d_h = tl.load(d_rec_ptr + i, row, 0.0).to(ACC)
    if HAS_H:
        d_h += tl.load(d_h_ptr + i, row, 0.0).to(ACC)
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
