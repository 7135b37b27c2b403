"""Transfer: images are rotated by 45°, and only the parameters that determine n and s are retrained.

Half of the test images, which the network never saw, are rotated and trained on (the last tenth of them validates);
the other half tests. In the static networks n and s are parameters; in the ARUN the controller computes
them, so the whole controller is retrained.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from aru_lab.data.tasks import TASKS
from aru_lab.errors import ConfigError
from aru_lab.experiments.processes import Report
from aru_lab.experiments.sweep import complete
from aru_lab.networks.names import ADAPTABLE
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.evaluation import Score
from aru_lab.runs.folder import RunFolder
from aru_lab.runs.scores import known_scores


@dataclass(frozen=True)
class Retraining:
    """Settings of the retraining on rotated images; all other settings are those of the run.

    All retrained parameters learn at one rate (`learning_rate_scaling` "none"): the two rates below are chosen for what
    is retrained, which by fan-in would learn at a tenth of them or less.
    """

    epochs: int = 30
    """Passes through the rotated training images."""

    learning_rate: float = 1e-2
    """Learning rate of n and s, which tolerate a larger one than the weights."""

    controller_learning_rate: float = 1e-3
    """Learning rate of the ARUN's controller, whose recurrence amplifies each step."""


@dataclass(frozen=True)
class TransferResult:
    """Scores on the held-out half of the test images: upright, rotated, and rotated after retraining n and s."""

    run: Path
    model: str
    before: Score
    rotated: Score
    retrained: Score


def transfer(run: Path, retraining: Retraining | None = None, report: Report = lambda fraction: None) -> TransferResult:
    """Retrain n and s of a run on rotated images; the new run is in RUN/transfer, and resumes where it was killed.

    Args:
        run: a run of an adaptive or gamma network on a task that has a rotated twin.
        retraining: epochs and learning rate.
        report: called with the fraction that is done.

    Raises:
        ConfigError: the run's model has no n and s, or its task has no rotated twin.
        RunError, DataError, NonFiniteError: as in `training.train`.
    """
    run, retraining = Path(run), retraining or Retraining()
    config, _ = RunFolder(run).read_config()
    retrained = retraining_config(config, run, retraining)
    upright = f"upright-{config.task}"
    (before,) = known_scores(run, [None], task=upright)
    (rotated,) = known_scores(run, [None], task=retrained.task)
    finished = complete(retrained, report)
    return TransferResult(run, config.model, before, rotated, finished.clean)


def transfer_item(item: tuple[Path, Retraining], report: Report) -> TransferResult:
    """`transfer` of one (run, retraining), as `processes.run_jobs` calls it."""
    return transfer(*item, report)


def retraining_config(config: TrainConfig, run: Path, retraining: Retraining) -> TrainConfig:
    """The configuration that retrains n and s of the run `run` of configuration `config` on rotated images.

    Raises:
        ConfigError: as in `transfer`.
    """
    if config.model not in ADAPTABLE:
        raise ConfigError(f"run: got a {config.model} in {run}, which has no n and s; expected {', '.join(ADAPTABLE)}.")
    rotated = f"rotated-{config.task}"
    if rotated not in TASKS:
        have = ", ".join(name.removeprefix("rotated-") for name in TASKS if name.startswith("rotated-"))
        raise ConfigError(f"run: got a run of {config.task} in {run}, expected one of {have}.")
    return dataclasses.replace(
        config,
        task=rotated,
        initial_from=run,
        controller_from=None,
        freeze=("recurrent", "readout"),
        epochs=retraining.epochs,
        learning_rate=(retraining.controller_learning_rate if config.model == "arun" else retraining.learning_rate),
        learning_rate_scaling="none",
        schedule="cosine",
        early_stop=None,
        perturb=(),
        subset=None,
        validation_subset=None,
        output=run / "transfer",
    )
