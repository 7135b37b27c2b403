"""The commands `aru analyse` and `aru figure`. Nothing heavy is imported until one runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from aru_lab.errors import Interrupted

FIGURES = ("1", "2", "3", "4", "5", "6", "appendix")
AMPLITUDES = (0.0, 0.5, 1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0)


@dataclass(frozen=True)
class Analyse:
    """Analyse a trained run: what its neurons, its controller and its dynamics do. Files go to RUN/analysis."""

    run_folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The folder of the run."""

    what: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="WHAT")] = ()
    """robustness, responses, fractional, gain-scaling, controller, stability, lyapunov, spectrum, gradients,
    heterogeneity; none means all that suit the network. Finished parts are skipped."""

    amplitudes: tuple[float, ...] = AMPLITUDES
    """Drives ξ, rising from 0: amplitudes of steps, standard deviations of noise, inputs of the controller."""

    repeats: int = 10
    """Repeats of every response, each with its own noise."""

    sequences: int = 100
    """Test examples that the networks read for gradients and heterogeneity."""

    steps: int = 1000
    """Steps that Lyapunov exponents are averaged over, after a fifth as many discarded."""

    exponents: int = 5
    """How many Lyapunov exponents, the largest."""

    grid: int = 20
    """Points of n and of s at which the Jacobian's norm is taken."""

    seed: int = 0
    """Seed of noise and initial conditions."""

    checkpoint: Annotated[str, tyro.conf.arg(metavar="{best,last}")] = "best"
    """best: the epoch with the best validation accuracy; last: the latest checkpoint."""

    retrained: Path | None = None
    """Folder of a run that retrained this one's n and s on another task, for the heterogeneity."""

    again: bool = False
    """Compute finished parts anew, too."""

    def run(self) -> None:
        """Analyse, and print a line for each part."""
        from aru_lab.analysis.analyse import analyse
        from aru_lab.analysis.runs import Settings

        settings = Settings(
            self.amplitudes, self.repeats, self.sequences, self.steps, self.exponents, self.grid, self.seed
        )
        try:
            analyse(self.run_folder, self.what, settings, self.checkpoint, self.retrained, self.again)
        except KeyboardInterrupt:
            raise Interrupted("Stopped; finished parts are kept, and the same command computes the others.") from None


@dataclass(frozen=True)
class Figure:
    """Draw a figure of the paper from the files that `aru analyse` wrote."""

    number: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="{" + ",".join(FIGURES) + "}")]
    """1: the activations γ; 2: robustness; 3: fractional order; 4: gain scaling; 5: the controller; 6: stability;
    appendix: gradients, spectra, heterogeneity."""

    run_folders: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN")] = ()
    """Folders of analysed runs; runs of one model on one task are seeds of it and are averaged. Figure 1 needs none."""

    output: Path = Path("figures")
    """Folder for figure-N.png and figure-N.pdf."""

    def run(self) -> None:
        """Draw, and say where."""
        from aru_lab.analysis.plots import draw

        for path in draw(self.number, self.run_folders, self.output):
            print(path)
