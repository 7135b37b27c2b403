"""`aru reproduce paper`: what the claims need, their verdicts, and the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from aru_lab.arguments import check_choice, check_whole
from aru_lab.errors import ConfigError, LabError
from aru_lab.experiments.paper import registry, report
from aru_lab.experiments.paper.evidence import GROUPS, Evidence
from aru_lab.experiments.paper.findings import Finding, judge
from aru_lab.experiments.paper.gather import Gathering
from aru_lab.experiments.paper.plans import PLANS
from aru_lab.experiments.paper.shown import measured
from aru_lab.experiments.pictures import draw_all
from aru_lab.experiments.slurm import Slurm
from aru_lab.experiments.tables import Row
from aru_lab.networks.names import MODELS
from aru_lab.terminal import progress_console, say

TABLE1 = ("psmnist", "scifar10", "scifar10-conv")  # the tasks of the paper's table 1


@dataclass(frozen=True)
class Reproduced:
    """What `reproduce_paper` has made: the findings, the files by name, and the errors of what was left out."""

    findings: list[Finding]
    files: dict[str, Path]
    failures: list[LabError]


def table1_of(evidence: Evidence) -> list[Row]:
    """The accuracies of the paper's table 1 that were measured."""
    columns = [(group, sweep) for group in TABLE1 for sweep in ("clean", "noisy drive")]
    return [
        Row(group, model, GROUPS[group] + (f", {sweep}" if sweep != "clean" else ""), accuracies)
        for model in MODELS
        for group, sweep in columns
        if (group, model, sweep) in evidence.scores
        and (accuracies := tuple(evidence.accuracy(group, model, sweep).values()))
    ]


def reproduce_paper(
    scale: str,
    claims: Sequence[str] = (),
    networks: Path | None = None,
    root: Path | None = None,
    output: Path | None = None,
    jobs: int | Slurm = 1,
    console: Console | None = None,
    **own: Any,
) -> Reproduced:
    """Do what the claims need, judge them, and write one table, one page, the figures and the first page.

    A stopped call goes on where it was.

    Args:
        scale: a key of plans.PLANS.
        claims: names such as C17; none takes all.
        networks: folder of kept networks, NETWORKS/SCALE/SET; nothing is trained then. None trains what is missing and
            keeps it in ROOT/kept.
        root: folder of all that is made; None takes runs/paper/SCALE.
        output: folder of the report; None takes ROOT/results.
        jobs: processes for tests and analyses; networks are trained one by one. A `Slurm` makes all of it jobs.
        console: where to print.
        own: fields of the configurations that do not define the experiment, such as data_dir and device.

    Raises:
        ConfigError: an unknown scale or claim, or no folder of networks.
        LabError: a file can't be read or written, or the work was stopped.
    """
    check_choice("scale", scale, tuple(PLANS))
    if not isinstance(jobs, Slurm):
        check_whole("jobs", jobs, 1)
    chosen = registry.chosen(claims)
    if networks is not None and not networks.is_dir():
        raise ConfigError(f"networks: got {networks}, expected a folder of kept networks, as `aru networks` makes it.")
    root = root or Path("runs") / "paper" / scale
    output = output or root / "results"
    own = {name: value for name, value in own.items() if value is not None}
    results, console = console or Console(), console or progress_console()
    gathering = Gathering(jobs, console, scale, root, networks or root / "kept", networks is None, own)
    evidence = gathering.gather(chosen)
    findings = judge(chosen, evidence)
    pictures = draw_all(gathering, measured(evidence), output / report.FIGURES)
    if claims:  # what these claims do not need was not measured
        pictures = [picture for picture in pictures if picture.file is not None]
    command = " ".join(["aru reproduce paper --scale", scale, *(["--claims", *claims] if claims else [])])
    remarks = gathering.remarks
    made = report.Reproduction(
        scale, PLANS[scale].description, findings, pictures, remarks, command, table1_of(evidence)
    )
    files = report.write(made, output)
    say(results, f"{report.counted(made)} Table: {files['paper.md']}, page: {files['paper.html']}")
    return Reproduced(findings, files, [error for _, error in gathering.failures])
