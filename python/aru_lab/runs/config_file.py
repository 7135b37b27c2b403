"""The file of `--config`: options as a run, a kept network or an analysis has them, or written by hand."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from safetensors import safe_open

from aru_lab.arguments import check_names
from aru_lab.errors import ConfigError
from aru_lab.files import read_bytes, reading
from aru_lab.runs.config import TrainConfig

ADVICE = "name a file that --config takes, or leave --config away."
_KINDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", Path: "a path"}

Kind = TypeVar("Kind")


def read_config_file(path: Path, of_run: Sequence[str] = ("output",)) -> TrainConfig:
    """The configuration of training in a file.

    Args:
        path: config.json of a run, NAME.safetensors of a kept network, or one JSON object whose names are those of
            `TrainConfig`'s fields; what that object lacks has its default.
        of_run: fields that are a run's own, such as its folder: they are not taken from what a run wrote.

    Raises:
        ConfigError: the file can't be read, or has an unknown name or a value out of its range.
    """
    values, of_a_run = read_values(path)
    try:
        # what a run lacks is damage; what a file written by hand lacks is not
        config = TrainConfig.from_json(values if of_a_run else TrainConfig().to_json() | values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    standard = TrainConfig()
    own = {name: getattr(standard, name) for name in of_run if of_a_run}
    return dataclasses.replace(config, **own)


def read_values(path: Path) -> tuple[dict[str, Any], bool]:
    """The options in a file by name, and whether they are the configuration that a run wrote.

    Raises:
        ConfigError: the file can't be read.
    """
    with reading(path, ConfigError, ADVICE):
        kept = path.suffix == ".safetensors"
        if kept:
            with safe_open(path, "numpy") as file:
                values = json.loads(file.metadata()["config"])
        else:
            values = json.loads(read_bytes(path).decode("utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it is not a JSON object")
    if not kept and isinstance(values.get("config"), dict):
        return values["config"], True
    return values, kept


def options_from(path: Path, kind: type[Kind], values: dict[str, Any]) -> Kind:
    """The object of a dataclass of options, whose values are those of a file or else its defaults.

    Args:
        path: the file, which the error names.
        kind: the dataclass. Its fields are numbers, texts, flags and paths, or tuples of these, or None.
        values: by the fields' names, as JSON has them.

    Raises:
        ConfigError: an unknown name, or a value of another kind or out of its range.
    """
    hints = typing.get_type_hints(kind)
    try:
        check_names("config", values, hints)
        return kind(**{name: _converted(name, value, hints[name]) for name, value in values.items()})
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _converted(name: str, value: Any, hint: Any) -> Any:
    """A value of JSON as the type that a field has."""
    union = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    expected = []
    for one in union:
        if one is type(None):
            expected.append("null")
            fits = value is None
        elif typing.get_origin(one) is tuple:
            item = typing.get_args(one)[0]
            expected.append(f"a list, each of it {_KINDS[item]}")
            fits = isinstance(value, list) and all(_is(item, part) for part in value)
        else:
            expected.append(_KINDS[one])
            fits = _is(one, value)
        if fits:
            return tuple(value) if isinstance(value, list) else Path(value) if one is Path else value
    raise ConfigError(f"{name}: got {value!r}, expected {' or '.join(expected)}.")


def _is(kind: type, value: Any) -> bool:
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    return isinstance(value, {float: (int, float), Path: str}.get(kind, kind))
