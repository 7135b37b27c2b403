"""Trained networks in a small folder: what published results rest on, and from which runs are made again.

FOLDER/networks.jsonl   a line for each network: its configuration, log, test score and where it was trained
FOLDER/NAME.safetensors its last weights, with the configuration in the header
FOLDER/trials.npz       test trials that another package drew, with which the networks are tested without it
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load, save
from torch import Tensor

from aru_lab.data.sequences import Sequences
from aru_lab.data.tasks import canonical, find_task
from aru_lab.data.trials import TrialTask
from aru_lab.errors import ConfigError, RunError
from aru_lab.files import Form, archive_of, check_form, read_arrays, read_bytes, read_lines, reading
from aru_lab.runs.config import INCIDENTAL, SOURCES, TrainConfig
from aru_lab.runs.evaluation import Score
from aru_lab.runs.folder import (
    RunFolder,
    append_result,
    check_finite_weights,
    check_metrics,
    save_checkpoint,
    write_result,
)
from aru_lab.runs.schedules import best_epoch
from aru_lab.runs.state import load_last

LINES = "networks.jsonl"
TRIALS = "trials.npz"
_CONDITION = "condition "  # how the names of conditions begin in TRIALS
# What is kept of the weights: all of them, those of the recurrent part and the read-out, or none.
ALL, RECURRENT, NOTHING = "all", "recurrent", "nothing"
PARTS: dict[str, tuple[str, ...]] = {ALL: ("",), RECURRENT: ("recurrent.", "readout."), NOTHING: ()}
_TEXT = (str, type(None))
_LINE: Form = {
    "name": str,
    "weights": _TEXT,
    "kept": str,
    "parameters": int,
    "test_loss": (float, type(None)),
    "test_accuracy": (float, type(None)),
    "test_examples": int,
    "failure": _TEXT,
    "config": dict,
    "environment": dict,
    "metrics": list,
}


@dataclass(frozen=True)
class Kept:
    """A network that is kept.

    Args:
        folder: where it is kept.
        name: of the network, unique in the folder.
        config: the configuration that it was trained with; paths and devices are left out.
        history: the metrics of its epochs, one dictionary each.
        clean: the score of its last weights on the unperturbed test examples; None where the training failed.
        failure: why the training failed, or None.
        n_parameters: its number of parameters.
        environment: versions, commit and machine of the training.
        weights: SHA-256 of its file of weights; None where none are kept.
        kept: which weights are kept, a key of PARTS.
    """

    folder: Path
    name: str
    config: TrainConfig
    history: list[dict[str, Any]]
    clean: Score | None
    failure: str | None
    n_parameters: int
    environment: dict[str, Any]
    weights: str | None
    kept: str

    @property
    def file(self) -> Path:
        """The file of the weights."""
        return self.folder / f"{self.name}.safetensors"

    def read_weights(self) -> dict[str, Tensor]:
        """The weights by name, as in the state of a `SequenceClassifier`.

        Raises:
            RunError: none are kept, or the file is missing, another one, or its weights are not finite.
        """
        if self.weights is None:
            raise RunError(f"{self.folder}: no weights of {self.name} are kept; train it again.")
        with reading(self.file, RunError, "restore it from a copy."):
            content = read_bytes(self.file)
            if hashlib.sha256(content).hexdigest() != self.weights:
                raise ValueError(f"it does not have the checksum in {LINES}")
            weights = dict(sorted(load(content).items()))  # which come in any order
            check_finite_weights(weights)
            return weights

    def restore(self, runs: Path) -> Path:
        """Make a run folder that holds the network as its last checkpoint; it can be tested and analysed, not resumed.

        Args:
            runs: the folder of the runs.

        Returns:
            The run folder, `runs` / `name`. If it holds this network already, nothing is written.

        Raises:
            RunError: all weights are not kept, or the run folder holds another run.
        """
        if self.kept != ALL:
            raise RunError(f"{self.folder}: only part of the weights of {self.name} are kept; train it again.")
        folder = RunFolder(runs / self.name)
        weights = self.read_weights()
        if folder.holds_run():
            held, environment = folder.read_config()
            if held.differences(self.config) or environment.get("weights") != self.weights:
                raise RunError(f"{folder.path} holds another run; name another folder, or delete it.")
            return folder.path
        folder.make()
        position = {"epoch": len(self.history), "batch": 0, "step": self.history[-1]["step"]}
        best = self.history[best_epoch(self.history)]
        position |= {"loss_sum": 0.0, "n_correct": 0, "n_seen": 0, "seconds": 0.0, "history": self.history}
        position |= {"best_accuracy": best["validation_accuracy"], "best_loss": best["validation_loss"]}
        rest = {"optimizer": {}, "plateau": {}, "rng": [], "rng_cuda": None}
        save_checkpoint({"model": weights, **rest, "position": position}, folder.last_file)
        folder.write_metrics(self.history)
        # config.json, with which a run begins, comes last: a kill leaves no run that lacks a file.
        folder.create(self.config, self.environment | {"weights": self.weights})
        return folder.path


def keep(
    folder: Path,
    name: str,
    config: TrainConfig,
    n_parameters: int,
    kept: str = ALL,
    clean: Score | None = None,
    failure: str | None = None,
) -> None:
    """Keep the network of a run.

    Args:
        folder: where to keep it.
        name: of the network.
        config: configuration of the run, which is in its run folder.
        n_parameters: its number of parameters.
        kept: which weights to keep, a key of PARTS.
        clean: its score on the unperturbed test examples.
        failure: why its training failed; no weights are kept then.

    Raises:
        RunError: the run is damaged, or the files can't be written.
    """
    run = RunFolder(config.run_folder)
    saved, environment = run.read_config() if run.holds_run() else (config, {})
    values = _portable(saved)
    weights, history = None, []
    if failure is None:
        last = load_last(run)
        history = last["position"]["history"]
        chosen = {key: weight for key, weight in last["model"].items() if key.startswith(PARTS[kept])}
        if chosen:
            content = save({key: weight.contiguous() for key, weight in chosen.items()}, {"config": json.dumps(values)})
            write_result(content, folder / f"{name}.safetensors")
            weights = hashlib.sha256(content).hexdigest()
    else:
        history = run.read_metrics()
    line = {
        "name": name,
        "weights": weights,
        "kept": kept if weights else NOTHING,
        "parameters": n_parameters,
        "test_loss": clean.loss if clean else None,
        "test_accuracy": clean.accuracy if clean else None,
        "test_examples": clean.n if clean else 0,
        "failure": failure,
        "config": values,
        "environment": {key: value for key, value in environment.items() if key != "sources"},
        "metrics": history,
    }
    folder.mkdir(parents=True, exist_ok=True)
    append_result(line, folder / LINES)


def read_kept(folder: Path) -> list[Kept]:
    """The networks that a folder keeps, in the order in which they were finished.

    Raises:
        RunError: the file is damaged, or holds one name twice.
    """
    path = folder / LINES
    found = [
        Kept(
            folder=folder,
            name=line["name"],
            config=TrainConfig.from_json(line["config"]),
            history=line["metrics"],
            clean=None
            if line["test_loss"] is None
            else Score(line["test_loss"], line["test_accuracy"], line["test_examples"]),
            failure=line["failure"],
            n_parameters=line["parameters"],
            environment=line["environment"],
            weights=line["weights"],
            kept=line["kept"],
        )
        for line in read_lines(path, _check, RunError)
    ]
    names = [network.name for network in found]
    if len(set(names)) < len(names):
        raise RunError(f"{path} is damaged: it holds one network twice; restore it from a copy.")
    return found


def keep_trials(folder: Path, task: str) -> None:
    """Keep the test trials of a task, so that its networks can be tested without the package that draws them.

    Raises:
        ConfigError: the package is not installed.
        RunError: the file can't be written.
    """
    found = find_task(task)
    if not isinstance(found, TrialTask):
        raise ConfigError(f"task: got {task}, expected one whose trials are drawn.")
    test = found.load().test
    arrays = {"task": np.array(found.name), "x": test.x, "y": test.y}
    optional = {"lengths": test.lengths, "mask": test.mask, "centre": test.centre}
    arrays |= {name: array for name, array in optional.items() if array is not None}
    arrays |= {_CONDITION + name: values for name, values in found.trials("test").conditions.items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_result(archive_of(arrays), folder / TRIALS)


def read_trials(folder: Path, task: str) -> tuple[Sequences, dict[str, np.ndarray]]:
    """The test trials that a folder keeps, and their conditions by name.

    Args:
        folder: where they are kept.
        task: of the networks.

    Raises:
        RunError: the file is missing, damaged, or of another task.
    """
    path = folder / TRIALS
    with reading(path, RunError, "restore it from a copy."):
        arrays = read_arrays(path)
        if lacking := {"task", "x", "y"} - arrays.keys():
            raise ValueError(f"it has no {' and no '.join(sorted(lacking))}")
        if (of := str(arrays["task"])) != canonical(task):
            raise ValueError(f"it holds trials of {of}, expected {task}")
        for name, array in arrays.items():
            if name not in ("task", "centre") and len(array) != len(arrays["x"]):
                raise ValueError(f"{name} has {len(array)} trials, expected {len(arrays['x'])}")
    conditions = {name.removeprefix(_CONDITION): arrays[name] for name in arrays if name.startswith(_CONDITION)}
    optional = (arrays.get(name) for name in ("lengths", "mask", "centre"))
    return Sequences(arrays["x"], arrays["y"], *optional), conditions


def _check(line: dict[str, Any]) -> None:
    check_form(line, _LINE)
    if line["kept"] not in PARTS:
        raise ValueError(f"'kept' is {line['kept']!r}, expected one of {', '.join(PARTS)}")
    if line["failure"] is None:
        if not line["metrics"] or line["test_loss"] is None or line["test_accuracy"] is None:
            raise ValueError("it has no metrics or no test score")
        # the loss of a network that overflows on a test example is not finite
        if not line["test_accuracy"] <= 1 or line["test_loss"] < 0:
            raise ValueError(f"it has the test accuracy {line['test_accuracy']} and the test loss {line['test_loss']}")
        for entry in line["metrics"]:
            check_metrics(entry)
    if Path(line["name"]).name != line["name"]:
        raise ValueError(f"'name' is {line['name']!r}, which is no name of a file")
    try:
        TrainConfig.from_json(line["config"])
    except ConfigError as error:
        raise ValueError(str(error)) from error


def _portable(config: TrainConfig) -> dict[str, Any]:
    """A configuration as json can write it, without what differs between machines."""
    defaults = TrainConfig()
    config = dataclasses.replace(config, **{name: getattr(defaults, name) for name in INCIDENTAL})
    values = config.to_json()
    return values | {name: values[name] and Path(values[name]).name for name in SOURCES}
