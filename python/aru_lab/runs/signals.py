"""Termination signals, obeyed at the next safe moment."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Any

# SIGHUP comes when the terminal closes or the connection breaks. Windows has none; there Ctrl-Break, which other
# programs can send too (CTRL_BREAK_EVENT), is SIGBREAK.
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
STOPPING = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))
SAME_REQUEST_SECONDS = 2.0  # service managers and shells send SIGTERM and SIGHUP together


class StopRequest:
    """Within the block, the first of Ctrl-C, SIGTERM, SIGHUP and SIGBREAK is only recorded; the next one acts as usual.

    Another one of these within two seconds belongs to the same request. A signal that was ignored before the block
    (SIGHUP under nohup) stays ignored.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._since = 0.0
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> None:
        # Python lets only the main thread set handlers.
        if threading.current_thread() is threading.main_thread():
            for number in STOPPING:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._handlers[number] = signal.signal(number, self._note)

    def __exit__(self, *_: Any) -> None:
        self._restore()

    def _note(self, number: int, _frame: Any) -> None:
        if self.received is None:
            self.received, self._since = number, time.monotonic()
        elif number == self.received or time.monotonic() - self._since > SAME_REQUEST_SECONDS:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()


def terminate_this_process() -> None:
    """Send SIGTERM to this process, from any thread; a handler runs in the main thread."""
    if sys.platform == "win32":
        signal.raise_signal(signal.SIGTERM)  # os.kill would end the process without calling the handler
    else:
        os.kill(os.getpid(), signal.SIGTERM)  # a signal that another thread raises does not wake the main thread
