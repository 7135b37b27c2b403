"""CIFAR-10's binary layout, on made files: what is read, and how it is checked."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from aru_lab.data import cifar, images
from aru_lab.data.tasks import TASKS, find_task
from aru_lab.errors import DataError

from .conftest import ROOT

RNG = np.random.RandomState(0)
N = 20


def records() -> np.ndarray:
    """N records, two of each class: a label and 3,072 pixels."""
    labels = RNG.permutation(np.repeat(np.arange(10), N // 10)).astype(np.uint8)
    return np.concatenate([labels[:, None], RNG.randint(0, 256, (N, 3072)).astype(np.uint8)], axis=1)


FILES = {name: records() for name in (*cifar.TRAIN_FILES, cifar.TEST_FILE)}


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Six small files with their MD5SUMS."""
    monkeypatch.setattr(cifar, "IMAGES_PER_FILE", N)
    target = tmp_path / cifar.FOLDER
    target.mkdir()
    for name, content in FILES.items():
        (target / name).write_bytes(content.tobytes())
    vouch(target)
    return target


def vouch(folder: Path) -> None:
    lines = (f"{md5((folder / name).read_bytes())} *{name}\n" for name in FILES)
    (folder / "MD5SUMS").write_text("".join(lines))


def test_pixels_and_labels_are_where_the_layout_says(folder: Path) -> None:
    pixels, labels, test_pixels, test_labels = cifar.read_cifar10(folder)
    assert (pixels.shape, test_pixels.shape) == ((5 * N, 32, 32, 3), (N, 32, 32, 3))
    second = FILES["data_batch_2.bin"]
    np.testing.assert_array_equal(labels[N : 2 * N], second[:, 0])
    np.testing.assert_array_equal(test_labels, FILES[cifar.TEST_FILE][:, 0])
    # Byte 1 + 1024 c + 32 y + x of a record is channel c of the pixel in row y and column x.
    for c, y, x in ((0, 0, 0), (1, 3, 17), (2, 31, 30)):
        assert pixels[N + 4, y, x, c] == second[4, 1 + 1024 * c + 32 * y + x]


@pytest.mark.parametrize("layout", cifar.LAYOUTS)
def test_files_are_found_in_the_usual_layouts(folder: Path, tmp_path: Path, layout: str) -> None:
    place = tmp_path / "here" / layout
    place.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(place)
    assert len(cifar.read_cifar10(tmp_path / "here")[1]) == 5 * N


def test_split_is_of_the_training_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARU_DATA_DIR", str(folder))
    dataset = images.load_cifar10()
    assert [len(part) for part in (dataset.train, dataset.validation, dataset.test)] == [90, 10, 20]
    order = images.fixed_permutation(100, images.SPLIT_SEED)
    np.testing.assert_array_equal(dataset.train.labels, cifar.read_cifar10(folder)[1][order[:90]])


def test_grey_and_colour_sequences(folder: Path) -> None:
    grey, colour = (TASKS[name].load(folder).test.x for name in ("scifar10", "scifar10-conv"))
    assert grey.shape == (N, 1024, 1)
    assert colour.shape == (N, 1024, 3)
    red, green, blue = (FILES[cifar.TEST_FILE][:, 1 + 1024 * c : 1 + 1024 * (c + 1)] / 255 for c in range(3))
    np.testing.assert_allclose(colour[:, :, 1], green, rtol=1e-6)
    np.testing.assert_allclose(grey[:, :, 0], 0.299 * red + 0.587 * green + 0.114 * blue, rtol=1e-5)


def test_grey_images_for_the_encoder_have_the_grey_value_in_all_colours(folder: Path) -> None:
    grey, encoded = (TASKS[name].load(folder).test.x for name in ("scifar10", "scifar10-conv-grey"))
    assert encoded.shape == (N, 1024, 3)
    np.testing.assert_allclose(encoded, np.repeat(grey, 3, axis=2), rtol=1e-6)


def test_each_permutation_seed_has_its_own_split(folder: Path) -> None:
    first, second = (find_task("scifar10", permutation_seed=seed).load(folder) for seed in (0, 1))
    order = images.fixed_permutation(100, images.SPLIT_SEED + 1)
    labels = cifar.read_cifar10(folder)[1]
    np.testing.assert_array_equal(second.validation.y, labels[order[90:]])
    assert not np.array_equal(first.train.y, second.train.y)
    np.testing.assert_array_equal(first.test.x, second.test.x)


def test_changed_file_is_refused(folder: Path) -> None:
    content = bytearray((folder / "data_batch_3.bin").read_bytes())
    content[100] ^= 1
    (folder / "data_batch_3.bin").write_bytes(content)
    with pytest.raises(DataError, match=r"data_batch_3.bin: its MD5 checksum is .*, and .*MD5SUMS says"):
        cifar.read_cifar10(folder)


def test_files_of_unknown_content_are_refused_until_vouched_for(folder: Path) -> None:
    (folder / "MD5SUMS").unlink()
    with pytest.raises(DataError, match=r"is not known; .*md5sum \*.bin > MD5SUMS"):
        cifar.read_cifar10(folder)
    vouch(folder)
    assert len(cifar.read_cifar10(folder)[1]) == 5 * N


def test_expanded_copy_is_known_by_its_checksums(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "MD5SUMS").unlink()
    monkeypatch.setattr(cifar, "JPEG_FILES", {name: md5(content.tobytes()) for name, content in FILES.items()})
    assert len(cifar.read_cifar10(folder)[1]) == 5 * N


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda content: content[:-1], "has 61459 bytes, expected 20 records of 3073 bytes"),
        (lambda content: b"\x0a" + content[1:], "a record has the label 10, expected 0 to 9"),
        (lambda content: content[:3073] * N, "training files hold .* images of the ten classes, expected 10 of each"),
    ],
    ids=["short", "label", "classes"],
)
def test_what_is_no_cifar10_is_refused(folder: Path, change: object, sentence: str) -> None:
    path = folder / "data_batch_1.bin"
    path.write_bytes(change(path.read_bytes()))
    vouch(folder)
    with pytest.raises(DataError, match=sentence):
        cifar.read_cifar10(folder)


def test_missing_file_is_told(folder: Path) -> None:
    (folder / "data_batch_4.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_4.bin can't be read \(No such file"):
        cifar.read_cifar10(folder)


def test_sums_that_are_no_text_are_told(folder: Path) -> None:
    (folder / "MD5SUMS").write_bytes(b"\xff\xfe\n")
    with pytest.raises(DataError, match=r"MD5SUMS can't be read \('utf-8' codec .*\); write it again with `md5sum"):
        cifar.read_cifar10(folder)


def test_missing_everything_says_where_it_was_sought(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither cifar-10-binary.tar.gz nor .*--data-dir or ARU_DATA_DIR"):
        cifar.read_cifar10(tmp_path)


def archive(path: Path) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in FILES.items():
            info = tarfile.TarInfo(f"{cifar.FOLDER}/{name}")
            info.size = content.nbytes
            tar.addfile(info, io.BytesIO(content.tobytes()))


def test_archive_is_read_where_its_checksum_is_the_authors(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = tmp_path / "packed"
    packed.mkdir()
    archive(packed / cifar.ARCHIVE)
    with pytest.raises(DataError, match=f"expected {cifar.ARCHIVE_MD5}; download it again"):
        cifar.read_cifar10(packed)
    monkeypatch.setattr(cifar, "ARCHIVE_MD5", md5((packed / cifar.ARCHIVE).read_bytes()))
    for found, expected in zip(cifar.read_cifar10(packed), cifar.read_cifar10(folder), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_real_files() -> None:
    place = Path(os.environ.get("ARU_DATA_DIR", ROOT.parent / "shared" / "data"))
    if not any(
        (place / layout / name).exists() for layout in cifar.LAYOUTS for name in (cifar.TEST_FILE, cifar.ARCHIVE)
    ):
        pytest.skip(f"CIFAR-10's binary files are not in {place}; set ARU_DATA_DIR")
    dataset = images.load_cifar10(place)
    assert [part.pixels.shape for part in (dataset.train, dataset.validation, dataset.test)] == [
        (45_000, 32, 32, 3),
        (5_000, 32, 32, 3),
        (10_000, 32, 32, 3),
    ]
