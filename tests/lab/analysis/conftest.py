"""Tiny trained runs, and settings with which their analyses take a second."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from aru_lab.analysis.settings import Settings
from aru_lab.experiments.analyse import analyse
from aru_lab.experiments.robustness import robustness
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.sensitivity import Strengths
from aru_lab.runs.training import train

SETTINGS = Settings(
    (0.0, 0.5, 1.0, 2.0, 4.0),
    repeats=2,
    sequences=8,
    examples=12,
    starts=3,
    steps=20,
    transient=4,
    exponents=2,
    grid=3,
)
STRENGTHS = Strengths((-4.0, 0.0, 4.0), (0.0, 0.5), (0.0, 1.0), (0.0, 0.5), (0.0, 1.0), test_subset=50)
SIZES = "--repeats 2 --sequences 8 --examples 12 --starts 3 --steps 20 --transient 4 --exponents 2 --grid 3"
OPTIONS = ["--amplitudes", "0", "0.5", "1", "2", "4", *SIZES.split()]


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def train_tiny(folder: Path, model: str, **options: object) -> Path:
    arguments = {"task": "sdigits", "hidden_size": 6, "controller_size": 3, "epochs": 1, "subset": 60}
    arguments |= {"validation_subset": 20, "device": "cpu", "output": folder / f"{model}{options.get('seed', 0)}"}
    return train(TrainConfig(model=model, **(arguments | options)), quiet()).run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Run folders by name, not to be written to."""
    folder = tmp_path_factory.mktemp("trained")
    runs = {model: train_tiny(folder, model) for model in ("arun", "gamma-heterogeneous", "relu", "lstm")}
    return runs | {"arun1": train_tiny(folder, "arun", seed=1)}


@pytest.fixture(scope="session")
def analysed(trained: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same with all analyses and their sensitivity, not to be written to."""
    folder = tmp_path_factory.mktemp("analysed")
    runs = {name: Path(shutil.copytree(path, folder / name)) for name, path in trained.items()}
    for name, path in runs.items():
        if name != "lstm":
            analyse(path, settings=SETTINGS, console=quiet())
    robustness(list(runs.values()), folder / "sensitivity", STRENGTHS, console=quiet())
    return runs


@pytest.fixture
def arun(analysed: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the analysed ARUN, to be written to."""
    return Path(shutil.copytree(analysed["arun"], tmp_path / "arun"))
