"""Triton's interpreter, made faster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def patch_once_a_launch() -> None:
    """Lets a launch patch triton.language once for each function, where Triton patches at each call of a function.

    Repeating the patches takes almost half of the interpreter's time.  Call this before the first launch.
    """
    from triton.runtime import interpreter

    patched: set[Callable[..., Any]] = set()
    patch, launch = interpreter._patch_lang, interpreter.GridExecutor.__call__

    def patch_new(fn: Callable[..., Any]) -> Any:
        if fn in patched:
            return None  # the call of a function ignores it; only a launch undoes its patches
        patched.add(fn)
        return patch(fn)

    def launch_unpatched(self: Any, *arguments: Any, **keywords: Any) -> Any:
        patched.clear()
        return launch(self, *arguments, **keywords)

    interpreter._patch_lang, interpreter.GridExecutor.__call__ = patch_new, launch_unpatched
