"""Transfer: only what makes n and s is trained again, on images that nobody has seen."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from aru_lab.cli import main
from aru_lab.data.tasks import find_task
from aru_lab.errors import ConfigError
from aru_lab.experiments.transfer import ADAPTABLE, PAPER_RETRAINING, Retraining, transfer
from aru_lab.networks.classifier import parts
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.evaluation import load_classifier, score, task_of
from aru_lab.runs.folder import RunFolder, load_checkpoint
from aru_lab.runs.training import train


def trained(folder: Path, model: str, task: str = "psdigits", epochs: int = 2, subset: int = 200) -> Path:
    sizes = {"hidden_size": 8, "controller_size": 4, "pixels_per_step": 8, "epochs": epochs, "subset": subset}
    config = TrainConfig(task, model, **sizes, validation_subset=50, device="cpu", output=folder / model)
    train(config, Console(quiet=True))
    return folder / model


@pytest.mark.parametrize("model", ADAPTABLE)
def test_n_and_s_alone_are_trained_again(tmp_path: Path, model: str) -> None:
    run = trained(tmp_path, model)
    result = transfer(run, Retraining(epochs=2))
    before, _ = load_classifier(run)
    after, config = load_classifier(run / "transfer")
    for part, parameters in parts(before).items():
        for old, new in zip(parameters, parts(after)[part], strict=True):
            assert torch.equal(old, new) is (part != "activation")
    assert config.task == "rotated-psdigits"
    assert config.learning_rate_scaling == "none"  # though the run itself learned by fan-in
    assert len(load_checkpoint(run / "transfer" / "last.pt")["optimizer"]["param_groups"]) == 1
    assert load_checkpoint(run / "transfer" / "last.pt")["position"]["epoch"] == 2
    upright, rotated = find_task("upright-psdigits", 8).load().test, task_of(config).load().test
    assert result.before == score(before, upright)
    assert result.rotated == score(before, rotated)
    assert result.retrained == score(after if result.epoch else before, rotated)
    assert transfer(run, Retraining(epochs=2)) == result


def test_retraining_lowers_the_loss_on_rotated_images(tmp_path: Path) -> None:
    run = trained(tmp_path, "gamma-heterogeneous", epochs=15, subset=1000)
    result = transfer(run, Retraining(epochs=10))
    assert result.epoch > 0
    assert result.retrained.loss < result.rotated.loss


@pytest.mark.parametrize(
    ("model", "task", "sentence"),
    [
        ("lstm", "psdigits", r"run: got a lstm in .*, which has no n and s; expected arun, gamma-homogeneous"),
        ("arun", "sdigits", r"run: got a run of sdigits in .*, expected one of psdigits, psmnist"),
    ],
)
def test_what_can_not_be_transferred_is_refused(tmp_path: Path, model: str, task: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        transfer(trained(tmp_path, model, task))


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(tmp_path, "gamma-homogeneous")
    assert main(["transfer", str(run), "--epochs", "1"]) == 0
    assert "n and s retrained" in " ".join(capsys.readouterr().out.split())
    assert main(["transfer", str(run), "--epochs", "2"]) == 2
    assert "holds a run with other settings (epochs)" in capsys.readouterr().err


def test_run_that_fails_does_not_keep_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(tmp_path, "gamma-homogeneous")
    assert main(["transfer", str(tmp_path / "nowhere"), str(run), "--epochs", "1"]) == 2
    out, err = capsys.readouterr()
    rows = [line for line in out.splitlines() if "%" in line and "│" in line]
    assert len(rows) == 1
    assert "failed" in out
    assert err.startswith(f"aru: 1 of 2 runs failed; the first: {tmp_path / 'nowhere'} holds no run")


def test_every_epoch_is_reported_and_the_first_is_that_before(tmp_path: Path) -> None:
    run = trained(tmp_path, "gamma-heterogeneous")
    result = transfer(run, Retraining(epochs=3))
    history = RunFolder(run / "transfer").read_metrics()
    assert [one.accuracy for one in result.validation[1:]] == [entry["validation_accuracy"] for entry in history]
    before, config = load_classifier(run)
    assert result.validation[0] == score(before, task_of(config, "rotated-psdigits").load().validation)
    best = max(range(4), key=lambda k: (result.validation[k].accuracy, -result.validation[k].loss, -k))
    assert result.epoch == best


def test_weights_that_retraining_makes_worse_are_not_taken(tmp_path: Path) -> None:
    run = trained(tmp_path, "gamma-heterogeneous", epochs=15, subset=1000)
    result = transfer(run, Retraining(epochs=1, learning_rate=3.0))
    assert result.validation[1].accuracy < result.validation[0].accuracy
    assert (result.epoch, result.retrained) == (0, result.rotated)


def test_the_last_epoch_counts_where_it_is_asked_for(tmp_path: Path) -> None:
    run = trained(tmp_path, "gamma-heterogeneous")
    result = transfer(run, Retraining(epochs=2, learning_rate=3.0, checkpoint="last"))
    after, config = load_classifier(run / "transfer", "last")
    assert (result.epoch, result.retrained) == (2, score(after, task_of(config).load().test))
    assert config.initial_checkpoint == "last"
    before, _ = load_classifier(run, "last")
    assert result.before == score(before, find_task("upright-psdigits", 8).load().test)


def test_the_paper_retrains_on_balanced_halves(tmp_path: Path) -> None:
    run = trained(tmp_path, "gamma-heterogeneous")
    result = transfer(run, dataclasses.replace(PAPER_RETRAINING, epochs=1))
    config, _ = RunFolder(run / "transfer-balanced").read_config()
    assert (config.task, config.schedule, config.batch_size) == ("balanced-rotated-psdigits", "plateau-paper", 100)
    assert (config.learning_rate, config.optimizer) == (1e-4, "adam")
    assert result.epoch == 1
    before, _ = load_classifier(run, "last")
    assert result.before == score(before, find_task("balanced-upright-psdigits", 8).load().test)


def file_of(folder: Path, n_inputs: int = 8, n_classes: int = 10) -> Path:
    random = np.random.RandomState(0)
    x = random.rand(100, 8, n_inputs).astype(np.float32)
    np.savez(folder / "own.npz", x=x, y=np.arange(100) % n_classes)
    return folder / "own.npz"


def test_a_file_takes_the_place_of_the_rotated_images(tmp_path: Path) -> None:
    run, file = trained(tmp_path, "gamma-homogeneous"), file_of(tmp_path)
    result = transfer(run, Retraining(epochs=2, data=file))
    before, config = load_classifier(run)
    after, retrained = load_classifier(run / "transfer-own")
    test = find_task(str(file)).load().test
    assert result.before == score(before, task_of(config).load().test)
    assert result.rotated == score(before, test)
    assert result.retrained == (score(after, test) if result.epoch else result.rotated)
    assert retrained.task == str(file)
    assert torch.equal(before.recurrent.weight_hh_l0, after.recurrent.weight_hh_l0)
    assert not torch.equal(before.recurrent.gain_l0, after.recurrent.gain_l0)


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ((7, 10), "data: got .*own.npz with 7 inputs and 10 classes, expected 8 inputs and 10 classes, as the run has"),
        ((8, 4), "data: got .*own.npz with 8 inputs and 4 classes, expected 8 inputs and 10 classes"),
    ],
)
def test_a_file_of_other_sizes_is_refused(tmp_path: Path, sizes: tuple[int, int], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        transfer(trained(tmp_path, "gamma-homogeneous"), Retraining(data=file_of(tmp_path, *sizes)))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"checkpoint": "first"}, "checkpoint: got 'first', expected one of best, last"),
        ({"data": Path("own.csv")}, r"data: got own.csv, expected the path of an \.npz or \.mat file"),
        ({"data": Path("own.npz"), "balanced": True}, "balanced: got True with the data own.npz, expected False"),
    ],
)
def test_refusals(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Retraining(**options)


def test_command_with_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, file = trained(tmp_path, "gamma-homogeneous"), file_of(tmp_path)
    assert main(["transfer", str(run), "--epochs", "1", "--data", str(file), "--checkpoint", "last"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "on validation examples, from epoch 0:" in out
    assert "own.npz" in out
