"""Order of the examples, learning rate and end of a run, as functions of the position."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from aru_lab.runs.config import TrainConfig

WARMUP_FRACTION = 0.05


# Schedules that follow the validation loss: the factor of the learning rate, and the patience in epochs. The last two
# have the defaults of torch's ReduceLROnPlateau.
PLATEAUS = {"plateau": (0.5, 5), "plateau-paper": (0.1, 10), "plateau-last-batch": (0.1, 10)}


def epoch_order(n: int, seed: int, epoch: int, shuffle: bool = True) -> Tensor:
    """The order of the n training examples in an epoch, a permutation of 0 ... n-1; without `shuffle` as they lie.

    It depends only on the seed and the epoch, so a run can be resumed anywhere.
    """
    if not shuffle:
        return torch.arange(n)
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch + 1) % 2**63)
    return torch.randperm(n, generator=generator)


def scheduled_rate(config: TrainConfig, step: int, n_steps: int) -> float:
    """The learning rate of step `step` (from 0) of `n_steps` under the schedules constant and cosine."""
    if config.schedule == "constant":
        return config.learning_rate
    warmup = max(1, round(WARMUP_FRACTION * n_steps))
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, n_steps - warmup)))


def quality(entry: dict[str, Any]) -> tuple[float, float]:
    """Sort key of epochs: the validation accuracy, then the loss."""
    return entry["validation_accuracy"], -entry["validation_loss"]


def best_epoch(history: list[dict[str, Any]]) -> int:
    """Index of the best epoch of a non-empty history; the first one of equals."""
    return max(range(len(history)), key=lambda k: quality(history[k]))


def is_finished(config: TrainConfig, history: list[dict[str, Any]]) -> bool:
    """Whether a run with this history (one dictionary an epoch) is at its end: all epochs, or no progress for long."""
    if len(history) >= config.epochs:
        return True
    waited = len(history) - 1 - best_epoch(history) if history else 0
    return config.early_stop is not None and waited >= config.early_stop
