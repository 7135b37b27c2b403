"""Transfer: images are rotated by 45°, and only the parameters that determine n and s are retrained.

Half of the test images, which the network never saw, are rotated and trained on (the last tenth of them validates);
the other half tests. In the static networks n and s are parameters; in the ARUN the controller computes them, so the
whole controller is retrained. A data file of the user, or other trials, can take the place of the rotated images.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from aru_lab.arguments import check_choice
from aru_lab.data.tasks import TASKS, canonical, is_data_file, is_drawn, label_of
from aru_lab.errors import ConfigError
from aru_lab.experiments.processes import Report
from aru_lab.experiments.sweep import complete
from aru_lab.networks.names import ADAPTABLE
from aru_lab.runs.config import CHECKPOINTS, TrainConfig
from aru_lab.runs.config_file import options_from, read_config_file, read_values
from aru_lab.runs.evaluation import Score, load_classifier, score, task_of
from aru_lab.runs.folder import RunFolder
from aru_lab.runs.runtime import run_on
from aru_lab.runs.schedules import best_epoch
from aru_lab.runs.scores import known_scores

FROZEN = ("recurrent", "readout")  # what keeps its weights
BALANCED = "balanced-"  # how the names of tasks begin whose halves have as many images of each class


@dataclass(frozen=True)
class Retraining:
    """Settings of the retraining; all other settings are those of the run.

    All retrained parameters learn at one rate (`learning_rate_scaling` "none"): the two rates below are chosen for what
    is retrained, which by fan-in would learn at a tenth of them or less.
    """

    epochs: int = 30
    """Passes through the rotated training images."""

    learning_rate: float = 1e-2
    """Learning rate of n and s, which tolerate a larger one than the weights."""

    controller_learning_rate: float = 1e-3
    """Learning rate of the ARUN's controller, whose recurrence amplifies each step."""

    schedule: str = "cosine"
    """Course of the learning rate, as in `aru train`."""

    batch_size: int | None = None
    """Sequences a step; None takes the run's."""

    balanced: bool = False
    """Divide the test images so that both halves have as many images of each class, to one."""

    checkpoint: str = "best"
    """Weights that are retrained and, of the retrained ones, those that count. best: of the epoch with the best
    validation accuracy, among them epoch 0, before the retraining; last: of the last epoch."""

    data: Path | None = None
    """File of sequences, or a task whose trials are drawn, that takes the place of the rotated images. None: the
    rotated images."""

    def __post_init__(self) -> None:
        check_choice("checkpoint", self.checkpoint, CHECKPOINTS)
        if self.data is None:
            return
        if is_drawn(str(self.data)):
            canonical(str(self.data))
        elif not is_data_file(str(self.data)):
            raise ConfigError(
                f"data: got {self.data}, expected the path of an .npz or .mat file, or a task whose trials are drawn."
            )
        if self.balanced:
            raise ConfigError(f"balanced: got True with the data {self.data}, expected False: it divides test images.")


# Figure 3a of the paper: Adam at 1e-4, batches of 100, up to 100 epochs, the last checkpoint.
PAPER_RETRAINING = Retraining(
    epochs=100,
    learning_rate=1e-4,
    controller_learning_rate=1e-4,
    schedule="plateau-paper",
    batch_size=100,
    balanced=True,
    checkpoint="last",
)


@dataclass(frozen=True)
class TransferResult:
    """Scores on the held-out half of the test images: upright, rotated, and rotated after retraining n and s.

    With data of its own, `before` is the score on the run's own test examples, and the others are those on the test
    examples of that data. `validation` has the score on the validation examples after each epoch of the retraining,
    first that before it; `epoch` is the one whose weights `retrained` is of.
    """

    run: Path
    model: str
    before: Score
    rotated: Score
    retrained: Score
    validation: tuple[Score, ...]
    epoch: int


def transfer(run: Path, retraining: Retraining | None = None, report: Report = lambda fraction: None) -> TransferResult:
    """Retrain n and s of a run on rotated images or a file; the new run, in `folder_of`, resumes where it was killed.

    Args:
        run: a run of an adaptive or gamma network on a task that has a rotated twin; with data of its own, on any task.
        retraining: epochs, learning rate, and what is trained on.
        report: called with the fraction that is done.

    Raises:
        ConfigError: the run's model has no n and s, its task has no rotated twin, or the data does not fit.
        RunError, DataError, NonFiniteError: as in `training.train`.
    """
    run, retraining = Path(run), retraining or Retraining()
    config, _ = RunFolder(run).read_config()
    retrained = retraining_config(config, run, retraining)
    which = retraining.checkpoint
    upright = config.task if retraining.data is not None else retrained.task.replace("rotated-", "upright-")
    (before,) = known_scores(run, [None], task=None if upright == config.task else upright, which=which)
    (rotated,) = known_scores(run, [None], task=retrained.task, which=which)
    finished = complete(retrained, report, which)
    first = _validation(run, which, retrained.task)
    scores = (first, *(_of_epoch(entry, first.n) for entry in finished.history))
    epoch = len(finished.history) if which == "last" else best_epoch(finished.history) + 1
    if which == "best" and _quality(first) >= _quality(scores[epoch]):
        epoch = 0
    return TransferResult(run, config.model, before, rotated, finished.clean if epoch else rotated, scores, epoch)


def transfer_item(item: tuple[Path, Retraining], report: Report) -> TransferResult:
    """`transfer` of one (run, retraining), as `processes.run_jobs` calls it."""
    return transfer(*item, report)


def folder_of(run: Path, retraining: Retraining) -> Path:
    """The folder of the retrained run: RUN/transfer, RUN/transfer-balanced, or RUN/transfer-NAME for data NAME."""
    if retraining.data is not None:
        return run / f"transfer-{label_of(canonical(str(retraining.data)))}"
    return run / ("transfer-balanced" if retraining.balanced else "transfer")


def retraining_config(config: TrainConfig, run: Path, retraining: Retraining) -> TrainConfig:
    """The configuration that retrains n and s of the run `run` of configuration `config`.

    Raises:
        ConfigError: as in `transfer`.
    """
    if config.model not in ADAPTABLE:
        raise ConfigError(f"run: got a {config.model} in {run}, which has no n and s; expected {', '.join(ADAPTABLE)}.")
    own = {}
    if retraining.data is not None:
        task = canonical(str(retraining.data))
        _check_fits(config, task)
        own = {"pixels_per_step": 1, "permutation_seed": 0}
    else:
        task = f"{BALANCED * retraining.balanced}rotated-{config.task}"
        if task not in TASKS:
            have = ", ".join(name.removeprefix("rotated-") for name in TASKS if name.startswith("rotated-"))
            raise ConfigError(f"run: got a run of {config.task} in {run}, expected one of {have}.")
    return dataclasses.replace(
        config,
        **own,
        task=task,
        initial_from=run,
        initial_checkpoint=retraining.checkpoint,
        controller_from=None,
        freeze=FROZEN,
        epochs=retraining.epochs,
        batch_size=retraining.batch_size or config.batch_size,
        learning_rate=(retraining.controller_learning_rate if config.model == "arun" else retraining.learning_rate),
        learning_rate_scaling="none",
        schedule=retraining.schedule,
        early_stop=None,
        perturb=(),
        subset=None,
        validation_subset=None,
        output=folder_of(run, retraining),
    )


def read_retraining(path: Path) -> Retraining:
    """The settings of a retraining in a file.

    Args:
        path: config.json of a retrained run, or one JSON object whose names are those of `Retraining`'s fields; what is
            in neither has its default. A retrained run has one of the two learning rates.

    Raises:
        ConfigError: the file can't be read, or is that of another run, or has an unknown name or value.
    """
    values, of_a_run = read_values(path)
    if not of_a_run:
        return options_from(path, Retraining, values)
    config = read_config_file(path)
    if config.model not in ADAPTABLE or config.initial_from is None or config.freeze != FROZEN:
        raise ConfigError(f"{path}: got the configuration of a run that `aru transfer` did not retrain, expected one.")
    own = config.task if is_data_file(config.task) or is_drawn(config.task) else None
    rate = "controller_learning_rate" if config.model == "arun" else "learning_rate"
    return Retraining(
        **{rate: config.learning_rate},
        epochs=config.epochs,
        schedule=config.schedule,
        batch_size=config.batch_size,
        balanced=config.task.startswith(BALANCED),
        checkpoint=config.initial_checkpoint,
        data=None if own is None else Path(own),
    )


def _check_fits(config: TrainConfig, name: str) -> None:
    """Raise ConfigError where the network of a run can't read or predict the data of another task."""
    sizes = []
    for task in (task_of(config), task_of(config, name)):
        target = task.target
        sizes.append((task.encoder, task.input_size, target.n_outputs, target.is_classes, target.every_step))
    own, given = sizes
    if own != given:
        kinds = [
            f"{n_inputs} inputs and {n_outputs} {'classes' if is_classes else 'numbers'}"
            f"{' at every step' * every_step}{' behind an encoder' * (encoder != 'linear')}"
            for encoder, n_inputs, n_outputs, is_classes, every_step in sizes
        ]
        raise ConfigError(f"data: got {name} with {kinds[1]}, expected {kinds[0]}, as the run has.")


def _validation(run: Path, which: str, task: str) -> Score:
    """The score of a run on the validation examples of a task."""
    model, config = load_classifier(run, which)
    examples = task_of(config, task).load(config.data_dir).validation
    with run_on(config.backend, model, config.matmul_precision):
        return score(model, examples)


def _of_epoch(entry: dict[str, float], n: int) -> Score:
    return Score(entry["validation_loss"], entry["validation_accuracy"], n)


def _quality(one: Score) -> tuple[float, float]:
    return one.accuracy, -one.loss
