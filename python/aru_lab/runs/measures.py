"""Measures of predictions beyond accuracy: which classes are taken for which, and errors in the units of a file."""

from __future__ import annotations

import numpy as np

from aru_lab.data.transform import Scale


def confusion_matrix(classes: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """Counts (n_classes, n_classes), a row for each class and a column for each prediction.

    Args:
        classes, predicted: indices of classes, int64 of shape (n,).
        n_classes: number of classes.

    Examples:
        >>> import numpy as np
        >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
        [[1, 1], [0, 1]]
    """
    return np.bincount(classes * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)


def balanced_accuracy(confusion: np.ndarray) -> float:
    """The mean over the classes of the fraction of their sequences that is recognised; absent classes do not count."""
    total = confusion.sum(axis=1)
    return float((np.diag(confusion)[total > 0] / total[total > 0]).mean())


def only_answer(confusion: np.ndarray) -> int | None:
    """The class that is predicted for every sequence; None where predictions differ."""
    answers = np.flatnonzero(confusion.sum(axis=0))
    return int(answers[0]) if len(answers) == 1 else None


def squared_error(outputs: np.ndarray, y: np.ndarray, scale: Scale | None) -> float:
    """The mean squared error of outputs (n, O) in the units of the file; `scale` is that of the targets, or None."""
    factors = 1.0 if scale is None else np.array(scale.deviation)
    return float((((outputs - y) * factors) ** 2).mean(dtype=np.float64))
