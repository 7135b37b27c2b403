"""Tasks: shapes, range, the fixed permutation and the subsets."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from aru_lab.data import load_digits
from aru_lab.errors import ConfigError
from aru_lab.tasks import TASKS, permutation


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
    with pytest.raises(ConfigError, match="subset: got 5000, expected at most the 1258 examples"):
        TASKS["sdigits"].load(subset=5000)


def test_psmnist(mnist_dir: Path) -> None:
    sequences = TASKS["psmnist"].load(mnist_dir, subset=100, validation_subset=50)
    assert sequences.train.x.shape == (100, 784, 1)
    assert sequences.validation.x.shape == (50, 784, 1)
    assert sequences.test.x.shape == (10_000, 784, 1)
    assert (sequences.train.x.min(), sequences.train.x.max()) == (0, 1)
