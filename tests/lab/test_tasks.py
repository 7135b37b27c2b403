"""Tasks: shapes, range, the fixed permutation and the subsets."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from aru_lab.data.images import DATASETS, Dataset, Images, load_digits
from aru_lab.data.tasks import TASKS, ImageTask, find_task, permutation
from aru_lab.errors import ConfigError


@pytest.mark.parametrize(
    ("n_steps", "digest"),
    [
        (64, "d282de6dfcc9d9fafa19369241d05bc12c9fce798ee820c11692e78f9e8e73f7"),
        (784, "fe62e3fef305ce16e55f08cd0056a8b237e12af6c9523ff3fb35395f6ec55222"),
    ],
)
def test_permutation_is_one_and_never_changes(n_steps: int, digest: str) -> None:
    order = permutation(n_steps)
    np.testing.assert_array_equal(np.sort(order), np.arange(n_steps))
    assert hashlib.sha256(order.astype("<i8").tobytes()).hexdigest() == digest


def test_sdigits_reads_the_pixels_row_by_row() -> None:
    sequences, images = TASKS["sdigits"].load().train, load_digits().train
    assert sequences.x.shape == (len(images), 64, 1)
    assert sequences.x.dtype == np.float32
    assert sequences.y.dtype == np.int64
    np.testing.assert_array_equal(sequences.x[3, :, 0], images.pixels[3].reshape(64) / np.float32(16))
    assert sequences.x.min() == 0
    assert sequences.x.max() == 1


def test_psdigits_reads_the_same_pixels_in_the_fixed_order() -> None:
    plain, permuted = TASKS["sdigits"].load(), TASKS["psdigits"].load()
    for part in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(permuted, part).x, getattr(plain, part).x[:, permutation(64)])
        np.testing.assert_array_equal(getattr(permuted, part).y, getattr(plain, part).y)


def test_subset_is_the_beginning_of_the_whole() -> None:
    task = TASKS["psdigits"]
    whole, part = task.load(), task.load(subset=30, validation_subset=7)
    np.testing.assert_array_equal(part.train.x, whole.train.x[:30])
    np.testing.assert_array_equal(part.validation.y, whole.validation.y[:7])
    assert len(part.test) == len(whole.test)
    assert len(np.unique(part.train.y)) == 10


def test_subset_larger_than_the_data_is_refused() -> None:
    with pytest.raises(ConfigError, match="subset: got 5000, expected at most 1258, the number of examples"):
        TASKS["sdigits"].load(subset=5000)


def test_psmnist(mnist_dir: Path) -> None:
    sequences = TASKS["psmnist"].load(mnist_dir, subset=100, validation_subset=50)
    assert sequences.train.x.shape == (100, 784, 1)
    assert sequences.validation.x.shape == (50, 784, 1)
    assert sequences.test.x.shape == (10_000, 784, 1)
    assert (sequences.train.x.min(), sequences.train.x.max()) == (0, 1)


def test_grouped_pixels_are_the_same_in_larger_steps() -> None:
    single, grouped = find_task("psdigits"), find_task("psdigits", 8)
    assert (single.n_steps, single.input_size) == (64, 1)
    assert (grouped.n_steps, grouped.input_size) == (8, 8)
    x = grouped.load().train.x
    assert x.shape[1:] == (8, 8)
    np.testing.assert_array_equal(x.reshape(len(x), 64), single.load().train.x[:, :, 0])


@pytest.mark.parametrize(
    ("name", "pixels", "sentence"),
    [
        ("psmnist", 5, "pixels_per_step: got 5, expected a divisor of 784"),
        ("scifar10-conv", 2, "pixels_per_step: got 2, expected 1 with a convolutional encoder"),
        ("mnist", 1, "task: got 'mnist', expected one of"),
    ],
)
def test_groups_and_names_that_there_are_not_are_refused(name: str, pixels: int, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        find_task(name, pixels)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Images:
    """A data set of 40 test images of 4x4 pixels."""
    images = Images(np.random.RandomState(0).randint(0, 256, (40, 4, 4)).astype(np.uint8), np.arange(40) % 10)
    none = images.take(slice(0))
    monkeypatch.setitem(DATASETS, "made", lambda data_dir, split_seed: Dataset(none, none, images, white=255))
    return images


def test_rotation_is_counter_clockwise_and_about_the_middle(made: Images) -> None:
    upright = ImageTask("upright", "made", 16, held_out=True).load().test
    quarter = ImageTask("quarter", "made", 16, held_out=True, rotation=90.0).load().test
    expected = np.rot90(upright.x.reshape(-1, 4, 4), axes=(1, 2))
    np.testing.assert_allclose(quarter.x.reshape(-1, 4, 4), expected, atol=1 / 255)
    np.testing.assert_array_equal(quarter.y, upright.y)


def test_rotation_by_45_degrees_leaves_the_corners_black() -> None:
    upright, rotated = (TASKS[name].load().test for name in ("upright-psdigits", "rotated-psdigits"))
    image = rotated.x[:, np.argsort(permutation(64)), 0].reshape(-1, 8, 8)
    assert not image[:, [0, 0, -1, -1], [0, -1, 0, -1]].any()
    assert 0.7 < image.mean() / upright.x.mean() < 1  # what turns out of the picture is cut off
    np.testing.assert_array_equal(upright.y, rotated.y)


def test_held_out_tasks_split_the_test_images_alone() -> None:
    parts = TASKS["rotated-psdigits"].load()
    assert [len(part) for part in (parts.train, parts.validation, parts.test)] == [162, 17, 180]
    upright = TASKS["upright-psdigits"].load()
    found = np.concatenate([part.x for part in (upright.train, upright.validation, upright.test)])
    whole = TASKS["psdigits"].load().test.x
    np.testing.assert_array_equal(np.unique(found, axis=0), np.unique(whole, axis=0))


def test_balanced_halves_have_as_many_images_of_each_class() -> None:
    parts = TASKS["balanced-rotated-psdigits"].load()
    counts = [np.bincount(np.concatenate([parts.train.y, parts.validation.y]), minlength=10), np.bincount(parts.test.y)]
    assert abs(counts[0] - counts[1]).max() <= 1
    whole = TASKS["psdigits"].load().test.y
    np.testing.assert_array_equal(counts[0] + counts[1], np.bincount(whole))
    upright = TASKS["balanced-upright-psdigits"].load()
    np.testing.assert_array_equal(upright.test.y, parts.test.y)
    assert not np.array_equal(upright.test.x, parts.test.x)
