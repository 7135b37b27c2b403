"""The metrics of a run for TensorBoard, in RUN/tensorboard."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aru_lab.errors import ConfigError, RunError, typed
from aru_lab.files import reason


def summary_writer() -> Any:
    """torch's SummaryWriter, imported only on request.

    Raises:
        ConfigError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            "tensorboard: TensorBoard is not installed; `pip install tensorboard`, or leave --tensorboard away."
        ) from error
    return SummaryWriter


class Logs:
    """Writes the metrics of each epoch.

    Args:
        writer: `summary_writer()`.
        folder: RUN/tensorboard.
        purge_step: first epoch to come; what a killed run wrote of it counts no more.

    Raises:
        RunError: the folder can't be written to.
    """

    def __init__(self, writer: Any, folder: Path, purge_step: int) -> None:
        self._folder = folder
        with self._told():
            self._writer = writer(str(folder), purge_step=purge_step)

    def write(self, entry: dict[str, Any]) -> None:
        """Write one dictionary of metrics, and bring it to the disk.

        Raises:
            RunError: it can't be written.
        """
        with self._told():
            for name in entry.keys() - {"epoch", "step"}:
                self._writer.add_scalar(name, entry[name], entry["epoch"])
            self._writer.flush()

    def close(self) -> None:
        """End the files."""
        with self._told():
            self._writer.close()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        before = threading.excepthook

        def hook(failure: Any) -> None:
            # TensorBoard writes in a thread of its own; flush() at the latest raises its error again.
            foreign = type(failure.thread).__module__.startswith("tensorboard")
            if not (foreign and issubclass(failure.exc_type, OSError)):
                before(failure)

        threading.excepthook = hook
        try:
            yield
        except OSError as error:
            raise RunError(
                f"{self._folder} can't be written ({reason(error)}); make room or mend the permissions, then `aru "
                f"train --resume {typed(self._folder.parent)}` continues from what was saved before."
            ) from error
        finally:
            threading.excepthook = before
