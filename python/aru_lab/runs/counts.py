"""Numbers of one training step: loss, right answers, and the norm of the gradient."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from aru_lab.runs.distributed import World


class Counts:
    """Loss and right answers of one step's examples, on their device until the end of the step.

    Reading a number from a GPU waits for the GPU. Numbers are read once a step, while the next step runs.
    """

    def __init__(self, n: int, take_part: bool, step: int) -> None:
        self.n, self.take_part, self.step = n, take_part, step
        self.norm = torch.tensor(math.nan)
        self._losses: list[Tensor] = []
        self._right: list[Tensor] = []
        self._sizes: list[int] = []
        self._numbers = torch.empty(0)
        self._arrived: torch.cuda.Event | None = None

    def add(self, loss: Tensor, right: Tensor, size: int) -> None:
        """The mean loss and the right answers of `size` examples."""
        self._losses.append(loss)
        self._right.append(right)
        self._sizes.append(size)

    def send(self) -> None:
        """Begin to bring the numbers to the host, behind the work of this step and before that of the next."""
        numbers = torch.stack([x.double() for x in (*self._losses, *self._right, self.norm)])
        if numbers.is_cuda:
            self._numbers = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            self._numbers.copy_(numbers, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(numbers.device))
        else:
            self._numbers = numbers

    def result(self, world: World) -> tuple[float, int, float]:
        """Mean loss and right answers of all processes, and the norm of the gradient, as soon as they have arrived."""
        if self._arrived is not None:
            self._arrived.synchronize()
        numbers, k = self._numbers.tolist(), len(self._sizes)
        loss_sum = sum(self.take_part * loss * size for loss, size in zip(numbers[:k], self._sizes, strict=True))
        loss_sum, n_right = world.sum(loss_sum, self.take_part * sum(numbers[k:-1]))
        return loss_sum / self.n, int(n_right), numbers[-1]
