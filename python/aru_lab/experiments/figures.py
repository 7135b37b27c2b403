"""`aru reproduce figures`: train or resume, analyse, draw, and write one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import torch
from rich.console import Console

from aru_lab.analysis.checks import AnalysisError
from aru_lab.analysis.settings import Settings
from aru_lab.errors import Interrupted
from aru_lab.experiments.analyse import analyse
from aru_lab.experiments.pages import figures_of, page
from aru_lab.experiments.pictures import Picture, draw_all
from aru_lab.experiments.processes import Report as Progress
from aru_lab.experiments.processes import threads_each
from aru_lab.experiments.robustness import robustness
from aru_lab.experiments.session import Session
from aru_lab.experiments.sweep import Finished
from aru_lab.experiments.tables import as_markdown, made_by
from aru_lab.experiments.transfer import ADAPTABLE, TransferResult, transfer_item
from aru_lab.plots.style import NAMES
from aru_lab.runs.folder import write_result
from aru_lab.terminal import say

NOT_ANALYSED = ("lstm", "gru")
VERDICTS = "The verdicts on the paper's claims are those of `aru reproduce paper`."


def reproduce_figures(session: Session, scale: str) -> tuple[list[Picture], Path]:
    """Train or resume the runs of the figures, analyse them, draw, and write figures.html and .md.

    Args:
        session: the scale, folders and processes.
        scale: name of its scale.

    Returns:
        The pictures and the Markdown file; figures.html, with every picture inside, lies beside it.

    Raises:
        LabError: no run can be made, or the work was stopped; a run that fails is left out and named in the report.
    """
    task, output = session.scale.tasks[0], session.output
    runs = session.networks(task, session.scale.models)
    folders = [run.folder for run in runs]
    _, unmeasured = robustness(folders, output / "fig2-points", session.scale.strengths, session.jobs)
    session.failures += [(run.name, error) for run, error in unmeasured.items()]
    items = [(run.folder, session.scale.retraining) for run in runs if run.config.model in ADAPTABLE]
    results: list[TransferResult] = [result for _, result in session.map(transfer_item, items, "retraining n and s")]
    retrained = {result.run: result.run / "transfer" for result in results}
    share = threads_each(session.jobs)
    analysed = [
        (run.folder, (), session.scale.analysis, "best", retrained.get(run.folder), share)
        for run in runs
        if run.config.model not in NOT_ANALYSED
    ]
    outcomes = session.map(analyse_item, analysed, "analysing")
    remarks = [remark for _, remark in outcomes if remark] + session.remarks
    # A run that failed in anything would keep the others out of the figures.
    complete = {analysed[k][0] for k, _ in outcomes} | {run.folder for run in runs if run.config.model in NOT_ANALYSED}
    shown = [run.folder for run in runs if run.folder in complete - unmeasured.keys()]
    pictures = draw_all(session, shown, output)
    content = _html(pictures, runs, scale, session.scale.description, remarks)
    write_result(content, output / "figures.html")
    markdown = output / "figures.md"
    write_result(_markdown(pictures, scale, session.scale.description, remarks), markdown)
    say(session.console, f"Report: {output / 'figures.html'}")
    return pictures, markdown


def analyse_item(item: tuple[Path, tuple[str, ...], Settings, str, Path | None, int | None], report: Progress) -> str:
    """Call `analyse` for one (run, parts, settings, checkpoint, retrained run, threads), an item of `run_jobs`.

    Returns:
        What was not possible, or an empty string.
    """
    run, parts, settings, checkpoint, retrained, threads = item
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        quiet = Console(quiet=True)
        analyse(run, parts, settings, checkpoint, retrained=retrained, console=quiet, report=report)
    except AnalysisError as error:
        return str(error)
    except KeyboardInterrupt:
        raise Interrupted("Stopped; finished analyses are kept.") from None
    return ""


def _html(
    pictures: Sequence[Picture], runs: Sequence[Finished], scale: str, description: str, remarks: Sequence[str]
) -> str:
    parts = [
        "<h1>The paper's figures, repeated</h1>",
        f"<p>Scale <code>{escape(scale)}</code>: {escape(description)}</p>",
        "<p>Geadah, Horoi, Kerg, Wolf, Lajoie, PLOS Computational Biology 2024. The verdicts on its claims are those "
        "of <code>aru reproduce paper</code>.</p>",
        *figures_of(pictures),
        "<h2>Networks</h2><table><tr><th>network</th><th>H</th><th>parameters</th><th>test accuracy (%)</th></tr>",
    ]
    for model in dict.fromkeys(run.config.model for run in runs):
        of_model = [run for run in runs if run.config.model == model]
        accuracy = ", ".join(f"{100 * run.clean.accuracy:.1f}" for run in of_model)
        size, count = of_model[0].config.hidden_size, of_model[0].n_parameters
        parts.append(f"<tr><td>{escape(NAMES[model])}</td><td>{size}</td><td>{count:,}</td><td>{accuracy}</td></tr>")
    parts.append("</table>")
    return page(f"The paper's figures, scale {scale}", parts, remarks, _command(scale))


def _markdown(pictures: Sequence[Picture], scale: str, description: str, remarks: Sequence[str]) -> str:
    lines = ["# The paper's figures, repeated", "", f"Scale `{scale}`: {description} {VERDICTS}", ""]
    for picture in pictures:
        shown = f"Not drawn: {as_markdown(picture.reason)}"
        if picture.file is not None:
            shown = f"![{picture.heading}]({picture.file.name})\n\n{picture.caption}"
        lines += [f"## {picture.heading}", "", shown, ""]
    return "\n".join([*lines, *(f"* {as_markdown(remark)}" for remark in remarks), "", made_by(_command(scale)), ""])


def _command(scale: str) -> str:
    return f"aru reproduce figures --scale {scale}"
