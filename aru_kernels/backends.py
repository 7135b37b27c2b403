"""Which backends exist, what each can serve, and which one runs.

`auto` picks the first of `BACKENDS` that can serve a call.  A backend asked for by name that cannot serve is an error
that says why.  To add one: write its module (see `cpu.py`) and add its line to `BACKENDS`.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch.autograd import forward_ad

from aru_kernels import _checks as check
from aru_kernels._compile import constant_when_compiled
from aru_kernels.triton._mode import INTERPRETED


@dataclass(frozen=True)
class Backend:
    """A set of kernels: which operations it has, on which device types, in which dtypes.

    module: has `unavailable() -> str | None`, `device() -> str` and `KERNELS: {op: (forward, backward)}`;
    None for the reference, which serves everything.
    dtypes: that it computes in.  narrow: {op: dtypes} of tensors that a kernel takes without a conversion to float32.
    limited: the module also has `refuses(H, G) -> str | None`; a size that an operation does not have is 0.
    The module may also have `with_idle_memory(call) -> call`, which gives back memory that it holds where a call is
    short of it.
    """

    name: str
    module: str | None = None
    ops: frozenset[str] = frozenset()
    devices: frozenset[str] = frozenset()
    dtypes: frozenset[torch.dtype] = frozenset()
    narrow: Mapping[str, frozenset[torch.dtype]] = field(default_factory=dict, hash=False)
    limited: bool = False
    _serves: set[tuple[str, torch.device, torch.dtype]] = field(default_factory=set, init=False, compare=False)

    def load(self) -> ModuleType:
        """The backend's module."""
        assert self.module is not None
        return importlib.import_module(self.module)

    def unavailable(self) -> str | None:
        """Why the backend cannot run here at all, or None."""
        return None if self.module is None else _unavailable(self.module)

    def serves(self, op: str, device: torch.device, dtype: torch.dtype, H: int, G: int) -> bool:
        """Whether the backend can serve this call; remembered where that does not depend on sizes."""
        call = op, device, dtype
        if call in self._serves:
            return True
        serves = self.refuses(op, device, dtype, H, G) is None
        if serves and not self.limited:
            self._serves.add(call)
        return serves

    def refuses(self, op: str, device: torch.device, dtype: torch.dtype, H: int = 0, G: int = 0) -> str | None:
        """Why the backend cannot serve this call, or None; H, G: 0 where the operation has no such size."""
        if self.module is None:
            return None
        if device.type not in self.devices:
            return f"it serves {_listing(self.devices)} tensors, got one on {device}"
        if op not in self.ops:
            return f"it has no kernel for {op}, only for {_listing(self.ops)}"
        if dtype not in self.dtypes:
            return f"it computes in {_listing(str(d).removeprefix('torch.') for d in self.dtypes)}, got {dtype}"
        reason = self.unavailable()
        return _refuses(self.module, int(H), int(G)) if reason is None and self.limited else reason

    def check(self, op: str, arguments: Any) -> None:
        """Raises an error unless the arguments, a NamedTuple, have one device and one dtype, which `op` takes."""
        check.same_kind(arguments)
        first = arguments[0]
        if first.device.type not in self.devices:
            raise ValueError(
                f"backend {self.name!r} serves {_listing(self.devices)} tensors, got one on {first.device}."
            )
        if first.dtype not in self.dtypes and not self.takes(op, first.dtype):
            raise TypeError(
                f"{arguments._fields[0]} has dtype {first.dtype}, expected one of "
                f"{_listing(str(d) for d in self.dtypes)}."
            )

    def takes(self, op: str, dtype: torch.dtype) -> bool:
        """Whether the kernel takes tensors of this dtype, narrower than the one it computes in."""
        return dtype in self.narrow.get(op, ())


# What was built and which devices there are does not change while a process lives.
@constant_when_compiled
def _unavailable(module: str) -> str | None:
    return _unavailable_once(module)


@functools.cache
def _unavailable_once(module: str) -> str | None:
    return importlib.import_module(module).unavailable()


@constant_when_compiled
def _refuses(module: str, H: int, G: int) -> str | None:
    return importlib.import_module(module).refuses(H, G)


# All operations; a sequence with a leak is an operation of its own.
_OPS = frozenset(
    {
        "gamma",
        "controller_step",
        "aru_sequence",
        "gamma_rnn_sequence",
        "leaky_aru_sequence",
        "leaky_gamma_rnn_sequence",
    }
)

# In the order in which `auto` asks them; the reference serves whatever is left.
BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend(
            "cpu",
            "aru_kernels.cpu",
            ops=_OPS,
            devices=frozenset({"cpu"}),
            dtypes=frozenset({torch.float32, torch.float64}),
        ),
        # One launch for all steps, where it is compiled and the network fits; `triton` serves the rest.
        Backend(
            "cuda",
            "aru_kernels.cuda",
            ops=frozenset({"aru_sequence", "gamma_rnn_sequence"}),
            devices=frozenset({"cuda"}),
            dtypes=frozenset({torch.float32}),
            limited=True,
        ),
        # In Triton's interpreter the kernels serve CPU tensors, in float64 too; bfloat16 it cannot compute with.
        Backend(
            "triton",
            "aru_kernels.triton",
            ops=_OPS,
            devices=frozenset({"cpu" if INTERPRETED else "cuda"}),
            dtypes=frozenset({torch.float32, torch.float64} if INTERPRETED else {torch.float32}),
            narrow=dict.fromkeys(
                ("gamma", "controller_step"),
                frozenset({torch.float16} if INTERPRETED else {torch.float16, torch.bfloat16}),
            ),
            limited=True,
        ),
        Backend("reference"),
    )
}


class _Requested(threading.local):
    # thread-local rather than a ContextVar because torch.compile can trace and guard it
    name: str | None = None


_requested = _Requested()


def _listing(names: Iterator[str] | frozenset[str]) -> str:
    return ", ".join(sorted(names))


def _checked(name: str, source: str) -> str:
    names = ("auto", *BACKENDS)
    if not isinstance(name, str):
        raise TypeError(f"{source} must be a string, got {type(name).__name__}.")
    if name not in names:
        raise ValueError(f"{source} is {check.shown(name)}, expected one of {', '.join(names)}.")
    return name


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Runs everything inside the `with` block, in this thread, on the backend `name`.

    name: "auto" or a key of `backends_info()`.  Raises ValueError for an unknown name; a call that the backend cannot
    serve raises RuntimeError with the reason.
    """
    previous, _requested.name = _requested.name, _checked(name, "backend")
    try:
        yield
    finally:
        _requested.name = previous


def requested_backend() -> str:
    """The name asked for by `use_backend`, else by the variable ARU_KERNELS_BACKEND, else "auto"."""
    name = _requested.name
    return _environment_backend() if name is None else name


def _environment_backend() -> str:
    name = os.environ.get("ARU_KERNELS_BACKEND") or "auto"
    return _checked(name, "the environment variable ARU_KERNELS_BACKEND")


def reference_is_wanted(op: str) -> bool:
    """Whether the reference must run `op`: it was asked for, or kernels have no rule for what the program does.

    Raises RuntimeError if another backend was asked for by name where kernels have no rule.
    """
    return _reference_is_wanted(op, requested_backend())


def _reference_is_wanted(op: str, name: str) -> bool:
    if not torch.compiler.is_compiling() and transformed():
        if name not in ("auto", "reference"):
            raise RuntimeError(
                f"backend {name!r} cannot run {op} under torch.func transforms or forward-mode differentiation; "
                "backends 'auto' and 'reference' can."
            )
        return True
    return name == "reference" or _exporting_to_onnx()


def select(op: str, device: torch.device, dtype: torch.dtype, H: int = 0, G: int = 0) -> str:
    """The backend that runs `op` on tensors of this device and compute dtype, with H neurons and G controller units."""
    name = requested_backend()
    if _reference_is_wanted(op, name):
        return "reference"
    if name == "auto":
        compiling = torch.compiler.is_compiling()
        for backend in BACKENDS.values():
            serves = (
                backend.refuses(op, device, dtype, H, G) is None
                if compiling
                else backend.serves(op, device, dtype, H, G)
            )
            if serves:
                break
        if backend.module is None and not compiling:
            _warn_slow(op, device.type)
        return backend.name
    reason = BACKENDS[name].refuses(op, device, dtype, H, G)
    if reason is not None:
        raise RuntimeError(
            f"backend {name!r} cannot run {op}: {reason}. Backend 'auto' picks one that can; 'reference' always can."
        )
    return name


def _exporting_to_onnx() -> bool:
    """Whether the program is captured for ONNX, which only knows the operations of plain PyTorch."""
    return torch.compiler.is_compiling() and torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export()


def transformed() -> bool:
    """Whether vmap, grad, jvp, ... of torch.func or a forward-mode level is active: kernels have no rule for them."""
    return torch._C._functorch.maybe_current_level() is not None or forward_ad._current_level >= 0


@functools.cache
def _warn_slow(op: str, device_type: str) -> None:
    """Says once why the reference runs on a device for which kernels exist."""
    reasons = [
        f"{backend.name}: {reason}"
        for backend in BACKENDS.values()
        if device_type in backend.devices and op in backend.ops and (reason := backend.unavailable()) is not None
    ]
    if device_type == "cuda" and not reasons:
        known = any(device_type in backend.devices and op in backend.ops for backend in BACKENDS.values())
        missing = "takes these sizes or this dtype" if known else f"for {op} exists"
        reasons = [f"no kernel {missing} (`python -m aru_kernels` lists what each takes)"]
    if reasons:
        warnings.warn(
            f"aru_kernels: no kernel runs {op} on this {'GPU' if device_type == 'cuda' else device_type.upper()}; the "
            f"reference runs instead, some ten times slower ({'; '.join(reasons)}).",
            RuntimeWarning,
            stacklevel=_caller(),
        )


def _caller() -> int:
    """The `stacklevel` that makes a warning of the function that calls this one name the line outside the package."""
    ours = (os.path.dirname(__file__) + os.sep, os.path.dirname(torch.nn.__file__) + os.sep)
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(ours):
        level, frame = level + 1, frame.f_back
    return level


class BackendInfo(NamedTuple):
    """A row of `backends_info()`."""

    name: str
    available: bool
    why_not: str
    device: str
    ops: tuple[str, ...]


def backends_info() -> list[BackendInfo]:
    """One row per backend, in the order of `auto`: available, why not, device, operations that it has a kernel for."""
    rows = []
    for backend in BACKENDS.values():
        reason = backend.unavailable()
        device: Callable[[], str] = (lambda: "any") if backend.module is None else backend.load().device
        rows.append(
            BackendInfo(
                backend.name,
                reason is None,
                reason or "",
                device() if reason is None else "",
                tuple(sorted(backend.ops)) or ("all",),
            )
        )
    return rows
