"""The folder of a run, and files that are either whole or absent.

config.json    the configuration and where it ran
metrics.jsonl  one line an epoch
last.pt        everything needed to go on
best.pt        the weights of the epoch with the best validation accuracy
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from aru_lab.config import TrainConfig
from aru_lab.errors import ConfigError, RunError

try:
    import fcntl
except ImportError:  # Windows: two processes in one run folder are not told apart there
    fcntl = None

TEMPORARY_SUFFIX = ".partial"


@dataclass(frozen=True)
class RunFolder:
    """The files of one run below `path`."""

    path: Path

    @property
    def config_file(self) -> Path:
        """config.json."""
        return self.path / "config.json"

    @property
    def metrics_file(self) -> Path:
        """metrics.jsonl."""
        return self.path / "metrics.jsonl"

    @property
    def last_file(self) -> Path:
        """last.pt."""
        return self.path / "last.pt"

    @property
    def best_file(self) -> Path:
        """best.pt."""
        return self.path / "best.pt"

    def holds_run(self) -> bool:
        """Whether a run was started here."""
        return self.config_file.exists()

    def check_free(self) -> None:
        """Raise RunError where the folder holds a run already."""
        if self.holds_run():
            raise RunError(
                f"{self.path} already holds a run: continue it with `aru train --resume {self.path}`, or name another "
                "folder with --output."
            )

    def make(self) -> None:
        """Make the folder where it is not there yet.

        Raises:
            RunError: it can't be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{self.path}: the run folder can't be made ({error}); choose another --output.") from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training in the folder; the lock goes with the process, however that ends.

        Raises:
            RunError: the folder is not there, or another process trains in it.
        """
        if fcntl is None:
            yield
            return
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise RunError(f"{self.path}: the run folder can't be opened ({error}).") from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunError(
                    f"{self.path}: another process is training in this folder; wait until it ends, or end it."
                ) from error
            yield
        finally:
            os.close(descriptor)

    def create(self, config: TrainConfig, environment: dict[str, Any]) -> None:
        """Write config.json, with which a run begins, into the folder.

        Raises:
            RunError: the folder holds a run already.
        """
        self.check_free()
        save_json({"config": config.to_json(), "environment": environment}, self.config_file)

    def read_config(self) -> tuple[TrainConfig, dict[str, Any]]:
        """The configuration and the environment in config.json.

        Raises:
            RunError: there is no run here, or its config.json is damaged.
        """
        try:
            content = json.loads(self.config_file.read_text(encoding="utf-8"))
            return TrainConfig.from_json(content["config"]), content["environment"]
        except FileNotFoundError as error:
            raise RunError(
                f"{self.path} holds no run (it has no config.json); start one with "
                f"`aru train TASK --output {self.path}`."
            ) from error
        except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
            raise RunError(f"{self.config_file} can't be read ({error}); restore it or start a new run.") from error

    def write_metrics(self, history: list[dict[str, Any]]) -> None:
        """Write metrics.jsonl anew, one line for each entry of `history`."""
        save_atomically("".join(map(metrics_line, history)).encode(), self.metrics_file)

    def append_metrics(self, entry: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        with self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(metrics_line(entry))

    def read_metrics(self) -> list[dict[str, Any]]:
        """The entries of metrics.jsonl; none where it is not there yet.

        A last line without its end, which a kill can leave, is passed over. Resuming the run writes it again.

        Raises:
            RunError: the file is damaged.
        """
        return read_lines(self.metrics_file)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects in a file of one a line, but for an unfinished last line; none where there is no such file.

    Raises:
        RunError: the file is damaged.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is damaged and can't be read ({error}); delete it, and it is made again.") from error


def mend_lines(path: Path) -> None:
    """Take an unfinished last line away, so that what is appended begins a line."""
    content = path.read_bytes() if path.exists() else b""
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        save_atomically(whole, path)


def metrics_line(entry: dict[str, Any]) -> str:
    """One entry as a line of metrics.jsonl; the numbers read back exactly."""
    return json.dumps(entry, allow_nan=False) + "\n"


def save_atomically(content: bytes, path: Path) -> None:
    """Write a temporary file beside `path`, bring it to the disk, and put it in the place of `path`.

    Whenever the process is killed, `path` holds the old content or the new, whole. A temporary file that a kill left
    behind is overwritten by the next call.

    Raises:
        RunError: the file can't be written.
    """
    try:
        _replace(content, path)
    except OSError as error:
        raise RunError(
            f"{path} can't be written ({error}); make room or mend the permissions, then `aru train --resume "
            f"{path.parent}` continues from what was saved before."
        ) from error


def write_result(content: bytes, path: Path) -> None:
    """Write a table or a figure as `save_atomically` does, into a folder that is made where it is not there yet.

    Raises:
        RunError: the file can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(content, path)
    except OSError as error:
        raise RunError(
            f"{path} can't be written ({error}); make room, mend the permissions or choose another folder, and give "
            "the same command again: what is finished is kept."
        ) from error


def _replace(content: bytes, path: Path) -> None:
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    _sync_folder(path.parent)


def save_json(content: Any, path: Path) -> None:
    """Write `content` as JSON, atomically."""
    save_atomically((json.dumps(content, indent=2) + "\n").encode(), path)


def save_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Write a checkpoint of tensors, numbers, strings, lists and dictionaries, atomically."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    save_atomically(buffer.getvalue(), path)


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint onto `device`; nothing in it is executed.

    Raises:
        RunError: the file is missing or damaged.
    """
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise RunError(f"{path} does not exist; the run has saved no such checkpoint yet.") from error
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise RunError(f"{path} is damaged and can't be read; restore it from a copy, or start a new run.") from error


def _sync_folder(folder: Path) -> None:
    # The new name itself must reach the disk; only POSIX lets one open a folder for that.
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
