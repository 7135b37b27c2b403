"""Where the results of the paper are made again: what `reproduce.py` and the analyses' report share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from aru_lab import jobs as pool
from aru_lab.config import TrainConfig
from aru_lab.errors import LabError, NonFiniteError, RunError
from aru_lab.scales import Scale
from aru_lab.sweep import Finished, plan, print_sizes, run_sweep


@dataclass
class Workshop:
    """Where one result is made: the scale, folders, processes, and what diverged on the way."""

    scale: Scale
    root: Path
    output: Path
    jobs: int
    own: dict[str, Any]
    console: Console
    failures: list[str] = field(default_factory=list)

    def networks(self, task: str, models: Sequence[str]) -> list[Finished]:
        """The trained networks that the results share: models times seeds."""
        base = dataclasses.replace(self.scale.base(task), **self.own)
        configs = plan(base, models, self.scale.seeds, (), self.root / task)
        print_sizes(configs, self.console)
        finished = self.train(configs, f"training on {task}")
        if not finished:
            raise RunError(f"{self.root / task}: the training of every network diverged ({'; '.join(self.failures)}).")
        return finished

    def train(self, configs: Sequence[TrainConfig], label: str) -> list[Finished]:
        """Complete the runs; those that diverge are noted and left out."""
        outcomes = run_sweep(configs, self.jobs, label=label)
        return self.successes([config.run_folder.name for config in configs], outcomes)

    def map(self, function: Callable[[Any, pool.Report], Any], items: Sequence[Any], label: str) -> list[Any]:
        """function(item, report) of all items; those that diverge are noted and left out."""
        return self.successes([item[0].name for item in items], pool.run_jobs(function, items, self.jobs, label))

    def successes(self, names: Sequence[str], outcomes: Sequence[Any]) -> list[Any]:
        """The outcomes that are none of NonFiniteError, which are noted; another failure is raised."""
        found = []
        for name, outcome in zip(names, outcomes, strict=True):
            if isinstance(outcome, NonFiniteError):
                self.failures.append(f"{name} ({str(outcome).partition(';')[0]})")
            elif isinstance(outcome, LabError):
                raise outcome
            else:
                found.append(outcome)
        return found
