"""How well a trained network predicts: its score on unperturbed sequences and under a perturbation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aru_lab.arguments import MOST, check_choice, check_whole
from aru_lab.data.sequences import Sequences
from aru_lab.data.summary import Baseline, baseline, targets_of
from aru_lab.data.targets import Target
from aru_lab.data.tasks import Task, find_task, is_data_file, is_drawn
from aru_lab.data.transform import Scale, Transform
from aru_lab.errors import RunError
from aru_lab.files import reading, reason
from aru_lab.networks.classifier import (
    CONTROLLER,
    SequenceClassifier,
    build_classifier,
    constrain,
    draw_biases,
    draw_lstm_weights,
    set_gamma,
)
from aru_lab.networks.names import DRIVABLE
from aru_lab.networks.perturbations import Perturbation, seeds_of
from aru_lab.runs.config import CHECKPOINTS, TrainConfig
from aru_lab.runs.folder import RunFolder
from aru_lab.runs.losses import loss_of, n_right, quality_of, spread_of
from aru_lab.runs.runtime import resolve_device, resolve_dtype, run_on
from aru_lab.runs.state import check_belongs, check_data, load_best, load_last, put_weights

TEST_SEED = 1_000_003  # test sequence k draws its perturbation from the seed TEST_SEED + k


@dataclass(frozen=True)
class Score:
    """Mean loss, accuracy, and the number of targets they were taken over.

    The loss is the cross-entropy in nats and the accuracy the fraction of right answers. Where the targets are numbers,
    the loss is the mean squared error and the accuracy is R², the fraction of their variance that is predicted.
    """

    loss: float
    accuracy: float
    n: int


def score(
    model: SequenceClassifier,
    sequences: Sequences,
    batch_size: int = 250,
    perturbation: Perturbation | None = None,
    between_batches: Callable[[], None] | None = None,
    kept: list[np.ndarray] | None = None,
) -> Score:
    """Score the model on all sequences, in evaluation mode and without gradients.

    Args:
        model: the classifier.
        sequences: what it reads.
        batch_size: sequences at once; the score does not depend on it beyond rounding, unless a perturbation is shared
            by a batch.
        perturbation: what is done to the network; its random numbers are the same at every call.
        between_batches: called after every batch; it may raise to stop.
        kept: a list to which the outputs of every batch are appended.
    """
    parameter = next(model.parameters())
    was_training = model.training
    model.eval()
    loss = n_correct = 0.0
    with torch.no_grad():
        for start in range(0, len(sequences), batch_size):
            x, y = to_tensors(sequences, slice(start, start + batch_size), parameter.device, parameter.dtype)
            seeds = seeds_of(perturbation, TEST_SEED + start, len(y))
            index = slice(start, start + batch_size)
            outputs = model(
                x, **read_out(sequences, index), **perturbed(model, x, perturbation, seeds, sequences.centre)
            )
            outputs, y = scored(outputs, y, sequences, index)
            loss += loss_of(outputs, y, "sum").item()
            n_correct += n_right(outputs, y).item()
            if kept is not None:
                kept.append(outputs.cpu().numpy())
            if between_batches is not None:
                between_batches()
    model.train(was_training)
    n = sequences.n_targets()
    return Score(loss / n, quality_of(loss / n, n_correct, n, spread_of(targets_of(sequences))), n)


def perturbed(
    model: SequenceClassifier,
    x: Tensor,
    perturbation: Perturbation | None,
    seeds: Sequence[int],
    centre: np.ndarray | None = None,
) -> dict[str, Any]:
    """The arguments of SequenceClassifier.forward that perturb it on the batch x, one seed a sequence.

    `centre` is that of the sequences.
    """
    if perturbation is None:
        return {}
    n_steps = model.n_steps(x.shape[1])
    drive = perturbation.drive(n_steps, model.recurrent.hidden_size, seeds)
    contrast = perturbation.contrast(n_steps, seeds)
    arguments = {"drive": None if drive is None else drive.to(x), "contrast": contrast}
    if contrast is not None and centre is not None:
        arguments["centre"] = torch.from_numpy(centre).to(x)
    return arguments


def to_tensors(
    sequences: Sequences, index: slice | Tensor, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """x (B, T, I) and y (B,) or (B, O) of the sequences at `index`."""
    x = torch.from_numpy(sequences.x)[index].to(device, dtype)
    y = torch.from_numpy(sequences.y)[index].to(device)
    return x, y.to(dtype) if y.is_floating_point() else y


def read_out(sequences: Sequences, index: slice | Tensor) -> dict[str, Any]:
    """The arguments of SequenceClassifier.forward that say at which steps the sequences at `index` are read out."""
    if sequences.mask is not None:
        return {"every_step": True}
    return {} if sequences.lengths is None else {"lengths": torch.from_numpy(sequences.lengths)[index]}


def scored(outputs: Tensor, y: Tensor, sequences: Sequences, index: slice | Tensor) -> tuple[Tensor, Tensor]:
    """Outputs and targets of the sequences at `index` that count, one row each."""
    if sequences.mask is None:
        return outputs, y
    mask = torch.from_numpy(sequences.mask)[index].to(y.device)
    return outputs[mask], y[mask]


def load_classifier(
    run: Path, which: str = "best", device: str | None = None
) -> tuple[SequenceClassifier, TrainConfig]:
    """The trained classifier of a run, in evaluation mode, and the configuration it was trained with.

    Args:
        run: the run folder.
        which: "best" for the epoch with the best validation accuracy, "last" for the latest checkpoint.
        device: where to put it; None takes the run's.

    Raises:
        RunError: the folder holds no run, or no such checkpoint, or one of another configuration.
        DataError: the run's data file has changed since it began.
        ConfigError: the device can't be used.
    """
    folder = RunFolder(Path(run))
    config, environment = folder.read_config()
    file, content, place = _checkpoint(folder, config, environment, which, device)
    check_data(config, environment)
    return _with_weights(build_for(config, task_of(config), place), file, content, folder, config), config


def load_network(
    run: Path, which: str = "best", device: str | None = None
) -> tuple[SequenceClassifier, Target, Transform, TrainConfig]:
    """The trained network of a run, its targets, the transform of its inputs, and its configuration.

    The run's data is not read, unless an earlier version made the run and did not keep what is needed.
    Arguments and errors as in `load_classifier`.
    """
    folder = RunFolder(Path(run))
    config, environment = folder.read_config()
    file, content, place = _checkpoint(folder, config, environment, which, device)
    if "data" in environment:
        with reading(folder.config_file, RunError, "restore it or start a new run."):
            data = environment["data"]
            target, transform = Target.from_json(data["target"]), Transform.from_json(data["transform"])
            check_whole("input_size", data["input_size"], 1, MOST)
        model = build_network(config, data["input_size"], target.n_outputs, "linear", place)
    else:
        check_data(config, environment)
        task = task_of(config)
        target, transform = task.target, task.transform or Transform()
        model = build_for(config, task, place)
    return _with_weights(model, file, content, folder, config), target, transform, config


def _checkpoint(
    folder: RunFolder, config: TrainConfig, environment: dict[str, Any], which: str, device: str | None
) -> tuple[Path, dict[str, Any], torch.device]:
    """The path and the content of a checkpoint that belongs to its run, and the device for its network."""
    check_choice("checkpoint", which, CHECKPOINTS)
    place = resolve_device(device or config.device)
    file = folder.best_file if which == "best" else folder.last_file
    content = load_best(folder) if which == "best" else load_last(folder)
    check_belongs(file, content, folder, config, environment)
    return file, content, place


def _with_weights(
    model: SequenceClassifier, file: Path, content: dict[str, Any], folder: RunFolder, config: TrainConfig
) -> SequenceClassifier:
    """The network with the weights of a checkpoint, in evaluation mode; RunError if they don't fit."""
    try:
        put_weights(model, content["model"])
    except ValueError as error:
        raise RunError(
            f"{file} does not belong to the configuration in {folder.config_file}{or_to_the_data(config)} "
            f"({reason(error)}); restore both from a copy, or start a new run."
        ) from error
    return model.eval()


def or_to_the_data(config: TrainConfig) -> str:
    """For the sentence that a checkpoint does not fit: a data file that has changed has changed the network's sizes."""
    return f" or to the data that {config.task} now holds" if is_data_file(config.task) else ""


def task_of(config: TrainConfig, name: str | None = None) -> Task:
    """The task of a configuration, or another by name, with the pixels grouped as the configuration says."""
    name = name or config.task
    # the steps of other data are given, whatever was done to the images of the run
    given = is_data_file(name) or is_drawn(name)
    pixels = 1 if given and name != config.task else config.pixels_per_step
    return find_task(name, pixels, config.preparation, config.permutation)


def target_of(run: Path) -> Target:
    """What the network of a run predicts.

    Raises:
        RunError, DataError: the folder holds no run, or its data can't be read.
    """
    return task_of(RunFolder(Path(run)).read_config()[0]).target


def build_for(config: TrainConfig, task: Task, device: torch.device) -> SequenceClassifier:
    """A freshly initialised classifier for a configuration."""
    return build_network(config, task.input_size, task.target.n_outputs, task.encoder, device)


def build_network(
    config: TrainConfig, input_size: int, n_outputs: int, encoder: str, device: torch.device
) -> SequenceClassifier:
    """A freshly initialised classifier for a configuration and these sizes."""
    classifier = build_classifier(
        config.model,
        config.hidden_size,
        config.controller_size,
        input_size,
        n_outputs,
        encoder,
        device=device,
        dtype=resolve_dtype(config.dtype),
        leak=config.leak,
    )
    if config.biases == "torch":
        draw_biases(classifier)
    if config.lstm_weights == "xavier":
        draw_lstm_weights(classifier)
    set_gamma(classifier, config.initial_gain, config.initial_saturation)
    if config.model in DRIVABLE and device.type != "meta":  # which has sizes only
        constrain(classifier, config.dale, config.sparsity)
    return classifier


def take_initial_weights(model: SequenceClassifier, config: TrainConfig, device: torch.device) -> None:
    """Load into a fresh classifier the weights of the runs that its training begins with, if any.

    Raises:
        RunError: there is no such run, or its weights do not fit.
    """
    for argument, names in (("initial_from", None), ("controller_from", CONTROLLER)):
        source = getattr(config, argument)
        if source is None:
            continue
        other, other_config = load_classifier(source, config.initial_checkpoint, device=str(device))
        weights = other.state_dict() if names is None else other.recurrent.state_dict()
        into = model if names is None else model.recurrent
        try:
            put_weights(into, weights if names is None else into.state_dict() | {name: weights[name] for name in names})
        except (KeyError, ValueError) as error:
            raise RunError(
                f"{argument}: {source} holds a {other_config.model} of hidden size {other_config.hidden_size} and "
                f"controller size {other_config.controller_size}, whose weights do not fit this "
                f"{config.model} of {config.hidden_size} and {config.controller_size}."
            ) from error


@dataclass(frozen=True)
class Outcome:
    """A score and what it was computed from.

    Args:
        score: the score.
        outputs: of the network, one row a target: logits of the classes, or numbers.
        y: the targets: indices of classes (n,), or numbers (n, O).
    """

    score: Score
    outputs: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class Evaluation:
    """The outcomes of a run on its test examples: unperturbed, and under each perturbation.

    `baseline` is the score of a trivial answer, and `scale` that of targets which are numbers, or None.
    """

    target: Target
    baseline: Baseline
    scale: Scale | None
    clean: Outcome
    perturbed: list[Outcome]


def evaluate_in_detail(
    run: Path,
    perturbations: list[Perturbation],
    which: str = "best",
    data_dir: Path | None = None,
    device: str | None = None,
    backend: str | None = None,
    batch_size: int = 250,
) -> Evaluation:
    """Test a run on the test examples: unperturbed, and under each of `perturbations`.

    Args:
        run: the run folder.
        perturbations: see perturbations.py.
        which: "best" or "last" checkpoint.
        data_dir: where the data is; None takes the run's.
        device: None takes the run's.
        backend: None takes the run's.
        batch_size: sequences at once.

    Raises:
        RunError, ConfigError, DataError: with a sentence that says what to do.
    """
    model, config = load_classifier(run, which, device)
    task = task_of(config)
    data = task.load(data_dir or config.data_dir)
    for perturbation in perturbations:  # one that does not fit is refused before the work begins
        perturbation.drive(model.n_steps(data.test.x.shape[1]))

    def outcome(perturbation: Perturbation | None) -> Outcome:
        kept: list[np.ndarray] = []
        found = score(model, data.test, batch_size, perturbation, kept=kept)
        return Outcome(found, np.concatenate(kept), targets_of(data.test))

    with run_on(backend or config.backend, model, config.matmul_precision):
        clean, *perturbed = [outcome(perturbation) for perturbation in (None, *perturbations)]
    scale = None if task.transform is None else task.transform.targets
    return Evaluation(task.target, baseline(data, task.target), scale, clean, perturbed)


def evaluate(
    run: Path, perturbations: list[Perturbation], which: str = "best", **options: Any
) -> tuple[Score, list[Score]]:
    """The scores of a run on the test examples: unperturbed, and under each perturbation; see `evaluate_in_detail`."""
    found = evaluate_in_detail(run, perturbations, which, **options)
    return found.clean.score, [outcome.score for outcome in found.perturbed]
