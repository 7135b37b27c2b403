"""Many pieces of work, one after the other or on several processes, with one progress bar.

Each piece must save what it has done: where one is killed, the next call begins there.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from aru_lab.errors import Interrupted, LabError

Item = TypeVar("Item")
Result = TypeVar("Result")
Report = Callable[[float], None]

GRACE_SECONDS = 2.0  # Ctrl-C in a terminal reaches every process, and a second signal would end it without a checkpoint
PATIENCE_SECONDS = 30.0


def run_jobs(
    function: Callable[[Item, Report], Result],
    items: Sequence[Item],
    jobs: int,
    label: str,
    console: Console | None = None,
) -> list[Result | LabError]:
    """function(item, report) of every item, in their order; a LabError takes the place of the result that it prevented.

    Args:
        function: the work on one item, importable by name (processes import it); it may call report(fraction done).
        items: what to work on; picklable.
        jobs: processes; with 1 the work is done in this one.
        label: shown beside the bar.
        console: where the bar goes; None is standard error.

    Raises:
        Interrupted: a signal stopped the work.
    """
    console = console or Console(stderr=True)
    columns = (
        TextColumn(label),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[done]} of {task.fields[items]}, {task.percentage:.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
    )
    results: list[Result | LabError] = []
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(label, total=max(1, len(items)), done=0, items=len(items))
        fractions = [0.0] * len(items)

        def report(k: int, fraction: float) -> None:
            fractions[k] = max(fractions[k], fraction)
            finished = sum(part >= 1 for part in fractions)
            progress.update(bar, completed=sum(fractions), done=finished)

        if jobs > 1 and len(items) > 1:
            results = _on_processes(function, items, jobs, report)
        else:
            for k, item in enumerate(items):
                results.append(_attempt(function, item, lambda fraction, k=k: report(k, fraction)))
                if isinstance(results[-1], Interrupted):
                    break
                report(k, 1.0)
    for result in results:
        if isinstance(result, Interrupted):
            raise Interrupted(f"{result} The same command goes on with all that is left.")
    return results


def _attempt(function: Callable[[Item, Report], Result], item: Item, report: Report) -> Result | LabError:
    try:
        return function(item, report)
    except LabError as error:
        return error


def _on_processes(
    function: Callable[[Item, Report], Result], items: Sequence[Item], jobs: int, report: Callable[[int, float], None]
) -> list[Result | LabError]:
    # "spawn": a forked process would inherit the threads' locks of torch, but not the threads.
    context = multiprocessing.get_context("spawn")
    queue, stop = context.SimpleQueue(), context.Event()
    pool = ProcessPoolExecutor(min(jobs, len(items)), context, _begin, (queue, stop))
    reader = threading.Thread(target=_read, args=(queue, report), daemon=True)
    reader.start()
    try:
        futures: list[Future] = [pool.submit(_work, function, item, k) for k, item in enumerate(items)]
        for k, future in enumerate(futures):
            future.add_done_callback(lambda done, k=k: done.cancelled() or queue.put((k, 1.0)))
        wait(futures)
        return [future.result() for future in futures]
    except BrokenProcessPool as error:
        raise LabError(
            "A process was killed (is there enough memory?); what is finished is kept, and the same command goes on "
            "with the rest."
        ) from error
    except KeyboardInterrupt:
        stop.set()
        raise Interrupted("Stopped; the same command goes on with all that is left.") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        queue.put(None)
        reader.join()


def _read(queue: Any, report: Callable[[int, float], None]) -> None:
    while (message := queue.get()) is not None:
        report(*message)


_queue: Any = None
_stop: Any = None


def _begin(queue: Any, stop: Any) -> None:
    global _queue, _stop
    _queue, _stop = queue, stop
    threading.Thread(target=_watch, args=(stop,), daemon=True).start()


def _watch(stop: Any) -> None:
    """End this process, after a checkpoint, when the one that started it asks for that or is dead."""
    parent = multiprocessing.parent_process()
    while not (stop.is_set() or wait_for([parent.sentinel], timeout=0.5)):
        pass
    if stop.is_set():
        time.sleep(GRACE_SECONDS)
    while True:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(PATIENCE_SECONDS)


def _work(function: Callable[[Item, Report], Result], item: Item, k: int) -> Result | LabError:
    if _stop.is_set():
        return Interrupted("Stopped.")
    return _attempt(function, item, lambda fraction: _queue.put((k, fraction)))
