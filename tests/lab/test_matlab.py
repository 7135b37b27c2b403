"""Files of MATLAB: the shapes and types that MATLAB gives, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy.io import savemat

from aru_lab.data.preparation import Preparation
from aru_lab.data.targets import Target
from aru_lab.data.tasks import find_task
from aru_lab.errors import DataError
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.evaluation import evaluate
from aru_lab.runs.training import train

RNG = np.random.RandomState(0)
X = RNG.randn(40, 5, 2)


def file_of(folder: Path, **arrays: Any) -> str:
    path = folder / "data.mat"
    savemat(path, arrays)
    return str(path)


def cells(words: list[str]) -> np.ndarray:
    array = np.empty((len(words), 1), object)
    array[:, 0] = words
    return array


@pytest.mark.parametrize("y", [cells(["left", "right "] * 20), np.array(["left ", "right"] * 20)])
def test_strings_of_matlab_are_classes(tmp_path: Path, y: np.ndarray) -> None:
    task = find_task(file_of(tmp_path, x=X, y=y))
    assert task.target == Target(2, ("left", "right"))
    assert sum(len(part.y) for part in vars(task.load()).values()) == 40


@pytest.mark.parametrize("shape", [(40, 1), (1, 40)])
def test_columns_and_rows_are_vectors(tmp_path: Path, shape: tuple[int, int]) -> None:
    lengths = RNG.randint(1, 6, 40)
    arrays = {"lengths": lengths.astype(float), "groups": np.arange(40.0) // 4}
    arrays = {name: array.reshape(shape) for name, array in arrays.items()}
    path = file_of(tmp_path, x=X, y=np.int32(np.arange(40) % 2 + 1).reshape(shape), **arrays)
    parts = find_task(path, preparation=Preparation(split="0.5,0.25,0.25")).load()
    assert np.sort(np.concatenate([part.lengths for part in vars(parts).values()])).tolist() == sorted(lengths)
    assert find_task(path).target == Target(2, ("1", "2"))


def test_sequences_of_one_input_have_two_dimensions_in_matlab(tmp_path: Path) -> None:
    task = find_task(file_of(tmp_path, x=X[:, :, 0], y=RNG.randn(40, 1)))
    assert (task.n_steps, task.input_size, task.target) == (5, 1, Target(1))


def test_doubles_are_numbers_unless_classes_are_asked_for(tmp_path: Path) -> None:
    path = file_of(tmp_path, x=X, y=(np.arange(40) % 3 + 1.0)[:, None])
    task = find_task(path)
    assert task.target == Target(1)
    assert any("use --target classes" in remark for remark in task.remarks)
    assert find_task(path, preparation=Preparation(target="classes")).target == Target(3, ("1", "2", "3"))


def test_targets_at_steps(tmp_path: Path) -> None:
    task = find_task(file_of(tmp_path, x=X, y=X[..., 0] > 0, mask=np.ones((40, 5))))
    assert task.target == Target(2, ("0", "1"), every_step=True)


def test_network_is_trained_on_a_file_of_matlab(tmp_path: Path) -> None:
    path = file_of(tmp_path, x=X, y=cells(["a", "b"] * 20))
    config = TrainConfig(path, "relu", hidden_size=4, epochs=1, device="cpu", output=tmp_path / "run")
    train(config, Console(quiet=True))
    assert evaluate(tmp_path / "run", [])[0].n == 8


def test_what_is_no_array_is_told(tmp_path: Path) -> None:
    numbers = np.empty((40, 1), object)
    numbers[:, 0] = [np.ones(2)] * 40
    for y in (numbers, {"field": 1.0}):
        with pytest.raises(DataError, match=r"data\.mat can't be read \(y "):
            find_task(file_of(tmp_path, x=X, y=y)).load()
    with pytest.raises(DataError, match="it holds x and no y"):
        find_task(file_of(tmp_path, x=X, z=1.0)).load()


@pytest.mark.parametrize("cut", [0, 50, 130, 300, -40])
def test_damaged_file_is_told(tmp_path: Path, cut: int) -> None:
    path = Path(file_of(tmp_path, x=X, y=np.arange(40)))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"data\.mat"):
        find_task(str(path)).load()


def test_version_7_3_is_told(tmp_path: Path) -> None:
    header = b"MATLAB 7.3 MAT-file".ljust(116) + bytes(8) + b"\x00\x02IM"
    (tmp_path / "data.mat").write_bytes(header + b"\x89HDF\r\n\x1a\n" + bytes(200))
    with pytest.raises(DataError, match=r"version 7\.3; save it with save\(\.\.\., '-v7'\)"):
        find_task(str(tmp_path / "data.mat")).load()
