"""The smallest run, from which tests of training depart."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

from rich.console import Console

from aru_lab.runs import training
from aru_lab.runs.config import TrainConfig
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
