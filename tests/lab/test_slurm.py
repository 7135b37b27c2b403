"""Jobs of a cluster: with submitit's own executor, and with a real SLURM of one node where it is installed."""

from __future__ import annotations

import dataclasses
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from aru_lab.cli import main
from aru_lab.cli.options import Execution
from aru_lab.errors import ConfigError, DataError, Interrupted, MachineError
from aru_lab.experiments import slurm as module
from aru_lab.experiments.kept import read_kept
from aru_lab.experiments.networks import chosen_rates, networks
from aru_lab.experiments.processes import run_jobs, threads_each
from aru_lab.experiments.scales import NETWORKS, NetworkSet
from aru_lab.experiments.slurm import Slurm
from aru_lab.experiments.sweep import complete, run_sweep
from aru_lab.runs.folder import RunFolder
from aru_lab.runs.state import load_last

from . import slurm_node
from .cluster_work import die, square, wait_for
from .small_run import CONFIG

SMALL = dataclasses.replace(CONFIG, pixels_per_step=8, subset=40, hidden_size=12, threads=1)
pytest.importorskip("submitit", reason="submitit is not installed")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs import the laboratory and these tests."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(str(ROOT / folder) for folder in ("", "python", "tests")))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(module, "POLL_SECONDS", 0.2)
    monkeypatch.setattr(module, "LATE_SECONDS", 1.0)


@pytest.fixture
def local(tmp_path: Path) -> Slurm:
    """Jobs that are processes of submitit on this machine."""
    return Slurm(tmp_path / "jobs", cluster="local")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a SLURM of one node."""
    if reason := slurm_node.missing():
        pytest.skip(reason)
    with slurm_node.slurm_node(tmp_path_factory.mktemp("slurm") / "node") as environment:
        yield environment


@pytest.fixture
def real(node: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Slurm]:
    """Jobs of a real SLURM."""
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, node[name])
    yield Slurm(tmp_path / "jobs", partition="main", time=5, memory=0.5)
    asked("scancel", "--me", "--signal=KILL", "--full")
    queue(lambda found: not found)


@pytest.fixture(params=["local", "real"])
def any_cluster(request: pytest.FixtureRequest) -> Slurm:
    """Either."""
    return request.getfixturevalue(request.param)


def run(function: Callable[..., Any], items: list[Any], slurm: Slurm) -> tuple[list[Any], str]:
    text = io.StringIO()
    return run_jobs(function, items, slurm, "tests", Console(file=text, width=300)), text.getvalue()


def queue(condition: Callable[[str], bool]) -> str:
    """What squeue prints as soon as the condition holds."""
    end = time.monotonic() + 40
    while not condition(found := asked("squeue", "--noheader", "--array", "--format=%i %T")):
        assert time.monotonic() < end, found
        time.sleep(0.2)
    return found


def asked(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def start_again(number: str) -> None:
    """Start a job at once that was queued again; Slurm would let it wait for some minutes."""
    queue(lambda found: f"{number} PENDING" in found)
    asked("scontrol", "update", f"JobId={number}", "StartTime=now")


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_results_come_in_order_and_a_failure_in_its_place(any_cluster: Slurm) -> None:
    (first, second, failed), told = run(square, [1, 2, 3], any_cluster)
    assert (first, second) == (1, 4)
    assert isinstance(failed, DataError)
    assert str(failed) == "three"
    assert "3 jobs submitted (" in told
    assert f"their output is in {any_cluster.folder}" in told


def test_a_job_that_dies_is_an_error_of_its_item(any_cluster: Slurm) -> None:
    (failed,), _ = run(die, [1], any_cluster)
    assert isinstance(failed, MachineError)
    assert "ended without a result" in str(failed)
    assert Path(str(failed).split()[-1].rstrip(".")).is_file()


def test_a_sweep_is_that_of_this_machine(any_cluster: Slurm, tmp_path: Path) -> None:
    configs = [
        dataclasses.replace(CONFIG, seed=seed, threads=1, learning_rate=1e-3, output=tmp_path / f"run{seed}")
        for seed in (0, 1)
    ]
    found = run_sweep(configs, any_cluster, Console(quiet=True))
    here = [dataclasses.replace(config, output=tmp_path / f"here{config.seed}") for config in configs]
    for one, other in zip(found, run_sweep(here), strict=True):
        assert one.clean == other.clean
        assert one.config.threads == 1


def test_networks_are_trained_as_jobs_and_kept(local: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = NetworkSet("first", SMALL, seeds=(0, 1), models=("relu",), learning_rates=(1e-2, 1e30))
    monkeypatch.setitem(NETWORKS, "made", (one,))
    text = io.StringIO()
    console = Console(file=text, width=200)
    assert networks("made", tmp_path / "out", tmp_path / "runs", console=console, slurm=local)
    kept = read_kept(tmp_path / "out" / "first")
    assert {network.name for network in kept} == {f"{model}-seed{seed}" for model in one.models for seed in (0, 1)}
    assert chosen_rates(tmp_path / "out" / "first") == {"relu": 1e-2}
    assert "[2 of 2, about 0 minutes left]" in text.getvalue()
    again = networks("made", tmp_path / "again", tmp_path / "runs-again")
    assert again
    here = {network.name: network.clean for network in read_kept(tmp_path / "again" / "first")}
    assert here == {network.name: network.clean for network in kept}
    with pytest.raises(ConfigError, match="seconds: got 5 with the executor slurm, expected None"):
        networks("made", tmp_path / "out", seconds=5, slurm=local)


def test_a_training_that_is_queued_again_goes_on_from_its_checkpoint(real: Slurm, tmp_path: Path) -> None:
    """The job is stopped by Slurm in the middle, and its result is that of a training without a stop."""
    config = dataclasses.replace(
        CONFIG, epochs=80, subset=400, threads=1, learning_rate=1e-3, checkpoint_seconds=0.5, output=tmp_path / "run"
    )
    results: list[Any] = []
    waiting = threading.Thread(target=lambda: results.extend(run(complete, [config], real)[0]))
    waiting.start()
    folder = RunFolder(config.run_folder)
    until(lambda: folder.metrics_file.exists() and len(folder.read_metrics()) > 1)
    number = queue(lambda found: "RUNNING" in found).split()[0]
    asked("scontrol", "requeue", number)
    start_again(number)
    n_epochs = len(folder.read_metrics())
    assert 1 < n_epochs < config.epochs
    waiting.join(200)
    (finished,) = results
    assert len(finished.history) == config.epochs
    assert asked("scontrol", "show", "job", number).split("Restarts=")[1].split()[0] == "1"
    whole = complete(dataclasses.replace(config, output=tmp_path / "whole"))
    assert finished.clean == whole.clean
    one, other = (load_last(RunFolder(folder.folder))["model"] for folder in (finished, whole))
    assert all(bool((one[name] == other[name]).all()) for name in other)


def test_the_signal_before_the_end_of_the_time_queues_the_job_again(real: Slurm, tmp_path: Path) -> None:
    results: list[Any] = []
    waiting = threading.Thread(target=lambda: results.extend(run(wait_for, [tmp_path], real)[0]))
    waiting.start()
    until((tmp_path / "begun").exists)
    number = queue(lambda found: "RUNNING" in found).split()[0]
    asked("scancel", "--signal=TERM", number)  # what makes room for other jobs begins with this
    asked("scancel", "--signal=USR2", number)
    start_again(number)
    until(lambda: (tmp_path / "begun").read_text().count("\n") == 2)
    (tmp_path / "go").touch()
    waiting.join(100)
    assert results[0].count("\n") == 2


def test_a_job_that_is_cancelled_is_an_error_of_its_item(real: Slurm, tmp_path: Path) -> None:
    results: list[Any] = []
    waiting = threading.Thread(target=lambda: results.extend(run(wait_for, [tmp_path], real)[0]))
    waiting.start()
    until((tmp_path / "begun").exists)
    asked("scancel", queue(lambda found: "RUNNING" in found).split()[0])
    waiting.join(100)
    assert isinstance(results[0], MachineError)
    assert "ended without a result (was it cancelled" in str(results[0])


def test_after_ctrl_c_the_jobs_run_on_and_are_waited_for_again(real: Slurm, tmp_path: Path) -> None:
    def interrupt() -> None:
        until((tmp_path / "begun").exists)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(Interrupted, match=r"Stopped waiting; 1 of 1 jobs stay in the queue or run on \(\d+;.*scancel"):
        run(wait_for, [tmp_path], real)
    assert "RUNNING" in queue(bool)
    threading.Timer(1, (tmp_path / "go").touch).start()
    (begun,), told = run(wait_for, [tmp_path], real)
    assert begun.count("\n") == 1
    assert "1 jobs of an earlier command are still in the queue" in told


def test_what_slurm_refuses_is_told(real: Slurm) -> None:
    with pytest.raises(MachineError, match=r"Slurm refuses the jobs: .*[Ii]nvalid partition"):
        run(square, [1], dataclasses.replace(real, partition="nowhere"))


def test_the_command(real: Slurm, tmp_path: Path) -> None:
    small = "--models relu --seeds 0 1 --no-match-parameters --epochs 1 --subset 40 --hidden-size 4"
    cluster = "--executor slurm --partition main --time 5 --memory 0.5 --vary learning_rate=1e-3,1e30"
    command = [sys.executable, "-m", "aru_lab", "sweep", "sdigits", *small.split(), *cluster.split()]
    command += ["--output", str(tmp_path / "sweep")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "4 jobs submitted" in done.stderr
    assert "of 4 runs failed" in done.stderr
    assert len((tmp_path / "sweep" / "sweep.csv").read_text().splitlines()) == 1 + 4


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("sweep --executor cloud", "executor: got 'cloud', expected one of local, slurm"),
        ("sweep --partition main", "partition: got 'main' with --executor local, expected --executor slurm"),
        ("reproduce table1 --time 5", "time: got 5 with --executor local, expected --executor slurm"),
        ("sweep --executor slurm --jobs 2", "jobs: got 2 with --executor slurm, expected 1"),
        ("networks --executor slurm --time 0", "time: got 0, expected a whole number of at least 1"),
        ("networks --executor slurm --memory 0", "memory: got 0.0, expected a finite number above 0"),
        ("networks --executor slurm --cpus-per-task 0", "cpus_per_task: got 0, expected a whole number"),
        ("networks --executor slurm --gpus-per-task -1", "gpus_per_task: got -1, expected a whole number"),
    ],
)
def test_refusals(arguments: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments.split()) == 2
    assert sentence in capsys.readouterr().err


def test_where_slurm_is_missing_a_sentence_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"executor: got slurm, expected a machine .*: sbatch, squeue can't be found"):
        Execution("slurm").where(1, tmp_path)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "aru_kernels\[slurm\]"'):
        Execution("slurm").where(1, tmp_path)


def test_each_job_has_the_threads_that_it_asks_for(tmp_path: Path) -> None:
    assert threads_each(Slurm(tmp_path, cpus=3)) == 3
    assert threads_each(1) is None
