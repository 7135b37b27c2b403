"""Checks of arguments. A value out of its range raises ConfigError with a sentence that names the argument."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from aru_lab.errors import ConfigError

MOST = 10**9  # upper limit of counts; a sentence mentions it only where a value exceeds it
FLOAT32_MAX = 3.4028234663852886e38


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


def check_finite(name: str, value: object) -> None:
    """Raise ConfigError unless `value` is a number of either sign that float32 can hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= FLOAT32_MAX:
        raise ConfigError(f"{name}: got {_short(value)}, expected a finite number within float32.")


def _short(value: object) -> str:
    """`value` for a message. Python refuses to print an int of thousands of digits."""
    if isinstance(value, int) and abs(value) > 10**30:
        return "a number of more than 30 digits"
    return repr(value)
