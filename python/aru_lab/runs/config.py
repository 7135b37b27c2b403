"""The one typed configuration of a training run; the command line is made from it and config.json keeps it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from aru_lab.arguments import (
    MOST,
    as_names,
    as_path,
    check_choice,
    check_fraction,
    check_names,
    check_positive,
    check_whole,
)
from aru_lab.data.images import SPLIT_SEED
from aru_lab.data.preparation import Preparation
from aru_lab.data.targets import KINDS
from aru_lab.data.tasks import FORMS, canonical, check_permutation, find_task, is_data_file, label_of
from aru_lab.data.transform import MISSING
from aru_lab.errors import ConfigError
from aru_lab.networks.initial import BIASES, LSTM_WEIGHTS, check_initial
from aru_lab.networks.names import MODELS, PARTS
from aru_lab.runs.rates import SCALINGS, default_learning_rate, rates_help

CLASS_WEIGHTS = ("balanced",)
SCHEDULES = ("constant", "cosine", "plateau", "plateau-paper", "plateau-last-batch")
OPTIMIZERS = ("adam", "rmsprop")
DTYPES = ("float32", "float64")
MATMUL_PRECISIONS = ("highest", "high", "medium")
CHECKPOINTS = ("best", "last")

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
MOST_PERMUTATIONS = 2**31 - 1  # numpy's RandomState takes seeds of 32 bits


def _one_of(names: tuple[str, ...] | list[str]) -> Any:
    return tyro.conf.arg(metavar="{" + ",".join(names) + "}")


@dataclass(frozen=True)
class TrainConfig:
    """What is trained on what, and how.

    Raises:
        ConfigError: a value is of the wrong type or out of range; the sentence names the argument, what came and what
            was expected.
    """

    task: Annotated[tyro.conf.Positional[str], _one_of(FORMS)] = "psdigits"
    """What to learn: a task of the list, or a file of sequences x (N, T, I) with a label or a number each, y (N,); see
    docs/data.md. The run keeps the file's absolute path and checksum. Tasks whose trials are drawn take options, such
    as copy:delay=30,length=10; see docs/cognitive-tasks.md."""

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

    learning_rate: Annotated[float | None, tyro.conf.arg(help=rates_help())] = None

    learning_rate_scaling: Annotated[str, _one_of(SCALINGS)] = "fan-in"
    """fan-in: in the adaptive and gamma networks a matrix with F > 4 columns learns at 4/F of the learning rate, and
    what determines s at a tenth or less (aru_kernels.parameter_groups); relu, lstm and gru have one rate. none: all
    parameters learn at the learning rate, as in the paper."""

    schedule: Annotated[str, _one_of(SCHEDULES)] = "cosine"
    """Course of the learning rate: constant; cosine (5% of the steps rising, then a half cosine to 0); plateau
    (halved when the validation loss has not fallen for 5 epochs); plateau-paper (torch's ReduceLROnPlateau with its
    defaults: a tenth when the validation loss has not fallen for 10 epochs); plateau-last-batch (the same for the loss
    of the last validation batch, as in the authors' code)."""

    clip: float | None = 1.0
    """Largest norm of the gradient of all parameters together; None does not clip."""

    input_noise: float = 0.0
    """Standard deviation of the normal noise added to every input of the training examples (pixels are in [0, 1])."""

    leak: float | None = None
    """α of arun and the gamma networks, in (0, 1]: h = (1 - α) h + α γ, with the time constant Δt/α. None: h is γ."""

    noise: float = 0.0
    """Standard deviation σ of the private normal noise that is added to every pre-activation in training (in lstm and
    gru to that of the candidate). With --leak α below 1 it is √(2/α) σ, as in aru_kernels.noise.gaussian."""

    dale: float | None = None
    """Fraction of excitatory neurons, from 0 to 1; the others inhibit (Dale's law). W_hh is drawn so that both cancel
    (aru_kernels.constraints.dale). None: weights of both signs. Not for lstm and gru."""

    sparsity: float = 0.0
    """Fraction of the connections of W_hh that do not exist, below 1. Not for lstm and gru."""

    rate_penalty: float = 0.0
    """λ of the term λ · mean(h²) of the training loss: h is the state of the recurrent network, the mean that over the
    neurons, the steps of a sequence, and the sequences."""

    weight_penalty: float = 0.0
    """λ of the term λ · Σ w² of the training loss: the sum is over the trained weight matrices and kernels, without
    biases, n and s."""

    perturb: tuple[str, ...] = ()
    """Perturbations of the training, such as step:amplitude=0.5 or random-contrast:amplitude=0.2 (the authors'
    augmentation): a perturbed batch gets one of them, drawn at random."""

    perturb_share: float = 0.5
    """Probability that a training batch is perturbed, where `perturb` names any perturbation."""

    freeze: tuple[str, ...] = ()
    """Parts that keep their initial values: activation (n and s of the gamma networks, the controller of the ARUN),
    recurrent (the other weights of the recurrent network), readout, encoder."""

    initial_gain: Annotated[str, tyro.conf.arg(metavar="{normal,shared}|N[,N...]")] = "normal"
    """Initial n of the gamma networks. normal: drawn from N(5, 2²), by each neuron in gamma-heterogeneous; shared: all
    neurons start at one draw of 5 + 2 U(0, 1), as in the authors' code; a number: all start there; H numbers with
    commas between: one for each neuron."""

    initial_saturation: Annotated[str, tyro.conf.arg(metavar="S[,S...]")] = "0"
    """Initial s of the gamma networks: a number for all neurons, or H numbers with commas between. --freeze activation
    keeps n and s as they start."""

    biases: Annotated[str, _one_of(BIASES)] = "zero"
    """Initial biases of relu and the gamma networks. torch: the sum of what the two linear layers of the authors' code
    draw, U(-1/√I, 1/√I) and U(-1/√H, 1/√H); the biases of arun are 0 and those of lstm and gru torch's in any case."""

    lstm_weights: Annotated[str, _one_of(LSTM_WEIGHTS)] = "torch"
    """Initial weights of lstm: torch's, or xavier: Xavier's normal distribution on the (H, I+H) matrix of each gate, as
    in the authors' code."""

    initial_from: Path | None = None
    """Run whose weights are the initial ones."""

    controller_from: Path | None = None
    """Run of an ARUN whose controller is the initial one."""

    initial_checkpoint: Annotated[str, _one_of(CHECKPOINTS)] = "best"
    """Weights that --initial-from and --controller-from take: best (of the epoch with the best validation accuracy) or
    last."""

    mixed_precision: bool = False
    """Train under torch.autocast in bfloat16 (which has the range of float32, so that losses need no scaling)."""

    seed: int = 0
    """Seed of the weights, the order of the examples and the noise."""

    permutation_seed: int | None = 0
    """Of images: seed of the order of the pixels (in permuted tasks) and of the division into training and validation
    images. None takes the run's seed, so that each seed has an order of its own, as in the paper."""

    shuffle: bool = True
    """Read the training examples in a new order in every epoch; otherwise always in the order of the division."""

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
        object.__setattr__(self, "task", canonical(self.task))
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
            object.__setattr__(self, name, as_names(name, getattr(self, name)))
        for part in self.freeze:
            check_choice("freeze", part, PARTS)
        check_choice("initial_checkpoint", self.initial_checkpoint, CHECKPOINTS)
        for name in ("initial_gain", "initial_saturation"):  # --vary gives numbers
            object.__setattr__(self, name, check_initial(name, getattr(self, name)))
        check_choice("biases", self.biases, BIASES)
        check_choice("lstm_weights", self.lstm_weights, LSTM_WEIGHTS)
        for name in ("mixed_precision", "tensorboard", "shuffle"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name}: got {getattr(self, name)!r}, expected True or False.")
        check_whole("seed", self.seed, 0, 2**63 - 1)
        check_whole("permutation_seed", self.permutation_seed, 0, MOST_PERMUTATIONS - SPLIT_SEED, optional=True)
        check_permutation(self.task, self.permutation_seed)
        check_positive("learning_rate", self.learning_rate, optional=True)
        for name in ("input_noise", "noise", "rate_penalty", "weight_penalty"):
            check_positive(name, getattr(self, name), or_zero=True)
        check_positive("clip", self.clip, optional=True)
        check_fraction("leak", self.leak, with_0=False, optional=True)
        check_fraction("dale", self.dale, optional=True)
        check_fraction("sparsity", self.sparsity, with_1=False)
        check_positive("checkpoint_seconds", self.checkpoint_seconds, or_zero=True)
        for name, kind in (("device", "a torch device such as cpu or cuda:0"), ("backend", "a backend of aru_kernels")):
            if not isinstance(getattr(self, name), str):
                raise ConfigError(f"{name}: got {getattr(self, name)!r}, expected auto or the name of {kind}.")
        check_fraction("perturb_share", self.perturb_share, what="probability")
        if self.controller_from is not None and self.model != "arun":
            raise ConfigError(
                f"controller_from: got {self.controller_from} with the model {self.model}, expected the model arun: "
                "only this model has a controller."
            )
        for name in ("data_dir", "output", *SOURCES):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, as_path(name, getattr(self, name)))

    @property
    def preparation(self) -> Preparation:
        """How a file of sequences is read."""
        return Preparation(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Preparation)})

    @property
    def permutation(self) -> int:
        """The seed of the order of the pixels: `permutation_seed`, or the run's where that is None."""
        seed = self.seed if self.permutation_seed is None else self.permutation_seed
        return seed % (MOST_PERMUTATIONS - SPLIT_SEED)

    @property
    def run_folder(self) -> Path:
        """The run folder: `output` where it is given, else runs/TASK-MODEL-seedSEED."""
        return self.output or Path("runs") / f"{label_of(self.task)}-{self.model}-seed{self.seed}"

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
        check_names("config", values, (field.name for field in dataclasses.fields(cls)))
        missing = [name for name in ALWAYS_SAVED if name not in values]
        if missing:
            raise ConfigError(f"config: got no {', '.join(missing)}, expected all of {', '.join(ALWAYS_SAVED)}.")
        earlier: dict[str, Any] = {"learning_rate_scaling": "none"}
        if isinstance(values["task"], str) and is_data_file(values["task"]):
            earlier["keep_gaps"] = True  # labels were counted from 0 to the largest
        return cls(**earlier | values)
