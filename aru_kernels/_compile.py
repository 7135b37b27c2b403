"""What torch.compile needs to be told."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., object])


def constant_when_compiled(function: Function) -> Function:
    """torch.compile calls `function` while it traces and takes the result for a constant.

    The same as torch.compiler.assume_constant_result, which imports torch._dynamo and so doubles the time that
    `import aru_kernels` takes.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def not_compiled(function: Function) -> Function:
    """As torch.compiler.disable, which imports torch._dynamo, as soon as that is there."""
    run: Callable[..., object] | None = None

    @functools.wraps(function)
    def call(*args: object) -> object:
        nonlocal run  # a list's append, traced in torch 2.8, would warn
        if run is None and "torch._dynamo" in sys.modules:
            run = torch.compiler.disable(function)
        return (run or function)(*args)

    call._torchdynamo_disable = True  # type: ignore[attr-defined]
    return call  # type: ignore[return-value]
