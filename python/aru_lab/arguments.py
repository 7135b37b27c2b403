"""Checks of arguments. A value out of its range raises ConfigError with a sentence that names the argument."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from aru_lab.errors import ConfigError

MOST = 10**9  # upper limit of counts; a sentence mentions it only where a value exceeds it
FLOAT32_MAX = 3.4028234663852886e38

Kind = TypeVar("Kind")
_FLAGS = {"true": True, "false": False}


def check_choice(name: str, value: object, choices: Sequence[str], otherwise: str = "") -> None:
    """Raise ConfigError unless `value` is one of `choices`.

    Args:
        name: name of the argument, for the message.
        value: what the user passed.
        choices: permitted values.
        otherwise: end of the message, which names what else is permitted.

    Examples:
        >>> check_choice("dtype", "int8", ("float32", "float64"))
        Traceback (most recent call last):
        aru_lab.errors.ConfigError: dtype: got 'int8', expected one of float32, float64.
    """
    if not isinstance(value, str) or value not in choices:
        raise ConfigError(
            f"{name}: got {value!r}, expected one of {', '.join(choices)}{otherwise}.{suggestion(value, choices)}"
        )


def suggestion(came: object, choices: Iterable[str]) -> str:
    """A question after a sentence, " Did you mean ...?", if one of the choices resembles what came; else "".

    Args:
        came: what the user passed.
        choices: permitted values.

    Examples:
        >>> suggestion("trian", ("train", "evaluate"))
        ' Did you mean train?'
        >>> suggestion("fly", ("train", "evaluate"))
        ''
    """
    close = difflib.get_close_matches(came[:100], list(choices), n=1) if isinstance(came, str) else []
    return f" Did you mean {close[0]}?" if close else ""


def check_names(what: str, came: Iterable[str], known: Iterable[str]) -> None:
    """Raise ConfigError where one of the names that came is not known.

    Args:
        what: what has the names, for the message.
        came: the names that the user passed.
        known: permitted names.

    Examples:
        >>> check_names("config", ["epocs"], ["epochs", "seed"])
        Traceback (most recent call last):
        aru_lab.errors.ConfigError: config: got the unknown names epocs, expected epochs, seed. Did you mean epochs?
    """
    known = sorted(known)
    if unknown := sorted(set(came) - set(known)):
        raise ConfigError(
            f"{what}: got the unknown names {', '.join(unknown)}, expected {', '.join(known)}."
            f"{suggestion(unknown[0], known)}"
        )


def check_whole(name: str, value: object, lowest: int, highest: int | None = None, optional: bool = False) -> None:
    """Raise ConfigError unless `value` is an int (and no bool) of the range.

    Args:
        name: name of the argument, for the message.
        value: what the user passed.
        lowest: smallest permitted value.
        highest: largest permitted value; None sets no limit.
        optional: whether None is permitted.

    Examples:
        >>> check_whole("jobs", 0, lowest=1)
        Traceback (most recent call last):
        aru_lab.errors.ConfigError: jobs: got 0, expected a whole number of at least 1.
    """
    if value is None and optional:
        return
    whole = isinstance(value, int) and not isinstance(value, bool)
    too_large = whole and highest is not None and value > highest
    if not whole or value < lowest or too_large:
        bounded = too_large or highest not in (None, MOST)
        limit = f"from {lowest} to {highest}" if bounded else f"of at least {lowest}"
        raise ConfigError(f"{name}: got {_short(value)}, expected a whole number {limit}{' or None' * optional}.")


def check_positive(name: str, value: object, optional: bool = False, or_zero: bool = False) -> None:
    """Raise ConfigError unless `value` is a number above 0 that float32 can hold.

    Args:
        name: name of the argument, for the message.
        value: what the user passed.
        optional: whether None is permitted.
        or_zero: whether 0 is permitted.
    """
    if value is None and optional:
        return
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= FLOAT32_MAX
    if not number or (value == 0 and not or_zero):
        limit = "of at least 0" if or_zero else "above 0"
        raise ConfigError(
            f"{name}: got {_short(value)}, expected a finite number {limit} and within float32{' or None' * optional}."
        )


def check_fraction(
    name: str, value: object, with_0: bool = True, with_1: bool = True, optional: bool = False, what: str = "number"
) -> None:
    """Raise ConfigError unless `value` is a number between 0 and 1.

    Args:
        name: name of the argument, for the message.
        value: what the user passed.
        with_0, with_1: whether the ends are permitted.
        optional: whether None is permitted.
        what: what the value is, for the message.

    Examples:
        >>> check_fraction("leak", 0, with_0=False)
        Traceback (most recent call last):
        aru_lab.errors.ConfigError: leak: got 0, expected a number above 0 and at most 1.
    """
    if value is None and optional:
        return
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1
    if not number or (value == 0 and not with_0) or (value == 1 and not with_1):
        low, high = "of at least 0" if with_0 else "above 0", "at most 1" if with_1 else "below 1"
        limit = "from 0 to 1" if with_0 and with_1 else f"{low} and {high}"
        raise ConfigError(f"{name}: got {_short(value)}, expected a {what} {limit}{' or None' * optional}.")


def check_finite(name: str, value: object) -> None:
    """Raise ConfigError unless `value` is a number of either sign that float32 can hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= FLOAT32_MAX:
        raise ConfigError(f"{name}: got {_short(value)}, expected a finite number within float32.")


def _short(value: object) -> str:
    """`value` for a message. Python refuses to print an int of thousands of digits."""
    if isinstance(value, int) and abs(value) > 10**30:
        return "a number of more than 30 digits"
    return repr(value)


def parse_parameters(argument: str, text: str, kinds: Mapping[str, type[Kind]]) -> Kind:
    """The object that a text such as NAME or NAME:PARAMETER=VALUE,... describes.

    Args:
        argument: name of the argument, for messages.
        text: what the user passed.
        kinds: by name, a dataclass whose fields are numbers and flags; see `parameters_of`.

    Raises:
        ConfigError: an unknown name or parameter, a missing one, or a value that does not fit.
    """
    name, _, rest = text.partition(":")
    if name not in kinds:
        forms = ", ".join(usage(*item) for item in kinds.items())
        raise ConfigError(f"{argument}: got {text!r}, expected one of {forms}.")
    fields = {field.name: field for field in parameters_of(kinds[name])}
    expected = usage(name, kinds[name])
    values: dict[str, float | int | bool] = {}
    for item in filter(None, rest.split(",")):
        key, _, value = item.partition("=")
        if key not in fields or key in values:
            raise ConfigError(
                f"{argument}: got {item!r} in {text!r}, expected {expected}, each parameter once."
                f"{suggestion(key, fields)}"
            )
        if fields[key].type == "bool":
            if value not in _FLAGS:
                raise ConfigError(f"{argument}: got {item!r} in {text!r}, expected true or false after the sign =.")
            values[key] = _FLAGS[value]
            continue
        try:
            values[key] = int(value) if "int" in str(fields[key].type) else float(value)
        except ValueError as error:
            raise ConfigError(f"{argument}: got {item!r} in {text!r}, expected a number after the sign =.") from error
    missing = [key for key, field in fields.items() if field.default is dataclasses.MISSING and key not in values]
    if missing:
        raise ConfigError(f"{argument}: got {text!r} without {', '.join(missing)}, expected {expected}.")
    try:
        return kinds[name](**values)
    except ConfigError as error:
        raise ConfigError(f"{argument}: {text!r}: {error}") from error


def parameters_of(kind: Any) -> list[dataclasses.Field[Any]]:
    """The fields of a dataclass, or of an object of one, that `parse_parameters` reads: without {"option": False}."""
    return [field for field in dataclasses.fields(kind) if field.metadata.get("option", True)]


def usage(name: str, kind: type[Any]) -> str:
    """How an object of a dataclass is written for `parse_parameters`, with optional parameters in brackets."""
    parameters = [
        f"{field.name}=..." if field.default is dataclasses.MISSING else f"[{field.name}=...]"
        for field in parameters_of(kind)
    ]
    return f"{name}:{','.join(parameters)}"


def as_names(name: str, value: object) -> tuple[str, ...]:
    """A list of names as a tuple: JSON has lists and no tuples.

    Raises:
        ConfigError: it is something else.
    """
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise ConfigError(f"{name}: got {value!r}, expected a list of names.")
    return tuple(value)


def as_path(name: str, value: object) -> Path:
    """A path, absolute unless it is an `output`: a run is found again from any folder, and its own may be moved.

    Raises:
        ConfigError: it is something else.
    """
    if not isinstance(value, (str, Path)):
        raise ConfigError(f"{name}: got {value!r}, expected a path or None.")
    return Path(value) if name == "output" else Path(os.path.abspath(value))
