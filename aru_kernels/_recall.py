"""Decisions of calls whose autograd graph is alive, for programs that run a call again in their backward pass.

`torch.utils.checkpoint(use_reentrant=False)` runs the forward pass again and expects the same saved tensors. What was
decided then must be decided again, although less memory may be free, or the precision or the backend may be another.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from aru_kernels import _checks as check


class Decision:
    """How one call runs: its backend, the dtype that this computes in, and the options of its kernel."""

    __slots__ = ("__weakref__", "choice")

    def __init__(self, choice: tuple[str, torch.dtype, Any]) -> None:
        self.choice = choice


_ALIVE: weakref.WeakValueDictionary[tuple[object, ...], Decision] = weakref.WeakValueDictionary()


def wanted() -> bool:
    """Whether saved tensors are packed now, as where a checkpoint is taken and where it is computed again."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


def decision(op: str, inputs: Sequence[Tensor], decide: Callable[[], tuple[str, torch.dtype, Any]]) -> Decision:
    """That of the call that is run again, or a new one."""
    key = op, *_fingerprint(inputs)
    if torch._C._current_graph_task_id() != -1:  # inside a backward pass
        earlier = _ALIVE.get(key)
        if earlier is not None:
            return earlier
    _ALIVE[key] = made = Decision(decide())
    return made


def remember(decision: Decision, outputs: Sequence[Tensor]) -> None:
    """Keeps the decision for as long as the graph of the outputs."""
    node: Any = outputs[0].grad_fn
    if node is not None:
        node.metadata["aru_kernels"] = decision


def _fingerprint(inputs: Sequence[Tensor]) -> tuple[object, ...]:
    """What tells two calls apart: shapes, dtype, device and, on a CPU, some of the first input's values."""
    first = inputs[0]
    values: tuple[float, ...] = ()
    if type(first) in check.PLAIN and first.is_cpu and first.numel():
        corners = ((0,) * first.ndim, (-1,) * first.ndim, tuple(size // 2 for size in first.shape))
        values = tuple(first.detach()[corner].item() for corner in corners)
    return first.dtype, first.device, values, *(x.shape for x in inputs)
