"""A run killed with SIGKILL at any moment and resumed ends bit for bit like a run that was never killed."""

from __future__ import annotations

import dataclasses
import io
import json
import os
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
from aru_lab.errors import RunError
from aru_lab.runs import learner, training
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.folder import RunFolder, load_checkpoint
from aru_lab.runs.signals import STOPPING, StopRequest

from .conftest import with_sources

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX processes")

# Three epochs of three steps, saved at every step; noise draws from the random state, plateau has a state of its own,
# perturbations are drawn for every step.
CONFIG = TrainConfig(
    task="sdigits",
    model="arun",
    hidden_size=5,
    controller_size=3,
    epochs=3,
    batch_size=20,
    subset=50,
    validation_subset=20,
    learning_rate=0.5,
    seed=2,
    schedule="plateau",
    input_noise=0.2,
    perturb=("noisy:deviation=0.3", "random-contrast"),
    accumulate=2,
    device="cpu",
    checkpoint_seconds=0.0,
)
# Writes in order: config, last (step 0), last (steps 1 2 3), best, last (epoch), ...
SINGLE_DEATHS = [
    ("in the middle of writing a file", 1),
    ("before a file takes its place", 1),
    ("in the middle of writing a file", 2),
    ("before a file takes its place", 2),
    ("before a step", 1),
    ("before a step", 5),
    ("in the middle of writing a file", 4),
    ("before a validation", 2),
    ("before a file takes its place", 6),
    ("before a file takes its place", 7),
    ("before a line of metrics", 1),
    ("in the middle of a line of metrics", 2),
    ("before a line of metrics", 3),
]
MANY_DEATHS = [
    ("before a step", 2),
    ("in the middle of writing a file", 2),
    ("before a validation", 1),
    ("before a line of metrics", 1),
    ("before a step", 2),
    ("in the middle of a line of metrics", 1),
]


def quiet() -> Console:
    return Console(file=io.StringIO())


def name(moment: str, count: int) -> str:
    return f"{moment} {count}".replace(" ", "-")


def outcome(folder: Path) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """Everything a run leaves: last.pt, best.pt, metrics.jsonl; without the timings."""
    run = RunFolder(folder)
    last, best, metrics = load_checkpoint(run.last_file), load_checkpoint(run.best_file), run.read_metrics()
    assert metrics == last["position"]["history"]
    for entry in [*metrics, *last["position"]["history"], best["validation"]]:
        del entry["seconds"], entry["sequences_per_second"]
    return last, best, metrics


def assert_same(a: Any, b: Any) -> None:
    """Equal to the bit, through dictionaries, lists and tensors."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the killed runs of all moments."""
    base = tmp_path_factory.mktemp("killed")
    values = CONFIG.to_json()
    deaths = [(base / name(*death), *death, values) for death in SINGLE_DEATHS]
    deaths += [(base / "many", *death, values) for death in MANY_DEATHS]
    script = Path(__file__).with_name("killed_run.py")
    arguments = [sys.executable, str(script), json.dumps(deaths, default=str)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300, env=with_sources())
    assert done.returncode == 0, done.stderr
    return base


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody killed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner, "PLATEAUS", {"plateau": (0.5, 0)})
        training.train(dataclasses.replace(CONFIG, output=folder), quiet())
    return folder


@pytest.mark.parametrize("folder", [*(name(*death) for death in SINGLE_DEATHS), "many"])
def test_resumed_run_ends_like_the_uninterrupted(
    folders: Path, uninterrupted: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learner, "PLATEAUS", {"plateau": (0.5, 0)})
    run = folders / folder
    if not RunFolder(run).holds_run():
        # Killed before config.json was there: no run began, and the folder is free for one.
        with pytest.raises(RunError, match="holds no run"):
            training.resume(run, quiet())
        training.train(dataclasses.replace(CONFIG, output=run), quiet())
    else:
        training.resume(run, quiet())
    for resumed, whole in zip(outcome(run), outcome(uninterrupted), strict=True):
        assert_same(resumed, whole)


def test_the_reference_run_exercises_what_is_restored(uninterrupted: Path) -> None:
    _, _, metrics = outcome(uninterrupted)
    assert metrics[-1]["learning_rate"] < CONFIG.learning_rate
    assert [entry["step"] for entry in metrics] == [3, 6, 9]


def test_resuming_a_finished_run_changes_nothing(uninterrupted: Path) -> None:
    files = {path.name: path.read_bytes() for path in uninterrupted.iterdir()}
    result = training.resume(uninterrupted, quiet())
    assert len(result.history) == 3
    assert {path.name: path.read_bytes() for path in uninterrupted.iterdir()} == files


def test_command_line_killed_from_outside_and_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = "train sdigits --model gru --hidden-size 6 --epochs 12 --subset 100 --validation-subset 20 --threads 1"
    options += " --pixels-per-step 8"
    options += " --batch-size 10 --device cpu --checkpoint-seconds 0.1 --output"
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    with subprocess.Popen(
        [sys.executable, "-m", "aru_lab", *options.split(), str(killed)], stdout=subprocess.DEVNULL, env=with_sources()
    ) as process:
        while not (killed / "metrics.jsonl").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert main(["train", "--resume", str(killed)]) == 0
    assert main([*options.split(), str(whole)]) == 0
    assert "aru evaluate" in capsys.readouterr().out
    for resumed, reference in zip(outcome(killed), outcome(whole), strict=True):
        assert_same(resumed, reference)


@pytest.mark.parametrize("number", STOPPING)
@pytest.mark.parametrize("during", ["step", "score"])
def test_signal_stops_with_a_checkpoint_and_says_how_to_go_on(
    tmp_path: Path,
    uninterrupted: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    during: str,
) -> None:
    monkeypatch.setattr(learner, "PLATEAUS", {"plateau": (0.5, 0)})
    handler = signal.getsignal(number)
    owner: Any = training._Trainer if during == "step" else training
    original, calls = getattr(owner, during), 0

    def with_signal(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            signal.raise_signal(number)
        return original(*arguments, **named)

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(owner, during, with_signal)
        with pytest.raises(training.Interrupted) as stopped:
            training.train(dataclasses.replace(CONFIG, output=folder, checkpoint_seconds=60), quiet())
    assert f"Stopped by {number.name} after step {2 if during == 'step' else 6};" in str(stopped.value)
    assert f"aru train --resume {folder}" in str(stopped.value)
    assert signal.getsignal(number) == handler
    assert main(["train", "--resume", str(folder)]) == 0
    assert "resumed after" in capsys.readouterr().out
    for resumed, whole in zip(outcome(folder), outcome(uninterrupted), strict=True):
        assert_same(resumed, whole)


def test_signals_that_come_together_are_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shells and service managers send SIGHUP and SIGTERM; the second must not end the process before it has saved."""
    stop = StopRequest()
    with stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGHUP)
        assert stop.received == signal.SIGTERM
        long_after = time.monotonic() + 10
        monkeypatch.setattr(time, "monotonic", lambda: long_after)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_second_ctrl_c_acts_at_once() -> None:
    with StopRequest():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_ignored_signal_stays_ignored() -> None:
    """nohup relies on it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop = StopRequest()
        with stop:
            signal.raise_signal(signal.SIGHUP)
        assert stop.received is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_damaged_checkpoint_is_refused(tmp_path: Path, uninterrupted: Path) -> None:
    for path in uninterrupted.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "last.pt").write_bytes(b"nonsense")
    with pytest.raises(RunError, match=r"last\.pt can't be read \(.*\); it is damaged: restore it from a copy"):
        training.resume(tmp_path, quiet())


def test_checkpoint_of_another_configuration_is_refused(tmp_path: Path, uninterrupted: Path) -> None:
    for path in uninterrupted.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"hidden_size": 5', '"hidden_size": 6'))
    with pytest.raises(RunError, match="does not belong to the configuration"):
        training.resume(tmp_path, quiet())
