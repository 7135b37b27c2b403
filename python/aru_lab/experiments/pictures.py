"""The figures of a report: drawn from analysed runs or from a reproduction, with titles and captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aru_lab.errors import LabError
from aru_lab.experiments.processes import Report
from aru_lab.experiments.session import Jobs
from aru_lab.plots.paper import OF_THE_PAPER, WITHOUT_RUNS
from aru_lab.plots.paper.draw import draw, draw_measured
from aru_lab.plots.paper.measured import Measured

TITLES = {
    "1": "The activations γ",
    "2": "Robustness to perturbations that were not trained on",
    "3": "Diversity of the neurons and gain scaling",
    "4": "Adaptation and the fractional order of the responses",
    "5": "The controller and stability",
    "6": "Stability and accuracy over (n, s)",
    "9": "Fits of the order of n and s",
    "10": "Fits of the order: psMNIST, first network",
    "11": "Fits of the order: psMNIST, second network",
    "12": "Fits of the order: sCIFAR10 with the convolutional encoder",
    "13": "Contrast: amplitude and phase, psMNIST",
    "14": "Step drive: amplitude and length, psMNIST",
    "15": "Contrast: amplitude and phase, sCIFAR10",
    "16": "Step drive: amplitude and length, sCIFAR10",
    "17": "The controller of another seed",
    "18": "Gradients and the length of the sequence",
}
_OVER_SEEDS = "Means over the seeds, bars of one standard deviation."
_OF_FITS = (
    "Isolated neurons under steps of amplitude ξ (colour). (a) Mean response; (b) error of the mean response, filtered "
    "to the order α, against α, dots at the minima; (c) filtered mean response over the step; (d) error of each neuron "
    "at the largest ξ, dots at the minima; (e) their orders; (f) order of the mean response against ξ."
)
_OF_GRIDS = "Mean over the seeds, on a subset of the test examples. (a) Cross-entropy and (b) accuracy; dark is worse."
CAPTIONS = {
    "1": "(a) γ(x; n, s) against the input current for several gains n and for several saturations s. The other panels "
    "of the paper's figure are schematic.",
    "2": "(a) Stimuli (solid: strongest, dashed: middle, dotted: weakest): step drive above, factor of the inputs "
    f"below. (b, c) Test accuracy against their strength; 0 is the clean score. {_OVER_SEEDS} Drives are not defined "
    "for LSTM and GRU.",
    "3": "(a) n and s of the neurons of one heterogeneous RNN+γ, above after training from one start, below after "
    "retraining n and s on images rotated by 45°; a line for each neuron. (b) Change of the ARUN's mean n and s from "
    "low noise, against the deviation of the noise, all seeds: filled triangles rise, hollow ones fall; dashed: fits "
    "of the claimed form.",
    "4": "(a) Mean n and s of one ARUN that reads test images while a step of amplitude ξ drives it (grey). (b) In the "
    "network and (c) isolated: density of the neurons' order α, line: order of the mean response; below it the mean "
    "response of neurons with α > 0 and of those with α ≤ 0, at the same ξ. (d) Order of the mean response of isolated "
    "neurons against ξ.",
    "5": "(a) State of one ARUN's controller on its principal components under constant input, from the onset "
    "(triangle) to the last state (filled square) or to the mean of an orbit (hollow). (b) Its mean n and s under "
    "steps, with the boundaries of Proposition 1 that lie within the axes and the path that keeps the distance from "
    "them. (c) Largest Lyapunov exponent against the time from the onset, bars: deviation over ten starts, and (d) "
    "against the amplitude; means over the seeds, bars of one standard deviation. (e) Eigenvalues of W_hh before "
    "training (dots: fresh Henaff matrices) and after (rings).",
    "6": "Random networks: (A) mean norm of the Jacobian and (B) largest Lyapunov exponent over n and s. Homogeneous "
    "RNN+γ: (C) test accuracy from each start with n and s frozen, the best one framed; (D) n and s over the epochs "
    "where they are trained, the ends coloured by test accuracy.",
    "9": f"Panels a to f: n, panels g to l: s, which change by far less than ξ: errors hardly depend on α. {_OF_FITS}",
    **dict.fromkeys(("10", "11", "12"), _OF_FITS),
    **dict.fromkeys(("13", "14", "15", "16"), _OF_GRIDS),
    "17": "Test accuracy of ARUNs trained as a whole, of those trained around the frozen controller of another seed, "
    "and with exchanged controllers without training. Dots: seeds.",
    "18": "Norm of the gradient for W_hh after training, (a) accumulated over the last T - p steps and (b) of each "
    "step's term. Geometric means over the seeds, bars of one deviation of the logarithm.",
}


@dataclass(frozen=True)
class Picture:
    """A figure of a report: its number, and its file or the reason why it is missing."""

    number: str
    file: Path | None
    reason: str = ""

    @property
    def heading(self) -> str:
        """Its name and title."""
        return f"Figure {self.number}. {TITLES[self.number]}"

    @property
    def caption(self) -> str:
        """What it shows."""
        return CAPTIONS[self.number]


def draw_all(jobs: Jobs, source: Sequence[Path] | Measured, output: Path) -> list[Picture]:
    """Draw every figure into a folder; one that can't be drawn has no file.

    Args:
        jobs: the processes.
        source: folders of analysed runs of one task, or what a reproduction has measured.
        output: where the pictures go.
    """
    of_runs = not isinstance(source, Measured)
    numbers = [number for number in OF_THE_PAPER if not (of_runs and number in WITHOUT_RUNS)]
    items = [(Path(f"figure-{number}"), number, source, output) for number in numbers]
    drawn = {numbers[k]: picture for k, picture in jobs.map(draw_item, items, "drawing", here=True)}
    failures = {name.removeprefix("figure-"): error for name, error in jobs.failures}
    return [drawn.get(number) or Picture(number, None, str(failures.get(number, ""))) for number in numbers]


def draw_item(item: tuple[Path, str, Sequence[Path] | Measured, Path], report: Report) -> Picture:
    """The picture of one (name, figure, source, output), as `processes.run_jobs` calls it."""
    _, number, source, output = item
    try:
        if isinstance(source, Measured):
            file, _ = draw_measured(number, source, output)
        else:
            file, _ = draw(number, source, output)
    except LabError as error:
        return Picture(number, None, str(error))
    return Picture(number, file)
