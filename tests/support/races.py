"""Finds races in Triton kernels under the interpreter, which runs a program as one thread and so shows none itself.

On a GPU a program is many threads, and one element of a tile may lie in several of them, each of which loads it.  Only
a barrier (`tl.debug_barrier`) orders two threads' accesses to memory, and nothing orders those of two programs.  Every
load and store is recorded here; two accesses to one address, at least one of them a store, must come from one program
and have a barrier between them.

The detector does not know barriers that the compiler puts into products and sums, because nothing guarantees them.  A
kernel that stores where it has loaded is therefore reported.  Atomic operations are reported, too: their order, and
with it the bits of a sum, would change from run to run.
"""

from __future__ import annotations

import functools
import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from triton.runtime.interpreter import GridExecutor, InterpreterBuilder

from aru_kernels.triton import kernels

_KERNELS = Path(kernels.__file__).parent
_NOTED = ("create_masked_load", "create_masked_store", "create_barrier")
_ATOMIC = [name for name in vars(InterpreterBuilder) if name.startswith("create_atomic_")]
_NOBODY, _SEVERAL = 0, -1  # who accessed an address; otherwise the program's number plus one


@functools.cache
def _has_kernels(file: str) -> bool:
    return Path(file).parent == _KERNELS or Path(file).name.startswith("test_")


def _place() -> str:
    """The kernel's line that makes the current access."""
    frame = sys._getframe(1)
    while not _has_kernels(frame.f_code.co_filename):
        frame = frame.f_back
    return f"{frame.f_code.co_name}, line {frame.f_lineno}"


def _storages(arguments: Iterable[object]) -> Iterator[torch.UntypedStorage]:
    for x in arguments:
        if isinstance(x, torch.Tensor):
            yield x.untyped_storage()
        elif isinstance(x, tuple):
            yield from _storages(x)


class _Accesses:
    """The last access to each byte of an allocation: its program, that program's time, and its line in the kernel."""

    def __init__(self, size: int) -> None:
        self.program, self.time, self.place = (np.zeros(size, np.int32) for _ in range(3))

    def note(self, at: np.ndarray, program: int, time: int, place: int) -> None:
        self.program[at], self.time[at], self.place[at] = program, time, place


class _Launch:
    """The accesses of one launch, and the barriers that order them."""

    def __init__(self, kernel: str, arguments: Iterable[object], found: set[str]) -> None:
        self._kernel, self._found = kernel, found
        sizes = {storage.data_ptr(): storage.nbytes() for storage in _storages(arguments)}
        self._starts = sorted(sizes)
        self._loads = [_Accesses(sizes[start]) for start in self._starts]
        self._stores = [_Accesses(sizes[start]) for start in self._starts]
        self._places: dict[str, int] = {}
        self._barriers: dict[int, int] = {}  # a program's time: the number of barriers it has passed

    def barrier(self, program: int) -> None:
        self._barriers[program] = self._barriers.get(program, 0) + 1

    def atomic(self) -> None:
        self._found.add(f"{self._kernel}: {_place()} makes an atomic operation")

    def _unordered(self, program: int, earlier: _Accesses, at: np.ndarray) -> np.ndarray:
        """Which accesses at `at` nothing orders after the earlier ones."""
        who, before = earlier.program[at], earlier.time[at] < self._barriers.get(program, 0)
        return (who != _NOBODY) & ~((who == program) & before)

    def _report(self, earlier: _Accesses, at: np.ndarray, what: str, place: str, did: str) -> None:
        names = {number: name for name, number in self._places.items()}
        for number in np.unique(earlier.place[at]).tolist():
            self._found.add(f"{self._kernel}: {place} {what} where {names[number]} {did}, and nothing orders them")

    def access(self, program: int, addresses: np.ndarray, store: bool) -> None:
        if not addresses.size:
            return
        index = bisect_right(self._starts, int(addresses.min())) - 1
        at, counts = np.unique(addresses - self._starts[index], return_counts=True)
        at, loads, stores = at.astype(np.int64), self._loads[index], self._stores[index]
        place, time = _place(), self._barriers.get(program, 0)
        number = self._places.setdefault(place, len(self._places))
        if store and counts.max() > 1:
            self._found.add(f"{self._kernel}: {place} stores two elements in one place")
        what = "stores" if store else "loads"
        if (wrong := self._unordered(program, stores, at)).any():
            self._report(stores, at[wrong], what, place, "stores")
        if store:
            if (wrong := self._unordered(program, loads, at)).any():
                self._report(loads, at[wrong], what, place, "loads")
            stores.note(at, program, time, number)
        else:
            others = (loads.program[at] != _NOBODY) & (loads.program[at] != program)
            loads.note(at[~others], program, time, number)
            loads.note(at[others], _SEVERAL, time, number)


@contextmanager
def races() -> Iterator[set[str]]:
    """Yields a set to which every launch inside the block adds the races it finds, each as a sentence."""
    found: set[str] = set()
    current: list[_Launch] = []
    init_arguments = GridExecutor._init_args_hst
    then = {name: getattr(InterpreterBuilder, name) for name in (*_NOTED, *_ATOMIC)}

    def program(builder: InterpreterBuilder) -> int:
        (x, y, z), (_, height, depth) = builder.grid_idx, builder.grid_dim
        return 1 + (x * height + y) * depth + z

    def arguments(self: GridExecutor, *given: object) -> tuple[list[object], dict[str, object]]:
        here, named = init_arguments(self, *given)
        current[:] = [_Launch(self.fn.__name__, (*here, *named.values()), found)]
        return here, named

    def load(self, pointers, mask, *rest):
        current[0].access(program(self), pointers.data[mask.data], False)
        return then["create_masked_load"](self, pointers, mask, *rest)

    def store(self, pointers, value, mask, *rest):
        current[0].access(program(self), pointers.data[mask.data], True)
        return then["create_masked_store"](self, pointers, value, mask, *rest)

    def barrier(self):
        current[0].barrier(program(self))
        return then["create_barrier"](self)

    def atomic(name):
        def operation(self, *arguments):
            current[0].atomic()
            return then[name](self, *arguments)

        return operation

    noting = dict(zip(_NOTED, (load, store, barrier), strict=True)) | {name: atomic(name) for name in _ATOMIC}
    with (
        mock.patch.object(GridExecutor, "_init_args_hst", arguments),
        mock.patch.multiple(InterpreterBuilder, **noting),
    ):
        yield found
