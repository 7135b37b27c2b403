"""Checks of the arguments of analyses."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from aru_lab.arguments import check_whole
from aru_lab.errors import ConfigError, LabError, number_of


class AnalysisError(LabError):
    """The numbers do not permit the analysis: a singular Jacobian, a fit that the points do not determine."""


def array(name: str, value: Any, ndim: int | None = None, least: int = 1) -> np.ndarray:
    """`value` (array, tensor or sequence) as a float64 array without NaN or infinity.

    Args:
        name: of the argument, for the message.
        value: the numbers.
        ndim: number of dimensions; None takes any from 1.
        least: smallest size of the last dimension.

    Raises:
        ConfigError: not numbers, not finite, or of another shape.
    """
    try:
        x = np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name}: got {type(value).__name__}, expected an array of numbers ({error}).") from error
    if x.ndim < 1 or (ndim is not None and x.ndim != ndim):
        dimensions = "at least 1 dimension" if ndim is None else number_of(ndim, "dimension")
        raise ConfigError(f"{name}: got an array of shape {x.shape}, expected {dimensions}.")
    if x.shape[-1] < least:
        raise ConfigError(
            f"{name}: got an array of shape {x.shape}, expected at least {least} values in the last axis."
        )
    if not np.isfinite(x).all():
        raise ConfigError(f"{name}: got {np.count_nonzero(~np.isfinite(x))} values that are not finite.")
    return x


def whole(name: str, value: Any, lowest: int = 1) -> int:
    """`value` as an int of at least `lowest`.

    Raises:
        ConfigError: it is not.
    """
    number = int(value) if isinstance(value, np.integer) else value
    check_whole(name, number, lowest)
    return number


def number(name: str, value: Any, lowest: float | None = None, open_end: bool = False) -> float:
    """`value` as a finite float, of at least `lowest` (above it if `open_end`).

    Raises:
        ConfigError: it is not.
    """
    try:
        x = float(value)
    except (TypeError, ValueError):
        x = np.nan
    too_low = lowest is not None and (x < lowest or (open_end and x == lowest))
    if not np.isfinite(x) or too_low:
        limit = "" if lowest is None else f" {'above' if open_end else 'of at least'} {lowest:g}"
        raise ConfigError(f"{name}: got {value!r}, expected a finite number{limit}.")
    return x
