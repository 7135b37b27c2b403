"""The files of a run's analyses: RUN/analysis/PART.npz and tables as CSV beside it, whole or absent.

PART.npz is written last and carries the key of what it was computed from; it says that the part is finished.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from aru_lab.checkpoint import RunFolder, write_result
from aru_lab.errors import RunError
from aru_lab.files import is_file, read_arrays, reading, sha256_of

FOLDER = "analysis"
FORMAT = 1  # raised whenever a part computes or names something otherwise: older files then count as missing
_KEY = "key"
_PART = "part"
_NAMES = "arrays"


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
            found, _ = self._read(part)
        except RunError:
            return False
        return key is None or found == _keyed(key)

    def save(self, part: str, result: Result, key: dict[str, Any]) -> list[Path]:
        """Write the tables and then the arrays; the files written.

        Raises:
            RunError: a file can't be written.
        """
        written = []
        for name, table in result.tables.items():
            written.append(self.run / FOLDER / f"{name}.csv")
            write_result(_csv(table), written[-1])
        own = {_PART: part, _NAMES: sorted(result.arrays)}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **result.arrays, **{_KEY: np.array(json.dumps(_keyed(key) | own))})
        written.append(self.file(part))
        write_result(buffer.getvalue(), written[-1])
        return written

    def load(self, part: str) -> Arrays:
        """The arrays of a finished part.

        Raises:
            RunError: it is not there, or damaged, or was made from other weights than the run's checkpoints have now.
        """
        key, arrays = self._read(part)
        folder = RunFolder(self.run)
        weights = [sha256_of(file) for file in (folder.best_file, folder.last_file) if is_file(file)]
        if weights and key.get("weights") not in weights:
            raise RunError(
                f"{self.file(part)} is of other weights than the run has now; make it again with `aru analyse "
                f"{self.run} {part}`."
            )
        return arrays

    def _read(self, part: str) -> tuple[dict[str, Any], Arrays]:
        """The key and the arrays of a part's file."""
        path = self.file(part)
        again = f"make it with `aru analyse {self.run} {part}`."
        with reading(path, RunError, again, f"{path} is missing; {again}"):
            arrays = read_arrays(path)
            if _KEY not in arrays:
                raise ValueError("it is no analysis of a run")
            key = json.loads(str(arrays.pop(_KEY)))
            if not isinstance(key, dict) or key.get("format") != FORMAT:
                raise ValueError("it is outdated")
            # Files of earlier versions do not say what they are of and what they hold.
            if key.pop(_PART, part) != part:
                raise ValueError("it is of another analysis")
            if key.pop(_NAMES, sorted(arrays)) != sorted(arrays):
                raise ValueError("it does not hold the arrays that it lists")
        return key, Arrays(path, again, arrays)


class Arrays(dict[str, np.ndarray]):
    """The arrays of a part by name; one that is not there raises RunError, which says how to make it."""

    def __init__(self, path: Path, again: str, arrays: dict[str, np.ndarray]) -> None:
        super().__init__(arrays)
        self._path, self._again = path, again

    def __missing__(self, name: str) -> np.ndarray:
        raise RunError(f"{self._path} is damaged: it has no {name}; {self._again}")


def _keyed(key: dict[str, Any]) -> dict[str, Any]:
    """The key as JSON reads it back, with the format."""
    return json.loads(json.dumps(key | {"format": FORMAT}))


def _csv(table: Table) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.header)
    writer.writerows(map(_plain, table.rows))
    return text.getvalue()


def _plain(row: Iterable[Any]) -> list[Any]:
    return [f"{value:.10g}" if isinstance(value, (float, np.floating)) else value for value in row]
