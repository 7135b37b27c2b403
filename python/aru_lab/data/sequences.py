"""Labelled sequences in memory, and the file in which users bring their own."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aru_lab.data.images import fixed_permutation
from aru_lab.errors import DataError
from aru_lab.files import array_names, open_file, read_arrays, reading, sha256_of

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
    return _read(path, _version(path))[0]


def checksum(path: Path) -> str:
    """SHA-256 of the file from which `read_sequences` reads, in hexadecimal digits.

    Raises:
        DataError: as `read_sequences`.
    """
    return _read(path, _version(path))[1]


def remarks(path: Path) -> list[str]:
    """Warnings about the sequences in a file that can still be learned, in sentences.

    Raises:
        DataError: as `read_sequences`.
    """
    y = read_sequences(path).y
    n_classes = int(y.max()) + 1
    empty = np.flatnonzero(np.bincount(y, minlength=n_classes) == 0).tolist()
    if not empty:
        return []
    shown = ", ".join(map(str, empty[:10])) + (", ..." if len(empty) > 10 else "")
    return [
        f"{path}: of the {n_classes} classes from 0 to the largest label, {len(empty)} have no sequences ({shown}), "
        "and the network gets an output for each of them; number the labels from 0 without gaps to avoid that."
    ]


def _version(path: Path) -> tuple[int, ...]:
    with reading(path, DataError, f"{WHAT}.", f"{path}: there is no such file; {WHAT}."):
        found = os.stat(path)
    return found.st_mtime_ns, found.st_size, found.st_ino


@functools.lru_cache(maxsize=2)
def _read(path: Path, _version: tuple[int, ...]) -> tuple[Sequences, str]:
    with reading(path, DataError, f"{WHAT}."), open_file(path) as file:
        arrays = read_arrays(file, ("x", "y"))
        held = array_names(file)
        digest = sha256_of(path)
    if missing := [name for name in ("x", "y") if name not in arrays]:
        raise DataError(f"{path}: it holds {', '.join(held) or 'nothing'} and no {' and no '.join(missing)}; {WHAT}.")
    return _checked(arrays["x"], arrays["y"], path), digest


def _checked(x: np.ndarray, y: np.ndarray, path: Path) -> Sequences:
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
    with np.errstate(over="ignore"):
        single = x.astype(np.float32)
    if not np.isfinite(single).all():
        raise DataError(
            f"{path}: x holds numbers of up to {np.abs(x).max():.3g}, which are not finite in float32, the type in "
            f"which sequences are kept (at most {np.finfo(np.float32).max:.3g}); scale them."
        )
    if len(x) < FEWEST:
        raise DataError(f"{path}: it holds {len(x)} sequences, too few to train and test on; give at least {FEWEST}.")
    if y.max() >= len(y):
        raise DataError(f"{path}: y has the label {y.max()}, so more classes than the {len(y)} sequences; {WHAT}.")
    return Sequences(single, y.astype(np.int64))


def split(sequences: Sequences, seed: int) -> TaskData:
    """A fixed random split into 70% train, 10% validation and 20% test."""
    shuffled = sequences.take(fixed_permutation(len(sequences), seed))
    bounds = round(0.7 * len(shuffled)), round(0.8 * len(shuffled))
    return TaskData(
        shuffled.take(slice(bounds[0])), shuffled.take(slice(*bounds)), shuffled.take(slice(bounds[1], None))
    )
