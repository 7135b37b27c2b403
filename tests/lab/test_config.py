"""The configuration: what it refuses, and that it survives being saved."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aru_lab.data.tasks import TASKS
from aru_lab.errors import ConfigError
from aru_lab.networks.names import MODELS
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.model_options import OF_MODELS, check_used
from aru_lab.runs.rates import rates_help


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("task", "mnist", "psdigits"),
        ("task", 3, "psdigits"),
        ("model", "rnn", "arun"),
        ("schedule", "step", "plateau"),
        ("optimizer", "sgd", "rmsprop"),
        ("perturb", "step", "a list of names"),
        ("perturb_share", 1.5, "from 0 to 1"),
        ("accumulate", 0, "at least 1"),
        ("early_stop", 0, "or None"),
        ("pixels_per_step", 0, "at least 1"),
        ("mixed_precision", "yes", "True or False"),
        ("dtype", "float16", "float64"),
        ("learning_rate_scaling", "fanin", "fan-in, none"),
        ("learning_rate_scaling", None, "fan-in, none"),
        ("hidden_size", 0, "at least 1"),
        ("hidden_size", 2.5, "a whole number"),
        ("epochs", True, "a whole number"),
        ("batch_size", "50", "a whole number"),
        ("subset", 0, "or None"),
        ("seed", -1, "from 0 to"),
        ("learning_rate", 0, "above 0"),
        ("learning_rate", float("nan"), "finite"),
        ("clip", -1.0, "or None"),
        ("input_noise", -0.1, "at least 0"),
        ("rate_penalty", -1e-3, "at least 0"),
        ("rate_penalty", True, "at least 0"),
        ("weight_penalty", float("nan"), "at least 0"),
        ("checkpoint_seconds", float("inf"), "finite"),
        ("device", 0, "torch device"),
        ("backend", None, "backend of aru_kernels"),
        ("data_dir", 3, "a path or None"),
        ("threads", 10**6, "from 1 to 1024 or None"),
        ("hidden_size", 10**10, "from 1 to 1000000000"),
        ("learning_rate", 1e39, "within float32"),
        ("input_noise", 1e300, "within float32"),
        ("clip", 1e39, "within float32 or None"),
        ("perturb_share", True, "from 0 to 1"),
        ("model", ["arun"], "arun"),
    ],
)
def test_refusal_names_argument_value_and_expectation(name: str, value: Any, expected: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}: got {re.escape(repr(value))}, expected .*{expected}"):
        TrainConfig(**{name: value})


def test_survives_json() -> None:
    config = TrainConfig(
        task="smnist",
        model="arun",
        clip=None,
        data_dir=Path("a/b"),
        controller_from=Path("c"),
        subset=5,
        learning_rate=0.1,
        perturb=("step:amplitude=1", "random-contrast"),
        freeze=("activation",),
    )
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_unknown_and_missing_names_are_refused() -> None:
    values = TrainConfig().to_json()
    with pytest.raises(ConfigError, match="unknown names width"):
        TrainConfig.from_json({**values, "width": 3})
    del values["hidden_size"]
    with pytest.raises(ConfigError, match=r"config: got no hidden_size, expected all of task, model"):
        TrainConfig.from_json(values)


def test_configuration_of_an_earlier_version_has_one_learning_rate() -> None:
    values = TrainConfig().to_json()
    assert values["learning_rate_scaling"] == "fan-in"
    assert TrainConfig.from_json(values).learning_rate_scaling == "fan-in"
    del values["learning_rate_scaling"]
    assert TrainConfig.from_json(values).learning_rate_scaling == "none"


@pytest.mark.parametrize(
    ("settings", "rate"),
    [
        ({}, 1e-2),
        ({"task": "psmnist"}, 1e-3),
        ({"task": "psmnist", "pixels_per_step": 7}, 1e-2),
        ({"task": "psmnist", "model": "gamma-homogeneous"}, 1e-3),
        ({"task": "scifar10"}, 1e-3),
        ({"task": "scifar10", "pixels_per_step": 4}, 1e-2),
        ({"task": "scifar10-conv"}, 2e-3),
        ({"model": "relu"}, 2e-3),
        ({"model": "lstm", "task": "scifar10"}, 2e-3),
        ({"learning_rate_scaling": "none"}, 2e-3),
        ({"task": "scifar10", "learning_rate": 0.5}, 0.5),
    ],
)
def test_default_learning_rate_is_by_task_length_and_network(settings: dict[str, Any], rate: float) -> None:
    config = TrainConfig(**settings)
    assert config.with_learning_rate() == TrainConfig(**(settings | {"learning_rate": rate}))


@pytest.mark.parametrize(("n_steps", "rate"), [(256, 1e-2), (257, 2e-3), (512, 2e-3), (513, 1e-3)])
def test_default_learning_rate_of_a_file_is_by_its_length(tmp_path: Path, n_steps: int, rate: float) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, x=np.zeros((10, n_steps, 1), np.float32), y=np.arange(10) % 2)
    assert TrainConfig(str(path)).with_learning_rate().learning_rate == rate


def test_help_lists_the_default_learning_rate_of_every_task() -> None:
    text = rates_help()
    (listed,) = re.findall(r"With one pixel a step that is (.*?)\. The other", text)
    found = {name: float(part.split()[0]) for part in listed.split("; ") for name in part.split(" for ")[1].split(", ")}
    assert found == {task: TrainConfig(task).with_learning_rate().learning_rate for task in TASKS}
    assert "0.01 up to T = 256, 0.002 up to T = 512, 0.001 for longer sequences" in text


def test_a_default_learning_rate_is_the_same_experiment_as_its_number() -> None:
    config = TrainConfig()
    for number, different in ((1e-2, []), (2e-3, ["learning_rate"])):
        other = TrainConfig(learning_rate=number)
        assert config.differences(other) == other.differences(config) == different


@pytest.mark.parametrize("name", OF_MODELS)
def test_an_option_is_refused_where_no_model_reads_it(name: str) -> None:
    values = {"controller_size": 8, "initial_gain": "3", "initial_saturation": "1", "biases": "torch"}
    values |= {"lstm_weights": "xavier", "backend": "reference", "leak": 0.5, "dale": 0.8, "sparsity": 0.5}
    config = TrainConfig(**{name: values[name]})
    others = [model for model in MODELS if model not in OF_MODELS[name]]
    with pytest.raises(ConfigError, match=f"{name}: got .*, expected .*{OF_MODELS[name][0]}"):
        check_used(config, others)
    check_used(config, others, also=(name,))
    for model in OF_MODELS[name]:
        check_used(config, (others[0], model))
    for model in MODELS:
        check_used(TrainConfig(model=model), (model,))
    # What an earlier version saved, and what a sweep saves, is read.
    assert TrainConfig.from_json(config.to_json() | {"model": others[0]}).model == others[0]


def test_number_of_many_digits_is_refused_without_printing_it() -> None:
    with pytest.raises(ConfigError, match=r"^learning_rate: got a number of more than 30 digits, expected"):
        TrainConfig(learning_rate=10**5000)


def test_default_run_folder_names_task_model_and_seed() -> None:
    assert TrainConfig(task="smnist", model=MODELS[-1], seed=3).run_folder == Path("runs/smnist-gru-seed3")
    assert TrainConfig(output=Path("here")).run_folder == Path("here")


def test_file_of_sequences_names_the_run_folder() -> None:
    assert TrainConfig(task="a/b.npz").run_folder == Path("runs/b-arun-seed0")


def test_same_experiment_passes_over_place_and_machine() -> None:
    config = TrainConfig()
    assert config.differences(TrainConfig(output=Path("x"), threads=3, device="cpu", data_dir=Path("y"))) == []
    assert config.differences(TrainConfig(seed=1)) == ["seed"]
    assert config.differences(TrainConfig(perturb=("random-contrast",))) == ["perturb"]


def test_experiments_on_files_that_were_moved_are_the_same() -> None:
    here, there = (TrainConfig(f"{folder}/x.npz", initial_from=Path(folder) / "run") for folder in ("a", "b"))
    assert here.differences(there) == []
    assert here.differences(TrainConfig("a/y.npz", initial_from=Path("a/run"))) == ["task"]
    assert here.differences(TrainConfig("a/x.npz", initial_from=Path("a/other"))) == ["initial_from"]


def test_files_are_remembered_by_absolute_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    config = TrainConfig("x.npz", data_dir=Path("data"), initial_from=Path("run"), output=Path("out"))
    assert config.task == str(tmp_path / "x.npz")
    assert (config.data_dir, config.initial_from) == (tmp_path / "data", tmp_path / "run")
    assert config.output == Path("out")  # a run folder may be moved
