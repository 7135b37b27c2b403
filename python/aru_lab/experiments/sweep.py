"""Many runs of one configuration: every combination of models, seeds and values of fields. No run is repeated."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from aru_lab.arguments import check_choice
from aru_lab.errors import ConfigError, LabError, RunError
from aru_lab.experiments.processes import Report, run_jobs, threads_each
from aru_lab.experiments.slurm import Slurm
from aru_lab.experiments.tables import write_csv
from aru_lab.networks.classifier import build_classifier, count_parameters, match_hidden_size
from aru_lab.networks.names import MODELS
from aru_lab.runs.config import CHECKPOINTS, TrainConfig
from aru_lab.runs.evaluation import Score, build_for, task_of
from aru_lab.runs.folder import RunFolder
from aru_lab.runs.schedules import best_epoch, is_finished
from aru_lab.runs.scores import known_scores
from aru_lab.runs.state import read_history, sources_of
from aru_lab.runs.training import resume, train

OWN_OPTIONS = {
    "model": "--models",
    "seed": "--seeds",
    "output": "--output",
    "perturb": "--perturb",
    "freeze": "--freeze",
}


@dataclass(frozen=True)
class Finished:
    """A finished run: its configuration, metrics (one dictionary an epoch), trained parameters and clean test score.

    `which` names the checkpoint that was tested, "best" or "last".
    """

    config: TrainConfig
    history: list[dict[str, Any]]
    n_parameters: int
    clean: Score
    which: str = "best"

    @property
    def tested(self) -> dict[str, Any]:
        """The metrics of the epoch whose weights were tested."""
        return self.history[-1 if self.which == "last" else best_epoch(self.history)]

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.config.run_folder


def plan(
    base: TrainConfig,
    models: Sequence[str],
    seeds: Sequence[int],
    vary: Sequence[str],
    root: Path,
    match_parameters: bool = True,
    remark: Callable[[str], None] = lambda sentence: None,
) -> list[TrainConfig]:
    """The configurations of a sweep; each has a run folder below `root`.

    Args:
        base: everything that does not vary.
        models: of names.MODELS.
        seeds: one run each.
        vary: FIELD=VALUE,VALUE,... for any further field of TrainConfig.
        root: folder of the sweep.
        match_parameters: solve the hidden size of each model so that it has as many parameters, within 2%, as an ARUN
            of base's hidden and controller size, or of the nearest hidden size at which all models can.
        remark: called with a sentence if that is another size.

    Raises:
        ConfigError: an unknown field or value, none or the same twice, or sizes that can't be matched.
    """
    axes = [_axis(text) for text in vary]
    for model in models:
        check_choice("models", model, MODELS)
    _check_distinct("models", models)
    _check_distinct("seeds", seeds)
    if axes:
        _check_distinct("vary", [name for name, _ in axes])
    for name, choices in axes:
        _check_distinct(f"vary: {name}", choices)
    configs: list[TrainConfig] = []
    for values in itertools.product(*([(name, value) for value in choices] for name, choices in axes)):
        changes = dict(values)
        label = "".join(f"-{name}={_label(value)}" for name, value in values)
        arun = dataclasses.replace(base, **changes, model="arun")
        sizes = _matched(arun, models, remark) if match_parameters and set(models) != {"arun"} else {}
        for model in models:
            config = dataclasses.replace(base, **changes, model=model)
            config = dataclasses.replace(config, hidden_size=sizes.get(model, config.hidden_size))
            config = config.with_learning_rate()
            configs += [
                dataclasses.replace(config, seed=seed, output=root / f"{model}{label}-seed{seed}") for seed in seeds
            ]
    return configs


def _label(value: Any) -> str:
    """A value as part of the name of a folder."""
    text = str(value)
    for sign in (os.sep, ":"):
        text = text.replace(sign, "_")
    return text


def _check_distinct(name: str, values: Sequence[Any]) -> None:
    """Two runs of the same settings would share a folder."""
    if not values:
        raise ConfigError(f"{name}: got none, expected at least one.")
    if len(set(values)) < len(values):
        raise ConfigError(f"{name}: got {' '.join(map(str, values))}, expected each once.")


def _matched(config: TrainConfig, models: Sequence[str], remark: Callable[[str], None]) -> dict[str, int]:
    """The hidden size of each model, with as many parameters within 2% as an ARUN of the configuration's size.

    Small networks can't match every number of parameters. The ARUN then takes the nearest size at which all match.
    """
    task = task_of(config)
    sizes = {
        "controller_size": config.controller_size,
        "input_size": task.input_size,
        "n_classes": task.target.n_outputs,
    }

    def match(hidden_size: int) -> dict[str, int]:
        target = count_parameters(build_classifier("arun", hidden_size, **sizes, device="meta"))
        return {
            model: hidden_size if model == "arun" else match_hidden_size(model, target, **sizes) for model in models
        }

    wanted, refusal = config.hidden_size, None
    nearest = sorted(range(1, 2 * wanted + 50), key=lambda size: (abs(size - wanted), -size))
    for size in nearest:
        try:
            found = match(size)
        except ConfigError as error:
            refusal = refusal or error
            continue
        if size != wanted:
            remark(
                f"Of an ARUN of hidden size {wanted}, not all models can have as many parameters within 2%; the sweep "
                f"takes {size}, the nearest size at which they can."
            )
        return found
    raise ConfigError(f"{refusal} Take --no-match-parameters.")


def _axis(text: str) -> tuple[str, list[Any]]:
    name, sign, values = text.partition("=")
    names = [field.name for field in dataclasses.fields(TrainConfig) if field.name not in OWN_OPTIONS]
    if name in OWN_OPTIONS:
        raise ConfigError(f"vary: got {text!r}, expected another field; for {name} there is {OWN_OPTIONS[name]}.")
    if name not in names or not sign or not values:
        raise ConfigError(f"vary: got {text!r}, expected FIELD=VALUE,VALUE,... with a field of {', '.join(names)}.")
    items = values.split(",")
    if name == "task":
        return name, _tasks(items)
    return name, [_value(item) for item in items]


def _tasks(items: Sequence[str]) -> list[str]:
    """The tasks in the pieces between commas; PARAMETER=VALUE is a further option of the task before."""
    found: list[str] = []
    for item in items:
        if found and "=" in item and ":" not in item:
            found[-1] += f",{item}"
        else:
            found.append(item)
    return found


def _value(text: str) -> Any:
    named = {"None": None, "True": True, "False": False}
    if text in named:
        return named[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def complete(config: TrainConfig, report: Report = lambda fraction: None, which: str = "best") -> Finished:
    """Train the run of a configuration, or the rest of it, and score it; a finished run is only read.

    Args:
        config: of the run.
        report: called with the fraction that is done.
        which: the checkpoint that is scored, "best" or "last".

    Raises:
        RunError: the run folder holds another experiment.
        LabError: training failed.
    """
    folder = RunFolder(config.run_folder)
    if folder.holds_run():
        saved, environment = folder.read_config()
        changed = saved.differences(config)
        if not changed and (began_with := environment.get("sources")):
            now = sources_of(config)
            changed = [f"the content of {name}" for name in now if now[name] != began_with.get(name)]
        if changed:
            raise RunError(
                f"{folder.path} holds a run with other settings ({', '.join(changed)}); name another --output, or "
                "delete the folder."
            )
    quiet = Console(quiet=True)

    def on_epoch(entry: dict[str, Any]) -> None:
        report(0.99 * entry["epoch"] / config.epochs)

    if not folder.holds_run():
        train(config, quiet, on_epoch)
    elif not is_finished(config, read_history(folder)):
        resume(folder.path, quiet, on_epoch)
    (clean,) = known_scores(folder.path, [None], which=which)
    return Finished(config, read_history(folder), n_parameters(config), clean, which)


def n_parameters(config: TrainConfig) -> int:
    """Parameters of the configuration's model, encoder and frozen parts included."""
    return count_parameters(build_for(config, task_of(config), torch.device("meta")))


def run_sweep(
    configs: Sequence[TrainConfig],
    jobs: int | Slurm = 1,
    console: Console | None = None,
    label: str = "training",
    which: str = "best",
) -> list[Finished | LabError]:
    """Complete all runs, `jobs` at a time or as jobs of a cluster.

    A run that failed gives its error and does not keep the others.

    With several jobs and no number of threads in a configuration, each job takes its share of the cores. `which` names
    the checkpoint that is scored, as in `complete`.
    """
    check_choice("checkpoint", which, CHECKPOINTS)
    if (share := threads_each(jobs)) is not None:
        configs = [dataclasses.replace(config, threads=config.threads or share) for config in configs]
    return run_jobs(functools.partial(complete, which=which), configs, jobs, label, console)


def print_sizes(configs: Sequence[TrainConfig], console: Console) -> None:
    """A table of the models' sizes and numbers of parameters; the difference is that to the first model."""
    counts = {(config.model, config.hidden_size): n_parameters(config) for config in configs}
    table = Table(title="Sizes")
    for heading in ("model", "hidden size", "parameters", "difference"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    first = next(iter(counts.values()))
    for (model, size), count in sorted(counts.items(), key=lambda item: MODELS.index(item[0][0])):
        table.add_row(model, str(size), f"{count:,}", f"{count / first - 1:.1%}")
    console.print(table)


def write_summary(
    configs: Sequence[TrainConfig], results: Sequence[Finished | LabError], path: Path
) -> list[dict[str, Any]]:
    """Write one CSV line for each run: the varied fields, sizes and accuracies, or the error."""
    values = [config.to_json() for config in configs]
    varied = [name for name in values[0] if name != "output" and len({str(value[name]) for value in values}) > 1]
    rows = []
    for config, result in zip(configs, results, strict=True):
        row: dict[str, Any] = {"run": str(config.run_folder), "model": config.model, "seed": config.seed}
        row |= {name: getattr(config, name) for name in varied} | {"hidden_size": config.hidden_size}
        if isinstance(result, LabError):
            row["failure"] = str(result)
        else:
            row |= {
                "parameters": result.n_parameters,
                "epochs": len(result.history),
                "best_epoch": best_epoch(result.history) + 1,
                "validation_accuracy": result.tested["validation_accuracy"],
                "test_accuracy": result.clean.accuracy,
                "test_loss": result.clean.loss,
            }
        rows.append(row)
    write_csv(rows, path)
    return rows
