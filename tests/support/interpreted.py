"""Triton's interpreter, made faster."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

_LANGUAGE = ("triton.language", "triton.language.core")


class _Kept:
    """What a launch undoes at its end, where nothing is undone."""

    def restore(self) -> None:
        pass


def patch_once() -> None:
    """Lets the patches of triton.language stay, and keeps numpy's types of Triton's by name.

    Triton patches at each launch and at each call of a function, and a launch undoes its patches; that takes more than
    half of the interpreter's time.  Call this before the first launch of a process.
    """
    from triton.runtime import interpreter

    patched: set[frozenset[str]] = set()
    patch, numpy_type = interpreter._patch_lang, interpreter._get_np_dtype
    numpy_types: dict[str, Any] = {}

    def patch_new(fn: Callable[..., Any]) -> _Kept:
        # a patch depends on nothing else of the function
        modules = frozenset(
            x.__name__ for x in fn.__globals__.values() if inspect.ismodule(x) and x.__name__ in _LANGUAGE
        )
        if modules not in patched:
            patch(fn)
            patched.add(modules)
        return _Kept()

    def known_numpy_type(dtype: Any) -> Any:
        found = numpy_types.get(dtype.name)
        if found is None:
            found = numpy_types[dtype.name] = numpy_type(dtype)
        return found

    interpreter._patch_lang, interpreter._get_np_dtype = patch_new, known_numpy_type
