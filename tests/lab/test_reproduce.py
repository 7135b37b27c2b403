"""Reports: what is written, and one small result of each kind from nothing to its table."""

from __future__ import annotations

import csv
import dataclasses
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from aru_lab.cli import main
from aru_lab.errors import NonFiniteError, RunError
from aru_lab.experiments import reproduce, sweep
from aru_lab.experiments.scales import SCALES
from aru_lab.experiments.tables import Report, Row, write_report
from aru_lab.runs.scores import known_scores

QUIET = Console(quiet=True)


def test_row_shows_mean_and_deviation_in_percent() -> None:
    row = Row("psmnist", "arun", "clean", (0.5, 0.6, 0.7))
    assert str(row) == "60.0 ± 10.0"
    assert str(dataclasses.replace(row, values=(0.5,))) == "50.0"
    assert str(dataclasses.replace(row, values=())) == "-"


def test_report_as_markdown_and_csv(tmp_path: Path) -> None:
    rows = [
        Row("psmnist", "relu", "clean", (0.5, 0.6)),
        Row("psmnist", "relu", "step", (0.1, 0.3)),
        Row("psmnist", "arun", "step", (0.4, 0.5)),
        Row("scifar10", "arun", "step", ()),
    ]
    sizes = {("psmnist", "relu"): (66, 5620), ("psmnist", "arun"): (64, 5580)}
    markdown, table = write_report(Report("A title", "What was done.", rows, sizes), tmp_path / "t", "aru reproduce t")
    text = markdown.read_text()
    for line in (
        "# A title",
        "| RNN+ReLU | 66 | 5,620 | 55.0 ± 7.1 | 20.0 ± 14.1 |",
        "| ARUN | 64 | 5,580 | - | 45.0 ± 7.1 |",
    ):
        assert line in text.splitlines()
    assert "`aru reproduce t`" in text
    with table.open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [row["n_seeds"] for row in read] == ["2", "2", "2", "0"]
    assert read[0]["values"] == "0.5 0.6"
    assert float(read[1]["mean"]) == 0.2


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the runs, shared by the tests as by the commands."""
    return tmp_path_factory.mktemp("reproduce")


@pytest.fixture(autouse=True)
def smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scale tiny with three models of one epoch."""
    scale = SCALES["tiny"]
    training = dataclasses.replace(scale.training, epochs=1, subset=100, validation_subset=30)
    models = ("arun", "gamma-heterogeneous", "relu")
    retraining = dataclasses.replace(scale.retraining, epochs=1)
    smaller = dataclasses.replace(scale, training=training, models=models, retraining=retraining)
    monkeypatch.setitem(SCALES, "tiny", smaller)


@pytest.mark.parametrize(("result", "n_rows"), [("table1", 12), ("fig2", 15), ("transfer", 9), ("transplant", 6)])
def test_result_from_nothing_to_its_table(root: Path, result: str, n_rows: int) -> None:
    report, markdown, failures = reproduce.reproduce(result, "tiny", root, device="cpu", console=QUIET)
    assert failures == []
    assert markdown == root / "results" / f"{result}.md"
    assert len(report.rows) == n_rows
    measured = [row for row in report.rows if row.task == "psdigits"]
    assert all(len(row.values) == 2 and all(0 <= value <= 1 for value in row.values) for row in measured)
    text = markdown.read_text()
    assert f"`aru reproduce {result} --scale tiny`" in text
    assert "those of \\`aru reproduce paper\\`" in text  # the verdicts
    with (root / "results" / f"{result}.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [float(row["mean"]) for row in read if row["n_seeds"] != "0"] == pytest.approx(
        [row.mean for row in measured]
    )
    for figure in report.figures:
        assert figure.read_bytes().startswith(b"\x89PNG")
        assert f"({figure.name})" in text


def test_second_call_trains_nothing_and_says_the_same(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *_ = reproduce.reproduce("table1", "tiny", root, device="cpu", console=QUIET)
    monkeypatch.setattr(sweep, "train", lambda *_: pytest.fail("trained again"))
    assert reproduce.reproduce("table1", "tiny", root, device="cpu", console=QUIET)[0] == first


def test_runs_that_fail_are_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = sweep.train

    def train(config: sweep.TrainConfig, *rest: object) -> object:
        if config.model == "relu" and config.seed == 1:
            raise NonFiniteError("The loss became inf in epoch 1, step 2; training has stopped.")
        if config.model == "arun" and config.seed == 0:
            raise RunError("The disk is full.")
        return original(config, *rest)

    monkeypatch.setattr(sweep, "train", train)
    report, markdown, failures = reproduce.reproduce("table1", "tiny", tmp_path, device="cpu", console=QUIET)
    counts = {row.model: len(row.values) for row in report.rows if row.task == "psdigits"}
    assert counts == {"arun": 1, "gamma-heterogeneous": 2, "relu": 1}
    assert "diverged: relu-seed1 (The loss became inf in epoch 1, step 2)" in markdown.read_text()
    assert "failed: arun-seed0 (The disk is full)" in markdown.read_text()
    assert [type(failure) for failure in failures] == [RunError, NonFiniteError]
    assert main(["reproduce", "table1", "--scale", "tiny", "--runs", str(tmp_path), "--device", "cpu"]) == 2
    out, err = capsys.readouterr()
    assert "Left out because it failed: arun-seed0" in out
    assert err == "aru: 2 failed and were left out; the first: The disk is full.\n"


def test_scores_that_fail_belong_to_their_runs(root: Path, tmp_path: Path) -> None:
    """The numbers of the other runs stay with their models."""
    whole, *_ = reproduce.reproduce("table1", "tiny", root, device="cpu", console=QUIET)
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    damaged = tmp_path / "psdigits" / "arun-seed0" / "scores.jsonl"
    damaged.write_text("nonsense\n")
    with pytest.raises(RunError, match=r"scores\.jsonl can't be read \(line 1: "):
        known_scores(damaged.parent, [None])
    report, *_ = reproduce.reproduce("table1", "tiny", tmp_path, device="cpu", console=QUIET)
    for row, complete in zip(report.rows, whole.rows, strict=True):
        assert row.values == (complete.values[1:] if row.model == "arun" else complete.values)


def test_scales_train_as_their_results_were_made() -> None:
    for name, rate in (("tiny", 2e-3), ("small", 2e-3), ("paper", 1e-4)):
        for task in SCALES[name].tasks:
            config = SCALES[name].base(task)
            assert (config.learning_rate, config.learning_rate_scaling) == (rate, "none")


def test_matched_sizes_exist_at_every_scale() -> None:
    for scale in SCALES.values():
        for task in scale.tasks:
            configs = sweep.plan(scale.base(task), scale.models, (0,), (), Path())
            counts = [sweep.n_parameters(config) for config in configs]
            assert max(counts) / min(counts) < 1.04
