"""A user's file of sequences: what is read, how it is split, and what is wrong with a file that is refused."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from aru_lab.data.sequences import checksum, read_sequences
from aru_lab.data.tasks import find_task
from aru_lab.errors import ConfigError, DataError
from aru_lab.experiments.analyse import analyse
from aru_lab.networks.perturbations import parse
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.evaluation import evaluate
from aru_lab.runs.scores import known_scores
from aru_lab.runs.training import resume, train

RNG = np.random.RandomState(0)


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_sequences_are_read_and_split(tmp_path: Path) -> None:
    x, y = RNG.rand(50, 6, 2), np.arange(50) % 3
    path = save(tmp_path / "data.npz", x=x, y=y)
    task = find_task(str(path))
    assert (task.n_steps, task.input_size, task.target.n_outputs) == (6, 2, 3)
    parts = task.load()
    assert [len(part) for part in (parts.train, parts.validation, parts.test)] == [35, 5, 10]
    found = np.concatenate([part.x for part in (parts.train, parts.validation, parts.test)])
    np.testing.assert_array_equal(np.sort(found.ravel()), np.sort(x.astype(np.float32).ravel()))
    np.testing.assert_array_equal(task.load().train.y, parts.train.y)


def test_network_learns_and_is_tested_on_a_file(tmp_path: Path) -> None:
    # The class is the sign of the mean of the first feature.
    y = RNG.randint(0, 2, 300)
    x = RNG.randn(300, 5, 2) * 0.3
    x[:, :, 0] += np.where(y, 0.5, -0.5)[:, None]
    path = save(tmp_path / "signs.npz", x=x, y=y)
    sizes = {"hidden_size": 8, "controller_size": 4, "epochs": 15, "batch_size": 20, "learning_rate": 1e-2}
    config = TrainConfig(str(path), **sizes, device="cpu", output=tmp_path / "run")
    result = train(config, Console(file=io.StringIO()))
    assert result.history[-1]["validation_accuracy"] > 0.9
    clean, (driven,) = evaluate(tmp_path / "run", [parse("step:amplitude=3,onset=1,length=2")])
    assert clean.n == 60
    assert clean.accuracy > 0.9
    assert driven.loss != clean.loss


def test_file_that_has_changed_is_told(tmp_path: Path) -> None:
    """The network is then of another size; its checkpoint and its configuration are whole."""
    path = save(tmp_path / "data.npz", x=RNG.rand(30, 4, 2), y=np.arange(30) % 2)
    run = tmp_path / "run"
    config = TrainConfig(str(path), hidden_size=4, controller_size=3, epochs=1, device="cpu", output=run)
    train(config, Console(quiet=True))
    save(path, x=RNG.rand(30, 4, 3), y=np.arange(30) % 2)
    for attempt in (lambda: evaluate(run, []), lambda: resume(run, Console(quiet=True))):
        with pytest.raises(
            DataError,
            match=r"data\.npz has changed since the run began: .* no longer is that in config\.json,",
        ) as told:
            attempt()
        assert "\n" not in str(told.value)


def test_stored_scores_and_analyses_are_of_the_data_they_name(tmp_path: Path) -> None:
    """All labels are flipped: the run refuses the file, and nothing that is stored passes for a result of it."""
    x, y = RNG.rand(40, 4, 2), np.arange(40) % 2
    path, run = save(tmp_path / "data.npz", x=x, y=y), tmp_path / "run"
    config = TrainConfig(str(path), hidden_size=4, controller_size=3, epochs=1, device="cpu", output=run)
    train(config, Console(quiet=True))
    before = known_scores(run, [None])
    quiet = Console(quiet=True)
    assert analyse(run, ("responses",), console=quiet) == ["responses"]
    assert analyse(run, ("responses",), console=quiet) == []
    save(path, x=x, y=1 - y)
    for attempt in (lambda: known_scores(run, [None]), lambda: analyse(run, ("responses",), console=quiet)):
        with pytest.raises(DataError, match="has changed since the run began"):
            attempt()
    # a run of an earlier version does not say what it began with
    content = json.loads((run / "config.json").read_text())
    del content["environment"]["sources"]
    (run / "config.json").write_text(json.dumps(content))
    weights = torch.load(run / "best.pt", weights_only=True)
    del weights["run"]["sources"]
    torch.save(weights, run / "best.pt")
    (after,) = known_scores(run, [None])
    assert after.accuracy == pytest.approx(1 - before[0].accuracy)
    assert analyse(run, ("responses",), console=quiet) == ["responses"]
    # a score without the checksum of its data counts as missing
    line = json.loads((run / "scores.jsonl").read_text().splitlines()[-1])
    del line["data"], line["checksum"]
    (run / "scores.jsonl").write_text(json.dumps(line | {"accuracy": 0.125}) + "\n")
    assert known_scores(run, [None]) == [after]


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"a": np.ones(3)}, "it holds a and no x and no y; expected an .npz file with x"),
        ({"x": np.ones((20, 5, 1))}, "it holds x and no y"),
        ({"x": np.ones((20, 5)), "y": np.zeros(20, int)}, r"x has the shape \(20, 5\)"),
        ({"x": np.ones((20, 0, 1)), "y": np.zeros(20, int)}, r"x has the shape \(20, 0, 1\)"),
        ({"x": np.ones((20, 5, 1)), "y": np.zeros(19, int)}, r"y has the shape \(19,\) beside x of shape \(20, 5, 1\)"),
        ({"x": np.ones((20, 5, 1)), "y": np.zeros((20, 1), int)}, r"y has the shape \(20, 1\)"),
        ({"x": np.full((20, 5, 1), "a"), "y": np.zeros(20, int)}, "x has the type <U1"),
        ({"x": np.ones((20, 5, 1)), "y": np.full(20, np.nan)}, "y holds numbers that are not finite in float32"),
        ({"x": np.ones((20, 5, 1)), "y": np.zeros((20, 2), int)}, r"y has the shape \(20, 2\) beside x"),
        ({"x": np.ones((20, 5, 1)), "y": np.zeros(20, complex)}, "y has the type complex128"),
        ({"x": np.ones((20, 5, 1)), "y": np.arange(20) + 1}, "y has 20 classes for 20 sequences"),
        ({"x": np.full((20, 5, 1), np.nan), "y": np.arange(20) % 2}, "x holds numbers that are not finite"),
        ({"x": np.full((20, 5, 1), np.inf), "y": np.arange(20) % 2}, "x holds numbers that are not finite"),
        ({"x": np.ones((9, 5, 1)), "y": np.zeros(9, int)}, "it holds 9 sequences, too few"),
        (
            {"x": np.full((20, 5, 1), None), "y": np.zeros(20, int)},
            r"data\.npz can't be read \(Object arrays cannot be loaded",
        ),
    ],
    ids=[
        "names",
        "no y",
        "2-D",
        "empty",
        "length",
        "2-D y",
        "text",
        "nan in y",
        "integers of two dimensions",
        "complex",
        "all different",
        "nan",
        "infinity",
        "few",
        "objects",
    ],
)
def test_file_of_the_wrong_content_is_told(tmp_path: Path, arrays: dict[str, np.ndarray], sentence: str) -> None:
    path = save(tmp_path / "data.npz", **arrays)
    with pytest.raises(DataError, match=sentence):
        find_task(str(path)).load()


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 damaged"])
def test_what_is_no_npz_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"data\.npz can't be read .* expected an \.npz file with x") as told:
        read_sequences(tmp_path / "data.npz")
    assert "pickle" not in str(told.value)


def test_array_that_its_header_calls_shorter_is_refused(tmp_path: Path) -> None:
    """numpy reads as many numbers as the header says, and never comes to the checksum at the end."""
    path = save(tmp_path / "data.npz", x=np.ones((400, 30, 2)), y=np.arange(400) % 2)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"'shape': (400, 30, 2)", b"'shape': (300, 30, 2)"))
    with np.load(path) as arrays:
        assert arrays["x"].shape == (300, 30, 2)
    with pytest.raises(DataError, match=r"data\.npz can't be read \(x holds more than its header declares"):
        read_sequences(path)


def test_file_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    path = save(tmp_path / "data.npz", x=np.ones((40, 3, 2)), y=np.arange(40) % 2)
    first, was = checksum(path), path.stat()
    assert read_sequences(path).whole.x[0, 0, 0] == 1
    save(tmp_path / "other.npz", x=np.full((40, 3, 2), 2.0), y=np.arange(40) % 2).replace(path)
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert read_sequences(path).whole.x[0, 0, 0] == 2
    assert checksum(path) != first


def test_single_array_under_the_name_of_an_npz_is_told(tmp_path: Path) -> None:
    with (tmp_path / "data.npz").open("wb") as file:
        np.save(file, np.ones((20, 5, 1)))
    with pytest.raises(DataError, match=r"data\.npz can't be read \(it is not an archive of arrays\); expected"):
        read_sequences(tmp_path / "data.npz")


def test_pixels_of_a_file_can_not_be_grouped() -> None:
    with pytest.raises(ConfigError, match=r"pixels_per_step: got 2 for the file a.npz, expected 1"):
        find_task("a.npz", 2)
