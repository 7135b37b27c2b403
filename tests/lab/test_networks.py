"""Networks that are kept: what is trained in which order, that nothing is trained twice, and that they are whole."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from rich.console import Console
from safetensors import safe_open

from aru_lab.cli import main
from aru_lab.cli.networks import SCALES as CHOICES
from aru_lab.errors import ConfigError, NonFiniteError, RunError
from aru_lab.experiments import networks as module
from aru_lab.experiments.kept import ALL, NOTHING, RECURRENT, Kept, keep, read_kept, read_trials
from aru_lab.experiments.networks import RATES, chosen_rates, configurations, networks
from aru_lab.experiments.scales import NETWORKS, PROTOCOL, NetworkSet
from aru_lab.experiments.sweep import n_parameters
from aru_lab.files import sealed
from aru_lab.networks.names import MODELS
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.evaluation import Score, build_for, evaluate, load_classifier, load_network, score, task_of
from aru_lab.runs.folder import METRICS, RunFolder

from .small_run import CONFIG, run

TRAINING = dataclasses.replace(
    PROTOCOL,
    task="sdigits",
    pixels_per_step=8,
    epochs=2,
    batch_size=20,
    subset=40,
    validation_subset=20,
    hidden_size=12,
    controller_size=4,
    threads=1,
)
FIRST = NetworkSet("first", TRAINING, seeds=(0, 1), models=("arun", "relu"), learning_rates=(1e-2, 1e-3))
SECOND = NetworkSet(
    "second",
    dataclasses.replace(TRAINING, freeze=("activation",), initial_checkpoint="last"),
    seeds=(0, 1),
    models=("arun",),
    rates_of="first",
    controllers_of="first",
)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Call `networks` with a small scale of two sets; gives what it printed."""
    monkeypatch.setitem(NETWORKS, "made", (FIRST, SECOND))

    def make(**options: Any) -> tuple[bool, str]:
        text = io.StringIO()
        done = networks("made", tmp_path / "out", tmp_path / "runs", console=Console(file=text, width=200), **options)
        return done, text.getvalue()

    return make


def test_every_network_is_kept_once_and_can_be_used_again(made: Any, tmp_path: Path) -> None:
    done, printed = made()
    assert done
    assert "[4 of 4, about 0 minutes left]" in printed
    first = read_kept(tmp_path / "out" / "first")
    assert [network.name for network in first] == ["arun-seed0", "relu-seed0", "arun-seed1", "relu-seed1"]
    rates = chosen_rates(tmp_path / "out" / "first")
    for network in first:
        assert network.config.learning_rate == rates[network.config.model]
        assert network.config.data_dir is None
        assert len(network.history) == 2
        run = network.restore(tmp_path / "again")
        clean, _ = evaluate(run, [], "last")
        assert clean == network.clean
        trained = tmp_path / "runs" / "first" / f"{network.name}-lr{network.config.learning_rate:g}"
        one, other = (load_classifier(folder, "last")[0].state_dict() for folder in (run, trained))
        assert all(torch.equal(one[name], other[name]) for name in other)
        assert network.restore(tmp_path / "again") == run  # a second time it is only found
        with safe_open(network.file, "pt") as content:
            assert json.loads(content.metadata()["config"])["model"] == network.config.model
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "out").rglob("*") if path.is_file())
    done, printed = made()
    assert done
    assert "seed" not in printed
    assert before == sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "out").rglob("*") if path.is_file())


def test_the_candidate_that_validates_best_is_chosen_and_is_the_network_of_the_first_seed(
    made: Any, tmp_path: Path
) -> None:
    made(sets=("first",))
    lines = [json.loads(line) for line in (tmp_path / "out" / "first" / RATES).read_text().splitlines()]
    assert [line["model"] for line in lines] == ["arun", "arun", "relu", "relu"]
    for model in ("arun", "relu"):
        of_model = [line for line in lines if line["model"] == model]
        best = max(of_model, key=lambda line: (line["validation_accuracy"], -line["validation_loss"]))
        assert [line for line in of_model if line["chosen"]] == [best]
    # two candidates and the second seed of two models: the first seed is not trained again
    assert len(list((tmp_path / "runs" / "first").iterdir())) == 2 * (2 + 1)


def test_the_controller_is_that_of_the_next_seed_and_stays(made: Any, tmp_path: Path) -> None:
    made()
    of = {network.name: network for network in read_kept(tmp_path / "out" / "first")}
    for network in read_kept(tmp_path / "out" / "second"):
        donor = of[f"arun-seed{1 - network.config.seed}"].read_weights()
        weights = network.read_weights()
        assert torch.equal(weights["recurrent.weight_gg_l0"], donor["recurrent.weight_gg_l0"])
        assert not torch.equal(weights["recurrent.weight_hh_l0"], donor["recurrent.weight_hh_l0"])
        assert network.config.permutation == network.config.seed


def test_after_the_given_seconds_the_work_stops_and_goes_on(made: Any, tmp_path: Path) -> None:
    done, printed = made(seconds=1e-9)
    assert not done
    assert "seconds are over" in printed
    assert made()[0]
    assert len(read_kept(tmp_path / "out" / "first")) == 4


def test_a_stop_within_a_network_resumes_from_its_last_epoch(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def check(self: Any, fraction: float = 0.0) -> None:
        calls.append(fraction)
        if len(calls) == 2:  # after the first epoch
            raise module.OutOfTime("over; ")

    monkeypatch.setattr(module.Deadline, "check", check)
    assert not made()[0]
    (run,) = (tmp_path / "runs" / "first").iterdir()
    assert len(RunFolder(run).read_metrics()) == 1
    assert made()[0]
    assert len(RunFolder(run).read_metrics()) == 2


def test_a_network_that_overflows_is_kept_as_a_failure_and_not_tried_again(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete = module.complete

    def fail(config: Any, *args: Any) -> Any:
        if config.seed == 1 and config.model == "relu":
            raise NonFiniteError("The loss is NaN in epoch 1; lower the rate.")
        return complete(config, *args)

    monkeypatch.setattr(module, "complete", fail)
    assert made(sets=("first",))[0]
    last = read_kept(tmp_path / "out" / "first")[-1]
    assert (last.name, last.failure) == ("relu-seed1", "The loss is NaN in epoch 1")
    assert last.clean is last.weights is None
    with pytest.raises(RunError, match="weights of relu-seed1 are kept; train it again"):
        last.restore(tmp_path / "again")
    monkeypatch.setattr(module, "complete", None)
    assert made(sets=("first",))[0]


def test_a_model_that_overflows_at_every_rate_is_refused(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> Any:
        raise NonFiniteError("The loss is NaN; lower the rate.")

    monkeypatch.setattr(module, "complete", fail)
    with pytest.raises(NonFiniteError, match="learning_rates: arun overflows at each of them"):
        made()


@pytest.mark.parametrize("sets", [("second",)])
def test_a_set_needs_those_that_it_builds_on(made: Any, sets: tuple[str, ...]) -> None:
    with pytest.raises(RunError, match="has no learning rate of arun; train the set first first"):
        made(sets=sets)


@pytest.mark.parametrize(
    ("scale", "options", "sentence"),
    [
        ("huge", {}, "scale: got 'huge', expected one of tiny, small"),
        ("tiny", {"sets": ("mnist",)}, "sets: got 'mnist', expected one of psdigits"),
        ("tiny", {"models": ("arun", "lstn")}, "models: got 'lstn', expected one of arun"),
        ("tiny", {"seconds": 0}, "seconds: got 0, expected a finite number above 0"),
    ],
)
def test_refusals(tmp_path: Path, scale: str, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        networks(scale, tmp_path, **options)


def test_models_one_after_the_other_are_those_of_one_call(made: Any, tmp_path: Path) -> None:
    assert made(sets=("first",), models=("relu",))[0]
    assert {network.config.model for network in read_kept(tmp_path / "out" / "first")} == {"relu"}
    rates = chosen_rates(tmp_path / "out" / "first")
    assert made(sets=("first",), models=("arun",))[0]
    names = {network.name for network in read_kept(tmp_path / "out" / "first")}
    assert names == {"arun-seed0", "relu-seed0", "arun-seed1", "relu-seed1"}
    assert chosen_rates(tmp_path / "out" / "first").items() > rates.items()


@pytest.mark.parametrize("kept", [RECURRENT, NOTHING])
def test_parts_of_the_weights(tmp_path: Path, kept: str) -> None:
    config = dataclasses.replace(CONFIG, output=tmp_path / "run", learning_rate=1e-3)
    run(tmp_path / "run", learning_rate=1e-3)
    score = evaluate(tmp_path / "run", [], "last")[0]
    keep(tmp_path / "out", "one", config, n_parameters(config), kept, score)
    (network,) = read_kept(tmp_path / "out")
    assert (network.kept, network.clean, network.n_parameters) == (kept, score, n_parameters(config))
    assert network.file.exists() == (kept == RECURRENT)
    with pytest.raises(RunError, match="only part of the weights of one are kept; train it again"):
        network.restore(tmp_path / "again")


@pytest.mark.parametrize("scale", ["cifar", "paper"])
def test_networks_behind_the_encoder_keep_all_weights(scale: str) -> None:
    of_task = [one for one in NETWORKS[scale] if one.training.task == "scifar10-conv"]
    assert {one.kept for one in of_task} == {ALL}
    assert of_task


def test_a_network_with_an_encoder_is_restored_with_it(tmp_path: Path) -> None:
    config = dataclasses.replace(
        CONFIG, task="scifar10-conv", hidden_size=6, learning_rate=1e-3, output=tmp_path / "run"
    )
    torch.manual_seed(1)  # not the run's
    weights = build_for(config, task_of(config), torch.device("cpu")).state_dict()
    entry = dict.fromkeys(METRICS, 1.0) | {"epoch": 1, "step": 1}
    content = safetensors.torch.save(weights)
    (tmp_path / "one.safetensors").write_bytes(content)
    checksum = hashlib.sha256(content).hexdigest()
    kept = Kept(tmp_path, "one", config, [entry], Score(1.0, 0.5, 10), None, 10, {}, checksum, ALL)
    restored = load_classifier(kept.restore(tmp_path / "again"), "last")[0].state_dict()
    assert restored.keys() == weights.keys()
    assert any(name.startswith("encoder.") for name in restored)
    assert all(torch.equal(restored[name], weights[name]) for name in weights)


def test_damaged_weights_are_refused(made: Any, tmp_path: Path) -> None:
    made(sets=("first",))
    network = read_kept(tmp_path / "out" / "first")[0]
    weights = network.read_weights()
    assert list(weights) == sorted(weights)  # so that a run that is restored twice has the same bytes
    content = bytearray(network.file.read_bytes())
    content[-1] ^= 1
    network.file.write_bytes(content)
    with pytest.raises(RunError, match=r"arun-seed0\.safetensors can't be read \(it does not have the checksum"):
        network.restore(tmp_path / "again")
    network.file.unlink()
    with pytest.raises(RunError, match=r"arun-seed0\.safetensors can't be read"):
        network.read_weights()
    content = safetensors.torch.save({name: torch.full_like(weight, torch.nan) for name, weight in weights.items()})
    network.file.write_bytes(content)
    with pytest.raises(RunError, match=r"arun-seed0\.safetensors can't be read \(its weight .* is not finite\)"):
        dataclasses.replace(network, weights=hashlib.sha256(content).hexdigest()).restore(tmp_path / "again")


def test_restoring_does_not_write_over_another_run(made: Any, tmp_path: Path) -> None:
    made(sets=("first",))
    network, other, *_ = read_kept(tmp_path / "out" / "first")
    run = other.restore(tmp_path / "again")
    run.rename(tmp_path / "again" / network.name)
    with pytest.raises(RunError, match="holds another run"):
        network.restore(tmp_path / "again")


def test_the_command_names_every_scale() -> None:
    assert tuple(NETWORKS) == CHOICES


def test_small_is_the_protocol() -> None:
    """Section 7 of the protocols, and sections 1 and 2 where they say how to train."""
    first, start, transplant, rmsprop = NETWORKS["small"]
    rates = dict.fromkeys(MODELS, 1e-3)
    found = list(configurations(first, rates, Path("runs")))
    assert [name for name, _ in found[:7]] == [*(f"{model}-seed0" for model in MODELS), "arun-seed1"]
    assert len(found) == 60
    assert first.learning_rates == (2e-3, 1e-3, 5e-4)
    counts = {config.model: n_parameters(config) for _, config in found}
    assert all(abs(count / counts["arun"] - 1) <= 0.02 for count in counts.values())
    for _, config in found:
        task = task_of(config)
        assert (task.name, task.n_steps, task.permutation_seed) == ("psmnist", 112, config.seed)
        assert (config.epochs, config.batch_size, config.subset, config.clip) == (20, 50, None, None)
        assert (config.schedule, config.learning_rate_scaling, config.optimizer) == ("plateau-paper", "none", "adam")
        assert (config.initial_gain, config.initial_saturation, config.biases) == ("normal", "0", "zero")
        assert (config.model, config.hidden_size) != ("arun", 65)
    assert {config.hidden_size for _, config in found if config.model == "arun"} == {64}
    assert {config.initial_gain for _, config in configurations(start, rates, Path())} == {"shared"}
    assert {config.freeze for _, config in configurations(transplant, rates, Path())} == {("activation",)}
    assert {config.optimizer for _, config in configurations(rmsprop, rates, Path())} == {"rmsprop"}


def test_the_grid_has_85_starts() -> None:
    frozen, trained = NETWORKS["grid"]
    found = list(configurations(frozen, {"gamma-homogeneous": 2e-3}, Path()))
    assert len(found) == 85 * 5
    assert len({name for name, _ in found}) == len(found)
    pairs = {(float(config.initial_gain), float(config.initial_saturation)) for _, config in found}
    gains = {1.0, *np.arange(1, 17) * 1.25}
    assert pairs == {(n, s) for n in gains for s in (0, 0.25, 0.5, 0.75, 1)}
    assert {config.hidden_size for _, config in found} == {32}
    assert {task_of(config).n_steps for _, config in found} == {28}
    assert trained.training.freeze == ()
    assert frozen.training.freeze == ("activation",)


def test_the_decision_is_the_projects_own() -> None:
    (decision,) = NETWORKS["decision"]
    config = decision.training
    assert decision.trials
    assert decision.models == ("arun", "gamma-heterogeneous", "relu")
    assert decision.seeds == (0, 1, 2, 3, 4)
    assert (config.task, config.dale, config.leak) == ("neurogym:PerceptualDecisionMaking-v0:dt=50", 0.8, None)
    assert (config.learning_rate, config.learning_rate_scaling) == (None, "fan-in")  # the defaults


def test_without_candidates_every_model_learns_at_the_default_and_trials_are_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    task = "context-integration:dt=150,trials=20"
    own = TrainConfig(task=task, hidden_size=8, controller_size=3, epochs=1, dale=0.8, threads=1, device="cpu")
    monkeypatch.setitem(NETWORKS, "made", (NetworkSet("one", own, (0,), ("arun", "relu"), match=(), trials=True),))
    assert networks("made", tmp_path / "out", tmp_path / "runs", console=Console(quiet=True))
    kept = read_kept(tmp_path / "out" / "one")
    assert {network.config.model: network.config.learning_rate for network in kept} == {"arun": 1e-2, "relu": 2e-3}
    trials, _ = read_trials(tmp_path / "out" / "one", task)
    for network in kept:  # with its constraint, from its file and the trials
        model = load_network(network.restore(tmp_path / "again"), "last")[0]
        assert score(model, trials) == network.clean


@pytest.mark.parametrize(
    ("scale", "models"), [("cifar", MODELS), ("long", ("arun", "gamma-heterogeneous", "relu")), ("paper", MODELS)]
)
def test_other_scales(scale: str, models: tuple[str, ...]) -> None:
    first = NETWORKS[scale][0]
    found = [config for _, config in configurations(first, dict.fromkeys(MODELS, 1e-3), Path())]
    assert len(found) == 5 * len(models)
    sizes = {config.model: config.hidden_size for config in found}
    assert sizes.keys() == set(models)
    counts = {config.model: n_parameters(config) for config in found}
    assert all(abs(count / counts["arun"] - 1) <= 0.02 for count in counts.values())
    if scale == "paper":
        expected = {"lstm": 202, "gru": 233}
        assert sizes == {model: expected.get(model, 400) for model in MODELS}
    else:
        assert sizes["arun"] == 64


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"kept": "half"}, "line 1: 'kept' is 'half', expected one of all, recurrent, nothing"),
        ({"metrics": []}, "line 1: it has no metrics or no test score"),
        ({"name": "../arun"}, "line 1: 'name' is '../arun', which is no name of a file"),
        ({"parameters": "many"}, "line 1: 'parameters' is 'many', expected int"),
        ({"config": {}}, "line 1: config: got no task, model"),
        ({"test_accuracy": 7.0}, "line 1: it has the test accuracy 7.0 and the test loss"),
        ({"test_accuracy": float("nan")}, "line 1: it has the test accuracy nan and the test loss"),
        ({"test_loss": -1.0}, "and the test loss -1.0"),
    ],
)
def test_damaged_lines_are_refused(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    run(tmp_path / "run", learning_rate=1e-3)
    config = dataclasses.replace(CONFIG, output=tmp_path / "run", learning_rate=1e-3)
    keep(tmp_path / "out", "one", config, 5, NOTHING, evaluate(tmp_path / "run", [], "last")[0])
    path = tmp_path / "out" / "networks.jsonl"
    line = json.loads(path.read_text())
    del line["checksum"]
    path.write_text(sealed(line | change))
    with pytest.raises(RunError, match=re.escape(sentence)):
        read_kept(tmp_path / "out")


def test_a_name_that_is_kept_twice_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "run", learning_rate=1e-3)
    config = dataclasses.replace(CONFIG, output=tmp_path / "run", learning_rate=1e-3)
    for _ in range(2):
        keep(tmp_path / "out", "one", config, 5, NOTHING, evaluate(tmp_path / "run", [], "last")[0])
    with pytest.raises(RunError, match="it holds one network twice"):
        read_kept(tmp_path / "out")


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(NETWORKS, "tiny", (dataclasses.replace(FIRST, learning_rates=()),))
    options = ["--scale", "tiny", "--output", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]
    assert main(["networks", *options, "--seconds", "1e-9"]) == 0
    assert "seconds are over" in capsys.readouterr().out
    assert main(["networks", *options, "--sets", "first", "--device", "cpu"]) == 0
    assert "All networks of tiny are kept in" in capsys.readouterr().out
    assert len(read_kept(tmp_path / "out" / "first")) == 4
    assert main(["networks", "--scale", "huge"]) == 2
    assert "scale: got 'huge', expected one of tiny, small" in capsys.readouterr().err
