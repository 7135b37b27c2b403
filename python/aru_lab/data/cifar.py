"""CIFAR-10 in its binary layout: records of one label byte and 3,072 pixel bytes (red, green, blue planes).

Files are checked in one of three ways, and refused otherwise:

1. cifar-10-binary.tar.gz, the authors' archive, by the MD5 checksum that they publish for it;
2. a folder with the six .bin files and a file MD5SUMS (what `md5sum *.bin` prints), by those checksums;
3. a folder with only the six .bin files, by the checksums of the copy expanded from JPEG images (JPEG_FILES). The
   authors publish no checksums of single files, so an unpacked copy of their archive needs an MD5SUMS.

Sizes, labels and the number of images of each class are checked in any case.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path

import numpy as np

from aru_lab.data.download import fetch
from aru_lab.errors import DataError
from aru_lab.files import is_file, read_bytes, reading

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
ARCHIVE = "cifar-10-binary.tar.gz"
ARCHIVE_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
FOLDER = "cifar-10-batches-bin"
LAYOUTS = ("", FOLDER, "cifar10", f"cifar10/{FOLDER}")
TRAIN_FILES = tuple(f"data_batch_{k}.bin" for k in range(1, 6))
TEST_FILE = "test_batch.bin"
IMAGES_PER_FILE = 10_000
N_CLASSES = 10
RECORD = 1 + 3 * 32 * 32

JPEG_FILES = {
    "data_batch_1.bin": "88b3862b665281dee0087f56150acc10",
    "data_batch_2.bin": "f63b9ce4b6c700a1bfda26cdd849603c",
    "data_batch_3.bin": "bccc7e21beff8a85a3fd1fd997269185",
    "data_batch_4.bin": "f48b3a8119054dee9606770cacee287e",
    "data_batch_5.bin": "0bdd3d23bd0ee5340bd6f421f3583146",
    "test_batch.bin": "c21be9aaa6c0cd3bb2d052f6936183e9",
}


def read_cifar10(data_dir: Path | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pixels (N, 32, 32, 3), uint8, and labels (N,), int64, of the training files and of the test file.

    Args:
        data_dir: a folder that holds the archive or the six files, itself or in one of LAYOUTS. None takes the
            environment variable ARU_DATA_DIR; where that is not set either, the archive is downloaded to the user's
            cache, once.

    Raises:
        DataError: files are missing, damaged, of unknown content, or can't be downloaded.
    """
    if data_dir is None and os.environ.get("ARU_DATA_DIR"):
        data_dir = Path(os.environ["ARU_DATA_DIR"])
    contents = _from_archive(_download()) if data_dir is None else _from_folder(data_dir)
    train = [_records(contents[name], name) for name in TRAIN_FILES]
    pixels, labels = (np.concatenate(part) for part in zip(*train, strict=True))
    test_pixels, test_labels = _records(contents[TEST_FILE], TEST_FILE)
    for part, found in (("training", labels), ("test", test_labels)):
        counts = np.bincount(found, minlength=N_CLASSES)
        if (counts != len(found) // N_CLASSES).any():
            raise DataError(
                f"CIFAR-10's {part} files hold {counts.tolist()} images of the ten classes, expected "
                f"{len(found) // N_CLASSES} of each; replace them with intact copies."
            )
    return pixels, labels, test_pixels, test_labels


def _records(content: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    if len(content) != IMAGES_PER_FILE * RECORD:
        raise DataError(
            f"{name}: the file has {len(content)} bytes, expected {IMAGES_PER_FILE} records of {RECORD} bytes; replace "
            "it with an intact copy of CIFAR-10's binary version."
        )
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, RECORD)
    labels = records[:, 0].astype(np.int64)
    if labels.max() >= N_CLASSES:
        raise DataError(
            f"{name}: a record has the label {labels.max()}, expected 0 to {N_CLASSES - 1}; replace the file with an "
            "intact copy of CIFAR-10's binary version."
        )
    return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


def _from_folder(data_dir: Path) -> dict[str, bytes]:
    for folder in (data_dir / layout for layout in LAYOUTS):
        if is_file(folder / ARCHIVE):
            return _from_archive(folder / ARCHIVE)
        if is_file(folder / TEST_FILE):
            return _from_files(folder)
    raise DataError(
        f"{data_dir}: neither {ARCHIVE} nor CIFAR-10's file {TEST_FILE} is there or in its folders "
        f"{', '.join(layout for layout in LAYOUTS if layout)}; point --data-dir or ARU_DATA_DIR at the folder that "
        "holds one of them, or set neither to have CIFAR-10 downloaded."
    )


def _from_files(folder: Path) -> dict[str, bytes]:
    contents = {}
    for name in (*TRAIN_FILES, TEST_FILE):
        with reading(folder / name, DataError, "replace it with an intact copy."):
            contents[name] = read_bytes(folder / name)
    sums = folder / "MD5SUMS"
    has_sums = os.path.lexists(sums)
    expected = _read_sums(sums) if has_sums else JPEG_FILES
    for name, content in contents.items():
        found = _md5(content)
        if found == expected.get(name):
            continue
        if has_sums:
            raise DataError(
                f"{folder / name}: its MD5 checksum is {found}, and {sums} says {expected.get(name, 'nothing of it')}; "
                "replace the file with an intact copy."
            )
        raise DataError(
            f"{folder / name}: its MD5 checksum {found} is not known; replace it, give the authors' {ARCHIVE} instead, "
            f"or, where you trust these files, vouch for them with `cd {folder} && md5sum *.bin > MD5SUMS`."
        )
    return contents


def _read_sums(path: Path) -> dict[str, str]:
    # A line of md5sum: the checksum, a blank, a blank or "*" for binary, the name.
    with reading(path, DataError, "write it again with `md5sum *.bin > MD5SUMS`, where you trust the files."):
        text = read_bytes(path).decode("utf-8")
    lines = (line.split(maxsplit=1) for line in text.splitlines() if line.strip())
    return {parts[1].lstrip("*").strip(): parts[0].lower() for parts in lines if len(parts) == 2}


def _from_archive(path: Path) -> dict[str, bytes]:
    with reading(path, DataError, "replace it with an intact copy."):
        content = read_bytes(path)
        if (found := _md5(content)) != ARCHIVE_MD5:
            raise DataError(
                f"{path}: its MD5 checksum is {found}, expected {ARCHIVE_MD5}; download it again from {URL}."
            )
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            members = {name: archive.extractfile(f"{FOLDER}/{name}") for name in (*TRAIN_FILES, TEST_FILE)}
            return {name: member.read() for name, member in members.items()}


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _download() -> Path:
    return fetch(URL, ARCHIVE_MD5, "cifar10", f"CIFAR-10's {ARCHIVE}")
