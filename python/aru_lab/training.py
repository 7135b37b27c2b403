"""Training that can be killed at any moment and resumed to the bit-identical result.

All that the next step depends on is in last.pt: weights, optimiser, scheduler, random state, position and the sums of
the epoch under way. The order of the examples is a function of the seed and the epoch. metrics.jsonl is written anew
from last.pt when a run is resumed, so that a line too many or half a line does not survive.
"""

from __future__ import annotations

import dataclasses
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from aru_lab.checkpoint import RunFolder, load_checkpoint, save_checkpoint
from aru_lab.config import TrainConfig
from aru_lab.errors import Interrupted, NonFiniteError, RunError
from aru_lab.evaluation import Score, build_for, score, to_tensors
from aru_lab.models import count_parameters
from aru_lab.provenance import environment
from aru_lab.runtime import resolve_device, resolve_dtype, run_on
from aru_lab.tasks import TASKS, TaskData

WARMUP_FRACTION = 0.05
PLATEAU_PATIENCE = 5
PLATEAU_FACTOR = 0.5


@dataclass(frozen=True)
class TrainResult:
    """Where a finished run is, its metrics (one dictionary an epoch) and its number of parameters."""

    run: Path
    history: list[dict[str, Any]]
    n_parameters: int


@dataclass
class Position:
    """How far a run has come. Epochs, batches and steps count what is finished; the sums are of the epoch under way."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    n_correct: int = 0
    n_seen: int = 0
    seconds: float = 0.0
    best_accuracy: float = -1.0
    best_loss: float = math.inf
    history: list[dict[str, Any]] = field(default_factory=list)


def train(config: TrainConfig, console: Console | None = None) -> TrainResult:
    """Start a run in a new folder and train to the end.

    Args:
        config: what to train and how.
        console: where the progress bar and one line an epoch go; None prints to standard output.

    Raises:
        RunError: the folder already holds a run.
        ConfigError, DataError: an argument or the data does not fit.
        NonFiniteError: the loss, a gradient or a weight is not finite; the last good checkpoint stays.
        Interrupted: Ctrl-C or a termination signal; a checkpoint was saved.
    """
    console = console or Console()
    folder = RunFolder(config.run_folder)
    folder.check_free()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    # Made before the folder, so that an argument that does not fit leaves none behind.
    trainer = _Trainer(config, folder, console)
    folder.create(config, environment(trainer.device))
    console.print(f"Run folder: [bold]{folder.path}[/bold]", highlight=False)
    return trainer.run()


def resume(run: Path, console: Console | None = None) -> TrainResult:
    """Continue a run that was stopped or killed, from its last checkpoint to the end.

    On the CPU the final weights and metrics (timings aside) are bit for bit those of a run that was never stopped.

    Args:
        run: the run folder.
        console: as in `train`.

    Raises:
        RunError: the folder holds no run or is damaged.
        ConfigError, DataError, NonFiniteError, Interrupted: as in `train`.
    """
    console = console or Console()
    folder = RunFolder(Path(run))
    config, started_on = folder.read_config()
    # The number of threads decides the order of some sums, and so their last bits.
    torch.set_num_threads(started_on.get("threads", torch.get_num_threads()))
    trainer = _Trainer(config, folder, console)
    trainer.restore()
    position = trainer.position
    console.print(
        f"Run folder: [bold]{folder.path}[/bold], resumed after {position.epoch} of {config.epochs} epochs and "
        f"{position.batch} batches",
        highlight=False,
    )
    return trainer.run()


class _Trainer:
    def __init__(self, config: TrainConfig, folder: RunFolder, console: Console) -> None:
        self.config = config
        self.folder = folder
        self.console = console
        self.device = resolve_device(config.device)
        self.dtype = resolve_dtype(config.dtype)
        task = TASKS[config.task]
        torch.manual_seed(config.seed)
        self.model = build_for(config, task, self.device)
        self.data: TaskData = task.load(config.data_dir, config.subset, config.validation_subset)
        self.input_size = task.input_size
        # A backend that can't serve is refused here, before the run folder is made.
        with run_on(config.backend, self.model, self.input_size):
            pass
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.learning_rate)
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer, factor=PLATEAU_FACTOR, patience=PLATEAU_PATIENCE
        )
        self.position = Position()
        self.n_batches = math.ceil(len(self.data.train) / config.batch_size)
        self.saved_at = time.monotonic()
        self.stop = _StopRequest()

    def run(self) -> TrainResult:
        """Train from the present position to the end."""
        with run_on(self.config.backend, self.model, self.input_size):
            return self._run()

    def _run(self) -> TrainResult:
        if not self.folder.last_file.exists():
            # From here on there is always a good checkpoint to go back to.
            self.save()
        with self.stop, _progress_bar(self.console) as progress:
            bar = progress.add_task(
                "", total=self.config.epochs * self.n_batches, completed=self.position.step, **_NO_NUMBERS
            )
            while self.position.epoch < self.config.epochs:
                self.train_epoch(progress, bar)
                self.finish_epoch(progress)
        return TrainResult(self.folder.path, self.position.history, count_parameters(self.model))

    def train_epoch(self, progress: Progress, bar: Any) -> None:
        """Take the remaining steps of the present epoch."""
        config, position = self.config, self.position
        order = epoch_order(len(self.data.train), config.seed, position.epoch)
        started = time.monotonic() - position.seconds
        self.model.train()
        while position.batch < self.n_batches:
            index = order[position.batch * config.batch_size : (position.batch + 1) * config.batch_size]
            loss, n_correct = self.step(index)
            position.loss_sum += loss * len(index)
            position.n_correct += n_correct
            position.n_seen += len(index)
            position.batch += 1
            position.step += 1
            position.seconds = time.monotonic() - started
            progress.update(
                bar,
                completed=position.step,
                description=f"epoch {position.epoch + 1}/{config.epochs}",
                loss=f"{position.loss_sum / position.n_seen:.4f}",
                accuracy=f"{position.n_correct / position.n_seen:.1%}",
                speed=f"{position.n_seen / position.seconds:,.0f}",
            )
            self.obey_stop()
            if time.monotonic() - self.saved_at >= config.checkpoint_seconds:
                self.save()

    def step(self, index: Tensor) -> tuple[float, int]:
        """One step of the optimiser; mean loss and number of right answers of the examples at `index` before it."""
        for group in self.optimizer.param_groups:
            if self.config.schedule != "plateau":
                group["lr"] = scheduled_rate(self.config, self.position.step, self.config.epochs * self.n_batches)
        x, y = to_tensors(self.data.train, index, self.device, self.dtype)
        if self.config.input_noise > 0:
            x = x + self.config.input_noise * torch.randn_like(x)
        self.optimizer.zero_grad()
        logits = self.model(x)
        loss = nn.functional.cross_entropy(logits, y)
        value = loss.item()
        if not math.isfinite(value):
            raise self.non_finite("loss", value)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip or math.inf).item()
        if not math.isfinite(norm):
            raise self.non_finite("norm of the gradient", norm)
        self.optimizer.step()
        return value, int((logits.detach().argmax(dim=1) == y).sum().item())

    def finish_epoch(self, progress: Progress) -> None:
        """Validate, then save the epoch: best.pt, last.pt, the line in metrics.jsonl, in this order."""
        config, position = self.config, self.position
        validation = score(
            self.model, self.data.validation, max(config.batch_size, 250), between_batches=self.obey_stop
        )
        if not math.isfinite(validation.loss):
            raise self.non_finite("validation loss", validation.loss)
        self.check_weights()
        entry = {
            "epoch": position.epoch + 1,
            "step": position.step,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "train_loss": position.loss_sum / position.n_seen,
            "train_accuracy": position.n_correct / position.n_seen,
            "validation_loss": validation.loss,
            "validation_accuracy": validation.accuracy,
            "seconds": position.seconds,
            "sequences_per_second": position.n_seen / position.seconds,
        }
        if config.schedule == "plateau":
            self.plateau.step(validation.loss)
        is_best = self.is_best(validation)
        if is_best:
            position.best_accuracy, position.best_loss = validation.accuracy, validation.loss
        position.history.append(entry)
        position.epoch += 1
        position.batch = position.n_correct = position.n_seen = 0
        position.loss_sum = position.seconds = 0.0
        # A kill between these leaves last.pt of before, and the epoch is finished again in the same way.
        if is_best:
            best = {"model": self.model.state_dict(), "epoch": entry["epoch"], "validation": entry}
            save_checkpoint(best, self.folder.best_file)
        self.save()
        self.folder.append_metrics(entry)
        progress.console.print(epoch_line(entry, config.epochs), highlight=False)

    def is_best(self, validation: Score) -> bool:
        """Whether this validation accuracy is the best so far; the loss decides between equals."""
        best = (self.position.best_accuracy, -self.position.best_loss)
        return (validation.accuracy, -validation.loss) > best

    def save(self) -> None:
        """Write last.pt."""
        self.check_weights()
        content = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "plateau": self.plateau.state_dict(),
            "position": dataclasses.asdict(self.position),
            "rng": torch.get_rng_state(),
            "rng_cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }
        save_checkpoint(content, self.folder.last_file)
        self.saved_at = time.monotonic()

    def restore(self) -> None:
        """Go back to last.pt; a run killed before its first checkpoint starts over."""
        if not self.folder.last_file.exists():
            return
        content = load_checkpoint(self.folder.last_file)
        try:
            self.model.load_state_dict(content["model"])
            self.optimizer.load_state_dict(content["optimizer"])
            self.plateau.load_state_dict(content["plateau"])
            self.position = Position(**content["position"])
            torch.set_rng_state(content["rng"])
            if self.device.type == "cuda" and content["rng_cuda"] is not None:
                torch.cuda.set_rng_state(content["rng_cuda"], self.device)
        except (KeyError, TypeError, RuntimeError, ValueError) as error:
            raise RunError(
                f"{self.folder.last_file} does not belong to the configuration in {self.folder.config_file} ({error}); "
                "restore both from a copy, or start a new run."
            ) from error
        self.folder.write_metrics(self.position.history)

    def check_weights(self) -> None:
        """Refuse to save weights that are not finite."""
        for name, parameter in self.model.named_parameters():
            if not parameter.isfinite().all():
                raise self.non_finite(f"weight {name}", math.nan)

    def non_finite(self, what: str, value: float) -> NonFiniteError:
        """The error that says what is not finite, where, and what to do."""
        where = f"epoch {self.position.epoch + 1}, step {self.position.step + 1}"
        return NonFiniteError(
            f"The {what} became {value} in {where}; training has stopped and the last good checkpoint is "
            f"{self.folder.last_file}: try a new run with a lower --learning-rate (now {self.config.learning_rate:g}) "
            f"or a lower --clip (now {self.config.clip})."
        )

    def obey_stop(self) -> None:
        """Save and raise Interrupted where a signal asked to stop."""
        if self.stop.received is not None:
            self.save()
            raise Interrupted(
                f"Stopped by {signal.Signals(self.stop.received).name} after step {self.position.step}; continue with "
                f"`aru train --resume {self.folder.path}`."
            )


class _StopRequest:
    """Within the block, the first SIGINT or SIGTERM is only noted; the second acts as it would have without."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> None:
        # Python lets only the main thread set handlers.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._note)

    def __exit__(self, *_: Any) -> None:
        self._restore()

    def _note(self, number: int, _frame: Any) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()


def epoch_order(n: int, seed: int, epoch: int) -> Tensor:
    """The order of the n training examples in an epoch, a permutation of 0 ... n-1.

    It depends on the seed and the epoch alone, so that a run can be resumed anywhere.
    """
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


def epoch_line(entry: dict[str, Any], n_epochs: int) -> str:
    """One line that tells how an epoch went."""
    return (
        f"epoch {entry['epoch']:>{len(str(n_epochs))}}/{n_epochs}  "
        f"train loss {entry['train_loss']:.4f} ({entry['train_accuracy']:.1%})  "
        f"validation {entry['validation_loss']:.4f} ({entry['validation_accuracy']:.1%})  "
        f"{entry['sequences_per_second']:,.0f} seq/s"
    )


_NO_NUMBERS = {"loss": "-", "accuracy": "-", "speed": "-"}


@contextmanager
def _progress_bar(console: Console) -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]} ({task.fields[accuracy]})"),
        TextColumn("{task.fields[speed]} seq/s"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
    )
    # The bar goes away at the end: what stays is one line an epoch. A file or a pipe gets only those.
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield progress
