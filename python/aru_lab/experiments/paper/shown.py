"""What the figures of a reproduction are drawn from: its evidence, in the form that `plots.paper` takes."""

from __future__ import annotations

from aru_lab.experiments.paper.evidence import Evidence
from aru_lab.experiments.paper.protocol import SWEEPS
from aru_lab.networks.perturbations import PAPER_STEPS
from aru_lab.plots.paper.measured import Analysed, Measured
from aru_lab.runs.analyses import AnalysisFolder
from aru_lab.runs.folder import RunFolder

SKETCHED = ("step sweep", "contrast sweep")


def measured(evidence: Evidence) -> Measured:
    """The measurements of a reproduction; runs of one model in the order of their seeds."""
    runs: dict[str, list[Analysed]] = {}
    for (group, variant), folders in evidence.folders.items():
        for _, folder in sorted(folders.items()):
            task = RunFolder(folder).read_config()[0].task
            runs.setdefault(group, []).append(Analysed(AnalysisFolder(folder), variant, task))
    stimuli = {sweep: SWEEPS[sweep](PAPER_STEPS) for sweep in SKETCHED}
    return Measured(runs, evidence.scores, evidence.records, evidence.once, stimuli)
