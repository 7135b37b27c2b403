"""What a figure is drawn from: analysed runs by group, scores, and what belongs to no single run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from aru_lab.errors import ConfigError
from aru_lab.files import is_file
from aru_lab.networks.perturbations import Perturbation
from aru_lab.plots.style import MODELS
from aru_lab.runs.analyses import AnalysisFolder
from aru_lab.runs.evaluation import Score

Point = tuple[float, ...]
BySeed = Mapping[int, Mapping[Point, Score]]
Arrays = Mapping[str, np.ndarray]

# Groups of networks that were trained alike. MAIN is the task of the single-network figures.
MAIN, LINEAR, CONVOLUTIONAL, LONGER = "psmnist", "scifar10", "scifar10-conv", "scifar10-conv-long"
HOMOGENEOUS, TRANSPLANT, SWAPPED = "homogeneous-start", "transplant", "swapped"
FROZEN, TRAINED = "grid-frozen", "grid-trained"
RETRAINING, COURSE = "retraining", "course"  # names of records
TASKS = {MAIN: "psMNIST", LINEAR: "sCIFAR10", CONVOLUTIONAL: "sCIFAR10, conv."}


@dataclass(frozen=True)
class Analysed:
    """The files of one run and the names of its model and task."""

    files: AnalysisFolder
    model: str
    task: str

    def has(self, *parts: str) -> bool:
        """Whether there is a file of each of these parts."""
        return all(is_file(self.files.file(part)) for part in parts)

    def load(self, part: str) -> Arrays:
        """The arrays of a part."""
        return self.files.load(part)


@dataclass(frozen=True)
class Measured:
    """All that figures show.

    Args:
        runs: analysed runs by group, those of one model in the order of their seeds.
        scores: by (group, variant, sweep), then by seed, then by point of the sweep.
        records: by (group, variant, name) and seed, further arrays of a network: "retraining" has n and s of the
            neurons before and after, "course" those of every epoch (epochs, 2).
        once: arrays that belong to no trained network, by name.
        stimuli: by sweep and point, the perturbation; None at a point where nothing is done.
        tasks: titles of the groups.
    """

    runs: Mapping[str, Sequence[Analysed]] = field(default_factory=dict)
    scores: Mapping[tuple[str, str, str], BySeed] = field(default_factory=dict)
    records: Mapping[tuple[str, str, str], Mapping[int, Arrays]] = field(default_factory=dict)
    once: Mapping[str, Arrays] = field(default_factory=dict)
    stimuli: Mapping[str, Mapping[Point, Perturbation | None]] = field(default_factory=dict)
    tasks: Mapping[str, str] = field(default_factory=lambda: TASKS)

    def files(self, part: str, *models: str, group: str = MAIN) -> list[Arrays]:
        """The arrays of a part, of every run of these models that has it.

        Raises:
            RunError: a file is damaged.
        """
        runs = [run for run in self.runs.get(group, ()) if run.model in models]
        return [run.load(part) for run in runs if run.has(part)]


def needed(number: str, what: str, *parts: str) -> ConfigError:
    """The error of a figure that has nothing to show: what it needs, and the parts of `aru analyse` that make it."""
    made = f"; make it with `aru analyse RUN {' '.join(parts)}`" if parts else ""
    return ConfigError(f"figure {number}: got no {what}, expected at least one{made}.")


def by_model(runs: Iterable[Analysed]) -> dict[str, list[Analysed]]:
    """The runs of every model, models in the order of MODELS."""
    groups = {model: [run for run in runs if run.model == model] for model in MODELS}
    return {model: group for model, group in groups.items() if group}


def common(name: str, files: Sequence[Arrays]) -> np.ndarray:
    """The array that all files share.

    Raises:
        ConfigError: it differs between them.
    """
    first = files[0][name]
    if any(not np.array_equal(first, content[name]) for content in files):
        raise ConfigError(f"runs: got analyses with different {name}, expected the same; give `aru analyse` the same.")
    return first
