"""Sequences with their targets in memory, and the file in which users bring their own."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from aru_lab.arguments import FLOAT32_MAX
from aru_lab.data.images import Images
from aru_lab.data.matlab import read_mat
from aru_lab.data.splits import PARTS
from aru_lab.errors import ConfigError, DataError, number_of
from aru_lab.files import array_names, open_file, read_arrays, reading, sha256_of

WHAT = (
    "expected an .npz file with x of shape (N, T, I), numbers, and y of shape (N,): integers or strings (classes; "
    "save strings with y.astype(str)), or floats, also (N, O), for a regression; (N, T) or (N, T, O) is a target a "
    "step; predictions need no y"
)
FEWEST = 10  # sequences in a file: fewer leave a part of the split empty
ARRAYS = ("x", "y", "lengths", "groups", "mask")
NAMES = tuple(name + suffix for suffix in ("", "_validation", "_test") for name in ARRAYS)


@dataclass(frozen=True)
class Sequences:
    """Sequences with their targets.

    Args:
        x: (N, T, I), float32.
        y: the class of each, int64 of shape (N,), or numbers, float32 of shape (N, O); with a target at every step,
            (N, T) or (N, T, O).
        lengths: number of steps of each, int64 of shape (N,); later steps are padding. None: all have T.
        mask: the steps whose target counts, bool of shape (N, T); None where there is one target a sequence.
        centre: the value about which a contrast changes each input, float32 of shape (I,); NaN where it does not. None
            for inputs of at least 0, which it changes about 0.
    """

    x: np.ndarray
    y: np.ndarray
    lengths: np.ndarray | None = None
    mask: np.ndarray | None = None
    centre: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.y)

    def take(self, index: np.ndarray | slice) -> Sequences:
        """The sequences at `index`, in that order."""
        lengths, mask = (None if array is None else array[index] for array in (self.lengths, self.mask))
        return Sequences(self.x[index], self.y[index], lengths, mask, self.centre)

    def n_targets(self, index: np.ndarray | None = None) -> int:
        """The number of targets of the sequences at `index`; None takes all."""
        if self.mask is None:
            return len(self.y if index is None else index)
        return int(np.count_nonzero(self.mask if index is None else self.mask[index]))


Examples = TypeVar("Examples", Images, Sequences)


def first(examples: Examples, n: int | None, argument: str) -> Examples:
    """The first n examples, or all where n is None.

    Raises:
        ConfigError: there are fewer; the sentence names the argument.
    """
    if n is not None and n > len(examples):
        raise ConfigError(f"{argument}: got {n}, expected at most {len(examples)}, the number of examples.")
    return examples.take(slice(n))


@dataclass(frozen=True)
class TaskData:
    """The three parts of a task's data."""

    train: Sequences
    validation: Sequences
    test: Sequences


@dataclass(frozen=True)
class Part:
    """The arrays of one part of a file as they stand there; x may hold NaN where a value is missing.

    Args:
        x: (N, T, I), of any numeric type.
        y: (N,), (N, O), (N, T) or (N, T, O), integers, booleans, strings or floats; None where the file has none.
        lengths: (N,), int64, or None.
        groups: (N,), integers or strings, or None.
        mask: (N, T), bool: steps whose target counts; None where there is one target a sequence.
    """

    x: np.ndarray
    y: np.ndarray | None
    lengths: np.ndarray | None = None
    groups: np.ndarray | None = None
    mask: np.ndarray | None = None


@dataclass(frozen=True)
class Contents:
    """What a file holds: its part x, and those that it gives for validation and test."""

    whole: Part
    given: dict[str, Part]

    @property
    def parts(self) -> dict[str, Part]:
        """All parts by the ends of their names: "" and, where they are given, "_validation" and "_test"."""
        return {"": self.whole} | {f"_{name}": part for name, part in self.given.items()}


def read_sequences(path: Path, with_targets: bool = True) -> Contents:
    """The arrays of a file of sequences, checked.

    Args:
        path: an .npz file (numpy.savez), or a .mat file of MATLAB, see `matlab.read_mat`.
        with_targets: whether y is required, and at least FEWEST sequences.

    Raises:
        DataError: there is no such file, or it holds something else.
    """
    contents = _read(path)
    if with_targets:
        for end, part in contents.parts.items():
            if part.y is None:
                raise DataError(f"{path}: it holds x{end} and no y{end}; {WHAT}.")
        if len(contents.whole.x) < FEWEST:
            raise DataError(
                f"{path}: it holds {number_of(len(contents.whole.x), 'sequence')}, too few to train and test on; give "
                f"at least {FEWEST}."
            )
    return contents


def checksum(path: Path) -> str:
    """SHA-256 of a file of sequences, in hexadecimal digits.

    Raises:
        DataError: there is no such file, or it can't be read.
    """
    return _digest(path, version(path))


def version(path: Path) -> tuple[int, ...]:
    """Numbers that change when the file at `path` does.

    Raises:
        DataError: there is no such file.
    """
    with reading(path, DataError, f"{WHAT}.", f"{path}: there is no such file; {WHAT}."):
        found = os.stat(path)
    return found.st_mtime_ns, found.st_size, found.st_ino


@functools.lru_cache(maxsize=16)
def _digest(path: Path, _version: tuple[int, ...]) -> str:
    with reading(path, DataError, f"{WHAT}."):
        return sha256_of(path)


def _read(path: Path) -> Contents:
    version(path)  # says so where there is no such file
    with reading(path, DataError, f"{WHAT}."), open_file(path) as file:
        if path.suffix == ".mat":
            arrays, held = read_mat(file, NAMES)
        else:
            arrays, held = read_arrays(file, NAMES), array_names(file)
    if "x" not in arrays:
        absent = [name for name in ("x", "y") if name not in arrays]
        raise DataError(f"{path}: it holds {', '.join(held) or 'nothing'} and no {' and no '.join(absent)}; {WHAT}.")
    for name in arrays:
        stem, _, part = name.partition("_")
        if stem != "x" and (x := f"x_{part}" if part else "x") not in arrays:
            raise DataError(f"{path}: it holds {name} and no {x}; {WHAT}.")
    whole = checked_part(arrays, "", path)
    given = {name: checked_part(arrays, f"_{name}", path) for name in PARTS if f"x_{name}" in arrays}
    for name, part in given.items():
        _check_alike(whole, part, name, path)
    return Contents(whole, given)


def checked_part(arrays: dict[str, np.ndarray], end: str, path: Path | str) -> Part:
    """One part of the arrays of a file, checked; its padding is 0.

    Args:
        arrays: by name, with x + end among them.
        end: end of the names: "", "_validation" or "_test".
        path: the file, with which sentences begin.

    Raises:
        DataError: a shape, a type or a value does not fit.
    """
    x, y, lengths, groups, mask = (arrays.get(name + end) for name in ARRAYS)
    if x.ndim != 3 or 0 in x.shape:
        raise DataError(f"{path}: x{end} has the shape {x.shape}; {WHAT}.")
    if x.dtype.kind not in "fiub":
        raise DataError(f"{path}: x{end} has the type {x.dtype}; {WHAT}.")
    if lengths is not None:
        lengths = _checked_lengths(lengths, x.shape, end, path)
        x = np.where(padding(lengths, x.shape[1])[:, :, None], np.zeros((), x.dtype), x)
    if np.isinf(x).any():
        raise DataError(f"{path}: x{end} holds numbers that are not finite; {WHAT}.")
    largest = max(abs(float(np.fmax.reduce(x, axis=None))), abs(float(np.fmin.reduce(x, axis=None))))
    if largest > FLOAT32_MAX:
        raise DataError(
            f"{path}: x{end} holds numbers of up to {largest:.3g}, which are not finite in float32, the type in which "
            f"sequences are kept (at most {FLOAT32_MAX:.3g}); scale them."
        )
    at_steps = y is not None and y.shape[:2] == x.shape[:2]
    if mask is not None and not at_steps:
        raise DataError(f"{path}: it holds mask{end} and no y{end} of shape (N, T) or (N, T, O), a target a step.")
    if at_steps:
        mask = _checked_mask(mask, x.shape, lengths, end, path)
        y = np.where(mask.reshape(mask.shape + (1,) * (y.ndim - 2)), y, y[mask][0])
    if y is not None:
        y = _checked_targets(y, x.shape, end, path)
    if groups is not None and (groups.shape != x.shape[:1] or groups.dtype.kind not in "iubUS"):
        raise DataError(
            f"{path}: groups{end} has the shape {groups.shape} and the type {groups.dtype}, expected integers or "
            f"strings of shape ({len(x)},)."
        )
    return Part(x, y, lengths, groups, mask)


def _checked_lengths(lengths: np.ndarray, shape: tuple[int, ...], end: str, path: Path | str) -> np.ndarray:
    n, n_steps, _ = shape
    if lengths.shape != (n,) or lengths.dtype.kind not in "iu":
        raise DataError(
            f"{path}: lengths{end} has the shape {lengths.shape} and the type {lengths.dtype}, expected integers of "
            f"shape ({n},), the steps of each sequence of x{end}."
        )
    if lengths.min() < 1 or lengths.max() > n_steps:
        wrong = lengths.min() if lengths.min() < 1 else lengths.max()
        raise DataError(f"{path}: lengths{end} holds {wrong}, expected numbers of steps from 1 to T = {n_steps}.")
    return lengths.astype(np.int64)


def padding(lengths: np.ndarray, n_steps: int) -> np.ndarray:
    """Which steps are padding, (N, T), for sequences of so many real steps each, (N,)."""
    return np.arange(n_steps) >= lengths[:, None]


def _checked_mask(
    mask: np.ndarray | None, shape: tuple[int, ...], lengths: np.ndarray | None, end: str, path: Path | str
) -> np.ndarray:
    """The steps whose target counts, without padding."""
    if mask is None:
        mask = np.ones(shape[:2], bool)
    if mask.shape != shape[:2] or mask.dtype.kind not in "biuf" or not np.isin(mask, (0, 1)).all():
        raise DataError(
            f"{path}: mask{end} has the shape {mask.shape} and the type {mask.dtype}, expected booleans, or 0 and 1, "
            f"of shape {shape[:2]}."
        )
    mask = mask.astype(bool) if lengths is None else mask.astype(bool) & ~padding(lengths, shape[1])
    if not mask.any(axis=1).all():
        raise DataError(
            f"{path}: mask{end} leaves sequence {int(mask.any(axis=1).argmin())} without a target, expected at least "
            "one among its real steps."
        )
    return mask


def _checked_targets(y: np.ndarray, shape: tuple[int, ...], end: str, path: Path | str) -> np.ndarray:
    kind = y.dtype.kind
    if kind not in "iubUSf":
        raise DataError(f"{path}: y{end} has the type {y.dtype}; {WHAT}.")
    numbers = kind == "f" and y.ndim > 1 and 0 not in y.shape and (y.ndim == 2 or y.shape[1] == shape[1])
    if y.shape not in (shape[:1], shape[:2]) and not (numbers and y.ndim <= 3 and len(y) == shape[0]):
        raise DataError(f"{path}: y{end} has the shape {y.shape} beside x{end} of shape {shape}; {WHAT}.")
    if kind == "f":
        with np.errstate(over="ignore"):
            finite = np.isfinite(y.astype(np.float32)).all()
        if not finite:
            raise DataError(f"{path}: y{end} holds numbers that are not finite in float32; give finite targets.")
    if kind == "S":
        with reading(path, DataError, f"y{end} holds bytes that are not text in UTF-8."):
            return np.char.decode(y, "utf-8")
    return y


def _check_alike(whole: Part, part: Part, name: str, path: Path) -> None:
    """Raise DataError where a given part does not match the part x."""
    if part.x.shape[1:] != whole.x.shape[1:]:
        raise DataError(
            f"{path}: x_{name} has the shape {part.x.shape} beside x of shape {whole.x.shape}, expected the same T and "
            "I; sequences of other lengths are padded at their ends and described by lengths."
        )
    if (part.lengths is None) != (whole.lengths is None):
        raise DataError(f"{path}: lengths are given for some parts only, expected lengths for x and for x_{name}.")
    if part.y is not None and whole.y is not None:
        kinds = [
            "numbers" if y.dtype.kind == "f" else "names" if y.dtype.kind in "US" else "integers"
            for y in (whole.y, part.y)
        ]
        if kinds[0] != kinds[1] or part.y.shape[1:] != whole.y.shape[1:]:
            raise DataError(
                f"{path}: y_{name} holds {kinds[1]} of shape {part.y.shape} beside y with {kinds[0]} of shape "
                f"{whole.y.shape}, expected targets of one kind."
            )
    if part.groups is not None and whole.groups is not None:
        common = sorted(set(map(str, part.groups.tolist())) & set(map(str, whole.groups.tolist())))
        if common:
            raise DataError(
                f"{path}: the group {common[0]} is in groups and in groups_{name}, expected it in one part."
            )
