"""Targets of a user's file: names and numbers of classes, and regression, from the file to the score."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from aru_lab.cli import main
from aru_lab.data.targets import Target
from aru_lab.data.tasks import find_task
from aru_lab.errors import ConfigError
from aru_lab.experiments.robustness import robustness
from aru_lab.networks.classifier import build_classifier
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.evaluation import evaluate, score
from aru_lab.runs.losses import quality_of, spread_of
from aru_lab.runs.sensitivity import Strengths
from aru_lab.runs.training import train

SIZES: dict[str, Any] = {"hidden_size": 6, "controller_size": 3, "epochs": 1, "batch_size": 10, "device": "cpu"}


def file_of(folder: Path, y: np.ndarray, **arrays: Any) -> str:
    rng = np.random.RandomState(0)
    path = folder / "data.npz"
    np.savez(path, **({"x": rng.rand(len(y), 5, 2), "y": y} | arrays))
    return str(path)


@pytest.mark.parametrize(
    ("y", "names"),
    [
        (np.array(["cat", "ant", "bee"] * 10), ("ant", "bee", "cat")),
        (np.array([b"no", b"yes"] * 15).astype("S3"), ("no", "yes")),
        (np.array([7, -2, 10**15] * 10), ("-2", "7", "1000000000000000")),
        (np.array([1, 2, 3] * 10, np.uint8), ("1", "2", "3")),
        (np.array([True, False] * 15), ("False", "True")),
        (np.array([0, 1, 2] * 10), ("0", "1", "2")),
    ],
    ids=["strings", "bytes", "any integers", "from 1", "booleans", "from 0"],
)
def test_labels_are_classes_in_their_order(tmp_path: Path, y: np.ndarray, names: tuple[str, ...]) -> None:
    task = find_task(file_of(tmp_path, y, x=np.arange(300.0).reshape(30, 5, 2)))
    assert task.target == Target(len(names), names)
    parts = task.load()
    for part in (parts.train, parts.validation, parts.test):
        assert part.y.dtype == np.int64
        at = (part.x[:, 0, 0] / 10).astype(int)
        label = y[at].astype(str) if y.dtype.kind == "S" else y[at]
        assert [names[k] for k in part.y] == [str(value) for value in label.tolist()]


def test_gaps_are_kept_on_request_and_in_runs_of_earlier_versions(tmp_path: Path) -> None:
    path = file_of(tmp_path, np.array([0, 4] * 15))
    assert find_task(path).target.n_outputs == 2
    config = TrainConfig(path, "relu", keep_gaps=True, **SIZES, output=tmp_path / "run")
    told = io.StringIO()
    train(config, Console(file=told, width=1000))
    assert "of the 5 classes from 0 to the largest label, 3 have no sequences (1, 2, 3)" in told.getvalue()
    content = json.loads((tmp_path / "run" / "config.json").read_text())
    assert content["environment"]["data"]["target"]["names"] == ["0", "1", "2", "3", "4"]
    del content["config"]["keep_gaps"], content["environment"]["data"]
    (tmp_path / "run" / "config.json").write_text(json.dumps(content))
    assert evaluate(tmp_path / "run", [])[0].n == 6
    path = file_of(tmp_path, np.array([-1, 4] * 15))
    with pytest.raises(ConfigError, match=r"keep_gaps: got True for .*, whose y holds labels from -1 to 4, expected"):
        train(TrainConfig(path, keep_gaps=True, **SIZES, output=tmp_path / "other"), Console(quiet=True))


@pytest.mark.parametrize("n_outputs", [None, 1, 3])
def test_regression(tmp_path: Path, n_outputs: int | None, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.RandomState(1)
    x = rng.randn(200, 4, 2)
    y = x[:, -1] @ rng.randn(2, n_outputs or 1) + 0.5
    path = file_of(tmp_path, y[:, 0] if n_outputs is None else y, x=x)
    assert find_task(path).target == Target(n_outputs or 1)
    run = tmp_path / "run"
    sizes = SIZES | {"hidden_size": 16, "epochs": 20, "learning_rate": 1e-2}
    history = train(TrainConfig(path, "gru", **sizes, output=run), Console(quiet=True)).history
    assert history[-1]["train_accuracy"] > 0.7
    clean, _ = evaluate(run, [])
    assert clean.n == 40
    assert clean.accuracy == pytest.approx(1 - clean.loss / find_task(path).load().test.y.var(axis=0).mean(), abs=1e-6)
    assert clean.accuracy > 0.7
    assert main(["evaluate", str(run), "--perturb", "step:amplitude=1"]) == 0
    assert "R²" in capsys.readouterr().out


def test_integers_can_be_numbers_and_whole_floats_classes(tmp_path: Path) -> None:
    ages = file_of(tmp_path, np.arange(30))
    assert find_task(ages, preparation=TrainConfig(ages, target="numbers").preparation).target == Target(1)
    doubles = file_of(tmp_path, np.arange(30) % 2 + 1.0)
    assert find_task(doubles).target == Target(1)
    classes = TrainConfig(doubles, target="classes").preparation
    assert find_task(doubles, preparation=classes).target == Target(2, ("1", "2"))
    halves = file_of(tmp_path, np.arange(30) / 2)
    with pytest.raises(
        ConfigError, match=r"target: got classes for .*, whose y holds floats of shape \(30,\), expected"
    ):
        find_task(halves, preparation=classes).load()
    words = file_of(tmp_path, np.array(["a", "b"] * 15))
    with pytest.raises(
        ConfigError, match=r"target: got numbers for .*, whose y holds strings, expected auto or classes"
    ):
        find_task(words, preparation=TrainConfig(words, target="numbers").preparation).load()


def test_score_of_numbers_is_the_mean_squared_error(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_classifier("gru", 6, input_size=2, n_classes=3)
    rng = np.random.RandomState(0)
    data = find_task(file_of(tmp_path, rng.randn(30, 3))).load().train
    expected = float(((model(torch.from_numpy(data.x)).detach().numpy() - data.y) ** 2).mean())
    for batch_size in (4, 100):
        assert score(model, data, batch_size).loss == pytest.approx(expected, rel=1e-5)
    assert score(model, data).accuracy == pytest.approx(1 - expected / data.y.var(axis=0).mean(), rel=1e-4)


def test_equal_targets_have_no_r_squared() -> None:
    assert spread_of(np.ones((5, 2), np.float32)) == 0
    assert quality_of(0.3, 0, 5, 0.0) == 0


def test_robustness_of_a_regression_is_in_r_squared(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    rng = np.random.RandomState(0)
    run = tmp_path / "run"
    train(TrainConfig(file_of(tmp_path, rng.rand(40)), "relu", **SIZES, output=run), Console(quiet=True))
    drawn = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda figure, file, **_: (drawn.append(figure), file.write(b"picture")))
        rows, failures = robustness([run], tmp_path / "out", Strengths((0.0, 1.0), (0.0,), (0.0,), (0.0,), (0.0,)))
    assert failures == {}
    clean, _ = evaluate(run, [])
    assert rows[0]["accuracy"] == pytest.approx(clean.accuracy, abs=1e-6)
    assert rows[1]["accuracy"] != rows[0]["accuracy"]
    assert [axes.get_ylabel() for axes in drawn[0].axes if axes.get_ylabel()] == ["R² (%)", "mean squared error"]
