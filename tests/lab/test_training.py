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

from aru_lab.errors import ConfigError, NonFiniteError, RunError
from aru_lab.networks.classifier import CONTROLLER, parts
from aru_lab.networks.names import MODELS
from aru_lab.runs import training
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.evaluation import load_classifier
from aru_lab.runs.folder import RunFolder, load_checkpoint
from aru_lab.runs.schedules import epoch_order, is_finished, scheduled_rate
from aru_lab.runs.training import train

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
    names = sorted(path.name for path in folder.path.iterdir())
    assert names == [".lock", "best.pt", "config.json", "last.pt", "metrics.jsonl"]
    saved, environment = folder.read_config()
    assert saved == config
    assert environment["torch"] == torch.__version__
    assert {"aru_kernels", "commit", "python", "device", "device_name", "threads"} <= environment.keys()
    lines = [json.loads(line) for line in folder.metrics_file.read_text().splitlines()]
    assert all(len(line.pop("checksum")) == 16 for line in lines)
    assert lines == result.history == folder.read_metrics()
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


def gradients(**changes: Any) -> list[torch.Tensor]:
    config = dataclasses.replace(CONFIG, dtype="float64", batch_size=50, **changes)
    trainer = training._Trainer(config, RunFolder(config.run_folder), Console(quiet=True))
    trainer.parallel = trainer.model
    trainer.gradients(epoch_order(50, 0, 0))
    return [parameter.grad for parameter in trainer.model.parameters()]


@pytest.mark.parametrize("model", ["arun", "gru"])
def test_accumulated_gradients_are_those_of_the_whole_batch(model: str) -> None:
    settings = {"model": model, "perturb": ("noisy:deviation=0.5",), "perturb_share": 1.0}
    whole = gradients(**settings)
    for accumulate in (3, 7, 50, 90):
        for part, expected in zip(gradients(**settings, accumulate=accumulate), whole, strict=True):
            torch.testing.assert_close(part, expected, rtol=1e-10, atol=1e-13)


def test_perturbation_of_a_step_is_drawn_by_seed_and_step(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, perturb=("step:amplitude=1", "random-contrast"), perturb_share=0.5)
    trainer = training._Trainer(config, RunFolder(tmp_path), Console(quiet=True))
    drawn = []
    for trainer.position.step in range(400):
        drawn.append(trainer.draw_perturbation(4))
    counts = [sum(which is perturbation for which, _ in drawn) for perturbation in (None, *trainer.perturbations)]
    assert sum(counts) == 400
    assert 160 < counts[0] < 240
    assert min(counts[1:]) > 70
    assert len({seeds[0] for _, seeds in drawn}) == 400
    trainer.position.step = 17
    assert trainer.draw_perturbation(4) == drawn[17]


def test_perturbed_training_differs_and_repeats(tmp_path: Path) -> None:
    settings = {"model": "gru", "perturb": ("step:amplitude=2",), "epochs": 1}
    clean, one, two = (
        run(tmp_path / name, **(settings if name != "clean" else {"model": "gru", "epochs": 1})).history[0][
            "train_loss"
        ]
        for name in ("clean", "one", "two")
    )
    assert one == two != clean


def test_perturbation_that_does_not_fit_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected it to end within the sequence of 64 steps"):
        run(tmp_path / "run", perturb=("step:amplitude=1,onset=60,length=10",))
    assert not (tmp_path / "run").exists()


def test_rmsprop_is_an_optimiser_of_its_own(tmp_path: Path) -> None:
    adam, rmsprop = (
        load_checkpoint(run(tmp_path / name, optimizer=name).run / "last.pt") for name in ("adam", "rmsprop")
    )
    assert "square_avg" in rmsprop["optimizer"]["state"][0]
    assert not torch.equal(adam["model"]["readout.weight"], rmsprop["model"]["readout.weight"])


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


@pytest.mark.parametrize("model", MODELS)
def test_mixed_precision_trains_and_is_not_the_same(tmp_path: Path, model: str) -> None:
    settings = {"model": model, "epochs": 1}
    full = run(tmp_path / "full", **settings).history[0]
    try:
        mixed = run(tmp_path / "mixed", **settings, mixed_precision=True).history[0]
    except ConfigError as error:
        assert model == "lstm"  # torch's bfloat16 needs certain processors for it
        pytest.skip(str(error))
    assert mixed["train_loss"] == pytest.approx(full["train_loss"], rel=0.05)
    assert mixed["train_loss"] != full["train_loss"]
    saved = load_checkpoint(tmp_path / "mixed" / "last.pt")["model"]
    assert all(weight.dtype == torch.float32 for weight in saved.values())


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


def test_frozen_parts_keep_their_values(tmp_path: Path) -> None:
    torch.manual_seed(CONFIG.seed)
    result = run(tmp_path / "run", model="gamma-heterogeneous", freeze=("activation",))
    model, config = load_classifier(result.run, "last")
    torch.manual_seed(config.seed)
    initial = training.build_for(config, training.task_of(config), torch.device("cpu"))
    for part, parameters in parts(model).items():
        for parameter, before in zip(parameters, parts(initial)[part], strict=True):
            assert torch.equal(parameter, before) is (part == "activation")
    assert result.n_parameters == sum(p.numel() for p in model.parameters()) - 2 * config.hidden_size


def test_controller_of_another_run_stays_as_it_was_learned(tmp_path: Path) -> None:
    run(tmp_path / "donor", model="arun", epochs=1)
    settings = {"model": "arun", "seed": 5, "controller_from": tmp_path / "donor"}
    run(tmp_path / "guest", **settings, freeze=("activation",))
    run(tmp_path / "free", **settings)
    donor, guest, free = (load_classifier(tmp_path / name)[0].recurrent for name in ("donor", "guest", "free"))
    for name in CONTROLLER:
        assert torch.equal(getattr(guest, name), getattr(donor, name))
        assert not torch.equal(getattr(free, name), getattr(donor, name))
    assert not torch.equal(guest.weight_hh_l0, donor.weight_hh_l0)


def test_initial_weights_are_those_of_the_run(tmp_path: Path) -> None:
    run(tmp_path / "first", epochs=1)
    config = dataclasses.replace(CONFIG, initial_from=tmp_path / "first", output=tmp_path / "second", seed=9)
    trainer = training._Trainer(config, RunFolder(config.run_folder), Console(quiet=True))
    trainer.initialise()
    for name, weight in load_classifier(tmp_path / "first")[0].state_dict().items():
        assert torch.equal(trainer.model.state_dict()[name], weight)


@pytest.mark.parametrize(
    "changes",
    [{"controller_from": "gru"}, {"controller_from": "arun", "controller_size": 4}, {"initial_from": "gru"}],
    ids=["no controller", "other size", "other model"],
)
def test_weights_of_another_network_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    for model in ("gru", "arun"):
        run(tmp_path / model, model=model, epochs=1)
    changes = {name: tmp_path / value if isinstance(value, str) else value for name, value in changes.items()}
    with pytest.raises(
        RunError, match=r"(controller|initial)_from: .* holds a (gru|arun) of hidden size 6 .* do not fit"
    ):
        run(tmp_path / "run", **{"model": "arun", **changes})
    assert not (tmp_path / "run").exists()


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    run(tmp_path / "run", epochs=1)
    with (
        RunFolder(tmp_path / "run").locked(),
        pytest.raises(RunError, match="another process is training in this folder"),
    ):
        training.resume(tmp_path / "run", Console(quiet=True))
    training.resume(tmp_path / "run", Console(quiet=True))
