"""`aru runs`: the runs below a folder, and how far they have come."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aru_lab.cli import main
from aru_lab.errors import Interrupted
from aru_lab.runs import training
from aru_lab.runs.folder import RunFolder
from aru_lab.runs.overview import find_runs, state_of

from ..small_run import CONFIG, run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(run(tmp_path_factory.mktemp("overview") / "run").run)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("overview") / "stopped"

    def stop(_: object) -> None:
        raise Interrupted("stop")

    with pytest.raises(Interrupted):
        training.train(dataclasses.replace(CONFIG, output=folder, epochs=3), None, stop)
    return folder


def test_finished_stopped_and_running_runs(finished: Path, stopped: Path) -> None:
    history = RunFolder(finished).read_metrics()
    accuracy = [entry["validation_accuracy"] for entry in history]
    found = state_of(finished)
    assert (found.state, found.task, found.model, found.epoch, found.epochs) == ("finished", "sdigits", "relu", 2, 2)
    assert (found.best, found.last, found.measure) == (max(accuracy), accuracy[-1], "accuracy")
    found = state_of(stopped, check=True)
    assert (found.state, found.epoch, found.epochs) == ("stopped", 1, 3)
    program = (
        "import sys, pathlib\nfrom aru_lab.runs.folder import RunFolder\n"
        f"with RunFolder(pathlib.Path({str(stopped)!r})).locked():\n    print('locked', flush=True)\n    input()"
    )
    other = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with other:
        assert other.stdout.readline() == "locked\n"
        assert state_of(stopped).state == "running"
        other.communicate("\n", timeout=60)
    assert state_of(stopped).state == "stopped"


def test_to_look_keeps_no_run_from_starting(stopped: Path) -> None:
    folder = RunFolder(stopped)
    assert not folder.in_use()
    with folder.locked():
        pass


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("config.json", b"", "config.json can't be read"),
        ("config.json", b'{"config": {}, "environment": {}}', "config: got no task"),
        ("config.json", b"[" * 100_000, "it is nested too deeply"),
        ("config.json", None, "holds no run (it has no config.json)"),
        ("metrics.jsonl", b'{"epoch": 1}\n', "line 1: it has no 'step'"),
        ("metrics.jsonl", b"\xff\n", "metrics.jsonl can't be read"),
        ("last.pt", b"", "last.pt is damaged: it ends early"),
        ("best.pt", b"PK", "best.pt is damaged: it ends early"),
        ("last.pt", None, "last.pt is missing, though the run has finished epochs"),
    ],
)
def test_a_damaged_run_is_listed_with_the_reason(
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    file: str,
    content: bytes | None,
    reason: str,
) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    found = state_of(folder)
    assert found.state == "damaged"
    assert reason in found.reason
    assert main(["runs", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert f"damaged: {folder} (" in out.replace("\n", "")
    assert state_of(finished).state == "finished"


def test_checksums_are_compared_on_demand(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    content = bytearray((folder / "last.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "last.pt").write_bytes(content)
    assert state_of(folder).state == "finished"
    found = state_of(folder, check=True)
    assert found.state == "damaged"
    assert "last.pt can't be read" in found.reason


def test_runs_are_sorted_and_other_folders_are_left_out(finished: Path, tmp_path: Path) -> None:
    names = ["b/seed2", "b/seed10", "a", "ü [x]"]
    for name in names:
        shutil.copytree(finished, tmp_path / name)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"architectures": ["BERT"]}')
    (tmp_path / "folder" / "config.json").mkdir(parents=True)
    assert find_runs(tmp_path) == [tmp_path / name for name in ("a", "b/seed2", "b/seed10", "ü [x]")]
    assert find_runs(tmp_path / "a") == [tmp_path / "a"]


def test_json(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(finished, tmp_path / "a")
    shutil.copytree(finished, tmp_path / "b")
    (tmp_path / "b" / "last.pt").write_bytes(b"")
    assert main(["runs", str(tmp_path), "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first == dataclasses.asdict(state_of(tmp_path / "a")) | {"path": str(tmp_path / "a")}
    assert (second["state"], second["epoch"]) == ("damaged", None)
    assert main(["runs", str(tmp_path / "a")]) == 0
    table = capsys.readouterr().out
    assert "2 of 2" in table
    assert f"{first['best']:.2%}" in table


def test_no_runs_and_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"There are no runs in {tmp_path}.\n"
    assert main(["runs", str(tmp_path / "nowhere")]) == 2
    assert "nowhere can't be listed (No such file or directory)" in capsys.readouterr().err
