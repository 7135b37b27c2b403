"""What is said of a user's data before training: counts, ranges, the baseline, and what looks wrong."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from aru_lab.data.summary import baseline
from aru_lab.data.tasks import find_task
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.display import show_data

RNG = np.random.RandomState(0)


def task_of(folder: Path, **arrays: Any) -> Any:
    np.savez(folder / "data.npz", **arrays)
    return find_task(str(folder / "data.npz"))


def printed(task: Any) -> str:
    console = Console(file=io.StringIO(), width=120)
    show_data(console, task.load(), task.target)
    return " ".join(console.file.getvalue().replace("│", " ").split())


def test_table_counts_classes_in_each_part(tmp_path: Path) -> None:
    x = np.linspace(-1, 2, 40 * 5 * 3).reshape(40, 5, 3)
    own = {"x_test": x[:4], "y_test": np.array(["b", "b", "b", "a"])}
    own |= {"x_validation": x[:2], "y_validation": np.array(["a", "b"])}
    found = printed(task_of(tmp_path, x=x, y=np.array(["a", "b", "b", "b"] * 10), **own))
    assert "46 sequences, T = 5, I = 3, x from -1 to 2" in found
    assert "a 10 1 1 b 30 1 3" in found
    assert "all 40 2 4" in found
    assert "always answering b has the accuracy 75.0% on the test examples" in found


def test_table_of_many_classes_is_short(tmp_path: Path) -> None:
    found = printed(task_of(tmp_path, x=RNG.rand(900, 3, 1), y=np.arange(900) % 30))
    assert "18 " in found
    assert "11 further classes" in found


def test_baseline_of_numbers_is_the_mean_of_the_training_targets(tmp_path: Path) -> None:
    task = task_of(tmp_path, x=RNG.rand(40, 3, 1), y=RNG.rand(40, 2))
    data = task.load()
    expected = ((data.test.y - data.train.y.mean(0)) ** 2).mean()
    assert baseline(data, task.target).score == pytest.approx(expected, rel=1e-5)
    assert "always answering the mean has the mean squared error" in printed(task)
    assert "numbers, O = 2 28 4 8" in printed(task)


@pytest.mark.parametrize(
    ("x", "y", "sentence"),
    [
        (RNG.rand(40, 3, 50), np.arange(40) % 2, r"x has T = 3 steps of I = 50 features; if its order is \(N, I, T\)"),
        (RNG.rand(40, 5, 2), np.zeros(40, int), "all sequences are of one class, 0; there is nothing to learn"),
        (RNG.rand(40, 5, 2) * 300, np.arange(40) % 2, r"x goes from \S+ to 29\d.* which --standardise gives"),
        (RNG.rand(40, 5, 2) / 1000, np.arange(40) % 2, "x goes from .* with a standard deviation of 0.00029"),
        (RNG.rand(40, 5, 2), np.r_[np.zeros(39, int), 5], "the validation examples have none of the class 5"),
        (RNG.rand(40, 5, 2), RNG.rand(40) + 300, "y goes from 300 to 301 .* scale them"),
        (RNG.rand(40, 5, 2), np.arange(40) % 2 * 1.0, "y holds floats with only 2 different whole numbers"),
    ],
    ids=["layout", "one class", "large", "small", "absent", "far target", "whole floats"],
)
def test_what_looks_wrong_is_said(tmp_path: Path, x: np.ndarray, y: np.ndarray, sentence: str) -> None:
    import re

    said = task_of(tmp_path, x=x, y=y).remarks
    assert any(re.search(sentence, remark) for remark in said), said
    assert all(remark.startswith(f"{tmp_path / 'data.npz'}: ") for remark in said)


def test_good_data_has_no_remarks(tmp_path: Path) -> None:
    assert task_of(tmp_path, x=RNG.randn(60, 50, 4), y=np.arange(60) % 2).remarks == []


def test_training_begins_with_the_table(tmp_path: Path) -> None:
    from aru_lab.runs.training import train

    task_of(tmp_path, x=RNG.rand(60, 5, 2), y=np.array(["left", "right"] * 30))
    told = io.StringIO()
    config = TrainConfig(
        str(tmp_path / "data.npz"), "relu", hidden_size=4, epochs=1, subset=20, device="cpu", output=tmp_path / "run"
    )
    train(config, Console(file=told, width=120))
    assert told.getvalue().index("Baseline: always answering") < told.getvalue().index("epoch 1/1")
    assert "38 sequences" in told.getvalue()
