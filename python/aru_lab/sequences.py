"""Labelled sequences in memory, and the file in which users bring their own."""

from __future__ import annotations

import functools
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aru_lab.data import fixed_permutation
from aru_lab.errors import DataError

WHAT = "expected an .npz file with x of shape (N, T, I), numbers, and y of shape (N,), whole numbers from 0"
FEWEST = 10  # sequences in a file: fewer leave a part of the split empty


@dataclass(frozen=True)
class Sequences:
    """Sequences x of shape (N, T, I), float32, and one label each, y of shape (N,), int64."""

    x: np.ndarray
    y: np.ndarray

    def __len__(self) -> int:
        return len(self.y)

    def take(self, index: np.ndarray | slice) -> Sequences:
        """The sequences at `index`, in that order."""
        return Sequences(self.x[index], self.y[index])


@dataclass(frozen=True)
class TaskData:
    """The three parts of a task's data."""

    train: Sequences
    validation: Sequences
    test: Sequences


def read_sequences(path: Path) -> Sequences:
    """The sequences in an .npz file (numpy.savez) of arrays x (N, T, I) and y (N,).

    Raises:
        DataError: there is no such file, or it holds something else.
    """
    try:
        return _read(path, path.stat().st_mtime_ns)
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file; {WHAT}.") from error


@functools.lru_cache(maxsize=2)
def _read(path: Path, _changed: int) -> Sequences:
    try:
        # numpy takes what is no archive for an array or a pickle, and advises to load the latter unsafely.
        if path.is_file() and not zipfile.is_zipfile(path):
            raise zipfile.BadZipFile("it is no archive of arrays")
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            missing = [name for name in ("x", "y") if name not in arrays]
            if missing:
                held = ", ".join(arrays.files) or "nothing"
                raise DataError(f"{path}: it holds {held} and no {' and no '.join(missing)}; {WHAT}.")
            x, y = arrays["x"], arrays["y"]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: the file can't be read ({error}); {WHAT}.") from error
    if x.ndim != 3 or 0 in x.shape:
        raise DataError(f"{path}: x has the shape {x.shape}; {WHAT}.")
    if y.shape != x.shape[:1]:
        raise DataError(f"{path}: y has the shape {y.shape} beside x of shape {x.shape}; {WHAT}.")
    if x.dtype.kind not in "fiub":
        raise DataError(f"{path}: x has the type {x.dtype}; {WHAT}.")
    if y.dtype.kind not in "iu":
        raise DataError(f"{path}: y has the type {y.dtype}; {WHAT}.")
    if y.min() < 0:
        raise DataError(f"{path}: y has the label {y.min()}; {WHAT}.")
    if not np.isfinite(x).all():
        raise DataError(f"{path}: x holds numbers that are not finite; {WHAT}.")
    if len(x) < FEWEST:
        raise DataError(f"{path}: it holds {len(x)} sequences, too few to train and test on; give at least {FEWEST}.")
    if y.max() >= len(y):
        raise DataError(f"{path}: y has the label {y.max()}, so more classes than the {len(y)} sequences; {WHAT}.")
    return Sequences(x.astype(np.float32), y.astype(np.int64))


def split(sequences: Sequences, seed: int) -> TaskData:
    """A fixed random split into 70% train, 10% validation and 20% test."""
    shuffled = sequences.take(fixed_permutation(len(sequences), seed))
    bounds = round(0.7 * len(shuffled)), round(0.8 * len(shuffled))
    return TaskData(
        shuffled.take(slice(bounds[0])), shuffled.take(slice(*bounds)), shuffled.take(slice(bounds[1], None))
    )
