"""Training that can be killed at any moment and resumed to the bit-identical result.

last.pt holds everything that the next step depends on: weights, optimizer, scheduler, random state, position and the
sums of the present epoch. The order of the examples and the perturbation of a batch are functions of the seed and the
position. When a run is resumed, metrics.jsonl is rewritten from last.pt, so a surplus or unfinished line does not
survive.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from aru_lab.data.summary import targets_of
from aru_lab.errors import Interrupted, RunError, typed
from aru_lab.files import reason
from aru_lab.networks.classifier import count_parameters
from aru_lab.runs.augmentation import Augmentation
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.counts import Counts
from aru_lab.runs.display import NO_NUMBERS, epoch_line, show_data, training_bar
from aru_lab.runs.distributed import World, joined
from aru_lab.runs.evaluation import Score, or_to_the_data, score, take_initial_weights, task_of
from aru_lab.runs.finite import NotFinite, Watch, advise, check_number, check_weights
from aru_lab.runs.folder import RunFolder
from aru_lab.runs.learner import Batch, Learner
from aru_lab.runs.losses import loss_of_zero, quality_of, spread_of
from aru_lab.runs.position import Position
from aru_lab.runs.provenance import environment
from aru_lab.runs.records import Records, random_state, set_random_state
from aru_lab.runs.runtime import resolve_device, run_on, set_threads
from aru_lab.runs.schedules import PLATEAUS, epoch_order, is_finished, scheduled_rate
from aru_lab.runs.signals import StopRequest
from aru_lab.runs.state import check_continues, check_data, check_resumable, load_last, sources_of
from aru_lab.terminal import plain, progress_console, say

OnEpoch = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class TrainResult:
    """Folder of a finished run, its metrics (one dictionary for each epoch) and its number of trained parameters."""

    run: Path
    history: list[dict[str, Any]]
    n_parameters: int


def train(config: TrainConfig, console: Console | None = None, on_epoch: OnEpoch | None = None) -> TrainResult:
    """Start a run in a new folder and train to the end.

    Under torchrun all processes call this; they share each batch, and the first of them writes.

    Args:
        config: what to train and how.
        console: where the progress bar and one line an epoch go; None prints to standard output.
        on_epoch: called with the metrics after every epoch.

    Raises:
        RunError: the folder already holds a run, or a run whose weights are asked for does not fit.
        ConfigError, DataError: an argument or the data does not fit.
        NonFiniteError: the loss, a gradient or a weight is not finite; the last good checkpoint stays.
        Interrupted: Ctrl-C or a termination signal; a checkpoint was saved.
    """
    folder = RunFolder(config.run_folder)
    with joined(resolve_device(config.device)) as world, contextlib.ExitStack() as stack:
        # All checks come before the folder is made, so a wrong argument leaves no folder behind.
        with world.together():
            folder.check_free()
            if config.threads is not None:
                set_threads(config.threads)
            trainer = _Trainer(config, folder, console or progress_console(), world, on_epoch)
            trainer.take_initial_weights()
            started_on = environment(trainer.learner.device)
            started_on |= {"processes": world.size, "sources": sources_of(config)}
            if trainer.task.description is not None:
                started_on["data"] = trainer.task.description
            trainer.records.environment = started_on
        with world.together():
            if world.is_first:
                folder.make()
                stack.enter_context(folder.locked())
                folder.create(trainer.config, started_on)
        say(trainer.console, "Run folder: ", plain(folder.path, "bold"))
        if (transform := trainer.task.transform) is not None:
            show_data(trainer.console, trainer.data, trainer.target, transform.targets)
        for remark in trainer.task.remarks:
            say(trainer.console, remark)
        return trainer.run()


def resume(run: Path, console: Console | None = None, on_epoch: OnEpoch | None = None) -> TrainResult:
    """Continue a run that was stopped or killed, from its last checkpoint to the end.

    On the CPU the final weights and metrics (timings aside) are bit for bit those of a run that was never stopped.

    Args:
        run: the run folder.
        console, on_epoch: as in `train`.

    Raises:
        RunError: the folder holds no run, is damaged, or is in use; or the run was started on another number of
            processes or with another configuration than config.json has now.
        ConfigError, DataError, NonFiniteError, Interrupted: as in `train`.
    """
    folder = RunFolder(Path(run))
    config, started_on = folder.read_config()
    with joined(resolve_device(config.device)) as world, contextlib.ExitStack() as stack:
        with world.together():
            n_processes = started_on.get("processes", 1)
            if n_processes != world.size:
                raise RunError(
                    f"{folder.path} was started on {n_processes} processes and would be resumed on {world.size}; use "
                    f"`torchrun --nproc-per-node {n_processes} -m aru_lab train --resume {typed(folder.path)}`."
                )
            if world.is_first:
                stack.enter_context(folder.locked())
            # The number of threads decides the order of some sums, and so their last bits.
            set_threads(started_on.get("threads", torch.get_num_threads()))
            check_data(config, started_on)
            trainer = _Trainer(config, folder, console or progress_console(), world, on_epoch)
            trainer.records.environment = started_on
            trainer.restore()
        position = trainer.position
        say(
            trainer.console,
            "Run folder: ",
            plain(folder.path, "bold"),
            f", resumed after {position.epoch} of {config.epochs} epochs and {position.batch} batches",
        )
        return trainer.run()


class _Trainer:
    """The course of a run: epochs, steps, and when a checkpoint is due.

    `learner` takes the steps, `augmentation` draws their perturbations, `records` writes the files.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: RunFolder,
        console: Console,
        world: World | None = None,
        on_epoch: OnEpoch | None = None,
    ) -> None:
        self.config = config = config.with_learning_rate()
        self.world = world or World()
        self.console = console if self.world.is_first else Console(quiet=True)
        self.on_epoch = on_epoch
        task = self.task = task_of(config)
        self.augmentation = Augmentation(config)
        self.learner = Learner(config, task, self.world)
        self.data = task.load(config.data_dir, config.subset, config.validation_subset)
        self.target = task.target
        self.learner.weigh_classes(self.data.train, task.target)
        self.augmentation.check(self.learner.model.n_steps(self.data.train.x.shape[1]))
        # A backend that can't serve is refused here, before the run folder is made.
        with run_on(config.backend, self.learner.model, config.matmul_precision):
            self.learner.try_mixed_precision()
        if self.world.rank:  # noise of its own for each process
            torch.manual_seed((config.seed + self.world.rank * 1_000_003) % 2**63)
        self.records = Records(config, folder, self.world)
        self.position = Position()
        self.watch = Watch(task.target.n_outputs, loss_of_zero(targets_of(self.data.train)))
        self.under_way: deque[Counts] = deque()
        self.lag = 1 if self.learner.device.type == "cuda" else 0
        self.n_batches = math.ceil(len(self.data.train) / config.batch_size)
        self.saved_at = time.monotonic()
        self.stop = StopRequest()

    def take_initial_weights(self) -> None:
        """Take the initial weights from the runs that the configuration names; RunError if it can't load them."""
        take_initial_weights(self.learner.model, self.config, self.learner.device)

    def restore(self) -> None:
        """Go back to last.pt; a run killed before its first checkpoint starts over."""
        folder = self.records.folder
        if not check_resumable(folder):
            self.take_initial_weights()
            return
        content = load_last(folder)
        check_continues(content, folder, self.config, self.records.environment)
        try:
            self.learner.load_state(content)
            self.position = Position(**content["position"])
            if self.position.batch > self.n_batches:
                raise ValueError(f"it counts {self.position.batch} batches in an epoch of {self.n_batches}")
            set_random_state(content, self.learner.device, self.world)
        except Exception as error:  # foreign content raises many types
            raise RunError(
                f"{folder.last_file} does not belong to the configuration in {folder.config_file}"
                f"{or_to_the_data(self.config)} ({reason(error)}); restore both from a copy, or start a new run."
            ) from error
        if self.world.is_first:
            folder.write_metrics(self.position.history)

    def run(self) -> TrainResult:
        """Train from the present position to the end."""
        model, config, folder = self.learner.model, self.config, self.records.folder
        with run_on(config.backend, model, config.matmul_precision):
            try:
                self._run()
            except NotFinite as error:
                raise advise(error, self.position.epoch + 1, config, self.data.train, folder.last_file) from error
        return TrainResult(folder.path, self.position.history, count_parameters(model))

    def _run(self) -> None:
        config, position = self.config, self.position
        self.learner.connect()
        if position.step == 0:
            # From here on there is always a good checkpoint to go back to.
            self.save()
        self.records.open(position.epoch + 1)
        with self.stop, training_bar(self.console) as progress:
            bar = progress.add_task("", total=config.epochs * self.n_batches, completed=position.step, **NO_NUMBERS)
            while not is_finished(config, position.history):
                self.train_epoch(progress, bar)
                self.finish_epoch(progress)
        self.records.close()

    def train_epoch(self, progress: Progress, bar: Any) -> None:
        """Take the remaining steps of the present epoch."""
        config, position = self.config, self.position
        order = epoch_order(len(self.data.train), config.seed, position.epoch, config.shuffle)
        started = time.monotonic() - position.seconds
        self.learner.model.train()
        while position.batch < self.n_batches:
            index = order[position.batch * config.batch_size : (position.batch + 1) * config.batch_size]
            self.under_way.append(self.step(index))
            position.batch += 1
            position.step += 1
            self.settle(self.lag)
            position.seconds = time.monotonic() - started
            if position.n_seen:
                progress.update(
                    bar,
                    completed=position.step,
                    description=f"epoch {position.epoch + 1}/{config.epochs}",
                    loss=f"{position.loss_sum / position.n_seen:.4f}",
                    accuracy=f" ({position.n_correct / position.n_seen:.1%})" if self.target.is_classes else "",
                    speed=f"{position.batch * config.batch_size / position.seconds:,.0f}",
                )
            self.obey_stop()
            # The first process's clock decides for all.
            due = self.world.is_first and time.monotonic() - self.saved_at >= config.checkpoint_seconds
            if self.world.max(due)[0]:
                self.save()

        self.settle()
        position.seconds = time.monotonic() - started

    def step(self, index: Tensor) -> Counts:
        """Take one step of the optimizer with the examples at `index`."""
        config, step = self.config, self.position.step
        rate = None if config.schedule in PLATEAUS else scheduled_rate(config, step, config.epochs * self.n_batches)
        return self.learner.step(self.data.train, self.batch(index), rate)

    def batch(self, index: Tensor) -> Batch:
        """The examples at `index` with the perturbation of the present step."""
        step = self.position.step
        return Batch(index, *self.augmentation.draw(step, len(index)), step)

    def settle(self, left: int = 0) -> None:
        """Read the numbers of the steps under way, except for the last `left` steps."""
        while len(self.under_way) > left:
            counts = self.under_way.popleft()
            loss, n_correct, norm = counts.result(self.world)
            check_number("loss", loss, counts.step)
            check_number("norm of the gradient", norm, counts.step)
            self.position.add(loss, n_correct, counts.n, norm)
            mean = self.watch.add(loss)
            if mean is not None and self.world.is_first:
                self.warn(mean, counts.step)

    def warn(self, mean: float, step: int) -> None:
        """Say that training is unstable."""
        examples = self.data.train
        largest = self.learner.largest_state(examples)
        say(self.console, self.watch.warning(mean, largest, self.position.epoch + 1, step, self.config, examples))

    def validate(self) -> Score:
        """Score all validation examples, each process its share."""
        model, validation, batch_size = self.learner.model, self.data.validation, max(self.config.batch_size, 250)
        if self.world.size == 1:
            return score(model, validation, batch_size, between_batches=self.obey_stop)
        self.world.share_buffers(model)
        mine = validation.take(slice(self.world.rank, None, self.world.size))
        part = score(model, mine, batch_size) if len(mine) else Score(0.0, 0.0, 0)
        right = round(part.accuracy * part.n) if self.target.is_classes else 0
        loss, n_correct, n = self.world.sum(part.loss * part.n, right, part.n)
        self.obey_stop()
        return Score(loss / n, quality_of(loss / n, n_correct, int(n), spread_of(targets_of(validation))), int(n))

    def plateau_loss(self, validation: Score) -> float:
        """The loss that the learning rate follows: of all validation examples, or of their last batch."""
        if self.config.schedule != "plateau-last-batch":
            return validation.loss
        examples, size = self.data.validation, self.config.batch_size
        return score(self.learner.model, examples.take(slice((len(examples) - 1) // size * size, None)), size).loss

    def finish_epoch(self, progress: Progress) -> None:
        """Validate, then save the epoch: best.pt, last.pt, the line in metrics.jsonl, in this order."""
        config, learner = self.config, self.learner
        validation = self.validate()
        check_number("validation loss", validation.loss, self.position.step + 1)
        check_weights(learner.model, self.position.step + 1)
        rate = learner.learning_rate
        if config.schedule in PLATEAUS:
            learner.plateau.step(self.plateau_loss(validation))
        spread = spread_of(targets_of(self.data.train))
        gamma = learner.gamma_metrics(self.data.validation)
        entry, is_best = self.position.finish_epoch(validation, rate, len(self.data.train), spread, gamma)
        # A kill between these leaves last.pt of before, and the epoch is finished again in the same way.
        if is_best:
            self.records.save_best(learner.model.state_dict(), entry)
        self.save()
        self.records.append(entry)
        say(progress.console, epoch_line(entry, config.epochs, self.target.is_classes))
        if self.on_epoch is not None:
            self.on_epoch(entry)

    def save(self) -> None:
        """Write last.pt."""
        self.settle()
        check_weights(self.learner.model, self.position.step + 1)
        content = {**self.learner.state(), "position": dataclasses.asdict(self.position)}
        self.records.save_last(content | random_state(self.learner.device, self.world))
        self.saved_at = time.monotonic()

    def obey_stop(self) -> None:
        """Save and raise Interrupted if any process received a signal."""
        received = int(self.world.max(self.stop.received or 0)[0])
        if received:
            self.save()
            raise Interrupted(
                f"Stopped by {signal.Signals(received).name} after step {self.position.step}; continue with "
                f"`aru train --resume {typed(self.records.folder.path)}`."
            )
