"""Train the networks on which claims are judged, and keep each as it is finished.

First every model's learning rate is chosen; then all models of the first seed are trained, then all of the second, so
that complete seeds come first. What is kept is not trained again, and a stopped network resumes.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from aru_lab.arguments import check_choice, check_positive
from aru_lab.errors import ConfigError, Interrupted, LabError, NonFiniteError, RunError, failed_together
from aru_lab.experiments.kept import TRIALS, keep, keep_trials, read_kept
from aru_lab.experiments.processes import run_jobs
from aru_lab.experiments.scales import NETWORKS, NetworkSet
from aru_lab.experiments.slurm import Slurm
from aru_lab.experiments.sweep import Finished, complete, n_parameters, plan
from aru_lab.files import Form, check_form, is_file, read_lines
from aru_lab.networks.names import MODELS
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.folder import append_result
from aru_lab.terminal import progress_console, say

RATES = "learning-rates.jsonl"
_RATE: Form = {
    "model": str,
    "learning_rate": float,
    "validation_accuracy": float,
    "validation_loss": (float, type(None)),
    "chosen": bool,
}


class OutOfTime(Interrupted):
    """The seconds that were given are over; a checkpoint was saved."""


@dataclass
class Deadline:
    """When to stop, and how far the work is.

    Args:
        seconds: for this call; None sets no limit.
    """

    seconds: float | None = None

    def __post_init__(self) -> None:
        self._started = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._started

    def check(self, _fraction: float = 0.0) -> None:
        """Raise OutOfTime after the deadline; called after every epoch, when its checkpoint is saved."""
        if self.seconds is not None and self.elapsed >= self.seconds:
            raise OutOfTime(f"{self.seconds:g} seconds are over; the same command goes on with all that is left.")


def networks(
    scale: str,
    output: Path,
    runs: Path | None = None,
    seconds: float | None = None,
    sets: tuple[str, ...] | None = None,
    console: Console | None = None,
    models: tuple[str, ...] | None = None,
    slurm: Slurm | None = None,
    **own: Any,
) -> bool:
    """Train and keep the networks of a scale that are not kept yet.

    Args:
        scale: a key of scales.NETWORKS.
        output: folder of what is kept, OUTPUT/SET; see kept.py.
        runs: folder of the runs under way, RUNS/SET/NAME; None takes runs/networks/SCALE.
        seconds: stop after so many seconds, at the end of an epoch; None trains all.
        sets: names of the sets to train; None takes all.
        console: where the progress goes; None prints to standard output.
        models: names of the models to train; None takes all of each set.
        slurm: what the jobs of a cluster ask for, one job for each network; None trains in this process.
        own: fields of the configuration that do not define the experiment, such as data_dir and device.

    Returns:
        Whether all networks are kept.

    Raises:
        ConfigError: an unknown scale or set, or `seconds` is not above 0, or is given with `slurm`.
        RunError, DataError: a file is damaged or can't be written, or the data is missing.
        Interrupted: Ctrl-C or a termination signal; a checkpoint was saved.
    """
    check_choice("scale", scale, tuple(NETWORKS))
    check_positive("seconds", seconds, optional=True)
    if seconds is not None and slurm is not None:
        raise ConfigError(f"seconds: got {seconds:g} with the executor slurm, expected None: --time limits its jobs.")
    for model in models or ():
        check_choice("models", model, MODELS)
    chosen = _chosen(scale, sets)
    runs = runs or Path("runs/networks") / scale
    work = _Work(output, runs, console or progress_console(), Deadline(seconds), own, models, slurm)
    try:
        for network_set in chosen:
            work.train(network_set)
    except OutOfTime as stopped:
        say(console or Console(), str(stopped))
        return False
    return True


def _chosen(scale: str, sets: tuple[str, ...] | None) -> list[NetworkSet]:
    by_name = {network_set.name: network_set for network_set in NETWORKS[scale]}
    for name in sets or ():
        check_choice("sets", name, tuple(by_name))
    return [by_name[name] for name in by_name if not sets or name in sets]


@dataclass
class _Work:
    """One call of `networks`."""

    output: Path
    runs: Path
    console: Console
    deadline: Deadline
    own: dict[str, Any]
    models: tuple[str, ...] | None = None
    slurm: Slurm | None = None

    def wanted(self, network_set: NetworkSet) -> tuple[str, ...]:
        """The models of a set that are trained."""
        return tuple(model for model in network_set.models if self.models is None or model in self.models)

    def train(self, network_set: NetworkSet) -> None:
        """Train what is left of a set."""
        folder = self.output / network_set.name
        if network_set.trials and not is_file(folder / TRIALS):
            keep_trials(folder, network_set.training.task)
        kept = {network.name for network in read_kept(folder)}
        rates = self.rates(network_set)
        left = [
            (name, config)
            for name, config in configurations(network_set, rates, self.runs, self.own)
            if name not in kept and config.model in self.wanted(network_set)
        ]
        if network_set.controllers_of is not None:
            left = [(name, self.with_controller(network_set, config)) for name, config in left]
        started, n_kept = self.deadline.elapsed, 0

        def keep_one(k: int, result: Finished | NonFiniteError) -> None:
            nonlocal n_kept
            (name, config), failure, score = left[k], None, None
            if isinstance(result, NonFiniteError):
                failure = told = str(result).partition(";")[0]
            else:
                score = result.clean
                told = f"test accuracy {score.accuracy:.2%}, train loss {result.history[-1]['train_loss']:.4f}"
            keep(folder, name, config, n_parameters(config), network_set.kept, score, failure)
            n_kept += 1
            minutes = (self.deadline.elapsed - started) / n_kept * (len(left) - n_kept) / 60
            say(
                self.console,
                f"{network_set.name} {name}: {told} [{n_kept} of {len(left)}, about {minutes:,.0f} minutes left]",
            )

        self.complete([config for _, config in left], keep_one, f"networks {network_set.name}")

    def complete(
        self, configs: list[TrainConfig], note: Callable[[int, Finished | NonFiniteError], None], label: str
    ) -> None:
        """Train networks one by one, or all as jobs of the cluster; `note` gets each as it is finished."""
        if self.slurm is None:
            for k, config in enumerate(configs):
                self.deadline.check()
                try:
                    result: Finished | NonFiniteError = complete(config, self.deadline.check, "last")
                except NonFiniteError as error:
                    result = error
                note(k, result)
            return
        failures: list[LabError] = []

        def take(k: int, result: Finished | LabError) -> None:
            if isinstance(result, LabError) and not isinstance(result, NonFiniteError):
                failures.append(result)
                say(self.console, f"{configs[k].run_folder.name}: {result}")
            else:
                note(k, result)

        configs = [dataclasses.replace(config, threads=config.threads or self.slurm.cpus) for config in configs]
        run_jobs(functools.partial(complete, which="last"), configs, self.slurm, label, note=take)
        if failure := failed_together(failures):
            raise failure

    def rates(self, network_set: NetworkSet) -> dict[str, float]:
        """The learning rate of each model, chosen where that is still to be done."""
        if network_set.rates_of is not None:
            folder = self.output / network_set.rates_of
            chosen = chosen_rates(folder)
            if missing := [model for model in self.wanted(network_set) if model not in chosen]:
                raise RunError(
                    f"{folder / RATES} has no learning rate of {', '.join(missing)}; train the set "
                    f"{network_set.rates_of} first."
                )
            return chosen
        if not network_set.learning_rates:
            of = (dataclasses.replace(network_set.training, model=model) for model in network_set.models)
            return {config.model: config.with_learning_rate().learning_rate for config in of}
        folder = self.output / network_set.name
        self.choose_rates(network_set, folder)
        return chosen_rates(folder)

    def choose_rates(self, network_set: NetworkSet, folder: Path) -> None:
        """Train the first seed of each model at each candidate and write the last epochs' validation scores.

        The best accuracy wins, and the lower loss decides between equals.
        """
        chosen = chosen_rates(folder)
        candidates: list[tuple[str, float, TrainConfig]] = []
        for model in (model for model in self.wanted(network_set) if model not in chosen):
            for rate in network_set.learning_rates:
                configs = configurations(network_set, dict.fromkeys(network_set.models, rate), self.runs, self.own)
                candidates.append((model, rate, next(config for _, config in configs if config.model == model)))
        found: dict[str, list[tuple[float, float | None, float]]] = {}

        def note(k: int, result: Finished | NonFiniteError) -> None:
            model, rate, config = candidates[k]
            if isinstance(result, NonFiniteError):
                scores, told = (0.0, None), str(result).partition(";")[0]
            else:
                last = result.history[-1]
                scores = last["validation_accuracy"], last["validation_loss"]
                told = f"validation accuracy {scores[0]:.2%}"
            found.setdefault(model, []).append((*scores, rate))
            say(self.console, f"{network_set.name} {model}-seed{config.seed} at {rate:g}: {told}")
            if len(found[model]) == len(network_set.learning_rates):
                _write_choice(model, found[model], folder)

        self.complete([config for _, _, config in candidates], note, f"learning rates {network_set.name}")

    def with_controller(self, network_set: NetworkSet, config: TrainConfig) -> TrainConfig:
        """The configuration that begins with the controller of the ARUN of the next seed in another set."""
        seeds = network_set.seeds
        donor = seeds[(seeds.index(config.seed) + 1) % len(seeds)]
        of = {network.name: network for network in read_kept(self.output / network_set.controllers_of)}
        network = of.get(f"arun-seed{donor}")
        if network is None or network.failure is not None:
            raise RunError(
                f"{self.output / network_set.controllers_of}: there is no trained arun of seed {donor}; train the set "
                f"{network_set.controllers_of} first."
            )
        return dataclasses.replace(config, controller_from=network.restore(self.runs / "controllers"))


def _write_choice(model: str, found: list[tuple[float, float | None, float]], folder: Path) -> None:
    """Write (accuracy, loss, rate) of a model's candidates; the best one is chosen."""
    best = max(found, key=lambda one: (one[0], -(one[1] if one[1] is not None else float("inf"))))
    if best[1] is None:
        raise NonFiniteError(f"learning_rates: {model} overflows at each of them, expected one at which it trains.")
    folder.mkdir(parents=True, exist_ok=True)
    # the choice counts from its line on, which is the last one
    for accuracy, loss, rate in sorted(found, key=lambda one: one == best):
        line = {"model": model, "learning_rate": rate, "validation_accuracy": accuracy, "validation_loss": loss}
        append_result(line | {"chosen": rate == best[2]}, folder / RATES)


def configurations(
    network_set: NetworkSet, rates: dict[str, float], runs: Path, own: dict[str, Any] | None = None
) -> Iterator[tuple[str, TrainConfig]]:
    """The name and the configuration of each network of a set: all models of a seed, then those of the next.

    Args:
        network_set: the set.
        rates: the learning rate of each model; models without one are left out.
        runs: folder of the runs, RUNS/SET/NAME-lrRATE.
        own: fields that do not define the experiment.
    """
    base = dataclasses.replace(network_set.training, **(own or {}))
    solved = network_set.match if network_set.match is not None else tuple(m for m in network_set.models if m != "arun")
    solved = ("arun", *(model for model in network_set.models if model in solved))
    sizes = {config.model: config.hidden_size for config in plan(base, solved, (0,), (), runs)}
    starts = network_set.starts or ((base.initial_gain, base.initial_saturation),)
    for seed in network_set.seeds:
        for model in (model for model in network_set.models if model in rates):
            for gain, saturation in starts:
                name = f"{model}-seed{seed}"
                if network_set.starts is not None:
                    name = f"{model}-n{gain}-s{saturation}-seed{seed}"
                yield (
                    name,
                    dataclasses.replace(
                        base,
                        model=model,
                        seed=seed,
                        hidden_size=sizes.get(model, base.hidden_size),
                        learning_rate=rates[model],
                        initial_gain=gain,
                        initial_saturation=saturation,
                        output=runs / network_set.name / f"{name}-lr{rates[model]:g}",
                    ),
                )


def chosen_rates(folder: Path) -> dict[str, float]:
    """The chosen learning rate of each model; empty where none is chosen yet.

    Args:
        folder: of a set, OUTPUT/SET.

    Raises:
        RunError: the file is damaged.
    """
    lines = read_lines(folder / RATES, lambda line: check_form(line, _RATE), RunError)
    return {line["model"]: line["learning_rate"] for line in lines if line["chosen"]}
