"""Progress of a run, and the metrics of its epochs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from aru_lab.runs.evaluation import Score
from aru_lab.runs.losses import quality_of
from aru_lab.runs.schedules import quality


@dataclass
class Position:
    """Progress of a run: counts of finished epochs, batches and steps, and sums over the present epoch."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    n_correct: int = 0
    n_seen: int = 0
    norm_sum: float = 0.0
    n_norms: int = 0
    seconds: float = 0.0
    best_accuracy: float = -math.inf
    best_loss: float = math.inf
    history: list[dict[str, Any]] = field(default_factory=list)

    def add(self, loss: float, n_correct: int, n: int, norm: float) -> None:
        """Count a step: the mean loss and the right answers of `n` examples, and the norm of the gradient."""
        self.loss_sum += loss * n
        self.n_correct += n_correct
        self.n_seen += n
        self.norm_sum += norm
        self.n_norms += 1

    def finish_epoch(
        self,
        validation: Score,
        learning_rate: float,
        n_sequences: int,
        spread: float | None = None,
        gamma: dict[str, float] | None = None,
    ) -> tuple[dict[str, Any], bool]:
        """End the present epoch and begin the next.

        Args:
            validation: score on the validation examples.
            learning_rate: of the last step.
            n_sequences: number of training examples.
            spread: `losses.spread_of` the training targets.
            gamma: `Learner.gamma_metrics`.

        Returns:
            The metrics of the epoch, which are the last entry of `history`, and whether it is the best epoch so far.
        """
        entry = {
            "epoch": self.epoch + 1,
            "step": self.step,
            "learning_rate": learning_rate,
            "train_loss": self.loss_sum / self.n_seen,
            "train_accuracy": quality_of(self.loss_sum / self.n_seen, self.n_correct, self.n_seen, spread),
            "validation_loss": validation.loss,
            "validation_accuracy": validation.accuracy,
            "seconds": self.seconds,
            "sequences_per_second": n_sequences / self.seconds,
            **({"gradient_norm": self.norm_sum / self.n_norms} if self.n_norms else {}),
            **(gamma or {}),
        }
        is_best = quality(entry) > (self.best_accuracy, -self.best_loss)
        if is_best:
            self.best_accuracy, self.best_loss = validation.accuracy, validation.loss
        self.history.append(entry)
        self.epoch += 1
        self.batch = self.n_correct = self.n_seen = self.n_norms = 0
        self.loss_sum = self.norm_sum = self.seconds = 0.0
        return entry, is_best
