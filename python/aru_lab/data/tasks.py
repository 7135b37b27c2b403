"""Tasks: sequences with their targets. Images are read pixel by pixel; a file holds sequences; trials are drawn.

A task is one entry of TASKS. This module does not import torch, so the command line lists the tasks quickly.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from aru_lab.arguments import check_choice, parse_parameters
from aru_lab.data.cognitive import KINDS
from aru_lab.data.gym import PREFIX, NeuroGym
from aru_lab.data.images import DATASETS, SPLIT_SEED, Images, fixed_permutation
from aru_lab.data.preparation import DEFAULT, Preparation, Prepared, prepare
from aru_lab.data.sequences import Sequences, TaskData, checksum, first
from aru_lab.data.splits import stratified_split
from aru_lab.data.summary import describe, remarks
from aru_lab.data.targets import Target
from aru_lab.data.transform import Transform
from aru_lab.data.trials import Kind, TrialTask
from aru_lab.errors import ConfigError

VALIDATION_SHARE = 10  # one in so many
GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as torchvision and Pillow turn colour into grey


class Task(Protocol):
    """Interface of all tasks."""

    name: str

    @property
    def input_size(self) -> int:
        """I of the recurrent network."""

    @property
    def n_steps(self) -> int:
        """T of the recurrent network."""

    @property
    def target(self) -> Target:
        """What is predicted."""

    @property
    def encoder(self) -> str:
        """Encoder before the recurrent network: "linear" (its own input weights) or "conv"."""

    @property
    def checksum(self) -> str | None:
        """SHA-256 of the user's file or of the trials; None for data sets, whose files have known checksums."""

    @property
    def remarks(self) -> list[str]:
        """Warnings about the data, in sentences."""

    @property
    def transform(self) -> Transform | None:
        """What was done to the inputs of a file or of trials; None for data sets."""

    @property
    def description(self) -> dict[str, Any] | None:
        """What a run keeps of a file or of trials, as json can write it; None for data sets."""

    def load(
        self, data_dir: Path | None = None, subset: int | None = None, validation_subset: int | None = None
    ) -> TaskData:
        """Read the data.

        Args:
            data_dir: where the images are, see `images`; None takes the data set's own default.
            subset: take the first so many training examples (they lie in a fixed shuffled order); None takes all.
            validation_subset: the same for the validation examples.

        Raises:
            DataError: the data is missing or damaged.
            ConfigError: more examples were asked for than there are.
        """
        ...


@dataclass(frozen=True)
class ImageTask:
    """Classify an image read row by row, some pixels a step, pixel values in [0, 1].

    With the encoder "linear", a step is `pixels_per_step` grey pixels: T = pixels / pixels_per_step, I =
    pixels_per_step. With "conv", x holds the pixels of the colour image (T = pixels, I = 3) and the recurrent network
    reads the 256 features of the encoder in 64 steps (`encoders.ConvEncoder`). `grey` gives all three colours the grey
    value.

    `permuted` puts the pixels of every image in the same random order, that of `permutation(n_pixels,
    permutation_seed)`. The division into parts is drawn from the same seed.
    `held_out` takes only the test images, in a fixed random order: one half for training (a tenth of it for
    validation), the other half for testing; networks trained on the other tasks have seen none of them. `balanced`:
    each class has as many images, to one, in both halves.
    `rotation` turns the images counter-clockwise by so many degrees, about the middle, edges filled with black.
    """

    name: str
    dataset: str
    n_pixels: int
    permuted: bool = False
    held_out: bool = False
    balanced: bool = False
    rotation: float = 0.0
    encoder: str = "linear"
    grey: bool = False
    pixels_per_step: int = 1
    permutation_seed: int = 0

    @property
    def target(self) -> Target:
        """The ten classes of images, numbered from 0."""
        return Target(10, tuple(map(str, range(10))))

    @property
    def checksum(self) -> None:
        """None: the files of the data sets are checked when they are read."""
        return None

    @property
    def remarks(self) -> list[str]:
        """No warnings: the data sets are known."""
        return []

    @property
    def transform(self) -> None:
        """None: pixels are only scaled to [0, 1]."""
        return None

    @property
    def description(self) -> None:
        """None: the data sets are known."""
        return None

    @property
    def input_size(self) -> int:
        """I of the recurrent network."""
        return 256 if self.encoder == "conv" else self.pixels_per_step

    @property
    def n_steps(self) -> int:
        """T of the recurrent network."""
        return self.n_pixels // (16 if self.encoder == "conv" else self.pixels_per_step)

    def load(
        self, data_dir: Path | None = None, subset: int | None = None, validation_subset: int | None = None
    ) -> TaskData:
        """Read the data; see `Task.load`."""
        split_seed = SPLIT_SEED + self.permutation_seed
        images = DATASETS[self.dataset](data_dir, split_seed)
        parts = (images.train, images.validation, images.test)
        if self.held_out:
            halves = self._halves(images.test.labels, split_seed)
            fit = len(halves[0]) - len(halves[0]) // VALIDATION_SHARE
            parts = tuple(images.test.take(index) for index in (halves[0][:fit], halves[0][fit:], halves[1]))
        return TaskData(
            train=self._sequences(first(parts[0], subset, "subset"), images.white),
            validation=self._sequences(first(parts[1], validation_subset, "validation_subset"), images.white),
            test=self._sequences(parts[2], images.white),
        )

    def _halves(self, labels: np.ndarray, seed: int) -> list[np.ndarray]:
        """The places of the test images of each half, in random order."""
        if self.balanced:
            return stratified_split(labels, [0.5, 0.5], seed)
        return np.split(fixed_permutation(len(labels), seed), [len(labels) // 2])

    def _sequences(self, images: Images, white: int) -> Sequences:
        pixels = images.pixels
        if self.rotation:
            from scipy.ndimage import rotate

            pixels = rotate(pixels, self.rotation, axes=(2, 1), reshape=False, order=1)
        x = pixels.astype(np.float32) / white
        if self.encoder == "conv":
            if self.grey:
                x = np.repeat((x @ GREY)[..., None], 3, axis=-1)
            return Sequences(x.reshape(len(images), self.n_pixels, 3), images.labels)
        if x.ndim == 4:
            x = x @ GREY
        x = x.reshape(len(images), -1)
        if self.permuted:
            x = x[:, permutation(self.n_pixels, self.permutation_seed)]
        return Sequences(x.reshape(len(images), -1, self.pixels_per_step), images.labels)


@dataclass(frozen=True)
class FileTask:
    """Learn the targets of the sequences in a file; see `sequences.read_sequences`. `name` is its path."""

    name: str
    preparation: Preparation = DEFAULT

    @property
    def encoder(self) -> str:
        """A file's sequences are read by the recurrent network itself."""
        return "linear"

    @property
    def input_size(self) -> int:
        """I, the features of a step."""
        return self._prepared.data.train.x.shape[2]

    @property
    def n_steps(self) -> int:
        """T, the steps of a sequence."""
        return self._prepared.data.train.x.shape[1]

    @property
    def target(self) -> Target:
        """The classes of the labels, or numbers."""
        return self._prepared.target

    @property
    def checksum(self) -> str:
        """SHA-256 of the file."""
        return checksum(Path(self.name))

    @property
    def remarks(self) -> list[str]:
        """What looks wrong in the file, see `summary.remarks`."""
        return remarks(self._prepared.data, self.target, self.name)

    @property
    def transform(self) -> Transform:
        """What was done to the inputs, fitted to the training examples."""
        return self._prepared.transform

    @property
    def description(self) -> dict[str, Any]:
        """The targets, the sizes, the counts of each part, and the transform."""
        return describe(self._prepared.data, self.target) | {"transform": self.transform.to_json()}

    @property
    def _prepared(self) -> Prepared:
        return prepare(Path(self.name), self.preparation)

    def load(
        self, data_dir: Path | None = None, subset: int | None = None, validation_subset: int | None = None
    ) -> TaskData:
        """Read the data and divide it; see `Task.load` and `Preparation`."""
        parts = self._prepared.data
        return TaskData(
            train=first(parts.train, subset, "subset"),
            validation=first(parts.validation, validation_subset, "validation_subset"),
            test=parts.test,
        )


def permutation(n_steps: int, seed: int = 0) -> np.ndarray:
    """The order in which the permuted tasks read the pixels, int64 of shape (T,): step t shows pixel permutation[t]."""
    return fixed_permutation(n_steps, seed)


def _balanced(name: str, dataset: str, n_pixels: int) -> tuple[ImageTask, ImageTask]:
    """A permuted task on balanced halves of the test images, upright and rotated."""
    options = {"permuted": True, "held_out": True, "balanced": True}
    return (
        ImageTask(f"balanced-upright-{name}", dataset, n_pixels, **options),
        ImageTask(f"balanced-rotated-{name}", dataset, n_pixels, **options, rotation=45.0),
    )


IMAGE_TASKS: dict[str, ImageTask] = {
    task.name: task
    for task in (
        ImageTask("sdigits", "digits", 64),
        ImageTask("psdigits", "digits", 64, permuted=True),
        ImageTask("upright-psdigits", "digits", 64, permuted=True, held_out=True),
        ImageTask("rotated-psdigits", "digits", 64, permuted=True, held_out=True, rotation=45.0),
        *_balanced("psdigits", "digits", 64),
        ImageTask("smnist", "mnist", 784),
        ImageTask("psmnist", "mnist", 784, permuted=True),
        ImageTask("upright-psmnist", "mnist", 784, permuted=True, held_out=True),
        ImageTask("rotated-psmnist", "mnist", 784, permuted=True, held_out=True, rotation=45.0),
        *_balanced("psmnist", "mnist", 784),
        ImageTask("scifar10", "cifar10", 1024),
        ImageTask("scifar10-conv", "cifar10", 1024, encoder="conv"),
        ImageTask("scifar10-conv-grey", "cifar10", 1024, encoder="conv", grey=True),
    )
}
# Tasks of trials stand here with their default options.
TASKS: dict[str, ImageTask | TrialTask] = IMAGE_TASKS | {name: TrialTask(name, kind()) for name, kind in KINDS.items()}

# How tasks are named.
FORMS = (*sorted(TASKS), f"{PREFIX}NAME", "FILE.npz", "FILE.mat")


def is_data_file(task: str) -> bool:
    """Whether a task's name is the path of a file of sequences."""
    return task.endswith((".npz", ".mat"))


def base_of(task: str) -> str:
    """The name of a task without its options."""
    if is_data_file(task):
        return task
    return ":".join(task.split(":")[: 2 if task.startswith(PREFIX) else 1])


def is_drawn(task: str) -> bool:
    """Whether the trials of the task with this name are drawn."""
    return base_of(task) in KINDS or task.startswith(PREFIX)


def canonical(task: Any) -> str:
    """The name of a task as a configuration keeps it.

    The path of a file is absolute; options stand in their order, without those at their defaults.

    Raises:
        ConfigError: there is no such task, or an option does not fit.

    Examples:
        >>> canonical("copy:delay=30,symbols=8")
        'copy:delay=30'
    """
    if isinstance(task, str) and is_data_file(task):
        return os.path.abspath(task)
    if isinstance(task, str) and is_drawn(task):
        return find_task(task).name
    _check_known(task)
    return task


def _check_known(task: object) -> None:
    """Raise ConfigError unless `task` is one of TASKS; a file of another kind gets a sentence of its own."""
    if isinstance(task, str) and os.path.isfile(task):
        raise ConfigError(
            f"task: got the file {task!r}, expected one whose name ends in .npz or .mat; numpy.savez('data.npz', x=x, "
            "y=y) writes one, with x of shape (N, T, I) and a target in y for each of the N sequences."
        )
    check_choice("task", task, sorted(TASKS), " or the path of an .npz or .mat file")


def check_permutation(task: str, seed: int | None) -> None:
    """Raise ConfigError where a seed of the order of the pixels is given for data without pixels."""
    if seed == 0 or not (is_data_file(task) or is_drawn(task)):
        return
    what, other = f"file {task}", "--split says how a file is divided."
    if is_drawn(task):
        what = f"task {task}"
        other = f"the option seed of the task, as in {base_of(task)}:seed=1, draws other trials."
    raise ConfigError(f"permutation_seed: got {seed} with the {what}, expected 0: {other}")


def label_of(task: str) -> str:
    """A name of a task for files and folders."""
    return Path(task).stem if is_data_file(task) else task.replace(":", "-").replace(",", "-")


def find_task(
    name: str, pixels_per_step: int = 1, preparation: Preparation = DEFAULT, permutation_seed: int = 0
) -> Task:
    """The task called `name`, with so many pixels a step.

    Args:
        name: one of TASKS, those of trials with options such as copy:delay=30,length=10, or the path of a file of
            sequences.
        pixels_per_step: of images.
        preparation: how a file of sequences is read.
        permutation_seed: of images: seed of the order of the pixels and of the division into parts.

    Raises:
        ConfigError: there is none, or its pixels can't be grouped like that.
    """
    if (is_data_file(name) or is_drawn(name)) and pixels_per_step != 1:
        what = "file" if is_data_file(name) else "task"
        raise ConfigError(f"pixels_per_step: got {pixels_per_step} for the {what} {name}, expected 1.")
    if is_data_file(name):
        return FileTask(name, preparation)
    if is_drawn(name):
        return TrialTask(base_of(name), _kind_of(name))
    _check_known(name)
    task = IMAGE_TASKS[name]
    if pixels_per_step != 1 and (task.encoder == "conv" or task.n_pixels % pixels_per_step):
        raise ConfigError(
            f"pixels_per_step: got {pixels_per_step}, expected "
            + ("1 with a convolutional encoder." if task.encoder == "conv" else f"a divisor of {task.n_pixels}.")
        )
    return dataclasses.replace(task, pixels_per_step=pixels_per_step, permutation_seed=permutation_seed)


def _kind_of(name: str) -> Kind:
    """The options in the name of a task whose trials are drawn."""
    if not name.startswith(PREFIX):
        return parse_parameters("task", name, KINDS)
    env, _, options = name.removeprefix(PREFIX).partition(":")
    kind = parse_parameters("task", f"{PREFIX}{options}", {PREFIX.rstrip(":"): NeuroGym})
    return dataclasses.replace(kind, env=env)
