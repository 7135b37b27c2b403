"""Reading and writing files. A damaged file is refused with a sentence, and no file is ever half written.

This module does not import torch and does not know what the files mean.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import secrets
import stat
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from aru_lab.errors import LabError

TEMPORARY_SUFFIX = ".partial"
BUSY_SECONDS = 5.0
FORGOTTEN_SECONDS = 3600.0  # no write takes this long: a dead process left a temporary file this old
CHECKSUM = "checksum"  # the key of a line's own checksum
CHECKSUM_DIGITS = 16


@contextlib.contextmanager
def reading(path: Path | str, failure: type[LabError], advice: str, absent: str | None = None) -> Iterator[None]:
    """Turn every error of reading and parsing a file into one sentence.

    Parsers of damaged bytes raise errors of many types (zlib, zipfile, pickle, struct, tokenize, RecursionError, ...),
    so every `Exception` counts, except those of the type `failure`, which name the file themselves. Only code that
    reads foreign content belongs inside the block.

    Args:
        path: the file; the sentence names it.
        failure: the error to raise.
        advice: what to do about it, the end of the sentence.
        absent: the whole sentence where the file does not exist; None says that it can't be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy and torch warn of odd files, and the sentence says enough
            yield
    except failure:
        raise
    except FileNotFoundError as error:
        raise failure(absent or f"{path} can't be read ({reason(error)}); {advice}") from error
    except Exception as error:
        raise failure(f"{path} can't be read ({reason(error)}); {advice}") from error


def reason(error: BaseException, most: int = 160) -> str:
    """Message of an error, on one line of at most `most` characters and without a full stop."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, KeyError) and error.args:
        return f"it has no {error.args[0]!r}"
    if isinstance(error, MemoryError):
        return "there is not enough memory for what it declares"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= most or isinstance(error, LabError) else text[: most - 3] + "..."


def is_file(path: Path) -> bool:
    """Whether a regular file can be reached at `path`; no error for names too long, loops or missing permissions."""
    return os.path.isfile(path)


def open_file(path: Path) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        OSError: it can't be opened, or is a folder, a pipe or a device, whose reading might never end.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "Not a regular file", str(path))


def read_bytes(path: Path) -> bytes:
    """All bytes of a regular file; raises as `open_file` does."""
    with open_file(path) as file:
        return file.read()


def sha256_of(path: Path) -> str:
    """SHA-256 of a regular file, in hexadecimal digits; raises as `open_file` does."""
    digest = hashlib.sha256()
    with open_file(path) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def replace_file(content: bytes, path: Path) -> None:
    """Write a temporary file beside `path`, bring it to the disk, and put it in the place of `path`.

    Whenever the process is killed, `path` holds the old content or the new, whole. Every call has a temporary file of
    its own, so that several processes may write one file: the last one stands. Where writing fails the temporary file
    is removed; one that a kill has left is removed by a later call.

    Raises:
        OSError, ValueError: the file can't be written.
    """
    temporary = path.with_name(f"{_stem(path)}{secrets.token_hex(8)}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        _replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)
    remove_temporaries(path, FORGOTTEN_SECONDS)


def remove_temporaries(path: Path, older_than: float = 0.0) -> None:
    """Remove the temporary files of `path` that were last written so many seconds ago."""
    limit = time.time() - older_than
    with contextlib.suppress(OSError):
        for name in os.listdir(path.parent):
            digits = name[len(_stem(path)) : -len(TEMPORARY_SUFFIX)]
            is_ours = name.startswith(_stem(path)) and name.endswith(TEMPORARY_SUFFIX) and _is_hexadecimal(digits, 16)
            if is_ours and (temporary := path.with_name(name)).stat().st_mtime <= limit:
                temporary.unlink()


def _replace(temporary: Path, path: Path) -> None:
    # Windows refuses as long as anyone has `path` open: another writer, a reader, a virus scanner.
    end = time.monotonic() + (BUSY_SECONDS if sys.platform == "win32" else 0.0)
    while True:
        try:
            os.replace(temporary, path)
            return
        except PermissionError:
            if time.monotonic() >= end:
                raise
            time.sleep(0.01)


def _stem(path: Path) -> str:
    # Shorter than the name where that is long, for the name with the digits must not be longer than a name may be.
    return f"{path.name[:50]}."


def _is_hexadecimal(text: str, length: int) -> bool:
    return len(text) == length and set(text) <= set("0123456789abcdef")


def _sync_folder(folder: Path) -> None:
    # The new name itself must reach the disk; only POSIX lets one open a folder for that, and not every file system.
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):
                os.fsync(descriptor)
        finally:
            os.close(descriptor)


def csv_text(header: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    """A header and rows as CSV."""
    import csv  # not needed by the command line's help

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def sealed(entry: dict[str, Any]) -> str:
    """One entry as a line of JSON with the entry's checksum at its end; the numbers read back exactly."""
    return json.dumps(entry | {CHECKSUM: _checksum(entry)}) + "\n"


def append_line(entry: dict[str, Any], path: Path) -> None:
    """Append one sealed entry to a file of lines and bring it to the disk: the whole line or, on an error, none of it.

    An unfinished last line, which a kill can leave, is taken away before.

    Raises:
        OSError, ValueError: the line can't be written.
    """
    line = sealed(entry).encode()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        start = _end_of_lines(file)
        try:
            while line:
                line = line[file.write(line) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(start)
            raise


def _end_of_lines(file: io.FileIO) -> int:
    """Remove an unfinished last line; return the size of the rest."""
    size = file.seek(0, os.SEEK_END)
    if size:
        file.seek(size - 1)
        if file.read(1) != b"\n":
            file.seek(0)
            size = file.readall().rfind(b"\n") + 1
            file.truncate(size)
    return size


def read_lines(path: Path, check: Callable[[dict[str, Any]], None], failure: type[LabError]) -> list[dict[str, Any]]:
    """Read a file of sealed lines, without an unfinished last line; a file that does not exist has no entries.

    Lines without a checksum, which earlier versions wrote, are only checked for their form.

    Args:
        path: the file.
        check: raises ValueError for an entry that is not of the expected form.
        failure: the error to raise.
    """
    if not os.path.lexists(path):
        return []
    with reading(path, failure, "it is damaged: delete it, and it is made again."):
        lines = read_bytes(path).decode("utf-8").split("\n")[:-1]
        return [_unsealed(line, number, check) for number, line in enumerate(lines, start=1)]


def _unsealed(line: str, number: int, check: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise ValueError(f"line {number}: {reason(error)}") from error
    if not isinstance(entry, dict):
        raise ValueError(f"line {number} is not a JSON object")
    if entry.pop(CHECKSUM, None) not in (None, _checksum(entry)):
        raise ValueError(f"line {number} does not have the checksum that it carries")
    try:
        check(entry)
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from error
    return entry


def _checksum(entry: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(entry).encode()).hexdigest()[:CHECKSUM_DIGITS]


Form = dict[str, type | tuple[type, ...]]


def check_form(entry: Any, form: Form) -> None:
    """Raise ValueError unless `entry` is a dictionary of exactly these names, each with a value of its types.

    A bool does not count as an int, and an int counts as a float.
    """
    if not isinstance(entry, dict):
        raise ValueError(f"it is a {type(entry).__name__} and not a dictionary")
    for name in form:
        if name not in entry:
            raise ValueError(f"it has no {name!r}")
    if foreign := [str(name) for name in entry if name not in form]:
        raise ValueError(f"it has the unknown name {foreign[0]!r}")
    for name, types in form.items():
        expected = types if isinstance(types, tuple) else (types,)
        value = entry[name]
        as_number = float in expected and isinstance(value, int)
        if not (isinstance(value, expected) or as_number) or (isinstance(value, bool) and bool not in expected):
            names = " or ".join("None" if kind is type(None) else kind.__name__ for kind in expected)
            raise ValueError(f"{name!r} is {reason(ValueError(repr(value)), 40)}, expected {names}")


def read_arrays(file: Path | BinaryIO, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays in an .npz file (numpy.savez), or those of some names; nothing in it is executed.

    Every array is read to its end, where its checksum is compared: `numpy.load` stops where a damaged header says that
    the array ends, and gives a shorter one.

    Args:
        file: path, or the file opened for reading.
        names: the arrays to read; None reads all, other names than those in the file are left out.

    Raises:
        Exception: of many types, see `reading`.
    """
    if isinstance(file, Path):
        with open_file(file) as opened:
            return read_arrays(opened, names)
    if not zipfile.is_zipfile(file):
        raise ValueError("it is not an archive of arrays")
    file.seek(0)
    arrays = {}
    with zipfile.ZipFile(file) as archive:
        held = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        if len({info.filename for info in held}) < len(held):
            raise ValueError("it holds one name twice")
        for info in held:
            name = info.filename.removesuffix(".npy")
            if names is None or name in set(names):
                with archive.open(info) as content:
                    arrays[name] = np.lib.format.read_array(content, allow_pickle=False)
                    if content.read(1):  # the checksum is compared at the end of the file
                        raise ValueError(f"{name} holds more than its header declares")
    return arrays


def array_names(file: BinaryIO) -> list[str]:
    """The names of the arrays in an .npz file that is opened for reading."""
    with zipfile.ZipFile(file) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def archive_of(arrays: dict[str, np.ndarray]) -> bytes:
    """The arrays as the bytes of a compressed .npz file, which `read_arrays` reads."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()
