"""Contents of last.pt and best.pt, and checks that they match config.json and the data.

A checkpoint carries the configuration that it was saved with, the number of threads and processes, and the checksums of
what the run began with (its data file, the weights of other runs). Checkpoints of earlier versions carry none of these,
and only their form is checked.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aru_lab.data.tasks import find_task, is_data_file
from aru_lab.errors import DataError, LabError, RunError, number_of, typed
from aru_lab.files import Form, check_form, reading, sha256_of
from aru_lab.runs.config import INCIDENTAL, SOURCES, TrainConfig
from aru_lab.runs.folder import RunFolder, check_epochs, check_metrics, load_checkpoint
from aru_lab.runs.schedules import best_epoch

DAMAGED = "it is damaged: restore it from a copy, or start a new run."
_OPTIONAL_TENSORS = (list, type(None))
_LAST: Form = {
    "model": dict,
    "optimizer": dict,
    "plateau": dict,
    "position": dict,
    "rng": list,
    "rng_cuda": _OPTIONAL_TENSORS,
}
_BEST: Form = {"model": dict, "epoch": int, "validation": dict}
_POSITION: Form = {
    "epoch": int,
    "batch": int,
    "step": int,
    "loss_sum": float,
    "n_correct": int,
    "n_seen": int,
    "seconds": float,
    "best_accuracy": float,
    "best_loss": float,
    "history": list,
}
_NORMS: Form = {"norm_sum": float, "n_norms": int}  # earlier versions did not count them
# What numbers are before the first epoch: the best scores, and those of torch.optim.lr_scheduler.ReduceLROnPlateau.
_UNSET = {
    "plateau": {"best": math.inf, "mode_worse": math.inf},
    "position": {"best_accuracy": -math.inf, "best_loss": math.inf},
}
# Of the environment, what decides the bits of a run.
_DECISIVE = ("threads", "processes", "sources")


def sources_of(config: TrainConfig) -> dict[str, str]:
    """SHA-256 of the inputs of a run, by field of its configuration: its file or trials, the weights of other runs.

    Raises:
        DataError, RunError: a file can't be read.
    """
    data = data_of(config)
    found = {} if data is None else {"task": data}
    for name in SOURCES:
        run = getattr(config, name)
        if run is not None:
            folder = RunFolder(run)
            file = folder.best_file if config.initial_checkpoint == "best" else folder.last_file
            with reading(file, RunError, f"{name} names a run that has finished an epoch."):
                found[name] = sha256_of(file)
    return found


def data_of(config: TrainConfig, task: str | None = None) -> str | None:
    """SHA-256 of the file or the trials of a configuration, or of another task by name; None for data sets.

    Raises:
        DataError: the file can't be read.
    """
    return find_task(task or config.task).checksum


def measure_of(environment: dict[str, Any]) -> str:
    """What the accuracy in a run's metrics is: "accuracy", or "R²" where its targets are numbers."""
    data = environment.get("data")
    target = data.get("target") if isinstance(data, dict) else None
    return "R²" if isinstance(target, dict) and target.get("names", ()) is None else "accuracy"


def check_data(config: TrainConfig, environment: dict[str, Any]) -> None:
    """Refuse a data file, or trials, that have changed since the run began.

    Raises:
        DataError: they have another checksum, or can't be read.
    """
    began_with = environment.get("sources", {}).get("task")
    if began_with is None or data_of(config) == began_with:
        return
    advice = "put the file back as it was, or start a new run."
    if not is_data_file(config.task):
        advice = "use the versions that config.json names, which draw the same trials, or start a new run."
    raise DataError(
        f"{config.task} has changed since the run began: its SHA-256 no longer is that in config.json, {began_with}; "
        f"{advice}"
    )


def check_sources(config: TrainConfig, environment: dict[str, Any]) -> None:
    """Refuse weights of other runs that have changed since a run began with them.

    Raises:
        RunError: they have another checksum, or can't be read.
    """
    began_with = environment.get("sources", {})
    now = sources_of(config)
    for name in SOURCES:
        if name in began_with and name in now and began_with[name] != now[name]:
            raise RunError(
                f"{name}: the weights of {getattr(config, name)} have changed since the run began with them; put that "
                "run back as it was."
            )


def run_of(config: TrainConfig, environment: dict[str, Any]) -> dict[str, Any]:
    """The configuration and environment in a checkpoint, without INCIDENTAL fields except `threads`."""
    kept = {name: value for name, value in config.to_json().items() if name not in INCIDENTAL or name == "threads"}
    return {"config": kept, **{name: environment[name] for name in _DECISIVE if name in environment}}


def load_last(folder: RunFolder) -> dict[str, Any]:
    """The content of last.pt, of the expected form.

    Raises:
        RunError: it is missing, damaged or something else.
    """
    content = load_checkpoint(folder.last_file)
    with reading(folder.last_file, RunError, DAMAGED):
        check_form(_without_run(content), _LAST)
        position = content["position"]
        check_form(position, _POSITION | {name: kind for name, kind in _NORMS.items() if name in position})
        if min(value for name, value in position.items() if name not in ("history", "best_accuracy")) < 0:
            raise ValueError("its position is negative")
        if len(position["history"]) != position["epoch"]:
            raise ValueError(f"it holds {len(position['history'])} epochs and the position {position['epoch']}")
        for entry in position["history"]:
            check_metrics(entry)
        _check_finite(content)
    check_epochs(position["history"], folder.last_file)
    return content


def _check_finite(content: dict[str, Any]) -> None:
    """Raise ValueError unless the numbers of last.pt with which training goes on are finite."""
    for place in ("optimizer", "plateau", "position"):
        for name, value in _numbers(content[place]):
            if name in _UNSET.get(place, ()) and value == _UNSET[place][name]:
                continue
            if not torch.as_tensor(value).isfinite().all():
                raise ValueError(f"{name} of its {place} is not finite")
    position = content["position"]
    if position["history"] and not math.isfinite(position["best_accuracy"] - position["best_loss"]):
        raise ValueError("its position has no best epoch")


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Numbers and tensors in nested dictionaries and lists, each with the name of the closest dictionary."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _numbers(item, str(key))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _numbers(item, name)
    elif isinstance(value, (float, Tensor)):
        yield name, value


def load_best(folder: RunFolder) -> dict[str, Any]:
    """The content of best.pt, of the expected form.

    Raises:
        RunError: it is missing, damaged or something else.
    """
    content = load_checkpoint(folder.best_file, None if os.path.lexists(folder.best_file) else without_best(folder))
    with reading(folder.best_file, RunError, DAMAGED):
        check_form(_without_run(content), _BEST)
        check_metrics(content["validation"])
        if content["validation"]["epoch"] != content["epoch"]:
            raise ValueError("its metrics are of another epoch")
    return content


def without_best(folder: RunFolder) -> str:
    """The message for a run without best.pt, which is lost or not written yet."""
    n = len(folder.read_metrics())
    if n == 0:
        return (
            f"{folder.best_file} does not exist: the run has not finished an epoch yet; continue it with `aru train "
            f"--resume {typed(folder.path)}`."
        )
    return (
        f"{folder.best_file} is missing, though the run has finished {number_of(n, 'epoch')}; restore it from a copy, "
        f"or test the latest weights with `aru evaluate {typed(folder.path)} --checkpoint last`."
    )


def _without_run(content: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name != "run"}


def read_history(folder: RunFolder) -> list[dict[str, Any]]:
    """The metrics of all finished epochs: those of last.pt, with which metrics.jsonl must agree.

    Where there is no last.pt, metrics.jsonl is all that is known.

    Raises:
        RunError: a file is damaged, or they don't agree.
    """
    lines = folder.read_metrics()
    if not os.path.lexists(folder.last_file):
        return lines
    history = load_last(folder)["position"]["history"]
    if lines != history[: len(lines)]:
        raise RunError(
            f"{folder.metrics_file} does not agree with {folder.last_file.name}; `aru train --resume "
            f"{typed(folder.path)}` writes it again from there."
        )
    return history


def check_resumable(folder: RunFolder) -> bool:
    """Whether there is a last.pt to go on from; without one a run that was killed before its first starts over.

    Raises:
        RunError: last.pt is gone, or best.pt is, or it is not that of the best epoch so far.
    """
    if not os.path.lexists(folder.last_file):
        if os.path.lexists(folder.best_file) or folder.read_metrics():
            raise RunError(
                f"{folder.last_file} is missing, though the run has finished epochs; restore it from a copy, or start "
                "a new run."
            )
        return False
    history = load_last(folder)["position"]["history"]
    if history:
        # A kill between the two leaves best.pt of the epoch that last.pt does not count yet.
        epoch, expected = load_best(folder)["epoch"], best_epoch(history) + 1
        if epoch not in (expected, len(history) + 1):
            raise RunError(
                f"{folder.best_file} holds epoch {epoch}, and the best of {folder.last_file.name} is epoch {expected}; "
                "restore both from one copy, or start a new run."
            )
    return True


def check_belongs(
    path: Path, content: dict[str, Any], folder: RunFolder, config: TrainConfig, environment: dict[str, Any]
) -> None:
    """Refuse a checkpoint that was saved with another configuration than config.json has now.

    Raises:
        RunError: it was; the sentence names the fields.
    """
    saved = _saved_run(path, content)
    if saved is not None:
        _refuse(path, folder, _changed(config, saved, environment))


def check_continues(
    content: dict[str, Any], folder: RunFolder, config: TrainConfig, environment: dict[str, Any]
) -> None:
    """Refuse to resume with a configuration that can't be honoured any more.

    What is honoured: where data lie, device, backend, seconds between checkpoints, TensorBoard, the patience, and, but
    for the cosine schedule, which depends on it, the number of epochs. The run's own folder is where it is found,
    whatever `output` says.

    Raises:
        RunError: something else has changed; the sentence names the fields.
    """
    saved = _saved_run(folder.last_file, content)
    if saved is None:
        return
    changed = _changed(config, saved, environment)
    if config.threads != saved["config"].threads and "threads" not in changed:
        changed.append("threads")
    _refuse(folder.last_file, folder, changed)


def _saved_run(path: Path, content: dict[str, Any]) -> dict[str, Any] | None:
    if "run" not in content:
        return None
    with reading(path, RunError, DAMAGED):
        saved = dict(content["run"])
        return saved | {"config": TrainConfig.from_json(saved["config"])}


def _changed(config: TrainConfig, saved: dict[str, Any], environment: dict[str, Any]) -> list[str]:
    sources = saved.get("sources", {})
    names = [name for name in config.differences(saved["config"]) if not _same_source(config, name, sources)]
    # Finished steps do not depend on when the run ends, except for the learning rate of the cosine schedule.
    free = ("early_stop",) if config.schedule == "cosine" else ("early_stop", "epochs")
    names = [name for name in names if name not in free]
    return names + [name for name in _DECISIVE if name in saved and saved[name] != environment.get(name)]


def _same_source(config: TrainConfig, name: str, sources: dict[str, str]) -> bool:
    """Whether a field names a copy of the same input elsewhere."""
    if name not in sources:
        return False
    cleared = {other: None for other in SOURCES if other != name}
    try:
        return sources_of(dataclasses.replace(config, **cleared)).get(name) == sources[name]
    except LabError:
        return False


def _refuse(path: Path, folder: RunFolder, changed: list[str]) -> None:
    if changed:
        raise RunError(
            f"{path} does not belong to the configuration in {folder.config_file}, which has changed since in "
            f"{', '.join(changed)}; undo the change, or start a new run."
        )


def put_weights(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load weights into a module that has exactly these, of these shapes and types.

    Raises:
        ValueError: they don't fit.
    """
    own = module.state_dict()
    if weights.keys() != own.keys():
        raise ValueError(f"they differ in {', '.join(sorted(weights.keys() ^ own.keys())[:3])}")
    for name, weight in weights.items():
        if weight.shape != own[name].shape or weight.dtype != own[name].dtype:
            raise ValueError(
                f"{name} is {tuple(weight.shape)} of {weight.dtype}, expected {tuple(own[name].shape)} of "
                f"{own[name].dtype}"
            )
    module.load_state_dict(weights)
