"""The two ways to run time steps: all steps of a chunk in one launch, or step by step, in CUDA graphs.

A call chooses its way once, by its sizes.  Either way cuts the steps into chunks; between two chunks the state is in
memory, where it can be kept as a checkpoint.  `persistent.py` and `stepwise.py` say how a chunk of each network runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Generic, TypeVar, overload

import torch
from torch import Tensor

from aru_kernels.triton.graphs import GRAPHS, Arguments, Launcher, Network, Recorded

# Steps of a chunk that runs step by step, if there are no checkpoints: enough that copies to and from a graph's buffers
# take a small part of its time.
CHUNK = 32

AnyNetwork = TypeVar("AnyNetwork", bound=Network)


class Chunks:
    """Runs chunks of time steps: by a graph if there is one and it serves the chunk, otherwise by launches."""

    def __init__(self, network: Network, launch: Launcher, example: Arguments, recorded: Recorded | None) -> None:
        self._network, self._launch = network, launch
        self._example, self._recorded = example, recorded

    def __call__(self, arguments: Arguments) -> None:
        """Runs a chunk."""
        if self._recorded is not None and self._recorded.serves(arguments):
            self._recorded(arguments)
        else:
            self._launch(self._network, arguments)

    def buffer(self, name: str) -> Tensor:
        """Uninitialised memory for an argument that stays from chunk to chunk: the graph's buffer, or a new tensor.

        It has the shape of the example's argument, which needs no memory of its own (see `sized`).
        """
        if self._recorded is not None:
            return getattr(self._recorded.buffers, name)
        return torch.empty_like(getattr(self._example, name), memory_format=torch.contiguous_format)

    def zeros(self, name: str) -> Tensor:
        """The same as `buffer`, with zeros."""
        if self._recorded is not None:
            return getattr(self._recorded.buffers, name).zero_()
        return torch.zeros_like(getattr(self._example, name), memory_format=torch.contiguous_format)

    def result(self, buffer: Tensor) -> Tensor:
        """The contents of a `buffer`, to be returned to the caller: a copy if the memory is the graph's."""
        return buffer if self._recorded is None else buffer.clone()


class AtOnce(Generic[AnyNetwork]):
    """All steps of a chunk in one launch."""

    def __init__(self, network: AnyNetwork) -> None:
        self.network = network

    def chunks(self, T: int, segment: int) -> list[slice]:
        """The steps of each chunk: a segment, or all T where there are no checkpoints."""
        return _cut(T, segment if segment > 1 else T)

    def running(self, launch: Launcher, example: Arguments) -> AbstractContextManager[Chunks]:
        """What runs chunks by `launch`."""
        return nullcontext(Chunks(self.network, launch, example, None))


class StepByStep(Generic[AnyNetwork]):
    """A launch or two for every step, in CUDA graphs."""

    def __init__(self, network: AnyNetwork) -> None:
        self.network = network

    def chunks(self, T: int, segment: int) -> list[slice]:
        """The steps of each chunk: a segment, or CHUNK of them where there are no checkpoints."""
        return _cut(T, segment if segment > 1 else CHUNK)

    @contextmanager
    def running(self, launch: Launcher, example: Arguments) -> Iterator[Chunks]:
        """What runs chunks by `launch` or a graph of it; the example is a chunk of full length."""
        with GRAPHS.use(self.network, launch, example) as recorded:
            yield Chunks(self.network, launch, example, recorded)


def _cut(T: int, length: int) -> list[slice]:
    return [slice(t, min(t + length, T)) for t in range(0, T, length)]


def sized(like: Tensor, *sizes: int, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of these sizes with the memory of one element, on the device of `like`, with its dtype by default."""
    return like.new_empty((), dtype=dtype).expand(sizes)


@overload
def at(x: Tensor, step: int) -> Tensor: ...
@overload
def at(x: Tensor | None, step: int) -> Tensor | None: ...
def at(x: Tensor | None, step: int) -> Tensor | None:
    """One step of a tensor that has a slot for every step, or one slot for all."""
    return None if x is None else x[min(step, len(x) - 1)]


def slots(x: Tensor | None, steps: slice) -> Tensor | None:
    """Some steps of a tensor that has a slot for every step."""
    return None if x is None else x[steps]


def start_gradient(d_rec: Tensor, d_h_last: Tensor | None) -> None:
    """Sets d_rec to the part of the last h's gradient that comes from no step, 0 where there is none."""
    d_rec.zero_() if d_h_last is None else d_rec.copy_(d_h_last)


def over_batch(sums: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The gradient of a parameter of this shape, which broadcasts to (H,), from its terms (N, H), added in float64."""
    return sums.sum(0, dtype=torch.float64).sum_to_size(shape).to(sums.dtype)
