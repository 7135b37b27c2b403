"""The one typed configuration of a training run; the command line is made from it and config.json keeps it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from aru_lab.errors import ConfigError
from aru_lab.tasks import TASKS

# Named here and built in models.py, so that the command line lists them without importing torch.
MODELS = ("arun", "gamma-homogeneous", "gamma-heterogeneous", "relu", "lstm", "gru")
SCHEDULES = ("constant", "cosine", "plateau")
DTYPES = ("float32", "float64")


def _one_of(names: tuple[str, ...] | list[str]) -> Any:
    return tyro.conf.arg(metavar="{" + ",".join(names) + "}")


@dataclass(frozen=True)
class TrainConfig:
    """What is trained on what, and how.

    Raises:
        ConfigError: a value is of the wrong type or out of range; the sentence names the argument, what came and what
            was expected.
    """

    task: Annotated[tyro.conf.Positional[str], _one_of(sorted(TASKS))] = "psdigits"
    """What to learn."""

    model: Annotated[str, _one_of(MODELS)] = "arun"
    """The recurrent network in front of the linear read-out."""

    hidden_size: int = 64
    """H, neurons of the recurrent network."""

    controller_size: int = 16
    """G, hidden units of the controller that all neurons share (arun only)."""

    epochs: int = 20
    """Passes through the training examples."""

    batch_size: int = 50
    """B, sequences a step."""

    learning_rate: float = 2e-3
    """Adam's learning rate at its highest."""

    schedule: Annotated[str, _one_of(SCHEDULES)] = "cosine"
    """Course of the learning rate: constant; cosine (5% of the steps rising, then a half cosine to 0); plateau
    (halved when the validation loss has not fallen for 5 epochs)."""

    clip: float | None = 1.0
    """Largest norm of the gradient of all parameters together; None does not clip."""

    input_noise: float = 0.0
    """Standard deviation of the normal noise added to every input of the training examples (pixels are in [0, 1])."""

    seed: int = 0
    """Seed of the weights, the order of the examples and the noise; the data split and the pixel permutation are
    fixed."""

    subset: int | None = None
    """Number of training examples; None takes all."""

    validation_subset: int | None = None
    """Number of validation examples; None takes all."""

    data_dir: Path | None = None
    """Folder with MNIST's IDX files; None takes $ARU_DATA_DIR, and without it MNIST is downloaded."""

    output: Path | None = None
    """Run folder; None means runs/TASK-MODEL-seedSEED."""

    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda, cuda:1, ..."""

    backend: str = "auto"
    """Backend of aru_kernels for the adaptive and gamma networks; `python -m aru_kernels` lists them."""

    dtype: Annotated[str, _one_of(DTYPES)] = "float32"
    """Floating-point type of weights and inputs."""

    threads: int | None = None
    """CPU threads; None keeps torch's choice. A resumed run uses as many as it started with."""

    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints inside an epoch; there is always one at an epoch's end. 0 saves every step."""

    def __post_init__(self) -> None:
        _check_choice("task", self.task, sorted(TASKS))
        _check_choice("model", self.model, MODELS)
        _check_choice("schedule", self.schedule, SCHEDULES)
        _check_choice("dtype", self.dtype, DTYPES)
        for name in ("hidden_size", "controller_size", "epochs", "batch_size"):
            _check_int(name, getattr(self, name), lowest=1)
        for name in ("subset", "validation_subset", "threads"):
            _check_int(name, getattr(self, name), lowest=1, optional=True)
        _check_int("seed", self.seed, lowest=0, highest=2**63 - 1)
        _check_positive("learning_rate", self.learning_rate)
        _check_positive("input_noise", self.input_noise, or_zero=True)
        _check_positive("clip", self.clip, optional=True)
        _check_positive("checkpoint_seconds", self.checkpoint_seconds, or_zero=True)
        for name, kind in (("device", "a torch device such as cpu or cuda:0"), ("backend", "a backend of aru_kernels")):
            if not isinstance(getattr(self, name), str):
                raise ConfigError(f"{name}: got {getattr(self, name)!r}, expected auto or the name of {kind}.")
        for name in ("data_dir", "output"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, Path):
                object.__setattr__(self, name, _as_path(name, value))

    @property
    def run_folder(self) -> Path:
        """The run folder: `output` where it is given, else runs/TASK-MODEL-seedSEED."""
        return self.output or Path("runs") / f"{self.task}-{self.model}-seed{self.seed}"

    def to_json(self) -> dict[str, Any]:
        """The configuration as a dictionary that json can write."""
        return {
            name: str(value) if isinstance(value, Path) else value for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TrainConfig:
        """The configuration from a dictionary that `to_json` made.

        Raises:
            ConfigError: an unknown name, or a value that the constructor refuses.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(
                f"config: got the unknown names {', '.join(unknown)}, expected {', '.join(sorted(known))}."
            )
        return cls(**values)


def _check_choice(name: str, value: object, choices: tuple[str, ...] | list[str]) -> None:
    if value not in choices:
        raise ConfigError(f"{name}: got {value!r}, expected one of {', '.join(choices)}.")


def _check_int(name: str, value: object, lowest: int, highest: int | None = None, optional: bool = False) -> None:
    if value is None and optional:
        return
    ok = isinstance(value, int) and not isinstance(value, bool) and value >= lowest
    if not ok or (highest is not None and value > highest):
        limit = f"at least {lowest}" if highest is None else f"from {lowest} to {highest}"
        raise ConfigError(f"{name}: got {value!r}, expected a whole number of {limit}{' or None' if optional else ''}.")


def _check_positive(name: str, value: object, optional: bool = False, or_zero: bool = False) -> None:
    if value is None and optional:
        return
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < 0 or (value == 0 and not or_zero):
        limit = "of at least 0" if or_zero else "above 0"
        raise ConfigError(f"{name}: got {value!r}, expected a finite number {limit}{' or None' if optional else ''}.")


def _as_path(name: str, value: object) -> Path:
    if not isinstance(value, str):
        raise ConfigError(f"{name}: got {value!r}, expected a path or None.")
    return Path(value)
