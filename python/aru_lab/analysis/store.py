"""The files of a run's analyses: RUN/analysis/PART.npz and tables as CSV beside it, whole or absent.

PART.npz is written last and carries the key of what it was computed from; it says that the part is finished.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from aru_lab.checkpoint import write_result
from aru_lab.errors import RunError

FOLDER = "analysis"
FORMAT = 1  # raised whenever a part computes or names something otherwise: older files then count as missing
_KEY = "key"


@dataclass(frozen=True)
class Table:
    """Rows of a CSV file below their header."""

    header: tuple[str, ...]
    rows: list[Sequence[Any]]


@dataclass(frozen=True)
class Result:
    """What one part of an analysis found: arrays for PART.npz, tables by the names of their files, a line to print."""

    arrays: dict[str, np.ndarray]
    tables: dict[str, Table] = field(default_factory=dict)
    summary: str = ""


@dataclass(frozen=True)
class AnalysisFolder:
    """The analyses of the run in the folder `run`."""

    run: Path

    def file(self, part: str) -> Path:
        """RUN/analysis/PART.npz."""
        return self.run / FOLDER / f"{part}.npz"

    def holds(self, part: str, key: dict[str, Any] | None = None) -> bool:
        """Whether the part is finished, with this key if one is given; a damaged or outdated file is not."""
        try:
            # Through memory: numpy leaves a damaged file open.
            with np.load(io.BytesIO(self.file(part).read_bytes()), allow_pickle=False) as content:
                found = json.loads(str(content[_KEY]))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError):
            return False
        return found == _keyed(key) if key is not None else found.get("format") == FORMAT

    def save(self, part: str, result: Result, key: dict[str, Any]) -> list[Path]:
        """Write the tables and then the arrays; the files written.

        Raises:
            RunError: a file can't be written.
        """
        written = []
        for name, table in result.tables.items():
            written.append(self.run / FOLDER / f"{name}.csv")
            write_result(_csv(table), written[-1])
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **result.arrays, **{_KEY: np.array(json.dumps(_keyed(key)))})
        written.append(self.file(part))
        write_result(buffer.getvalue(), written[-1])
        return written

    def load(self, part: str) -> dict[str, np.ndarray]:
        """The arrays of a finished part.

        Raises:
            RunError: it is not there, or damaged.
        """
        if not self.holds(part):
            raise RunError(
                f"{self.file(part)} is missing, damaged or outdated; make it with `aru analyse {self.run} {part}`."
            )
        with np.load(self.file(part), allow_pickle=False) as content:
            return {name: content[name] for name in content.files if name != _KEY}


def fingerprint(path: Path) -> str:
    """SHA-256 of a file: an analysis belongs to the weights that it was made from.

    Raises:
        RunError: the file can't be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise RunError(f"{path} can't be read ({error.strerror}); the run has saved no such checkpoint yet.") from error


def _keyed(key: dict[str, Any]) -> dict[str, Any]:
    """The key as JSON reads it back, with the format."""
    return json.loads(json.dumps(key | {"format": FORMAT}))


def _csv(table: Table) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.header)
    writer.writerows(map(_plain, table.rows))
    return text.getvalue().encode()


def _plain(row: Iterable[Any]) -> list[Any]:
    return [f"{value:.10g}" if isinstance(value, (float, np.floating)) else value for value in row]
