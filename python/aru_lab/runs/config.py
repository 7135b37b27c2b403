"""The one typed configuration of a training run; the command line is made from it and config.json keeps it."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from aru_lab.arguments import MOST, check_choice, check_positive, check_whole
from aru_lab.data.preparation import Preparation
from aru_lab.data.targets import KINDS
from aru_lab.data.tasks import TASKS, Task, find_task, is_data_file
from aru_lab.data.transform import MISSING
from aru_lab.errors import ConfigError
from aru_lab.networks.names import ADAPTABLE, MODELS, PARTS

CLASS_WEIGHTS = ("balanced",)
SCHEDULES = ("constant", "cosine", "plateau")
OPTIMIZERS = ("adam", "rmsprop")
DTYPES = ("float32", "float64")
MATMUL_PRECISIONS = ("highest", "high", "medium")
SCALINGS = ("fan-in", "none")

# (T, learning rate): the default by fan-in for sequences of at most T steps. The slope of γ acts on h at every step, so
# what an update adds to the growth of h rises with the rate times T.
LEARNING_RATES = ((256, 1e-2), (784, 2e-3), (MOST, 1e-3))
# The default for one rate, and for an encoder in front, whose weights learn at the full rate.
ONE_LEARNING_RATE = 2e-3

# Fields that do not define the experiment: where files are and how results are computed.
INCIDENTAL = ("data_dir", "output", "device", "backend", "threads", "checkpoint_seconds", "tensorboard")
# Other runs, whose folders may move: an experiment is identified by their names, and their weights by a checksum.
SOURCES = ("initial_from", "controller_from")
# Fields that every version writes into config.json; a file without one of them is damaged.
ALWAYS_SAVED = (
    "task",
    "model",
    "hidden_size",
    "controller_size",
    "epochs",
    "batch_size",
    "learning_rate",
    "schedule",
    "clip",
    "input_noise",
    "seed",
    "subset",
    "validation_subset",
    "dtype",
)

MOST_THREADS = 1024


def default_learning_rate(task: Task, model: str, scaling: str) -> float:
    """The default learning rate.

    Args:
        task: the task, which knows its number of steps T.
        model: name of the network.
        scaling: one of SCALINGS.

    Examples:
        >>> [default_learning_rate(find_task(name), "arun", "fan-in") for name in ("psdigits", "psmnist", "scifar10")]
        [0.01, 0.002, 0.001]
        >>> default_learning_rate(find_task("psdigits"), "lstm", "fan-in")
        0.002
    """
    if scaling == "none" or model not in ADAPTABLE or task.encoder != "linear":
        return ONE_LEARNING_RATE
    return next(rate for most, rate in LEARNING_RATES if task.n_steps <= most or most == MOST)


def _rates_help() -> str:
    """The help of `learning_rate`, with the default of every task."""
    by_rate: dict[float, list[str]] = {}
    for name, task in TASKS.items():
        by_rate.setdefault(default_learning_rate(task, "arun", "fan-in"), []).append(name)
    tasks = "; ".join(f"{rate:g} for {', '.join(names)}" for rate, names in by_rate.items())
    lengths = ", ".join(f"{rate:g} up to T = {most}" for most, rate in LEARNING_RATES[:-1])
    return (
        "The optimizer's learning rate at its highest. None takes a default. By fan-in, arun and the gamma networks "
        f"take one by the number of steps T, which --pixels-per-step divides: {lengths}, {LEARNING_RATES[-1][1]:g} for "
        f"longer sequences, {ONE_LEARNING_RATE:g} behind an encoder. With one pixel a step that is {tasks}. The other "
        f"networks, and all networks with --learning-rate-scaling none, take {ONE_LEARNING_RATE:g}."
    )


def _one_of(names: tuple[str, ...] | list[str]) -> Any:
    return tyro.conf.arg(metavar="{" + ",".join(names) + "}")


@dataclass(frozen=True)
class TrainConfig:
    """What is trained on what, and how.

    Raises:
        ConfigError: a value is of the wrong type or out of range; the sentence names the argument, what came and what
            was expected.
    """

    task: Annotated[tyro.conf.Positional[str], _one_of((*sorted(TASKS), "FILE.npz", "FILE.mat"))] = "psdigits"
    """What to learn: a task of the list, or a file of sequences x (N, T, I) with a label or a number each, y (N,); see
    docs/data.md. The run keeps the file's absolute path and checksum."""

    model: Annotated[str, _one_of(MODELS)] = "arun"
    """The recurrent network in front of the linear read-out."""

    hidden_size: int = 64
    """H, neurons of the recurrent network."""

    controller_size: int = 16
    """G, hidden units of the controller that all neurons share (arun only)."""

    pixels_per_step: int = 1
    """Consecutive pixels (after the permutation) that make one step; I is so many times larger and T shorter."""

    epochs: int = 20
    """Passes through the training examples, at most."""

    early_stop: int | None = None
    """Stop after so many epochs without a better validation accuracy; None trains all epochs."""

    batch_size: int = 50
    """B, sequences a step of the optimizer, over all processes together."""

    accumulate: int = 1
    """Parts into which a process splits its share of a batch; their gradients are summed, for less memory."""

    optimizer: Annotated[str, _one_of(OPTIMIZERS)] = "adam"
    """Adam or RMSprop, with torch's defaults beside the learning rate."""

    learning_rate: Annotated[float | None, tyro.conf.arg(help=_rates_help())] = None

    learning_rate_scaling: Annotated[str, _one_of(SCALINGS)] = "fan-in"
    """fan-in: in the adaptive and gamma networks a matrix with F > 4 columns learns at 4/F of the learning rate, and
    what determines s at a tenth or less (aru_kernels.parameter_groups); relu, lstm and gru have one rate. none: all
    parameters learn at the learning rate, as in the paper."""

    schedule: Annotated[str, _one_of(SCHEDULES)] = "cosine"
    """Course of the learning rate: constant; cosine (5% of the steps rising, then a half cosine to 0); plateau
    (halved when the validation loss has not fallen for 5 epochs)."""

    clip: float | None = 1.0
    """Largest norm of the gradient of all parameters together; None does not clip."""

    input_noise: float = 0.0
    """Standard deviation of the normal noise added to every input of the training examples (pixels are in [0, 1])."""

    perturb: tuple[str, ...] = ()
    """Perturbations of the training, such as step:amplitude=0.5 or random-contrast:amplitude=0.2 (the authors'
    augmentation): a perturbed batch gets one of them, drawn at random."""

    perturb_share: float = 0.5
    """Probability that a training batch is perturbed, where `perturb` names any perturbation."""

    freeze: tuple[str, ...] = ()
    """Parts that keep their initial values: activation (n and s of the gamma networks, the controller of the ARUN),
    recurrent (the other weights of the recurrent network), readout, encoder."""

    initial_from: Path | None = None
    """Run whose best weights are the initial ones."""

    controller_from: Path | None = None
    """Run of an ARUN whose best controller is the initial one."""

    mixed_precision: bool = False
    """Train under torch.autocast in bfloat16 (which has the range of float32, so that losses need no scaling)."""

    seed: int = 0
    """Seed of the weights, the order of the examples and the noise; the data split and the pixel permutation are
    fixed."""

    subset: int | None = None
    """Number of training examples; None takes all."""

    validation_subset: int | None = None
    """Number of validation examples; None takes all."""

    data_dir: Path | None = None
    """Folder with MNIST's IDX files and CIFAR-10's binary files; None takes $ARU_DATA_DIR, and without it they are
    downloaded."""

    split: str | None = None
    """Of a file: shares of training, validation and test examples, such as 0.7,0.1,0.2. Every part has the same
    proportions of the classes. None divides in these shares without regard to the classes, unless the file gives parts
    or groups."""

    target: Annotated[str, _one_of(KINDS)] = "auto"
    """Of a file: what y is. auto takes floats as numbers (a regression) and everything else as classes."""

    standardise: bool = False
    """Of a file: scale each input, and targets that are numbers, to the mean 0 and the standard deviation 1 of the
    training examples; the run keeps the scale."""

    missing: Annotated[str | None, _one_of(MISSING)] = None
    """Of a file: what a missing value (NaN in x) becomes. zero: 0, which is the mean with --standardise; forward: the
    last value known before it; mask-channel: 0, with I further inputs that are 1 where a value is missing. None refuses
    NaN."""

    average_steps: int = 1
    """Of a file: average so many steps in a row, for sequences that are longer than they need to be."""

    class_weights: Annotated[str | None, _one_of(CLASS_WEIGHTS)] = None
    """balanced: the training loss of each class counts by 1 / its number of training examples, so that rare classes
    matter as much as frequent ones. None: all examples count the same."""

    keep_gaps: bool = False
    """Of a file: make a class of every whole number from 0 to the largest label, also of those that are absent."""

    output: Path | None = None
    """Run folder; None means runs/TASK-MODEL-seedSEED."""

    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda, cuda:1, ..."""

    backend: str = "auto"
    """Backend of aru_kernels for the adaptive and gamma networks; `python -m aru_kernels` lists them."""

    dtype: Annotated[str, _one_of(DTYPES)] = "float32"
    """Floating-point type of weights and inputs."""

    matmul_precision: Annotated[str, _one_of(MATMUL_PRECISIONS)] = "highest"
    """How float32 matrices are multiplied, as torch.set_float32_matmul_precision has it: as float32, or on GPUs in TF32
    (high) or bfloat16 (medium), which is faster. Sums and states stay float32."""

    threads: int | None = None
    """CPU threads, at most 1024; None keeps torch's choice. A resumed run uses as many as it started with."""

    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints inside an epoch; there is always one at an epoch's end. 0 saves every step."""

    tensorboard: bool = False
    """Write the metrics for TensorBoard too, into the run folder's tensorboard/."""

    def __post_init__(self) -> None:
        if isinstance(self.task, str) and is_data_file(self.task):
            object.__setattr__(self, "task", os.path.abspath(self.task))
        else:
            check_choice("task", self.task, sorted(TASKS), " or the path of an .npz or .mat file")
        if (changed := self.preparation.changed) and not is_data_file(self.task):
            raise ConfigError(
                f"{changed[0]}: got {getattr(self, changed[0])!r} with the task {self.task}, expected the path of a "
                "file of sequences: the option says how such a file is read."
            )
        check_choice("model", self.model, MODELS)
        if self.class_weights is not None:
            check_choice("class_weights", self.class_weights, CLASS_WEIGHTS, " or None")
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("learning_rate_scaling", self.learning_rate_scaling, SCALINGS)
        check_choice("dtype", self.dtype, DTYPES)
        check_choice("matmul_precision", self.matmul_precision, MATMUL_PRECISIONS)
        for name in ("hidden_size", "controller_size", "pixels_per_step", "epochs", "batch_size", "accumulate"):
            check_whole(name, getattr(self, name), 1, MOST)
        for name in ("subset", "validation_subset", "early_stop"):
            check_whole(name, getattr(self, name), 1, MOST, optional=True)
        check_whole("threads", self.threads, 1, MOST_THREADS, optional=True)
        for name in ("perturb", "freeze"):
            object.__setattr__(self, name, _as_names(name, getattr(self, name)))
        for part in self.freeze:
            check_choice("freeze", part, PARTS)
        for name in ("mixed_precision", "tensorboard"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name}: got {getattr(self, name)!r}, expected True or False.")
        check_whole("seed", self.seed, 0, 2**63 - 1)
        check_positive("learning_rate", self.learning_rate, optional=True)
        check_positive("input_noise", self.input_noise, or_zero=True)
        check_positive("clip", self.clip, optional=True)
        check_positive("checkpoint_seconds", self.checkpoint_seconds, or_zero=True)
        for name, kind in (("device", "a torch device such as cpu or cuda:0"), ("backend", "a backend of aru_kernels")):
            if not isinstance(getattr(self, name), str):
                raise ConfigError(f"{name}: got {getattr(self, name)!r}, expected auto or the name of {kind}.")
        share = self.perturb_share
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
            raise ConfigError(f"perturb_share: got {share!r}, expected a probability from 0 to 1.")
        if self.controller_from is not None and self.model != "arun":
            raise ConfigError(
                f"controller_from: got {self.controller_from} with the model {self.model}, expected the model arun: "
                "only this model has a controller."
            )
        for name in ("data_dir", "output", *SOURCES):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _as_path(name, getattr(self, name)))

    @property
    def preparation(self) -> Preparation:
        """How a file of sequences is read."""
        return Preparation(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Preparation)})

    @property
    def run_folder(self) -> Path:
        """The run folder: `output` where it is given, else runs/TASK-MODEL-seedSEED."""
        task = Path(self.task).stem if is_data_file(self.task) else self.task
        return self.output or Path("runs") / f"{task}-{self.model}-seed{self.seed}"

    def with_learning_rate(self) -> TrainConfig:
        """The configuration with a number as learning rate; None becomes `default_learning_rate`.

        Raises:
            DataError: the task is a file that can't be read.
            ConfigError: the task's pixels can't be grouped as `pixels_per_step` says.
        """
        if self.learning_rate is not None:
            return self
        task = find_task(self.task, self.pixels_per_step, self.preparation)
        rate = default_learning_rate(task, self.model, self.learning_rate_scaling)
        return dataclasses.replace(self, learning_rate=rate)

    def differences(self, other: TrainConfig) -> list[str]:
        """The fields in which two configurations are different experiments: what is INCIDENTAL is passed over.

        Files and runs are compared by name, for they may have been moved together. If only one of the two has a
        number as learning rate, the other takes its default.

        Raises:
            DataError, ConfigError: as in `with_learning_rate`.
        """
        first, second = self, other
        if (self.learning_rate is None) != (other.learning_rate is None):
            first, second = self.with_learning_rate(), other.with_learning_rate()
        one, two = first._identity(), second._identity()
        return [name for name in one if one[name] != two[name]]

    def _identity(self) -> dict[str, Any]:
        values = {name: value for name, value in dataclasses.asdict(self).items() if name not in INCIDENTAL}
        if is_data_file(self.task):
            values["task"] = Path(self.task).name
        return values | {name: values[name] and values[name].name for name in SOURCES}

    def to_json(self) -> dict[str, Any]:
        """The configuration as a dictionary that json can write."""
        return {
            name: str(value) if isinstance(value, Path) else value for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TrainConfig:
        """The configuration from a dictionary that `to_json` made.

        Without `learning_rate_scaling`, which earlier versions did not write, all parameters learn at one rate.

        Raises:
            ConfigError: an unknown name, a missing one, or a value that the constructor refuses.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(
                f"config: got the unknown names {', '.join(unknown)}, expected {', '.join(sorted(known))}."
            )
        missing = [name for name in ALWAYS_SAVED if name not in values]
        if missing:
            raise ConfigError(f"config: got no {', '.join(missing)}, expected all of {', '.join(ALWAYS_SAVED)}.")
        earlier: dict[str, Any] = {"learning_rate_scaling": "none"}
        if isinstance(values["task"], str) and is_data_file(values["task"]):
            earlier["keep_gaps"] = True  # labels were counted from 0 to the largest
        return cls(**earlier | values)


def _as_names(name: str, value: object) -> tuple[str, ...]:
    # JSON has lists and no tuples.
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise ConfigError(f"{name}: got {value!r}, expected a list of names.")
    return tuple(value)


def _as_path(name: str, value: object) -> Path:
    if not isinstance(value, (str, Path)):
        raise ConfigError(f"{name}: got {value!r}, expected a path or None.")
    # Where a run is found again from any folder; its own folder may be moved.
    return Path(value) if name == "output" else Path(os.path.abspath(value))
