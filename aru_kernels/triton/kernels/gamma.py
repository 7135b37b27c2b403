"""Kernels of γ element by element: any strides, any broadcasting of n and s.

Tensors are walked as a matrix of (rows, cols): columns are the innermost dimension, rows all others, up to three.  d1
and d2 are the sizes of the last two of these; x0, x1 and x2 are the strides of x in the three dimensions, and xc its
stride along columns; the same for dy (y0 ...), n and s.  OUTER: how many of the three dimensions are in use.  N_ROW and
N_COL: whether n differs between rows and between columns; the same for s.  ACC: the dtype of the computation.
"""

from __future__ import annotations

import triton
import triton.language as tl

from aru_kernels.triton.kernels import math


@triton.jit
def _row_offset(r, d1, d2, s0, s1, s2, OUTER: tl.constexpr):
    """The offset of row r, whose dimensions are (., d1, d2) with strides s0, s1 and s2."""
    if OUTER == 1:
        offset = r * s2
    elif OUTER == 2:
        offset = r // d2 * s1 + r % d2 * s2
    else:
        offset = r // d2 // d1 * s0 + r // d2 % d1 * s1 + r % d2 * s2
    return offset


@triton.jit
def gamma_fwd_kernel(
    x_ptr,
    n_ptr,
    s_ptr,
    y_ptr,
    rows,
    cols,
    total,
    d1,
    d2,
    x0,
    x1,
    x2,
    xc,
    n0,
    n1,
    n2,
    nc,
    s0,
    s1,
    s2,
    sc,
    OUTER: tl.constexpr,
    N_ROW: tl.constexpr,
    N_COL: tl.constexpr,
    S_ROW: tl.constexpr,
    S_COL: tl.constexpr,
    N_FLOOR: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """y = γ(x; n, s).

    Grid: one program per block of (BLOCK_R, BLOCK_C), columns fastest.
    Inputs: x, n and s with the given strides.  `total` is the number of elements, less than rows·cols where one
    dimension is cut into rows.
    Output: y, contiguous.
    """
    blocks = tl.cdiv(cols, BLOCK_C)
    pid = tl.program_id(0)
    r = (pid // blocks).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R).to(tl.int64)
    c = (pid % blocks).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C).to(tl.int64)
    r, c = r[:, None], c[None, :]
    row, col = r < rows, c < cols
    out = r * cols + c
    mask = row & col & (out < total)
    x = tl.load(x_ptr + _row_offset(r, d1, d2, x0, x1, x2, OUTER) + c * xc, mask, 0.0).to(ACC)
    n = _load(n_ptr, _row_offset(r, d1, d2, n0, n1, n2, OUTER), c * nc, row, col, mask, N_ROW, N_COL).to(ACC)
    s = _load(s_ptr, _row_offset(r, d1, d2, s0, s1, s2, OUTER), c * sc, row, col, mask, S_ROW, S_COL).to(ACC)
    tl.store(y_ptr + out, math.gamma(x, n, s, N_FLOOR), mask)


@triton.jit
def _load(ptr, row_offset, col_offset, row, col, mask, ROW: tl.constexpr, COL: tl.constexpr):
    """Loads the distinct elements of a parameter, which differs between rows with ROW and between columns with COL."""
    if ROW and COL:
        value = tl.load(ptr + row_offset + col_offset, mask, 1.0)
    elif ROW:
        value = tl.load(ptr + row_offset, row, 1.0)
    elif COL:
        value = tl.load(ptr + col_offset, col, 1.0)
    else:
        value = tl.load(ptr)
    return value


@triton.jit
def _store_gradient(ptr, value, r, out, pid_c, rows, row, mask, ROW: tl.constexpr, COL: tl.constexpr):
    """Stores the gradient of a parameter that differs between rows, if not between columns summed over this block's."""
    if ROW and COL:
        tl.store(ptr + out, value, mask)
    elif ROW:
        tl.store(ptr + pid_c * rows + r, tl.sum(value, 1)[:, None], row)


@triton.jit
def _store_sum(ptr, value, pid, pid_r, c, cols, col, ROW: tl.constexpr, COL: tl.constexpr):
    """Stores the gradient of a parameter that is the same in all rows: summed over this program's rows, and columns."""
    if COL and not ROW:
        tl.store(ptr + pid_r * cols + c, tl.sum(value, 0)[None, :], col)
    elif not ROW:
        tl.store(ptr + pid, tl.sum(tl.sum(value, 1), 0))


@triton.jit
def gamma_bwd_kernel(
    dy_ptr,
    x_ptr,
    n_ptr,
    s_ptr,
    dx_ptr,
    dn_ptr,
    ds_ptr,
    rows,
    cols,
    total,
    d1,
    d2,
    y0,
    y1,
    y2,
    yc,
    x0,
    x1,
    x2,
    xc,
    n0,
    n1,
    n2,
    nc,
    s0,
    s1,
    s2,
    sc,
    OUTER: tl.constexpr,
    N_ROW: tl.constexpr,
    N_COL: tl.constexpr,
    S_ROW: tl.constexpr,
    S_COL: tl.constexpr,
    N_FLOOR: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    TILES: tl.constexpr,
    STAGES: tl.constexpr,
):
    """γ backwards; the gradient of a broadcast n or s is summed over the elements of each program.

    Grid: one program per TILES consecutive blocks of (BLOCK_R, BLOCK_C) down the rows, columns fastest.
    Inputs: dy, x, n and s with the given strides.
    Outputs: dx, contiguous; dn and ds, each for all elements if the parameter differs between rows and columns.
    Otherwise they are partial sums: (column blocks, rows) for a parameter that differs between rows, (programs along
    rows, cols) for one that differs between columns, (programs,) for a scalar.
    STAGES: blocks in flight at a time.
    """
    blocks = tl.cdiv(cols, BLOCK_C)
    pid = tl.program_id(0).to(tl.int64)
    pid_r, pid_c = pid // blocks, pid % blocks
    c = (pid_c * BLOCK_C + tl.arange(0, BLOCK_C))[None, :]
    col = c < cols
    dn_sum = tl.zeros((BLOCK_R, BLOCK_C), ACC)
    ds_sum = tl.zeros((BLOCK_R, BLOCK_C), ACC)
    for tile in tl.range(TILES, num_stages=STAGES):
        r = ((pid_r * TILES + tile) * BLOCK_R + tl.arange(0, BLOCK_R))[:, None]
        row = r < rows
        out = r * cols + c
        mask = row & col & (out < total)
        dy = tl.load(dy_ptr + _row_offset(r, d1, d2, y0, y1, y2, OUTER) + c * yc, mask, 0.0).to(ACC)
        x = tl.load(x_ptr + _row_offset(r, d1, d2, x0, x1, x2, OUTER) + c * xc, mask, 0.0).to(ACC)
        n = _load(n_ptr, _row_offset(r, d1, d2, n0, n1, n2, OUTER), c * nc, row, col, mask, N_ROW, N_COL).to(ACC)
        s = _load(s_ptr, _row_offset(r, d1, d2, s0, s1, s2, OUTER), c * sc, row, col, mask, S_ROW, S_COL).to(ACC)
        by_x, by_n, by_s = math.gamma_derivatives(x, n, s, N_FLOOR)
        tl.store(dx_ptr + out, dy * by_x, mask)
        # outside the tensor dy is 0, but the derivative at a broadcast n or s may not be finite
        dn, ds = tl.where(mask, dy * by_n, 0), tl.where(mask, dy * by_s, 0)
        _store_gradient(dn_ptr, dn, r, out, pid_c, rows, row, mask, N_ROW, N_COL)
        _store_gradient(ds_ptr, ds, r, out, pid_c, rows, row, mask, S_ROW, S_COL)
        if not N_ROW:
            dn_sum += dn
        if not S_ROW:
            ds_sum += ds
    _store_sum(dn_ptr, dn_sum, pid, pid_r, c, cols, col, N_ROW, N_COL)
    _store_sum(ds_ptr, ds_sum, pid, pid_r, c, cols, col, S_ROW, S_COL)


@triton.jit
def _sum_parts(parts_ptr, sum_ptr, parts, cols, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    """Sums this program's columns over all parts, in a fixed order."""
    r = tl.arange(0, BLOCK_R)[:, None]
    c = tl.program_id(0).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros((BLOCK_R, BLOCK_C), tl.float64)
    first = 0
    while first < parts:
        mask = (r < parts - first) & (c < cols)[None, :]
        total += tl.load(parts_ptr + (first + r).to(tl.int64) * cols + c[None, :], mask, 0.0).to(tl.float64)
        first += BLOCK_R
    tl.store(sum_ptr + c, tl.sum(total, 0), c < cols)


@triton.jit
def gamma_sums_kernel(
    dn_parts_ptr,
    ds_parts_ptr,
    dn_ptr,
    ds_ptr,
    parts,
    cols,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Sums partial sums over parts, in float64.

    Grid: (blocks of BLOCK_C columns, 2), or (blocks of BLOCK_C columns, 1) for dn only.
    Inputs: dn_parts and ds_parts (parts, cols).
    Outputs: dn and ds (cols,).
    """
    if tl.program_id(1) == 0:
        _sum_parts(dn_parts_ptr, dn_ptr, parts, cols, BLOCK_R, BLOCK_C)
    else:
        _sum_parts(ds_parts_ptr, ds_ptr, parts, cols, BLOCK_R, BLOCK_C)
