"""Pieces of work on several processes: results in order, failures in their places, signals."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from rich.console import Console

from aru_lab.errors import DataError, Interrupted, LabError
from aru_lab.jobs import Report, run_jobs

QUIET = Console(quiet=True)


def square(item: int, report: Report) -> int:
    """The square of an item, but for 3, which fails, and 4, which is stopped."""
    report(0.5)
    if item == 3:
        raise DataError("three")
    if item == 4:
        raise Interrupted("Stopped.")
    return item * item


def process(folder: Path, report: Report) -> int:
    """The process that works on this item, while another waits for it."""
    (folder / str(os.getpid())).touch()
    deadline = time.monotonic() + 60
    while len(list(folder.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    return os.getpid()


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_come_in_order_and_a_failure_in_its_place(jobs: int) -> None:
    first, second, failed, last = run_jobs(square, [1, 2, 3, 5], jobs, "squares", QUIET)
    assert (first, second, last) == (1, 4, 25)
    assert isinstance(failed, DataError)
    assert str(failed) == "three"


def test_several_processes_work_at_the_same_time(tmp_path: Path) -> None:
    ids = run_jobs(process, [tmp_path, tmp_path], 2, "two", QUIET)
    assert len({*ids, os.getpid()}) == 3


def test_stopped_work_says_that_it_can_go_on() -> None:
    with pytest.raises(Interrupted, match=r"Stopped\. The same command goes on with all that is left"):
        run_jobs(square, [1, 4, 5], 1, "squares", QUIET)


def kill_itself(item: int, report: Report) -> None:
    """Die as when memory is short."""
    os.kill(os.getpid(), 9)


def test_killed_process_is_told() -> None:
    with pytest.raises(LabError, match=r"A process was killed .* the same command goes on with the rest"):
        run_jobs(kill_itself, [1, 2], 2, "deaths", QUIET)


def test_nothing_to_do() -> None:
    assert run_jobs(square, [], 2, "nothing", QUIET) == []
