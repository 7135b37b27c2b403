"""A run opened for analysis, and the files of its analyses.

RUN/analysis/PART.npz holds the arrays of a part, with its tables as CSV beside it; each file is whole or absent.
PART.npz is written last and carries the key of what it was computed from; it says that the part is finished.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from aru_kernels import ARUN, GammaRNN
from aru_lab.data.sequences import Sequences, TaskData
from aru_lab.errors import ConfigError, LabError, RunError, typed
from aru_lab.files import archive_of, csv_text, is_file, read_arrays, reading, sha256_of
from aru_lab.networks.classifier import SequenceClassifier
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.config_file import ADVICE
from aru_lab.runs.evaluation import build_for, load_classifier, take_initial_weights, task_of, to_tensors
from aru_lab.runs.folder import RunFolder, write_result
from aru_lab.runs.runtime import resolve_device
from aru_lab.runs.state import DAMAGED, check_sources, data_of, without_best

FOLDER = "analysis"
FORMAT = 3  # raised whenever a part computes or names something otherwise: older files then count as missing
_KEY = "key"
_PART = "part"
_NAMES = "arrays"


@dataclass(frozen=True)
class Table:
    """Rows of a CSV file below their header."""

    header: tuple[str, ...]
    rows: list[Sequence[Any]]


@dataclass(frozen=True)
class Result:
    """Result of one part: arrays for PART.npz, tables by the names of their files, and a line to print."""

    arrays: dict[str, np.ndarray]
    tables: dict[str, Table] = field(default_factory=dict)
    summary: str = ""


@dataclass(frozen=True)
class AnalysisFolder:
    """The analyses of the run in the folder `run`."""

    run: Path

    def file(self, part: str) -> Path:
        """RUN/analysis/PART.npz."""
        return self.run / FOLDER / f"{part}.npz"

    def holds(self, part: str, key: dict[str, Any] | None = None) -> bool:
        """Whether the part is finished, with this key if one is given; a damaged or outdated file is not."""
        try:
            found, _ = self._read(part)
        except RunError:
            return False
        return key is None or found == _keyed(key)

    def save(self, part: str, result: Result, key: dict[str, Any]) -> list[Path]:
        """Write the tables and then the arrays; the files written.

        Raises:
            RunError: a file can't be written.
        """
        written = []
        for name, table in result.tables.items():
            written.append(self.run / FOLDER / f"{name}.csv")
            write_result(csv_text(table.header, map(_plain, table.rows)), written[-1])
        own = {_PART: part, _NAMES: sorted(result.arrays)}
        content = archive_of(result.arrays | {_KEY: np.array(json.dumps(_keyed(key) | own))})
        written.append(self.file(part))
        write_result(content, written[-1])
        return written

    def load(self, part: str) -> Arrays:
        """The arrays of a finished part.

        Raises:
            RunError: it is not there, or damaged, or was made from other weights or data than the run has now.
        """
        key, arrays = self._read(part)
        folder = RunFolder(self.run)
        weights = [sha256_of(file) for file in (folder.best_file, folder.last_file) if is_file(file)]
        other = "weights" if weights and key.get("weights") not in weights else ""
        if "data" in key and folder.holds_run():
            sources = folder.read_config()[1].get("sources", {})
            other = other or ("data" if key["data"] != sources.get("task", key["data"]) else "")
        if other:
            raise RunError(
                f"{self.file(part)} is of other {other} than the run has now; make it again with `aru analyse "
                f"{self.run} {part}`."
            )
        return arrays

    def _read(self, part: str) -> tuple[dict[str, Any], Arrays]:
        """The key and the arrays of a part's file."""
        path = self.file(part)
        again = f"make it with `aru analyse {typed(self.run)} {part}`."
        return _read(path, RunError, again, f"{path} is missing; {again}")


class Arrays(dict[str, np.ndarray]):
    """The arrays of a part by name. A missing one raises RunError, which says how to compute it."""

    def __init__(self, path: Path, again: str, arrays: dict[str, np.ndarray]) -> None:
        super().__init__(arrays)
        self._path, self._again = path, again

    def __missing__(self, name: str) -> np.ndarray:
        raise RunError(f"{self._path} is damaged: it has no {name}; {self._again}")


def keys_in(path: Path) -> dict[Path, dict[str, Any]]:
    """What analyses were computed from: the keys of PART.npz, or of all such files in a folder.

    Raises:
        ConfigError: a file can't be read, or is no analysis, or the folder has none.
    """
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    if not files:
        raise ConfigError(f"{path} holds no analyses; {ADVICE}")
    return {file: _read(file, ConfigError, ADVICE)[0] for file in files}


def _read(path: Path, failure: type[LabError], again: str, absent: str | None = None) -> tuple[dict[str, Any], Arrays]:
    """The key and the arrays of PART.npz; the other arguments are those of `reading`."""
    part = path.stem
    with reading(path, failure, again, absent):
        arrays = read_arrays(path)
        if _KEY not in arrays:
            raise ValueError("it is not an analysis of a run")
        key = json.loads(str(arrays.pop(_KEY)))
        if not isinstance(key, dict) or key.get("format") != FORMAT:
            raise ValueError("it is outdated")
        # Files of earlier versions do not say what they are of and what they hold.
        if key.pop(_PART, part) != part:
            raise ValueError("it is of another analysis")
        if key.pop(_NAMES, sorted(arrays)) != sorted(arrays):
            raise ValueError("it does not hold the arrays that it lists")
    return key, Arrays(path, again, arrays)


def _keyed(key: dict[str, Any]) -> dict[str, Any]:
    """The key as JSON reads it back, with the format."""
    return json.loads(json.dumps(key | {"format": FORMAT}))


def _plain(row: Iterable[Any]) -> list[Any]:
    return [f"{value:.10g}" if isinstance(value, (float, np.floating)) else value for value in row]


class Run:
    """One run folder, opened for analysis. Only the configuration is read at once; the rest is read on access.

    Args:
        path: the run folder.
        checkpoint: "best" or "last".
        retrained: folder of the run that retrained this one's n and s on another task, for the heterogeneity; or None.

    Raises:
        RunError: a folder holds no run.
        ConfigError: another checkpoint.
    """

    def __init__(self, path: Path, checkpoint: str = "best", retrained: Path | None = None) -> None:
        self.folder = RunFolder(Path(path))
        self.config: TrainConfig
        self.config, self._environment = self.folder.read_config()
        if checkpoint not in ("best", "last"):
            raise ConfigError(f"checkpoint: got {checkpoint!r}, expected best or last.")
        self.checkpoint = checkpoint
        self.files = AnalysisFolder(self.folder.path)
        self.retrained = None if retrained is None else Run(retrained, checkpoint)

    @property
    def path(self) -> Path:
        """The run folder."""
        return self.folder.path

    @cached_property
    def weights(self) -> str:
        """Checksum of the file of the analysed weights.

        Raises:
            RunError: their file can't be read.
        """
        best = self.checkpoint == "best"
        file = self.folder.best_file if best else self.folder.last_file
        if best and not os.path.lexists(file):
            raise RunError(without_best(self.folder))
        with reading(file, RunError, DAMAGED):
            return sha256_of(file)

    @cached_property
    def model(self) -> SequenceClassifier:
        """The trained classifier."""
        return load_classifier(self.path, self.checkpoint)[0]

    @cached_property
    def initial_model(self) -> SequenceClassifier:
        """The classifier before training, rebuilt from the run's seed and the runs that it began from.

        Raises:
            RunError: a run that it took weights from is gone, or its weights no longer fit.
        """
        config, device = self.config, resolve_device(self.config.device)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(config.seed)
            model = build_for(config, task_of(config), device).eval()
        try:
            check_sources(config, self._environment)
            take_initial_weights(model, config, device)
        except RunError as error:
            sources = " and ".join(str(path) for path in (config.initial_from, config.controller_from) if path)
            raise RunError(
                f"{self.path}: it began with weights of {sources}, which can't be loaded unchanged ({error}); restore "
                "that run to compare with the weights before training."
            ) from error
        return model

    @property
    def network(self) -> nn.Module:
        """The trained recurrent network."""
        return self.model.recurrent

    @property
    def adaptive(self) -> bool:
        """Whether it is an ARUN."""
        return isinstance(self.network, ARUN)

    @property
    def has_gamma(self) -> bool:
        """Whether it is an ARUN or a GammaRNN."""
        return isinstance(self.network, (ARUN, GammaRNN))

    @cached_property
    def data(self) -> TaskData:
        """The examples of the run's task, all that it trained on among them."""
        return task_of(self.config).load(self.config.data_dir, self.config.subset)

    @property
    def test(self) -> Sequences:
        """The test examples."""
        return self.data.test

    def sequences(
        self, n: int, model: SequenceClassifier | None = None, of: Literal["train", "test"] = "test"
    ) -> tuple[Tensor, Tensor]:
        """Inputs of a classifier's recurrent network for the first n examples, or for all if there are fewer.

        Where examples have different lengths, they are those with at least the median number of steps, cut to it, so
        that no network reads padding.

        Args:
            n: number of examples.
            model: `model` or `initial_model`, whose encoder, if it has one, makes x; None takes the trained one.
            of: the training or the test examples.

        Returns:
            x (T, B, I) and labels (B,).
        """
        examples = self.test if of == "test" else self.data.train
        if examples.lengths is None:
            return self._inputs(examples.take(slice(n)), model or self.model)
        median = int(np.median(examples.lengths))
        long = np.flatnonzero(examples.lengths >= median)[:n]
        x, y = self._inputs(examples.take(long), model or self.model)
        return x[:median], y

    def padded_sequences(self, n: int) -> tuple[Tensor, Sequences]:
        """The inputs x (T, B, I) of the first n test examples with their padding, and these examples."""
        examples = self.test.take(slice(n))
        return self._inputs(examples, self.model)[0], examples

    def _inputs(self, examples: Sequences, model: SequenceClassifier) -> tuple[Tensor, Tensor]:
        parameter = next(model.parameters())
        x, y = to_tensors(examples, slice(None), parameter.device, parameter.dtype)
        if model.encoder is not None:
            with torch.no_grad():
                x = model.encoder(x)
        return x.transpose(0, 1).contiguous(), y

    def key(self, settings: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
        """The key of a part's file: the weights, the checksum of the user's data, and the named settings.

        The setting "retrained" is the weights of that run.
        """
        values = {**settings, "retrained": self.retrained and self.retrained.weights}
        data = data_of(self.config)
        return {"weights": self.weights} | ({"data": data} if data else {}) | {name: values[name] for name in names}
