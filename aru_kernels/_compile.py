"""What torch.compile needs to be told."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Function = TypeVar("Function", bound=Callable[..., object])


def constant_when_compiled(function: Function) -> Function:
    """torch.compile calls `function` while it traces and takes the result for a constant.

    The same as torch.compiler.assume_constant_result, which imports torch._dynamo and so doubles the time that
    `import aru_kernels` takes.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def not_compiled(function: Function) -> Function:
    """torch.compile breaks the graph at a call of `function`; as torch.compiler.disable, without its import."""
    function._torchdynamo_disable = True  # type: ignore[attr-defined]
    return function
