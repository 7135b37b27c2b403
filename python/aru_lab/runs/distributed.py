"""Training on several processes, started by torchrun; a single process forms a world of size 1.

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

from aru_lab.errors import ConfigError, LabError, MachineError, as_lab_error
from aru_lab.files import reason


@dataclass(frozen=True)
class World:
    """The processes of a run: their number, and the rank of this one."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    def device(self, device: torch.device) -> torch.device:
        """The device of this process; "cuda" without an index gives each process its own GPU."""
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

    @contextmanager
    def together(self) -> Iterator[None]:
        """Leave the block together: if one process fails, all processes raise its error.

        Without this the others would wait for the failed one in the next collective, or end with errors about it.

        Raises:
            LabError: the failure of the first process that has one.
        """
        if self.size == 1:
            yield
            return
        failure: LabError | None = None
        try:
            yield
        except Exception as error:
            failure = as_lab_error(error)
            if failure is None:
                raise
        everyones: list[Any] = [None] * self.size
        dist.all_gather_object(everyones, failure and (type(failure), str(failure)))
        for kind, text in filter(None, everyones):
            raise kind(text) from failure

    def _reduce(self, numbers: tuple[float, ...], how: str) -> list[float]:
        if self.size == 1:
            return list(numbers)
        # Collectives of NCCL accept only tensors on the GPU.
        place = "cuda" if dist.get_backend() == "nccl" else "cpu"
        tensor = torch.tensor(numbers, dtype=torch.float64, device=place)
        dist.all_reduce(tensor, dist.ReduceOp.SUM if how == "sum" else dist.ReduceOp.MAX)
        return tensor.tolist()


def is_first_process() -> bool:
    """Whether this process speaks for the run: the only one, or torchrun's first."""
    return _from_environment().is_first


def _from_environment() -> World:
    """The world that torchrun describes in environment variables.

    Raises:
        ConfigError: one is missing or not a number.
    """
    found = {}
    for name, default in (("WORLD_SIZE", 1), ("RANK", None), ("LOCAL_RANK", 0)):
        text = os.environ.get(name)
        if name == "RANK" and found["WORLD_SIZE"] == 1:
            text = "0"  # a single process is the first one, whoever has set the variable
        found[name] = default if text is None else int(text) if text.isdecimal() else None
        if found[name] is None or (name == "WORLD_SIZE" and found[name] < 1):
            what = "is not set" if text is None else f"is {text!r}"
            raise ConfigError(
                f"The environment variable {name} {what}, expected a whole number as torchrun sets it; start "
                "several processes with `torchrun --nproc-per-node N -m aru_lab train ...`, or unset WORLD_SIZE."
            )
    return World(found["RANK"], found["WORLD_SIZE"], found["LOCAL_RANK"])


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """Join the processes that torchrun started (it sets RANK, WORLD_SIZE and more).

    A single process forms a world of size 1. A nested block gets the world of the outer one, because processes can be
    joined only once.

    Args:
        device: "cuda" communicates by NCCL, anything else by Gloo.

    Raises:
        ConfigError: the environment variables of torchrun are not set as it sets them.
        MachineError: the processes can't reach each other.
    """
    world = _from_environment()
    if world.size == 1:
        yield World()
        return
    if device.type == "cuda":
        torch.cuda.set_device(world.device(device))
    if dist.is_initialized():
        yield world
        return
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        raise MachineError(
            f"The {world.size} processes can't be joined ({reason(error)}); start them with `torchrun --nproc-per-node "
            f"{world.size} -m aru_lab train ...`."
        ) from error
    try:
        yield world
    finally:
        dist.destroy_process_group()
