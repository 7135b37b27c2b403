"""The file of `--config`: options of training, as config.json of a run has them or written by hand."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from aru_lab.errors import ConfigError
from aru_lab.files import read_bytes, reading
from aru_lab.runs.config import TrainConfig


def read_config_file(path: Path, of_run: Sequence[str] = ("output",)) -> TrainConfig:
    """The configuration in a JSON file.

    The file is config.json of a run, or one object whose names are those of `TrainConfig`'s fields; what it lacks has
    its default.

    Args:
        path: the file.
        of_run: fields that are a run's own, such as its folder: they are not taken from a run's config.json.

    Raises:
        ConfigError: the file can't be read, or has an unknown name or a value out of its range.
    """
    with reading(path, ConfigError, "name a run's config.json, or leave --config away."):
        content = json.loads(read_bytes(path).decode("utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is not a JSON object")
    is_run = isinstance(content.get("config"), dict)
    try:
        # what a run lacks is damage; what a file written by hand lacks is not
        config = TrainConfig.from_json(content["config"] if is_run else TrainConfig().to_json() | content)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    standard = TrainConfig()
    own = {name: getattr(standard, name) for name in of_run if is_run}
    return dataclasses.replace(config, **own)
