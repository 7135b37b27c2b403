"""The runs that a figure shows: their files, grouped by model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from aru_lab.errors import ConfigError
from aru_lab.plots.style import MODELS
from aru_lab.runs.analyses import AnalysisFolder


@dataclass(frozen=True)
class Analysed:
    """The files of one run and the names of its model and task."""

    files: AnalysisFolder
    model: str
    task: str

    def load(self, part: str) -> dict[str, np.ndarray]:
        """The arrays of a part."""
        return self.files.load(part)


def by_model(runs: Iterable[Analysed]) -> dict[str, list[Analysed]]:
    """The runs of every model, models in the order of MODELS."""
    groups = {model: [run for run in runs if run.model == model] for model in MODELS}
    return {model: group for model, group in groups.items() if group}


def common(name: str, files: Sequence[dict[str, np.ndarray]]) -> np.ndarray:
    """The array that all files share.

    Raises:
        ConfigError: it differs between them.
    """
    first = files[0][name]
    if any(not np.array_equal(first, content[name]) for content in files):
        raise ConfigError(f"runs: got analyses with different {name}, expected the same; give `aru analyse` the same.")
    return first
