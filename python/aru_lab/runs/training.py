"""Training that can be killed at any moment and resumed to the bit-identical result.

All that the next step depends on is in last.pt: weights, optimiser, scheduler, random state, position and the sums of
the epoch under way. The order of the examples and the perturbation of a batch are functions of the seed and the
position. metrics.jsonl is written anew from last.pt when a run is resumed, so that a line too many or half a line does
not survive.
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
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from aru_lab.runs.folder import RunFolder, save_checkpoint
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.counts import Counts
from aru_lab.data.sequences import TaskData
from aru_lab.runs.display import NO_NUMBERS, epoch_line, training_bar
from aru_lab.runs.distributed import World, joined
from aru_lab.errors import ConfigError, Interrupted, NonFiniteError, RunError
from aru_lab.runs.evaluation import (
    Score,
    build_for,
    or_to_the_data,
    perturbed,
    score,
    take_initial_weights,
    task_of,
    to_tensors,
)
from aru_lab.files import reason
from aru_lab.runs.logs import Logs, summary_writer
from aru_lab.networks.classifier import count_parameters, freeze
from aru_lab.networks.perturbations import Perturbation, parse
from aru_lab.runs.provenance import environment
from aru_lab.runs.runtime import resolve_device, resolve_dtype, run_on, set_threads
from aru_lab.runs.schedules import epoch_order, is_finished, quality, scheduled_rate
from aru_lab.runs.signals import StopRequest
from aru_lab.runs.state import (
    Position,
    check_continues,
    check_data,
    check_resumable,
    load_last,
    put_weights,
    run_of,
    sources_of,
)
from aru_lab.terminal import plain, say

PLATEAU_PATIENCE = 5
PLATEAU_FACTOR = 0.5
OPTIMIZERS = {"adam": torch.optim.Adam, "rmsprop": torch.optim.RMSprop}

OnEpoch = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class TrainResult:
    """Where a finished run is, its metrics (one dictionary an epoch) and its number of trained parameters."""

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
        # All that may be refused comes before the folder, so that an argument that does not fit leaves none behind.
        with world.together():
            folder.check_free()
            if config.threads is not None:
                set_threads(config.threads)
            trainer = _Trainer(config, folder, console or Console(), world, on_epoch)
            trainer.initialise()
            trainer.environment = environment(trainer.device)
            trainer.environment |= {"processes": world.size, "sources": sources_of(config)}
        with world.together():
            if world.is_first:
                folder.make()
                stack.enter_context(folder.locked())
                folder.create(config, trainer.environment)
        say(trainer.console, "Run folder: ", plain(folder.path, "bold"))
        for remark in trainer.remarks:
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
                    f"`torchrun --nproc-per-node {n_processes} -m aru_lab train --resume {folder.path}`."
                )
            if world.is_first:
                stack.enter_context(folder.locked())
            # The number of threads decides the order of some sums, and so their last bits.
            set_threads(started_on.get("threads", torch.get_num_threads()))
            check_data(config, started_on)
            trainer = _Trainer(config, folder, console or Console(), world, on_epoch)
            trainer.environment = started_on
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
    def __init__(
        self,
        config: TrainConfig,
        folder: RunFolder,
        console: Console,
        world: World | None = None,
        on_epoch: OnEpoch | None = None,
    ) -> None:
        self.config = config
        self.folder = folder
        self.world = world or World()
        self.console = console if self.world.is_first else Console(quiet=True)
        self.on_epoch = on_epoch
        self.device = self.world.device(resolve_device(config.device))
        self.dtype = resolve_dtype(config.dtype)
        self.perturbations = [parse(text) for text in config.perturb]
        task = task_of(config)
        torch.manual_seed(config.seed)
        self.model = build_for(config, task, self.device)
        freeze(self.model, config.freeze)
        self.data: TaskData = task.load(config.data_dir, config.subset, config.validation_subset)
        self.remarks = task.remarks
        self.environment: dict[str, Any] = {}
        for perturbation in self.perturbations:
            perturbation.drive(self.model.n_steps(self.data.train.x.shape[1]))
        # A backend that can't serve is refused here, before the run folder is made.
        with run_on(config.backend, self.model, config.matmul_precision):
            self.try_mixed_precision()
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        # all parameters in one kernel, not in ten
        fused = {"fused": True} if config.optimizer == "adam" and self.device.type == "cuda" else {}
        self.optimizer = OPTIMIZERS[config.optimizer](trained, lr=config.learning_rate, **fused)
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer, factor=PLATEAU_FACTOR, patience=PLATEAU_PATIENCE
        )
        if self.world.rank:  # noise of its own for each process
            torch.manual_seed((config.seed + self.world.rank * 1_000_003) % 2**63)
        self.position = Position()
        self.under_way: deque[Counts] = deque()
        self.lag = 1 if self.device.type == "cuda" else 0
        self.n_batches = math.ceil(len(self.data.train) / config.batch_size)
        self.saved_at = time.monotonic()
        self.stop = StopRequest()
        self.writer_class = summary_writer() if config.tensorboard and self.world.is_first else None
        self.logs: Logs | None = None

    def try_mixed_precision(self) -> None:
        """Refuse mixed precision where the device has no kernel for the network in bfloat16."""
        if not self.config.mixed_precision:
            return
        trial = torch.zeros(2, *self.model.trial_shape, device=self.device, dtype=self.dtype)
        self.model.eval()
        try:
            with torch.autocast(self.device.type, torch.bfloat16):
                self.model(trial)
        except RuntimeError as error:
            raise ConfigError(
                f"mixed_precision: this device can't run the model {self.config.model} in bfloat16 "
                f"({str(error).splitlines()[0].split('. ')[0]}); leave --mixed-precision away."
            ) from error
        self.model.train()

    def initialise(self) -> None:
        """Take the initial weights from the runs that the configuration names; RunError if they can't be had."""
        take_initial_weights(self.model, self.config, self.device)

    def run(self) -> TrainResult:
        """Train from the present position to the end."""
        with run_on(self.config.backend, self.model, self.config.matmul_precision):
            return self._run()

    def _run(self) -> TrainResult:
        config, position = self.config, self.position
        self.parallel: Any = self.model if self.world.size == 1 else DistributedDataParallel(self.model)
        if self.position.step == 0:
            # From here on there is always a good checkpoint to go back to.
            self.save()
        with self.world.together():
            if self.writer_class is not None:
                self.logs = Logs(self.writer_class, self.folder.path / "tensorboard", position.epoch + 1)
        with self.stop, training_bar(self.console) as progress:
            bar = progress.add_task("", total=config.epochs * self.n_batches, completed=position.step, **NO_NUMBERS)
            while not is_finished(config, position.history):
                self.train_epoch(progress, bar)
                self.finish_epoch(progress)
        with self.world.together():
            if self.logs is not None:
                self.logs.close()
        return TrainResult(self.folder.path, position.history, count_parameters(self.model))

    def train_epoch(self, progress: Progress, bar: Any) -> None:
        """Take the remaining steps of the present epoch."""
        config, position = self.config, self.position
        order = epoch_order(len(self.data.train), config.seed, position.epoch)
        started = time.monotonic() - position.seconds
        self.model.train()
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
                    accuracy=f"{position.n_correct / position.n_seen:.1%}",
                    speed=f"{position.n_seen / position.seconds:,.0f}",
                )
            self.obey_stop()
            # The first process's clock decides for all.
            due = self.world.is_first and time.monotonic() - self.saved_at >= config.checkpoint_seconds
            if self.world.max(due)[0]:
                self.save()

        self.settle()
        position.seconds = time.monotonic() - started

    def step(self, index: Tensor) -> Counts:
        """One step of the optimiser; what is to be read of it."""
        for group in self.optimizer.param_groups:
            if self.config.schedule != "plateau":
                group["lr"] = scheduled_rate(self.config, self.position.step, self.config.epochs * self.n_batches)
        counts = self.gradients(index)
        counts.norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip or math.inf)
        try:
            self.optimizer.step()
        except (RuntimeError, OverflowError) as error:
            if "overflow" not in str(error):
                raise
            raise self.non_finite("update of a weight", math.inf, counts.step) from error
        counts.send()
        return counts

    def settle(self, left: int = 0) -> None:
        """Read what the steps under way gave, all but the last `left` of them."""
        while len(self.under_way) > left:
            counts = self.under_way.popleft()
            loss, n_correct, norm = counts.result(self.world)
            for what, value in (("loss", loss), ("norm of the gradient", norm)):
                if not math.isfinite(value):
                    raise self.non_finite(what, value, counts.step)
            self.position.loss_sum += loss * counts.n
            self.position.n_correct += n_correct
            self.position.n_seen += counts.n

    def gradients(self, index: Tensor) -> Counts:
        """Put the gradient of the mean loss of the examples at `index` into the parameters."""
        n = len(index)
        perturbation, seeds = self.draw_perturbation(n)
        mine = self.world.share(torch.arange(n))
        counts = Counts(n, len(mine) > 0, self.position.step + 1)
        if not counts.take_part:  # fewer examples than processes: take part with an example that does not count
            mine = torch.zeros(1, dtype=torch.long)
        self.optimizer.zero_grad()
        chunks = mine.chunk(self.config.accumulate)
        for k, chunk in enumerate(chunks):
            alone = self.world.size > 1 and k < len(chunks) - 1
            with self.parallel.no_sync() if alone else contextlib.nullcontext():
                loss, logits, y = self.forward(index[chunk], perturbation, [seeds[place] for place in chunk.tolist()])
                # DistributedDataParallel takes the mean over the processes.
                (loss * (counts.take_part * self.world.size * len(chunk) / n)).backward()
            counts.add(loss.detach(), (logits.detach().argmax(dim=1) == y).sum(), len(chunk))
        return counts

    def forward(
        self, index: Tensor, perturbation: Perturbation | None, seeds: list[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mean loss, logits and labels of the examples at `index`."""
        x, y = to_tensors(self.data.train, index, self.device, self.dtype)
        if self.config.input_noise > 0:
            x = x + self.config.input_noise * torch.randn_like(x)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.mixed_precision):
            logits = self.parallel(x, **perturbed(self.model, x, perturbation, seeds))
        logits = logits.to(self.dtype)
        return nn.functional.cross_entropy(logits, y), logits, y

    def draw_perturbation(self, n: int) -> tuple[Perturbation | None, list[int]]:
        """The perturbation of this step's batch, or none, and a seed for each of its n examples."""
        if not self.perturbations:
            return None, [0] * n
        generator = torch.Generator().manual_seed((self.config.seed * 1_000_003 + self.position.step) % 2**63)
        share, which = torch.rand(2, generator=generator).tolist()
        first = int(torch.randint(2**62, (), generator=generator))
        chosen = self.perturbations[int(which * len(self.perturbations))] if share < self.config.perturb_share else None
        return chosen, list(range(first, first + n))

    def validate(self) -> Score:
        """Score all validation examples, each process its share."""
        batch_size = max(self.config.batch_size, 250)
        if self.world.size == 1:
            return score(self.model, self.data.validation, batch_size, between_batches=self.obey_stop)
        self.world.share_buffers(self.model)
        mine = self.data.validation.take(slice(self.world.rank, None, self.world.size))
        part = score(self.model, mine, batch_size) if len(mine) else Score(0.0, 0.0, 0)
        loss, n_correct, n = self.world.sum(part.loss * part.n, round(part.accuracy * part.n), part.n)
        self.obey_stop()
        return Score(loss / n, n_correct / n, int(n))

    def finish_epoch(self, progress: Progress) -> None:
        """Validate, then save the epoch: best.pt, last.pt, the line in metrics.jsonl, in this order."""
        config, position = self.config, self.position
        validation = self.validate()
        if not math.isfinite(validation.loss):
            raise self.non_finite("validation loss", validation.loss, position.step + 1)
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
        is_best = quality(entry) > (position.best_accuracy, -position.best_loss)
        if is_best:
            position.best_accuracy, position.best_loss = validation.accuracy, validation.loss
        position.history.append(entry)
        position.epoch += 1
        position.batch = position.n_correct = position.n_seen = 0
        position.loss_sum = position.seconds = 0.0
        # A kill between these leaves last.pt of before, and the epoch is finished again in the same way.
        with self.world.together():
            if is_best and self.world.is_first:
                best = {"model": self.model.state_dict(), "epoch": entry["epoch"], "validation": entry}
                save_checkpoint({**best, "run": run_of(config, self.environment)}, self.folder.best_file)
        self.save()
        with self.world.together():
            if self.world.is_first:
                self.folder.append_metrics(entry)
            if self.logs is not None:
                self.logs.write(entry)
        say(progress.console, epoch_line(entry, config.epochs))
        if self.on_epoch is not None:
            self.on_epoch(entry)

    def save(self) -> None:
        """Write last.pt."""
        self.settle()
        self.check_weights()
        on_gpu = self.device.type == "cuda"
        content = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "plateau": self.plateau.state_dict(),
            "position": dataclasses.asdict(self.position),
            "rng": self.world.gather(torch.get_rng_state()),
            "rng_cuda": self.world.gather(torch.cuda.get_rng_state(self.device)) if on_gpu else None,
            "run": run_of(self.config, self.environment),
        }
        with self.world.together():
            if self.world.is_first:
                save_checkpoint(content, self.folder.last_file)
        self.saved_at = time.monotonic()

    def restore(self) -> None:
        """Go back to last.pt; a run killed before its first checkpoint starts over."""
        if not check_resumable(self.folder):
            self.initialise()
            return
        content = load_last(self.folder)
        check_continues(content, self.folder, self.config, self.environment)
        try:
            put_weights(self.model, content["model"])
            self.optimizer.load_state_dict(content["optimizer"])
            self.plateau.load_state_dict(content["plateau"])
            self.position = Position(**content["position"])
            if self.position.batch > self.n_batches:
                raise ValueError(f"it counts {self.position.batch} batches in an epoch of {self.n_batches}")
            torch.set_rng_state(content["rng"][self.world.rank])
            if self.device.type == "cuda" and content["rng_cuda"] is not None:
                torch.cuda.set_rng_state(content["rng_cuda"][self.world.rank], self.device)
        except Exception as error:  # whatever foreign content leads to
            raise RunError(
                f"{self.folder.last_file} does not belong to the configuration in {self.folder.config_file}"
                f"{or_to_the_data(self.config)} ({reason(error)}); restore both from a copy, or start a new run."
            ) from error
        if self.world.is_first:
            self.folder.write_metrics(self.position.history)

    def check_weights(self) -> None:
        """Refuse to save weights that are not finite."""
        for name, parameter in self.model.named_parameters():
            if not parameter.isfinite().all():
                raise self.non_finite(f"weight {name}", math.nan, self.position.step + 1)

    def non_finite(self, what: str, value: float, step: int) -> NonFiniteError:
        """The error that says what is not finite, where, and what to do."""
        where = f"epoch {self.position.epoch + 1}, step {step}"
        advice = (
            f"try a new run with a lower --learning-rate (now {self.config.learning_rate:g}) or a lower --clip (now "
            f"{self.config.clip})"
        )
        if step == 1 and what in ("loss", "norm of the gradient"):  # no weight has changed yet
            largest = float(abs(self.data.train.x).max())
            advice = f"the inputs, of up to {largest:.3g}, are too large for this network: scale them, or {advice}"
        return NonFiniteError(
            f"The {what} became {value} in {where}; training has stopped and the last good checkpoint is "
            f"{self.folder.last_file}: {advice}."
        )

    def obey_stop(self) -> None:
        """Save and raise Interrupted where a signal asked to stop; one process asked is all asked."""
        received = int(self.world.max(self.stop.received or 0)[0])
        if received:
            self.save()
            raise Interrupted(
                f"Stopped by {signal.Signals(received).name} after step {self.position.step}; continue with "
                f"`aru train --resume {self.folder.path}`."
            )
