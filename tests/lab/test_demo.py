"""`aru demo` at a small size: real training, real table, real figure."""

from __future__ import annotations

import dataclasses
import io
import os
from pathlib import Path

import pytest
from rich.console import Console

from aru_lab.errors import RunError
from aru_lab.experiments.demo import DemoResult, DemoSettings, demo
from aru_lab.runs.folder import RunFolder

DEFAULTS = DemoSettings()
SMALL = dataclasses.replace(
    DEFAULTS,
    training=dataclasses.replace(
        DEFAULTS.training, hidden_size=8, controller_size=4, epochs=2, subset=100, validation_subset=30, device="cpu"
    ),
)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[DemoResult, str, Path]:
    """The result, what was printed, and the folder."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    output = io.StringIO()
    return demo(folder, SMALL, Console(file=output, width=120)), output.getvalue(), folder


def test_both_networks_are_trained_with_equally_many_parameters(shown: tuple[DemoResult, str, Path]) -> None:
    result, printed, _ = shown
    assert result.n_parameters.keys() == result.clean.keys() == result.driven.keys() == {"arun", "relu"}
    assert abs(result.n_parameters["relu"] / result.n_parameters["arun"] - 1) <= 0.05
    for n in result.n_parameters.values():
        assert f"{n:,}" in printed
    assert all(len(scores) == len(SMALL.amplitudes) for scores in result.driven.values())
    assert printed.count("train loss") == 4
    assert "Accuracy on 359 test sequences" in printed


def test_networks_take_one_learning_rate(shown: tuple[DemoResult, str, Path]) -> None:
    for model in ("arun", "relu"):
        config, _ = RunFolder(shown[2] / model).read_config()
        assert (config.learning_rate, config.learning_rate_scaling) == (2e-3, "none")


def test_figure_is_a_picture(shown: tuple[DemoResult, str, Path]) -> None:
    result, printed, folder = shown
    assert result.figure == folder / "demo.png"
    content = result.figure.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) > 20_000
    assert str(result.figure) in printed


def test_second_call_shows_the_same_without_training(shown: tuple[DemoResult, str, Path]) -> None:
    result, _, folder = shown
    before = os.stat(RunFolder(folder / "arun").last_file).st_mtime_ns
    assert demo(folder, SMALL, Console(file=io.StringIO())) == result
    assert os.stat(RunFolder(folder / "arun").last_file).st_mtime_ns == before


def test_folder_with_other_settings_is_refused(shown: tuple[DemoResult, str, Path]) -> None:
    other = dataclasses.replace(SMALL, training=dataclasses.replace(SMALL.training, seed=1))
    with pytest.raises(RunError, match="other settings: name another folder with --output"):
        demo(shown[2], other, Console(file=io.StringIO()))
