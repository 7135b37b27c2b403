"""Data: the IDX reader, checksums, where MNIST is looked for, the download, and the fixed splits."""

from __future__ import annotations

import gzip
import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from aru_lab.data import images
from aru_lab.errors import DataError

from .conftest import idx_bytes, write_idx

RNG = np.random.RandomState(0)
SMALL_MNIST = {
    "train-images-idx3-ubyte": RNG.randint(0, 256, (60, 4, 3)).astype(np.uint8),
    "train-labels-idx1-ubyte": RNG.randint(0, 10, 60).astype(np.uint8),
    "t10k-images-idx3-ubyte": RNG.randint(0, 256, (20, 4, 3)).astype(np.uint8),
    "t10k-labels-idx1-ubyte": RNG.randint(0, 10, 20).astype(np.uint8),
}


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.fixture
def small_mnist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A made MNIST of 60 + 20 images whose checksums stand in the table; the real data is out of reach."""
    folder = tmp_path / "packed"
    checksums = {}
    for name, array in SMALL_MNIST.items():
        write_idx(folder / f"{name}.gz", array)
        checksums[name] = (md5(idx_bytes(array)), md5((folder / f"{name}.gz").read_bytes()))
    monkeypatch.setattr(images, "MNIST_FILES", checksums)
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "cache" / name)
    monkeypatch.delenv("ARU_DATA_DIR", raising=False)
    return folder


@pytest.fixture
def mirror(small_mnist: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A web server on this machine that plays the mirror."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(small_mnist)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(images, "MNIST_MIRROR", f"http://127.0.0.1:{server.server_port}/")
    yield small_mnist
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_reader_returns_what_was_written(tmp_path: Path, suffix: str) -> None:
    array = RNG.randint(0, 256, (5, 3, 2)).astype(np.uint8)
    write_idx(tmp_path / f"images{suffix}", array)
    np.testing.assert_array_equal(images.read_idx(tmp_path / f"images{suffix}"), array)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"not an idx file", "not an IDX file of unsigned bytes"),
        (b"", "not an IDX file of unsigned bytes"),
        (bytes([0, 0, 8, 2, 0, 0]), "ends inside its header"),
        (idx_bytes(np.zeros((4, 4), np.uint8))[:-3], "promises 16 bytes"),
        (gzip.compress(idx_bytes(np.zeros((4, 4), np.uint8)))[:-12], "can't be read"),
    ],
    ids=["text", "empty", "short header", "short data", "short gzip"],  # a gzip file holds the time it was made
)
def test_idx_reader_says_what_is_wrong(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        images.read_idx(tmp_path / "file")


def test_gzip_file_that_unpacks_to_more_than_any_of_ours_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MOST_BYTES", 1000)
    (tmp_path / "file").write_bytes(gzip.compress(bytes(10**6)))
    with pytest.raises(DataError, match=r"file can't be read \(it holds more than 1000 bytes\); replace it"):
        images.read_idx(tmp_path / "file")


def test_header_whose_sizes_overflow_is_refused(tmp_path: Path) -> None:
    """2^32 times 2^32 is 0 in 64 bits, and so is the rest of the file."""
    (tmp_path / "file").write_bytes(bytes([0, 0, 8, 4]) + b"\x00\x01\x00\x00" * 4)
    with pytest.raises(DataError, match=r"promises 18446744073709551616 bytes"):
        images.read_idx(tmp_path / "file")
    (tmp_path / "file").write_bytes(bytes([0, 0, 8, 200]) + b"\x00\x00\x00\x01" * 200 + b"x")
    with pytest.raises(DataError, match=r"file can't be read \(maximum supported dimension"):
        images.read_idx(tmp_path / "file")


def test_folder_whose_name_is_too_long_is_told(small_mnist: Path) -> None:
    with pytest.raises(DataError, match="is neither there nor in its folders"):
        images.load_mnist(Path("n" * 300))


@pytest.mark.parametrize("layout", images.MNIST_LAYOUTS)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist_is_found_in_the_usual_layouts(small_mnist: Path, tmp_path: Path, layout: str, suffix: str) -> None:
    for name, array in SMALL_MNIST.items():
        write_idx(tmp_path / "here" / layout / f"{name}{suffix}", array)
    dataset = images.load_mnist(tmp_path / "here")
    assert [len(part) for part in (dataset.train, dataset.validation, dataset.test)] == [50, 10, 20]
    np.testing.assert_array_equal(dataset.test.pixels, SMALL_MNIST["t10k-images-idx3-ubyte"])
    order = images.fixed_permutation(60, images.SPLIT_SEED)
    np.testing.assert_array_equal(dataset.train.pixels, SMALL_MNIST["train-images-idx3-ubyte"][order[:50]])
    np.testing.assert_array_equal(dataset.validation.labels, SMALL_MNIST["train-labels-idx1-ubyte"][order[50:]])


def test_mnist_is_found_through_the_environment(small_mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARU_DATA_DIR", str(small_mnist))
    assert len(images.load_mnist().test) == 20


def test_wrong_checksum_is_refused(small_mnist: Path) -> None:
    write_idx(small_mnist / "t10k-labels-idx1-ubyte.gz", np.zeros(20, np.uint8))
    with pytest.raises(DataError, match=r"t10k-labels.*MD5 checksum .* expected .* replace it"):
        images.load_mnist(small_mnist)


def test_missing_file_says_where_it_was_sought(small_mnist: Path) -> None:
    (small_mnist / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte .*MNIST/raw.*--data-dir or ARU_DATA_DIR"):
        images.load_mnist(small_mnist)


def test_download_fills_the_cache_once(mirror: Path) -> None:
    assert len(images.load_mnist().train) == 50
    for file in mirror.iterdir():
        file.unlink()
    assert len(images.load_mnist().train) == 50


def test_damaged_download_is_refused(mirror: Path) -> None:
    (mirror / "train-images-idx3-ubyte.gz").write_bytes(b"something else")
    with pytest.raises(DataError, match=r"does not have the checksum of MNIST's four IDX files; try again"):
        images.load_mnist()


def test_no_network_says_what_to_do(small_mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing listens on the discard port, so that the connection is refused at once.
    monkeypatch.setattr(images, "MNIST_MIRROR", "http://127.0.0.1:9/")
    with pytest.raises(DataError, match=r"download failed .*connect to the network, or .*--data-dir or ARU_DATA_DIR"):
        images.load_mnist()


def test_file_missing_on_the_mirror_says_what_to_do(mirror: Path) -> None:
    (mirror / "train-images-idx3-ubyte.gz").unlink()
    with pytest.raises(DataError, match="download failed"):
        images.load_mnist()


def test_digits_split_is_stratified_disjoint_and_fixed() -> None:
    dataset = images.load_digits()
    parts = (dataset.train, dataset.validation, dataset.test)
    assert sum(map(len, parts)) == 1797
    for part, share in zip(parts, (0.7, 0.1, 0.2), strict=True):
        counts = np.bincount(part.labels, minlength=10)
        whole = np.bincount(np.concatenate([p.labels for p in parts]), minlength=10)
        np.testing.assert_allclose(counts, share * whole, atol=1.0)
    content = b"".join(part.pixels.tobytes() + part.labels.astype("<i8").tobytes() for part in parts)
    assert hashlib.sha256(content).hexdigest() == "eb7ff12f573988801581997a84815d25fabb81956d2cb05de1062efdd2eda88d"
    assert dataset.train.pixels.max() == dataset.white


def test_real_mnist(mnist_dir: Path) -> None:
    dataset = images.load_mnist(mnist_dir)
    assert [part.pixels.shape for part in (dataset.train, dataset.validation, dataset.test)] == [
        (50_000, 28, 28),
        (10_000, 28, 28),
        (10_000, 28, 28),
    ]
    np.testing.assert_array_equal(dataset.test.labels[:5], [7, 2, 1, 0, 4])
