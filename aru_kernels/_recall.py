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


_Values = tuple[float, ...]
# By operator, dtype, device and shapes, and by some values of the first input.
_ALIVE: weakref.WeakValueDictionary[tuple[tuple[object, ...], _Values], Decision] = weakref.WeakValueDictionary()
# How far values may be from those of the call that is run again, as a share of the largest: torch's own products
# before the call are rounded to bfloat16 under another precision.
_ROUNDING = 2e-2


def wanted() -> bool:
    """Whether saved tensors are packed now, as where a checkpoint is taken and where it is computed again."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


def decision(op: str, inputs: Sequence[Tensor], decide: Callable[[], tuple[str, torch.dtype, Any]]) -> Decision:
    """The decision of the call that is run again, or a new one."""
    first = inputs[0]
    call, values = (op, first.dtype, first.device, *(x.shape for x in inputs)), _some_values(first)
    if torch._C._current_graph_task_id() != -1:  # inside a backward pass
        earlier = _ALIVE.get((call, values)) or _nearest(call, values)
        if earlier is not None:
            return earlier
    _ALIVE[call, values] = made = Decision(decide())
    return made


def remember(decision: Decision, outputs: Sequence[Tensor]) -> None:
    """Keeps the decision for as long as the graph of the outputs."""
    node: Any = outputs[0].grad_fn
    if node is not None:
        node.metadata["aru_kernels"] = decision


def _nearest(call: tuple[object, ...], values: _Values) -> Decision | None:
    """The decision of the live call whose values are nearest; None if all are too far."""
    found, smallest = None, _ROUNDING * max(map(abs, values), default=0.0)
    for (other, theirs), made in list(_ALIVE.items()):
        if other == call and len(theirs) == len(values) > 0:
            distance = max(abs(a - b) for a, b in zip(values, theirs, strict=True))
            if distance <= smallest:
                found, smallest = made, distance
    return found


def _some_values(x: Tensor) -> _Values:
    """Some values of a tensor, which tell apart calls of equal sizes; none on a GPU, whose work would be waited for."""
    if not (type(x) in check.PLAIN and x.is_cpu and x.numel()):
        return ()
    corners = ((0,) * x.ndim, (-1,) * x.ndim, tuple(size // 2 for size in x.shape))
    return tuple(x.detach()[corner].item() for corner in corners)
