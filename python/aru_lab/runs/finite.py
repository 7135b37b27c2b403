"""Training that fails: numbers that are not finite, and losses far above that of chance."""

from __future__ import annotations

import math
from collections import deque
from pathlib import Path

from torch import nn

from aru_lab.data.sequences import Sequences
from aru_lab.errors import NonFiniteError
from aru_lab.networks.names import ADAPTABLE
from aru_lab.runs.config import TrainConfig

# Number of batches whose mean loss is judged. As many are left out at the start: the loss of an untrained network can
# be 20 times that of chance over hundreds of steps, and falls within ten updates.
WINDOW = 10
# Training is unstable at a mean loss of so many times that of chance.
UNSTABLE = 10.0
# Networks are initialised for inputs of size 1; inputs above this make large states in all of them.
LARGE_INPUT = 100.0


class NotFinite(ArithmeticError):
    """A number of a training step is not finite.

    Args:
        what: name of the number.
        value: the number.
        step: step of the optimizer, from 1.
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


class Watch:
    """Notices, once, that the losses of consecutive batches are far above that of chance.

    Args:
        n_classes: number of classes; chance has the loss log(n_classes).
        chance: the loss of chance where there are no classes.
    """

    def __init__(self, n_classes: int, chance: float | None = None) -> None:
        self.chance = math.log(max(2, n_classes)) if chance is None else chance
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._ignored = 0
        self._told = False

    def add(self, loss: float) -> float | None:
        """Count the loss of a batch; return the mean loss of the last batches the first time that it is unstable."""
        if self._told:
            return None
        if self._ignored < WINDOW:
            self._ignored += 1
            return None
        self._losses.append(loss)
        mean = sum(self._losses) / len(self._losses)
        if len(self._losses) < WINDOW or mean <= UNSTABLE * self.chance:
            return None
        self._told = True
        return mean

    def warning(
        self, mean: float, largest_state: float, epoch: int, step: int, config: TrainConfig, examples: Sequences
    ) -> str:
        """Return the line for the user, which names the loss, the size of the states and a remedy.

        Args:
            mean: result of `add`.
            largest_state: the largest |h|.
            epoch, step: where, from 1.
            config: configuration of the run.
            examples: training examples.
        """
        advice = f"if the loss does not fall, {_remedy(config)}"
        largest = float(abs(examples.x).max())
        if largest > LARGE_INPUT:
            advice = f"scale the inputs, which are up to {largest:.3g}, or, {advice}"
        return (
            f"Warning: training is unstable: the mean loss of {WINDOW} batches up to epoch {epoch}, step {step} is "
            f"{mean:.3g}, chance has {self.chance:.3g}, and |h| is up to {largest_state:.3g}; {advice}."
        )


def _remedy(config: TrainConfig) -> str:
    one_rate = config.learning_rate_scaling == "none" and config.model in ADAPTABLE
    options = ["--learning-rate-scaling fan-in"] if one_rate else []
    options.append(f"a lower --learning-rate (now {config.learning_rate:g})")
    last = f"a lower --clip (now {config.clip})"
    return f"try a new run with {', '.join(options)} or {last}"


def advise(error: NotFinite, epoch: int, config: TrainConfig, examples: Sequences, checkpoint: Path) -> NonFiniteError:
    """Return the error for the user, which names the number, its place and a remedy.

    Args:
        error: what is not finite.
        epoch: the epoch, from 1.
        config: configuration of the run.
        examples: training examples.
        checkpoint: file of the last good checkpoint.
    """
    advice = _remedy(config)
    if error.step == 1 and error.what in ("loss", "norm of the gradient"):  # no weight has changed yet
        largest = float(abs(examples.x).max())
        advice = f"the inputs, of up to {largest:.3g}, are too large for this network: scale them, or {advice}"
    return NonFiniteError(
        f"The {error.what} became {error.value} in epoch {epoch}, step {error.step}; training has stopped and the last "
        f"good checkpoint is {checkpoint}: {advice}."
    )
