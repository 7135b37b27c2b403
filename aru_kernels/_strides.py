"""Strides of tensors that broadcast, without the views that PyTorch would make of them."""

from __future__ import annotations

from collections.abc import Sequence


def expanded_strides(sizes: Sequence[int], strides: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of a tensor of these sizes and strides, expanded to `shape`."""
    if len(sizes) == len(shape) and sizes == shape:
        return tuple(strides)
    new = len(shape) - len(sizes)
    own = [0 if size != wanted else stride for size, stride, wanted in zip(sizes, strides, shape[new:], strict=True)]
    return (*[0] * new, *own)
