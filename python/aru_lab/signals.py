"""A termination signal that is obeyed at the next good moment."""

from __future__ import annotations

import signal
import threading
from typing import Any


class StopRequest:
    """Within the block, the first SIGINT or SIGTERM is only noted; the second acts as it would have without."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> None:
        # Python lets only the main thread set handlers.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._note)

    def __exit__(self, *_: Any) -> None:
        self._restore()

    def _note(self, number: int, _frame: Any) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()
