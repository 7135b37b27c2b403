"""Damage done to files: what disks, editors, other programs and other versions can leave where a file should be.

`damages(content, others, rng)` makes named variants of a file's bytes; `replacements()` are things that are no regular
files. Everything is a function of the random generator.
"""

from __future__ import annotations

import functools
import io
import json
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

Damage = tuple[str, bytes]


def boundaries(content: bytes) -> list[int]:
    """Where a file of any kind of ours has an inner end: members and records of a zip archive, lines, blocks of IDX."""
    found = {0, 1, 4, 8, len(content) // 2, len(content) - 1}
    found |= {k + 1 for k, byte in enumerate(content) if byte == 10 and content[:1] in (b"{", b"[")}
    for mark in (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"\x93NUMPY", b"sha256:"):
        start = content.find(mark)
        while start >= 0:
            found |= {start, start + len(mark), start + 30}
            start = content.find(mark, start + 1)
    return sorted(k for k in found if 0 <= k < len(content))


def truncations(content: bytes) -> Iterator[Damage]:
    """The first part of the file, up to each boundary."""
    for k in boundaries(content):
        yield f"cut at {k}", content[:k]


def bit_flips(content: bytes, n: int, rng: random.Random) -> Iterator[Damage]:
    """One bit of the file is the other one."""
    for _ in range(n if content else 0):
        k, bit = rng.randrange(len(content)), rng.randrange(8)
        changed = bytearray(content)
        changed[k] ^= 1 << bit
        yield f"bit {bit} of byte {k} flipped", bytes(changed)


def rewrites(content: bytes, n: int, rng: random.Random) -> Iterator[Damage]:
    """A stretch of the file is zero, random, missing or there twice."""
    for _ in range(n if content else 0):
        start = rng.randrange(len(content))
        end = min(len(content), start + rng.choice((1, 3, 16, 100, 4096)))
        how = rng.choice(("zeroed", "random", "removed", "doubled"))
        middle = {
            "zeroed": bytes(end - start),
            "random": rng.randbytes(end - start),
            "removed": b"",
            "doubled": content[start:end] * 2,
        }[how]
        yield f"bytes {start} to {end} {how}", content[:start] + middle + content[end:]


def tokens(content: bytes, n: int, rng: random.Random) -> Iterator[Damage]:
    """A value of a JSON file is of another kind or size: valid JSON of another form."""
    try:
        lines = [json.loads(line) for line in content.decode().splitlines()] if b"}\n{" in content else None
        value = json.loads(content) if lines is None else lines
    except ValueError:
        return
    values = (None, True, -1, 0, 1.5, 10**400, float("nan"), float("inf"), "", "x", "é\x00\x1b[31m", [], {}, [[1]], "1")
    for _ in range(n):
        changed = json.loads(json.dumps(value))
        places = list(_places(changed))
        place, key = rng.choice(places)
        if rng.random() < 0.2 and isinstance(place, dict):
            del place[key]
            what = f"{key} removed"
        else:
            place[key] = rng.choice(values)
            what = f"{key} = {str(place[key])[:20]!r}"
        text = json.dumps(changed) if lines is None else "".join(json.dumps(line) + "\n" for line in changed)
        yield what, text.encode()


def _places(value: object) -> Iterator[tuple[dict | list, object]]:
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


class _Mischief:
    """Unpickling this would make a file."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, ("unpickled",)


def _torch_save(value: object, **options: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def _npz(**arrays: object) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _zip(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _npy_header(shape: str, data: bytes = b"", version: int = 1, descr: str = "'<f8'") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + data


def _inflated_zip(content: bytes) -> bytes:
    """The same archive with its members' sizes declared to be almost 4 GiB."""
    changed = bytearray(content)
    start = changed.find(b"PK\x01\x02")
    while start >= 0:
        changed[start + 24 : start + 28] = b"\xf0\xff\xff\xff"
        start = changed.find(b"PK\x01\x02", start + 4)
    return bytes(changed)


@functools.lru_cache(maxsize=1)
def foreign() -> dict[str, bytes]:
    """Whole files of other kinds."""
    nan = {"model": {"recurrent.weight_hh_l0": torch.full((4, 4), torch.nan)}, "epoch": 1, "validation": {}}
    y = np.arange(20) % 3
    return {
        "empty": b"",
        "text": b"some text\n",
        "not UTF-8": b'{"config": "\xff\xfe\xc3"}\n',
        "byte order mark": b"\xef\xbb\xbf{}\n",
        "UTF-16": '{"config": {}}\n'.encode("utf-16"),
        "zeros": bytes(5000),
        "JSON list": b"[1, 2]\n",
        "JSON number": b"3\n",
        "JSON null": b"null\n",
        "JSON text": b'"config"\n',
        "JSON object": b"{}\n",
        "JSON of another program": b'{"name": "x", "version": 1}\n',
        "deep JSON": b"[" * 100_000 + b"]" * 100_000 + b"\n",
        "deep JSON object": b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"\n",
        "JSON of a huge number": b'{"config": ' + b"9" * 10_000 + b', "environment": {}}\n',
        "JSON twice": b'{"config": {}, "environment": {}}{"config": {}, "environment": {}}',
        "pickle": pickle.dumps({"model": [1, 2]}),
        "pickle that acts": pickle.dumps(_Mischief()),
        "gzip": b"\x1f\x8b\x08\x00" + bytes(20),
        "zip of nothing": _zip(),
        "zip of text": _zip(readme=b"hello"),
        "zip of a pickle": _zip(**{"archive/data.pkl": pickle.dumps(_Mischief()), "archive/version": b"3\n"}),
        "npz of something": _npz(a=np.ones(3)),
        "npz of text": _npz(x=np.full((20, 3, 2), "a"), y=y),
        "npz of objects": _npz(x=np.full((20, 3, 2), None), y=y),
        "npz of a key that is no JSON": _npz(key=np.array("{")),
        "npz of a key that is a list": _npz(key=np.array("[1]")),
        "npz of a key alone": _npz(key=np.array('{"format": 1}')),
        "npz of huge sequences": _zip(
            **{"x.npy": _npy_header("(1000000, 1000000, 100)"), "y.npy": _npy_header("(20,)")}
        ),
        "npz of overflowing sequences": _zip(**{"x.npy": _npy_header("(4294967296, 4294967296, 2)"), "y.npy": b""}),
        "npz of negative sequences": _zip(**{"x.npy": _npy_header("(-1, 3, 2)", bytes(48)), "y.npy": b""}),
        "npz of a deep header": _zip(**{"x.npy": _npy_header("(" * 5000), "y.npy": b""}),
        "npz of code in a header": _zip(**{"x.npy": _npy_header("__import__('os').mkdir('unpickled')"), "y.npy": b""}),
        "npz of an odd header": _zip(**{"x.npy": _npy_header("(20L, 3L, 2L)"), "y.npy": b""}),
        "npz of an odd type": _zip(**{"x.npy": _npy_header("(1,)", descr="[('a', 'b')"), "y.npy": b""}),
        "npz of a later version": _zip(**{"x.npy": _npy_header("(1,)", version=9), "y.npy": b""}),
        "npy": _npy_header("(3,)", bytes(24)),
        "torch list": _torch_save([1, 2]),
        "torch tensor": _torch_save(torch.ones(3)),
        "torch empty": _torch_save({}),
        "torch of no network": _torch_save({"model": 3}),
        "torch of other names": _torch_save({"model": {"a": torch.ones(2)}, "epoch": 1, "validation": {}}),
        "torch of NaN": _torch_save(nan),
        "torch of numbers as names": _torch_save({"model": {1: torch.ones(2)}, 2: 3}),
        "torch of a position that is text": _torch_save(
            {"model": {}, "optimizer": {}, "plateau": {}, "position": "x", "rng": [], "rng_cuda": None}
        ),
        "torch of before 1.6": _torch_save({"model": {"a": torch.ones(2)}}, _use_new_zipfile_serialization=False),
        "torch that acts": _torch_save(_Mischief()),
    }


def damages(content: bytes, others: dict[str, bytes], n: int, rng: random.Random) -> list[Damage]:
    """All kinds of damage to a file: n of each random kind, and all of the others.

    Args:
        content: the file.
        others: whole files that may stand in its place by mistake, by name.
        n: how many of each random kind.
        rng: draws them.
    """
    found = [
        *truncations(content),
        *bit_flips(content, 3 * n, rng),
        *rewrites(content, n, rng),
        *tokens(content, 2 * n, rng),
        *foreign().items(),
        *((f"content of {name}", other) for name, other in others.items()),
        ("content behind the end", content + b"x"),
        ("twice", content * 2),
    ]
    if content.startswith(b"PK"):
        found.append(("declared to be huge", _inflated_zip(content)))
    return [(name, changed) for name, changed in found if changed != content]


def _folder(path: Path) -> None:
    path.mkdir()


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _long_link(path: Path) -> None:
    path.symlink_to("x" * 300)


def _dangling(path: Path) -> None:
    path.symlink_to("nothing")


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _unreadable(path: Path) -> None:
    path.write_bytes(b"secret")
    path.chmod(0)


def replacements() -> dict[str, Callable[[Path], None]]:
    """What is no file to read, by name: functions that put it at a path."""
    if os.name != "posix":
        return {"a folder": _folder}
    found = {
        "a folder": _folder,
        "a loop of links": _loop,
        "a link to a name too long": _long_link,
        "a link to nothing": _dangling,
        "a pipe": _pipe,
        "a device without end": _device,
    }
    # The superuser may read everything.
    return found | ({} if os.geteuid() == 0 else {"an unreadable file": _unreadable})
