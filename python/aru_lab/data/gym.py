"""Trials of NeuroGym's tasks; NeuroGym is imported when they are drawn."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aru_lab.arguments import MOST, check_positive, check_whole, suggestion
from aru_lab.data.targets import Target
from aru_lab.data.trials import MOST_NUMBERS, MOST_SEEDS, Trials
from aru_lab.errors import ConfigError, DataError

PREFIX = "neurogym:"
COHERENCE = "coherence"  # the condition of trials with a coherence and two choices
_SAMPLED = 20  # trials from which the sizes of all are known


@dataclass(frozen=True)
class NeuroGym:
    """Trials of a NeuroGym environment, one sequence each, with a target at every step.

    The answer counts in the period "decision"; in an environment without one, at the steps whose target is not 0, or at
    all steps. Where the environment's trials have a coherence and two choices, the condition `COHERENCE` is the signed
    coherence in percent, above 0 where the second choice is right.

    Args:
        env: name of the environment, such as PerceptualDecisionMaking-v0.
        trials, seed: as in `trials.Drawn`.
        dt: duration of a step in ms; None takes the environment's.
        fixate: whether the other steps count in the training loss.
    """

    env: str = field(default="", metadata={"option": False})
    trials: int = 2000
    seed: int = 0
    dt: float | None = None
    fixate: bool = True

    def __post_init__(self) -> None:
        check_whole("trials", self.trials, 2, MOST)
        check_whole("seed", self.seed, 0, MOST_SEEDS)
        check_positive("dt", self.dt, optional=True)

    @property
    def input_size(self) -> int:
        """I."""
        return int(np.prod(_environment(self.env, self.dt).observation_space.shape))

    @property
    def n_steps(self) -> int:
        """T of the longest of some trials."""
        return self.draw(np.random.RandomState(self.seed), _SAMPLED).x.shape[1]

    @property
    def periods(self) -> dict[str, slice]:
        """The steps of each period, in their order; empty where some trials differ in them."""
        env = _made(self.env, self.dt)
        found = []
        for _ in range(_SAMPLED):
            env.new_trial()
            steps = {name: slice(start, env.end_ind[name]) for name, start in env.start_ind.items()}
            found.append((len(env.ob), steps))
        return found[0][1] if all(one == found[0] for one in found) else {}

    @property
    def target(self) -> Target:
        """The actions; numbers where they are continuous."""
        space = _environment(self.env, self.dt).action_space
        if not hasattr(space, "n"):
            return Target(int(np.prod(space.shape)), every_step=True)
        names = [str(k) for k in range(int(space.n))]
        named = getattr(space, "name", None)
        for name, places in named.items() if isinstance(named, dict) else ():
            members = np.atleast_1d(places).tolist()
            for k, place in enumerate(members):
                names[place] = str(name) if len(members) == 1 else f"{name} {k + 1}"
        return Target(len(names), tuple(names), every_step=True)

    def draw(self, rng: np.random.RandomState, n: int) -> Trials:
        """Draw n trials; shorter ones are padded at their ends.

        Raises:
            DataError: the environment has no targets, or its trials need too much memory.
        """
        env = _made(self.env, self.dt)
        env.reset(seed=0)
        env.seed(int(rng.randint(2**31 - 1)))
        is_numbers = not hasattr(env.action_space, "n")
        observations, targets, responses = [], [], []
        coherences: list[float | None] = []
        for _ in range(n):
            env.new_trial()
            x = np.asarray(env.ob, np.float32)
            observations.append(x.reshape(len(x), -1))
            y = np.asarray(env.gt)
            targets.append(y.reshape(len(y), -1).astype(np.float32) if is_numbers else y.astype(np.int64))
            responses.append(_response(env, targets[-1]))
            coherences.append(_signed_coherence(env, targets[-1][responses[-1]]))
            if (k := len(observations)) * observations[0].size > MOST_NUMBERS:
                raise DataError(
                    f"{PREFIX}{self.env}: {k} trials have more than {MOST_NUMBERS} numbers; take fewer trials."
                )
        lengths = np.array([len(x) for x in observations])
        n_steps = int(lengths.max())
        real = np.arange(n_steps) < lengths[:, None]
        response = _padded(responses, n_steps)
        trained = real if self.fixate else None
        return Trials(
            _padded(observations, n_steps),
            _padded(targets, n_steps),
            response,
            trained,
            {} if None in coherences else {COHERENCE: np.array(coherences)},
            None if real.all() else lengths,
        )


def _padded(arrays: list[np.ndarray], n_steps: int) -> np.ndarray:
    """Arrays (t, ...) with zeros behind them, (N, T, ...)."""
    found = np.zeros((len(arrays), n_steps, *arrays[0].shape[1:]), arrays[0].dtype)
    for k, array in enumerate(arrays):
        found[k, : len(array)] = array
    return found


def _response(env: Any, y: np.ndarray) -> np.ndarray:
    """The steps of a trial at which the answer counts, (T,)."""
    found = np.zeros(len(y), bool)
    if "decision" in env.start_ind:
        found[env.start_ind["decision"] : env.end_ind["decision"]] = True
    elif y.ndim == 1:
        found = y != 0
    return found if found.any() else np.ones(len(y), bool)


def _signed_coherence(env: Any, answers: np.ndarray) -> float | None:
    """The coherence of a trial whose right answers are `answers`; None if it has none or other than two choices."""
    trial = getattr(env, "trial", None)
    coherence = trial.get("coh") if isinstance(trial, dict) else None
    # action 0 is fixation
    if coherence is None or getattr(env.action_space, "n", 0) != 3 or answers[-1] == 0:
        return None
    sign = 1 if answers[-1] == 2 else -1
    return sign * float(coherence) + 0.0  # no -0


@functools.lru_cache(maxsize=4)
def _environment(name: str, dt: float | None) -> Any:
    """An environment of which only the sizes are read."""
    return _made(name, dt)


def _made(name: str, dt: float | None) -> Any:
    """The environment without wrappers.

    Raises:
        ConfigError: NeuroGym is not installed, or it has no such environment of trials with targets.
    """
    task = f"task: got {PREFIX + name!r}"
    try:
        from neurogym.envs.registration import all_envs, make
    except ImportError as error:
        raise ConfigError(
            f'{task}, expected NeuroGym to be installed: `pip install "aru_kernels[tasks]"` ({error}).'
        ) from error
    known = sorted(all_envs(collections=True))
    if name not in known:
        raise ConfigError(
            f"{task}, expected one of {', '.join(PREFIX + one for one in known)}.{suggestion(name, known)}"
        )
    step = {} if dt is None else {"dt": int(dt) if float(dt).is_integer() else dt}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Gymnasium's, about the metadata of environments
            env = make(name, **step).unwrapped
        env.reset(seed=0)
        env.new_trial()
        if len(env.gt) != len(env.ob):
            raise ValueError("it has no target at every step")
    except Exception as error:  # environments of others raise many types
        raise ConfigError(f"{task}, expected an environment of trials with targets ({error}).") from error
    return env
