"""What the sequences have in common: steps in chunks, and chunks as CUDA graphs."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from aru_kernels.triton._graphs import GRAPHS, Network, Recorded

# Steps of a chunk where the checkpoints do not say: long enough that copying in and out of a graph's buffers is a small
# part of its time.
CHUNK = 32


def chunks(T: int, segment: int, at_once: bool) -> list[slice]:
    """Of T steps: as long as a segment, or all of them in one launch, or as long as a graph."""
    steps = segment if segment > 1 else T if at_once else CHUNK
    return [slice(t, min(t + steps, T)) for t in range(0, T, steps)]


def contiguous(*tensors: Tensor | None) -> Iterator[Tensor | None]:
    """The tensors that there are, contiguous."""
    return (None if x is None else x.contiguous() for x in tensors)


def at(x: Tensor | None, index: int) -> Tensor | None:
    """Step `index` of a tensor that has one slot per step, or one for all."""
    return None if x is None else x[min(index, len(x) - 1)]


def slots(x: Tensor | None, steps: slice) -> Tensor | None:
    """Some steps of a tensor that has one slot per step."""
    return None if x is None else x[steps]


def start_gradient(d_rec: Tensor, d_h_last: Tensor | None) -> None:
    """The gradient of the last h that comes from no step."""
    d_rec.zero_() if d_h_last is None else d_rec.copy_(d_h_last)


def recurrent_gradient(d_xp: Tensor, h0: Tensor, h: Tensor) -> Tensor:
    """dW_hh = Σ_t da_t h_{t-1}^T, as one product over all steps but the first."""
    first = torch.mm(d_xp[0].t(), h0)
    return torch.addmm(first, d_xp[1:].flatten(0, 1).t(), h[:-1].flatten(0, 1))


class Steps:
    """Runs a chunk of time steps: by the graph, if it is of the graph's length, else launch by launch."""

    def __init__(self, network: Network, method: str, length: int, recorded: Recorded | None) -> None:
        self.recorded = recorded
        self._direct = getattr(network, method)
        self._length = length

    def __call__(self, part: slice, arguments: tuple[Tensor | None, ...]) -> None:
        whole = part.stop - part.start == self._length
        (self.recorded if self.recorded is not None and whole else self._direct)(*arguments)


@contextmanager
def graph(
    network: Network,
    method: str,
    example: tuple[Tensor | None, ...],
    written: tuple[int, ...],
    updated: tuple[int, ...] = (),
) -> Iterator[Steps]:
    """What runs chunks like the example, which is a whole one."""
    shapes = tuple(None if x is None else (x.shape, x.dtype) for x in example)
    device = next(x.device for x in example if x is not None)
    length, B = next(x for x in example if x is not None and x.ndim > 2).shape[:2]
    if network.at_once(B):
        yield Steps(network, method, length, None)
        return
    record = functools.partial(Recorded, network, method, example, written, updated)
    with GRAPHS.use((method, network.key, shapes), network, device, record) as recorded:
        yield Steps(network, method, length, recorded)
