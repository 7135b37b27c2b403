"""Tasks whose trials the program draws: periods of a trial, the parts of the data, and options.

A task is a frozen dataclass whose fields are its options, with the properties and the method of `Kind`. The trials
follow from the options. `numpy.random.RandomState` draws them, whose streams never change (NEP 19).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from aru_lab.arguments import MOST, check_positive, check_whole, parameters_of
from aru_lab.data.preparation import centre_of
from aru_lab.data.sequences import Sequences, TaskData, first
from aru_lab.data.splits import PARTS
from aru_lab.data.summary import describe
from aru_lab.data.targets import Target
from aru_lab.data.transform import Transform
from aru_lab.errors import ConfigError

MOST_NUMBERS = 2**28  # inputs of all trials of a part: 1 GB in float32
MOST_SEEDS = 2**32 - 1


@dataclass(frozen=True)
class Trials:
    """The trials of one part.

    Args:
        x: inputs, float32 of shape (N, T, I).
        y: the class at every step, int64 of shape (N, T), or numbers, float32 of shape (N, O).
        response: the steps at which the answer counts, bool of shape (N, T); None where there is one target a trial.
        trained: the steps whose target counts in the training loss; None: those of the response.
        conditions: what a trial shows, by name: arrays (N,) or (N, K).
        lengths: number of steps of each, int64 of shape (N,); later steps are padding. None: all have T.
    """

    x: np.ndarray
    y: np.ndarray
    response: np.ndarray | None = None
    trained: np.ndarray | None = None
    conditions: dict[str, np.ndarray] = field(default_factory=dict)
    lengths: np.ndarray | None = None


class Kind(Protocol):
    """Interface of all tasks that are drawn; their fields are options."""

    trials: int
    seed: int

    @property
    def input_size(self) -> int:
        """I."""

    @property
    def n_steps(self) -> int:
        """T."""

    @property
    def target(self) -> Target:
        """What is predicted."""

    def draw(self, rng: np.random.RandomState, n: int) -> Trials:
        """Draw n trials."""
        ...


@dataclass(frozen=True)
class Drawn:
    """Base class of the tasks: how many trials, and from which seed.

    Args:
        trials: of the training; a fifth as many validate, and half as many test.
        seed: of all trials.
    """

    trials: int = 4000
    seed: int = 0

    def check(self) -> None:
        """Raise ConfigError where an option is out of its range."""
        check_whole("trials", self.trials, 2, MOST)
        check_whole("seed", self.seed, 0, MOST_SEEDS)
        n = self.trials * self.n_steps * self.input_size
        if n > MOST_NUMBERS:
            raise ConfigError(
                f"trials: got {self.trials} of {self.n_steps} steps with {self.input_size} inputs, expected at most "
                f"{MOST_NUMBERS} numbers."
            )


@dataclass(frozen=True)
class Timed(Drawn):
    """Base class of tasks with periods in ms.

    Args:
        dt: duration of a step in ms.
        fixation: duration of the fixation before the first stimulus in ms; may be 0.
        noise: σ of the inputs that carry stimuli: normal noise of deviation σ/√dt, dt in ms, at each step, so that
            the noise of a mean over a period does not depend on dt.
        fixate: whether the fixation before the response is a target of the training, with a class of its own.
    """

    dt: float = 20.0
    fixation: float = 500.0
    noise: float = 1.0
    fixate: bool = True

    @property
    def durations(self) -> dict[str, float]:
        """The periods of a trial in their order, in ms, without the fixation."""
        raise NotImplementedError

    @property
    def choices(self) -> tuple[str, ...]:
        """Names of the answers."""
        raise NotImplementedError

    @property
    def periods(self) -> dict[str, slice]:
        """The steps of each period."""
        found, start = {}, 0
        for name, duration in ({"fixation": self.fixation} | self.durations).items():
            steps = max(round(duration / self.dt), int(duration > 0))
            found[name] = slice(start, start + steps)
            start += steps
        return found

    @property
    def n_steps(self) -> int:
        """T."""
        return list(self.periods.values())[-1].stop

    @property
    def target(self) -> Target:
        """The answers; with `fixate`, "fixate" comes first."""
        names = ("fixate",) * self.fixate + self.choices
        return Target(len(names), names, every_step=True)

    def check(self, may_be_0: tuple[str, ...] = ()) -> None:
        """Raise ConfigError where an option is out of its range; periods in `may_be_0` may be missing."""
        check_positive("dt", self.dt)
        for name, duration in ({"fixation": self.fixation} | self.durations).items():
            check_positive(name, duration, or_zero=name in ("fixation", *may_be_0))
            if duration / self.dt > MOST_NUMBERS:
                raise ConfigError(
                    f"{name}: got {duration:g} ms with steps of {self.dt:g} ms, expected at most {MOST_NUMBERS} steps."
                )
        check_positive("noise", self.noise, or_zero=True)
        super().check()

    def trial_inputs(self, n: int) -> np.ndarray:
        """Inputs (N, T, I) of 0, except for the first: 1 until the response."""
        x = np.zeros((n, self.n_steps, self.input_size), np.float32)
        x[:, : self.periods["response"].start, 0] = 1
        return x

    def finished(
        self,
        x: np.ndarray,
        stimuli: slice,
        answers: np.ndarray,
        rng: np.random.RandomState,
        conditions: dict[str, np.ndarray],
    ) -> Trials:
        """The trials with noise and targets.

        Args:
            x: inputs without noise.
            stimuli: the inputs with noise.
            answers: index in `choices` of each trial, (N,).
            rng: source of the noise.
            conditions: see `Trials`.
        """
        shape = x[..., stimuli].shape
        x[..., stimuli] += (self.noise / np.sqrt(self.dt) * rng.standard_normal(shape)).astype(np.float32)
        response = np.zeros(x.shape[:2], bool)
        response[:, self.periods["response"]] = True
        y = np.where(response, answers[:, None] + self.fixate, 0).astype(np.int64)
        trained = np.ones_like(response) if self.fixate else None
        return Trials(x, y, response, trained, conditions)


@dataclass(frozen=True)
class TrialTask:
    """A task whose trials are drawn.

    Args:
        base: its name without options.
        kind: its options.
    """

    base: str
    kind: Kind

    @property
    def name(self) -> str:
        """The name with the options that are not at their defaults."""
        values = [
            f"{one.name}={_text(getattr(self.kind, one.name))}"
            for one in parameters_of(self.kind)
            if getattr(self.kind, one.name) != one.default
        ]
        return ":".join([self.base, *filter(None, [",".join(values)])])

    @property
    def encoder(self) -> str:
        """The recurrent network reads the trials itself."""
        return "linear"

    @property
    def input_size(self) -> int:
        """I."""
        return self.kind.input_size

    @property
    def n_steps(self) -> int:
        """T."""
        return self.kind.n_steps

    @property
    def target(self) -> Target:
        """What is predicted."""
        return self.kind.target

    @property
    def checksum(self) -> str:
        """SHA-256 of all trials."""
        return _checksum(self.kind)

    @property
    def remarks(self) -> list[str]:
        """No warnings: the trials are known."""
        return []

    @property
    def transform(self) -> Transform:
        """Nothing is done to the inputs."""
        return Transform()

    @property
    def description(self) -> dict[str, Any]:
        """The targets, the sizes, the counts of each part, and all options."""
        options = dataclasses.asdict(self.kind)  # type: ignore[call-overload]
        return describe(self.load(), self.target) | {"transform": self.transform.to_json(), "options": options}

    def load(
        self, data_dir: Path | None = None, subset: int | None = None, validation_subset: int | None = None
    ) -> TaskData:
        """Draw the trials; see `tasks.Task.load`."""
        parts = _sequences(self.kind)
        return TaskData(
            train=first(parts["train"], subset, "subset"),
            validation=first(parts["validation"], validation_subset, "validation_subset"),
            test=parts["test"],
        )

    def trials(self, part: str = "test") -> Trials:
        """The trials of a part, with their conditions."""
        return _drawn(self.kind)[part]


def _text(value: float | bool) -> str:
    if isinstance(value, (bool, int)):
        return str(value).lower()
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


@functools.lru_cache(maxsize=4)
def _drawn(kind: Kind) -> dict[str, Trials]:
    """The trials of each part, from streams of their own."""
    sizes = (kind.trials, -(-kind.trials // 5), -(-kind.trials // 2))
    return {
        name: kind.draw(np.random.RandomState([kind.seed, k]), n)
        for k, (name, n) in enumerate(zip(PARTS, sizes, strict=True))
    }


@functools.lru_cache(maxsize=4)
def _sequences(kind: Kind) -> dict[str, Sequences]:
    """The parts as a network reads them: in training the steps of `Trials.trained` count."""
    found = {}
    for name, trials in _drawn(kind).items():
        mask = trials.trained if name == "train" and trials.trained is not None else trials.response
        found[name] = Sequences(trials.x, trials.y, trials.lengths, mask)
    centre = centre_of(found["train"])
    return {name: dataclasses.replace(sequences, centre=centre) for name, sequences in found.items()}


@functools.lru_cache(maxsize=16)
def _checksum(kind: Kind) -> str:
    digest = hashlib.sha256()
    for part in _sequences(kind).values():
        for array in (part.x, part.y, part.mask, part.lengths):
            if array is not None:
                digest.update(f"{array.shape}".encode())
                digest.update(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()
