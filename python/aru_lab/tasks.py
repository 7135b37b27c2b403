"""Tasks: labelled images read one pixel a step, in natural or in one fixed random order.

A task is one entry of TASKS. Nothing here imports torch, so that the command line can list the tasks at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aru_lab.data import DATASETS, Images, fixed_permutation
from aru_lab.errors import ConfigError

PERMUTATION_SEED = 0


@dataclass(frozen=True)
class Sequences:
    """Sequences x of shape (N, T, I), float32, and one label each, y of shape (N,), int64."""

    x: np.ndarray
    y: np.ndarray

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class TaskData:
    """The three parts of a task's data."""

    train: Sequences
    validation: Sequences
    test: Sequences


@dataclass(frozen=True)
class Task:
    """Classify an image read one pixel a step: T = rows x columns, I = 1, pixel values in [0, 1].

    `permuted` puts the pixels of every image in the same random order, that of `permutation(T)`.
    """

    name: str
    dataset: str
    permuted: bool
    n_classes: int = 10
    input_size: int = 1

    def load(
        self, data_dir: Path | None = None, subset: int | None = None, validation_subset: int | None = None
    ) -> TaskData:
        """Read the data.

        Args:
            data_dir: where the images are, see data.py; None takes the data set's own default.
            subset: take the first so many training examples (they lie in a fixed shuffled order); None takes all.
            validation_subset: the same for the validation examples.

        Raises:
            DataError: the data is missing or damaged.
            ConfigError: more examples were asked for than there are.
        """
        images = DATASETS[self.dataset](data_dir)
        return TaskData(
            train=self._sequences(_first(images.train, subset, "subset"), images.white),
            validation=self._sequences(_first(images.validation, validation_subset, "validation_subset"), images.white),
            test=self._sequences(images.test, images.white),
        )

    def _sequences(self, images: Images, white: int) -> Sequences:
        pixels = images.pixels.reshape(len(images), -1)
        if self.permuted:
            pixels = pixels[:, permutation(pixels.shape[1])]
        return Sequences((pixels.astype(np.float32) / white)[:, :, None], images.labels)


def permutation(n_steps: int) -> np.ndarray:
    """The order in which the permuted tasks read the pixels, int64 of shape (T,): step t shows pixel permutation[t]."""
    return fixed_permutation(n_steps, PERMUTATION_SEED)


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("sdigits", dataset="digits", permuted=False),
        Task("psdigits", dataset="digits", permuted=True),
        Task("smnist", dataset="mnist", permuted=False),
        Task("psmnist", dataset="mnist", permuted=True),
    )
}


def _first(images: Images, n: int | None, argument: str) -> Images:
    if n is not None and n > len(images):
        raise ConfigError(f"{argument}: got {n}, expected at most the {len(images)} examples that there are.")
    return images.take(slice(n))
