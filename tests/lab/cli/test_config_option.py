"""`--config`: what a run wrote is read back, and options given beside it win."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from aru_lab.cli import main
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.folder import RunFolder

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
        ([1], r"can't be read \(it is not a JSON object\); name a run's config\.json, or leave --config away\."),
        ("{", r"can't be read \(.*\); name a run's config\.json, or leave --config away\."),
        ("[" * 100_000, r"can't be read \(.*\); name a run's config\.json, or leave --config away\."),
        (b"\xff\xfe", r"can't be read \(.*\); name a run's config\.json, or leave --config away\."),
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


def test_no_config_beside_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.json").write_text("{}")
    assert main(["train", "--config", str(tmp_path / "empty.json"), "--resume", str(tmp_path / "run")]) == 2
    assert "resume: got further arguments beside" in capsys.readouterr().err
