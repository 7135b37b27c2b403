"""Races in Triton kernels, found in the interpreter, which itself has none: there a program is one thread.

On a GPU it is many, and an element of a tile may lie in several of them, each of which loads it.  Nothing orders what
two threads do to memory but a barrier: `tl.debug_barrier`, or the one that hands the result of an atomic operation to
all threads.  Nothing orders two programs but an atomic operation that releases and one that acquires; one thread makes
it, so it releases what came before the last barrier.  Here every load and store is noted, and two accesses to one
address, of which one stores, must be ordered so.

Barriers that the compiler puts into a product or a sum are not known here, as nothing promises them: a kernel that
stores where it has loaded is reported.  So is a store where several programs have loaded, ordered or not.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from triton.runtime.interpreter import GridExecutor, InterpreterBuilder

import aru_kernels.triton

_KERNELS = Path(aru_kernels.triton.__file__).parent
_NOTED = ("create_masked_load", "create_masked_store", "create_barrier", "create_atomic_rmw")
_NOBODY, _SEVERAL = 0, -1  # who accessed an address; else the program's number plus one


def _place() -> str:
    """Where the kernel makes the access at hand."""
    frame = sys._getframe(1)
    while True:
        file = Path(frame.f_code.co_filename)
        if file.parent == _KERNELS or file.name.startswith("test_"):
            break
        frame = frame.f_back
    return f"{frame.f_code.co_name}, line {frame.f_lineno}"


def _storages(arguments: Iterable[object]) -> Iterator[torch.UntypedStorage]:
    for x in arguments:
        if isinstance(x, torch.Tensor):
            yield x.untyped_storage()
        elif isinstance(x, tuple):
            yield from _storages(x)


class _Accesses:
    """To each byte of an allocation at which an element begins: the program, its time, and where in the kernel."""

    def __init__(self, size: int) -> None:
        self.program, self.time, self.place = (np.zeros(size, np.int32) for _ in range(3))

    def note(self, at: np.ndarray, program: int, time: int, place: int) -> None:
        self.program[at], self.time[at], self.place[at] = program, time, place


class _Launch:
    """The accesses of one launch, and what is ordered before what."""

    def __init__(self, kernel: str, arguments: Iterable[object], found: set[str]) -> None:
        self._kernel, self._found = kernel, found
        sizes = {storage.data_ptr(): storage.nbytes() for storage in _storages(arguments)}
        self._starts = sorted(sizes)
        self._loads = [_Accesses(sizes[start]) for start in self._starts]
        self._stores = [_Accesses(sizes[start]) for start in self._starts]
        self._places: dict[str, int] = {}
        # of each program: its time, that of its last barrier, and up to which time of each other it knows
        self._time: dict[int, int] = {}
        self._barrier: dict[int, int] = {}
        self._knows: dict[int, dict[int, int]] = {}
        self._released: dict[int, dict[int, int]] = {}

    def barrier(self, program: int) -> None:
        self._barrier[program] = self._time[program] = self._time.get(program, 1) + 1

    def atomic(self, program: int, addresses: np.ndarray, semantics: str) -> None:
        known = self._knows.setdefault(program, {})
        for address in addresses.ravel().tolist():
            released = self._released.setdefault(address, {})
            if "RELEASE" in semantics:
                of_own = self._barrier.get(program, 1) - 1
                for other, time in [*known.items(), (program, of_own)]:
                    released[other] = max(released.get(other, 0), time)
            if "ACQUIRE" in semantics:
                for other, time in released.items():
                    known[other] = max(known.get(other, 0), time)
        if "ACQUIRE" in semantics:
            self.barrier(program)

    def _unordered(self, program: int, earlier: _Accesses, at: np.ndarray) -> np.ndarray:
        """Which accesses of `at` nothing orders after the earlier ones."""
        who, time = earlier.program[at], earlier.time[at]
        limit = np.zeros_like(time)
        for other, known in self._knows.get(program, {}).items():
            limit[who == other] = known
        limit[who == program] = self._barrier.get(program, 1) - 1
        return (who != _NOBODY) & (time > limit)

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
        place, time = _place(), self._time.setdefault(program, 1)
        number = self._places.setdefault(place, len(self._places))
        if store and counts.max() > 1:
            self._found.add(f"{self._kernel}: {place} stores two elements in one place")
        what = "stores" if store else "loads"
        if (wrong := self._unordered(program, stores, at)).any():
            self._report(stores, at[wrong], what, place, "stores")
        unordered = self._unordered(program, loads, at)
        if store:
            if unordered.any():
                self._report(loads, at[unordered], what, place, "loads")
            stores.note(at, program, time, number)
        else:
            others = unordered & (loads.program[at] != program)
            loads.note(at[~others], program, time, number)
            loads.note(at[others], _SEVERAL, np.iinfo(np.int32).max, number)


@contextmanager
def races() -> Iterator[set[str]]:
    """Yields a set, in which the races of all launches inside the block are then found, as sentences."""
    found: set[str] = set()
    current: list[_Launch] = []
    init_arguments = GridExecutor._init_args_hst
    then = {name: getattr(InterpreterBuilder, name) for name in _NOTED}

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

    def atomic(self, operation, pointer, value, mask, semantics, scope):
        # before: the operation may give way to another program
        current[0].atomic(program(self), pointer.data[mask.data], semantics.name)
        return then["create_atomic_rmw"](self, operation, pointer, value, mask, semantics, scope)

    noting = dict(zip(_NOTED, (load, store, barrier, atomic), strict=True))
    with (
        mock.patch.object(GridExecutor, "_init_args_hst", arguments),
        mock.patch.multiple(InterpreterBuilder, **noting),
    ):
        yield found
