"""Division of a user's file: given parts, groups, shares and classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from aru_lab.data.images import SPLIT_SEED, fixed_permutation
from aru_lab.data.preparation import Preparation
from aru_lab.data.sequences import Sequences
from aru_lab.data.splits import random_split, stratified_split
from aru_lab.data.tasks import find_task
from aru_lab.errors import ConfigError, DataError
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.training import train

PARTS = ("train", "validation", "test")


def parts_of(folder: Path, split: str | None = None, **arrays: Any) -> dict[str, Sequences]:
    np.savez(folder / "data.npz", **arrays)
    data = find_task(str(folder / "data.npz"), preparation=Preparation(split=split)).load()
    return {name: getattr(data, name) for name in PARTS}


def numbered(n: int, start: int = 0) -> np.ndarray:
    """Sequences that hold their own number."""
    return np.broadcast_to(np.arange(start, start + n, dtype=float)[:, None, None], (n, 4, 1))


def numbers(part: Sequences) -> list[int]:
    return part.x[:, 0, 0].astype(int).tolist()


def test_default_is_that_of_earlier_versions(tmp_path: Path) -> None:
    parts = parts_of(tmp_path, x=numbered(50), y=np.arange(50) % 3)
    order = fixed_permutation(50, SPLIT_SEED).tolist()
    assert [numbers(parts[name]) for name in PARTS] == [order[:35], order[35:40], order[40:]]
    assert np.concatenate(random_split(50, SPLIT_SEED)).tolist() == order


def test_shares_hold_for_every_class(tmp_path: Path) -> None:
    y = np.repeat([0, 1, 2], [300, 90, 10])
    parts = parts_of(tmp_path, "0.6,0.1,0.3", x=numbered(400), y=y)
    assert [len(parts[name].y) for name in PARTS] == [240, 40, 120]
    for k, n in enumerate((300, 90, 10)):
        for name, share in zip(PARTS, (0.6, 0.1, 0.3), strict=True):
            assert abs((parts[name].y == k).sum() - share * n) <= 1
    assert sorted(number for name in PARTS for number in numbers(parts[name])) == list(range(400))
    for part in parts.values():
        assert part.y.tolist() == y[numbers(part)].tolist()


def test_rare_class_is_trained() -> None:
    classes = np.r_[np.zeros(50, int), 1, 2, 3]
    train_part, _, _ = stratified_split(classes, [0.1, 0.1, 0.8], 0)
    assert set(classes[train_part]) == {0, 1, 2, 3}


@pytest.mark.parametrize("split", [None, "0.5,0.25,0.25"])
@pytest.mark.parametrize("kind", [int, str])
def test_no_group_is_in_two_parts(tmp_path: Path, split: str | None, kind: type) -> None:
    rng = np.random.RandomState(0)
    groups = rng.randint(0, 30, 300)
    y = (groups + rng.randint(0, 2, 300)) % 3
    parts = parts_of(tmp_path, split, x=numbered(300), y=y, groups=groups.astype(kind))
    found = [set(groups[numbers(part)]) for part in parts.values()]
    assert sum(map(len, found)) == 30 == len(set.union(*found))
    shares = (0.7, 0.1, 0.2) if split is None else (0.5, 0.25, 0.25)
    for part, share in zip(parts.values(), shares, strict=True):
        assert abs(len(part) / 300 - share) < 0.06
        assert abs(part.y.mean() - y.mean()) < 0.25


def test_given_parts_are_taken_as_they_are(tmp_path: Path) -> None:
    y = np.arange(40) % 2
    own = {"x_test": numbered(7, 100), "y_test": np.array([1, 0, 1, 1, 0, 0, 1])}
    parts = parts_of(tmp_path, x=numbered(40), y=y, **own)
    assert numbers(parts["test"]) == list(range(100, 107))
    assert parts["test"].y.tolist() == own["y_test"].tolist()
    assert (len(parts["train"]), len(parts["validation"])) == (35, 5)
    assert sorted(numbers(parts["train"]) + numbers(parts["validation"])) == list(range(40))
    own |= {"x_validation": numbered(3, 200), "y_validation": np.array([0, 1, 1])}
    parts = parts_of(tmp_path, x=numbered(40), y=y, **own)
    assert [len(parts[name]) for name in PARTS] == [40, 3, 7]
    assert numbers(parts["validation"]) == [200, 201, 202]


def test_classes_are_those_of_all_parts(tmp_path: Path) -> None:
    words = np.array(["b", "c"] * 20)
    parts = parts_of(tmp_path, x=numbered(40), y=words, x_test=numbered(2), y_test=np.array(["a", "c"]))
    assert parts["test"].y.tolist() == [0, 2]
    assert set(parts["train"].y) == {1, 2}


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"x_test": numbered(3)}, "it holds x_test and no y_test"),
        ({"y_test": np.zeros(3, int)}, "it holds y_test and no x_test"),
        ({"x_test": np.zeros((3, 5, 1)), "y_test": np.zeros(3, int)}, r"x_test has the shape \(3, 5, 1\) beside x of"),
        ({"x_test": numbered(3), "y_test": np.zeros(3)}, "y_test holds numbers of shape .* beside y with integers"),
        ({"x_test": numbered(3), "y_test": np.array(["a"] * 3)}, "y_test holds names of shape .* beside y with integ"),
        (
            {"x_test": numbered(3), "y_test": np.zeros(3, int), "lengths_test": np.ones(3, int)},
            "lengths are given for some parts only, expected lengths for x and for x_test",
        ),
        (
            {"x_test": numbered(3), "y_test": np.zeros(3, int), "groups": np.arange(40), "groups_test": np.arange(3)},
            "the group 0 is in groups and in groups_test, expected it in one part",
        ),
        ({"groups": np.zeros((40, 1), int)}, r"groups has the shape \(40, 1\) and the type int64, expected"),
        ({"groups": np.arange(40) % 2}, "40 sequences in 2 groups leave no validation examples"),
    ],
)
def test_parts_that_do_not_fit_are_told(tmp_path: Path, arrays: dict[str, np.ndarray], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        parts_of(tmp_path, x=numbered(40), y=np.arange(40) % 2, **arrays)


@pytest.mark.parametrize("text", ["0.7,0.3", "0.7,0.1,0.3", "a,b,c", "1,0,0", "nan,0.5,0.5", ""])
def test_wrong_shares_are_told(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^split: got .*, expected three numbers above 0 that add up to 1"):
        TrainConfig("data.npz", split=text)


def test_options_of_files_are_refused_for_images() -> None:
    with pytest.raises(ConfigError, match=r"^split: got '0.7,0.1,0.2' with the task sdigits, expected the path of a"):
        TrainConfig("sdigits", split="0.7,0.1,0.2")


def test_run_keeps_its_split(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=numbered(40), y=np.array(["b", "a"] * 20))
    sizes = {"hidden_size": 4, "epochs": 1, "device": "cpu"}
    path = str(tmp_path / "data.npz")
    train(TrainConfig(path, "relu", **sizes, split="0.5,0.2,0.3", output=tmp_path / "run"), Console(quiet=True))
    content = json.loads((tmp_path / "run" / "config.json").read_text())
    assert content["config"]["split"] == "0.5,0.2,0.3"
    assert content["environment"]["data"]["counts"] == {"train": [10, 10], "validation": [4, 4], "test": [6, 6]}
