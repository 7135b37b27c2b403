"""What a network predicts for a sequence: one of some classes, or numbers; once at the end, or at every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from aru_lab.arguments import check_whole
from aru_lab.errors import DataError

KINDS = ("auto", "classes", "numbers")


@dataclass(frozen=True)
class Target:
    """The targets of a task.

    Args:
        n_outputs: outputs of the network: one for each class, or O numbers.
        names: names of the classes in the order of the outputs; None where the targets are numbers.
        every_step: whether there is a target at every step, and not one for a sequence.

    Examples:
        >>> Target(2, ("left", "right")).is_classes
        True
    """

    n_outputs: int
    names: tuple[str, ...] | None = None
    every_step: bool = False

    @property
    def is_classes(self) -> bool:
        """Whether the targets are classes."""
        return self.names is not None

    def quality(self, value: float) -> str:
        """An accuracy, or R² where the targets are numbers, with its name."""
        return f"accuracy {value:.1%}" if self.is_classes else f"R² {value:.3f}"

    def to_json(self) -> dict[str, Any]:
        """The target as a dictionary that json can write."""
        names = None if self.names is None else list(self.names)
        return {"n_outputs": self.n_outputs, "names": names, "every_step": self.every_step}

    @classmethod
    def from_json(cls, values: Any) -> Target:
        """The target from a dictionary that `to_json` made.

        Raises:
            ValueError: it is something else.
        """
        if not isinstance(values, dict) or set(values) != {"n_outputs", "names", "every_step"}:
            raise ValueError("its target does not have the names n_outputs, names and every_step")
        n_outputs, names = values["n_outputs"], values["names"]
        check_whole("n_outputs", n_outputs, 1)
        if names is not None and not (
            isinstance(names, list) and len(names) == n_outputs and all(isinstance(name, str) for name in names)
        ):
            raise ValueError(f"its target does not name {n_outputs} classes")
        if not isinstance(values["every_step"], bool):
            raise ValueError("its target does not say whether it is of every step")
        return cls(n_outputs, None if names is None else tuple(names), values["every_step"])


class Classes:
    """The classes of the labels in a file, in the order of the labels.

    Args:
        labels: all labels: integers, booleans or strings.
        keep_gaps: whether each whole number from 0 to the largest label is a class, also one that no label has; the
            labels are then integers of at least 0.
    """

    def __init__(self, labels: np.ndarray, keep_gaps: bool = False) -> None:
        self.values = np.unique(labels)
        if keep_gaps:
            self.values = np.arange(int(self.values[-1]) + 1)
        self.names = tuple(str(value) for value in self.values.tolist())

    def codes(self, labels: np.ndarray) -> np.ndarray:
        """The index of the class of each label, int64; every label is one of the classes."""
        return np.searchsorted(self.values, labels).astype(np.int64)


def codes_by_name(labels: np.ndarray, names: tuple[str, ...], where: str) -> np.ndarray:
    """The index in `names` of each label of any type, int64.

    Raises:
        DataError: a label has no such name; the sentence begins with `where`.
    """
    values, inverse = np.unique(labels, return_inverse=True)
    known = {name: k for k, name in enumerate(names)}
    if foreign := [str(value) for value in values.tolist() if str(value) not in known]:
        raise DataError(f"{where} has the label {foreign[0]}, expected one of {shown(names)}.")
    return np.array([known[str(value)] for value in values.tolist()], np.int64)[inverse].reshape(labels.shape)


def shown(names: tuple[str, ...] | list[str], most: int = 10) -> str:
    """The first names in one line."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
