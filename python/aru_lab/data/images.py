"""Images to read: the embedded 8x8 digits, MNIST and CIFAR-10, with fixed splits and checksums.

numpy only; nothing here knows torch or recurrent networks.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aru_lab.data.cifar import read_cifar10
from aru_lab.data.download import fetch
from aru_lab.errors import DataError
from aru_lab.files import is_file, read_bytes, reading

MNIST_MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist/"

# name -> (MD5 of the unpacked file, MD5 of the mirror's .gz). Some collections compress the files again, so a file
# of the user is checked by its unpacked content.
MNIST_FILES = {
    "train-images-idx3-ubyte": ("6bbc9ace898e44ae57da46a324031adb", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
    "train-labels-idx1-ubyte": ("a25bea736e30d166cdddb491f175f624", "d53e105ee54ea40749a09fcbcd1e9432"),
    "t10k-images-idx3-ubyte": ("2646ac647ad5339dbf082846283269ea", "9fb629c4189551a2d022fa330f9573f3"),
    "t10k-labels-idx1-ubyte": ("27ae3e4e09519cfbb04c329615203637", "ec29112dd5afa0611ce80d1b7f02629c"),
}
MNIST_LAYOUTS = ("", "MNIST/raw", "mnist/MNIST/raw", "mnist")
SPLIT_SEED = 2022
MOST_BYTES = 1 << 28  # of an unpacked IDX file, five times MNIST's largest: a larger file is not an IDX file of MNIST


@dataclass(frozen=True)
class Images:
    """Images of shape (N, rows, columns) or, in colour, (N, rows, columns, 3), uint8; labels of shape (N,), int64."""

    pixels: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: np.ndarray | slice) -> Images:
        """The images at `index`, in that order."""
        return Images(self.pixels[index], self.labels[index])


@dataclass(frozen=True)
class Dataset:
    """A fixed split of labelled images; `white` is the largest possible pixel value."""

    train: Images
    validation: Images
    test: Images
    white: int


def fixed_permutation(n: int, seed: int) -> np.ndarray:
    """A random permutation of 0 ... n-1 that is the same with every version of numpy, int64 of shape (n,).

    `numpy.random.RandomState` is frozen: numpy promises that its streams never change (NEP 19), which it does not for
    the newer `Generator`. A test holds a hash of the result.
    """
    return np.random.RandomState(seed).permutation(n).astype(np.int64)


def load_digits(data_dir: Path | None = None, split_seed: int = SPLIT_SEED) -> Dataset:
    """The 1,797 8x8 digits that scikit-learn carries, split within each class into 70% train, 10% validation, 20% test.

    Args:
        data_dir: not used; the data is embedded in scikit-learn.
        split_seed: seed of the random split.
    """
    from sklearn.datasets import load_digits as embedded

    digits = embedded()
    images = Images(digits.images.astype(np.uint8), digits.target.astype(np.int64))
    images = images.take(fixed_permutation(len(images), split_seed))
    parts: tuple[list[np.ndarray], ...] = ([], [], [])
    for label in range(10):
        members = np.flatnonzero(images.labels == label)
        bounds = [round(0.7 * len(members)), round(0.8 * len(members))]
        for part, chunk in zip(parts, np.split(members, bounds), strict=True):
            part.append(chunk)
    # Sorting undoes the grouping by class: what remains is the shuffled order.
    train, validation, test = (images.take(np.sort(np.concatenate(part))) for part in parts)
    return Dataset(train, validation, test, white=16)


def load_mnist(data_dir: Path | None = None, split_seed: int = SPLIT_SEED) -> Dataset:
    """MNIST, split into 50,000 train, 10,000 validation (of the original 60,000) and the 10,000 test images.

    Args:
        data_dir: a folder that holds the four IDX files, packed or not, itself or in MNIST/raw, mnist/MNIST/raw or
            mnist. None takes the environment variable ARU_DATA_DIR; where that is not set either, the files are
            downloaded from MNIST_MIRROR to the user's cache, once.
        split_seed: seed of the random split.

    Raises:
        DataError: a file is missing, is not the canonical one, or can't be downloaded.
    """
    if data_dir is None and os.environ.get("ARU_DATA_DIR"):
        data_dir = Path(os.environ["ARU_DATA_DIR"])
    locate = _download if data_dir is None else _finder(data_dir)
    arrays = {name: _read_checked(locate(name), md5) for name, (md5, _) in MNIST_FILES.items()}
    pool = Images(arrays["train-images-idx3-ubyte"], arrays["train-labels-idx1-ubyte"].astype(np.int64))
    test = Images(arrays["t10k-images-idx3-ubyte"], arrays["t10k-labels-idx1-ubyte"].astype(np.int64))
    order = fixed_permutation(len(pool), split_seed)
    n_train = len(pool) * 5 // 6
    return Dataset(pool.take(order[:n_train]), pool.take(order[n_train:]), test, white=255)


def load_cifar10(data_dir: Path | None = None, split_seed: int = SPLIT_SEED) -> Dataset:
    """CIFAR-10 in colour: 45,000 train and 5,000 validation images (of the original 50,000) and the 10,000 test images.

    Args:
        data_dir: see `cifar.read_cifar10`.
        split_seed: seed of the random split.

    Raises:
        DataError: files are missing, damaged, of unknown content, or can't be downloaded.
    """
    pixels, labels, test_pixels, test_labels = read_cifar10(data_dir)
    pool = Images(pixels, labels)
    order = fixed_permutation(len(pool), split_seed)
    n_train = len(pool) * 9 // 10
    return Dataset(pool.take(order[:n_train]), pool.take(order[n_train:]), Images(test_pixels, test_labels), white=255)


DATASETS: dict[str, Callable[[Path | None, int], Dataset]] = {
    "digits": load_digits,
    "mnist": load_mnist,
    "cifar10": load_cifar10,
}


def read_idx(path: Path) -> np.ndarray:
    """The array in an IDX file of unsigned bytes, gzipped or not.

    Raises:
        DataError: the file can't be read, is damaged, or holds something else.
    """
    return _parse_idx(_unpacked(path), path)


def _read_checked(path: Path, md5: str) -> np.ndarray:
    content = _unpacked(path)
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise DataError(
            f"{path}: the unpacked content has the MD5 checksum {found}, expected {md5}: the file is damaged or is not "
            "MNIST's; replace it, or name no data folder to have it downloaded."
        )
    return _parse_idx(content, path)


def _unpacked(path: Path) -> bytes:
    with reading(path, DataError, "replace it with an intact copy."):
        content = read_bytes(path)
        if content[:2] == b"\x1f\x8b":
            content = gzip.GzipFile(fileobj=io.BytesIO(content)).read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ValueError(f"it holds more than {MOST_BYTES} bytes")
        return content


def _parse_idx(content: bytes, path: Path) -> np.ndarray:
    # IDX: two zero bytes, a type code, the number of dimensions, each dimension as a big-endian uint32, the items.
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != 0x08:
        raise DataError(f"{path}: this is not an IDX file of unsigned bytes; replace it with the original file.")
    n_dimensions = content[3]
    start = 4 + 4 * n_dimensions
    if len(content) < start:
        raise DataError(f"{path}: the file ends inside its header; replace it with an intact copy.")
    shape = struct.unpack(f">{n_dimensions}I", content[4:start])
    n_items = math.prod(shape)
    if len(content) - start != n_items:
        raise DataError(
            f"{path}: the header promises {n_items} bytes of shape {shape} and {len(content) - start} follow; "
            "replace the file with an intact copy."
        )
    with reading(path, DataError, "replace the file with an intact copy."):
        return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def _finder(data_dir: Path) -> Callable[[str], Path]:
    def find(name: str) -> Path:
        for layout in MNIST_LAYOUTS:
            for candidate in (data_dir / layout / name, data_dir / layout / f"{name}.gz"):
                if is_file(candidate):
                    return candidate
        raise DataError(
            f"{data_dir}: MNIST's file {name} (or {name}.gz) is neither there nor in its folders "
            f"{', '.join(layout for layout in MNIST_LAYOUTS if layout)}; point --data-dir or ARU_DATA_DIR at the "
            "folder that holds it, or set neither to have MNIST downloaded."
        )

    return find


def _download(name: str) -> Path:
    return fetch(f"{MNIST_MIRROR}{name}.gz", MNIST_FILES[name][1], "mnist", "MNIST's four IDX files")
