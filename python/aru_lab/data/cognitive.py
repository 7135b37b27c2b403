"""Tasks of cognitive neuroscience and two tests of memory, with trials that are drawn from a seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from aru_lab.arguments import check_whole
from aru_lab.data.targets import Target
from aru_lab.data.trials import Drawn, Kind, Timed, Trials
from aru_lab.errors import ConfigError

MOST_SYMBOLS = 1000
MOST_STEPS = 10**6


@dataclass(frozen=True)
class DelayedMatchToSample(Timed):
    """Say whether the second stimulus is the first one.

    Inputs: fixation, and one for each stimulus. The response is given while the test stimulus is shown. Durations and
    the delay: N. Y. Masse, G. R. Yang, H. F. Song, X.-J. Wang, D. J. Freedman, Nature Neuroscience 2019.

    Args:
        stimuli: number of different stimuli.
        sample, delay, test: durations in ms.
    """

    stimuli: int = 2
    sample: float = 500.0
    delay: float = 1000.0
    test: float = 500.0

    def __post_init__(self) -> None:
        check_whole("stimuli", self.stimuli, 2, MOST_SYMBOLS)
        self.check(may_be_0=("delay",))

    @property
    def input_size(self) -> int:
        """I."""
        return 1 + self.stimuli

    @property
    def durations(self) -> dict[str, float]:
        """The periods after the fixation; the test is the response."""
        return {"sample": self.sample, "delay": self.delay, "response": self.test}

    @property
    def choices(self) -> tuple[str, ...]:
        """The answers."""
        return ("match", "non-match")

    def draw(self, rng: np.random.RandomState, n: int) -> Trials:
        """Draw n trials; half of them match on average."""
        sample = rng.randint(self.stimuli, size=n)
        differs = rng.randint(2, size=n)
        test = (sample + differs * rng.randint(1, self.stimuli, size=n)) % self.stimuli
        x = self.trial_inputs(n)
        for period, stimulus in (("sample", sample), ("response", test)):
            x[:, self.periods[period], 1:] = np.eye(self.stimuli, dtype=np.float32)[stimulus][:, None]
        return self.finished(x, slice(1, None), differs, rng, {"sample": sample, "test": test})


@dataclass(frozen=True)
class ContextIntegration(Timed):
    """Integrate the motion or the colour of dots, as the context says, and choose a direction.

    Inputs: fixation; evidence (1 + c)/2 for right and (1 - c)/2 for left, of motion and then of colour, where c is the
    signed coherence; a context input for motion and one for colour, both until the response. The coherences 5, 15 and
    50%, the duration of the dots and the shortest delay: V. Mante, D. Sussillo, K. V. Shenoy, W. T. Newsome, Nature
    2013. The two evidence inputs and their noise are those of NeuroGym's ContextDecisionMaking.

    Args:
        stimulus, delay, response: durations in ms.
        coherence: factor of the coherences 0.05, 0.15 and 0.5.
    """

    fixation: float = 300.0
    stimulus: float = 750.0
    delay: float = 300.0
    response: float = 300.0
    coherence: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.coherence, bool) or not 0 < self.coherence <= 2:
            raise ConfigError(f"coherence: got {self.coherence!r}, expected a number above 0 and at most 2.")
        self.check(may_be_0=("delay",))

    @property
    def input_size(self) -> int:
        """I."""
        return 7

    @property
    def durations(self) -> dict[str, float]:
        """The periods after the fixation."""
        return {"stimulus": self.stimulus, "delay": self.delay, "response": self.response}

    @property
    def choices(self) -> tuple[str, ...]:
        """The answers."""
        return ("left", "right")

    def draw(self, rng: np.random.RandomState, n: int) -> Trials:
        """Draw n trials: context, and the coherence of motion and colour, are independent."""
        context = rng.randint(2, size=n)
        sizes = self.coherence * np.array([0.05, 0.15, 0.5])
        coherence = sizes[rng.randint(3, size=(n, 2))] * (2 * rng.randint(2, size=(n, 2)) - 1)
        x = self.trial_inputs(n)
        for k in range(2):
            evidence = (1 + coherence[:, k, None] * [1, -1]) / 2
            x[:, self.periods["stimulus"], 1 + 2 * k : 3 + 2 * k] = evidence[:, None]
        x[:, : self.periods["response"].start, 5:] = np.eye(2, dtype=np.float32)[context][:, None]
        relevant = coherence[np.arange(n), context]
        conditions = {"context": context, "motion": coherence[:, 0], "colour": coherence[:, 1], "relevant": relevant}
        return self.finished(x, slice(1, 5), (relevant > 0).astype(np.int64), rng, conditions)


@dataclass(frozen=True)
class ParametricWorkingMemory(Timed):
    """Say which of two vibrations, with a delay between them, has the higher frequency.

    Inputs: fixation, and the frequency as (1 + u)/2 and (1 - u)/2 with u from -1 at 2 Hz to 1 at 42 Hz. f1 is 10, 14,
    ..., 34 Hz and f2 differs from it by 2, 4 or 8 Hz. The range, the difference of 8 Hz and the durations of the
    stimuli: R. Romo, C. D. Brody, A. Hernández, L. Lemus, Nature 1999, with delays from 1 to 6 s; the two inputs are
    those of NeuroGym's DelayComparison.

    Args:
        f1, delay, f2, response: durations in ms.
    """

    dt: float = 50.0
    f1: float = 500.0
    delay: float = 1000.0
    f2: float = 500.0
    response: float = 300.0

    def __post_init__(self) -> None:
        self.check(may_be_0=("delay",))

    @property
    def input_size(self) -> int:
        """I."""
        return 3

    @property
    def durations(self) -> dict[str, float]:
        """The periods after the fixation."""
        return {"f1": self.f1, "delay": self.delay, "f2": self.f2, "response": self.response}

    @property
    def choices(self) -> tuple[str, ...]:
        """The answers."""
        return ("f1 < f2", "f1 > f2")

    def draw(self, rng: np.random.RandomState, n: int) -> Trials:
        """Draw n trials."""
        f1 = 10 + 4 * rng.randint(7, size=n)
        higher = rng.randint(2, size=n)  # whether f1 is
        f2 = f1 + np.array([2, 4, 8])[rng.randint(3, size=n)] * (1 - 2 * higher)
        x = self.trial_inputs(n)
        for period, frequency in (("f1", f1), ("f2", f2)):
            u = (frequency - 22) / 20
            x[:, self.periods[period], 1:] = ((1 + u[:, None] * [1, -1]) / 2)[:, None]
        return self.finished(x, slice(1, 3), higher, rng, {"f1": f1, "f2": f2, "difference": f1 - f2})


@dataclass(frozen=True)
class CopyMemory(Drawn):
    """Repeat symbols after a delay, at every step one.

    Inputs are one-hot: the symbols, blank, and a signal at the last step of the delay, after which the symbols are
    recalled in their order. The target is blank before. S. Hochreiter, J. Schmidhuber, Neural Computation 1997; in this
    form, with eight symbols: M. Arjovsky, A. Shah, Y. Bengio, ICML 2016, where `length` is 10.

    Args:
        symbols: number of different symbols.
        length: of what is remembered, in steps.
        delay: steps between the last symbol and the recall.
        blanks: whether the blanks before the recall count in the training loss, as in the paper.
    """

    trials: int = 2000
    symbols: int = 8
    length: int = 5
    delay: int = 20
    blanks: bool = True

    def __post_init__(self) -> None:
        check_whole("symbols", self.symbols, 2, MOST_SYMBOLS)
        for name in ("length", "delay"):
            check_whole(name, getattr(self, name), 1, MOST_STEPS)
        self.check()

    @property
    def input_size(self) -> int:
        """I."""
        return self.symbols + 2

    @property
    def n_steps(self) -> int:
        """T."""
        return 2 * self.length + self.delay

    @property
    def target(self) -> Target:
        """The symbols, numbered from 1; with `blanks`, "blank" comes first."""
        names = ("blank",) * self.blanks + tuple(map(str, range(1, self.symbols + 1)))
        return Target(len(names), names, every_step=True)

    def draw(self, rng: np.random.RandomState, n: int) -> Trials:
        """Draw n sequences of symbols."""
        shown = rng.randint(self.symbols, size=(n, self.length))
        read = np.full((n, self.n_steps), self.symbols)
        read[:, : self.length] = shown
        read[:, self.length + self.delay - 1] = self.symbols + 1
        response = np.zeros((n, self.n_steps), bool)
        response[:, -self.length :] = True
        y = np.zeros((n, self.n_steps), np.int64)
        y[:, -self.length :] = shown + self.blanks
        trained = np.ones_like(response) if self.blanks else None
        x = np.eye(self.input_size, dtype=np.float32)[read]
        return Trials(x, y, response, trained, {"symbols": shown})


@dataclass(frozen=True)
class Adding(Drawn):
    """Add the two numbers of a sequence that are marked; the target is their sum, at the last step.

    Inputs: a number from U(0, 1), and a marker that is 1 at one step of the first half and at one of the second.
    S. Hochreiter, J. Schmidhuber, Neural Computation 1997; in this form: M. Arjovsky, A. Shah, Y. Bengio, ICML 2016.
    Always answering 1 has the mean squared error 1/6.

    Args:
        steps: T.
    """

    steps: int = 50

    def __post_init__(self) -> None:
        check_whole("steps", self.steps, 2, MOST_STEPS)
        self.check()

    @property
    def input_size(self) -> int:
        """I."""
        return 2

    @property
    def n_steps(self) -> int:
        """T."""
        return self.steps

    @property
    def target(self) -> Target:
        """One number."""
        return Target(1)

    def draw(self, rng: np.random.RandomState, n: int) -> Trials:
        """Draw n sequences."""
        numbers = rng.uniform(size=(n, self.steps)).astype(np.float32)
        half = self.steps // 2
        places = np.stack([rng.randint(half, size=n), rng.randint(half, self.steps, size=n)], axis=1)
        marker = np.zeros_like(numbers)
        np.put_along_axis(marker, places, 1, axis=1)
        marked = np.take_along_axis(numbers, places, axis=1)
        x = np.stack([numbers, marker], axis=2)
        return Trials(x, marked.sum(axis=1, keepdims=True), conditions={"places": places})


KINDS: Mapping[str, type[Kind]] = {
    "delayed-match-to-sample": DelayedMatchToSample,
    "context-integration": ContextIntegration,
    "parametric-working-memory": ParametricWorkingMemory,
    "copy": CopyMemory,
    "adding": Adding,
}
