"""Arguments that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from aru_lab.errors import ConfigError

Run = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
Runs = Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN [RUN ...]")]


def check_runs(runs: tuple[Path, ...]) -> None:
    """Raise ConfigError where no run is named."""
    if not runs:
        raise ConfigError("run: got no run, expected the folder of at least one.")
