"""Run many items of work, in order, on several processes or as jobs of a cluster, with one progress bar.

Each item must save its progress, so that the next call can continue a killed one.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from aru_lab.errors import Interrupted, LabError, MachineError
from aru_lab.experiments.attempts import attempt
from aru_lab.experiments.slurm import Slurm, run_on_cluster
from aru_lab.runs.signals import STOPPING, terminate_this_process
from aru_lab.terminal import progress_console, say

Item = TypeVar("Item")
Result = TypeVar("Result")
Report = Callable[[float], None]

GRACE_SECONDS = 2.0  # Ctrl-C in a terminal reaches every process, and a second signal would end it without a checkpoint
PATIENCE_SECONDS = 30.0
WATCH_SECONDS = 2.0


def run_jobs(
    function: Callable[[Item, Report], Result],
    items: Sequence[Item],
    jobs: int | Slurm,
    label: str,
    console: Console | None = None,
    note: Callable[[int, Result | LabError], None] = lambda k, result: None,
) -> list[Result | LabError]:
    """Return function(item, report) for every item, in order; where an item fails, its error takes the result's place.

    The other items continue.

    Args:
        function: the work on one item, importable by name (processes import it); it may call report(fraction done).
        items: what to work on; picklable.
        jobs: processes; with 1 the work is done in this one. A `Slurm` makes every item a job of the cluster.
        label: shown beside the bar.
        console: where the bar goes; None is standard error.
        note: called with the index and the result or error of every item of a cluster as it comes.

    Raises:
        Interrupted: a signal stopped the work, or the waiting for a cluster.
        ConfigError, MachineError: the cluster can't be used.
    """
    console = console or progress_console(stderr=True)
    columns = (
        TextColumn(label, markup=False),
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

        if isinstance(jobs, Slurm):
            of_item: dict[int, Result | LabError] = {}

            def note_job(k: int, result: Result | LabError) -> None:
                of_item[k] = result
                report(k, 1.0)
                note(k, result)

            with _stoppable():
                run_on_cluster(function, items, jobs, label, note_job, lambda sentence: say(console, sentence))
            return [of_item[k] for k in range(len(items))]
        if jobs > 1 and len(items) > 1:
            results = _on_processes(function, items, jobs, report)
        else:
            for k, item in enumerate(items):
                results.append(attempt(function, item, lambda fraction, k=k: report(k, fraction)))
                if isinstance(results[-1], Interrupted):
                    break
                report(k, 1.0)
    for result in results:
        if isinstance(result, Interrupted):
            raise Interrupted(f"{result} The same command goes on with all that is left.")
    return results


def threads_each(jobs: int | Slurm) -> int | None:
    """Threads for each of the pieces of work that run at a time; None leaves the choice to torch, where one runs."""
    if isinstance(jobs, Slurm):
        return jobs.cpus
    return max(1, (os.cpu_count() or 1) // jobs) if jobs > 1 else None


def _on_processes(
    function: Callable[[Item, Report], Result], items: Sequence[Item], jobs: int, report: Callable[[int, float], None]
) -> list[Result | LabError]:
    results: dict[int, Result | LabError] = {}
    with _stoppable():
        left = list(range(len(items)))
        while left:
            done, begun = _in_pool(function, {k: items[k] for k in left}, jobs, report)
            results |= done
            # A process that dies takes all with it. Which item was the reason is found by trying those that were under
            # way one by one.
            for k in (k for k in left if k in begun and k not in done):
                alone, _ = _in_pool(function, {k: items[k]}, 1, report)
                killed = MachineError(
                    "A process was killed (is there enough memory?); what is finished is kept, and the same command "
                    "tries it again."
                )
                results[k] = alone.get(k, killed)
            left = [k for k in left if k not in results]
    return [results[k] for k in range(len(items))]


def _in_pool(
    function: Callable[[Item, Report], Result], items: dict[int, Item], jobs: int, report: Callable[[int, float], None]
) -> tuple[dict[int, Result | LabError], set[int]]:
    """The results of those items that were finished before a process died, if one did, and all that were begun."""
    # "spawn": a forked process would inherit the threads' locks of torch, but not the threads.
    context = multiprocessing.get_context("spawn")
    messages, stop = context.Queue(), context.Event()
    begun: set[int] = set()

    def note(k: int, fraction: float) -> None:
        begun.add(k)
        report(k, fraction)

    ended = threading.Event()
    reader = threading.Thread(target=_read, args=(messages, ended, note), daemon=True)
    reader.start()
    pool = ProcessPoolExecutor(min(jobs, len(items)), context, _begin, (messages, stop))
    futures: dict[int, Future] = {}
    try:
        with contextlib.suppress(BrokenProcessPool):  # a process has died before all were submitted
            for k, item in items.items():
                futures[k] = pool.submit(_work, function, item, k)
                futures[k].add_done_callback(lambda done, k=k: done.cancelled() or done.exception() or note(k, 1.0))
            # The pool may not watch the process that it started last until it is woken, which every submission does.
            while wait(futures.values(), WATCH_SECONDS).not_done:
                pool.submit(os.getpid)
        wait(futures.values())
    except KeyboardInterrupt:
        stop.set()
        raise Interrupted("Stopped; the same command goes on with all that is left.") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        ended.set()
        reader.join(PATIENCE_SECONDS)
    results = {
        k: future.result() for k, future in futures.items() if not isinstance(future.exception(), BrokenProcessPool)
    }
    # Where processes die before they begin anything, as when there is no memory for even one, each item may be why.
    return results, begun or items.keys() - results.keys()


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGTERM, SIGHUP and SIGBREAK stop the work as Ctrl-C does; an ignored signal stays ignored."""
    before: dict[int, Any] = {}

    def interrupt(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        for number in STOPPING:
            if signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _read(messages: Any, ended: threading.Event, note: Callable[[int, float], None]) -> None:
    while not (ended.is_set() and messages.empty()):
        with contextlib.suppress(queue.Empty):
            note(*messages.get(timeout=0.1))


_messages: Any = None
_stop: Any = None


def _begin(messages: Any, stop: Any) -> None:
    global _messages, _stop
    _messages, _stop = messages, stop
    # A process that is killed while it writes a message keeps the others' messages back; they must end all the same.
    messages.cancel_join_thread()
    threading.Thread(target=_watch, args=(stop,), daemon=True).start()


def _watch(stop: Any) -> None:
    """End this process, after a checkpoint, when the one that started it asks for that or is dead."""
    parent = multiprocessing.parent_process()
    while not (stop.is_set() or wait_for([parent.sentinel], timeout=0.5)):
        pass
    # Whoever stopped or ended the other process may have sent this one the same signal.
    time.sleep(GRACE_SECONDS)
    while True:
        terminate_this_process()
        time.sleep(PATIENCE_SECONDS)


def _work(function: Callable[[Item, Report], Result], item: Item, k: int) -> Result | LabError:
    if _stop.is_set():
        return Interrupted("Stopped.")
    _messages.put((k, 0.0))
    result = attempt(function, item, lambda fraction: _messages.put((k, fraction)))
    if isinstance(result, Interrupted) and not _stop.is_set():
        # The signal was not from the process that waits for the result: where another of its processes has died it
        # sends one to all, waits until they end, and works on this item again.
        os._exit(Interrupted.exit_code)
    return result
