"""A target at every step of a user's sequences, with a mask: from the file to the prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

import aru_lab
from aru_lab.cli import main
from aru_lab.data.preparation import Preparation
from aru_lab.data.sequences import Sequences
from aru_lab.data.summary import baseline, counts
from aru_lab.data.targets import Target
from aru_lab.data.tasks import find_task
from aru_lab.errors import ConfigError, DataError
from aru_lab.networks.classifier import build_classifier
from aru_lab.networks.names import MODELS
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.distributed import World
from aru_lab.runs.evaluation import evaluate_in_detail, score
from aru_lab.runs.learner import Batch, Learner
from aru_lab.runs.training import train

N, T = 60, 7
RNG = np.random.RandomState(0)
X = RNG.randn(N, T, 2)
WORDS = np.where(X[..., 0] > 0, "up", "down")
MASK = RNG.rand(N, T) < 0.7
MASK[:, 0] = True
SIZES: dict[str, Any] = {"hidden_size": 8, "controller_size": 3, "batch_size": 10, "device": "cpu"}
SIZES |= {"learning_rate": 1e-2, "learning_rate_scaling": "none"}


def file_of(folder: Path, **arrays: Any) -> str:
    np.savez(folder / "data.npz", **({"x": X, "y": WORDS} | arrays))
    return str(folder / "data.npz")


@pytest.mark.parametrize("model", MODELS)
def test_every_step_is_the_last_one_of_a_shorter_sequence(model: str) -> None:
    torch.manual_seed(0)
    network = build_classifier(model, 5, 3, input_size=2, n_classes=3, dtype=torch.float64)
    x = torch.from_numpy(X[:4])
    found = network(x, every_step=True)
    assert found.shape == (4, T, 3)
    for t in (0, 3, T - 1):
        torch.testing.assert_close(found[:, t], network(x[:, : t + 1]))


def test_classes_at_steps_are_learned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lengths = RNG.randint(2, T + 1, N)
    y = WORDS.astype("U9")
    y[~MASK] = "nonsense"
    path, run = file_of(tmp_path, y=y, mask=MASK, lengths=lengths), tmp_path / "run"
    real = MASK & (np.arange(T) < lengths[:, None])
    task = find_task(path)
    assert task.target == Target(2, ("down", "up"), every_step=True)
    data = task.load()
    assert sum(int(count.sum()) for count in counts(data, task.target).values()) == real.sum()
    config = TrainConfig(path, "arun", **SIZES, epochs=15, standardise=True, output=run)
    assert train(config, Console(quiet=True)).history[-1]["train_accuracy"] > 0.9
    found = evaluate_in_detail(run, [])
    assert found.clean.score.n == data.test.mask.sum() == len(found.clean.outputs)
    assert found.clean.score.accuracy == (found.clean.outputs.argmax(1) == data.test.y[data.test.mask]).mean()
    assert found.baseline == baseline(data, task.target)
    assert main(["evaluate", str(run), "--perturb", "step:amplitude=0.5"]) == 0
    assert f"{found.clean.score.n} targets at steps of test sequences" in capsys.readouterr().out.replace("\n", " ")
    answers = aru_lab.load(run).predict(X, lengths)
    assert answers["probabilities"].shape == (N, T, 2)
    assert (answers["classes"][real] == WORDS[real]).mean() > 0.85
    padded = np.arange(T) >= lengths[:, None]
    assert (answers["classes"][padded] == "").all()
    assert np.isnan(answers["probabilities"][padded]).all()


@pytest.mark.parametrize("n_outputs", [None, 1, 2])
def test_numbers_at_steps_are_learned(tmp_path: Path, n_outputs: int | None) -> None:
    y = X @ RNG.randn(2, n_outputs or 1) * 5 + 100
    y[~MASK] = np.nan
    y = y[..., 0] if n_outputs is None else y
    path = file_of(tmp_path, y=y, mask=MASK.astype(float))
    assert find_task(path).target == Target(n_outputs or 1, every_step=True)
    config = TrainConfig(path, "gru", **SIZES, epochs=30, standardise=True, output=tmp_path / "run")
    assert train(config, Console(quiet=True)).history[-1]["train_accuracy"] > 0.7
    numbers = aru_lab.load(tmp_path / "run").predict(X)["numbers"]
    assert numbers.shape == (N, T, n_outputs or 1)
    assert abs(numbers.mean() - 100) < 5


def test_gradient_of_a_batch_does_not_depend_on_its_parts(tmp_path: Path) -> None:
    path, gradients = file_of(tmp_path, mask=MASK), []
    for accumulate in (1, 3):
        config = TrainConfig(path, "gru", **SIZES, accumulate=accumulate, dtype="float64")
        task = find_task(path)
        learner = Learner(config, task, World())
        learner.gradients(task.load().train, Batch(torch.arange(10), None, [0] * 10, 0))
        gradients.append(torch.cat([p.grad.flatten() for p in learner.model.parameters()]))
    torch.testing.assert_close(*gradients)
    assert gradients[0].norm() > 0


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_score_does_not_depend_on_the_batch(batch_size: int) -> None:
    torch.manual_seed(0)
    model = build_classifier("gru", 6, input_size=2, n_classes=2, dtype=torch.float64)
    data = Sequences(X, (X[..., 0] > 0).astype(np.int64), None, MASK)
    whole, parts = score(model, data), score(model, data, batch_size)
    assert whole.n == MASK.sum()
    assert parts.accuracy == whole.accuracy
    assert parts.loss == pytest.approx(whole.loss, rel=1e-12)


def test_split_is_by_the_most_frequent_class(tmp_path: Path) -> None:
    y = np.repeat(np.array([0, 1, 2])[np.arange(N) % 3][:, None], T, axis=1)
    y[:, 0] = 1
    parts = find_task(file_of(tmp_path, y=y), preparation=Preparation(split="0.5,0.2,0.3")).load()
    for part, n in ((parts.train, 10), (parts.validation, 4), (parts.test, 6)):
        assert np.bincount(part.y[:, 1]).tolist() == [n, n, n]


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        (
            {"mask": MASK[:, :3]},
            r"mask has the shape \(60, 3\) and the type bool, expected booleans, or 0 and 1, of sh",
        ),
        ({"mask": MASK * 2}, "mask has the shape .* and the type int64, expected booleans, or 0 and 1"),
        ({"mask": np.zeros((N, T), bool)}, "mask leaves sequence 0 without a target"),
        ({"mask": MASK[:, ::-1] & False | (np.arange(T) == 5), "lengths": np.full(N, 5)}, "leaves sequence 0 without"),
        ({"y": np.arange(N) % 2, "mask": MASK}, r"it holds mask and no y of shape \(N, T\)"),
        ({"y": np.zeros((N, T - 1, 2))}, r"y has the shape \(60, 6, 2\) beside x of shape \(60, 7, 2\)"),
        ({"y": np.zeros((N, T, 2), int)}, r"y has the shape \(60, 7, 2\)"),
    ],
)
def test_what_does_not_fit_is_told(tmp_path: Path, arrays: dict[str, np.ndarray], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        find_task(file_of(tmp_path, **arrays)).load()


def test_steps_with_targets_are_not_averaged(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"average_steps: got 2 for .*, which has a target at every step, expected 1"):
        find_task(file_of(tmp_path), preparation=Preparation(average_steps=2)).load()
