"""The commands `aru analyse` and `aru figure`. Nothing heavy is imported until one runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from aru_lab.analysis.settings import Settings
from aru_lab.cli.options import Quiet, Run, SettingsFile
from aru_lab.errors import Interrupted
from aru_lab.plots.paper import FIGURES


@dataclass(frozen=True)
class Analyse:
    """Analyse a trained run: its neurons, its controller and its dynamics. Files go to RUN/analysis."""

    run_folder: Run
    """The folder of the run."""

    settings: tyro.conf.OmitArgPrefixes[Settings]

    what: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[WHAT ...]")] = ()
    """responses, fractional, gain-scaling, controller, adaptation, stability, lyapunov, spectrum, gradients,
    heterogeneity, states, psychometric; none means all of these that the run permits. On request: trajectories,
    fixed-points. Finished parts are skipped."""

    checkpoint: Annotated[str, tyro.conf.arg(metavar="{best,last}")] = "best"
    """best: the epoch with the best validation accuracy; last: the latest checkpoint."""

    retrained: Path | None = None
    """Folder of a run that retrained n and s of this run on another task; used by heterogeneity."""

    again: bool = False
    """Compute finished parts again."""

    config: SettingsFile = None

    quiet: Quiet = False

    @classmethod
    def from_config(cls, path: Path) -> Analyse:
        """The command with the settings in a file."""
        from aru_lab.experiments.analyse import read_settings

        return cls(tyro.MISSING, read_settings(path), config=path)

    def run(self) -> None:
        """Analyse, and print a line for each part."""
        from aru_lab.experiments.analyse import analyse

        try:
            analyse(self.run_folder, self.what, self.settings, self.checkpoint, self.retrained, self.again)
        except KeyboardInterrupt:
            raise Interrupted("Stopped; finished parts are kept, and the same command computes the others.") from None


@dataclass(frozen=True)
class Figure:
    """Draw a figure of the paper from the files that `aru analyse` wrote."""

    number: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="{" + ",".join(FIGURES) + "}")]
    """The paper's number. 1: the activations γ; 2: robustness; 3: heterogeneity, gain scaling; 4: fractional order; 5:
    the controller, stability, spectra; 6: the Jacobian's norm; 9 to 11: fits of the order; 18: gradients. The others of
    the paper show several tasks or kinds of training: `aru reproduce paper`. states: h, n and s on one's own test
    sequences; psychometric: choices against the stimulus on trials that are drawn; trajectories: the population in
    principal components; fixed-points."""

    run_folders: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="[RUN ...]")] = ()
    """Folders of analysed runs of one task (psychometric: its options may differ; figure 2: after `aru robustness`);
    runs of one model are its seeds and are averaged. Figure 1 needs none."""

    output: Path = Path("figures")
    """Folder for figure-N.png and figure-N.pdf."""

    def run(self) -> None:
        """Draw, and say where."""
        from rich.console import Console

        from aru_lab.plots.paper.draw import draw
        from aru_lab.terminal import say

        console = Console()
        for path in draw(self.number, self.run_folders, self.output, lambda sentence: say(console, sentence)):
            say(console, path)
