"""The folder of a run.

config.json    the configuration and where it ran
metrics.jsonl  one line an epoch
last.pt        everything needed to go on
best.pt        the weights of the epoch with the best validation accuracy
.lock          held by the process that trains in the folder
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import struct
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import torch

from aru_lab.errors import LabError, RunError, failed_together, typed
from aru_lab.files import (
    Form,
    append_line,
    check_form,
    is_file,
    read_bytes,
    read_lines,
    reading,
    reason,
    remove_temporaries,
    replace_file,
    sealed,
)
from aru_lab.runs.config import TrainConfig

METRICS: Form = {
    "epoch": int,
    "step": int,
    "learning_rate": float,
    "train_loss": float,
    "train_accuracy": float,
    "validation_loss": float,
    "validation_accuracy": float,
    "seconds": float,
    "sequences_per_second": float,
}
# What earlier versions did not write, and what only networks with a gain n and a saturation s have.
MORE_METRICS: Form = {
    "gradient_norm": float,
    "gain_mean": float,
    "gain_sd": float,
    "saturation_mean": float,
    "saturation_sd": float,
}
_SEAL = b"sha256:"
GLANCE_SECONDS = 0.5  # `in_use` holds the lock for a moment, which must keep no run from starting
AGAIN = (
    "make room, mend the permissions or choose another folder, and give the same command again: what is finished is "
    "kept."
)


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
        return os.path.lexists(self.config_file)

    def check_free(self) -> None:
        """Raise RunError if the folder already holds a run."""
        if self.holds_run():
            raise RunError(
                f"{self.path} already holds a run: continue it with `aru train --resume {typed(self.path)}`, or name "
                "another folder with --output."
            )

    def make(self) -> None:
        """Make the folder if necessary.

        Raises:
            RunError: it can't be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            raise RunError(
                f"{self.path}: the run folder can't be made ({reason(error)}); choose another --output."
            ) from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training in the folder; the lock goes with the process, however that ends.

        Raises:
            RunError: the folder is not there, or another process trains in it.
        """
        lock = filelock.FileLock(self.path / ".lock")
        try:
            os.stat(self.path)  # the lock would make it
            lock.acquire(timeout=GLANCE_SECONDS)
        except filelock.Timeout as error:
            raise RunError(
                f"{self.path}: another process is training in this folder; wait until it ends, or end it."
            ) from error
        except (OSError, NotImplementedError) as error:
            raise RunError(
                f"{self.path}: the run folder can't be locked ({reason(error)}); mend its permissions, or copy the run "
                "to another disk."
            ) from error
        try:
            # Nobody else writes these files now, so that what a killed process has left can go.
            for path in (self.config_file, self.metrics_file, self.last_file, self.best_file):
                remove_temporaries(path)
            yield
        finally:
            lock.release()

    def in_use(self) -> bool:
        """Whether a process trains in the folder now."""
        file = self.path / ".lock"
        if not is_file(file):
            return False
        lock = filelock.FileLock(file)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            return True
        except (OSError, NotImplementedError):  # of a file system that is read-only or has no locks
            return False
        lock.release()
        return False

    def create(self, config: TrainConfig, environment: dict[str, Any]) -> None:
        """Write config.json, with which a run begins, into the folder.

        Raises:
            RunError: the folder holds a run already, or the file can't be written.
        """
        self.check_free()
        content = json.dumps({"config": config.to_json(), "environment": environment}, indent=2) + "\n"
        save_atomically(content.encode(), self.config_file, AGAIN)

    def read_config(self) -> tuple[TrainConfig, dict[str, Any]]:
        """The configuration and the environment in config.json.

        Raises:
            RunError: there is no run here, or its config.json is damaged.
        """
        absent = (
            f"{self.path} holds no run (it has no config.json); start one with `aru train TASK --output "
            f"{typed(self.path)}`."
        )
        with reading(self.config_file, RunError, "restore it or start a new run.", absent):
            content = json.loads(read_bytes(self.config_file).decode("utf-8"))
            check_form(content, {"config": dict, "environment": dict})
            environment = content["environment"]
            for name in ("threads", "processes"):
                count = environment.get(name, 1)
                if not isinstance(count, int) or isinstance(count, bool) or count < 1:
                    raise ValueError(f"{name} is {reason(ValueError(repr(count)), 40)}, expected a whole number from 1")
            sources = environment.get("sources", {})
            if not isinstance(sources, dict) or not all(isinstance(value, str) for value in sources.values()):
                raise ValueError("sources holds no checksums")
            config = TrainConfig.from_json(content["config"])
            if config.learning_rate is None:
                raise ValueError("learning_rate is null, expected a number")
            return config, environment

    def write_metrics(self, history: list[dict[str, Any]]) -> None:
        """Rewrite metrics.jsonl, one line for each entry of `history`."""
        save_atomically("".join(map(sealed, history)).encode(), self.metrics_file)

    def append_metrics(self, entry: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl.

        Raises:
            RunError: it can't be written.
        """
        with _writing(self.metrics_file, _resumable(self.metrics_file)):
            append_line(entry, self.metrics_file)

    def read_metrics(self) -> list[dict[str, Any]]:
        """The entries of metrics.jsonl; an absent file has none.

        A last line without its end, which a kill can leave, is passed over. Resuming the run writes it again.

        Raises:
            RunError: the file is damaged.
        """
        history = read_lines(self.metrics_file, check_metrics, RunError)
        check_epochs(history, self.metrics_file)
        return history


def read_configs(runs: Iterable[Path]) -> tuple[dict[Path, TrainConfig], dict[Path, LabError]]:
    """The configurations of those runs that have one, and why the others have none.

    Raises:
        LabError: no run has one.
    """
    configs: dict[Path, TrainConfig] = {}
    failures: dict[Path, LabError] = {}
    for run in map(Path, runs):
        try:
            configs[run] = RunFolder(run).read_config()[0]
        except LabError as error:
            failures[run] = error
    if failures and not configs:
        raise failed_together(list(failures.values()), len(failures))
    return configs, failures


def check_metrics(entry: dict[str, Any]) -> None:
    """Raise ValueError unless `entry` is the metrics of one epoch."""
    check_form(entry, METRICS | {name: kind for name, kind in MORE_METRICS.items() if name in entry})
    if infinite := [name for name, value in entry.items() if not math.isfinite(value)]:
        raise ValueError(f"{infinite[0]!r} is {entry[infinite[0]]}")


def check_epochs(history: list[dict[str, Any]], path: Path) -> None:
    """Raise RunError, which names the file `path`, unless a history is of the epochs 1, 2, ... without a gap."""
    found = [entry["epoch"] for entry in history]
    if found != list(range(1, len(found) + 1)):
        k = next(k for k, epoch in enumerate(found, start=1) if epoch != k)
        raise RunError(
            f"{path} is damaged: epoch {found[k - 1]} stands where epoch {k} belongs; restore the file from a copy."
        )


@contextlib.contextmanager
def _writing(path: Path, advice: str) -> Iterator[None]:
    """Turn an error of writing `path` into a sentence."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise RunError(f"{path} can't be written ({reason(error)}); {advice}") from error


def _resumable(path: Path) -> str:
    return (
        f"make room or mend the permissions, then `aru train --resume {typed(path.parent)}` continues from what was "
        "saved before."
    )


def save_atomically(content: bytes, path: Path, advice: str | None = None) -> None:
    """Write a file of a run as `files.replace_file` does.

    Args:
        content: what to write.
        path: the file.
        advice: what to do where it can't be written; None says how to resume the run.

    Raises:
        RunError: the file can't be written.
    """
    with _writing(path, advice or _resumable(path)):
        replace_file(content, path)


def write_result(content: bytes | str, path: Path) -> None:
    """Write a table or a figure as `files.replace_file` does; make its folder if necessary.

    Args:
        content: text is encoded as UTF-8; what that can't hold (names of files in other encodings) is escaped.
        path: the file.

    Raises:
        RunError: the file can't be written.
    """
    if isinstance(content, str):
        content = content.encode("utf-8", "backslashreplace")
    with _writing(path, AGAIN):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(content, path)


def append_result(entry: dict[str, Any], path: Path) -> None:
    """Append a sealed line to a file of results.

    Raises:
        RunError: it can't be written.
    """
    with _writing(path, AGAIN):
        append_line(entry, path)


def save_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Write a checkpoint of tensors, numbers, strings, lists and dictionaries, atomically.

    The file is what `torch.save` writes, a zip archive, whose comment is the SHA-256 of everything before it.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    # The last two bytes of an archive without a comment are the comment's length.
    archive = buffer.getvalue()[:-2]
    seal = _SEAL + hashlib.sha256(archive).hexdigest().encode()
    save_atomically(archive + struct.pack("<H", len(seal)) + seal, path)


def without_checkpoint(path: Path) -> str:
    """The message for a run that has not saved the checkpoint `path`."""
    return f"{path} does not exist; the run has saved no such checkpoint yet."


def load_checkpoint(path: Path, absent: str | None = None) -> dict[str, Any]:
    """Read a checkpoint into the CPU's memory; nothing in it is executed.

    The checksum of the file is compared. Of a file without one, written by an earlier version, the checksums that zip
    archives have of their members are.

    Args:
        path: the file.
        absent: what to say where there is no such file.

    Raises:
        RunError: the file is missing or damaged, or its weights are not finite.
    """
    absent = absent or without_checkpoint(path)
    with reading(path, RunError, "it is damaged: restore it from a copy, or start a new run.", absent):
        content = read_bytes(path)
        _check_archive(content)
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        if not isinstance(loaded, dict) or not isinstance(loaded.get("model"), dict):
            raise ValueError("it holds no network")
        check_finite_weights(loaded["model"])
    return loaded


def check_finite_weights(weights: dict[str, Any]) -> None:
    """Raise ValueError unless all weights are tensors of finite numbers."""
    for name, weight in weights.items():
        if not isinstance(weight, torch.Tensor):
            raise ValueError(f"its {name} is a {type(weight).__name__} and not a tensor")
        if not weight.isfinite().all():
            raise ValueError(f"its weight {name} is not finite")


def _check_archive(content: bytes) -> None:
    length = len(_SEAL) + 2 * hashlib.sha256().digest_size
    seal = content[-length:]
    if seal.startswith(_SEAL):
        archive = content[: -length - 2]
        if seal != _SEAL + hashlib.sha256(archive).hexdigest().encode():
            raise ValueError("it does not have the checksum that it carries")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if damaged := archive.testzip():
            raise ValueError(f"its part {damaged} is damaged")
