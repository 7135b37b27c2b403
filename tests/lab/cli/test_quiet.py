"""`--quiet`: only results and errors are printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from aru_lab.cli import main
from aru_lab.terminal import progress_console, quietly

SMALL = ["--hidden-size", "4", "--epochs", "1", "--subset", "50", "--validation-subset", "15", "--device", "cpu"]


@pytest.mark.parametrize("option", ["-q", "--quiet"])
def test_train(tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str) -> None:
    folder = tmp_path / "run"
    assert main(["train", "sdigits", "--model", "relu", *SMALL, "--output", str(folder), option]) == 0
    out, err = capsys.readouterr()
    first, second = out.splitlines()
    assert first.startswith("Trained ")
    assert second == f"The run is saved in {folder}; test it with: aru evaluate {folder}"
    assert err == ""
    assert main(["train", "--resume", str(folder), option]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main(["train", "sdigits", "--model", "relu", *SMALL, "--output", str(folder), option]) == 2
    assert "already holds a run" in capsys.readouterr().err


def test_sweep_and_transfer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = ["sweep", "psdigits", *SMALL, "--seeds", "0", "--output", str(tmp_path)]
    models = ["--models", "gamma-heterogeneous", "--no-match-parameters"]
    assert main([*sweep, *models, "-q"]) == 0
    quiet = capsys.readouterr().out
    assert quiet.startswith(f"Table: {tmp_path / 'sweep.csv'}\n")
    assert main([*sweep, *models]) == 0
    loud = capsys.readouterr().out
    assert loud.endswith(quiet)
    assert len(loud) > len(quiet)
    transfer = ["transfer", str(tmp_path / "gamma-heterogeneous-seed0"), "--epochs", "1"]
    assert main([*transfer, "-q"]) == 0
    quiet = capsys.readouterr().out
    assert "from epoch 0" not in quiet
    assert "n and s retrained" in quiet.replace("\n", " ")
    assert main(transfer) == 0
    assert "on validation examples, from epoch 0" in capsys.readouterr().out


def test_analyse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert main(["train", "sdigits", "--model", "relu", *SMALL, "--output", str(folder), "-q"]) == 0
    capsys.readouterr()
    assert main(["analyse", str(folder), "spectrum", "-q"]) == 0
    assert capsys.readouterr().out == f"Analyses: {folder / 'analysis'}\n"


def test_only_progress_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    progress_console().print("before")
    with quietly():
        progress_console().print("hidden")
        progress_console(stderr=True).print("hidden")
        with quietly(False):
            progress_console().print("between")
    progress_console(stderr=True).print("after")
    assert capsys.readouterr() == ("before\nbetween\n", "after\n")
