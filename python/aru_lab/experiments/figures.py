"""`aru reproduce figures`: train or resume, analyse, draw, test the paper's claims, and write one HTML report."""

from __future__ import annotations

import base64
import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import torch
from rich.console import Console

from aru_lab.analysis.checks import AnalysisError
from aru_lab.analysis.settings import Settings
from aru_lab.errors import Interrupted, LabError
from aru_lab.experiments.analyse import analyse
from aru_lab.experiments.claims import Finding, findings
from aru_lab.experiments.processes import Report as Progress
from aru_lab.experiments.processes import run_jobs
from aru_lab.experiments.robustness import robustness
from aru_lab.experiments.session import Session
from aru_lab.experiments.sweep import Finished
from aru_lab.experiments.tables import as_markdown, made_by, markdown_table, write_csv
from aru_lab.experiments.transfer import ADAPTABLE, TransferResult, transfer_item
from aru_lab.experiments.verdicts import FAILS, HOLDS, TEST_RULE, UNDECIDED, UNTESTED
from aru_lab.plots.paper import FIGURES
from aru_lab.plots.paper.draw import draw
from aru_lab.plots.style import NAMES
from aru_lab.runs.folder import write_result
from aru_lab.terminal import say

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
    "2": "Test accuracy against (a) amplitude and (b) length of a step drive, (c) deviation of a noisy drive, (d) "
    "amplitude and (e) phase of a variable contrast. Means over the seeds, bands of one standard deviation.",
    "3": "(a) Mean response of isolated neurons to steps of amplitude ξ; (b) orders α of all neurons at the largest "
    "amplitude, dashed that of the mean response; (c) order of the mean response against the amplitude; (d) squared "
    "error against the order.",
    "4": "(a) Gain n and (b) saturation s at steady state against the deviation σ of the noise, with fits (first seed "
    "black, others grey); (c, d) their course, the driven steps shaded, the averaged ones marked.",
    "5": "(a) State of the controller on its principal components and (b) n and s, from onset (triangle) to steady "
    "state (square), under constant input; (c, d) n and s against the input.",
    "6": "(a) Mean norm of the Jacobian over n and s; (b) n and s under steps with the boundary and the path of "
    "Proposition 1; (c) largest Lyapunov exponent against a constant drive.",
    "appendix": "(a) Norm of the gradient for W_hh from position t on and (b) of the term at t; (c, d) eigenvalues of "
    "W_hh before and after training; (e, f) n and s over neurons.",
}

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #111; }
img { display: block; width: 100%; max-width: 44rem; margin: 1rem auto; background: #fff; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; }
th, td { text-align: left; vertical-align: top; padding: 0.35rem 0.6rem; border-bottom: 1px solid #ccc; }
td.verdict { white-space: nowrap; font-weight: 600; }
.holds { color: #0072B2; } .fails { color: #D55E00; } .untested { color: #666; }
figcaption, .small { font-size: 0.9rem; color: #333; }
"""
NOT_ANALYSED = ("lstm", "gru")
_CLASS = {HOLDS: "holds", FAILS: "fails", UNDECIDED: "untested", UNTESTED: "untested"}


@dataclass(frozen=True)
class Section:
    """One figure of the report: its number, the picture or the reason why it is missing, and its findings."""

    number: str
    picture: Path | None
    findings: list[Finding]
    reason: str = ""


def reproduce_figures(session: Session, scale: str) -> tuple[list[Section], Path]:
    """Train or resume the runs of the figures, analyse them, draw, and write figures.html, .md and .csv.

    Args:
        session: the scale, folders and processes.
        scale: name of its scale.

    Returns:
        The sections and the Markdown file; figures.html, with every picture inside, lies beside it.

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
    share = max(1, (os.cpu_count() or 1) // session.jobs) if session.jobs > 1 else None
    analysed = [
        (run.folder, session.scale.analysis, retrained.get(run.folder), share)
        for run in runs
        if run.config.model not in NOT_ANALYSED
    ]
    outcomes = session.map(analyse_item, analysed, "analysing")
    remarks = [remark for _, remark in outcomes if remark] + session.remarks
    # A run that failed in anything would keep the others out of the figures.
    complete = {analysed[k][0] for k, _ in outcomes} | {run.folder for run in runs if run.config.model in NOT_ANALYSED}
    shown = [run for run in runs if run.folder in complete - unmeasured.keys()]
    folders = [run.folder for run in shown]
    by_model: dict[str, list[Path]] = {}
    for run in shown:
        by_model.setdefault(run.config.model, []).append(run.folder)
    figures = [(number, folders, by_model, output, session.scale.conclusive) for number in FIGURES]
    sections = run_jobs(draw_item, figures, session.jobs, "drawing")
    for k, section in enumerate(sections):
        if isinstance(section, LabError):
            session.failures.append((f"figure {FIGURES[k]}", section))
            sections[k] = Section(FIGURES[k], None, [], str(section))
    page = output / "figures.html"
    write_result(_html(sections, runs, scale, session.scale.description, remarks), page)
    rows = [
        {
            "figure": section.number,
            "claim": finding.claim,
            "number": finding.number,
            "test": finding.test,
            "p": "" if finding.p is None else f"{finding.p:.3g}",
            "verdict": finding.verdict,
        }
        for section in sections
        for finding in section.findings
    ]
    write_csv(rows, output / "figures.csv")
    markdown = output / "figures.md"
    write_result(_markdown(rows, scale, session.scale.description, remarks), markdown)
    say(session.console, f"Report: {page}")
    return sections, markdown


def analyse_item(item: tuple[Path, Settings, Path | None, int | None], report: Progress) -> str:
    """Call `analyse` for one (run, settings, retrained run, threads), an item of `processes.run_jobs`.

    Returns:
        What was not possible, or an empty string.
    """
    run, settings, retrained, threads = item
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        analyse(run, (), settings, retrained=retrained, console=Console(quiet=True), report=report)
    except AnalysisError as error:
        return str(error)
    except KeyboardInterrupt:
        raise Interrupted("Stopped; finished analyses are kept.") from None
    return ""


def draw_item(item: tuple[str, list[Path], dict[str, list[Path]], Path, bool], report: Progress) -> Section:
    """The section of one (figure, folders, folders by model, output, conclusive), as `processes.run_jobs` calls it."""
    number, folders, by_model, output, conclusive = item
    found = findings(number, by_model)
    if not conclusive:
        found = [finding if finding.exact else dataclasses.replace(finding, verdict=UNTESTED) for finding in found]
    try:
        picture, _ = draw(number, folders, output)
    except LabError as error:
        return Section(number, None, found, str(error))
    return Section(number, picture, found)


def _html(
    sections: Sequence[Section], runs: Sequence[Finished], scale: str, description: str, remarks: Sequence[str]
) -> str:
    counts = {
        verdict: sum(finding.verdict == verdict for section in sections for finding in section.findings)
        for verdict in _CLASS
    }
    parts = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>The paper's figures, scale {escape(scale)}</title><style>{_STYLE}</style></head><body>",
        "<h1>The paper's figures, repeated</h1>",
        f"<p>Scale <code>{escape(scale)}</code>: {escape(description)}</p>",
        "<p>Geadah, Horoi, Kerg, Wolf, Lajoie, PLOS Computational Biology 2024. Of its claims, as far as the figures "
        "show them: " + "; ".join(f"<b>{counts[verdict]}</b> {verdict}" for verdict in _CLASS) + ".</p>",
        f'<p class="small">{escape(TEST_RULE)}</p>',
    ]
    for section in sections:
        name = "Appendix" if section.number == "appendix" else f"Figure {section.number}"
        parts.append(f'<h2 id="figure-{section.number}">{name}. {escape(TITLES[section.number])}</h2>')
        if section.picture is None:
            parts.append(f"<p>Not drawn: {escape(section.reason)}</p>")
        else:
            content = base64.b64encode(section.picture.read_bytes()).decode()
            parts.append(
                f'<figure><img alt="{escape(CAPTIONS[section.number])}" src="data:image/png;base64,{content}">'
                f"<figcaption>{escape(CAPTIONS[section.number])}</figcaption></figure>"
            )
        parts.append("<table><tr><th>the paper's claim</th><th>here</th><th>test</th><th>p</th><th>verdict</th></tr>")
        for finding in section.findings:
            cells = (finding.claim, finding.number, finding.test or "-", _p(finding.p))
            parts.append(
                "<tr>"
                + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
                + f'<td class="verdict {_CLASS[finding.verdict]}">{finding.verdict}</td></tr>'
            )
        parts.append("</table>")
    parts.append(
        "<h2>Networks</h2><table><tr><th>network</th><th>H</th><th>parameters</th><th>test accuracy (%)</th></tr>"
    )
    for model in dict.fromkeys(run.config.model for run in runs):
        of_model = [run for run in runs if run.config.model == model]
        accuracy = ", ".join(f"{100 * run.clean.accuracy:.1f}" for run in of_model)
        size, count = of_model[0].config.hidden_size, of_model[0].n_parameters
        parts.append(f"<tr><td>{escape(NAMES[model])}</td><td>{size}</td><td>{count:,}</td><td>{accuracy}</td></tr>")
    parts.append("</table>")
    if remarks:
        parts.append(f"<h2>Remarks</h2><ul>{''.join(f'<li>{escape(remark)}</li>' for remark in remarks)}</ul>")
    parts.append(f'<p class="small">{escape(made_by(_command(scale)))}</p></body></html>\n')
    return "\n".join(parts)


def _markdown(rows: Sequence[dict[str, str]], scale: str, description: str, remarks: Sequence[str]) -> str:
    cells = [(row["figure"], row["claim"], row["number"], row["p"] or "-", f"**{row['verdict']}**") for row in rows]
    lines = ["# The paper's figures, repeated", "", f"Scale `{scale}`: {description}", ""]
    lines += ["The pictures are in figures.html.", ""]
    lines += markdown_table(("figure", "the paper", "here", "p", "verdict"), cells)
    lines += ["", TEST_RULE, "", *(f"* {as_markdown(remark)}" for remark in remarks), "", made_by(_command(scale)), ""]
    return "\n".join(lines)


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}" if value >= 1e-4 else f"{value:.0e}"


def _command(scale: str) -> str:
    return f"aru reproduce figures --scale {scale}"
