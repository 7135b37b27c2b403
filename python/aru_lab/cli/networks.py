"""The command `aru networks`: train the networks on which claims are judged, and keep them.

Whatever needs torch is imported by the command that runs, so that help and typing errors answer at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from aru_lab.cli.options import Execution, Quiet

SCALES = ("tiny", "small", "grid", "cifar", "long", "paper", "decision")


@dataclass(frozen=True)
class Networks:
    """Train the networks of the paper's claims, or of the project's own, and keep each as it is finished.

    Networks that are kept are not trained again; a stopped network resumes. Complete seeds come first.
    """

    scale: Annotated[str, tyro.conf.arg(metavar="{" + ",".join(SCALES) + "}")] = "small"
    """tiny: two minutes, a check that everything runs; small: psMNIST in 112 steps, H = 64, six models with ten seeds;
    grid: 85 initial n and s; cifar: both CIFAR-10 tasks, reduced; long: psMNIST in 784 steps, H = 64; paper: the size
    of the paper, for a GPU; decision: a decision of NeuroGym under Dale's law, three models with five seeds."""

    output: Path | None = None
    """Folder of what is kept: the weights (safetensors), configuration, log and test score of every network, in a
    folder for each set. None takes networks/SCALE."""

    runs: Path | None = None
    """Folder of the runs under way; None takes runs/networks/SCALE."""

    sets: tuple[str, ...] = ()
    """Train only these sets of the scale, such as psmnist; none takes all."""

    models: tuple[str, ...] = ()
    """Train only these models of the sets; none takes all."""

    seconds: float | None = None
    """Stop after so many seconds, at the end of an epoch; the same command goes on. None trains all."""

    data_dir: Path | None = None
    """Folder with the images' files; None takes $ARU_DATA_DIR, and without it they are downloaded."""

    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda, cuda:1, ..."""

    threads: int | None = None
    """CPU threads; None keeps torch's choice."""

    execution: tyro.conf.OmitArgPrefixes[Execution] = field(default_factory=Execution)

    quiet: Quiet = False

    def run(self) -> None:
        """Train, keep, and say what is finished."""
        jobs = self.execution.where(1, self.runs or Path("runs/networks") / self.scale)
        from rich.console import Console

        from aru_lab.experiments.networks import networks
        from aru_lab.experiments.slurm import Slurm
        from aru_lab.terminal import say

        output = self.output or Path("networks") / self.scale
        slurm = jobs if isinstance(jobs, Slurm) else None
        own = {"data_dir": self.data_dir, "device": self.device, "threads": self.threads}
        own = {name: value for name, value in own.items() if value is not None}
        if networks(
            self.scale, output, self.runs, self.seconds, self.sets, models=self.models or None, slurm=slurm, **own
        ):
            which = f" of the models {', '.join(self.models)}" if self.models else ""
            say(Console(), f"All networks of {self.scale}{which} are kept in {output}.")
