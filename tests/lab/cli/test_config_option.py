"""`--config`: what a run wrote is read back, and options given beside it win."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from aru_lab.analysis.settings import Settings
from aru_lab.cli import main
from aru_lab.experiments.analyse import read_settings
from aru_lab.experiments.kept import keep
from aru_lab.experiments.transfer import Retraining, read_retraining, retraining_config
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.evaluation import Score
from aru_lab.runs.folder import RunFolder
from aru_lab.runs.training import train

from ..small_run import run

SIZES = {"hidden_size": 6, "epochs": 1, "subset": 50, "validation_subset": 20, "device": "cpu"}


def config_of(folder: Path) -> TrainConfig:
    return RunFolder(folder).read_config()[0]


def test_a_run_is_repeated_with_its_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, again, changed = tmp_path / "first", tmp_path / "again", tmp_path / "changed"
    run(first, seed=4, perturb=("step:amplitude=0.5",), clip=None)
    file = ["--config", str(first / "config.json")]
    assert main(["train", *file, "--output", str(again)]) == 0
    assert config_of(first).differences(config_of(again)) == []
    timings = ("seconds", "sequences_per_second")
    first_lines, lines = (
        [{name: value for name, value in entry.items() if name not in timings} for entry in one.read_metrics()]
        for one in (RunFolder(first), RunFolder(again))
    )
    assert lines == first_lines
    assert main(["train", "psdigits", *file, "--seed", "5", "--epochs=1", "--output", str(changed)]) == 0
    assert set(config_of(first).differences(config_of(changed))) == {"task", "seed", "epochs"}


def test_the_folder_is_not_that_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run(tmp_path / "first")
    assert main(["train", "--config", "first/config.json", "-q"]) == 0
    assert config_of(tmp_path / "runs" / "sdigits-relu-seed0").output is None


def test_what_a_run_of_a_sweep_does_not_read_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "first", controller_size=5)
    file = ["--config", str(tmp_path / "first" / "config.json"), "--output", str(tmp_path / "again")]
    assert main(["train", *file, "--controller-size", "7"]) == 2
    assert "controller_size: got 7 with the model relu" in capsys.readouterr().err
    assert main(["train", *file]) == 0


def test_a_file_written_by_hand_and_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "options.json"
    file.write_text(json.dumps({"task": "sdigits", **SIZES}))
    sweep = ["sweep", "--config", str(file), "--models", "relu", "--seeds", "3", "--no-match-parameters", "-q"]
    assert main([*sweep, "--output", str(tmp_path / "sweep")]) == 0
    made = config_of(tmp_path / "sweep" / "relu-seed3")
    assert {name: getattr(made, name) for name in SIZES} == SIZES
    # of a run's config.json neither model nor seed nor folder count
    other = ["sweep", "--config", str(tmp_path / "sweep" / "relu-seed3" / "config.json"), *sweep[3:]]
    assert main([*other, "--output", str(tmp_path / "second")]) == 0
    assert config_of(tmp_path / "second" / "relu-seed3").differences(made) == []
    file.write_text(json.dumps({"model": "relu"}))
    assert main(sweep) == 2
    assert "model: got 'relu', expected --models" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"epocs": 3}, r"config: got the unknown names epocs, expected .*\. Did you mean epochs\?"),
        ({"config": {"epochs": 3}}, r"config: got no task, model, .*"),
        ({"config": 3}, r"config: got the unknown names config, .*"),
        ({"epochs": "3"}, r"epochs: got '3', expected a whole number of at least 1\."),
        ({"epochs": 10**400}, r"epochs: got a number of more than 30 digits, expected .*"),
        ({"learning_rate": float("nan")}, r"learning_rate: got nan, expected .*"),
        ({"model": "arn"}, r"model: got 'arn', .*\. Did you mean arun\?"),
        ({"freeze": "readout"}, r"freeze: got 'readout', expected a list of names\."),
        ({"output": 3}, r"output: got 3, expected a path or None\."),
        ({"average_steps": "3"}, r"average_steps: got '3'.*"),
        ([1], r"can't be read \(it is not a JSON object\); name a file that --config takes, or leave .*"),
        ("{", r"can't be read \(.*\); name a file that --config takes, or leave .*"),
        ("[" * 100_000, r"can't be read \(.*\); name a file that --config takes, or leave .*"),
        (b"\xff\xfe", r"can't be read \(.*\); name a file that --config takes, or leave .*"),
        (None, r"can't be read \(No such file or directory\); name .*"),
    ],
)
@pytest.mark.parametrize("command", ["train", "sweep"])
def test_a_bad_file_is_a_sentence_with_the_file_and_the_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, content: Any, sentence: str
) -> None:
    file = tmp_path / "options.json"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    assert main([command, "--config", str(file), "--output", str(tmp_path / "run")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(rf"aru: {re.escape(str(file))}:? {sentence}\n", err), err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("command", "content", "sentence"),
    [
        ("transfer", {"epocs": 3}, r"config: got the unknown names epocs, .*\. Did you mean epochs\?"),
        ("transfer", {"epochs": "3"}, r"epochs: got '3', expected a whole number\."),
        ("transfer", {"epochs": True}, r"epochs: got True, expected a whole number\."),
        ("transfer", {"batch_size": 2.5}, r"batch_size: got 2\.5, expected a whole number or null\."),
        ("transfer", {"balanced": 1}, r"balanced: got 1, expected true or false\."),
        ("transfer", {"learning_rate": None}, r"learning_rate: got None, expected a number\."),
        ("transfer", {"data": 3}, r"data: got 3, expected a path or null\."),
        ("transfer", {"checkpoint": "bets"}, r"checkpoint: got 'bets', .*\. Did you mean best\?"),
        ("transfer", {"config": {"epochs": 3}}, r"config: got no task, model, .*"),
        ("transfer", [1], r"can't be read \(it is not a JSON object\); name a file that --config takes, .*"),
        ("transfer", None, r"can't be read \(No such file or directory\); name .*"),
        ("analyse", {"stesp": 3}, r"config: got the unknown names stesp, .*\. Did you mean steps\?"),
        ("analyse", {"steps": 3}, r"steps: got 3, expected a whole number of at least 10\."),
        ("analyse", {"amplitudes": [0, "1"]}, r"amplitudes: got \[0, '1'\], expected a list, each of it a number\."),
        ("analyse", {"joint": "no"}, r"joint: got 'no', expected true or false\."),
        ("analyse", "{", r"can't be read \(.*\); name .*"),
    ],
)
def test_a_bad_file_of_transfer_and_analyse_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, content: Any, sentence: str
) -> None:
    file = tmp_path / "options.json"
    if content is not None:
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    assert main([command, str(tmp_path / "run"), "--config", str(file)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(rf"aru: {re.escape(str(file))}:? {sentence}\n", err), err


def adaptive(folder: Path, model: str, seed: int = 0) -> Path:
    options = {"controller_size": 3, "pixels_per_step": 8, "seed": seed, **SIZES}
    return train(TrainConfig("psdigits", model, **options, output=folder), Console(quiet=True)).run


@pytest.mark.parametrize("model", ["arun", "gamma-homogeneous"])
def test_a_retraining_is_repeated_on_another_run(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (adaptive(tmp_path / name, model, seed) for seed, name in enumerate(("first", "second")))
    rate = "--controller-learning-rate" if model == "arun" else "--learning-rate"
    options = [rate, "0.003", "--schedule", "constant", "--batch-size", "70", "--balanced", "--checkpoint", "last"]
    assert main(["transfer", str(first), "--epochs", "2", *options, "-q"]) == 0
    made = first / "transfer-balanced"
    assert main(["transfer", str(second), "--config", str(made / "config.json"), "-q"]) == 0
    other = second / "transfer-balanced"
    # the initial weights are those of the run that is retrained, with its seed
    assert set(config_of(made).differences(config_of(other))) == {"initial_from", "seed"}
    capsys.readouterr()
    assert main(["transfer", str(second), "--config", str(made / "config.json"), "--epochs", "1"]) == 2
    assert "holds a run with other settings (epochs)" in capsys.readouterr().err
    upright = [str(second), "--config", str(made / "config.json"), "--no-balanced", "--epochs=1", "-q"]
    assert main(["transfer", *upright]) == 0
    changed = config_of(other).differences(config_of(second / "transfer"))
    assert set(changed) == {"task", "epochs"}
    file = tmp_path / "options.json"
    file.write_text(json.dumps({"epochs": 1, "data": "psdigits.npz", "batch_size": None}))
    assert read_retraining(file) == Retraining(epochs=1, data=Path("psdigits.npz"))


def test_a_retraining_on_other_trials_is_read_back(tmp_path: Path) -> None:
    config = TrainConfig("copy:delay=5,length=2", "arun", **SIZES, output=tmp_path / "run")
    retraining = Retraining(epochs=3, data=Path("copy:delay=9,length=2"))
    changed = retraining_config(config, tmp_path / "run", retraining)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"config": changed.to_json(), "environment": {}}))
    found = read_retraining(file)
    assert retraining_config(config, tmp_path / "run", found) == changed
    assert found.epochs == 3


def test_another_run_is_no_retraining(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = adaptive(tmp_path / "first", "arun")
    assert main(["transfer", str(first), "--config", str(first / "config.json")]) == 2
    assert "a run that `aru transfer` did not retrain, expected one" in capsys.readouterr().err


def test_settings_of_analyses_are_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (adaptive(tmp_path / name, "arun", seed) for seed, name in enumerate(("first", "second")))
    steps = ["--steps", "20", "--transient", "4", "--starts", "3"]
    assert main(["analyse", str(first), "lyapunov", "gradients", *steps, "--examples", "12", "-q"]) == 0
    folder = first / "analysis"
    given = Settings(steps=20, transient=4, starts=3, examples=12)
    assert read_settings(folder) == given
    assert read_settings(folder / "gradients.npz") == Settings(examples=12)
    assert main(["analyse", str(second), "lyapunov", "--config", str(folder), "--steps", "30", "-q"]) == 0
    made = read_settings(second / "analysis" / "lyapunov.npz")
    assert made == Settings(steps=30, transient=4, starts=3)
    (second / "analysis" / "lyapunov.npz").rename(folder / "spectrum.npz")
    capsys.readouterr()
    assert main(["analyse", str(second), "--config", str(folder)]) == 2
    assert "can't be read (it is of another analysis); name a file that --config takes" in capsys.readouterr().err
    (folder / "spectrum.npz").unlink()
    assert main(["analyse", str(first), "responses", "--seed", "2", "--repeats", "2", "-q"]) == 0
    assert main(["analyse", str(second), "--config", str(folder)]) == 2
    assert "got analyses with seed 0 and 2, expected one value; name responses.npz" in capsys.readouterr().err
    assert main(["analyse", str(second), "--config", str(tmp_path)]) == 2
    assert f"{tmp_path} holds no analyses; name a file that --config takes" in capsys.readouterr().err


def test_a_kept_network_is_trained_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = adaptive(tmp_path / "first", "relu")
    keep(tmp_path / "kept", "network", config_of(first), 1, clean=Score(1.0, 0.5, 10))
    file = tmp_path / "kept" / "network.safetensors"
    again = tmp_path / "again"
    assert main(["train", "--config", str(file), "--device", "cpu", "--output", str(again)]) == 0
    assert config_of(again).differences(config_of(first)) == []
    file.write_bytes(file.read_bytes()[:40])
    assert main(["train", "--config", str(file)]) == 2
    assert re.search(r"network\.safetensors can't be read \(.*\); name a file", capsys.readouterr().err)


def test_no_config_beside_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.json").write_text("{}")
    assert main(["train", "--config", str(tmp_path / "empty.json"), "--resume", str(tmp_path / "run")]) == 2
    assert "resume: got further arguments beside" in capsys.readouterr().err
