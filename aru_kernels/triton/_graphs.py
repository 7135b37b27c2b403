"""CUDA graphs of a number of time steps: the launches of a loop without the time that Python takes for each.

A graph works on buffers of its own, a few dozen steps long, so that one graph serves every sequence length: arguments
are copied in, the graph is replayed, results are copied out, which costs a fraction of a launch per step.
ARU_TRITON_GRAPHS=0 in the environment switches graphs off.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

# Graphs that are held, the most recently used; a layer needs one for each pass, layers of equal sizes share them.
MAX_GRAPHS = 8


class Network(Protocol):
    """What launches time steps: it has weights that a graph needs copies of."""

    def at_once(self, B: int) -> bool:
        """Whether it takes any number of steps in one launch, so that a graph has nothing to offer."""

    def copied(self) -> Network:
        """The same network on weights of its own."""

    def assign(self, other: Network) -> None:
        """Takes over the other's weights."""


class Recorded:
    """A method of a network, `steps(*arguments)`, as a graph.

    arguments: examples; written: positions of those that `steps` writes.  Other arguments are read, and those written
    are read too if they are among `updated`.
    """

    def __init__(
        self,
        network: Network,
        method: str,
        arguments: tuple[Tensor | None, ...],
        written: tuple[int, ...],
        updated: tuple[int, ...] = (),
    ) -> None:
        self.network = network.copied()
        self.buffers = tuple(
            None if x is None else torch.zeros_like(x, memory_format=torch.contiguous_format) for x in arguments
        )
        self.written = written
        self.read = tuple(i for i in range(len(arguments)) if i not in written or i in updated)
        steps = getattr(self.network, method)
        # compiles and loads what a capture may not
        steps(*self.buffers)
        self.graph = capture(lambda: steps(*self.buffers))

    def __call__(self, *arguments: Tensor | None) -> None:
        """The same as `steps(*arguments)`; an argument that is a buffer of the graph is not copied."""
        for i in self.read:
            self._copy(self.buffers[i], arguments[i])
        self.graph.replay()
        for i in self.written:
            self._copy(arguments[i], self.buffers[i])

    @staticmethod
    def _copy(to: Tensor | None, value: Tensor | None) -> None:
        if to is not None and to.data_ptr() != value.data_ptr():
            to.copy_(value)


def capture(work: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """A graph of what `work` launches."""
    graph = torch.cuda.CUDAGraph()
    # thread_local: another thread's allocations do not end the capture
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        work()
    return graph


class _Entry:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.value: Recorded | None = None
        self.calls = 0


class Graphs:
    """Graphs by what they depend on: sizes, dtypes, precision, device and stream; the least recently used go first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return sum(entry.value is not None for entry in self._entries.values())

    def clear(self) -> None:
        """Frees all graphs and their buffers."""
        with self._lock:
            self._entries.clear()

    @contextmanager
    def use(
        self, key: Hashable, network: Network, device: torch.device, record: Callable[[], Recorded]
    ) -> Iterator[Recorded | None]:
        """What `record` made for this key, with the network's weights, for one caller at a time; None without a graph.

        That is: graphs are switched off, the caller records a graph already, or this is the key's first call, which may
        be its only one.
        """
        if not usable(device):
            yield None
            return
        key = (key, device, torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0)
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
            while len(self._entries) > MAX_GRAPHS:
                self._entries.popitem(last=False)
        with entry.lock:
            entry.calls += 1
            if entry.value is None and entry.calls > 1:
                entry.value = record()
            if entry.value is not None:
                entry.value.network.assign(network)
            yield entry.value


def usable(device: torch.device) -> bool:
    """Whether a graph may be recorded or replayed now."""
    return (
        device.type == "cuda"
        and os.environ.get("ARU_TRITON_GRAPHS", "1") != "0"
        and not torch.cuda.is_current_stream_capturing()
    )


GRAPHS = Graphs()
