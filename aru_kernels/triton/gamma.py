"""γ element by element, forward and backward: any strides, any broadcasting of n and s.

Both kernels are bound by memory: every operand is read once and every result written once.  Tensors are walked as a
matrix: columns are the innermost dimension after merging, rows all others.  In the backward pass the gradient of a
broadcast n or s is summed inside the kernel, over the elements of a program in a fixed order, into one row of a buffer
per program; a second kernel adds these rows up in float64, for n and s at once.  No atomics: the bits do not depend on
the order in which programs run.

Block sizes follow from the sizes alone.  They are those usual for streaming kernels (8 or 16 elements a thread) and
chosen from the compiler's report of registers, not by timing.  How a call's operands are walked is worked out once for
their shapes and strides: on small tensors that takes longer than the kernel.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from aru_kernels.triton import _math as math
from aru_kernels.triton._launch import OPTIONS, accumulator, launching_on

# Dimensions after merging that the kernels can walk; beyond, operands are copied.
MAX_DIMS = 4
_FWD_BLOCK, _BWD_BLOCK = 2048, 1024
# Of a program that adds up partial sums.
_SUMS_BLOCK = 2048
# Blocks of a backward program whose operands are on their way at a time; benchmarks/gamma_tiles.py times others.
_BWD_STAGES = 1
# Programs that keep the largest GPUs busy.
_BUSY = 1024


@triton.jit
def _row_offset(r, d1, d2, s0, s1, s2, OUTER: tl.constexpr):
    """Offset of row r, whose dimensions are (., d1, d2) with strides s0, s1, s2; the last OUTER of them exist."""
    if OUTER == 1:
        offset = r * s2
    elif OUTER == 2:
        offset = r // d2 * s1 + r % d2 * s2
    else:
        offset = r // d2 // d1 * s0 + r // d2 % d1 * s1 + r % d2 * s2
    return offset


@triton.jit
def gamma_fwd_kernel(
    x_ptr,  # any strides
    n_ptr,
    s_ptr,
    y_ptr,  # contiguous
    rows,
    cols,
    total,  # elements; less than rows * cols where one dimension is cut into rows
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
    N_ROW: tl.constexpr,  # whether n differs between rows; the same of columns and of s below
    N_COL: tl.constexpr,
    S_ROW: tl.constexpr,
    S_COL: tl.constexpr,
    N_FLOOR: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Grid: one program per (BLOCK_R, BLOCK_C) block of the (rows, cols) matrix, columns fastest."""
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
    """A parameter that differs between rows (ROW) and columns (COL): as many elements as differ."""
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
def _store_gradient(
    ptr, value, r, out, pid_c, rows, row, mask, ROW: tl.constexpr, COL: tl.constexpr, BLOCK_R: tl.constexpr
):
    """The gradient of a parameter that differs between rows: for all elements, or summed over this block's columns."""
    if ROW and COL:
        tl.store(ptr + out, value, mask)
    elif ROW:
        tl.store(ptr + pid_c * rows + r, tl.sum(value, 1)[:, None], row)


@triton.jit
def _store_sum(ptr, value, pid, pid_r, c, cols, col, ROW: tl.constexpr, COL: tl.constexpr):
    """The gradient of a parameter that is the same in all rows, summed over this program's rows, and columns."""
    if COL and not ROW:
        tl.store(ptr + pid_r * cols + c, tl.sum(value, 0)[None, :], col)
    elif not ROW:
        tl.store(ptr + pid, tl.sum(tl.sum(value, 1), 0))


@triton.jit
def gamma_bwd_kernel(
    dy_ptr,  # any strides
    x_ptr,
    n_ptr,
    s_ptr,
    dx_ptr,  # contiguous
    dn_ptr,  # elements, or partial sums: by rows (column blocks, rows), by columns (row blocks, cols), or (programs,)
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
    """Grid: one program per TILES blocks (BLOCK_R, BLOCK_C) that follow each other down the rows, columns fastest."""
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
        # outside the tensor 0 times a derivative at a broadcast n or s, which may not be finite
        dn, ds = tl.where(mask, dy * by_n, 0), tl.where(mask, dy * by_s, 0)
        _store_gradient(dn_ptr, dn, r, out, pid_c, rows, row, mask, N_ROW, N_COL, BLOCK_R)
        _store_gradient(ds_ptr, ds, r, out, pid_c, rows, row, mask, S_ROW, S_COL, BLOCK_R)
        if not N_ROW:
            dn_sum += dn
        if not S_ROW:
            ds_sum += ds
    _store_sum(dn_ptr, dn_sum, pid, pid_r, c, cols, col, N_ROW, N_COL)
    _store_sum(ds_ptr, ds_sum, pid, pid_r, c, cols, col, S_ROW, S_COL)


@triton.jit
def _sum_parts(parts_ptr, sum_ptr, parts, cols, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    """The sums of this program's columns, over all parts in a fixed order."""
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
    dn_parts_ptr,  # (parts, cols)
    ds_parts_ptr,
    dn_ptr,  # (cols,)
    ds_ptr,
    parts,
    cols,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Sums over parts in float64.  Grid: (blocks of BLOCK_C columns, 2), or 1 where dn alone is wanted."""
    if tl.program_id(1) == 0:
        _sum_parts(dn_parts_ptr, dn_ptr, parts, cols, BLOCK_R, BLOCK_C)
    else:
        _sum_parts(ds_parts_ptr, ds_ptr, parts, cols, BLOCK_R, BLOCK_C)


class _Walk(NamedTuple):
    """How a kernel walks its operands: sizes and strides of the merged dimensions, innermost last."""

    sizes: list[int]
    strides: list[list[int]]  # per operand
    rows: int
    cols: int
    total: int
    BLOCK_C: int

    def arguments(self, operands: int) -> list[int]:
        """rows, cols, total, d1, d2 and the strides of the first operands, as the kernels take them."""
        *outer, _ = [1] * (MAX_DIMS - len(self.sizes)) + self.sizes
        padding = [0] * (MAX_DIMS - len(self.sizes))
        return [
            self.rows,
            self.cols,
            self.total,
            *outer[1:],
            *(s for t in self.strides[:operands] for s in padding + t),
        ]

    @property
    def OUTER(self) -> int:
        return max(1, len(self.sizes) - 1)


def _merge(shape: tuple[int, ...], strides: list[tuple[int, ...]]) -> tuple[list[int], list[list[int]]]:
    """The same elements in the same order with as few dimensions as possible, at least one."""
    sizes, merged = [1], [[0] for _ in strides]
    for d, size in enumerate(shape):
        if size == 1:
            continue
        if sizes[-1] == 1:
            sizes[-1], merged = size, [[*m[:-1], s[d]] for m, s in zip(merged, strides, strict=True)]
        elif all(m[-1] == s[d] * size for m, s in zip(merged, strides, strict=True)):
            sizes[-1] *= size
            merged = [[*m[:-1], s[d]] for m, s in zip(merged, strides, strict=True)]
        else:
            sizes.append(size)
            merged = [[*m, s[d]] for m, s in zip(merged, strides, strict=True)]
    return sizes, merged


def _walk(shape: tuple[int, ...], strides: list[tuple[int, ...]]) -> _Walk | None:
    """None where more dimensions remain than the kernels can walk."""
    sizes, strides = _merge(shape, strides)
    if len(sizes) > MAX_DIMS:
        return None
    total = cols = sizes[-1]
    if len(sizes) == 1:
        # one dimension, cut into rows
        BLOCK_C = cols = min(1024, triton.next_power_of_2(total))
        sizes, strides = [-(-total // cols), cols], [[cols * s, s] for (s,) in strides]
    else:
        # the widest of those that leave the fewest lanes empty
        BLOCK_C = min((1024, 512, 256, 128, 64), key=lambda b: -(-cols // b) * b)
        BLOCK_C = min(BLOCK_C, triton.next_power_of_2(cols))
        total = torch.Size(sizes).numel()
    rows = torch.Size(sizes[:-1]).numel()
    return _Walk(sizes, strides, rows, cols, total, BLOCK_C)


def _differs(strides: list[int]) -> tuple[bool, bool]:
    """Whether an operand differs between rows and between columns."""
    return any(strides[:-1]), strides[-1] != 0


_Layout = tuple[torch.Size, tuple[int, ...]]  # shape and strides

# Layouts whose plans are held.
_PLANS = 256


def _layout(t: Tensor) -> _Layout:
    return t.shape, t.stride()


def _expanded(layout: _Layout, shape: torch.Size) -> tuple[int, ...]:
    """The strides of a tensor that is expanded to a shape."""
    own, strides = layout
    new = len(shape) - len(own)
    return (0,) * new + tuple(0 if size == 1 else stride for size, stride in zip(own, strides, strict=True))


def _contiguous(shape: torch.Size) -> _Layout:
    strides = [1] * len(shape)
    for d in reversed(range(len(shape) - 1)):
        strides[d] = strides[d + 1] * shape[d + 1]
    return shape, tuple(strides)


class _Forward(NamedTuple):
    """A launch of the forward kernel but for its tensors."""

    programs: int
    arguments: list[int | bool]
    BLOCK_R: int
    BLOCK_C: int


@functools.lru_cache(_PLANS)
def _plan_forward(x: _Layout, n: _Layout, s: _Layout, block: int) -> _Forward | None:
    """None where operands have to be copied."""
    shape = x[0]
    walk = _walk(shape, [_expanded(t, shape) for t in (x, n, s, _contiguous(shape))])
    if walk is None:
        return None
    BLOCK_R = max(1, block // walk.BLOCK_C)
    programs = triton.cdiv(walk.rows, BLOCK_R) * triton.cdiv(walk.cols, walk.BLOCK_C)
    differs = (*_differs(walk.strides[1]), *_differs(walk.strides[2]))
    return _Forward(programs, [*walk.arguments(3), walk.OUTER, *differs], BLOCK_R, walk.BLOCK_C)


def gamma_fwd(x: Tensor, n: Tensor, s: Tensor, n_floor: float) -> Tensor:
    """γ; n and s broadcast to x's shape."""
    y = x.new_empty(x.shape)
    if x.numel() == 0:
        return y
    plan = _plan_forward(_layout(x), _layout(n), _layout(s), _FWD_BLOCK)
    if plan is None:
        return gamma_fwd(*(t.expand(x.shape).contiguous() for t in (x, n, s)), n_floor)
    with launching_on(x):
        gamma_fwd_kernel[(plan.programs,)](
            *(x, n, s, y, *plan.arguments),
            N_FLOOR=n_floor,
            ACC=accumulator(x.dtype),
            BLOCK_R=plan.BLOCK_R,
            BLOCK_C=plan.BLOCK_C,
            num_warps=4,
            **OPTIONS,
        )
    return y


class _Backward(NamedTuple):
    """A launch of the backward kernel but for its tensors."""

    programs: int
    arguments: list[int | bool]
    BLOCK_R: int
    BLOCK_C: int
    TILES: int
    gradients: list[_Gradient]  # of n and s


@functools.lru_cache(_PLANS)
def _plan_backward(dy: _Layout, x: _Layout, n: _Layout, s: _Layout, block: int, busy: int) -> _Backward | None:
    """None where operands have to be copied."""
    shape = x[0]
    # gradients are contiguous, whatever their operands' strides are
    layouts = (dy, x, n, s, *(_contiguous(t[0]) for t in (x, n, s)))
    walk = _walk(shape, [_expanded(t, shape) for t in layouts])
    if walk is None:
        return None
    BLOCK_R = max(1, block // walk.BLOCK_C)
    blocks_r, blocks_c = triton.cdiv(walk.rows, BLOCK_R), triton.cdiv(walk.cols, walk.BLOCK_C)
    # 8 blocks a program, so that few partial sums are left; fewer where that would leave a GPU idle
    TILES = max(1, min(8, triton.next_power_of_2(blocks_r * blocks_c // busy)))
    programs_r = triton.cdiv(blocks_r, TILES)
    gradients = [_Gradient(walk, strides, programs_r, blocks_c) for strides in walk.strides[5:]]
    arguments = [*walk.arguments(4), walk.OUTER, *(flag for g in gradients for flag in g.differs)]
    return _Backward(programs_r * blocks_c, arguments, BLOCK_R, walk.BLOCK_C, TILES, gradients)


def gamma_bwd(dy: Tensor, x: Tensor, n: Tensor, s: Tensor, n_floor: float) -> tuple[Tensor, Tensor, Tensor]:
    """γ's gradients for x, n and s, each of its operand's shape."""
    dx = x.new_empty(x.shape)
    if x.numel() == 0:
        return dx, n.new_zeros(n.shape), s.new_zeros(s.shape)
    plan = _plan_backward(*map(_layout, (dy, x, n, s)), _BWD_BLOCK, _BUSY)
    if plan is None:
        dx, dn, ds = gamma_bwd(*(t.expand(x.shape).contiguous() for t in (dy, x, n, s)), n_floor)
        return dx, dn.sum_to_size(n.shape), ds.sum_to_size(s.shape)
    buffers = [g.buffer(p) for g, p in zip(plan.gradients, (n, s), strict=True)]
    with launching_on(x):
        gamma_bwd_kernel[(plan.programs,)](
            *(dy, x, n, s, dx, *buffers, *plan.arguments),
            N_FLOOR=n_floor,
            ACC=accumulator(x.dtype),
            BLOCK_R=plan.BLOCK_R,
            BLOCK_C=plan.BLOCK_C,
            TILES=plan.TILES,
            STAGES=_BWD_STAGES,
            num_warps=4,
            **OPTIONS,
        )
        return dx, *_results(plan.gradients, buffers, (n, s))


def _results(gradients: list[_Gradient], buffers: list[Tensor], parameters: tuple[Tensor, ...]) -> list[Tensor]:
    """The gradients, of the parameters' shapes and dtypes, from what the kernel wrote."""
    cases = list(zip(gradients, buffers, parameters, strict=True))
    results = [p.new_empty(p.shape) if g.parts else g.result(b, p) for g, b, p in cases]
    pending = [(b, result, g) for (g, b, _), result in zip(cases, results, strict=True) if g.parts]
    together = len(pending) == 2 and pending[0][2].parts == pending[1][2].parts
    for group in [pending] if together else [[one] for one in pending]:
        (n_parts, dn, gradient), (s_parts, ds, _) = group[0], group[-1]
        parts, cols = gradient.parts
        columns = max(16, _SUMS_BLOCK // triton.next_power_of_2(parts))
        BLOCK_C = min(triton.next_power_of_2(cols), columns)
        BLOCK_R = min(triton.next_power_of_2(parts), _SUMS_BLOCK // BLOCK_C)
        gamma_sums_kernel[(triton.cdiv(cols, BLOCK_C), len(group))](
            *(n_parts, s_parts, dn, ds, parts, cols), BLOCK_R=BLOCK_R, BLOCK_C=BLOCK_C, num_warps=4, **OPTIONS
        )
    return results


class _Gradient:
    """What the kernel writes of the gradient of a parameter, and what remains to be summed."""

    def __init__(self, walk: _Walk, strides: list[int], programs_r: int, blocks_c: int) -> None:
        self.differs = by_row, by_col = _differs(strides)
        cols = walk.cols if by_col else 1
        if by_row:
            # of every row; dimensions among the rows that the parameter lacks remain to be summed
            outer = walk.sizes[:-1]
            self._missing = [0] * (not by_col) + [1 + d for d, stride in enumerate(strides[:-1]) if stride == 0]
            self._shape = (1 if by_col else blocks_c, *outer, cols)
        else:
            self._missing = [0]
            self._shape = (programs_r, cols) if by_col else (programs_r * blocks_c,)
        # sizes of the buffer where its first dimension is all that remains to be summed
        self.parts = (self._shape[0], torch.Size(self._shape[1:]).numel()) if self._missing == [0] else None

    def buffer(self, parameter: Tensor) -> Tensor:
        """What the kernel writes to: the gradient itself, or sums in float32 or wider."""
        if not self._missing:
            return parameter.new_empty(parameter.shape)
        wide = torch.float64 if parameter.dtype == torch.float64 else torch.float32
        return parameter.new_empty(self._shape, dtype=wide)

    def result(self, buffer: Tensor, parameter: Tensor) -> Tensor:
        """The gradient from a buffer that has no such parts."""
        if not self._missing:
            return buffer
        return buffer.sum(self._missing, dtype=torch.float64).to(parameter.dtype).view(parameter.shape)
