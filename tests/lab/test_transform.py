"""Scales, missing values, averaged steps and balanced classes, from the file to the network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from aru_lab.data.preparation import Preparation
from aru_lab.data.tasks import find_task
from aru_lab.data.transform import Scale, Transform
from aru_lab.errors import ConfigError, DataError
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.evaluation import evaluate
from aru_lab.runs.losses import balanced_weights, loss_of
from aru_lab.runs.training import train

NAN = np.nan
SIZES: dict[str, Any] = {"hidden_size": 5, "controller_size": 3, "epochs": 2, "batch_size": 10, "device": "cpu"}


def file_of(folder: Path, **arrays: Any) -> str:
    np.savez(folder / "data.npz", **arrays)
    return str(folder / "data.npz")


def test_standardised_inputs_have_the_scale_of_the_training_examples(tmp_path: Path) -> None:
    rng = np.random.RandomState(0)
    x = rng.randn(100, 6, 3) * [1, 100, 0] + [0, 5000, 7]
    lengths = rng.randint(1, 7, 100)
    y = rng.randn(100, 2) * [3, 1] + [50, 0]
    task = find_task(file_of(tmp_path, x=x, y=y, lengths=lengths), preparation=Preparation(standardise=True))
    parts = task.load()
    real = parts.train.x[np.arange(6) < parts.train.lengths[:, None]]
    np.testing.assert_allclose(real.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(real.std(0), [1, 1, 0], atol=1e-5)
    np.testing.assert_allclose(parts.train.y.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(parts.train.y.std(0), 1, atol=1e-5)
    assert abs(parts.test.x[..., 1]).max() < 10
    scale = Scale(**{name: tuple(row) for name, row in task.description["transform"]["inputs"].items()})
    raw = find_task(task.name).load()
    np.testing.assert_allclose(
        scale.apply(raw.test.x)[:, 0], parts.test.x[:, 0], atol=1e-5
    )  # the first step is never padding
    np.testing.assert_allclose(scale.undo(parts.test.x)[:, 0], raw.test.x[:, 0], rtol=1e-5, atol=1e-5)
    assert (parts.test.x[np.arange(6) >= parts.test.lengths[:, None]] == 0).all()


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ("zero", [[0, 1], [2, 0], [0, 0], [3, 4]]),
        ("forward", [[0, 1], [2, 1], [2, 1], [3, 4]]),
        ("mask-channel", [[0, 1, 1, 0], [2, 0, 0, 1], [0, 0, 1, 1], [3, 4, 0, 0]]),
    ],
)
def test_missing_values(tmp_path: Path, missing: str, expected: list[list[float]]) -> None:
    x = np.tile(np.array([[NAN, 1], [2, NAN], [NAN, NAN], [3, 4]]), (20, 1, 1))
    task = find_task(file_of(tmp_path, x=x, y=np.arange(20) % 2), preparation=Preparation(missing=missing))
    assert task.input_size == len(expected[0])
    assert task.load().train.x[0].tolist() == expected


def test_missing_values_do_not_count_in_the_scale(tmp_path: Path) -> None:
    x = np.tile(np.array([[NAN], [2], [4], [NAN]]), (20, 1, 1))
    preparation = Preparation(missing="zero", standardise=True)
    task = find_task(file_of(tmp_path, x=x, y=np.arange(20) % 2), preparation=preparation)
    assert task.load().train.x[0, :, 0].tolist() == [0, -1, 1, 0]


def test_missing_values_are_refused_without_an_option(tmp_path: Path) -> None:
    x = np.ones((20, 3, 1))
    x[4, 1] = NAN
    path = file_of(tmp_path, x=x, y=np.arange(20) % 2)
    with pytest.raises(DataError, match=r"x holds numbers that are not finite \(NaN\); .* choose --missing zero, forw"):
        find_task(path).load()


def test_steps_are_averaged(tmp_path: Path) -> None:
    x = np.tile(np.arange(7.0)[:, None], (20, 1, 1))
    x[:, 2] = NAN
    lengths = np.r_[np.full(19, 7), 4]
    path = file_of(tmp_path, x=x, y=np.arange(20) % 2, lengths=lengths)
    task = find_task(path, preparation=Preparation(average_steps=3, missing="zero"))
    parts = task.load()
    assert task.n_steps == 3
    found = {
        int(n): row.ravel().tolist()
        for part in (parts.train, parts.validation, parts.test)
        for n, row in zip(part.lengths, part.x, strict=True)
    }
    assert found == {3: [0.5, 4.0, 6.0], 2: [0.5, 3.0, 0.0]}
    with pytest.raises(ConfigError, match=r"average_steps: got 8 for .*, expected at most its T = 7"):
        find_task(path, preparation=Preparation(average_steps=8, missing="zero")).load()


def test_transform_survives_json() -> None:
    transform = Transform(3, Scale((1.0, 2.0), (0.1, 3.0)), "forward", Scale((0.5,), (2.0,)))
    assert Transform.from_json(json.loads(json.dumps(transform.to_json()))) == transform
    assert Transform.from_json(Transform().to_json()) == Transform()


@pytest.mark.parametrize(
    "change",
    [
        {"average_steps": 0},
        {"missing": "none"},
        {"inputs": {"mean": [1.0], "deviation": [0.0]}},
        {"inputs": {"mean": [1.0], "deviation": [1.0, 2.0]}},
        {"targets": []},
        {"further": 1},
    ],
)
def test_damaged_transform_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises((ValueError, ConfigError)):
        Transform.from_json(Transform().to_json() | change)


@pytest.mark.parametrize(
    ("name", "value"),
    [("missing", "mean"), ("standardise", 1), ("average_steps", 0), ("class_weights", "equal"), ("target", "class")],
)
def test_wrong_options_are_told(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}: got {value!r}, expected "):
        TrainConfig("data.npz", **{name: value})


def test_balanced_classes_count_the_same() -> None:
    y = np.repeat([0, 1, 3], [6, 3, 1])
    weights = balanced_weights(y, 4)
    np.testing.assert_allclose(weights * np.bincount(y), [10 / 3, 10 / 3, 0, 10 / 3])
    torch.manual_seed(0)
    outputs, targets, factors = torch.randn(10, 4).double(), torch.from_numpy(y), torch.from_numpy(weights)
    each = torch.nn.functional.cross_entropy(outputs, targets, reduction="none")
    expected = (each * factors[targets]).mean()
    torch.testing.assert_close(loss_of(outputs, targets, weights=factors), expected)
    # parts of a batch add up
    parts = [loss_of(outputs[part], targets[part], weights=factors) for part in (slice(5), slice(5, None))]
    torch.testing.assert_close(sum(parts) / 2, expected)


def test_balanced_weights_find_a_rare_class(tmp_path: Path) -> None:
    rng = np.random.RandomState(0)
    y = (np.arange(300) % 12 == 0).astype(int)
    x = rng.randn(300, 4, 1) + 1.5 * y[:, None, None]
    recall = {}
    for weights in (None, "balanced"):
        run = tmp_path / str(weights)
        config = TrainConfig(
            file_of(tmp_path, x=x, y=y), "gru", **SIZES | {"epochs": 4}, class_weights=weights, output=run
        )
        recall[weights] = train(config, Console(quiet=True)).history[-1]["train_loss"]
    assert recall["balanced"] > recall[None]
    path = file_of(tmp_path, x=x, y=y.astype(float))
    with pytest.raises(ConfigError, match="class_weights: got balanced with targets that are numbers, expected classe"):
        train(TrainConfig(path, "gru", class_weights="balanced", output=tmp_path / "r"), Console(quiet=True))


def test_run_with_all_of_it_is_trained_and_evaluated(tmp_path: Path) -> None:
    rng = np.random.RandomState(0)
    x = rng.randn(60, 9, 2) * 40
    x[rng.rand(60, 9, 2) < 0.2] = NAN
    options = {"standardise": True, "missing": "mask-channel", "average_steps": 2, "split": "0.5,0.2,0.3"}
    lengths = rng.randint(1, 10, 60)
    path = file_of(tmp_path, x=x, y=np.array(["a", "b", "b"] * 20), lengths=lengths, groups=np.arange(60) // 3)
    train(TrainConfig(path, "arun", **SIZES, **options, output=tmp_path / "run"), Console(quiet=True))
    assert evaluate(tmp_path / "run", [])[0].n == 18
