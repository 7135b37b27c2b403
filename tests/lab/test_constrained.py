"""Networks with a leak, private noise, Dale's law and sparse connections, through every command."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from aru_kernels.constraints import Dale
from aru_lab.analysis.lyapunov import from_map, joint_step, joint_tangent, network_exponents, static_tangent
from aru_lab.analysis.network import held, isolated, layer_of, recurrent_weight, uncoupled
from aru_lab.analysis.settings import Settings
from aru_lab.cli import main
from aru_lab.errors import ConfigError
from aru_lab.experiments.analyse import PARTS, analyse
from aru_lab.experiments.kept import keep, read_kept
from aru_lab.experiments.transfer import Retraining, transfer
from aru_lab.networks.classifier import build_classifier, constrain, driven_rnn, parts
from aru_lab.runs.analyses import Run
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.distributed import World
from aru_lab.runs.evaluation import build_for, evaluate, load_classifier, score, task_of
from aru_lab.runs.folder import RunFolder, load_checkpoint
from aru_lab.runs.learner import Batch, Learner
from aru_lab.runs.model_options import check_used
from aru_lab.runs.training import resume, train

QUIET = Console(quiet=True)
ALL: dict[str, Any] = {"noise": 0.1, "dale": 0.75, "sparsity": 0.5}
SMALL: dict[str, Any] = {"task": "sdigits", "hidden_size": 8, "controller_size": 3, "epochs": 2, "subset": 60}
SMALL |= {"validation_subset": 20, "pixels_per_step": 8, "device": "cpu"}
SETTINGS = Settings(
    (0.0, 0.5, 1.0, 2.0, 4.0), repeats=2, sequences=8, examples=12, starts=2, steps=20, transient=4, grid=3
)


def config_of(model: str, **options: Any) -> TrainConfig:
    leak = {} if model == "relu" else {"leak": 0.3}
    return TrainConfig(**(SMALL | ALL | leak | {"model": model} | options))


@pytest.fixture(scope="module", params=["arun", "gamma-heterogeneous", "relu"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param) / request.param
    return train(config_of(request.param, output=folder), QUIET).run


def check_constraints(weight: torch.Tensor) -> None:
    assert (weight[:, :6] >= 0).all()
    assert (weight[:, 6:] <= 0).all()
    assert (weight.count_nonzero(1) <= 4).all()
    assert weight.count_nonzero() > 16


def test_constraints_hold_before_and_after_training(run: Path) -> None:
    opened = Run(run)
    before, after = opened.initial_model.recurrent.weight_hh_l0, opened.network.weight_hh_l0
    check_constraints(before)
    check_constraints(after)
    assert not torch.equal(before, after)
    assert torch.equal(before != 0, (before != 0) & (after == after))
    if opened.config.leak is not None:
        assert opened.network.leak_l0.tolist() == pytest.approx([0.3] * 8)


def test_every_command_takes_such_a_run(run: Path, tmp_path: Path) -> None:
    clean, (step,) = evaluate(run, [perturbation()])
    assert clean.n == step.n > 100
    assert evaluate(run, [])[0] == clean  # the noise belongs to the training
    suitable = [name for name, part in PARTS.items() if part.refusal(name, Run(run)) is None]
    assert "stability" not in suitable
    assert len(suitable) >= 3
    assert set(analyse(run, suitable, SETTINGS, console=QUIET)) == set(suitable)
    assert main(["predict", str(run), str(file_of(tmp_path)), "--output", str(tmp_path / "out.npz"), "--states"]) == 0
    with np.load(tmp_path / "out.npz") as found:
        assert found["h"].shape == (10, 8, 8)


def perturbation() -> Any:
    from aru_lab.networks.perturbations import parse

    return parse("step:amplitude=0.5")


def file_of(folder: Path) -> Path:
    np.savez(folder / "new.npz", x=np.random.RandomState(0).rand(10, 8, 8))
    return folder / "new.npz"


def test_proposition_1_is_not_for_leaky_networks(tmp_path: Path) -> None:
    found = train(config_of("arun", output=tmp_path / "run", epochs=1), QUIET).run
    with pytest.raises(ConfigError, match=r"stability: .* has the leak 0.3, expected none: Proposition 1"):
        analyse(found, ["stability"], SETTINGS, console=QUIET)


@pytest.mark.parametrize("model", ["arun", "relu"])
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path: Path, model: str) -> None:
    config = config_of(model, schedule="constant", epochs=3)
    whole = train(dataclasses.replace(config, output=tmp_path / "whole"), QUIET)
    train(dataclasses.replace(config, epochs=1, output=tmp_path / "part"), QUIET)
    file = tmp_path / "part" / "config.json"
    file.write_text(file.read_text().replace('"epochs": 1', '"epochs": 3'))
    first, second = (
        load_checkpoint(result.run / "last.pt")["model"] for result in (whole, resume(tmp_path / "part", QUIET))
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert "recurrent.parametrizations.weight_hh_l0.original" in first


def test_n_and_s_are_retrained_and_the_weights_keep_their_constraints(tmp_path: Path) -> None:
    config = config_of("arun", task="psdigits", output=tmp_path / "run", epochs=1)
    found = train(config, QUIET).run
    transfer(found, Retraining(epochs=1))
    before, _ = load_classifier(found)
    after, _ = load_classifier(found / "transfer")
    assert torch.equal(before.recurrent.weight_hh_l0, after.recurrent.weight_hh_l0)
    for old, new in zip(parts(before)["activation"], parts(after)["activation"], strict=True):
        assert not torch.equal(old, new)


def test_weights_of_other_runs_are_taken(tmp_path: Path) -> None:
    first = train(config_of("arun", output=tmp_path / "first", epochs=1), QUIET).run
    config = config_of("arun", output=tmp_path / "second", initial_from=first, freeze=("recurrent",), epochs=1)
    second = train(config, QUIET).run
    weights = [load_classifier(one)[0].recurrent.weight_hh_l0 for one in (first, second)]
    assert torch.equal(*weights)
    train(config_of("arun", output=tmp_path / "third", controller_from=first, freeze=("activation",), epochs=1), QUIET)
    with pytest.raises(Exception, match=r"initial_from: .* whose weights do not fit"):
        train(config_of("arun", output=tmp_path / "fourth", initial_from=first, dale=None), QUIET)


def test_kept_networks_are_restored(run: Path, tmp_path: Path) -> None:
    config, _ = RunFolder(run).read_config()
    config = dataclasses.replace(config, output=run)
    keep(tmp_path / "kept", "one", config, 100, clean=evaluate(run, [], "last")[0])
    (kept,) = read_kept(tmp_path / "kept")
    restored = kept.restore(tmp_path / "runs")
    assert evaluate(restored, [], "last")[0] == evaluate(run, [], "last")[0]


def test_rnn_reads_its_constrained_weights() -> None:
    """torch.nn.RNN itself would read the unconstrained parameter."""
    torch.manual_seed(0)
    model = build_classifier("relu", 6, input_size=2, n_classes=3, dtype=torch.float64)
    constrain(model, 0.5, 0.5)
    x, rnn = torch.randn(5, 4, 2, dtype=torch.float64), model.recurrent
    h, expected = torch.zeros(4, 6, dtype=torch.float64), []
    for x_t in x:
        h = (x_t @ rnn.weight_ih_l0.T + rnn.bias_ih_l0 + rnn.bias_hh_l0 + h @ rnn.weight_hh_l0.T).relu()
        expected.append(h)
    torch.testing.assert_close(driven_rnn(rnn, x, None), torch.stack(expected))
    torch.testing.assert_close(model(x.transpose(0, 1)), model.readout(expected[-1]))
    torch.testing.assert_close(model(x.transpose(0, 1), every_step=True)[:, -1], model.readout(expected[-1]))
    rnn.weight_hh_l0.sum().backward()
    assert rnn.parametrizations.weight_hh_l0.original.grad.count_nonzero() > 0
    assert isinstance(rnn, nn.RNN)
    assert any(isinstance(one, Dale) for one in rnn.parametrizations.weight_hh_l0)


def test_copies_for_analyses_keep_the_leak_and_change_only_their_weights() -> None:
    torch.manual_seed(0)
    model = build_classifier("arun", 6, 3, input_size=2, leak=0.4)
    constrain(model, 0.5, 0.5)
    network = model.recurrent
    weight = recurrent_weight(network)
    assert torch.equal(recurrent_weight(isolated(network)), weight.diagonal().diag())
    assert not recurrent_weight(uncoupled(network)).any()
    assert torch.equal(recurrent_weight(network), weight)
    static = held(network, 5.0, 0.1)
    assert torch.equal(recurrent_weight(static), weight)
    for copied in (isolated(network), uncoupled(network), static):
        assert copied.leak_l0.tolist() == network.leak_l0.tolist()
        assert layer_of(copied).leak.tolist() == pytest.approx([0.4] * 6)


def test_tangents_of_leaky_networks_are_derivatives() -> None:
    torch.manual_seed(0)
    layer = layer_of(build_classifier("arun", 4, 2, input_size=1, leak=0.3, dtype=torch.float64).recurrent)
    current = torch.randn(1, 4, dtype=torch.float64)
    state = torch.rand(3, 12, dtype=torch.float64)
    vectors = torch.eye(12, dtype=torch.float64).expand(3, 12, 12)
    expected = from_map(lambda z: joint_step(layer, z, current[0]))(state, vectors, 0)
    torch.testing.assert_close(joint_tangent(layer, current)(state, vectors, 0), expected)
    n, s = torch.full((4,), 5.0, dtype=torch.float64), torch.full((4,), 0.1, dtype=torch.float64)
    static = static_tangent(layer, n, s, current)
    small = torch.eye(4, dtype=torch.float64).expand(3, 4, 4)
    expected = from_map(lambda h: static(h, small, 0)[0])(state[:, :4], small, 0)
    torch.testing.assert_close(static(state[:, :4], small, 0), expected)


def test_leaky_steps_are_those_of_the_layer() -> None:
    torch.manual_seed(0)
    network = build_classifier("gamma-heterogeneous", 5, input_size=1, leak=0.3, dtype=torch.float64).recurrent
    layer = layer_of(network)
    h0 = torch.rand(1, 2, 5, dtype=torch.float64)
    output, _ = network(torch.zeros(3, 2, 1, dtype=torch.float64), h0)
    h, tangent = h0[0], static_tangent(layer, layer.gain, layer.saturation, layer.bias.expand(1, 5))
    for t in range(3):
        h, _ = tangent(h, torch.zeros(2, 5, 1, dtype=torch.float64), t)
        torch.testing.assert_close(output[t], h)
    slow = network_exponents(build_classifier("gamma-heterogeneous", 5, input_size=1, leak=1e-3).recurrent, steps=20)
    assert abs(slow.exponents).max() < 0.02


def test_noise_is_private_and_new_at_every_step(tmp_path: Path) -> None:
    for model in ("arun", "relu", "lstm"):
        config = config_of(model, noise=0.5) if model != "lstm" else TrainConfig(**SMALL, model=model, noise=0.5)
        learner = Learner(dataclasses.replace(config, learning_rate=1e-3), task_of(config), World())
        x = torch.zeros(4, 8, 8)
        drive = learner._noisy(None, x)
        assert drive.shape == (8, 4, 8)
        assert len(drive.unique()) == drive.numel()
        factor = 1.0 if model != "arun" else (2 / 0.3) ** 0.5
        assert drive.std().item() == pytest.approx(0.5 * factor, rel=0.2)
        step = torch.arange(8.0)
        torch.manual_seed(0)
        with_step = learner._noisy(step, x)
        torch.manual_seed(0)
        torch.testing.assert_close(with_step - learner._noisy(None, x), step[:, None, None].expand(8, 4, 8))
        examples = task_of(config).load(subset=20).train
        batch = Batch(torch.arange(20), None, [0] * 20, 0)
        losses = []
        for _ in range(2):
            counts = learner.gradients(examples, batch)
            counts.send()
            losses.append(counts.result(World())[0])
        assert losses[0] != losses[1]


def test_options_are_refused_where_they_mean_nothing() -> None:
    for options, sentence in (
        ({"leak": 0.0}, "leak: got 0.0, expected a number above 0 and at most 1 or None"),
        ({"leak": 1.5}, "leak: got 1.5"),
        ({"noise": -1.0}, "noise: got -1.0, expected a finite number of at least 0"),
        ({"dale": 1.1}, "dale: got 1.1, expected a number from 0 to 1 or None"),
        ({"dale": True}, "dale: got True"),
        ({"sparsity": 1.0}, "sparsity: got 1.0, expected a number of at least 0 and below 1"),
        ({"sparsity": float("nan")}, "sparsity: got nan"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            TrainConfig(**options)
    for model, options in (("lstm", {"dale": 0.8}), ("gru", {"sparsity": 0.5}), ("relu", {"leak": 0.5})):
        with pytest.raises(ConfigError, match=f"{next(iter(options))}: got .* with the model {model}, expected one of"):
            check_used(TrainConfig(model=model, **options), (model,))


@pytest.mark.parametrize("seed", range(20))
def test_few_connections_leave_a_network(seed: int) -> None:
    """Every neuron receives from one at least, so some connections make a circle, and W_hh has an eigenvalue."""
    torch.manual_seed(seed)
    config = TrainConfig("sdigits", "relu", hidden_size=3, dale=0.5, sparsity=0.9)
    weight = build_for(config, task_of(config), torch.device("cpu")).recurrent.weight_hh_l0
    assert weight.count_nonzero(1).tolist() == [1, 1, 1]
    assert torch.linalg.eigvals(weight).abs().max().item() == pytest.approx(1, rel=1e-5)


def test_old_configurations_are_read_without_these_options() -> None:
    values = {name: value for name, value in TrainConfig().to_json().items() if name not in ("leak", *ALL)}
    assert TrainConfig.from_json(values) == TrainConfig()


def test_scores_do_not_depend_on_the_batch(run: Path) -> None:
    model, config = load_classifier(run)
    test = task_of(config).load().test.take(slice(20))
    assert score(model, test, 7).loss == pytest.approx(score(model, test).loss, rel=1e-4)
