"""Tasks of NeuroGym: with an environment made up for the tests, and with NeuroGym itself where it is installed."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

import aru_lab
from aru_lab.analysis.psychometric import answers_of
from aru_lab.analysis.settings import Settings
from aru_lab.analysis.trajectories import conditions_of, periods_of
from aru_lab.cli import main
from aru_lab.data import gym
from aru_lab.data.gym import COHERENCE
from aru_lab.data.targets import Target
from aru_lab.data.tasks import canonical, find_task, is_drawn
from aru_lab.data.trials import Trials, TrialTask
from aru_lab.errors import ConfigError
from aru_lab.experiments.analyse import analyse
from aru_lab.runs.analyses import AnalysisFolder, Run
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.evaluation import evaluate_in_detail, load_classifier
from aru_lab.runs.training import train

needs_neurogym = pytest.mark.skipif(
    importlib.util.find_spec("neurogym") is None, reason="NeuroGym is not installed; the extra tasks brings it"
)
TASK = "neurogym:PerceptualDecisionMaking-v0"
SIZES: dict[str, Any] = {"hidden_size": 8, "controller_size": 3, "epochs": 2, "device": "cpu"}


class Environment:
    """Trials of 3 to 6 steps: noise and a signal at the last step, at which the sign of the first number is wanted."""

    def __init__(self, dt: float = 100, continuous: bool = False, with_period: bool = True) -> None:
        self.dt, self.with_period = dt, with_period
        self.observation_space = types.SimpleNamespace(shape=(2,))
        if continuous:
            self.action_space = types.SimpleNamespace(shape=(2,))
        else:
            self.action_space = types.SimpleNamespace(n=3, name={"fixation": 0, "choice": [1, 2]}, shape=())
        self.continuous, self.unwrapped = continuous, self
        self.start_ind: dict[str, int] = {}
        self.end_ind: dict[str, int] = {}

    def reset(self, seed: int | None = None) -> None:
        self.seed(seed)

    def seed(self, seed: int | None = None) -> None:
        self.rng = np.random.RandomState(seed)

    def new_trial(self) -> None:
        steps = self.rng.randint(3, 7)
        self.ob = self.rng.randn(steps, 2)
        self.ob[:, 1] = np.arange(steps) == steps - 1
        self.gt = np.zeros((steps, 2) if self.continuous else steps)
        self.gt[-1] = self.ob[0] if self.continuous else 1 + (self.ob[0, 0] > 0)
        if self.with_period:
            self.start_ind, self.end_ind = {"decision": steps - 1}, {"decision": steps}


class Broken(Environment):
    """An environment without targets."""

    def new_trial(self) -> None:
        raise AttributeError("no ground truth")


class Decision(Environment):
    """Trials of 6 steps with a signal and a coherence: the first input is the signed coherence, with noise.

    Its periods are a stimulus of 4 steps and a decision of 2.
    """

    def new_trial(self) -> None:
        choice = self.rng.randint(2)
        self.trial = {"coh": self.rng.choice([0, 10.5, 50]), "ground_truth": choice}
        self.start_ind = {"stimulus": 0, "delay": 4, "decision": 4}
        self.end_ind = {"stimulus": 4, "delay": 4, "decision": 6}
        self.ob = np.zeros((6, 2))
        signed = self.trial["coh"] * (2 * choice - 1) / 25
        self.ob[:4, 0] = signed + 0.1 * self.rng.randn(4)
        self.ob[:4, 1] = 1
        self.gt = np.zeros(6)
        self.gt[4:] = 1 + choice


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """NeuroGym with five environments."""
    made = {
        "Signs-v0": Environment,
        "Numbers-v0": lambda **options: Environment(continuous=True, **options),
        "Bare-v0": lambda **options: Environment(with_period=False, **options),
        "Broken-v0": Broken,
        "Decision-v0": Decision,
    }
    registration = types.ModuleType("neurogym.envs.registration")
    registration.all_envs = lambda collections=False: list(made)  # type: ignore[attr-defined]
    registration.make = lambda name, **options: made[name](**options)  # type: ignore[attr-defined]
    for name in ("neurogym", "neurogym.envs"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, registration.__name__, registration)
    gym._environment.cache_clear()


def without_neurogym(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "neurogym"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "neurogym", None)


def drawn(task: str, part: str = "train") -> Trials:
    found = find_task(task)
    assert isinstance(found, TrialTask)
    return found.trials(part)


@pytest.mark.usefixtures("made_up")
def test_each_trial_is_a_sequence() -> None:
    trials = drawn("neurogym:Signs-v0:trials=30")
    assert trials.lengths.min() >= 3
    assert trials.x.shape == (30, trials.lengths.max(), 2)
    for k, length in enumerate(trials.lengths):
        assert np.flatnonzero(trials.response[k]).tolist() == [length - 1]
        assert trials.trained[k].sum() == length
        assert not trials.x[k, length:].any()
        assert trials.y[k, length - 1] == 1 + (trials.x[k, 0, 0] > 0)
    task = find_task("neurogym:Signs-v0:trials=30")
    assert task.target == Target(3, ("fixation", "choice 1", "choice 2"), every_step=True)
    assert task.input_size == 2
    data = task.load()
    assert data.train.n_targets() == trials.lengths.sum()
    assert data.test.n_targets() == 15
    assert find_task("neurogym:Signs-v0:trials=30,fixate=false").load().train.n_targets() == 30
    assert not np.array_equal(data.validation.x[:5], data.train.x[:5, : data.validation.x.shape[1]])


@pytest.mark.usefixtures("made_up")
def test_trials_follow_from_the_seed() -> None:
    one = find_task("neurogym:Signs-v0:trials=20")
    again = one.kind.draw(np.random.RandomState([0, 0]), 20)
    np.testing.assert_array_equal(again.x, one.load().train.x)
    assert one.checksum != find_task("neurogym:Signs-v0:trials=20,seed=1").checksum


@pytest.mark.usefixtures("made_up")
def test_without_a_decision_the_steps_with_a_target_count() -> None:
    trials = drawn("neurogym:Bare-v0:trials=10")
    np.testing.assert_array_equal(trials.response, trials.y > 0)
    numbers = drawn("neurogym:Numbers-v0:trials=10")
    assert numbers.y.shape == (*numbers.x.shape[:2], 2)
    assert find_task("neurogym:Numbers-v0").target == Target(2, every_step=True)
    assert trials.conditions == numbers.conditions == {}


@pytest.mark.usefixtures("made_up")
def test_the_signed_coherence_is_a_condition() -> None:
    trials = drawn("neurogym:Decision-v0:trials=60")
    coherence = trials.conditions[COHERENCE]
    assert set(coherence) == {-50, -10.5, 0, 10.5, 50}
    assert not np.signbit(coherence[coherence == 0]).any()
    shown = coherence != 0
    np.testing.assert_array_equal(trials.y[shown, -1], np.where(coherence[shown] > 0, 2, 1))
    kind = find_task("neurogym:Decision-v0").kind
    assert kind.periods == {"stimulus": slice(0, 4), "delay": slice(4, 4), "decision": slice(4, 6)}
    assert find_task("neurogym:Signs-v0").kind.periods == {}  # its trials differ in length


@pytest.mark.usefixtures("made_up")
def test_choices_and_dynamics_of_a_decision(tmp_path: Path) -> None:
    config = TrainConfig(
        "neurogym:Decision-v0:trials=300",
        "relu",
        **SIZES | {"epochs": 25, "batch_size": 10, "hidden_size": 16},
        learning_rate=1e-2,
        dale=0.8,
        output=tmp_path / "run",
    )
    train(config, Console(quiet=True))
    run, task = Run(config.run_folder), find_task(config.task)
    settings = Settings(sequences=40, starts=3, descent=200)
    analyse(run.path, ["psychometric", "trajectories", "fixed-points"], settings, console=Console(quiet=True))

    found = AnalysisFolder(run.path).load("psychometric")
    coherence = task.trials("test").conditions[COHERENCE]
    outputs = evaluate_in_detail(run.path, []).clean.outputs
    answers = outputs.argmax(axis=1).reshape(-1, 2)[:, -1] - 1
    assert found["levels"].tolist() == [-50, -10.5, 0, 10.5, 50]
    for k, level in enumerate(found["levels"]):
        of = (coherence == level) & (answers >= 0)
        assert found["counts"][0, k] == of.sum()
        assert found["chosen"][0, k] == answers[of].sum()
    assert found["undecided"] == (answers < 0).sum()
    assert found["share"][0, 0] < 0.2 < 0.8 < found["share"][0, -1]

    names = ["coherence -50%", "coherence -10.5%", "coherence +0%", "coherence +10.5%", "coherence +50%"]
    members = conditions_of(run, run.test.take(slice(40)))
    assert list(members) == names
    np.testing.assert_array_equal(members["coherence +50%"], coherence[:40] == 50)
    assert list(periods_of(run, 6)) == ["stimulus", "decision"]
    points = AnalysisFolder(run.path).load("fixed-points")
    assert points["input_step"] == 3  # the last one before the decision
    np.testing.assert_allclose(points["inputs"][0], run.test.x[:40, 3].mean(axis=0), rtol=1e-6)


@pytest.mark.usefixtures("made_up")
def test_answers_are_those_at_the_end_of_responses_of_any_length(tmp_path: Path) -> None:
    task = "neurogym:Bare-v0:trials=40"
    train(TrainConfig(task, "gru", **SIZES, output=tmp_path / "run"), Console(quiet=True))
    model, test = load_classifier(tmp_path / "run")[0], find_task(task).load().test
    mask = test.mask.copy()
    mask[:, 0] = np.arange(len(test)) % 2 == 0  # one step or two
    test = dataclasses.replace(test, mask=mask)
    outputs = model(torch.from_numpy(test.x), every_step=True).argmax(-1).numpy()
    expected = [outputs[k, np.flatnonzero(mask[k])[-1]] - 1 for k in range(len(test))]
    assert answers_of(model, test, find_task(task).kind).tolist() == expected


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize(("name", "quality"), [("Signs-v0", 0.5), ("Numbers-v0", -1.0)])
def test_a_run_goes_from_training_to_prediction(
    name: str, quality: float, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    config = TrainConfig(
        f"neurogym:{name}:trials=300,fixate=false",
        "gru",
        **SIZES | {"epochs": 8, "batch_size": 10},
        learning_rate=1e-2,
        output=run,
    )
    train(config, Console(quiet=True))
    assert evaluate_in_detail(run, []).clean.score.accuracy > quality
    assert main(["evaluate", str(run)]) == 0
    assert main(["analyse", str(run), "psychometric"]) == 2
    refused = " ".join(capsys.readouterr().err.split())
    assert "expected one of delayed-match-to-sample" in refused
    assert "or a task of NeuroGym with a coherence and two choices" in refused
    x = find_task(config.task).load().test.x
    without_neurogym(monkeypatch)  # a prediction needs no environment
    assert len(aru_lab.load(run).predict(x)) >= 1


@pytest.mark.parametrize(
    ("task", "kept"),
    [
        (TASK, TASK),
        (f"{TASK}:", TASK),
        (f"{TASK}:dt=20.0,trials=2000", f"{TASK}:dt=20"),
        (f"{TASK}:fixate=false,seed=3", f"{TASK}:seed=3,fixate=false"),
    ],
)
def test_names_have_one_form_and_need_no_neurogym(task: str, kept: str) -> None:
    assert is_drawn(task)
    assert canonical(task) == kept == TrainConfig(task).task
    assert TrainConfig(TASK).run_folder == Path("runs/neurogym-PerceptualDecisionMaking-v0-arun-seed0")


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        (
            "neurogym:Sings-v0",
            r"got 'neurogym:Sings-v0', expected one of .*neurogym:Signs-v0.* Did you mean Signs-v0\?",
        ),
        ("neurogym:Signs-v0:env=3", "got 'env=3' in .*, expected neurogym:"),
        ("neurogym:Signs-v0:dt=0", "dt: got 0.0, expected a finite number above 0"),
        ("neurogym:Signs-v0:trials=1", "trials: got 1"),
        ("neurogym:Broken-v0", r"expected an environment of trials with targets \(no ground truth\)"),
        ("neurogym:", "got 'neurogym:', expected one of"),
    ],
)
def test_what_is_not_there_is_a_sentence(task: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        find_task(task).load()


def test_missing_neurogym_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    without_neurogym(monkeypatch)
    gym._environment.cache_clear()
    with pytest.raises(ConfigError, match=r'NeuroGym to be installed: `pip install "aru_kernels\[tasks\]"`'):
        find_task("neurogym:Signs-v0:seed=77").load()


@needs_neurogym
@pytest.mark.filterwarnings("ignore")
def test_environments_of_neurogym_are_served() -> None:
    from neurogym.envs.registration import all_envs

    gym._environment.cache_clear()
    refused = []
    for name in all_envs():
        task = find_task(f"neurogym:{name}:trials=6")
        try:
            data = task.load()
        except ConfigError:
            refused.append(name)
            continue
        assert data.train.x.shape[0] == 6
        assert data.train.x.shape[2] == task.input_size
        assert np.isfinite(data.train.x).all()
        assert data.test.mask.any(axis=1).all()
        assert task.checksum == TrialTask(task.base, task.kind).checksum
    assert len(refused) < len(all_envs()) / 4, refused
    assert find_task(TASK).target.names == ("fixation", "choice 1", "choice 2")
    trials = drawn(f"{TASK}:trials=100,dt=50")
    assert set(np.abs(trials.conditions[COHERENCE])) == {0, 6.4, 12.8, 25.6, 51.2}
    strong = np.abs(trials.conditions[COHERENCE]) > 50
    evidence = trials.x[strong, 2:-2, 2].mean(axis=1) > trials.x[strong, 2:-2, 1].mean(axis=1)
    np.testing.assert_array_equal(evidence, trials.conditions[COHERENCE][strong] > 0)


@needs_neurogym
@pytest.mark.filterwarnings("ignore")
def test_a_decision_is_learned(tmp_path: Path) -> None:
    gym._environment.cache_clear()
    sizes = SIZES | {"epochs": 8, "hidden_size": 16, "batch_size": 10}
    config = TrainConfig(f"{TASK}:trials=300,fixate=false", **sizes, output=tmp_path / "run")
    train(config, Console(quiet=True))
    assert evaluate_in_detail(tmp_path / "run", []).clean.score.accuracy > 0.6
