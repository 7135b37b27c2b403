"""The configuration: what it refuses, and that it survives being saved."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from aru_lab.config import MODELS, TrainConfig
from aru_lab.errors import ConfigError


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
        ("checkpoint_seconds", float("inf"), "finite"),
        ("device", 0, "torch device"),
        ("backend", None, "backend of aru_kernels"),
        ("data_dir", 3, "a path or None"),
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


def test_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown names width"):
        TrainConfig.from_json({"width": 3})


def test_default_run_folder_names_task_model_and_seed() -> None:
    assert TrainConfig(task="smnist", model=MODELS[-1], seed=3).run_folder == Path("runs/smnist-gru-seed3")
    assert TrainConfig(output=Path("here")).run_folder == Path("here")


def test_file_of_sequences_names_the_run_folder() -> None:
    assert TrainConfig(task="a/b.npz").run_folder == Path("runs/b-arun-seed0")


def test_same_experiment_passes_over_place_and_machine() -> None:
    config = TrainConfig()
    assert config.same_experiment(TrainConfig(output=Path("x"), threads=3, device="cpu", data_dir=Path("y")))
    assert not config.same_experiment(TrainConfig(seed=1))
    assert not config.same_experiment(TrainConfig(perturb=("random-contrast",)))
