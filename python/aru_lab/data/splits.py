"""How sequences are divided into training, validation and test examples."""

from __future__ import annotations

import numpy as np

from aru_lab.data.images import fixed_permutation
from aru_lab.errors import ConfigError, DataError

PARTS = ("train", "validation", "test")
SHARES = (0.7, 0.1, 0.2)


def parse_shares(text: str) -> tuple[float, float, float]:
    """The shares of training, validation and test examples in a text such as 0.7,0.1,0.2.

    Raises:
        ConfigError: it is no such text, a share is not above 0, or they do not add up to 1.

    Examples:
        >>> parse_shares("0.6,0.2,0.2")
        (0.6, 0.2, 0.2)
    """
    expected = "expected three numbers above 0 that add up to 1: train,validation,test, such as 0.7,0.1,0.2"
    try:
        shares = tuple(float(item) for item in text.split(","))
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"split: got {text!r}, {expected}.") from error
    if len(shares) != 3 or not all(0 < share < 1 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        raise ConfigError(f"split: got {text!r}, {expected}.")
    return shares


def random_split(n: int, seed: int) -> list[np.ndarray]:
    """Indices of a fixed random split into 70% train, 10% validation and 20% test, without regard to the classes."""
    order = fixed_permutation(n, seed)
    bounds = [round(0.7 * n), round(0.8 * n)]
    return np.split(order, bounds)


def stratified_split(
    classes: np.ndarray, shares: list[float], seed: int, groups: np.ndarray | None = None
) -> list[np.ndarray]:
    """Indices of a fixed random split in which every part has each class in nearly the same proportion.

    Args:
        classes: the class of each example, int64 of shape (N,); zeros where there are none.
        shares: the share of each part; they add up to 1.
        seed: of the random order.
        groups: of each example, (N,); all examples of a group come into one part. None: each is a group.

    Returns:
        The indices of each part, in random order.
    """
    which = _by_class(classes, shares, seed) if groups is None else _by_group(classes, shares, seed, groups)
    order = fixed_permutation(len(classes), seed)
    return [order[which[order] == part] for part in range(len(shares))]


def _by_class(classes: np.ndarray, shares: list[float], seed: int) -> np.ndarray:
    """The part of each example. The counts of all parts together are exact, and those of a class to one example."""
    n, start = len(classes), 0
    which = np.empty(n, np.int64)
    bounds = np.cumsum(shares)
    bounds[-1] = 1.0
    for k in np.unique(classes):
        members = np.flatnonzero(classes == k)
        members = members[fixed_permutation(len(members), seed + 1 + int(k))]
        ends = np.round(bounds * (start + len(members))).astype(int)
        sizes = np.diff(ends - np.round(bounds * start).astype(int), prepend=0)
        part = np.repeat(np.arange(len(shares)), sizes)
        if not (part == 0).any():  # a class that is not trained can't be recognised
            part[0] = 0
        which[members] = part
        start += len(members)
    return which


def _by_group(classes: np.ndarray, shares: list[float], seed: int, groups: np.ndarray) -> np.ndarray:
    """The part of each example: the largest groups first, each into the part that lacks its classes most."""
    _, group = np.unique(groups, return_inverse=True)
    n_groups, n_classes = int(group.max()) + 1, int(classes.max()) + 1
    counts = np.zeros((n_groups, n_classes))
    np.add.at(counts, (group, classes), 1)
    wanted = np.array(shares)[:, None] * counts.sum(axis=0)
    missing, chosen = wanted.copy(), np.empty(n_groups, np.int64)
    order = fixed_permutation(n_groups, seed)
    for k in order[np.argsort(-counts[order].sum(axis=1), kind="stable")]:
        with np.errstate(invalid="ignore", divide="ignore"):
            relative = np.where(wanted > 0, missing / wanted, 0.0)
        chosen[k] = np.argmax(relative @ counts[k])
        missing[chosen[k]] -= counts[k]
    return chosen[group]


def check_parts(parts: list[np.ndarray], names: list[str], path: object, groups: np.ndarray | None) -> None:
    """Raise DataError where a part of a split is empty."""
    for part, name in zip(parts, names, strict=True):
        if len(part) == 0:
            n = sum(map(len, parts))
            held = f"{n} sequences" if groups is None else f"{n} sequences in {len(np.unique(groups))} groups"
            raise DataError(f"{path}: {held} leave no {name} examples; give more, or another --split.")
