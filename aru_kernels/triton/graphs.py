"""CUDA graphs of a number of time steps: the launches of a loop without the time that Python takes for each.

A graph works on its own buffers, which hold a few dozen steps, so that one graph serves every sequence length.  A call
copies its arguments into the buffers, replays the graph and copies the results out, which takes a fraction of a launch
per step.  ARU_TRITON_GRAPHS=0 in the environment switches graphs off.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, SupportsIndex

import torch
from torch import Tensor

if TYPE_CHECKING:
    from typing_extensions import Self  # of typing from Python 3.11 on

# The number of graphs that are kept, the most recently used ones.  A layer needs one for each pass; layers of equal
# sizes share them.
MAX_GRAPHS = 8


class Arguments(Protocol):
    """The arguments of some time steps: a named tuple of tensors, or None for those that are absent."""

    @property
    def _fields(self) -> tuple[str, ...]: ...
    def __iter__(self) -> Iterator[Any]: ...
    def __getitem__(self, index: SupportsIndex, /) -> Any: ...

    @property
    def length(self) -> int:
        """The number of time steps."""

    @property
    def written(self) -> tuple[str, ...]:
        """The fields that the steps write."""

    @property
    def updated(self) -> tuple[str, ...]:
        """Those among the written fields that the steps also read."""


class Network(Protocol):
    """The weights of a network."""

    @property
    def key(self) -> Hashable:
        """What a graph depends on, besides the sizes of its arguments."""

    def copied(self) -> Self:
        """The same network on a copy of its weights."""

    def assign(self, other: Self) -> None:
        """Copies the other network's weights into this one's."""


Launcher = Callable[[Any, Any], None]  # launches time steps: (network, arguments) -> None


class Recorded:
    """`launch(network, arguments)` as a graph, for arguments with the shapes and dtypes of the example."""

    def __init__(self, network: Network, launch: Launcher, example: Arguments) -> None:
        self.network = network.copied()
        kind: Any = type(example)
        self.buffers: Any = kind(
            *(None if x is None else torch.zeros_like(x, memory_format=torch.contiguous_format) for x in example)
        )
        self._length, self._absent = example.length, [x is None for x in example]
        # (position, buffer) of the arguments that are copied in and of those that are copied out
        self._read: list[tuple[int, Tensor]] = []
        self._written: list[tuple[int, Tensor]] = []
        for i, (name, buffer) in enumerate(zip(example._fields, self.buffers, strict=True)):
            if buffer is not None and (name not in example.written or name in example.updated):
                self._read.append((i, buffer))
            if buffer is not None and name in example.written:
                self._written.append((i, buffer))
        # compiles the kernels and loads them, which a capture does not allow
        launch(self.network, self.buffers)
        self._graph = capture(lambda: launch(self.network, self.buffers))

    def serves(self, arguments: Arguments) -> bool:
        """Whether the arguments are as many steps as the graph's, and the same ones are absent."""
        return arguments.length == self._length and [x is None for x in arguments] == self._absent

    def __call__(self, arguments: Arguments) -> None:
        """Does the same as `launch`; an argument that is a buffer of the graph is not copied."""
        for i, buffer in self._read:
            _copy(buffer, arguments[i])
        self._graph.replay()
        for i, buffer in self._written:
            _copy(arguments[i], buffer)


def _copy(to: Tensor, value: Tensor) -> None:
    if to.data_ptr() != value.data_ptr():
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
    """A cache of graphs, by launcher, network, argument sizes and dtypes, device and stream.

    It drops the least recently used graphs.
    """

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
    def use(self, network: Network, launch: Launcher, example: Arguments) -> Iterator[Recorded | None]:
        """Yields a graph of `launch` with the network's weights, for one caller at a time, or None.

        There is no graph if graphs are switched off, if the caller captures a graph itself, and in the first call with
        these sizes, which may be the only one.
        """
        device = next(x.device for x in example if x is not None)
        if not usable(device):
            yield None
            return
        stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
        sizes = tuple(None if x is None else (x.shape, x.dtype) for x in example)
        key = launch, network.key, sizes, device, stream
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
            while len(self._entries) > MAX_GRAPHS:
                self._entries.popitem(last=False)
        with entry.lock:
            entry.calls += 1
            if entry.value is None and entry.calls > 1:
                entry.value = Recorded(network, launch, example)
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
