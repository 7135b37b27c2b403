"""From the arrays of a file to the sequences that a network reads: targets, and the three parts of the data."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aru_lab.arguments import MOST, check_choice, check_whole
from aru_lab.data.images import SPLIT_SEED
from aru_lab.data.sequences import Contents, Part, Sequences, TaskData, read_sequences, version
from aru_lab.data.splits import PARTS, SHARES, check_parts, parse_shares, random_split, stratified_split
from aru_lab.data.summary import real_values, targets_of
from aru_lab.data.targets import KINDS, Classes, Target
from aru_lab.data.transform import MISSING, Scale, Transform
from aru_lab.errors import ConfigError, DataError


@dataclass(frozen=True)
class Preparation:
    """How a file of sequences is read.

    Args:
        split: shares of training, validation and test examples, such as "0.7,0.1,0.2": each class gets the same. None
            takes these shares without regard to the classes.
        target: what y is: "classes", "numbers", or "auto": classes unless it holds floats.
        standardise: whether to scale inputs, and targets that are numbers, to the mean 0 and the deviation 1 of the
            training examples.
        missing: what NaN in x becomes, one of transform.MISSING; None refuses NaN.
        average_steps: so many steps in a row become their mean.
        keep_gaps: whether labels are counted from 0 to the largest, with an output also for those that are absent.

    Raises:
        ConfigError: a value is not one of these.
    """

    split: str | None = None
    target: str = "auto"
    standardise: bool = False
    missing: str | None = None
    average_steps: int = 1
    keep_gaps: bool = False

    def __post_init__(self) -> None:
        if self.split is not None:
            parse_shares(self.split)
        check_choice("target", self.target, KINDS)
        if self.missing is not None:
            check_choice("missing", self.missing, MISSING, " or None")
        check_whole("average_steps", self.average_steps, 1, MOST)
        for name in ("standardise", "keep_gaps"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name}: got {getattr(self, name)!r}, expected True or False.")

    @property
    def changed(self) -> list[str]:
        """The names of the fields that are not at their defaults."""
        return [field.name for field in dataclasses.fields(self) if getattr(self, field.name) != field.default]


DEFAULT = Preparation()


@dataclass(frozen=True)
class Prepared:
    """A file's sequences in three parts, what is predicted, and what was done to the inputs."""

    data: TaskData
    target: Target
    transform: Transform


def prepare(path: Path, preparation: Preparation) -> Prepared:
    """Read a file of sequences and divide it.

    Args:
        path: the file, see `sequences.read_sequences`.
        preparation: how.

    Raises:
        DataError: there is no such file, or it holds something else, or a part would be empty.
    """
    return _prepare(path, version(path), preparation)


@functools.lru_cache(maxsize=2)
def _prepare(path: Path, _version: tuple[int, ...], preparation: Preparation) -> Prepared:
    contents = read_sequences(path)
    if preparation.average_steps > contents.whole.x.shape[1]:
        raise ConfigError(
            f"average_steps: got {preparation.average_steps} for {path}, expected at most its T = "
            f"{contents.whole.x.shape[1]}."
        )
    for end, part in contents.parts.items():
        check_missing(part, preparation.missing, f"{path}: x{end}")
    target, ys = _targets(contents, preparation, path)
    if target.every_step and preparation.average_steps > 1:
        raise ConfigError(
            f"average_steps: got {preparation.average_steps} for {path}, which has a target at every step, expected 1."
        )
    transform = Transform(preparation.average_steps, missing=preparation.missing)
    sequences = {}
    for end, part in contents.parts.items():
        x, lengths = transform.averaged(part.x, part.lengths)
        sequences[end] = Sequences(x, ys[end], lengths, part.mask)
    data = _divided(contents, sequences, target, preparation, path)
    if preparation.standardise:
        scale = Scale.of(real_values(data.train))
        numbers = None if target.is_classes else Scale.of(targets_of(data.train))
        transform = dataclasses.replace(transform, inputs=scale, targets=numbers)
    parts = {name: _completed(getattr(data, name), transform) for name in PARTS}
    centre = centre_of(parts["train"], preparation.missing == "mask-channel")
    parts = {name: dataclasses.replace(part, centre=centre) for name, part in parts.items()}
    return Prepared(TaskData(**parts), target, transform)


def centre_of(train: Sequences, mask_channels: bool = False) -> np.ndarray | None:
    """About which value a contrast changes each input: the mean where some training inputs are negative, else 0.

    Args:
        train: the training examples.
        mask_channels: whether the second half of the inputs says where values are missing.
    """
    values = real_values(train)
    size = values.shape[1] // 2 if mask_channels else values.shape[1]
    if not mask_channels and values.min() >= 0:
        return None
    centre = np.full(values.shape[1], np.nan, np.float32)
    centre[:size] = values[:, :size].mean(axis=0, dtype=np.float64) if values.min() < 0 else 0
    return centre


def check_missing(part: Part, missing: str | None, where: str) -> None:
    """Raise DataError, which begins with `where`, if x holds NaN and nothing says what becomes of it."""
    if missing is None and part.x.dtype.kind == "f" and np.isnan(part.x).any():
        raise DataError(
            f"{where} holds numbers that are not finite (NaN); where they stand for missing values, choose "
            f"--missing {', '.join(MISSING[:-1])} or {MISSING[-1]}."
        )


def _completed(sequences: Sequences, transform: Transform) -> Sequences:
    y = sequences.y if transform.targets is None else transform.targets.apply(sequences.y)
    return dataclasses.replace(sequences, x=transform.completed(sequences.x, sequences.lengths), y=y)


def _targets(contents: Contents, preparation: Preparation, path: Path) -> tuple[Target, dict[str, np.ndarray]]:
    """The target, and y of each part as a network takes it: indices of classes, int64, or numbers, float32."""
    raw = {end: part.y for end, part in contents.parts.items()}
    every_step = contents.whole.mask is not None
    kind = raw[""].dtype.kind
    if preparation.target == "numbers" and kind in "US":
        raise ConfigError(f"target: got numbers for {path}, whose y holds strings, expected auto or classes.")
    if preparation.target == "numbers" or (preparation.target == "auto" and kind == "f"):
        leading = 2 if every_step else 1
        numbers = {end: np.asarray(y, np.float32).reshape(*y.shape[:leading], -1) for end, y in raw.items()}
        return Target(numbers[""].shape[-1], every_step=every_step), numbers
    if kind == "f":
        for end, y in raw.items():
            if y.ndim != (2 if every_step else 1) or (y != np.round(y)).any() or np.abs(y).max() > 2**53:
                raise ConfigError(
                    f"target: got classes for {path}, whose y{end} holds floats of shape {y.shape}, expected whole "
                    f"numbers, one for each sequence or step."
                )
        raw = {end: y.astype(np.int64) for end, y in raw.items()}
    labels = np.concatenate([y.ravel() for y in raw.values()])
    n = len(labels)
    if preparation.keep_gaps and (labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= n):
        held = "strings" if labels.dtype.kind in "US" else f"labels from {labels.min()} to {labels.max()}"
        raise ConfigError(
            f"keep_gaps: got True for {path}, whose y holds {held}, expected integers from 0 to less than the number "
            f"of labels, {n}."
        )
    classes = Classes(labels, preparation.keep_gaps)
    if len(classes.names) >= n and not preparation.keep_gaps:
        raise DataError(
            f"{path}: y has {len(classes.names)} classes for {n} {'targets' if every_step else 'sequences'}, expected "
            f"several of each class; "
            "where y holds numbers to predict, save it as floats or use --target numbers."
        )
    return Target(len(classes.names), classes.names, every_step), {end: classes.codes(y) for end, y in raw.items()}


def _classes(sequences: Sequences, target: Target) -> np.ndarray:
    """The class of each sequence, int64 (N,): of targets at every step the most frequent one; 0 for numbers."""
    if not target.is_classes:
        return np.zeros(len(sequences), np.int64)
    if sequences.mask is None:
        return sequences.y
    counts = np.zeros((len(sequences), target.n_outputs), np.int64)
    np.add.at(counts, (np.nonzero(sequences.mask)[0], sequences.y[sequences.mask]), 1)
    return counts.argmax(axis=1)


def _divided(
    contents: Contents, sequences: dict[str, Sequences], target: Target, preparation: Preparation, path: Path
) -> TaskData:
    """The three parts: those that the file gives, and the others out of x."""
    whole, groups = sequences[""], contents.whole.groups
    if not contents.given and groups is None and preparation.split is None:
        train, validation, test = (whole.take(index) for index in random_split(len(whole), SPLIT_SEED))
        return TaskData(train, validation, test)
    shares = SHARES if preparation.split is None else parse_shares(preparation.split)
    missing = [name for name in PARTS if name not in contents.given]
    left = [share for name, share in zip(PARTS, shares, strict=True) if name in missing]
    classes = _classes(whole, target)
    indices = stratified_split(classes, [share / sum(left) for share in left], SPLIT_SEED, groups)
    check_parts(indices, missing, path, groups)
    parts = {name: whole.take(index) for name, index in zip(missing, indices, strict=True)}
    return TaskData(**parts, **{name: sequences[f"_{name}"] for name in contents.given})
