"""A network with its optimizer, and one step of training."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from aru_kernels import ARUN, GammaRNN, parameter_groups
from aru_kernels.noise import gaussian
from aru_lab.data.sequences import Sequences
from aru_lab.data.summary import targets_of
from aru_lab.data.targets import Target
from aru_lab.data.tasks import Task
from aru_lab.errors import ConfigError, number_of
from aru_lab.networks.classifier import STATIC, driven_rnn, freeze
from aru_lab.networks.names import ADAPTABLE
from aru_lab.networks.perturbations import Perturbation
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.counts import Counts
from aru_lab.runs.distributed import World
from aru_lab.runs.evaluation import build_for, perturbed, read_out, scored, to_tensors
from aru_lab.runs.finite import NotFinite
from aru_lab.runs.losses import balanced_weights, loss_of, n_right, rate_penalty
from aru_lab.runs.runtime import resolve_device, resolve_dtype
from aru_lab.runs.schedules import PLATEAUS
from aru_lab.runs.state import put_weights

PLATEAU_EPS = 1e-8
STATE_SEQUENCES = 32
OPTIMIZERS = {"adam": torch.optim.Adam, "rmsprop": torch.optim.RMSprop}
# What an optimizer keeps of each parameter.
_KEPT = {"adam": {"step", "exp_avg", "exp_avg_sq"}, "rmsprop": {"step", "square_avg"}}
# What may differ between the optimizer of a checkpoint and that of its configuration: the rate, and which kernels run.
_FREE = {"lr", "fused", "foreach", "capturable", "differentiable"}


@dataclass(frozen=True)
class Batch:
    """The training examples of one step.

    index: places of the examples; perturbation: what perturbs all of them, or None; seeds: one for each example; step:
    number of the step, from 0.
    """

    index: Tensor
    perturbation: Perturbation | None
    seeds: list[int]
    step: int


class Learner:
    """A freshly initialised network and its optimizer. All processes of a world hold the same.

    Args:
        config: configuration of the run, with a number as learning rate.
        task: task of the configuration.
        world: processes of the run.

    Attributes:
        factors: rate of each of the optimizer's groups as a multiple of the learning rate.

    Raises:
        ConfigError: the device can't be used, or parts are frozen that the network does not have.
    """

    def __init__(self, config: TrainConfig, task: Task, world: World) -> None:
        self.config, self.world = config, world
        self.device = world.device(resolve_device(config.device))
        self.dtype = resolve_dtype(config.dtype)
        torch.manual_seed(config.seed)
        self.model = build_for(config, task, self.device)
        freeze(self.model, config.freeze)
        groups = self._groups()
        self.factors = [group["lr"] for group in groups]
        # all parameters of a group in one kernel, not in ten
        fused = {"fused": True} if config.optimizer == "adam" and self.device.type in ("cuda", "cpu") else {}
        self.optimizer = OPTIMIZERS[config.optimizer](groups, **fused)
        self._set_rate(config.learning_rate)
        # With eps above 0 the lowest rates would stop falling before the others.
        eps = PLATEAU_EPS if config.learning_rate_scaling == "none" else 0.0
        factor, patience = PLATEAUS.get(config.schedule, PLATEAUS["plateau"])
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer, factor=factor, patience=patience, eps=eps
        )
        self.parallel: Any = self.model
        self.class_weights: Tensor | None = None

    def weigh_classes(self, examples: Sequences, target: Target) -> None:
        """Balance the classes of the training examples in the loss, where the configuration asks for it.

        Raises:
            ConfigError: the targets are numbers.
        """
        if self.config.class_weights is None:
            return
        if not target.is_classes:
            raise ConfigError(
                f"class_weights: got {self.config.class_weights} with targets that are numbers, expected classes."
            )
        weights = balanced_weights(targets_of(examples), target.n_outputs)
        self.class_weights = torch.from_numpy(weights).to(self.device, self.dtype)

    def _groups(self) -> list[dict[str, Any]]:
        """Parameter groups of the optimizer for a learning rate of 1."""
        if self.config.learning_rate_scaling == "fan-in":
            return parameter_groups(self.model, 1.0)
        return [{"params": [parameter for parameter in self.model.parameters() if parameter.requires_grad], "lr": 1.0}]

    def _set_rate(self, learning_rate: float) -> None:
        for group, factor in zip(self.optimizer.param_groups, self.factors, strict=True):
            group["lr"] = learning_rate * factor

    def connect(self) -> None:
        """Average the gradients over the processes from now on."""
        if self.world.size > 1:
            self.parallel = DistributedDataParallel(self.model)

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

    @property
    def learning_rate(self) -> float:
        """The base learning rate of the optimizer; the rate of each group is a multiple of it."""
        return self.optimizer.param_groups[0]["lr"] / self.factors[0]

    def step(self, examples: Sequences, batch: Batch, learning_rate: float | None) -> Counts:
        """Take one step of the optimizer.

        Args:
            examples: training examples.
            batch: those of this step.
            learning_rate: of this step; None keeps the present one.

        Returns:
            The numbers of the step.

        Raises:
            NotFinite: a weight overflowed.
        """
        if learning_rate is not None:
            self._set_rate(learning_rate)
        counts = self.gradients(examples, batch)
        counts.norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip or math.inf)
        try:
            self.optimizer.step()
        except (RuntimeError, OverflowError) as error:
            if "overflow" not in str(error):
                raise
            raise NotFinite("update of a weight", math.inf, counts.step) from error
        counts.send()
        return counts

    def gradients(self, examples: Sequences, batch: Batch) -> Counts:
        """Put the gradient of the mean loss of a batch, penalties included, into the parameters.

        The counts hold the loss without penalties. Arguments as in `step`.
        """
        mine = self.world.share(torch.arange(len(batch.index)))
        n = examples.n_targets(batch.index.numpy())
        counts = Counts(n, len(mine) > 0, batch.step + 1)
        if not counts.take_part:  # fewer examples than processes: take part with an example that does not count
            mine = torch.zeros(1, dtype=torch.long)
        self.optimizer.zero_grad()
        chunks = mine.chunk(self.config.accumulate)
        for k, chunk in enumerate(chunks):
            unfinished = self.world.size > 1 and k < len(chunks) - 1
            with self.parallel.no_sync() if unfinished else contextlib.nullcontext():
                seeds = [batch.seeds[place] for place in chunk.tolist()]
                loss, penalty, outputs, y = self._forward(examples, batch.index[chunk], batch.perturbation, seeds)
                # DistributedDataParallel takes the mean over the processes.
                factor = counts.take_part * self.world.size
                total = loss * (factor * len(y) / n)
                if penalty is not None:
                    total = total + penalty * (factor * len(chunk) / len(batch.index))
                total.backward()
            counts.add(loss.detach(), n_right(outputs.detach(), y), len(y))
        self._penalise_weights()
        return counts

    @torch.no_grad()
    def _penalise_weights(self) -> None:
        """Add the gradient of the weight penalty, which is the same in all processes."""
        if self.config.weight_penalty > 0:
            for parameter in self.model.parameters():
                if parameter.requires_grad and parameter.dim() > 1:
                    parameter.grad.add_(parameter, alpha=2 * self.config.weight_penalty)

    def _forward(
        self, examples: Sequences, index: Tensor, perturbation: Perturbation | None, seeds: list[int]
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        """Mean loss, rate penalty (None where there is none), outputs and targets of the examples at `index`."""
        x, y = to_tensors(examples, index, self.device, self.dtype)
        if self.config.input_noise > 0:
            x = x + self.config.input_noise * torch.randn_like(x)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.mixed_precision):
            reading = read_out(examples, index)
            reading |= perturbed(self.model, x, perturbation, seeds, examples.centre)
            if self.config.noise > 0:
                reading["drive"] = self._noisy(reading.get("drive"), x)
            if self.config.rate_penalty > 0:
                outputs, states = self.parallel(x, **reading, return_states=True)
                lengths = None if examples.lengths is None else torch.from_numpy(examples.lengths)[index]
                penalty = self.config.rate_penalty * rate_penalty(states.to(self.dtype), lengths)
            else:
                outputs, penalty = self.parallel(x, **reading), None
        outputs, y = scored(outputs.to(self.dtype), y, examples, index)
        return loss_of(outputs, y, weights=self.class_weights), penalty, outputs, y

    def _noisy(self, drive: Tensor | None, x: Tensor) -> Tensor:
        """The private noise of the neurons for inputs x (B, T, I), added to a drive: (T, B, H)."""
        sizes = self.model.n_steps(x.shape[1]), len(x), self.model.recurrent.hidden_size
        leak = self.config.leak if self.config.model in ADAPTABLE else None
        noise = gaussian(*sizes, self.config.noise, leak=leak or 1.0, device=x.device, dtype=x.dtype)
        if drive is None:
            return noise
        return noise + (drive[:, None, None] if drive.dim() == 1 else drive)

    def largest_state(self, examples: Sequences) -> float:
        """The largest |h| of the first examples, over all steps and neurons; nothing of the training changes."""
        return self._run_recurrent(examples)[0].abs().max().item()

    def gamma_metrics(self, examples: Sequences) -> dict[str, float]:
        """Mean and deviation over the neurons of the gain n and the saturation s; empty for networks without them.

        Of an ARUN, n and s of a neuron are their means over the steps of the first examples. Nothing of the training
        changes.
        """
        recurrent = self.model.recurrent
        if isinstance(recurrent, GammaRNN):
            values = [recurrent.get_parameter(name).detach() for name in STATIC]
        elif isinstance(recurrent, ARUN):
            trace = self._run_recurrent(examples, return_trace=True)[-1]
            values = [trace.n.mean(dim=(0, 1)), trace.s.mean(dim=(0, 1))]
        else:
            return {}
        metrics = {}
        for name, value in zip(("gain", "saturation"), values, strict=True):
            metrics[f"{name}_mean"] = value.double().mean().item()
            metrics[f"{name}_sd"] = value.double().std(correction=0).item()
        return metrics

    def _run_recurrent(self, examples: Sequences, **options: Any) -> tuple[Any, ...]:
        """What the recurrent part gives for the first examples, without gradients and in evaluation mode."""
        x, _ = to_tensors(examples, slice(STATE_SEQUENCES), self.device, self.dtype)
        was_training = self.model.training
        self.model.eval()
        with torch.no_grad():
            x = (x if self.model.encoder is None else self.model.encoder(x)).transpose(0, 1)
            recurrent = self.model.recurrent
            is_torch = isinstance(recurrent, nn.RNNBase)
            found = (driven_rnn(recurrent, x, None),) if is_torch else recurrent(x, **options)
        self.model.train(was_training)
        return found

    def state(self) -> dict[str, Any]:
        """The part of a checkpoint that belongs to the network and its optimizer."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "plateau": self.plateau.state_dict(),
        }

    def load_state(self, content: dict[str, Any]) -> None:
        """Load a result of `state`.

        Raises:
            Exception: of many types, where the content is another network's.
        """
        put_weights(self.model, content["model"])
        self._check_optimizer(content["optimizer"], started=content["position"]["step"] > 0)
        self._check_plateau(content["plateau"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.plateau.load_state_dict(content["plateau"])

    def _check_optimizer(self, saved: dict[str, Any], started: bool) -> None:
        """Raise ValueError unless the state of an optimizer, which has taken steps if `started`, fits this one."""
        groups = saved["param_groups"], self.optimizer.state_dict()["param_groups"]
        n_saved, n_own = map(len, groups)
        if n_saved != n_own:
            raise ValueError(
                f"its optimizer has {number_of(n_saved, 'group')} of learning rates, and learning_rate_scaling "
                f"{self.config.learning_rate_scaling} makes {n_own}"
            )
        for theirs, own in zip(*groups, strict=True):
            if not _of_kind(theirs["lr"], own["lr"]) or theirs["lr"] < 0:
                raise ValueError(
                    f"its optimizer has the learning rate {theirs['lr']!r}, expected a number of at least 0"
                )
            for name in own.keys() & theirs.keys() - _FREE:
                if theirs[name] != own[name]:
                    raise ValueError(f"its optimizer has the {name} {theirs[name]!r}, expected {own[name]!r}")
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        if started and saved["state"].keys() != set(range(len(parameters))):
            raise ValueError(f"its optimizer has the state of {len(saved['state'])} of {len(parameters)} parameters")
        for k, state in saved["state"].items():
            shapes = {name: value.shape for name, value in state.items()}
            step = shapes.pop("step", None)
            kept = _KEPT[self.config.optimizer] - {"step"}
            if step != () or shapes != dict.fromkeys(kept, parameters[k].shape):
                raise ValueError(f"its optimizer has another state of parameter {k} than {self.config.optimizer} keeps")

    def _check_plateau(self, saved: dict[str, Any]) -> None:
        """Raise ValueError unless the state of a scheduler, of this version of torch or another one, fits this one."""
        own = self.plateau.state_dict()
        for name, value in saved.items():
            fits = _of_kind(value, own[name]) if name in own else not hasattr(type(self.plateau), str(name))
            if not fits:
                raise ValueError(f"its plateau has the {name} {value!r}")


def _of_kind(value: Any, own: Any) -> bool:
    """Whether both are numbers, or lists of as many numbers, or of one type."""
    if isinstance(own, list):
        return isinstance(value, list) and len(value) == len(own) and all(map(_of_kind, value, own))
    if isinstance(own, (int, float)) and not isinstance(own, bool):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is type(own)
