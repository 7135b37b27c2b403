"""Numbers that are not finite, in training."""

from __future__ import annotations

import math
from pathlib import Path

from torch import nn

from aru_lab.data.sequences import Sequences
from aru_lab.errors import NonFiniteError
from aru_lab.runs.config import TrainConfig


class NotFinite(ArithmeticError):
    """A number of a training step is not finite.

    Args:
        what: name of the number.
        value: the number.
        step: step of the optimiser, from 1.
    """

    def __init__(self, what: str, value: float, step: int) -> None:
        super().__init__(what, value, step)
        self.what, self.value, self.step = what, value, step


def check_number(what: str, value: float, step: int) -> None:
    """Raise NotFinite unless `value` is finite; arguments as in `NotFinite`."""
    if not math.isfinite(value):
        raise NotFinite(what, value, step)


def check_weights(model: nn.Module, step: int) -> None:
    """Raise NotFinite unless all weights are finite; `step` is the next step, from 1."""
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise NotFinite(f"weight {name}", math.nan, step)


def advise(error: NotFinite, epoch: int, config: TrainConfig, examples: Sequences, checkpoint: Path) -> NonFiniteError:
    """Return the error for the user, which names the number, its place and a remedy.

    Args:
        error: what is not finite.
        epoch: the epoch, from 1.
        config: configuration of the run.
        examples: training examples.
        checkpoint: file of the last good checkpoint.
    """
    advice = (
        f"try a new run with a lower --learning-rate (now {config.learning_rate:g}) or a lower --clip (now "
        f"{config.clip})"
    )
    if error.step == 1 and error.what in ("loss", "norm of the gradient"):  # no weight has changed yet
        largest = float(abs(examples.x).max())
        advice = f"the inputs, of up to {largest:.3g}, are too large for this network: scale them, or {advice}"
    return NonFiniteError(
        f"The {error.what} became {error.value} in epoch {epoch}, step {error.step}; training has stopped and the last "
        f"good checkpoint is {checkpoint}: {advice}."
    )
