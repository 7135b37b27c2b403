"""The loss of a network's outputs: cross-entropy for classes, mean squared error for numbers; penalties; and R²."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


def loss_of(outputs: Tensor, y: Tensor, reduction: str = "mean", weights: Tensor | None = None) -> Tensor:
    """The loss of outputs (B, O): cross-entropy in nats, or the mean squared error of the O numbers.

    Args:
        outputs: logits of the classes, or numbers.
        y: indices of classes, int64 of shape (B,), or numbers (B, O).
        reduction: "mean" or "sum" over the targets.
        weights: factor of the loss of each class, (O,), or None.
    """
    if not y.is_floating_point() and weights is None:
        return nn.functional.cross_entropy(outputs, y, reduction=reduction)
    if not y.is_floating_point():  # "mean" would divide by the weights of the batch
        loss = nn.functional.cross_entropy(outputs, y, weights, reduction="sum")
        return loss / len(y) if reduction == "mean" else loss
    loss = nn.functional.mse_loss(outputs, y)
    return loss if reduction == "mean" else loss * len(y)


def rate_penalty(states: Tensor, lengths: Tensor | None = None) -> Tensor:
    """The mean over the sequences of h², itself the mean over the neurons and the real steps of a sequence.

    Args:
        states: h, (T, B, H).
        lengths: number of steps of each sequence, int64 of shape (B,), at least 1; None: all have T.
    """
    squares = states.square().mean(dim=2)
    if lengths is None:
        return squares.mean()
    lengths = lengths.to(states.device)
    real = torch.arange(len(states), device=states.device)[:, None] < lengths
    return (torch.where(real, squares, 0).sum(dim=0) / lengths).mean()


def balanced_weights(y: np.ndarray, n_classes: int) -> np.ndarray:
    """The factor of each class, (n_classes,), with which all classes count the same and the mean over y is 1."""
    counts = np.bincount(y, minlength=n_classes)
    return len(y) / (np.count_nonzero(counts) * np.maximum(counts, 1))


def n_right(outputs: Tensor, y: Tensor) -> Tensor:
    """The number of right answers, a tensor of one number; 0 where y is of numbers. Arguments as in `loss_of`."""
    if y.is_floating_point():
        return torch.zeros((), dtype=torch.long, device=y.device)
    return (outputs.argmax(dim=1) == y).sum()


def spread_of(y: np.ndarray) -> float | None:
    """The mean squared error of predicting the mean of numbers y (N, O); None for classes."""
    return float(y.var(axis=0, dtype=np.float64).mean()) if y.dtype.kind == "f" else None


def loss_of_zero(y: np.ndarray) -> float | None:
    """The mean squared error of answering 0 to numbers y (N, O), with which training begins; None for classes."""
    return float(max((y.astype(np.float64) ** 2).mean(), np.finfo(np.float32).tiny)) if y.dtype.kind == "f" else None


def quality_of(loss: float, right: float, n: int, spread: float | None) -> float:
    """The accuracy, or R² = 1 - loss / spread for numbers (0 where all targets are equal).

    Args:
        loss: mean loss.
        right: number of right answers.
        n: number of targets.
        spread: `spread_of` the targets.
    """
    if spread is None:
        return right / n
    return 1 - loss / spread if spread > 0 else 0.0
