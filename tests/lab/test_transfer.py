"""Transfer: only what makes n and s is trained again, on images that nobody has seen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rich.console import Console

from aru_lab.cli import main
from aru_lab.data.tasks import find_task
from aru_lab.errors import ConfigError
from aru_lab.experiments.transfer import ADAPTABLE, Retraining, transfer
from aru_lab.networks.classifier import parts
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.evaluation import load_classifier, score, task_of
from aru_lab.runs.folder import load_checkpoint
from aru_lab.runs.training import train


def trained(folder: Path, model: str, task: str = "psdigits") -> Path:
    sizes = {"hidden_size": 8, "controller_size": 4, "pixels_per_step": 8, "epochs": 2, "subset": 200}
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
    assert result.retrained == score(after, rotated)
    assert transfer(run, Retraining(epochs=2)) == result


def test_retraining_lowers_the_loss_on_rotated_images(tmp_path: Path) -> None:
    result = transfer(trained(tmp_path, "gamma-heterogeneous"), Retraining(epochs=10))
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
    rows = [line for line in out.splitlines() if "%" in line and "paper" not in line]
    assert len(rows) == 1
    assert "failed" in out
    assert err.startswith(f"aru: 1 of 2 runs failed; the first: {tmp_path / 'nowhere'} holds no run")
