"""`aru reproduce`: run or resume everything that a result of the paper needs, at one scale, and write its report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from aru_lab.arguments import check_choice, check_whole
from aru_lab.errors import LabError
from aru_lab.experiments import processes as pool
from aru_lab.experiments.figures import VERDICTS, reproduce_figures
from aru_lab.experiments.pictures import Picture
from aru_lab.experiments.robustness import mean_over, robustness
from aru_lab.experiments.scales import SCALES
from aru_lab.experiments.session import Session
from aru_lab.experiments.slurm import Slurm
from aru_lab.experiments.sweep import Finished
from aru_lab.experiments.tables import Report, Row, write_report
from aru_lab.experiments.transfer import ADAPTABLE, TransferResult, transfer_item
from aru_lab.networks.perturbations import Perturbation, describe
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.evaluation import task_of
from aru_lab.runs.scores import known_scores
from aru_lab.runs.sensitivity import axes_of, standard
from aru_lab.terminal import progress_console, say


def reproduce(
    result: str,
    scale: str,
    root: Path | None = None,
    output: Path | None = None,
    jobs: int | Slurm = 1,
    data_dir: Path | None = None,
    device: str = "auto",
    console: Console | None = None,
) -> tuple[Report | list[Picture], Path, list[LabError]]:
    """Run or resume all that a result of the paper needs, and write its table.

    Args:
        result: one of RESULTS, or "figures".
        scale: one of scales.SCALES.
        root: folder of the runs, which the results of a scale share; None takes runs/reproduce/SCALE.
        output: folder of tables and figures; None takes ROOT/results.
        jobs: processes, or what the jobs of a cluster ask for.
        data_dir: where the images are.
        device: torch device.
        console: where to print.

    Returns:
        The report (for "figures", its pictures), its Markdown file (the table as CSV lies beside it), and the
        errors: runs that fail are left out and named in the report.

    Raises:
        ConfigError: an unknown result or scale.
        LabError: no run can be made, or the work was stopped.
    """
    check_choice("result", result, (*RESULTS, "figures"))
    check_choice("scale", scale, tuple(SCALES))
    if not isinstance(jobs, Slurm):
        check_whole("jobs", jobs, 1)
    root = root or Path("runs") / "reproduce" / scale
    output = output or root / "results"
    own = {"data_dir": data_dir, "device": device}
    session = Session(jobs, console or progress_console(), SCALES[scale], root, output, own)
    if result == "figures":
        return *reproduce_figures(session, scale), [error for _, error in session.failures]
    report = RESULTS[result](session)
    description = f"Scale `{scale}`: {SCALES[scale].description} {report.description}".strip()
    remarks = (*report.remarks, *session.remarks, VERDICTS)
    report = dataclasses.replace(report, description=description, remarks=remarks)
    markdown, table = write_report(report, output / result, f"aru reproduce {result} --scale {scale}")
    say(console or Console(), f"Table: {markdown} and {table}")
    return report, markdown, [error for _, error in session.failures]


def _table1(session: Session) -> Report:
    """Test accuracy of all models, clean and under the three perturbations at their standard strength."""
    perturbations: dict[str, Perturbation | None] = {"clean": None, **standard(session.scale.strengths)}
    rows: list[Row] = []
    sizes = {}
    for task in session.scale.tasks:
        runs = session.networks(task, session.scale.models)
        items = [(run.folder, list(perturbations.values())) for run in runs]
        accuracy: dict[tuple[str, str], list[float]] = {}
        for k, of_run in session.map(_scores, items, f"testing on {task}"):
            for quantity, value in zip(perturbations, of_run, strict=True):
                accuracy.setdefault((runs[k].config.model, quantity), []).append(value)
        sizes |= _sizes(runs)
        for model in session.scale.models:
            for quantity in perturbations:
                rows.append(Row(task, model, quantity, tuple(accuracy.get((model, quantity), ()))))
    strengths = "; ".join(f"{name} {describe(p)}" for name, p in perturbations.items() if p is not None)
    return Report(
        title="Table 1: accuracy, clean and perturbed at test time",
        description=f"All test images; {strengths} (drives begin at T/4 and last T/2).",
        rows=rows,
        sizes=sizes,
        remarks=("The strengths of the drives are ours, those of the contrast the authors'.",),
    )


def _scores(item: tuple[Path, list[Perturbation | None]], report: pool.Report) -> list[float]:
    run, perturbations = item
    return [score.accuracy for score in known_scores(run, perturbations, report=report)]


def _fig2(session: Session) -> Report:
    """Sensitivity to amplitude and length of the step, deviation of the noise, amplitude and phase of the contrast."""
    task, strengths = session.scale.tasks[0], session.scale.strengths
    runs = session.networks(task, session.scale.models)
    folders = [run.folder for run in runs]
    measured, failures = robustness(folders, session.output / "fig2-points", strengths, session.jobs)
    session.failures += [(run.name, error) for run, error in failures.items()]
    rows = []
    for axis in axes_of(strengths, task_of(runs[0].config).n_steps):
        rows += [
            Row(task, model, axis.name, tuple(mean_over(measured, model, axis.name))) for model in session.scale.models
        ]
    n = measured[0]["n"]
    return Report(
        title="Sensitivity to the strength of a perturbation",
        description=f"Accuracy on {n:,} test images, averaged over the strengths of each sweep.",
        rows=rows,
        sizes=_sizes(runs),
        figures=(session.output / "fig2-points.png",),
        remarks=("Every point is in fig2-points.csv.",),
    )


def _transfer(session: Session) -> Report:
    """Images rotated by 45°; only n and s are trained again."""
    task = session.scale.tasks[0]
    runs = session.networks(task, ADAPTABLE)
    items = [(run.folder, session.scale.retraining) for run in runs]
    results: list[TransferResult] = [result for _, result in session.map(transfer_item, items, "retraining n and s")]
    rows = []
    for model in ADAPTABLE:
        of_model = [result for result in results if result.model == model]
        before, rotated, retrained = (
            tuple(getattr(result, name).accuracy for result in of_model) for name in ("before", "rotated", "retrained")
        )
        rows += [
            Row(task, model, "upright", before),
            Row(task, model, "rotated", rotated),
            Row(task, model, "rotated, n and s retrained", retrained),
        ]
    return Report(
        title="Transfer: rotated images, n and s trained again",
        description=(
            "Half of the test images, in fixed random order, is rotated by 45° and trained on (a tenth of it "
            "validates); all columns are measured on the other half."
        ),
        rows=rows,
        sizes=_sizes(runs),
        remarks=(
            "n and s are parameters of RNN+γ; the ARUN's controller makes them, so that all of it is trained "
            "again. Recurrent weights, input weights, biases and read-out stay.",
            "The paper's numbers, 94, 42 and 56%, are those of the heterogeneous RNN+γ.",
        ),
    )


def _transplant(session: Session) -> Report:
    """The controller learned with one seed, frozen in a network of another."""
    task, seeds = session.scale.tasks[0], session.scale.seeds
    runs = session.networks(task, ("arun",))
    by_seed = {run.config.seed: run for run in runs}
    donors = dict(zip(seeds, (*seeds[1:], seeds[0]), strict=True))

    def variant(run: Finished, name: str, donor: Path | None) -> TrainConfig:
        folder = session.root / task / f"arun-{name}-seed{run.config.seed}"
        return dataclasses.replace(run.config, controller_from=donor, freeze=("activation",), output=folder)

    guests = [
        variant(run, "transplant", by_seed[donors[seed]].folder)
        for seed, run in by_seed.items()
        if donors[seed] in by_seed
    ]
    controls = [variant(run, "untrained", None) for run in runs]
    trained = session.train([*guests, *controls], "training with a frozen controller")
    groups = {
        "own controller, trained": runs,
        "controller of another seed, frozen": [run for run in trained if run.config.controller_from is not None],
        "untrained controller, frozen": [run for run in trained if run.config.controller_from is None],
    }
    step = standard(session.scale.strengths)["step drive"]
    members = [(name, run) for name, group in groups.items() for run in group]
    scores = session.map(_scores, [(run.folder, [None, step]) for _, run in members], "testing")
    rows = []
    for column, quantity in enumerate(("clean", "step drive")):
        for name in groups:
            values = tuple(of_run[column] for k, of_run in scores if members[k][0] == name)
            rows.append(Row(task, "arun", f"{quantity}: {name}", values))
    return Report(
        title="Transplant: the controller of another seed",
        description=(
            "Networks of one seed each, trained around the controller of the next seed's network; clean and under "
            f"{describe(step)}."
        ),
        rows=rows,
        sizes=_sizes(runs),
        remarks=("The untrained frozen controller is our control, not the paper's.",),
    )


def _sizes(runs: Sequence[Finished]) -> dict[tuple[str, str], tuple[int, int]]:
    return {(run.config.task, run.config.model): (run.config.hidden_size, run.n_parameters) for run in runs}


RESULTS: dict[str, Callable[[Session], Report]] = {
    "table1": _table1,
    "fig2": _fig2,
    "transfer": _transfer,
    "transplant": _transplant,
}
