"""What `aru evaluate` says beyond accuracy, and the measures that it is made from."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from aru_lab.cli import main
from aru_lab.data.transform import Scale
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.display import show_confusion
from aru_lab.runs.evaluation import evaluate_in_detail
from aru_lab.runs.measures import balanced_accuracy, confusion_matrix, only_answer, squared_error
from aru_lab.runs.training import train

SIZES = {"hidden_size": 5, "epochs": 1, "batch_size": 10, "device": "cpu"}


def run_of(folder: Path, x: np.ndarray, y: np.ndarray, **options: object) -> str:
    np.savez(folder / "data.npz", x=x, y=y)
    config = TrainConfig(str(folder / "data.npz"), "gru", **SIZES | options, output=folder / "run")
    train(config, Console(quiet=True))
    return str(config.run_folder)


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_confusion_matrix_counts_pairs() -> None:
    classes, predicted = np.array([0, 0, 0, 2, 2, 0]), np.array([0, 1, 0, 2, 0, 0])
    confusion = confusion_matrix(classes, predicted, 3)
    assert confusion.tolist() == [[3, 1, 0], [0, 0, 0], [1, 0, 1]]
    assert balanced_accuracy(confusion) == (3 / 4 + 1 / 2) / 2
    assert only_answer(confusion) is None
    assert only_answer(confusion_matrix(classes, np.ones(6, int), 3)) == 1


def test_error_is_in_the_units_of_the_targets() -> None:
    scale = Scale((5.0, 1.0), (10.0, 1.0))
    y = np.array([[0.0, 0.0], [1.0, 2.0]])
    outputs = y + np.array([[0.1, 1.0], [0.0, 0.0]])
    assert squared_error(outputs, y, scale) == pytest.approx(((scale.undo(outputs) - scale.undo(y)) ** 2).mean())
    assert squared_error(outputs, y, None) == pytest.approx((0.01 + 1) / 4)


def test_evaluation_of_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.RandomState(0)
    y = np.array(["left", "right", "right"] * 40)
    x = rng.randn(120, 4, 2) + np.where(y == "left", 2, -2)[:, None, None]
    run = run_of(tmp_path, x, y, epochs=8, learning_rate=1e-2)
    capsys.readouterr()
    assert main(["evaluate", run, "--perturb", "step:amplitude=0.5"]) == 0
    found, detail = printed(capsys), evaluate_in_detail(Path(run), [])
    n_left = int((detail.clean.y == 0).sum())
    assert f"Baseline: always answering right has the accuracy {1 - n_left / 24:.2%}" in found
    confusion = confusion_matrix(detail.clean.y, detail.clean.outputs.argmax(1), 2)
    assert np.diag(confusion).sum() / 24 == detail.clean.score.accuracy
    assert f"Balanced accuracy: {balanced_accuracy(confusion):.2%}" in found
    for name, row in zip(("left", "right"), confusion, strict=True):
        assert f"{name} {row[0]} {row[1]}" in found
    assert "to every sequence" not in found


@pytest.mark.parametrize(
    ("lengths", "count", "first"),
    [
        ((4, 5, 6), 1_000, "class"),  # names in columns
        ((30, 25, 20), 1_000, "1: AA"),  # numbers in columns, beside the names in rows
        ((90, 25, 20), 1_000, "1"),  # numbers for both, below a line for each name
        ((12,) * 12, 10, "1: AA"),
        ((12,) * 12, 1_234_567, None),  # no table fits: the most frequent confusions
    ],
)
def test_no_name_of_a_class_is_broken(lengths: tuple[int, ...], count: int, first: str | None) -> None:
    names = tuple(chr(65 + k) * length for k, length in enumerate(lengths))
    confusion = np.full((len(names), len(names)), count)
    text = io.StringIO()
    show_confusion(Console(file=text, width=80), confusion, names)
    lines = text.getvalue().splitlines()
    assert all(name in text.getvalue() for name in names)
    assert text.getvalue().count(f"{count:,}") >= 12 - 3 * (len(names) == 3)
    tables = [line for line in lines if line.startswith(("│", "┃"))]
    assert bool(tables) == (first is not None)
    if first is not None:
        assert len(tables) == 1 + len(names)
        assert max(map(len, tables)) <= 80
        assert (tables[0].split()[1] if first == "class" else tables[1]).lstrip("│ ").startswith(first)


def test_one_answer_to_everything_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.RandomState(0)
    y = np.array(["rare"] + ["common"] * 19)[np.arange(100) % 20]
    run = run_of(tmp_path, rng.randn(100, 3, 1), y, epochs=6, learning_rate=1e-2)
    capsys.readouterr()
    assert main(["evaluate", run, "--perturb", "step:amplitude=0"]) == 0
    assert "The network answers common to every sequence: it has not learned the classes apart" in printed(capsys)


def test_confusions_of_many_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.RandomState(0)
    run = run_of(tmp_path, rng.randn(200, 3, 1), np.arange(200) % 20)
    capsys.readouterr()
    assert main(["evaluate", run, "--perturb", "step:amplitude=0"]) == 0
    assert " is taken for " in printed(capsys)


def test_evaluation_of_scaled_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.RandomState(0)
    y = rng.randn(100) * 30 + 500
    run = run_of(tmp_path, rng.randn(100, 3, 1), y, standardise=True)
    capsys.readouterr()
    assert main(["evaluate", run, "--perturb", "step:amplitude=0"]) == 0
    found, detail = printed(capsys), evaluate_in_detail(Path(run), [])
    outputs, targets = (detail.scale.undo(values) for values in (detail.clean.outputs, detail.clean.y))
    assert f"clean {detail.clean.score.accuracy:.4f} {((outputs - targets) ** 2).mean():.4g}" in found
    train_mean = detail.scale.mean[0]
    assert f"has the mean squared error {((targets - train_mean) ** 2).mean():.4g}" in found
