"""Scores: what they count, that they do not depend on the batch, and the evaluation of a run."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from aru_lab.data.sequences import Sequences
from aru_lab.data.tasks import TASKS
from aru_lab.errors import ConfigError, RunError
from aru_lab.networks.classifier import build_classifier
from aru_lab.networks.perturbations import StepDrive
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.evaluation import evaluate, load_classifier, score
from aru_lab.runs.training import train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small trained run."""
    folder = tmp_path_factory.mktemp("evaluation") / "run"
    config = TrainConfig(
        model="gru", hidden_size=8, epochs=3, subset=200, validation_subset=50, device="cpu", output=folder
    )
    train(config, Console(file=io.StringIO()))
    return folder


def sequences(n: int) -> Sequences:
    rng = np.random.RandomState(0)
    return Sequences(rng.rand(n, 5, 1).astype(np.float32), rng.randint(0, 10, n))


def test_score_is_accuracy_and_mean_cross_entropy() -> None:
    torch.manual_seed(0)
    model = build_classifier("gru", 6)
    data = sequences(30)
    result = score(model, data)
    logits = model(torch.from_numpy(data.x))
    y = torch.from_numpy(data.y)
    assert result.n == 30
    assert result.accuracy == (logits.argmax(1) == y).double().mean().item()
    assert result.loss == pytest.approx(torch.nn.functional.cross_entropy(logits, y).item(), rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 7, 30, 1000])
def test_score_does_not_depend_on_the_batch(batch_size: int) -> None:
    torch.manual_seed(0)
    model = build_classifier("arun", 6, 4, dtype=torch.float64)
    data = sequences(30)
    step = StepDrive(0.2)
    whole, parts = score(model, data, perturbation=step), score(model, data, batch_size, step)
    assert parts.accuracy == whole.accuracy
    assert parts.loss == pytest.approx(whole.loss, rel=1e-12)


def test_score_leaves_the_mode_and_takes_no_gradient() -> None:
    model = build_classifier("gru", 6)
    for mode in (True, False):
        score(model.train(mode), sequences(3))
        assert model.training is mode
    assert all(p.grad is None for p in model.parameters())


def test_evaluation_of_a_run_equals_scoring_its_best_weights(run: Path) -> None:
    clean, (driven, none) = evaluate(run, [StepDrive(2.0, 10, 40), StepDrive(0.0)])
    model, config = load_classifier(run)
    test = TASKS[config.task].load().test
    assert clean == score(model, test)
    assert driven == score(model, test, perturbation=StepDrive(2.0, 10, 40))
    assert driven != clean
    assert none.loss == pytest.approx(clean.loss, rel=1e-5)


def test_last_checkpoint_can_be_evaluated(run: Path) -> None:
    assert evaluate(run, [], which="last")[0].n == 359


def test_refusals(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no run"):
        evaluate(tmp_path, [])
    with pytest.raises(ConfigError, match="checkpoint: got 'first', expected one of best, last"):
        evaluate(run, [], which="first")
    with pytest.raises(ConfigError, match="device: got 'nothing'"):
        evaluate(run, [], device="nothing")
    with pytest.raises(ConfigError, match="expected it to end within the sequence of 64 steps"):
        evaluate(run, [StepDrive(1.0, 60, 10)])


def test_run_without_the_checkpoint_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((run / "config.json").read_bytes())
    with pytest.raises(RunError, match=r"best.pt does not exist"):
        evaluate(tmp_path, [])


def test_checkpoint_of_another_configuration_is_refused(run: Path, tmp_path: Path) -> None:
    config = (run / "config.json").read_text().replace('"hidden_size": 8', '"hidden_size": 9')
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "best.pt").write_bytes((run / "best.pt").read_bytes())
    with pytest.raises(
        RunError,
        match=r"best\.pt does not belong to the configuration in \S+, which has changed since in hidden_size",
    ):
        evaluate(tmp_path, [])
