"""Options for the paper's protocol: orders of the pixels, initial values, schedules, and what an epoch reports."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from aru_lab.arguments import FLOAT32_MAX
from aru_lab.data.images import SPLIT_SEED, fixed_permutation
from aru_lab.data.tasks import find_task, permutation
from aru_lab.errors import ConfigError, Interrupted
from aru_lab.networks.classifier import SequenceClassifier
from aru_lab.runs import training
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.evaluation import build_for, evaluate, load_classifier, score, task_of
from aru_lab.runs.folder import RunFolder, load_checkpoint, save_checkpoint
from aru_lab.runs.schedules import epoch_order
from aru_lab.runs.state import sources_of

from .small_run import CONFIG, run

CPU = torch.device("cpu")


def built(**options: Any) -> SequenceClassifier:
    """A freshly initialised network for sdigits with 8 pixels a step."""
    torch.manual_seed(options.get("seed", 0))
    config = TrainConfig(task="sdigits", pixels_per_step=8, **options)
    return build_for(config, task_of(config), CPU)


def trainer_of(folder: Path, **changes: Any) -> training._Trainer:
    """A trainer of the smallest run that has taken no step."""
    return training._Trainer(dataclasses.replace(CONFIG, **changes), RunFolder(folder), Console(quiet=True))


def test_each_permutation_seed_has_its_own_order_and_split() -> None:
    first, second = (find_task("psdigits", permutation_seed=seed).load() for seed in (0, 1))
    assert np.array_equal(find_task("psdigits").load().train.x, first.train.x)
    assert not np.array_equal(permutation(64, 0), permutation(64, 1))
    plain = find_task("sdigits", permutation_seed=1).load()
    assert np.array_equal(second.train.x, plain.train.x[:, permutation(64, 1)])
    assert not np.array_equal(np.sort(second.test.x.sum((1, 2))), np.sort(first.test.x.sum((1, 2))))
    halves = [find_task("upright-psdigits", permutation_seed=seed).load() for seed in (0, 1)]
    order = fixed_permutation(len(second.test), SPLIT_SEED + 1)
    assert np.array_equal(halves[1].train.x[0], second.test.x[order[0]])


def test_permutation_seed_of_none_is_the_seed_of_the_run() -> None:
    assert [TrainConfig(seed=3, permutation_seed=seed).permutation for seed in (None, 0, 5)] == [3, 0, 5]
    assert task_of(TrainConfig(seed=3, permutation_seed=None)) == find_task("psdigits", permutation_seed=3)
    assert 0 <= TrainConfig(seed=2**63 - 1, permutation_seed=None).permutation + SPLIT_SEED < 2**32


def test_a_configuration_of_an_earlier_version_keeps_its_meaning() -> None:
    later = (
        "permutation_seed",
        "shuffle",
        "initial_gain",
        "initial_saturation",
        "biases",
        "lstm_weights",
        "initial_checkpoint",
    )
    values = {name: value for name, value in TrainConfig(seed=4).to_json().items() if name not in later}
    config = TrainConfig.from_json(values)
    assert config == TrainConfig(seed=4)
    assert config.permutation == 0


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("permutation_seed", -1, "a whole number from 0"),
        ("permutation_seed", 2**31, "a whole number from 0"),
        ("shuffle", "no", "True or False"),
        ("initial_gain", "big", "normal, shared, or finite numbers other than 0"),
        ("initial_gain", "5,0", "numbers other than 0"),
        ("initial_gain", str(10 * FLOAT32_MAX), "finite numbers"),
        ("initial_gain", True, "finite numbers"),
        ("initial_saturation", "normal", "finite numbers: one for all neurons"),
        ("initial_saturation", "nan", "finite numbers"),
        ("biases", "ones", "zero, torch"),
        ("lstm_weights", "kaiming", "torch, xavier"),
        ("initial_checkpoint", "first", "best, last"),
        ("schedule", "plateau-10", "plateau-paper"),
    ],
)
def test_refusals(name: str, value: Any, expected: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}: got {re.escape(repr(value))}, expected .*{expected}"):
        TrainConfig(**{name: value})


def test_files_have_no_permutation(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"permutation_seed: got 3 with the file .*a\.npz, expected 0"):
        TrainConfig(str(tmp_path / "a.npz"), permutation_seed=3)


@pytest.mark.parametrize("model", ["gamma-heterogeneous", "gamma-homogeneous"])
def test_initial_gain_and_saturation(model: str) -> None:
    default = built(model=model).recurrent
    assert torch.equal(default.saturation_l0, torch.zeros_like(default.saturation_l0))
    given = built(model=model, initial_gain="1.25", initial_saturation="0.5").recurrent
    assert torch.equal(given.gain_l0, torch.full_like(given.gain_l0, 1.25))
    assert torch.equal(given.saturation_l0, torch.full_like(given.saturation_l0, 0.5))
    assert torch.equal(given.weight_hh_l0, default.weight_hh_l0)
    shared = [built(model=model, initial_gain="shared", seed=seed).recurrent.gain_l0 for seed in range(40)]
    assert all(gain.unique().numel() == 1 for gain in shared)
    starts = torch.stack([gain[0] for gain in shared])
    assert 5 <= starts.min() < 5.3
    assert 6.7 < starts.max() < 7


def test_normal_gains_have_mean_5_and_deviation_2() -> None:
    gain = built(model="gamma-heterogeneous", hidden_size=2000).recurrent.gain_l0
    assert gain.mean().item() == pytest.approx(5, abs=0.2)
    assert gain.std().item() == pytest.approx(2, abs=0.2)


def test_given_values_are_those_of_the_neurons_and_as_many() -> None:
    gain = built(model="gamma-heterogeneous", hidden_size=3, initial_gain="1,2,3.5").recurrent.gain_l0
    assert gain.tolist() == [1, 2, 3.5]
    with pytest.raises(ConfigError, match="initial_gain: got 2 values, expected 1 or 3, as many as the network has"):
        built(model="gamma-heterogeneous", hidden_size=3, initial_gain="1,2")
    assert TrainConfig(initial_gain=1.25).initial_gain == "1.25"


def test_biases_of_the_code_are_sums_of_two_uniform_draws() -> None:
    bounds = (8**-0.5, 500**-0.5)
    for model in ("relu", "gamma-heterogeneous"):
        recurrent = built(model=model, hidden_size=500, biases="torch").recurrent
        bias = recurrent.bias_ih_l0 + recurrent.bias_hh_l0 if model == "relu" else recurrent.bias_l0
        assert 0.95 * sum(bounds) < bias.abs().max() <= sum(bounds)
        assert bias.std().item() == pytest.approx(math.hypot(*bounds) / math.sqrt(3), rel=0.1)
        assert not any(
            value.any() for name, value in built(model=model).recurrent.state_dict().items() if "bias" in name
        )
    for model in ("arun", "gru"):
        default, option = built(model=model).state_dict(), built(model=model, biases="torch").state_dict()
        assert all(torch.equal(default[name], option[name]) for name in default)


def test_xavier_weights_of_the_lstm() -> None:
    lstm = built(model="lstm", hidden_size=100, lstm_weights="xavier").recurrent
    assert isinstance(lstm, nn.LSTM)
    for weight in (lstm.weight_ih_l0, lstm.weight_hh_l0):
        assert weight.std().item() == pytest.approx(math.sqrt(2 / (8 + 2 * 100)), rel=0.05)
    assert torch.equal(lstm.bias_ih_l0, built(model="lstm", hidden_size=100).recurrent.bias_ih_l0)


def test_fixed_order_is_that_of_the_division() -> None:
    assert epoch_order(5, 1, 2, shuffle=False).tolist() == [0, 1, 2, 3, 4]
    assert epoch_order(5, 1, 2).tolist() != [0, 1, 2, 3, 4]


def test_without_shuffling_the_order_of_the_examples_is_the_same_for_every_seed(tmp_path: Path) -> None:
    """From given weights a run then depends on no seed."""
    run(tmp_path / "start", epochs=1)
    options = {"initial_from": tmp_path / "start", "epochs": 1}
    same = [run(tmp_path / f"f{seed}", seed=seed, shuffle=False, **options).history for seed in (0, 1)]
    other = [run(tmp_path / f"s{seed}", seed=seed, **options).history for seed in (0, 1)]
    assert same[0][0]["train_loss"] == same[1][0]["train_loss"]
    assert other[0][0]["train_loss"] != other[1][0]["train_loss"]


@pytest.mark.parametrize(
    ("schedule", "factor", "patience"),
    [("plateau", 0.5, 5), ("plateau-paper", 0.1, 10), ("plateau-last-batch", 0.1, 10)],
)
def test_plateau_schedules(tmp_path: Path, schedule: str, factor: float, patience: int) -> None:
    learner = trainer_of(tmp_path, schedule=schedule, learning_rate=1.0, learning_rate_scaling="none").learner
    rates = []
    for loss in [3.0, 2.0] + [2.0] * (patience + 1):
        learner.plateau.step(loss)
        rates.append(learner.learning_rate)
    assert rates[:-1] == [1.0] * (patience + 2)
    assert rates[-1] == pytest.approx(factor)


def test_plateau_of_the_authors_code_follows_the_last_validation_batch(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, schedule="plateau-last-batch", validation_subset=25)
    validation = trainer.validate()
    last = score(trainer.learner.model, trainer.data.validation.take(slice(20, 25)))
    assert trainer.plateau_loss(validation) == pytest.approx(last.loss)
    assert trainer_of(tmp_path, schedule="plateau-paper").plateau_loss(validation) == validation.loss


def test_an_epoch_reports_the_norm_of_the_gradient_and_n_and_s(tmp_path: Path) -> None:
    static = run(tmp_path / "static", model="gamma-heterogeneous", freeze=("activation",), initial_gain="1,2,3,4,5,6")
    for entry in static.history:
        assert entry["gradient_norm"] > 0
        assert entry["gain_mean"] == pytest.approx(3.5)
        assert entry["gain_sd"] == pytest.approx(math.sqrt(35 / 12))
        assert (entry["saturation_mean"], entry["saturation_sd"]) == (0, 0)
    relu = run(tmp_path / "relu").history[-1]
    assert relu["gradient_norm"] > 0
    assert "gain_mean" not in relu


def test_n_and_s_of_an_adaptive_network_are_those_that_its_neurons_take(tmp_path: Path) -> None:
    result = run(tmp_path / "arun", model="arun")
    model, config = load_classifier(result.run, "last")
    x = torch.from_numpy(task_of(config).load(None, 50, 20).validation.x).transpose(0, 1)
    with torch.no_grad():
        trace = model.recurrent(x, return_trace=True)[-1]
    entry = result.history[-1]
    assert entry["gain_mean"] == pytest.approx(trace.n.mean().item(), rel=1e-5)
    assert entry["saturation_sd"] == pytest.approx(trace.s.mean(dim=(0, 1)).std(correction=0).item(), rel=1e-3)


def test_metrics_of_earlier_versions_are_read(tmp_path: Path) -> None:
    folder = RunFolder(run(tmp_path / "run").run)
    history = [
        {name: value for name, value in entry.items() if name != "gradient_norm"} for entry in folder.read_metrics()
    ]
    folder.write_metrics(history)
    assert folder.read_metrics() == history


def test_initial_weights_are_those_of_the_checkpoint_that_is_named(tmp_path: Path) -> None:
    start = tmp_path / "start"
    history = run(start, epochs=6, learning_rate=0.3).history
    best = max(history, key=lambda entry: (entry["validation_accuracy"], -entry["validation_loss"]))["epoch"]
    assert best < 6, "the last epoch is the best: the two checkpoints are one"
    options = {"initial_from": start, "learning_rate": 1e-30, "schedule": "constant", "epochs": 1}
    for which in ("best", "last"):
        result = run(tmp_path / which, initial_checkpoint=which, **options)
        clean, _ = evaluate(result.run, [], "last")
        expected, _ = evaluate(start, [], which)
        assert clean.loss == pytest.approx(expected.loss)
    configs = [RunFolder(tmp_path / which).read_config()[0] for which in ("best", "last")]
    assert sources_of(configs[0]) != sources_of(configs[1])


def test_a_checkpoint_of_an_earlier_version_goes_on_within_its_epoch(tmp_path: Path) -> None:
    """It counts no norms of the gradient: those of the rest of the epoch are taken."""
    whole = run(tmp_path / "whole")
    saved = []

    def stop(entry: dict[str, Any]) -> None:
        saved.append(entry)
        raise Interrupted("stop")

    with pytest.raises(Interrupted):
        training.train(dataclasses.replace(CONFIG, output=tmp_path / "run"), Console(quiet=True), stop)
    folder = RunFolder(tmp_path / "run")
    content = load_checkpoint(folder.last_file)
    for name in ("norm_sum", "n_norms"):
        del content["position"][name]
    del content["position"]["history"][0]["gradient_norm"]
    save_checkpoint(content, folder.last_file)
    history = training.resume(folder.path, Console(quiet=True)).history
    assert "gradient_norm" not in history[0]
    assert history[1]["gradient_norm"] == whole.history[1]["gradient_norm"]
    assert history[1]["train_loss"] == whole.history[1]["train_loss"]
