"""Whether a call is a usual one: an eager program that nothing watches, with tensors that the CPU kernels take.

In a loop over cells, the general path's questions (`aru_kernels._dispatch`, `aru_kernels.ops`) take longer than the
arithmetic: its functions leave the cache at each step. Here they are asked in one place, and whatever has an unusual
answer takes the general path, which knows what to do or what to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from aru_kernels import _checks as check
from aru_kernels import _recall, backends
from aru_kernels._program import watched

_CPU = torch.device("cpu")
_BYTES: dict[Any, int] = {torch.float32: 4, torch.float64: 8}


def program() -> bool:
    """Whether nothing captures, transforms, watches or casts this program or runs it again, and `cpu` may serve it."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._is_any_autocast_enabled()
        or backends.transformed()
        or watched()
        or _recall.wanted()
    ) and backends.requested_backend() in ("auto", "cpu")


def tensors(values: Sequence[Any], shapes: Sequence[tuple[int, ...]], op: str) -> bool:
    """Whether the values are contiguous CPU tensors of these shapes and one dtype, in memory, which `op` takes."""
    dtype: Any = getattr(values[0], "dtype", None)
    if dtype not in _BYTES:
        return False
    size = _BYTES[dtype]
    for x, shape in zip(values, shapes, strict=True):
        if (
            type(x) not in check.PLAIN
            or x.dtype is not dtype
            or not x.is_cpu
            or x.layout is not torch.strided
            or x.is_nested
            or x.shape != shape
            or x.is_neg()
            or x._is_zerotensor()
            or not x.is_contiguous()
            or (x.storage_offset() + x.numel()) * size > x.untyped_storage().nbytes()
        ):
            return False
    return backends.BACKENDS["cpu"].serves(op, _CPU, dtype, 0, 0)
