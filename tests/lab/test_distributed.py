"""Several processes under torchrun take the same steps as one."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from aru_lab.errors import LabError, RunError
from aru_lab.runs import training
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.distributed import World
from aru_lab.runs.folder import RunFolder, load_checkpoint
from support.tolerances import assert_close

from .conftest import with_sources
from .distributed_run import first_gradients

# Batches of 7, 7 and 3: shares of two processes differ, and so do their parts; noise drawn by a seed of each example.
CONFIG = TrainConfig(
    task="sdigits",
    model="arun",
    hidden_size=6,
    controller_size=3,
    pixels_per_step=8,
    epochs=2,
    batch_size=7,
    accumulate=2,
    subset=17,
    validation_subset=11,
    perturb=("noisy:deviation=0.5",),
    perturb_share=1.0,
    dtype="float64",
    device="cpu",
)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run and the gradients of two processes."""
    base = tmp_path_factory.mktemp("two")
    config = json.dumps(dataclasses.replace(CONFIG, output=base / "run").to_json())
    script = str(Path(__file__).with_name("distributed_run.py"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, script, config, str(base / "gradients.pt")],
        env=with_sources(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return base


def test_two_processes_have_the_gradients_of_one(two: Path) -> None:
    found = torch.load(two / "gradients.pt", weights_only=True)
    expected = first_gradients(CONFIG, World())
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert_close(name, found[name], gradient, "sequence")


def test_two_processes_train_to_the_weights_of_one(two: Path, tmp_path: Path) -> None:
    result = training.train(dataclasses.replace(CONFIG, output=tmp_path / "run"), Console(quiet=True))
    one, both = (load_checkpoint(folder / "run" / "last.pt") for folder in (tmp_path, two))
    for name, weight in one["model"].items():
        # Adam divides by the root of the squared gradient, which magnifies rounding where that is near 0.
        torch.testing.assert_close(both["model"][name], weight, rtol=1e-9, atol=1e-10)
    history = RunFolder(two / "run").read_metrics()
    for entry, expected in zip(history, result.history, strict=True):
        for name in ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy"):
            assert entry[name] == pytest.approx(expected[name], rel=1e-9)


def test_the_first_process_writes_for_all(two: Path) -> None:
    names = sorted(path.name for path in (two / "run").iterdir())
    assert names == [".lock", "best.pt", "config.json", "last.pt", "metrics.jsonl"]
    assert len(load_checkpoint(two / "run" / "last.pt")["rng"]) == 2
    assert RunFolder(two / "run").read_config()[1]["processes"] == 2


def test_run_of_two_processes_is_not_resumed_on_one(two: Path) -> None:
    with pytest.raises(RunError, match=r"started on 2 processes .* on 1; use `torchrun --nproc-per-node 2"):
        training.resume(two / "run", Console(quiet=True))


def test_what_one_process_finds_impossible_ends_all_with_one_sentence(tmp_path: Path) -> None:
    script = str(Path(__file__).with_name("distributed_failure.py"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script]
    done = subprocess.run(
        [*command, str(tmp_path)], env=with_sources(), capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    ends = {path.name: path.read_text() for path in tmp_path.glob("*-[01]")}
    assert ends == {f"{name}-{rank}": "2" for name in ("folder", "disk", "again") for rank in (0, 1)}
    told = [line for line in done.stderr.splitlines() if line.startswith("aru: ")]
    for sentence, expected in zip(
        told,
        (
            "file/run: the run folder can't be made (Not a directory); choose another --output.",
            "last.pt can't be written (No space left on device); make room.",
            "full already holds a run: continue it with",
        ),
        strict=True,
    ):
        assert expected in sentence
    assert "Traceback" not in done.stderr
    assert load_checkpoint(tmp_path / "full" / "last.pt")["position"]["step"] == 1


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE is 'many', expected a whole number as torchrun sets it"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0', expected"),
        ({"WORLD_SIZE": "2"}, "RANK is not set, expected a whole number as torchrun sets it; start several processes"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "x"}, "LOCAL_RANK is 'x', expected"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, r"The 2 processes can't be joined \(.*MASTER_ADDR expected"),
    ],
)
def test_environment_that_torchrun_did_not_make_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variables: dict[str, str], sentence: str
) -> None:
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LabError, match=sentence):
        training.train(dataclasses.replace(CONFIG, output=tmp_path / "run"), Console(quiet=True))
    assert not (tmp_path / "run").exists()


def test_world_of_one_shares_with_nobody() -> None:
    world = World()
    assert world.is_first
    assert world.sum(1.5, 2.0) == world.max(1.5, 2.0) == [1.5, 2.0]
    assert torch.equal(world.share(torch.arange(5)), torch.arange(5))
    assert [World(rank, 2).share(torch.arange(5)).tolist() for rank in (0, 1)] == [[0, 2, 4], [1, 3]]
