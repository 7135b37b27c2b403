"""The state of one `aru reproduce`: processes, scale, folders, and the errors of runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from aru_lab.errors import LabError, NonFiniteError, RunError
from aru_lab.experiments import processes as pool
from aru_lab.experiments.scales import Scale
from aru_lab.experiments.slurm import Slurm
from aru_lab.experiments.sweep import Finished, plan, print_sizes, run_sweep
from aru_lab.runs.config import TrainConfig
from aru_lab.terminal import say, visible


@dataclass
class Jobs:
    """Processes and console of one command, and the runs that failed."""

    jobs: int | Slurm
    console: Console
    failures: list[tuple[str, LabError]] = field(default_factory=list, kw_only=True)

    def map(
        self, function: Callable[[Any, pool.Report], Any], items: Sequence[Any], label: str, here: bool = False
    ) -> list[tuple[int, Any]]:
        """k and function(item, report) of every item k; items that fail are added to `failures` and left out.

        `here` is for short work, which is not worth a job of a cluster.
        """
        jobs = 1 if here and isinstance(self.jobs, Slurm) else self.jobs
        return self.successes([item[0].name for item in items], pool.run_jobs(function, items, jobs, label))

    def successes(self, names: Sequence[str], outcomes: Sequence[Any]) -> list[tuple[int, Any]]:
        """The successful outcomes with their indices; errors are added to `failures`."""
        found = []
        for k, (name, outcome) in enumerate(zip(names, outcomes, strict=True)):
            if isinstance(outcome, LabError):
                self.failures.append((name, outcome))
            else:
                found.append((k, outcome))
        return found

    @property
    def remarks(self) -> list[str]:
        """A sentence on each failure."""
        return [
            f"Left out because its training diverged: {name} ({str(error).partition(';')[0]})."
            if isinstance(error, NonFiniteError)
            else f"Left out because it failed: {name} ({visible(str(error)).rstrip('.')})."
            for name, error in self.failures
        ]


@dataclass
class Session(Jobs):
    """One `aru reproduce` of a result: the scale, folders and processes, and the runs that failed."""

    scale: Scale
    root: Path
    output: Path
    own: dict[str, Any]

    def networks(self, task: str, models: Sequence[str]) -> list[Finished]:
        """The trained networks that the results share: models times seeds.

        Raises:
            RunError: none could be trained.
        """
        base = dataclasses.replace(self.scale.base(task), **self.own)
        configs = plan(
            base, models, self.scale.seeds, (), self.root / task, remark=lambda sentence: say(self.console, sentence)
        )
        print_sizes(configs, self.console)
        finished = self.train(configs, f"training on {task}")
        if not finished:
            raise RunError(f"{self.root / task}: no network could be trained. {' '.join(self.remarks)}")
        return finished

    def train(self, configs: Sequence[TrainConfig], label: str) -> list[Finished]:
        """Complete the runs; runs that fail are added to `failures` and left out."""
        outcomes = run_sweep(configs, self.jobs, label=label)
        found = self.successes([config.run_folder.name for config in configs], outcomes)
        return [run for _, run in found]
