"""What a user's data holds: counts, the range of x, the score of a trivial answer, and what looks wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from aru_lab.data.sequences import Sequences, TaskData
from aru_lab.data.splits import PARTS
from aru_lab.data.targets import Target, shown

FAR = 10.0  # inputs larger than this slow down or prevent learning
NARROW = 0.01  # so does a deviation smaller than this


@dataclass(frozen=True)
class Baseline:
    """The score on the test examples of one answer to everything, taken from the training examples.

    Args:
        answer: name of the most frequent class; "the mean" of numbers.
        score: accuracy, or the mean squared error of numbers.
        numbers: that mean, one number an output.
    """

    answer: str
    score: float
    numbers: tuple[float, ...] = ()


def counts(data: TaskData, target: Target) -> dict[str, np.ndarray]:
    """By part, the number of targets of each class, (n_outputs,); of numbers one count of all, (1,)."""
    ys = {name: targets_of(getattr(data, name)) for name in PARTS}
    if not target.is_classes:
        return {name: np.array([len(y)]) for name, y in ys.items()}
    return {name: np.bincount(y, minlength=target.n_outputs) for name, y in ys.items()}


def targets_of(sequences: Sequences) -> np.ndarray:
    """The targets of all sequences one after the other: classes (n,) or numbers (n, O)."""
    return sequences.y if sequences.mask is None else sequences.y[sequences.mask]


def baseline(data: TaskData, target: Target) -> Baseline:
    """The score on the test examples of always answering with the most frequent class, or the mean, of the training.

    The class is one that the test examples have: only the training of some tasks has steps of fixation.
    """
    train, test = targets_of(data.train), targets_of(data.test)
    if target.is_classes:
        n_train, n_test = (np.bincount(y, minlength=target.n_outputs) for y in (train, test))
        most = int((n_train * (n_test > 0)).argmax())
        return Baseline(target.names[most], float((test == most).mean()))
    mean = train.mean(axis=0, dtype=np.float64)
    return Baseline("the mean", float(((test - mean) ** 2).mean()), tuple(mean.tolist()))


def real_values(sequences: Sequences) -> np.ndarray:
    """The inputs of all steps that are no padding, (n, I)."""
    if sequences.lengths is None:
        return sequences.x.reshape(-1, sequences.x.shape[2])
    return sequences.x[np.arange(sequences.x.shape[1]) < sequences.lengths[:, None]]


def describe(data: TaskData, target: Target) -> dict[str, Any]:
    """What a run keeps of its data, as json can write it."""
    _, n_steps, input_size = data.train.x.shape
    return {
        "target": target.to_json(),
        "n_steps": n_steps,
        "input_size": input_size,
        "counts": {name: count.tolist() for name, count in counts(data, target).items()},
    }


def remarks(data: TaskData, target: Target, path: str) -> list[str]:
    """Warnings about data that can still be learned, in sentences that begin with the file's path."""
    said = _about_inputs(data.train) + (_about_classes(data, target) if target.is_classes else _about_numbers(data))
    return [f"{path}: {sentence}" for sentence in said]


def _about_inputs(train: Sequences) -> list[str]:
    said = []
    _, n_steps, input_size = train.x.shape
    if input_size > 2 * n_steps and input_size > 8:
        said.append(
            f"x has T = {n_steps} steps of I = {input_size} features; if its order is (N, I, T), save "
            "x.transpose(0, 2, 1) instead."
        )
    values = real_values(train)
    low, high, deviation = float(values.min()), float(values.max()), float(values.std(dtype=np.float64))
    if max(abs(low), abs(high)) > FAR or deviation < NARROW:
        said.append(
            f"x goes from {low:.4g} to {high:.4g} with a standard deviation of {deviation:.3g}; networks learn best "
            "from values near 0 and 1, which --standardise gives."
        )
    return said


def _about_numbers(data: TaskData) -> list[str]:
    y = targets_of(data.train)
    said = []
    if len(y) > 20 and (y == np.round(y)).all() and len(np.unique(y)) <= 20:
        said.append(
            f"y holds floats with only {len(np.unique(y))} different whole numbers, and is learned as numbers; if they "
            "are classes, use --target classes."
        )
    low, high, deviation = float(y.min()), float(y.max()), float(y.std(dtype=np.float64))
    if max(abs(low), abs(high)) > FAR or deviation < NARROW:
        said.append(
            f"y goes from {low:.4g} to {high:.4g} with a standard deviation of {deviation:.3g}; a network reaches such "
            "numbers slowly: scale them, or use --standardise, which scales y too."
        )
    return said


def _about_classes(data: TaskData, target: Target) -> list[str]:
    def names(classes: np.ndarray) -> str:
        return shown([target.names[k] for k in classes])

    said = []
    of_part = counts(data, target)
    total = sum(of_part.values())
    absent = np.flatnonzero(total == 0)
    if len(absent):
        said.append(
            f"of the {target.n_outputs} classes from 0 to the largest label, {len(absent)} have no sequences "
            f"({names(absent)}), and the network gets an output for each of them; leave --keep-gaps away to avoid that."
        )
    for name, count in of_part.items():
        without = np.setdiff1d(np.flatnonzero(count == 0), absent)
        if len(without):
            said.append(f"the {name} examples have none of the class{'es' * (len(without) > 1)} {names(without)}.")
    if np.count_nonzero(total) == 1:
        said.append(f"all sequences are of one class, {names(np.flatnonzero(total))}; there is nothing to learn.")
    return said
