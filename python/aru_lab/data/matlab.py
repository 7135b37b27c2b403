"""Arrays in the .mat files of MATLAB, in the shapes that .npz files have."""

from __future__ import annotations

from collections.abc import Iterable
from typing import BinaryIO

import numpy as np

VECTORS = ("lengths", "groups")


def read_mat(file: BinaryIO, names: Iterable[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays of some names in a .mat file, and all names that it has.

    MATLAB has no vectors, no trailing dimensions of size 1, and floats for most integers. So x (N, T) becomes
    (N, T, 1); y, lengths and groups of (N, 1) or (1, N) become (N,); lengths and groups of whole numbers become
    integers; and a cell array or a character matrix becomes strings.

    Args:
        file: opened for reading; version 7 or earlier.
        names: the arrays to read; names that the file does not have are left out.

    Raises:
        Exception: of many types, see `files.reading`.
    """
    from scipy.io import loadmat, whosmat

    wanted = set(names)
    try:
        held = [name for name, _, _ in whosmat(file)]
        file.seek(0)
        content = loadmat(file, variable_names=[name for name in held if name in wanted])
    except NotImplementedError as error:  # a container of HDF5
        raise ValueError("it is a MATLAB file of version 7.3; save it with save(..., '-v7')") from error
    return {name: _array(name, content[name]) for name in held if name in wanted}, held


def _array(name: str, value: np.ndarray) -> np.ndarray:
    stem = name.partition("_")[0]
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biufcUO":
        raise ValueError(f"{name} is not an array of numbers or strings")
    if value.dtype.kind == "O":
        value = _strings(name, value)
    if value.dtype.kind == "U":
        value = np.char.rstrip(value)  # rows of a character matrix are filled up with blanks
    if stem == "x" and value.ndim == 2:
        return value[:, :, None]
    if stem in ("y", *VECTORS) and value.ndim == 2 and 1 in value.shape:
        value = value.ravel()
    if stem in VECTORS and value.dtype.kind == "f" and (value == np.round(value)).all() and abs(value).max() < 2**53:
        value = value.astype(np.int64)
    return value


def _strings(name: str, cells: np.ndarray) -> np.ndarray:
    """The strings of a cell array, each of which is an array of one string, or an empty one."""
    texts = []
    for cell in cells.ravel():
        text = np.asarray(cell)
        if text.dtype.kind != "U" or text.size > 1:
            raise ValueError(f"{name} is a cell array with other content than strings")
        texts.append(str(text.item()) if text.size else "")
    return np.array(texts).reshape(cells.shape)
