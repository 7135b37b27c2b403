"""Training: what is saved, seeds, schedules, and numbers that are not finite."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from aru_lab import training
from aru_lab.checkpoint import RunFolder, load_checkpoint
from aru_lab.config import MODELS, TrainConfig
from aru_lab.errors import ConfigError, NonFiniteError, RunError
from aru_lab.schedules import epoch_order, scheduled_rate
from aru_lab.training import train

CONFIG = TrainConfig(
    task="sdigits",
    model="relu",
    hidden_size=6,
    controller_size=3,
    epochs=2,
    batch_size=20,
    subset=50,
    validation_subset=20,
    device="cpu",
)


def run(folder: Path, **changes: Any) -> training.TrainResult:
    return train(dataclasses.replace(CONFIG, output=folder, **changes), Console(file=io.StringIO()))


@pytest.mark.parametrize("model", MODELS)
def test_every_model_trains(tmp_path: Path, model: str) -> None:
    result = run(tmp_path / "run", model=model, epochs=1)
    assert len(result.history) == 1
    assert math.isfinite(result.history[0]["train_loss"])


def test_run_folder_holds_all_that_was_promised(tmp_path: Path) -> None:
    output = io.StringIO()
    config = dataclasses.replace(CONFIG, output=tmp_path / "run")
    result = train(config, Console(file=output, width=200))
    folder = RunFolder(tmp_path / "run")
    assert sorted(path.name for path in folder.path.iterdir()) == ["best.pt", "config.json", "last.pt", "metrics.jsonl"]
    saved, environment = folder.read_config()
    assert saved == config
    assert environment["torch"] == torch.__version__
    assert {"aru_kernels", "commit", "python", "device", "device_name", "threads"} <= environment.keys()
    lines = folder.metrics_file.read_text().splitlines()
    assert [json.loads(line) for line in lines] == result.history
    best = max(result.history, key=lambda entry: (entry["validation_accuracy"], -entry["validation_loss"]))
    assert load_checkpoint(folder.best_file)["epoch"] == best["epoch"]
    assert output.getvalue().count("epoch") == 2


def test_training_learns(tmp_path: Path) -> None:
    settings = {"hidden_size": 64, "epochs": 12, "batch_size": 32, "learning_rate": 3e-3, "input_noise": 0.1}
    result = run(tmp_path / "run", task="psdigits", subset=None, validation_subset=None, **settings)
    assert result.history[-1]["validation_accuracy"] > 0.6


def test_same_seed_same_weights_and_other_seed_others(tmp_path: Path) -> None:
    def weights(name: str, seed: int) -> torch.Tensor:
        run(tmp_path / name, seed=seed)
        return load_checkpoint(tmp_path / name / "last.pt")["model"]["readout.weight"]

    first = weights("a", 1)
    assert torch.equal(first, weights("b", 1))
    assert not torch.equal(first, weights("c", 2))


def test_folder_with_a_run_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "run", epochs=1)
    with pytest.raises(RunError, match=r"already holds a run: continue it with `aru train --resume .*--output"):
        run(tmp_path / "run")


def test_folder_that_can_not_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="can't be made"):
        run(tmp_path / "file" / "run")


def test_order_is_a_permutation_of_its_own_for_seed_and_epoch() -> None:
    orders = [epoch_order(50, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(torch.equal(order.sort().values, torch.arange(50)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == 4


def test_schedules() -> None:
    constant = dataclasses.replace(CONFIG, schedule="constant", learning_rate=0.5)
    assert {scheduled_rate(constant, step, 100) for step in range(100)} == {0.5}
    cosine = dataclasses.replace(constant, schedule="cosine")
    rates = [scheduled_rate(cosine, step, 100) for step in range(100)]
    assert rates[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert 0 < rates[-1] < 0.001


def test_clip_bounds_the_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    norms = []

    def step(self: torch.optim.Adam, closure: None = None) -> None:
        gradients = [p.grad for group in self.param_groups for p in group["params"]]
        norms.append(torch.nn.utils.get_total_norm(gradients).item())

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    run(tmp_path / "clipped", clip=0.01, epochs=1)
    assert max(norms) <= 0.01 * (1 + 1e-5)
    norms.clear()
    run(tmp_path / "free", clip=None, epochs=1)
    assert max(norms) > 0.01


def poison_loss(trainer: Any) -> None:
    with torch.no_grad():
        trainer.model.readout.bias.fill_(math.nan)


def poison_gradient(trainer: Any) -> None:
    trainer.model.readout.bias.register_hook(lambda gradient: gradient * math.inf)


@pytest.mark.parametrize(
    ("poison", "what"),
    [(poison_loss, "loss became nan"), (poison_gradient, "norm of the gradient became (inf|nan)")],
)
def test_non_finite_numbers_stop_and_keep_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, poison: Any, what: str
) -> None:
    original = training._Trainer.step

    def step(self: Any, index: torch.Tensor) -> Any:
        if self.position.step == 4:
            poison(self)
        return original(self, index)

    monkeypatch.setattr(training._Trainer, "step", step)
    with pytest.raises(NonFiniteError, match=rf"The {what} in epoch 2, step 5; .*last.pt.*--learning-rate") as stopped:
        run(tmp_path / "run", checkpoint_seconds=0.0)
    assert stopped.value.exit_code == 1
    last = load_checkpoint(tmp_path / "run" / "last.pt")
    assert last["position"]["step"] == 4
    assert all(value.isfinite().all() for value in last["model"].values())


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = training._Trainer.step

    def step(self: Any, index: torch.Tensor) -> Any:
        result = original(self, index)
        if self.position.step == 4:
            poison_loss(self)
        return result

    monkeypatch.setattr(training._Trainer, "step", step)
    with pytest.raises(NonFiniteError, match=r"weight readout\.bias"):
        run(tmp_path / "run", checkpoint_seconds=0.0)
    last = load_checkpoint(tmp_path / "run" / "last.pt")
    assert last["position"]["step"] == 4
    assert all(value.isfinite().all() for value in last["model"].values())


def test_diverging_training_stops_by_itself(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError):
        run(tmp_path / "run", model="arun", learning_rate=100.0, schedule="constant", clip=None)
    last = load_checkpoint(tmp_path / "run" / "last.pt")
    assert all(value.isfinite().all() for value in last["model"].values())


def test_full_disk_is_told_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("aru_lab.checkpoint.os.fsync", no_space)
    with pytest.raises(RunError, match=r"can't be written .*No space left.*--resume"):
        run(tmp_path / "run")


def test_backend_that_can_not_serve_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="backend: "):
        run(tmp_path / "run", model="arun", backend="nonsense")
    assert not (tmp_path / "run").exists()
