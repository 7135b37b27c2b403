"""Sweeps: what is planned, that equal sizes are equal, and that nothing is done twice or lost by a kill."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from aru_lab.cli import main
from aru_lab.errors import ConfigError, NonFiniteError, RunError
from aru_lab.experiments import sweep
from aru_lab.experiments.sweep import n_parameters, plan, run_sweep
from aru_lab.networks.names import MODELS
from aru_lab.runs import training
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.evaluation import evaluate
from aru_lab.runs.folder import RunFolder, load_checkpoint

from .conftest import with_sources

BASE = TrainConfig(
    task="sdigits",
    hidden_size=6,
    controller_size=3,
    pixels_per_step=8,
    epochs=2,
    batch_size=20,
    subset=40,
    validation_subset=20,
    device="cpu",
    threads=1,
)
OPTIONS = "sdigits --hidden-size 6 --pixels-per-step 8 --batch-size 20 --validation-subset 20"
OPTIONS += " --device cpu --threads 1"


def test_plan_is_every_combination_in_a_folder_of_its_own(tmp_path: Path) -> None:
    vary = ("learning_rate=1e-3,5e-4", "clip=None,1", "schedule=constant")
    configs = plan(BASE, ("relu", "gru"), (0, 3), vary, tmp_path, match_parameters=False)
    assert len(configs) == 2 * 2 * 2 * 2
    assert len({config.run_folder for config in configs}) == 16
    assert {(config.model, config.seed) for config in configs} == {("relu", 0), ("relu", 3), ("gru", 0), ("gru", 3)}
    values = {(config.learning_rate, config.clip) for config in configs}
    assert values == {(1e-3, None), (1e-3, 1), (5e-4, None), (5e-4, 1)}
    assert {config.schedule for config in configs} == {"constant"}
    assert (tmp_path / "relu-learning_rate=0.001-clip=None-schedule=constant-seed0") in {c.run_folder for c in configs}
    assert {config.hidden_size for config in configs} == {6}


def test_plan_has_the_default_learning_rate_of_each_network_and_length(tmp_path: Path) -> None:
    base = dataclasses.replace(BASE, task="psmnist")
    configs = plan(base, ("arun", "gru"), (0,), ("pixels_per_step=1,7",), tmp_path, match_parameters=False)
    assert [config.learning_rate for config in configs] == [1e-3, 2e-3, 1e-2, 2e-3]
    configs = plan(base, ("arun",), (0,), ("learning_rate_scaling=fan-in,none",), tmp_path, match_parameters=False)
    assert [config.learning_rate_scaling for config in configs] == ["fan-in", "none"]


@pytest.mark.parametrize(("hidden_size", "controller_size"), [(64, 16), (400, 50)])
def test_matched_models_have_as_many_parameters(tmp_path: Path, hidden_size: int, controller_size: int) -> None:
    base = dataclasses.replace(BASE, hidden_size=hidden_size, controller_size=controller_size)
    configs = plan(base, MODELS, (0,), (), tmp_path)
    counts = {config.model: n_parameters(config) for config in configs}
    assert counts.keys() == set(MODELS)
    assert {config.hidden_size for config in configs if config.model == "arun"} == {hidden_size}
    for count in counts.values():
        assert abs(count / counts["arun"] - 1) <= 0.02


def test_nearest_size_at_which_all_models_match_is_taken(tmp_path: Path) -> None:
    told: list[str] = []
    base = TrainConfig(hidden_size=64, controller_size=16)
    configs = plan(base, MODELS, (0,), (), tmp_path, remark=told.append)
    counts = {config.model: n_parameters(config) for config in configs}
    (size,) = {config.hidden_size for config in configs if config.model == "arun"}
    assert size != 64
    assert all(abs(count / counts["arun"] - 1) <= 0.02 for count in counts.values())
    for nearer in range(64 - abs(size - 64) + 1, 64 + abs(size - 64)):
        lines: list[str] = []
        plan(dataclasses.replace(base, hidden_size=nearer), MODELS, (0,), (), tmp_path, remark=lines.append)
        assert lines, nearer
    (sentence,) = told
    assert sentence == (
        "Of an ARUN of hidden size 64, not all models can have as many parameters within 2%; the sweep takes "
        f"{size}, the nearest size at which they can."
    )
    # without the ARUN the others still match each other, and a size that matches is kept without a word
    others = plan(base, ("relu", "lstm"), (0,), (), tmp_path)
    assert abs(n_parameters(others[0]) / n_parameters(others[1]) - 1) <= 0.04
    assert plan(base, ("arun",), (0,), (), tmp_path, remark=pytest.fail)[0].hidden_size == 64


def test_unknown_model_is_named_without_advice_on_sizes() -> None:
    sentence = f"models: got 'transformer', expected one of {', '.join(MODELS)}."
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}$"):
        plan(BASE, ("gru", "transformer"), (0,), (), Path())


def test_lists_are_no_values_to_vary() -> None:
    with pytest.raises(ConfigError, match="for perturb there is --perturb"):
        plan(BASE, ("gru",), (0,), ("perturb=a,b",), Path(), match_parameters=False)


def test_finished_runs_are_read_and_not_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = plan(BASE, ("relu", "gru"), (0, 1), (), tmp_path, match_parameters=False)
    first = run_sweep(configs, console=Console(quiet=True))
    assert [result.config for result in first] == configs

    def never(*_: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(sweep, "train", never)
    monkeypatch.setattr(sweep, "resume", never)
    assert run_sweep(configs, console=Console(quiet=True)) == first


def test_folder_of_another_experiment_is_refused(tmp_path: Path) -> None:
    (config,) = plan(BASE, ("relu",), (0,), (), tmp_path, match_parameters=False)
    sweep.complete(config)
    sweep.complete(dataclasses.replace(config, threads=2))
    with pytest.raises(RunError, match=r"holds a run with other settings \(epochs\); name another --output"):
        sweep.complete(dataclasses.replace(config, epochs=3))


def test_run_that_fails_does_not_keep_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = f"{OPTIONS} --subset 40 --epochs 2 --clip None --schedule constant --output {tmp_path}".split()
    arguments = [
        "sweep",
        "--no-match-parameters",
        *options,
        "--models",
        "relu",
        "--seeds",
        "0",
        "--vary",
        "learning_rate=1e30,1e-3",
    ]
    assert main(arguments) == NonFiniteError.exit_code
    err = capsys.readouterr().err
    assert "1 of 2 runs failed; the first: The " in err
    with (tmp_path / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["learning_rate"] for row in rows] == ["1e+30", "0.001"]
    assert "became" in rows[0]["failure"]
    assert not rows[0]["test_accuracy"]
    assert 0 <= float(rows[1]["test_accuracy"]) <= 1
    assert not rows[1]["failure"]


def test_damaged_run_does_not_keep_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = f"{OPTIONS} --subset 40 --epochs 1 --models relu gru --seeds 0 1 --no-match-parameters"
    command = ["sweep", *options.split(), "--output", str(tmp_path)]
    assert main(command) == 0
    (tmp_path / "relu-seed1" / "last.pt").write_bytes(b"nonsense")
    (tmp_path / "gru-seed0" / "config.json").write_text("[]")
    for jobs in ("1", "2"):
        capsys.readouterr()
        assert main([*command, "--jobs", jobs]) == 2
        out, err = capsys.readouterr()
        assert out.count("failed") == 2
        assert re.match(r"aru: 2 of 4 runs failed; the first: \S+relu-seed1/last\.pt can't be read \(.*\); .*\n$", err)
        with (tmp_path / "sweep.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [bool(row["failure"]) for row in rows] == [False, True, True, False]
        assert [bool(row["test_accuracy"]) for row in rows] == [True, False, False, True]
        assert "gru-seed0/config.json can't be read (it is a list and not a dictionary)" in rows[2]["failure"]


def wait_for_the_end(folder: RunFolder) -> None:
    """Wait until no process trains in the folder: the lock of a dead one is free."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with folder.locked():
                return
        except RunError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder / "last.pt")["model"]


def test_the_last_weights_are_tested_where_they_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = f"{OPTIONS} --subset 100 --epochs 4 --learning-rate 0.3 --models relu --seeds 0 --output".split()
    tested = {}
    for which in ("best", "last"):
        assert main(["sweep", *options, str(tmp_path), "--checkpoint", which]) == 0
        capsys.readouterr()
        with (tmp_path / "sweep.csv").open() as file:
            (row,) = csv.DictReader(file)
        clean, _ = evaluate(tmp_path / "relu-seed0", [], which)
        assert float(row["test_loss"]) == clean.loss
        epoch = int(row["best_epoch"]) if which == "best" else 4
        metrics = RunFolder(tmp_path / "relu-seed0").read_metrics()
        assert float(row["validation_accuracy"]) == metrics[epoch - 1]["validation_accuracy"]
        tested[which] = (row["best_epoch"], clean.loss)
    assert tested["best"][0] == tested["last"][0] != "4"
    assert tested["best"][1] != tested["last"][1]
    assert main(["sweep", *options, str(tmp_path), "--checkpoint", "first"]) == 2
    assert "checkpoint: got 'first', expected one of best, last" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs POSIX processes")
def test_killed_sweep_goes_on_where_it_was(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    options = f"{OPTIONS} --subset 200 --epochs 8 --checkpoint-seconds 0.05 --models relu gru --seeds 0 1".split()
    command = [sys.executable, "-m", "aru_lab", "sweep", *options, "--no-match-parameters", "--jobs", "2", "--output"]
    with subprocess.Popen(
        [*command, str(killed)], stdout=subprocess.DEVNULL, env=with_sources(), start_new_session=True
    ) as process:
        while not list(killed.glob("*/metrics.jsonl")):
            assert process.poll() is None
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    configs = plan(
        dataclasses.replace(BASE, controller_size=16, subset=200, epochs=8, checkpoint_seconds=0.05),
        ("relu", "gru"),
        (0, 1),
        (),
        killed,
        match_parameters=False,
    )
    begun = [config for config in configs if RunFolder(config.run_folder).holds_run()]
    assert begun
    for config in begun:
        wait_for_the_end(RunFolder(config.run_folder))
    unfinished = [c for c in begun if len(RunFolder(c.run_folder).read_metrics()) < c.epochs]
    assert unfinished
    results = run_sweep(configs, console=Console(quiet=True))
    assert [len(result.history) for result in results] == [8] * 4
    for config in unfinished:
        again = whole / config.run_folder.name
        training.train(dataclasses.replace(config, output=again), Console(quiet=True))
        for name, weight in weights(again).items():
            assert torch.equal(weight, weights(config.run_folder)[name])


def test_processes_end_when_the_one_that_started_them_is_killed(tmp_path: Path) -> None:
    options = (
        f"{OPTIONS} --subset 400 --epochs 100000 --models relu gru --seeds 0 --no-match-parameters --jobs 2".split()
    )
    command = [sys.executable, "-m", "aru_lab", "sweep", *options, "--output", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=with_sources(), start_new_session=True) as process:
        while len(list(tmp_path.glob("*/metrics.jsonl"))) < 2:
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    for folder in (RunFolder(path.parent) for path in tmp_path.glob("*/metrics.jsonl")):
        wait_for_the_end(folder)
        position = load_checkpoint(folder.last_file)["position"]
        assert position["step"] > 0
        assert json.loads(folder.config_file.read_text())["config"]["epochs"] == 100_000
