"""Pieces of work on several processes: results in order, failures in their places, signals."""

from __future__ import annotations

import _thread
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from rich.console import Console

from aru_lab.errors import DataError, Interrupted, LabError, MachineError
from aru_lab.experiments.processes import Report, run_jobs
from aru_lab.runs.signals import StopRequest, terminate_this_process

from .conftest import with_sources

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


def kill_itself_at_2(item: int, report: Report) -> int:
    """Die as when memory is short, for one of the items."""
    if item == 2:
        kill_itself(item, report)
    return item


def test_killed_process_is_told_and_the_other_work_is_done() -> None:
    results = run_jobs(kill_itself_at_2, [1, 2, 3, 4, 5], 2, "deaths", QUIET)
    assert isinstance(results[1], MachineError)
    assert re.match(r"A process was killed .* the same command tries it again\.$", str(results[1]))
    assert [result for result in results if result is not results[1]] == [1, 3, 4, 5]


def test_processes_that_all_die() -> None:
    results = run_jobs(kill_itself, [1, 2], 2, "deaths", QUIET)
    assert [type(result) for result in results] == [MachineError, MachineError]


def save_and_stop(item: Path, report: Report) -> str:
    """As training does: a signal is only noted, and the work ends at the next good moment; the second time it ends."""
    stop = StopRequest()
    if item.exists():
        return ""
    with stop:
        item.touch()
        while stop.received is None:
            time.sleep(0.01)
    raise Interrupted("Stopped.")


def die_beside(item: Path, report: Report) -> str:
    """Die once, when the other work is under way."""
    if item.name == "waits":
        return save_and_stop(item, report)
    if not item.exists():
        item.touch()
        while not item.with_name("waits").exists():
            time.sleep(0.01)
        kill_itself(0, report)
    return "again"


def test_work_that_a_dying_process_interrupts_is_taken_up_again(tmp_path: Path) -> None:
    assert run_jobs(die_beside, [tmp_path / "waits", tmp_path / "dies"], 2, "one death", QUIET) == ["", "again"]


def test_the_death_of_a_process_that_starts_late_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool's own thread looks at its processes while this one is still being started."""
    start = ProcessPoolExecutor._adjust_process_count

    def start_late(pool: ProcessPoolExecutor) -> None:
        time.sleep(0.3)
        start(pool)

    monkeypatch.setattr(ProcessPoolExecutor, "_adjust_process_count", start_late)
    assert run_jobs(die_beside, [tmp_path / "waits", tmp_path / "dies"], 2, "one death", QUIET) == ["", "again"]


def wrong(item: int, report: Report) -> int:
    """A fault of the program for one of the items, and short memory for another."""
    if item == 2:
        raise KeyError("fault")
    if item == 3:
        raise MemoryError
    return item


@pytest.mark.parametrize("jobs", [1, 2])
def test_fault_of_the_program_does_not_end_the_other_work(jobs: int) -> None:
    first, fault, memory, last = run_jobs(wrong, [1, 2, 3, 4], jobs, "faults", QUIET)
    assert (first, last) == (1, 4)
    assert isinstance(fault, LabError)
    assert re.match(
        r"An unexpected KeyError \(it has no 'fault'; test_jobs\.py, line \d+\); please report it\.$", str(fault)
    )
    assert isinstance(memory, MachineError)
    assert "not enough memory" in str(memory)


def wait_for_ever(item: Path, report: Report) -> None:
    """Say that the work has begun, and wait."""
    item.touch()
    time.sleep(60)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs POSIX signals")
@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP"])
def test_termination_stops_the_processes_and_says_so(tmp_path: Path, number: str) -> None:
    items = [tmp_path / name for name in "ab"]
    threading.Thread(target=_terminate, args=(items, getattr(signal, number)), daemon=True).start()
    handler = signal.getsignal(getattr(signal, number))
    with pytest.raises(Interrupted, match="the same command goes on"):
        run_jobs(wait_for_ever, items, 2, "waiting", QUIET)
    assert signal.getsignal(getattr(signal, number)) == handler


def _terminate(items: list[Path], number: int) -> None:
    while not all(item.exists() for item in items):
        time.sleep(0.01)
    os.kill(os.getpid(), number)


def save_on_windows(item: Path, report: Report) -> None:
    """As training does, in a process whose os.kill is that of Windows: it calls no handler."""
    sys.platform = "win32"
    os.kill = lambda *_: os._exit(1)
    try:
        save_and_stop(item, report)
    finally:
        item.with_suffix(".saved").touch()


def test_stopped_processes_save_on_windows_too(tmp_path: Path) -> None:
    items = [tmp_path / name for name in "ab"]
    threading.Thread(target=_interrupt, args=(items,), daemon=True).start()
    with pytest.raises(Interrupted, match="the same command goes on"):
        run_jobs(save_on_windows, items, 2, "waiting", QUIET)
    assert all(item.with_suffix(".saved").exists() for item in items)


def _interrupt(items: list[Path]) -> None:
    while not all(item.exists() for item in items):
        time.sleep(0.01)
    _thread.interrupt_main()


@pytest.mark.parametrize("platform", [sys.platform, "win32"])
def test_a_process_terminates_itself(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From another thread, and the handler runs."""
    monkeypatch.setattr(sys, "platform", platform)
    if platform == "win32":
        monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("os.kill calls no handler on Windows"))
    stop = StopRequest()
    with stop:
        thread = threading.Thread(target=terminate_this_process)
        thread.start()
        thread.join()
        deadline = time.monotonic() + 10
        while stop.received is None and time.monotonic() < deadline:
            time.sleep(0.01)
    assert stop.received == signal.SIGTERM


BREAK = """
import signal
signal.SIGBREAK = signal.SIGUSR1  # which this system has in its place
from aru_lab.runs import signals
stop = signals.StopRequest()
with stop:
    signal.raise_signal(signal.SIGUSR1)
assert stop.received == signal.SIGBREAK
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has SIGBREAK itself")
def test_ctrl_break_stops_as_ctrl_c_does() -> None:
    done = subprocess.run([sys.executable, "-c", BREAK], env=with_sources(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_nothing_to_do() -> None:
    assert run_jobs(square, [], 2, "nothing", QUIET) == []
