"""One piece of work, whose error is a result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from aru_lab.errors import LabError, as_lab_error
from aru_lab.files import reason

Item = TypeVar("Item")
Result = TypeVar("Result")
Report = Callable[[float], None]


def attempt(function: Callable[[Item, Report], Result], item: Item, report: Report) -> Result | LabError:
    """The result of one item, or its error."""
    try:
        return function(item, report)
    except Exception as error:
        return as_lab_error(error) or _unexpected(error)


def _unexpected(error: Exception) -> LabError:
    """A fault of the program, in a sentence: the other pieces of work must not be lost for it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f"{Path(trace.tb_frame.f_code.co_filename).name}, line {trace.tb_lineno}" if trace else "unknown"
    return LabError(f"An unexpected {type(error).__name__} ({reason(error)}; {place}); please report it.")
