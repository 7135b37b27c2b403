"""Sensitivity: which perturbations are swept, that scores are kept, the CSV and the figure."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from aru_lab.cli import main
from aru_lab.errors import ConfigError, RunError
from aru_lab.experiments import robustness as experiment
from aru_lab.experiments.robustness import mean_over, robustness
from aru_lab.files import CHECKSUM
from aru_lab.networks.perturbations import NoisyDrive, StepDrive, VariableContrast
from aru_lab.plots.curves import Curve, sensitivity_figure
from aru_lab.runs import scores
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.evaluation import evaluate
from aru_lab.runs.folder import append_result
from aru_lab.runs.scores import known_scores
from aru_lab.runs.sensitivity import Strengths, axes_of
from aru_lab.runs.training import train

SMALL = Strengths((-1.0, 0.0, 1.0), (0.0, 0.5), (0.0, 1.0), (0.0, 0.5), (0.0, 1.0), test_subset=50)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models of two seeds."""
    folder = tmp_path_factory.mktemp("runs")
    found = []
    for model in ("arun", "relu"):
        for seed in (0, 1):
            sizes = {"hidden_size": 6, "controller_size": 3, "pixels_per_step": 4, "epochs": 1, "subset": 100}
            config = TrainConfig("sdigits", model, **sizes, validation_subset=20, device="cpu", seed=seed)
            found.append(folder / f"{model}{seed}")
            train(dataclasses.replace(config, output=found[-1]), Console(quiet=True))
    return found


def test_each_axis_varies_one_strength() -> None:
    axes = {axis.name: axis.perturbations for axis in axes_of(Strengths(step_amplitude=0.7), 112)}
    assert axes["step-amplitude"][-0.5] == StepDrive(-0.5)
    assert axes["step-length"][0.1] == StepDrive(0.7, 28, 11)
    assert axes["step-length"][0.75] == StepDrive(0.7, 28, 84)
    assert axes["noise-deviation"][2.0] == NoisyDrive(2.0, 0.0)
    assert axes["contrast-amplitude"][0.2] == VariableContrast(0.2, 1.0)
    assert axes["contrast-phase"][1.5] == VariableContrast(0.5, 1.0, 1.5 * math.pi)
    assert len(axes) == 5


def test_known_scores_are_those_of_an_evaluation_and_computed_once(
    runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    perturbations = [None, StepDrive(1.0), NoisyDrive(1.0), VariableContrast(0.5)]
    found = known_scores(runs[0], perturbations)
    clean, perturbed = evaluate(runs[0], perturbations[1:])
    assert found == [clean, *perturbed]
    monkeypatch.setattr(scores, "score", lambda *_, **__: pytest.fail("scored again"))
    assert known_scores(runs[0], perturbations[::-1]) == found[::-1]


def test_scores_of_other_weights_or_examples_are_not_taken(runs: list[Path], tmp_path: Path) -> None:
    for name in ("config.json", "best.pt"):
        (tmp_path / name).write_bytes((runs[0] / name).read_bytes())
    whole, part = known_scores(tmp_path, [None]), known_scores(tmp_path, [None], test_subset=30)
    assert (whole[0].n, part[0].n) == (359, 30)
    for name in ("config.json", "best.pt"):
        (tmp_path / name).write_bytes((runs[1] / name).read_bytes())
    assert known_scores(tmp_path, [None]) == known_scores(runs[1], [None]) != whole


def test_killed_in_the_middle_of_a_line_loses_that_score_alone(runs: list[Path]) -> None:
    expected = known_scores(runs[2], [None, StepDrive(1.0)])
    path = runs[2] / "scores.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]) + lines[-1][:20])
    assert known_scores(runs[2], [None, StepDrive(1.0)]) == expected
    # What was half a line must not spoil the next one.
    assert known_scores(runs[2], [None, StepDrive(1.0)]) == expected


def test_untrained_run_is_told(runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((runs[0] / "config.json").read_bytes())
    with pytest.raises(RunError, match=r"best.pt does not exist: the run has not finished an epoch yet"):
        known_scores(tmp_path, [None])


@pytest.fixture(scope="module")
def measured(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict], Path]:
    """The rows, and the stem of the files."""
    stem = tmp_path_factory.mktemp("results") / "sensitivity"
    rows, failures = robustness(runs, stem, SMALL, console=Console(quiet=True))
    assert failures == {}
    return rows, stem


def test_rows_are_every_strength_of_every_run(runs: list[Path], measured: tuple[list[dict], Path]) -> None:
    rows, stem = measured
    assert len(rows) == 4 * (3 + 2 + 2 + 2 + 2)
    with stem.with_suffix(".csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [float(row["accuracy"]) for row in read] == [row["accuracy"] for row in rows]
    assert {(row["model"], row["seed"]) for row in read} == {(m, s) for m in ("arun", "relu") for s in ("0", "1")}
    # Strength 0 is the clean input whatever the perturbation.
    for run in runs:
        clean = known_scores(run, [None], test_subset=50)[0]
        zeros = [
            row for row in rows if row["run"] == run.name and row["strength"] == 0 and row["sweep"] != "contrast-phase"
        ]
        assert len(zeros) == 4
        for row in zeros:
            assert row["accuracy"] == clean.accuracy
            assert row["loss"] == pytest.approx(clean.loss, rel=1e-5)
    one = [row["accuracy"] for row in rows if row["run"] == "arun1" and row["sweep"] == "step-amplitude"]
    assert mean_over(rows, "arun", "step-amplitude")[1] == pytest.approx(sum(one) / 3)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are files with a word in them; drawing takes longer than all else."""
    monkeypatch.setattr(
        experiment, "sensitivity_figure", lambda _curves, _labels, _title, path, _classes: path.write_text("figure")
    )


def test_stem_with_a_dot_is_not_shortened(runs: list[Path], undrawn: None, tmp_path: Path) -> None:
    robustness(runs[:1], tmp_path / "rate=0.001", SMALL, console=Console(quiet=True))
    assert {path.name for path in tmp_path.iterdir()} == {"rate=0.001.csv", "rate=0.001.png"}


def test_figure_is_a_picture(measured: tuple[list[dict], Path]) -> None:
    content = measured[1].with_suffix(".png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) > 30_000


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("losses", [(1.0, math.nan), (math.inf, math.nan)])
def test_figure_of_a_network_that_overflows(tmp_path: Path, losses: tuple[float, ...]) -> None:
    points = {strength: [(0.1, loss), (0.2, loss)] for strength, loss in enumerate(losses)}
    sensitivity_figure([Curve("relu", "drive", points)], {"drive": "drive"}, "task", tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("accuracy", "loss"), [(-math.inf, math.inf), (math.nan, math.nan)])
def test_scores_of_a_network_that_overflows_are_read_back(
    runs: list[Path], tmp_path: Path, accuracy: float, loss: float
) -> None:
    """R² of numbers that are not finite."""
    run = Path(shutil.copytree(runs[2], tmp_path / "run"))
    (run / scores.FILE).unlink(missing_ok=True)  # of other tests
    (score,) = known_scores(run, [None])
    (line,) = map(json.loads, (run / scores.FILE).read_text().splitlines())
    del line[CHECKSUM]
    append_result(line | {"accuracy": accuracy, "loss": loss}, run / scores.FILE)
    (found,) = known_scores(run, [None])
    assert str(found) == str(dataclasses.replace(score, accuracy=accuracy, loss=loss))
    append_result(line | {"loss": -1.0}, run / scores.FILE)
    with pytest.raises(RunError, match=r"scores\.jsonl can't be read \(line \d+: it has the accuracy .* loss -1\.0 of"):
        known_scores(run, [None])


def test_run_that_fails_does_not_keep_the_others(
    runs: list[Path], undrawn: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = Path(shutil.copytree(runs[3], tmp_path / "damaged"))
    (damaged / "best.pt").write_bytes(b"nonsense")
    (damaged / "scores.jsonl").unlink(missing_ok=True)
    rows, failures = robustness([damaged, *runs[:2], tmp_path], tmp_path / "out", SMALL, console=Console(quiet=True))
    assert {row["run"] for row in rows} == {"arun0", "arun1"}
    assert failures.keys() == {damaged, tmp_path}
    assert "best.pt can't be read" in str(failures[damaged])
    assert "holds no run" in str(failures[tmp_path])
    assert {path.name for path in tmp_path.iterdir()} == {"damaged", "out.csv", "out.png"}
    with pytest.raises(RunError, match=r"^2 of 2 runs failed; the first: .* holds no run"):
        robustness([tmp_path / "a", tmp_path / "b"], tmp_path / "none", SMALL, console=Console(quiet=True))
    options = "--step-amplitudes 0 --step-lengths 0 --noise-deviations 1 --contrast-amplitudes 1 --contrast-phases 0"
    command = ["robustness", str(runs[0]), str(damaged), *options.split(), "--output", str(tmp_path / "out")]
    assert main(command) == 2
    out, err = capsys.readouterr()
    assert "5 points of 1 run:" in out
    assert f"failed: {damaged} (" in out
    assert err.startswith(f"aru: 1 of 2 runs failed; the first: {damaged / 'best.pt'} can't be read")


def test_runs_of_different_tasks_are_refused(runs: list[Path], tmp_path: Path) -> None:
    config = (runs[0] / "config.json").read_text().replace('"pixels_per_step": 4', '"pixels_per_step": 8')
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(
        ConfigError, match=r"got runs of sdigits \(4 a step\), sdigits \(8 a step\), expected runs of one"
    ):
        robustness([runs[0], tmp_path], tmp_path / "out")


def test_command(runs: list[Path], undrawn: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = "--step-amplitudes 0 1 --step-lengths 0 --noise-deviations 1 --contrast-amplitudes 1 --contrast-phases 0"
    arguments = ["robustness", *map(str, runs[:2]), *options.split(), "--test-subset", "20"]
    assert main([*arguments, "--output", str(tmp_path / "r")]) == 0
    assert "12 points of 2 runs" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"r.csv", "r.png"}
