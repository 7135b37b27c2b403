"""Training on several processes, started by torchrun; one process is a world of its own.

Every process takes its share of each batch; DistributedDataParallel averages the gradients. All processes hold the same
weights and take the same decisions; the first one writes. Batch normalisation (of the convolutional encoder) takes its
statistics from a process's share, so that with it several processes do not take exactly the steps of one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class World:
    """The processes of a run: how many, and which of them this one is."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    def device(self, device: torch.device) -> torch.device:
        """The device of this process: each takes a GPU of its own where "cuda" names none."""
        own_gpu = self.size > 1 and device.type == "cuda" and device.index is None
        return torch.device("cuda", self.local_rank) if own_gpu else device

    def share(self, index: Tensor) -> Tensor:
        """The examples of a batch that this process takes; they may be none."""
        return index[self.rank :: self.size]

    def sum(self, *numbers: float) -> list[float]:
        """Each number summed over the processes."""
        return self._reduce(numbers, "sum")

    def max(self, *numbers: float) -> list[float]:
        """The largest of each number over the processes."""
        return self._reduce(numbers, "max")

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """The processes' tensors, in the order of their ranks."""
        if self.size == 1:
            return [tensor]
        everyones: list[Any] = [None] * self.size
        dist.all_gather_object(everyones, tensor)
        return everyones

    def share_buffers(self, module: nn.Module) -> None:
        """Give every process the first one's buffers (averages of batch normalisation)."""
        if self.size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            dist.barrier()

    def _reduce(self, numbers: tuple[float, ...], how: str) -> list[float]:
        if self.size == 1:
            return list(numbers)
        # Collectives of NCCL take tensors on the GPU alone.
        place = "cuda" if dist.get_backend() == "nccl" else "cpu"
        tensor = torch.tensor(numbers, dtype=torch.float64, device=place)
        dist.all_reduce(tensor, dist.ReduceOp.SUM if how == "sum" else dist.ReduceOp.MAX)
        return tensor.tolist()


def is_first_process() -> bool:
    """Whether this process speaks for the run: the only one, or torchrun's first."""
    return int(os.environ.get("WORLD_SIZE", "1")) == 1 or os.environ.get("RANK") == "0"


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """Join the processes that torchrun started (it sets RANK, WORLD_SIZE and more); alone, a world of one.

    Within another such block it is the world of that one: torchrun's processes can be joined once.

    Args:
        device: "cuda" communicates by NCCL, anything else by Gloo.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    world = World(int(os.environ["RANK"]), size, int(os.environ.get("LOCAL_RANK", "0")))
    if device.type == "cuda":
        torch.cuda.set_device(world.device(device))
    if dist.is_initialized():
        yield world
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield world
    finally:
        dist.destroy_process_group()
