"""Train the networks that the paper's claims are judged on, and keep each as it is finished.

First every model's learning rate is chosen; then all models of the first seed are trained, then all of the second, so
that complete seeds come first. What is kept is not trained again, and a stopped network resumes.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from aru_lab.arguments import check_choice, check_positive
from aru_lab.errors import Interrupted, NonFiniteError, RunError
from aru_lab.experiments.kept import keep, read_kept
from aru_lab.experiments.scales import NETWORKS, NetworkSet
from aru_lab.experiments.sweep import complete, n_parameters, plan
from aru_lab.files import Form, check_form, read_lines
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
        own: fields of the configuration that do not define the experiment, such as data_dir and device.

    Returns:
        Whether all networks are kept.

    Raises:
        ConfigError: an unknown scale or set, or `seconds` is not above 0.
        RunError, DataError: a file is damaged or can't be written, or the data is missing.
        Interrupted: Ctrl-C or a termination signal; a checkpoint was saved.
    """
    check_choice("scale", scale, tuple(NETWORKS))
    check_positive("seconds", seconds, optional=True)
    chosen = _chosen(scale, sets)
    runs = runs or Path("runs/networks") / scale
    work = _Work(output, runs, console or progress_console(), Deadline(seconds), own, models)
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

    def wanted(self, network_set: NetworkSet) -> tuple[str, ...]:
        """The models of a set that are trained."""
        return tuple(model for model in network_set.models if self.models is None or model in self.models)

    def train(self, network_set: NetworkSet) -> None:
        """Train what is left of a set."""
        folder = self.output / network_set.name
        kept = {network.name for network in read_kept(folder)}
        rates = self.rates(network_set)
        left = [
            (name, config)
            for name, config in configurations(network_set, rates, self.runs, self.own)
            if name not in kept and config.model in self.wanted(network_set)
        ]
        started = self.deadline.elapsed
        for k, (name, config) in enumerate(left):
            self.deadline.check()
            if network_set.controllers_of is not None:
                config = self.with_controller(network_set, config)
            failure, score, history = None, None, []
            try:
                finished = complete(config, self.deadline.check, "last")
                score, history = finished.clean, finished.history
            except NonFiniteError as error:
                failure = str(error).partition(";")[0]
            keep(folder, name, config, n_parameters(config), network_set.kept, score, failure)
            spent = self.deadline.elapsed - started
            minutes = spent / (k + 1) * (len(left) - k - 1) / 60
            result = failure or f"test accuracy {score.accuracy:.2%}, train loss {history[-1]['train_loss']:.4f}"
            say(
                self.console,
                f"{network_set.name} {name}: {result} [{k + 1} of {len(left)}, about {minutes:,.0f} minutes left]",
            )

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
            return dict.fromkeys(network_set.models, network_set.training.learning_rate)
        folder = self.output / network_set.name
        for model in self.wanted(network_set):
            if model not in chosen_rates(folder):
                self.choose_rate(network_set, model, folder)
        return chosen_rates(folder)

    def choose_rate(self, network_set: NetworkSet, model: str, folder: Path) -> None:
        """Train a model's first seed at each candidate and write the last epochs' validation scores.

        The best accuracy wins, and the lower loss decides between equals.
        """
        found: list[tuple[float, float | None, float]] = []
        for rate in network_set.learning_rates:
            candidates = configurations(network_set, dict.fromkeys(network_set.models, rate), self.runs, self.own)
            name, config = next((name, config) for name, config in candidates if config.model == model)
            self.deadline.check()
            try:
                last = complete(config, self.deadline.check, "last").history[-1]
                found.append((last["validation_accuracy"], last["validation_loss"], rate))
                result = f"validation accuracy {last['validation_accuracy']:.2%}"
            except NonFiniteError as error:
                found.append((0.0, None, rate))
                result = str(error).partition(";")[0]
            say(self.console, f"{network_set.name} {name} at {rate:g}: {result}")
        best = max(found, key=lambda one: (one[0], -(one[1] if one[1] is not None else float("inf"))))
        if best[1] is None:
            raise NonFiniteError(f"learning_rates: {model} overflows at each of them, expected one at which it trains.")
        folder.mkdir(parents=True, exist_ok=True)
        found.sort(key=lambda one: one == best)  # the choice counts from its line on, which is the last one
        for accuracy, loss, rate in found:
            line = {"model": model, "learning_rate": rate, "validation_accuracy": accuracy, "validation_loss": loss}
            append_result(line | {"chosen": rate == best[2]}, folder / RATES)

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
