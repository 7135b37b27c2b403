"""The figures of a report: drawn from analysed runs, with titles and captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aru_lab.errors import LabError
from aru_lab.experiments.processes import Report
from aru_lab.experiments.session import Jobs
from aru_lab.plots.paper import OF_THE_PAPER
from aru_lab.plots.paper.draw import draw
from aru_lab.runs.analyses import AnalysisFolder

TITLES = {
    "1": "The activations γ",
    "2": "Robustness to perturbations that were not trained on",
    "3": "Fractional order of the responses",
    "4": "Gain scaling",
    "5": "The controller",
    "6": "Stability",
    "appendix": "Gradients, eigenspectra, heterogeneity",
}
CAPTIONS = {
    "1": "γ(x; n, s) against the input current, (a) for several gains n and (b) for several saturations s.",
    "2": "Stimulus (solid: highest strength, dashed: middle, dotted: lowest), test accuracy and loss against (a) "
    "amplitude and (b) length of a step drive, (c) deviation of a noisy drive, (d) amplitude and (e) phase of a "
    "variable contrast. Means over the seeds, bars of one standard deviation.",
    "3": "(a) Mean response of isolated neurons to steps of amplitude ξ; (b) orders α of all neurons at the largest "
    "amplitude, triangles: of the mean response; mean response at this amplitude of neurons with α > 0 and of the "
    "others, (c) in the network and (d) isolated; (e) order of the mean response against the amplitude; (f) squared "
    "error against the order.",
    "4": "(a) Gain n and (b) saturation s after settling against the deviation σ of the noise, with fits (first seed "
    "filled, others hollow; upward triangles and solid fits rise, downward triangles and dashed fits fall); (c, d) "
    "their course in the first seed, the driven steps shaded, the averaged ones marked.",
    "5": "(a) State of the controller on its principal components and (b) n and s, from onset (triangle) to where it "
    "settles (filled square) or to the mean of its orbit (hollow square), under constant input; (c, d) n and s against "
    "the input, bars: range of the orbit.",
    "6": "(a) Mean norm of the Jacobian over n and s; (b) n and s under steps with the boundary and the path of "
    "Proposition 1; (c) largest Lyapunov exponent against the amplitude of the step and (d) against the time from its "
    "onset.",
    "appendix": "(a) Norm of the gradient for W_hh from position t on and (b) of the term at t; then, a panel a model, "
    "eigenvalues of W_hh before (dots) and after training (rings); last, n and s over neurons.",
}
# The part that a figure reads of every run; runs without it are left out.
READS = {"3": "fractional", "4": "gain-scaling", "5": "controller", "6": "lyapunov", "appendix": "gradients"}


@dataclass(frozen=True)
class Picture:
    """A figure of a report: its number, and its file or the reason why it is missing."""

    number: str
    file: Path | None
    reason: str = ""

    @property
    def heading(self) -> str:
        """Its name and title."""
        name = "Appendix" if self.number == "appendix" else f"Figure {self.number}"
        return f"{name}. {TITLES[self.number]}"

    @property
    def caption(self) -> str:
        """What it shows."""
        return CAPTIONS[self.number]


def draw_all(jobs: Jobs, folders: Sequence[Path], output: Path) -> list[Picture]:
    """Draw every figure of the runs into a folder; one that can't be drawn has no file.

    Args:
        jobs: the processes.
        folders: analysed runs.
        output: where the pictures go.
    """
    items = [(Path(f"figure-{number}"), number, list(folders), output) for number in OF_THE_PAPER]
    drawn = {OF_THE_PAPER[k]: picture for k, picture in jobs.map(draw_item, items, "drawing", here=True)}
    failures = {name.removeprefix("figure-"): error for name, error in jobs.failures}
    return [drawn.get(number) or Picture(number, None, str(failures.get(number, ""))) for number in OF_THE_PAPER]


def draw_item(item: tuple[Path, str, list[Path], Path], report: Report) -> Picture:
    """The picture of one (name, figure, folders, output), as `processes.run_jobs` calls it."""
    _, number, folders, output = item
    part = READS.get(number)
    try:
        file, _ = draw(number, [run for run in folders if part is None or AnalysisFolder(run).holds(part)], output)
    except LabError as error:
        return Picture(number, None, str(error))
    return Picture(number, file)
