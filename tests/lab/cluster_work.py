"""Pieces of work that a job of a cluster can import."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from aru_lab.errors import DataError


def square(item: int, report: Callable[[float], None]) -> int:
    """The square of an item, but for 3, which fails."""
    report(0.5)
    if item == 3:
        raise DataError("three")
    return item * item


def wait_for(item: Path, report: Callable[[float], None]) -> str:
    """Note that the work has begun, wait until the file `go` is there, and tell how often it was begun."""
    with (item / "begun").open("a") as begun:
        begun.write(f"{os.getpid()}\n")
    end = time.monotonic() + 120
    while not (item / "go").exists() and time.monotonic() < end:
        time.sleep(0.1)
    return (item / "begun").read_text()


def die(item: int, report: Callable[[float], None]) -> None:
    """End without a result."""
    os._exit(1)
