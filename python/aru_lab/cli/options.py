"""Arguments that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from aru_lab.errors import ConfigError

Run = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
Quiet = Annotated[
    tyro.conf.FlagCreatePairsOff[bool],
    tyro.conf.arg(aliases=("-q",), help="Print only results and errors, and no progress."),
]
ConfigFile = Annotated[
    Path | None,
    tyro.conf.arg(
        metavar="FILE",
        help="JSON file of options: config.json of a run (its folder and, for a sweep, its model and seed are left "
        'out), or one object such as {"epochs": 5}. Options given beside it win over the file.',
    ),
]
Runs = Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN [RUN ...]")]


def check_runs(runs: tuple[Path, ...]) -> None:
    """Raise ConfigError where no run is named."""
    if not runs:
        raise ConfigError("run: got no run, expected the folder of at least one.")
