"""Arguments that several commands have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from aru_lab.arguments import check_choice, check_whole
from aru_lab.errors import ConfigError

if TYPE_CHECKING:
    from aru_lab.experiments.slurm import Slurm

Run = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
Quiet = Annotated[
    tyro.conf.FlagCreatePairsOff[bool],
    tyro.conf.arg(aliases=("-q",), help="Print only results and errors, and no progress."),
]


def _options_file(written: str, example: str) -> object:
    """The help of --config, with the files that a command writes and an example of one written by hand."""
    told = (
        f"File of options: {written}, or one JSON object such as {example}. Options given beside it win over the file."
    )
    return tyro.conf.arg(metavar="FILE", help=told)


_OF_TRAINING = (
    "config.json of a run or NAME.safetensors of a kept network (its folder and, for a sweep, its model and seed are "
    "left out)"
)
_OF_RETRAINING = "config.json of a retrained run, RUN/transfer, which has the learning rate of its kind of network"
_OF_ANALYSES = "RUN/analysis/WHAT.npz, which has those that the analysis depends on, or the folder with all such files"
ConfigFile = Annotated[Path | None, _options_file(_OF_TRAINING, '{"epochs": 5}')]
RetrainingFile = Annotated[Path | None, _options_file(_OF_RETRAINING, '{"epochs": 5}')]
SettingsFile = Annotated[Path | None, _options_file(_OF_ANALYSES, '{"steps": 5000}')]
Runs = Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN [RUN ...]")]


def check_runs(runs: tuple[Path, ...]) -> None:
    """Raise ConfigError where no run is named."""
    if not runs:
        raise ConfigError("run: got no run, expected the folder of at least one.")


@dataclass(frozen=True)
class Execution:
    """Where many pieces of work run."""

    executor: Annotated[str, tyro.conf.arg(metavar="{local,slurm}")] = "local"
    """local: in processes on this machine; slurm: each piece of work is a Slurm job, see docs/slurm.md. The options
    below are those of the jobs."""

    partition: str | None = None
    """Partition of the jobs; None takes the cluster's default."""

    time: int = 1440
    """Minutes that a job may take; then it is queued again and goes on from its last checkpoint."""

    memory: float | None = None
    """Memory of a job in GB; None takes the cluster's default."""

    cpus_per_task: int = 1
    """CPU cores of a job."""

    gpus_per_task: int = 0
    """GPUs of a job."""

    def where(self, jobs: int, folder: Path) -> int | Slurm:
        """The number of processes, or what the jobs ask for.

        Args:
            jobs: of the command.
            folder: of the command's runs, which the nodes of the cluster share.

        Raises:
            ConfigError: a value is out of range, options contradict each other, or Slurm or submitit is missing.
        """
        check_choice("executor", self.executor, ("local", "slurm"))
        check_whole("jobs", jobs, 1)
        if self.executor == "local":
            defaults = Execution()
            for name in ("partition", "time", "memory", "cpus_per_task", "gpus_per_task"):
                if (came := getattr(self, name)) != getattr(defaults, name):
                    raise ConfigError(f"{name}: got {came!r} with --executor local, expected --executor slurm.")
            return jobs
        if jobs != 1:
            raise ConfigError(f"jobs: got {jobs} with --executor slurm, expected 1: Slurm schedules them.")
        from aru_lab.experiments.slurm import Slurm

        slurm = Slurm(folder / "slurm", self.partition, self.time, self.memory, self.cpus_per_task, self.gpus_per_task)
        slurm.check_installed()
        return slurm
