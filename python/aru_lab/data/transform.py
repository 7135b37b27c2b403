"""What is done to the inputs, and to targets that are numbers, before a network reads them.

A transform is fitted to the training examples once. Runs keep it, so that new sequences are treated in the same way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from aru_lab.arguments import check_choice, check_whole
from aru_lab.data.sequences import padding

MISSING = ("zero", "forward", "mask-channel")


@dataclass(frozen=True)
class Scale:
    """values -> (values - mean) / deviation, each of the numbers of the last axis with its own.

    Args:
        mean, deviation: one number each, deviations above 0.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @classmethod
    def of(cls, values: np.ndarray) -> Scale:
        """The scale that gives values (n, I) the mean 0 and the deviation 1; NaN does not count, constants become 0."""
        means, deviations = [], []
        for column in values.T:  # one by one, for a file may fill the memory
            known = column[~np.isnan(column)].astype(np.float64)
            mean = float(known.mean()) if len(known) else 0.0
            deviation = float(known.std()) if len(known) else 0.0
            means.append(mean)
            # what rounding leaves of a constant in float32 is no deviation
            deviations.append(deviation if deviation > 1e-6 * max(abs(mean), 1e-30) else 1.0)
        return cls(tuple(means), tuple(deviations))

    def apply(self, values: np.ndarray) -> np.ndarray:
        """The scaled values, float32."""
        return ((values - np.array(self.mean)) / np.array(self.deviation)).astype(np.float32)

    def undo(self, values: np.ndarray) -> np.ndarray:
        """The values of scaled ones."""
        return values * np.array(self.deviation) + np.array(self.mean)


@dataclass(frozen=True)
class Transform:
    """The steps from the inputs of a file to those of a network, in this order.

    Args:
        average_steps: so many steps in a row become their mean; the last ones of a sequence may be fewer.
        inputs: scale of the inputs, or None.
        missing: what a missing value (NaN) becomes: "zero" (with a scale, the mean); "forward", the last value known
            before it, and zero where there is none; "mask-channel", zero, and I further inputs that are 1 where a value
            is missing and 0 elsewhere. None: there is none.
        targets: scale of targets that are numbers, or None.
    """

    average_steps: int = 1
    inputs: Scale | None = None
    missing: str | None = None
    targets: Scale | None = None

    def averaged(self, x: np.ndarray, lengths: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        """x (N, T, I) and lengths (N,) with fewer steps: the mean of the known values of each."""
        k = self.average_steps
        if k == 1:
            return x, lengths
        n, n_steps, input_size = x.shape
        x = x.astype(np.float64)
        if lengths is not None:
            x[padding(lengths, n_steps)] = np.nan
        blocks = np.full((n, -(-n_steps // k) * k, input_size), np.nan)
        blocks[:, :n_steps] = x
        blocks = blocks.reshape(n, -1, k, input_size)
        known = (~np.isnan(blocks)).sum(axis=2)
        mean = np.where(known > 0, np.nansum(blocks, axis=2) / np.maximum(known, 1), np.nan)
        return mean, None if lengths is None else -(-lengths // k)

    def completed(self, x: np.ndarray, lengths: np.ndarray | None) -> np.ndarray:
        """The averaged inputs scaled and without missing values, float32; padding is 0."""
        x = x.astype(np.float32) if self.inputs is None else self.inputs.apply(x)
        if self.missing is not None:
            unknown = np.isnan(x)
            if self.missing == "forward":
                steps = np.where(unknown, 0, np.arange(x.shape[1])[:, None])
                x = np.take_along_axis(x, np.maximum.accumulate(steps, axis=1), axis=1)
            x = np.nan_to_num(x, nan=0.0)
            if self.missing == "mask-channel":
                x = np.concatenate([x, unknown.astype(np.float32)], axis=2)
        if lengths is not None:
            x[padding(lengths, x.shape[1])] = 0
        return x

    def to_json(self) -> dict[str, Any]:
        """The transform as a dictionary that json can write."""
        scales = {name: getattr(self, name) for name in ("inputs", "targets")}
        return {"average_steps": self.average_steps, "missing": self.missing} | {
            name: scale and {"mean": list(scale.mean), "deviation": list(scale.deviation)}
            for name, scale in scales.items()
        }

    @classmethod
    def from_json(cls, values: Any) -> Transform:
        """The transform from a dictionary that `to_json` made.

        Raises:
            ValueError: it is something else.
        """
        if not isinstance(values, dict) or set(values) != {"average_steps", "missing", "inputs", "targets"}:
            raise ValueError("its transform does not have the names average_steps, missing, inputs and targets")
        check_whole("average_steps", values["average_steps"], 1)
        if values["missing"] is not None:
            check_choice("missing", values["missing"], MISSING)
        scales = {name: _scale(values[name]) for name in ("inputs", "targets")}
        return cls(values["average_steps"], missing=values["missing"], **scales)


def _scale(values: Any) -> Scale | None:
    if values is None:
        return None
    numbers = [values.get(name) for name in ("mean", "deviation")] if isinstance(values, dict) else [None]
    if (
        not all(
            isinstance(row, list) and row and all(isinstance(x, (int, float)) and math.isfinite(x) for x in row)
            for row in numbers
        )
        or len(numbers[0]) != len(numbers[1])
        or min(numbers[1]) <= 0
    ):
        raise ValueError("its transform has a scale without means and deviations")
    return Scale(tuple(numbers[0]), tuple(numbers[1]))
