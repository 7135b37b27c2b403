"""γ element by element, forward and backward: any strides, any broadcasting of n and s.

Both kernels are bound by memory: they read every operand once and write every result once.  In the backward pass each
program sums the gradient of a broadcast n or s over its elements, in a fixed order, into its own row of a buffer.  A
second kernel adds up the rows in float64, for n and s at once.  There are no atomic operations, so the bits do not
depend on the order in which programs run.

Block sizes depend only on the sizes of a call.  They are those usual for streaming kernels (8 or 16 elements a thread)
and were chosen by the compiler's report of registers, not by timing.  A plan for walking the operands is computed once
for their shapes and strides, because on small tensors it takes longer than the kernel.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from aru_kernels._arguments import GammaInputs, GammaOptions, GammaOutputs, GammaSaved
from aru_kernels._strides import expanded_strides
from aru_kernels.triton.kernels.gamma import gamma_bwd_kernel, gamma_fwd_kernel, gamma_sums_kernel
from aru_kernels.triton.launch import OPTIONS, accumulator, launching_on

# The most dimensions, after merging, that the kernels walk; operands with more are copied.
MAX_DIMS = 4
_FWD_BLOCK, _BWD_BLOCK = 2048, 1024
# Elements of a program that adds up partial sums.
_SUMS_BLOCK = 2048
# Blocks of a backward program in flight at a time; benchmarks/gamma_tiles.py times other numbers.
_BWD_STAGES = 1
# Programs that keep the largest GPUs busy.
_BUSY = 1024


class _Walk(NamedTuple):
    """How a kernel walks its operands: the merged dimensions' sizes and each operand's strides, innermost last."""

    sizes: list[int]
    strides: list[list[int]]  # per operand
    rows: int
    cols: int
    total: int
    BLOCK_C: int

    def arguments(self, operands: int) -> list[int]:
        """rows, cols, total, d1, d2 and the strides of the first `operands` operands, as the kernels take them."""
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
    """Sizes and strides for the same elements in the same order, with as few dimensions as possible, at least one."""
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
    """The walk over operands of these strides, or None where more dimensions remain than the kernels can walk."""
    sizes, steps = _merge(shape, strides)
    if len(sizes) > MAX_DIMS:
        return None
    total = cols = sizes[-1]
    if len(sizes) == 1:
        # one dimension, cut into rows
        BLOCK_C = cols = min(1024, triton.next_power_of_2(total))
        sizes, steps = [-(-total // cols), cols], [[cols * s, s] for (s,) in steps]
    else:
        # the widest block among those that leave the fewest lanes empty
        BLOCK_C = min((1024, 512, 256, 128, 64), key=lambda b: -(-cols // b) * b)
        BLOCK_C = min(BLOCK_C, triton.next_power_of_2(cols))
        total = torch.Size(sizes).numel()
    rows = torch.Size(sizes[:-1]).numel()
    return _Walk(sizes, steps, rows, cols, total, BLOCK_C)


def _differs(strides: list[int]) -> tuple[bool, bool]:
    """Whether an operand differs between rows and between columns."""
    return any(strides[:-1]), strides[-1] != 0


_Layout = tuple[torch.Size, tuple[int, ...]]  # shape and strides

# The number of plans that are cached.
_PLANS = 256


def _layout(t: Tensor) -> _Layout:
    return t.shape, t.stride()


def _contiguous(shape: torch.Size) -> _Layout:
    strides = [1] * len(shape)
    for d in reversed(range(len(shape) - 1)):
        strides[d] = strides[d + 1] * shape[d + 1]
    return shape, tuple(strides)


class _Forward(NamedTuple):
    """A launch of the forward kernel without its tensors."""

    programs: int
    arguments: list[int | bool]
    BLOCK_R: int
    BLOCK_C: int


@functools.lru_cache(_PLANS)
def _plan_forward(x: _Layout, n: _Layout, s: _Layout, block: int) -> _Forward | None:
    """None where operands have to be copied."""
    shape = x[0]
    walk = _walk(shape, [expanded_strides(*t, shape) for t in (x, n, s, _contiguous(shape))])
    if walk is None:
        return None
    BLOCK_R = max(1, block // walk.BLOCK_C)
    programs = triton.cdiv(walk.rows, BLOCK_R) * triton.cdiv(walk.cols, walk.BLOCK_C)
    differs = (*_differs(walk.strides[1]), *_differs(walk.strides[2]))
    return _Forward(programs, [*walk.arguments(3), walk.OUTER, *differs], BLOCK_R, walk.BLOCK_C)


def gamma_fwd(y: Tensor, inputs: GammaInputs, options: GammaOptions) -> None:
    """Fills y, which is contiguous, with γ; n and s broadcast to x's shape, which is y's."""
    plan = _plan_forward(*map(_layout, inputs), _FWD_BLOCK)
    if plan is None:
        gamma_fwd(y, GammaInputs(*(t.expand(y.shape).contiguous() for t in inputs)), options)
        return
    with launching_on(y):
        gamma_fwd_kernel[(plan.programs,)](
            *(*inputs, y, *plan.arguments),
            N_FLOOR=options.n_floor,
            ACC=accumulator(y.dtype),
            BLOCK_R=plan.BLOCK_R,
            BLOCK_C=plan.BLOCK_C,
            num_warps=4,
            **OPTIONS,
        )


class _Backward(NamedTuple):
    """A launch of the backward kernel without its tensors."""

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
    walk = _walk(shape, [expanded_strides(*t, shape) for t in layouts])
    if walk is None:
        return None
    BLOCK_R = max(1, block // walk.BLOCK_C)
    blocks_r, blocks_c = triton.cdiv(walk.rows, BLOCK_R), triton.cdiv(walk.cols, walk.BLOCK_C)
    # 8 blocks a program leave few partial sums to add; fewer blocks where 8 would leave a GPU idle
    TILES = max(1, min(8, triton.next_power_of_2(blocks_r * blocks_c // busy)))
    programs_r = triton.cdiv(blocks_r, TILES)
    gradients = [_Gradient(walk, strides, programs_r, blocks_c) for strides in walk.strides[5:]]
    arguments = [*walk.arguments(4), walk.OUTER, *(flag for g in gradients for flag in g.differs)]
    return _Backward(programs_r * blocks_c, arguments, BLOCK_R, walk.BLOCK_C, TILES, gradients)


def gamma_bwd(dx: Tensor, upstream: GammaOutputs, saved: GammaSaved, options: GammaOptions) -> tuple[Tensor, Tensor]:
    """Fills dx, which is contiguous, and returns the gradients of n and s, each of its operand's shape."""
    x, n, s = saved
    plan = _plan_backward(*map(_layout, (upstream.y, x, n, s)), _BWD_BLOCK, _BUSY)
    if plan is None:
        full = GammaSaved(*(t.expand(x.shape).contiguous() for t in saved))
        dn, ds = gamma_bwd(dx, GammaOutputs(upstream.y.contiguous()), full, options)
        return dn.sum_to_size(n.shape), ds.sum_to_size(s.shape)
    buffers = [g.buffer(p) for g, p in zip(plan.gradients, (n, s), strict=True)]
    with launching_on(x):
        gamma_bwd_kernel[(plan.programs,)](
            *(upstream.y, x, n, s, dx, *buffers, *plan.arguments),
            N_FLOOR=options.n_floor,
            ACC=accumulator(x.dtype),
            BLOCK_R=plan.BLOCK_R,
            BLOCK_C=plan.BLOCK_C,
            TILES=plan.TILES,
            STAGES=_BWD_STAGES,
            num_warps=4,
            **OPTIONS,
        )
        dn, ds = _results(plan.gradients, buffers, (n, s))
        return dn, ds


def _results(gradients: list[_Gradient], buffers: list[Tensor], parameters: tuple[Tensor, ...]) -> list[Tensor]:
    """The gradients, with the parameters' shapes and dtypes, from what the kernel wrote."""
    cases = list(zip(gradients, buffers, parameters, strict=True))
    results = [p.new_empty(p.shape) if g.parts else g.result(b, p) for g, b, p in cases]
    pending = [(b, result, g.parts) for (g, b, _), result in zip(cases, results, strict=True) if g.parts]
    together = len(pending) == 2 and pending[0][2] == pending[1][2]
    for group in [pending] if together else [[one] for one in pending]:
        (n_parts, dn, (parts, cols)), (s_parts, ds, _) = group[0], group[-1]
        columns = max(16, _SUMS_BLOCK // triton.next_power_of_2(parts))
        BLOCK_C = min(triton.next_power_of_2(cols), columns)
        BLOCK_R = min(triton.next_power_of_2(parts), _SUMS_BLOCK // BLOCK_C)
        gamma_sums_kernel[(triton.cdiv(cols, BLOCK_C), len(group))](
            *(n_parts, s_parts, dn, ds, parts, cols), BLOCK_R=BLOCK_R, BLOCK_C=BLOCK_C, num_warps=4, **OPTIONS
        )
    return results


class _Gradient:
    """The buffer that the kernel writes a parameter's gradient to, and the sums that remain."""

    def __init__(self, walk: _Walk, strides: list[int], programs_r: int, blocks_c: int) -> None:
        self.differs = by_row, by_col = _differs(strides)
        cols = walk.cols if by_col else 1
        if by_row:
            # the kernel writes every row; the dimensions of rows that the parameter lacks remain to be summed
            outer = walk.sizes[:-1]
            self._missing = [0] * (not by_col) + [1 + d for d, stride in enumerate(strides[:-1]) if stride == 0]
            self._shape = (1 if by_col else blocks_c, *outer, cols)
        else:
            self._missing = [0]
            self._shape = (programs_r, cols) if by_col else (programs_r * blocks_c,)
        # (parts, columns) of the buffer if only its first dimension remains to be summed
        self.parts = (self._shape[0], torch.Size(self._shape[1:]).numel()) if self._missing == [0] else None

    def buffer(self, parameter: Tensor) -> Tensor:
        """The buffer: the gradient itself, or sums in float32 or wider."""
        if not self._missing:
            return parameter.new_empty(parameter.shape)
        wide = torch.float64 if parameter.dtype == torch.float64 else torch.float32
        return parameter.new_empty(self._shape, dtype=wide)

    def result(self, buffer: Tensor, parameter: Tensor) -> Tensor:
        """The gradient from a buffer without `parts`."""
        if not self._missing:
            return buffer
        return buffer.sum(self._missing, dtype=torch.float64).to(parameter.dtype).view(parameter.shape)
