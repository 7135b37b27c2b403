"""Programs of a launch that run at the same time, in Triton's interpreter, which runs one after the other.

Every program gets a thread, of which one runs at a time; at each of its atomic operations it hands over to another,
chosen at random.  So what programs do between two of them is one piece here: the emulation finds a meeting that is
missing, that counts wrongly or that not all come to, and reads of what is not yet written; what depends on the order of
two memory accesses inside a piece `races` finds, what a cache keeps neither.
"""

from __future__ import annotations

import functools
import inspect
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import triton.language as tl  # noqa: F401 (the interpreter patches it where it finds it)
from triton.runtime import interpreter

# Handovers without a program's end after which they are taken to wait for ever: far more than any test's meetings take.
PATIENCE = 5_000


class _Abandoned(BaseException):
    """Ends a thread whose launch has failed."""


class _Program:
    def __init__(self, index: tuple[int, int, int], work: Callable[[], None], launch: _Launch) -> None:
        self.index = index
        self.turn = threading.Semaphore(0)
        self.error: BaseException | None = None
        self.alive = True
        self._work, self._launch = work, launch
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.wait()
            self._work()
        except _Abandoned:
            pass
        except BaseException as error:
            self.error = error
        self.alive = False
        self._launch.back.release()

    def wait(self) -> None:
        """Until the launch gives this program its turn."""
        self.turn.acquire()
        if self._launch.failed:
            raise _Abandoned

    def hand_over(self) -> None:
        """Lets another program go on."""
        self._launch.back.release()
        self.wait()

    def join(self) -> None:
        self._thread.join()


class _Launch:
    """All programs of one launch."""

    def __init__(self, chance: random.Random, starved: int | None) -> None:
        self.back = threading.Semaphore(0)
        self.failed = False
        self.running: _Program | None = None
        self._chance, self._starved = chance, starved

    def _choose(self, alive: list[_Program], programs: list[_Program]) -> _Program:
        if self._starved is not None and len(alive) > 1 and self._chance.random() < 0.98:
            alive = [p for p in alive if p is not programs[self._starved % len(programs)]]
        return self._chance.choice(alive)

    def run(self, works: list[tuple[tuple[int, int, int], Callable[[], None]]]) -> None:
        programs = [_Program(index, work, self) for index, work in works]
        handovers = 0
        while alive := [p for p in programs if p.alive]:
            self.running = self._choose(alive, programs)
            interpreter.interpreter_builder.set_grid_idx(*self.running.index)
            self.running.turn.release()
            self.back.acquire()
            handovers = 0 if not self.running.alive else handovers + 1
            error = self.running.error
            if error is None and handovers > PATIENCE:
                error = RuntimeError(f"{len(alive)} of {len(programs)} programs wait for what never comes")
            if error is not None:
                self.failed = True
                for program in alive:
                    program.turn.release()
                for program in programs:
                    program.join()
                raise error


@contextmanager
def simultaneous(seed: int = 0, starved: int | None = None) -> Iterator[list[int]]:
    """Inside the block, kernels with "cooperative" in their name run so; others as ever.

    starved: a program that hardly ever gets its turn.  Yields the number of programs of every such launch.
    """
    builder = interpreter.interpreter_builder
    chance, launches, current = random.Random(seed), [], []
    executor_init, atomic = interpreter.GridExecutor.__init__, type(builder).create_atomic_rmw

    def collecting(function: Callable[..., None]) -> Callable[..., None]:
        works: list[tuple[tuple[int, int, int], Callable[[], None]]] = []

        @functools.wraps(function)
        def collect(**arguments: object) -> None:
            works.append((tuple(builder.grid_idx), functools.partial(function, **arguments)))
            x, y, z = builder.grid_dim
            if len(works) == x * y * z:
                launches.append(len(works))
                current.append(_Launch(chance, starved))
                try:
                    current[-1].run(works)
                finally:
                    current.pop()

        collect.__signature__ = inspect.signature(function)
        return collect

    def init(self: interpreter.GridExecutor, fn: Callable[..., None], *arguments: object) -> None:
        executor_init(self, collecting(fn) if "cooperative" in fn.__name__ else fn, *arguments)

    def then_hand_over(self: object, *arguments: object) -> object:
        result = atomic(self, *arguments)
        if current:
            current[-1].running.hand_over()
        return result

    with (
        mock.patch.object(interpreter.GridExecutor, "__init__", init),
        mock.patch.object(type(builder), "create_atomic_rmw", then_hand_over),
    ):
        yield launches
