"""Training: what is saved, seeds, schedules, and numbers that are not finite."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from aru_lab.data.sequences import Sequences
from aru_lab.errors import ConfigError, NonFiniteError, RunError
from aru_lab.networks.names import MODELS
from aru_lab.runs import training
from aru_lab.runs.finite import NotFinite, Watch, advise
from aru_lab.runs.folder import RunFolder, load_checkpoint
from aru_lab.runs.schedules import epoch_order, is_finished, scheduled_rate
from aru_lab.runs.training import train

from .small_run import CONFIG, run


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
    names = sorted(path.name for path in folder.path.iterdir())
    assert names == [".lock", "best.pt", "config.json", "last.pt", "metrics.jsonl"]
    saved, environment = folder.read_config()
    assert saved == config.with_learning_rate()
    assert saved.learning_rate == 2e-3
    assert environment["torch"] == torch.__version__
    assert {"aru_kernels", "commit", "python", "device", "device_name", "threads"} <= environment.keys()
    lines = [json.loads(line) for line in folder.metrics_file.read_text().splitlines()]
    assert all(len(line.pop("checksum")) == 16 for line in lines)
    assert lines == result.history == folder.read_metrics()
    best = max(result.history, key=lambda entry: (entry["validation_accuracy"], -entry["validation_loss"]))
    assert load_checkpoint(folder.best_file)["epoch"] == best["epoch"]
    assert output.getvalue().count("epoch") == 2


def test_training_learns(tmp_path: Path) -> None:
    settings = {"hidden_size": 64, "pixels_per_step": 8, "epochs": 6, "batch_size": 32, "learning_rate": 3e-3}
    settings |= {"input_noise": 0.1}
    result = run(tmp_path / "run", task="psdigits", subset=None, validation_subset=None, **settings)
    assert result.history[-1]["validation_accuracy"] > 0.8


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


def poison_loss(trainer: Any) -> None:
    with torch.no_grad():
        trainer.learner.model.readout.bias.fill_(math.nan)


def poison_gradient(trainer: Any) -> None:
    trainer.learner.model.readout.bias.register_hook(lambda gradient: gradient * math.inf)


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


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1000.0])
def test_numbers_read_a_step_late_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint_seconds: float
) -> None:
    """As on a GPU, where the next step is under way before they are looked at."""
    prompt = run(tmp_path / "prompt", checkpoint_seconds=checkpoint_seconds)
    original = training._Trainer.__init__

    def late(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.lag = 1

    monkeypatch.setattr(training._Trainer, "__init__", late)
    delayed = run(tmp_path / "late", checkpoint_seconds=checkpoint_seconds)
    timed = {"seconds", "sequences_per_second"}
    for a, b in zip(prompt.history, delayed.history, strict=True):
        assert {k: a[k] for k in a.keys() - timed} == {k: b[k] for k in b.keys() - timed}
    weights = [load_checkpoint(tmp_path / name / "last.pt")["model"] for name in ("prompt", "late")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_a_loss_that_is_read_late_is_told_with_its_own_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, original = training._Trainer.step, training._Trainer.__init__

    def poisoned(self: Any, index: torch.Tensor) -> Any:
        if self.position.step == 3:
            poison_loss(self)
        return step(self, index)

    def late(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.lag = 1

    monkeypatch.setattr(training._Trainer, "step", poisoned)
    monkeypatch.setattr(training._Trainer, "__init__", late)
    with pytest.raises(NonFiniteError, match=r"loss became nan in epoch 2, step 4;"):
        run(tmp_path / "run")
    assert all(x.isfinite().all() for x in load_checkpoint(tmp_path / "run" / "last.pt")["model"].values())


def test_matmul_precision_is_that_of_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    original = training._Trainer.step

    def step(self: Any, index: torch.Tensor) -> Any:
        seen.add(torch.get_float32_matmul_precision())
        return original(self, index)

    monkeypatch.setattr(training._Trainer, "step", step)
    before = torch.get_float32_matmul_precision()
    run(tmp_path / "run", matmul_precision="medium", epochs=1)
    assert seen == {"medium"}
    assert torch.get_float32_matmul_precision() == before
    with pytest.raises(ConfigError, match=r"matmul_precision: got 'low', expected one of"):
        dataclasses.replace(CONFIG, matmul_precision="low")


def test_diverging_training_stops_by_itself(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError):
        run(tmp_path / "run", model="arun", learning_rate=100.0, schedule="constant", clip=None)
    last = load_checkpoint(tmp_path / "run" / "last.pt")
    assert all(value.isfinite().all() for value in last["model"].values())


@pytest.mark.parametrize(
    ("model", "scaling", "named"),
    [("arun", "none", True), ("gamma-homogeneous", "none", True), ("arun", "fan-in", False), ("relu", "none", False)],
)
def test_advice_names_fan_in_where_it_helps(model: str, scaling: str, named: bool) -> None:
    config = dataclasses.replace(CONFIG, model=model, learning_rate_scaling=scaling, learning_rate=0.5)
    examples = Sequences(np.ones((2, 3, 1), np.float32), np.zeros(2, np.int64))
    error = advise(NotFinite("loss", math.inf, 7), 1, config, examples, Path("last.pt"))
    warning = Watch(10).warning(99.0, 5.0, 1, 30, config, examples)
    for text in (str(error), warning):
        assert ("try a new run with --learning-rate-scaling fan-in, a lower --learning-rate (now 0.5)" in text) is named
        assert "a lower --learning-rate (now 0.5) or a lower --clip (now 1.0)" in text
    assert "scale" not in warning.replace("--learning-rate-scaling", "")
    large = Sequences(1000 * examples.x, examples.y)
    assert "scale the inputs, which are up to 1e+03, or" in Watch(10).warning(99.0, 5.0, 1, 30, config, large)


def test_losses_far_above_chance_are_noticed_once() -> None:
    watch = Watch(10)
    assert watch.chance == pytest.approx(math.log(10))
    calm = 9.99 * watch.chance
    # The first ones are those of an untrained network.
    assert [watch.add(loss) for loss in [1e6] * 10 + [calm] * 30] == [None] * 40
    found = [watch.add(loss) for loss in [calm + 1e3] + [calm] * 30 + [1e9] * 30]
    assert found == [pytest.approx(calm + 100)] + [None] * 60


def unstable_from_step(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the losses after this step large, and finite."""
    original = training._Trainer.step

    def step(self: Any, index: torch.Tensor) -> Any:
        if self.position.step == number:
            with torch.no_grad():
                self.learner.model.readout.weight.mul_(1e5)
        return original(self, index)

    monkeypatch.setattr(training._Trainer, "step", step)


def test_unstable_training_is_told_once_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"model": "arun", "epochs": 8, "pixels_per_step": 8, "learning_rate_scaling": "none"}

    def weights(name: str) -> tuple[dict[str, torch.Tensor], list[str]]:
        written = io.StringIO()
        train(dataclasses.replace(CONFIG, output=tmp_path / name, **settings), Console(file=written, width=400))
        lines = [line for line in written.getvalue().splitlines() if line.startswith("Warning: ")]
        return load_checkpoint(tmp_path / name / "last.pt")["model"], lines

    assert weights("calm")[1] == []
    with monkeypatch.context() as patch:
        unstable_from_step(12, patch)
        told, (line,) = weights("told")
        patch.setattr(Watch, "add", lambda *_: None)
        silent, nothing = weights("silent")
    assert nothing == []
    assert all(torch.equal(weight, silent[name]) for name, weight in told.items())
    number = r"([\d.e+]+)"
    found = re.fullmatch(
        rf"Warning: training is unstable: the mean loss of 10 batches up to epoch 7, step 20 is {number}, chance has "
        rf"2\.3, and \|h\| is up to {number}; if the loss does not fall, try a new run with --learning-rate-scaling "
        r"fan-in, .*",
        line,
    )
    assert found is not None, line
    assert float(found[1]) > 100
    assert 0 < float(found[2]) < 100


def no_space(*_: object) -> None:
    """What a full disk makes of a call."""
    raise OSError(28, "No space left on device")


def test_full_disk_is_told_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(RunError, match=r"config\.json can't be written \(No space left on device\); .*same command"):
        run(tmp_path / "run")
    assert not list(tmp_path.rglob("*.partial"))


def test_backend_that_can_not_serve_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="backend: "):
        run(tmp_path / "run", model="arun", backend="nonsense")
    assert not (tmp_path / "run").exists()


def test_early_stop_ends_a_run_that_makes_no_progress(tmp_path: Path) -> None:
    # No weight moves far enough to change an answer, so that the first epoch stays the best but for the loss.
    result = run(tmp_path / "run", epochs=9, early_stop=2, learning_rate=0.5, schedule="constant")
    best = max(range(len(result.history)), key=lambda k: result.history[k]["validation_accuracy"])
    assert len(result.history) in (best + 3, 9)
    assert len(result.history) < 9


def test_end_of_a_run_is_a_function_of_its_history() -> None:
    def history(*accuracies: float) -> list[dict[str, float]]:
        return [{"validation_accuracy": accuracy, "validation_loss": 1.0} for accuracy in accuracies]

    patient = dataclasses.replace(CONFIG, epochs=5, early_stop=2)
    assert not is_finished(patient, [])
    assert not is_finished(patient, history(0.5, 0.4))
    assert is_finished(patient, history(0.5, 0.4, 0.5))
    assert not is_finished(patient, history(0.5, 0.4, 0.6))
    assert is_finished(patient, history(0.1, 0.2, 0.3, 0.4, 0.5))
    assert not is_finished(dataclasses.replace(patient, early_stop=None), history(0.5, 0.4, 0.3, 0.2))


def test_tensorboard_gets_every_metric_of_every_epoch(tmp_path: Path) -> None:
    result = run(tmp_path / "run", tensorboard=True)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(result.run / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == result.history[0].keys() - {"epoch", "step"}
    found = [(event.step, event.value) for event in events.Scalars("train_loss")]
    assert found == [(entry["epoch"], pytest.approx(entry["train_loss"], rel=1e-6)) for entry in result.history]


def test_tensorboard_that_can_not_write_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "tensorboard").touch()
    with pytest.raises(RunError, match=r"tensorboard can't be written \(File exists\); .* --resume"):
        run(tmp_path / "file", tensorboard=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", no_space)
        with pytest.raises(RunError, match=r"tensorboard can't be written \(No space left on device\); .* --resume"):
            run(tmp_path / "full", tensorboard=True)
    assert capfd.readouterr().err == ""  # TensorBoard's own thread prints no traceback
    assert len(training.resume(tmp_path / "full", Console(quiet=True)).history) == 2


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    run(tmp_path / "run", epochs=1)
    with (
        RunFolder(tmp_path / "run").locked(),
        pytest.raises(RunError, match="another process is training in this folder"),
    ):
        training.resume(tmp_path / "run", Console(quiet=True))
    training.resume(tmp_path / "run", Console(quiet=True))
