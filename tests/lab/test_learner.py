"""Steps of training: gradients, perturbations, precision, and the weights that a run begins with."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from aru_lab.errors import ConfigError, RunError
from aru_lab.networks.classifier import CONTROLLER, build_classifier, parts
from aru_lab.networks.names import MODELS
from aru_lab.runs import learner as learners
from aru_lab.runs import training
from aru_lab.runs.augmentation import Augmentation
from aru_lab.runs.evaluation import build_for, load_classifier, perturbed, task_of, to_tensors
from aru_lab.runs.folder import RunFolder, load_checkpoint
from aru_lab.runs.losses import rate_penalty
from aru_lab.runs.schedules import epoch_order, scheduled_rate

from .small_run import CONFIG, run


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


def gradients(**changes: Any) -> list[torch.Tensor]:
    config = dataclasses.replace(CONFIG, dtype="float64", batch_size=50, **changes)
    trainer = training._Trainer(config, RunFolder(config.run_folder), Console(quiet=True))
    trainer.learner.gradients(trainer.data.train, trainer.batch(epoch_order(50, 0, 0)))
    return [parameter.grad for parameter in trainer.learner.model.parameters()]


@pytest.mark.parametrize("model", ["arun", "gru"])
def test_accumulated_gradients_are_those_of_the_whole_batch(model: str) -> None:
    settings = {"model": model, "perturb": ("noisy:deviation=0.5",), "perturb_share": 1.0}
    whole = gradients(**settings)
    for accumulate in (3, 7, 50, 90):
        for part, expected in zip(gradients(**settings, accumulate=accumulate), whole, strict=True):
            torch.testing.assert_close(part, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("perturb", [(), ("noisy:deviation=0.5",)])
@pytest.mark.parametrize("model", MODELS)
def test_penalties_add_their_gradients(model: str, perturb: tuple[str, ...]) -> None:
    config = dataclasses.replace(
        CONFIG, model=model, dtype="float64", batch_size=50, perturb=perturb, perturb_share=1.0
    )

    def learnt(**changes: Any) -> tuple[training._Trainer, Any, float]:
        changed = dataclasses.replace(config, **changes)
        trainer = training._Trainer(changed, RunFolder(changed.run_folder), Console(quiet=True))
        batch = trainer.batch(epoch_order(50, 0, 0))
        counts = trainer.learner.gradients(trainer.data.train, batch)
        counts.send()
        return trainer, batch, counts.result(trainer.learner.world)[0]

    plain, batch, loss = learnt()
    network, examples = plain.learner.model, plain.data.train
    x, _ = to_tensors(examples, batch.index, torch.device("cpu"), torch.float64)
    extra = perturbed(network, x, batch.perturbation, batch.seeds, examples.centre)
    _, states = network(x, **extra, return_states=True)
    expected = [parameter.grad.clone() for parameter in network.parameters()]
    network.zero_grad()
    matrices = [parameter for parameter in network.parameters() if parameter.dim() > 1]
    (0.3 * states.square().mean() + 0.02 * sum(matrix.square().sum() for matrix in matrices)).backward()
    for gradient, parameter in zip(expected, network.parameters(), strict=True):
        if parameter.grad is not None:
            gradient += parameter.grad
    for accumulate in (1, 7):
        other, _, penalised = learnt(rate_penalty=0.3, weight_penalty=0.02, accumulate=accumulate)
        assert penalised == pytest.approx(loss)
        for parameter, gradient in zip(other.learner.model.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-12)


def test_rate_penalty_passes_over_padding() -> None:
    states = torch.randn(5, 2, 3, dtype=torch.float64)
    states[2:, 0] = math.nan
    expected = (states[:2, 0].square().mean() + states[:, 1].square().mean()) / 2
    torch.testing.assert_close(rate_penalty(states, torch.tensor([2, 5])), expected)


@pytest.mark.parametrize("model", ["arun", "lstm"])
def test_states_come_with_the_same_logits(model: str) -> None:
    network = build_classifier(model, 4, 3, input_size=2, n_classes=3, dtype=torch.float64)
    x = torch.randn(3, 6, 2, dtype=torch.float64)
    for reading in ({}, {"lengths": torch.tensor([2, 5, 4])}, {"every_step": True}):
        outputs, states = network(x, **reading, return_states=True)
        assert states.shape == (6, 3, 4)
        torch.testing.assert_close(outputs, network(x, **reading))


def test_perturbation_of_a_step_is_drawn_by_seed_and_step() -> None:
    config = dataclasses.replace(CONFIG, perturb=("step:amplitude=1", "random-contrast"), perturb_share=0.5)
    augmentation = Augmentation(config)
    drawn = [augmentation.draw(step, 4) for step in range(400)]
    counts = [sum(which is perturbation for which, _ in drawn) for perturbation in (None, *augmentation.perturbations)]
    assert sum(counts) == 400
    assert 160 < counts[0] < 240
    assert min(counts[1:]) > 70
    assert len({seeds[0] for _, seeds in drawn}) == 400
    assert augmentation.draw(17, 4) == drawn[17]
    assert Augmentation(dataclasses.replace(config, seed=1)).draw(17, 4) != drawn[17]


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


def test_rmsprop_is_an_optimizer_of_its_own(tmp_path: Path) -> None:
    adam, rmsprop = (
        load_checkpoint(run(tmp_path / name, optimizer=name).run / "last.pt") for name in ("adam", "rmsprop")
    )
    assert "square_avg" in rmsprop["optimizer"]["state"][0]
    assert not torch.equal(adam["model"]["readout.weight"], rmsprop["model"]["readout.weight"])


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


def trainer_of(**changes: Any) -> training._Trainer:
    config = dataclasses.replace(CONFIG, **changes)
    return training._Trainer(config, RunFolder(config.run_folder), Console(quiet=True))


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
@pytest.mark.parametrize("model", ["arun", "gamma-homogeneous", "gamma-heterogeneous"])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_schedule_multiplies_the_rate_of_every_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, schedule: str, optimizer: str
) -> None:
    kind = learners.OPTIMIZERS[optimizer]
    seen, step = [], kind.step

    def recording(self: Any, closure: None = None) -> None:
        seen.append({p: group["lr"] for group in self.param_groups for p in group["params"]})
        step(self)

    monkeypatch.setattr(kind, "step", recording)
    trained: list[training._Trainer] = []
    original = training._Trainer.run
    monkeypatch.setattr(training._Trainer, "run", lambda self: (trained.append(self), original(self))[1])
    settings = {"model": model, "schedule": schedule, "optimizer": optimizer, "learning_rate": 3e-3}
    result = run(tmp_path / "run", **settings)
    (trainer,) = trained
    assert len(seen) == 6
    for k, rates in enumerate(seen):
        rate = scheduled_rate(trainer.config, k, 6)
        for name, parameter in trainer.learner.model.named_parameters():
            factor = {
                "recurrent.weight_hh_l0": 4 / 6,
                "recurrent.weight_gc_l0": 0.1 / 3,
                "recurrent.bias_c_l0": 0.1,
                "recurrent.saturation_l0": 0.1,
            }.get(name, 1.0)
            assert rates[parameter] == pytest.approx(rate * factor, rel=1e-12), name
    assert [entry["learning_rate"] for entry in result.history] == [
        scheduled_rate(trainer.config, k, 6) for k in (2, 5)
    ]


def test_plateau_keeps_the_factors_of_the_groups() -> None:
    trainer = trainer_of(model="arun", schedule="plateau", learning_rate=1e-3)
    groups, start = trainer.learner.optimizer.param_groups, trainer.learner.factors
    assert len(start) > 2
    for _ in range(30 * (learners.PLATEAUS["plateau"][1] + 1)):
        trainer.learner.plateau.step(1.0)
    rate = trainer.learner.learning_rate
    assert rate < 1e-11
    assert [group["lr"] for group in groups] == [pytest.approx(rate * factor, rel=1e-12) for factor in start]
    one = trainer_of(model="arun", schedule="plateau", learning_rate=1e-3, learning_rate_scaling="none").learner
    for _ in range(30 * (learners.PLATEAUS["plateau"][1] + 1)):
        one.plateau.step(1.0)
    assert 1e-8 < one.learning_rate < 4e-8  # torch's own end, with which earlier runs were made


@pytest.mark.parametrize("model", MODELS)
def test_one_rate_is_one_group_of_all_parameters(model: str) -> None:
    optimizer = trainer_of(model=model, learning_rate_scaling="none").learner.optimizer
    (group,) = optimizer.param_groups
    assert group["lr"] == 2e-3


@pytest.mark.parametrize("model", ["relu", "lstm", "gru"])
def test_networks_without_adaptation_have_one_rate_in_both_cases(tmp_path: Path, model: str) -> None:
    weights = []
    for scaling in ("fan-in", "none"):
        result = run(tmp_path / scaling, model=model, learning_rate_scaling=scaling)
        content = load_checkpoint(result.run / "last.pt")
        assert len(content["optimizer"]["param_groups"]) == 1
        weights.append(content["model"])
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


@pytest.mark.parametrize("scaling", ["fan-in", "none"])
def test_frozen_parts_have_no_learning_rate(scaling: str) -> None:
    learner = trainer_of(model="arun", freeze=("recurrent",), learning_rate_scaling=scaling).learner
    trained = {parameter for group in learner.optimizer.param_groups for parameter in group["params"]}
    of_part = parts(learner.model)
    assert trained == {*of_part["activation"], *of_part["readout"]}


def test_largest_state_is_that_of_the_recurrent_network() -> None:
    trainer = trainer_of(model="arun")
    learner, x = trainer.learner, torch.from_numpy(trainer.data.train.x[: learners.STATE_SEQUENCES])
    learner.model.train()
    with torch.no_grad():
        expected = learner.model.recurrent(x.transpose(0, 1))[0].abs().max().item()
    assert learner.largest_state(trainer.data.train) == expected > 0
    assert learner.model.training


def test_frozen_parts_keep_their_values(tmp_path: Path) -> None:
    torch.manual_seed(CONFIG.seed)
    result = run(tmp_path / "run", model="gamma-heterogeneous", freeze=("activation",))
    model, config = load_classifier(result.run, "last")
    torch.manual_seed(config.seed)
    initial = build_for(config, task_of(config), torch.device("cpu"))
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
    trainer.take_initial_weights()
    for name, weight in load_classifier(tmp_path / "first")[0].state_dict().items():
        assert torch.equal(trainer.learner.model.state_dict()[name], weight)


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
