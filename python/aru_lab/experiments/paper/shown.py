"""What the figures of a reproduction are drawn from: its evidence, in the form that `plots.paper` takes."""

from __future__ import annotations

from aru_lab.experiments.paper.evidence import Evidence
from aru_lab.experiments.paper.protocol import SWEEPS
from aru_lab.networks.perturbations import PAPER_STEPS
from aru_lab.plots.paper.measured import TASKS, Analysed, Measured
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
    # The groups have the names of the paper's tasks; a small scale stands in other tasks for them.
    others = {group: of[0].task for group, of in runs.items() if group in TASKS and of[0].task != group}
    return Measured(runs, evidence.scores, evidence.records, evidence.once, stimuli, TASKS | others)
