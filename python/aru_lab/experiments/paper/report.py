"""The report of a reproduction: one table (CSV and Markdown), one page (HTML with its pictures), and a first page.

paper.csv    a line for every test of every claim
paper.md     a row for every claim, then the figures
paper.html   the same in one file, with all tests
figures      the pictures, figure-N.png and figure-N.pdf
README.md    what holds, what does not, what is open, in three minutes
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from aru_lab.errors import number_of
from aru_lab.experiments.pages import figures_of, page
from aru_lab.experiments.paper.findings import Finding, seeds_needed
from aru_lab.experiments.paper.registry import TOPICS, topic_of
from aru_lab.experiments.paper.rules import FAILS, HOLDS, PAPER_SIZE, UNDECIDED, UNTESTED, VERDICTS, Outcome
from aru_lab.experiments.pictures import Picture
from aru_lab.experiments.tables import Row, as_markdown, made_by, markdown_table, write_csv
from aru_lab.plots.style import NAMES
from aru_lab.runs.folder import write_result

TITLE = "The paper's claims, tested again"
PAPER = "Geadah, Horoi, Kerg, Wolf, Lajoie, bioRxiv 2022.04.29.489963 v3"
FIGURES = "figures"  # the folder of the pictures
MAIN_FIGURES = ("2", "4", "5")  # the pictures of the first page
HEADINGS = ("claim", "where", "the paper", "measured", "test", "N", "mean [95%]", "d_z", "p", "p (Holm)", "verdict")
MEANINGS = {
    HOLDS: "What holds",
    FAILS: "What does not hold",
    UNDECIDED: "What is undecided",
    PAPER_SIZE: "What needs the paper's size",
    UNTESTED: "What was not tested",
}
MODELS_IN_SHORT = (
    "Each neuron has the activation γ(x; n, s) with a gain n and a saturation s. An *ARUN* is a recurrent network in "
    "which a small controller, itself a recurrent network and shared by all neurons, sets n and s of every neuron at "
    "every step from the neuron's input current. In *RNN+γ*, n and s are learned constants: one pair for all neurons "
    "(homogeneous) or a pair for each (heterogeneous). *RNN+ReLU*, LSTM and GRU are the baselines. All have equally "
    "many parameters."
)
KEY = (
    "The seed is the unit of every test. PT: paired t-test over seeds, one-sided as claimed; EQ(m): equivalence within "
    "±m percent points; OM(k): at least k orders of magnitude; SH(q): share above q; CO: rank correlation over a grid; "
    "FIT: R² at least 0.9, an exponent other than 0, and a better AICc than a line and the other form, in 80% of the "
    "seeds; EX: in all cases, or in 80% of the seeds; WT: two-sample t-test. A claim with several tests holds if all "
    "hold. Of these the row shows the one that decides. Accuracies are fractions: 0.01 is one percent point. The mean "
    "is that of the claimed difference; d_z is mean/deviation. Holm's correction is over the table. A claim is "
    "undecided where N seeds show neither that it holds nor that it does not."
)
HALVES = "Two sets of seeds"
ABOUT_HALVES = (
    "The same tests, separately for the first and the last half of the seeds, which share no network. Verdicts are "
    "those of the claims; mean and interval belong to the test that decides the claim over all seeds."
)
_CLASS = {HOLDS: "holds", FAILS: "fails"}


@dataclass(frozen=True)
class Reproduction:
    """What a report says: the scale and its description, findings, pictures, remarks, the command, rows of table 1."""

    scale: str
    description: str
    findings: Sequence[Finding]
    pictures: Sequence[Picture]
    remarks: Sequence[str]
    command: str
    table1: Sequence[Row] = ()


def write(report: Reproduction, folder: Path) -> dict[str, Path]:
    """Write all files of the report into a folder; their paths by name."""
    paths = {name: folder / name for name in ("paper.csv", "paper.md", "paper.html", "README.md")}
    write_csv([line for finding in report.findings for line in lines(finding)], paths["paper.csv"])
    write_result(as_table(report), paths["paper.md"])
    write_result(as_page(report), paths["paper.html"])
    write_result(as_first_page(report, _further(folder)), paths["README.md"])
    return paths


def _further(folder: Path) -> dict[str, str]:
    """The titles of the other Markdown pages in a folder, and of those one folder below that are its first pages."""
    own = {folder / name for name in ("paper.md", "README.md")}
    found = {}
    for path in sorted({*folder.glob("*.md"), *folder.glob("*/README.md")} - own):
        first = path.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
        found[path.relative_to(folder).as_posix()] = first.lstrip("# ") or path.name
    return found


def lines(finding: Finding) -> list[dict[str, object]]:
    """The lines of the CSV: one for each test, one where there is none."""
    claim = finding.claim
    of_claim = {"claim": claim.name, "where": claim.where, "says": claim.says, "quantity": claim.quantity}
    of_claim |= {"rule": claim.rule, "scale": claim.scale, "verdict": finding.verdict, "remark": finding.remark}
    first, last = [half.verdict for half in finding.halves] or ["", ""]
    of_claim |= {"first_half": first, "last_half": last}
    of_claim |= {"p": _exact(finding.p), "p_holm": _exact(finding.p_holm), "needed": seeds_needed(finding.needed)}
    tests = [
        {
            "test": outcome.name,
            "test_rule": outcome.rule,
            "test_verdict": outcome.verdict,
            "n": outcome.n,
            "mean": _exact(outcome.mean),
            "low": _exact(outcome.low),
            "high": _exact(outcome.high),
            "d_z": _exact(outcome.d_z),
            "test_p": _exact(outcome.p),
            "test_needed": seeds_needed(outcome.needed),
            "note": outcome.note,
        }
        for outcome in finding.outcomes
    ]
    return [of_claim | test for test in tests or [{}]]


def as_table(report: Reproduction) -> str:
    """The Markdown table of all claims."""
    text = [f"# {TITLE}", "", f"{PAPER}. Scale `{report.scale}`: {report.description}", "", counted(report), ""]
    text += markdown_table(HEADINGS, [map(as_markdown, _cells(finding)) for finding in report.findings])
    text += [
        "",
        KEY,
        "",
        *table1(report),
        *_halves(report),
        *(f"* {as_markdown(remark)}" for remark in report.remarks),
        "",
        *_shown("Figures", [picture for picture in report.pictures if picture.file is not None]),
        made_by(report.command),
        "",
    ]
    return "\n".join(text)


def counted(report: Reproduction) -> str:
    """How many claims have which verdict, in a sentence."""
    counts = {verdict: sum(finding.verdict == verdict for finding in report.findings) for verdict in VERDICTS}
    of_several = {HOLDS: "hold", FAILS: "do not hold"}
    told = [f"{k} {verdict if k == 1 else of_several.get(verdict, verdict)}" for verdict, k in counts.items() if k]
    n = len(report.findings)
    return f"{number_of(n, 'claim')}: {', '.join(told)}."


def _halves(report: Reproduction) -> list[str]:
    """The Markdown table of the verdicts in each half of the seeds; empty where no claim has halves."""
    judged = [finding for finding in report.findings if finding.halves]
    if not judged:
        return []
    heading = ("claim", "test", "all seeds", "first half", "N", "verdict", "last half", "N", "verdict")
    rows = []
    for finding in judged:
        shown = finding.deciding
        assert shown is not None  # of a claim that was judged
        cells = [finding.claim.name, shown.name, finding.verdict]
        for half, outcome in zip(finding.halves, finding.in_halves(shown), strict=True):
            # a test against the best other model, which another one may be in this half
            renamed = f"{outcome.name}: " if outcome and outcome.name != shown.name else ""
            cells += [renamed + mean_and_interval(outcome), str(half.n), half.verdict]
        rows.append([as_markdown(cell) for cell in cells])
    return [f"## {HALVES}", "", ABOUT_HALVES, repeated(report), "", *markdown_table(heading, rows), ""]


def repeated(report: Reproduction) -> str:
    """How many verdicts are the same in both halves of the seeds, in a sentence; empty where no claim has halves."""
    parts = []
    for verdict, told in ((HOLDS, "hold"), (FAILS, "do not hold")):
        of_verdict = [finding for finding in report.findings if finding.verdict == verdict and finding.halves]
        if of_verdict:
            parts.append(f"{sum(finding.repeats for finding in of_verdict)} of the {len(of_verdict)} that {told}")
    told = "Claims on trained networks with the same verdict in both halves of the seeds"
    return f"{told}: {', '.join(parts)}." if parts else ""


def _cells(finding: Finding) -> tuple[str, ...]:
    claim, shown = finding.claim, finding.deciding
    several = f" ({len(finding.outcomes)} tests)" if len(finding.outcomes) > 1 else ""
    verdict = finding.verdict
    if needed := seeds_needed(finding.needed):
        verdict += f"; N = {needed} would decide"
    if said := "; ".join(filter(None, (*finding.limits, finding.remark))):
        verdict += f" ({said})"
    measured = claim.quantity
    if shown is not None and len(finding.outcomes) > 1:
        measured += f"; shown: {shown.name}"
    return (
        claim.name,
        claim.where,
        claim.says,
        measured,
        claim.rule + several,
        str(finding.n) if shown else "-",
        mean_and_interval(shown),
        number(shown.d_z) if shown else "-",
        p_value(finding.p),
        p_value(finding.p_holm),
        verdict,
    )


def mean_and_interval(outcome: Outcome | None) -> str:
    """Mean and 95% interval of a test, or its note where it has none."""
    if outcome is None:
        return "-"
    if math.isnan(outcome.low):
        return outcome.note or number(outcome.mean)
    return f"{number(outcome.mean)} [{number(outcome.low)}, {number(outcome.high)}]"


def number(value: float) -> str:
    """Three digits; a dash for what is not known."""
    return "-" if math.isnan(value) else f"{value:.3g}"


def p_value(p: float | None) -> str:
    """A p-value with two digits; a dash where there is none."""
    return "-" if p is None else f"{p:.2g}" if p >= 1e-4 else "<0.0001"


def _exact(value: float | None) -> object:
    return "" if value is None or math.isnan(value) else f"{value:.6g}"


def table1(report: Reproduction) -> list[str]:
    """The Markdown of table 1, accuracies of all models; empty where none is known."""
    if not report.table1:
        return []
    columns = list(dict.fromkeys(row.quantity for row in report.table1))
    cells = {(row.model, row.quantity): f"{row} (N = {len(row.values)})" for row in report.table1}
    rows = [
        (NAMES[model], *(cells.get((model, column), "-") for column in columns))
        for model in dict.fromkeys(row.model for row in report.table1)
    ]
    said = "Test accuracy in %, mean ± standard deviation over N seeds. Drives are not defined for LSTM and GRU."
    return ["## Table 1", "", said, "", *markdown_table(("model", *columns), rows, numbers_from=1), ""]


def _by_topic(findings: Sequence[Finding]) -> list[str]:
    """The claims of every topic by what became of them."""
    told: dict[str, dict[str, list[str]]] = {}
    for finding in findings:
        of_topic = told.setdefault(topic_of(finding.claim), {})
        column = finding.verdict if finding.verdict in (HOLDS, FAILS) else "open"
        of_topic.setdefault(column, []).append(finding.claim.name)
    rows = [
        (topic, *(", ".join(told[topic].get(column, ())) or "-" for column in (HOLDS, FAILS, "open")))
        for topic in TOPICS
        if topic in told
    ]
    return markdown_table(("topic", HOLDS, FAILS, "open"), rows)


def as_first_page(report: Reproduction, further: Mapping[str, str] | None = None) -> str:
    """The first page: what holds, what does not, what is open, and the pictures that matter.

    `further` are the titles of other pages by path.
    """
    text = [
        "# Does the paper hold? The result in three minutes",
        "",
        *(MODELS_IN_SHORT, ""),
        f"Below are the claims of {PAPER}, each put to the test that decides it. {counted(report)}",
        "",
        *_by_topic(report.findings),
        "",
        f"Scale `{report.scale}`: {report.description}",
        "",
        "[All claims with their numbers](paper.md), [as CSV](paper.csv).",
        "",
        *([f"{told} [Each of them](paper.md#two-sets-of-seeds).", ""] if (told := repeated(report)) else []),
        *_main_pictures(report.pictures),
    ]
    for verdict, heading in MEANINGS.items():
        of_verdict = [finding for finding in report.findings if finding.verdict == verdict]
        if of_verdict:
            told = _together(of_verdict) if verdict == UNTESTED else map(_plainly, of_verdict)
            text += [f"## {heading} ({len(of_verdict)})", "", *told, ""]
    text += table1(report)
    if report.remarks:
        text += ["## Remarks", "", *(f"* {as_markdown(remark)}" for remark in report.remarks), ""]
    if further:
        text += ["## Further pages", "", *(f"* [{as_markdown(title)}]({path})" for path, title in further.items()), ""]
    return "\n".join([*text, made_by(report.command), ""])


def _main_pictures(pictures: Sequence[Picture]) -> list[str]:
    drawn = {picture.number: picture for picture in pictures if picture.file is not None}
    return _shown("The pictures that matter", [drawn[number] for number in MAIN_FIGURES if number in drawn])


def _shown(heading: str, pictures: Sequence[Picture]) -> list[str]:
    """The Markdown of pictures that are drawn, with their captions; empty where there are none."""
    text: list[str] = []
    for picture in pictures:
        assert picture.file is not None
        text += [f"![Figure {picture.number}]({FIGURES}/{picture.file.name})", ""]
        text += [f"*{picture.heading}.* {as_markdown(picture.caption)}", ""]
    return [f"## {heading}", "", *text] if text else []


def _plainly(finding: Finding) -> str:
    """One claim that has a verdict, as a line of the first page."""
    claim, shown = finding.claim, finding.deciding
    told = mean_and_interval(shown)
    parts = [] if shown is None or told == "-" else [f"{shown.name}: {told}"]
    parts += [f"N = {finding.n}"] if shown is not None else []
    parts += [f"p {'' if p.startswith('<') else '= '}{p}" for p in [p_value(finding.p)] if p != "-"]
    parts += [f"N = {needed} would decide" for needed in [seeds_needed(finding.needed)] if needed]
    parts += finding.limits
    parts += [finding.remark.removeprefix("at the reduced size ")] if finding.verdict == PAPER_SIZE else []
    return f"* **{claim.name}** {as_markdown(claim.says)} ({as_markdown('; '.join(parts))})"


def _together(findings: Sequence[Finding]) -> list[str]:
    """Claims without a verdict: a line for each reason, and how many have measurements."""
    by_reason: dict[str, list[str]] = {}
    for finding in findings:
        reason = finding.remark if finding.verdict == UNTESTED else ""
        by_reason.setdefault(reason or "too few seeds", []).append(finding.claim.name)
    lines = [f"* {', '.join(names)}: {as_markdown(reason)}" for reason, names in by_reason.items()]
    measured = sum(finding.deciding is not None for finding in findings)
    told = f"[The table of all claims](paper.md) lists the measurements so far of {measured} of them."
    return [*lines, *(["", told] if measured else [])]


def as_page(report: Reproduction) -> str:
    """The HTML page, with every picture inside."""
    parts = [
        f"<h1>{escape(TITLE)}</h1>",
        f"<p>{escape(PAPER)}. Scale <code>{escape(report.scale)}</code>: {escape(report.description)}</p>",
        f"<p><b>{escape(counted(report))}</b></p>",
        f'<p class="small">{escape(KEY)}</p>',
        _html_row(HEADINGS, "th", "<table>"),
    ]
    for finding in report.findings:
        *cells, verdict = _cells(finding)
        row = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        kind = _CLASS.get(finding.verdict, "open")
        parts.append(f'<tr id="{finding.claim.name}">{row}<td class="verdict {kind}">{escape(verdict)}</td></tr>')
        if len(finding.outcomes) > 1:
            parts.append(f'<tr><td></td><td colspan="{len(HEADINGS) - 1}">{_tests(finding.outcomes)}</td></tr>')
    parts += ["</table>", *figures_of(report.pictures)]
    return page(f"{TITLE}, scale {report.scale}", parts, report.remarks, report.command)


def _tests(outcomes: Sequence[Outcome]) -> str:
    rows = [_html_row(("test", "rule", "N", "mean [95%]", "d_z", "p", "note", "verdict"), "th")]
    for outcome in outcomes:
        cells = (outcome.name, outcome.rule, str(outcome.n), mean_and_interval(outcome), number(outcome.d_z))
        rows.append(_html_row((*cells, p_value(outcome.p), outcome.note, outcome.verdict), "td"))
    return f"<details><summary>{len(outcomes)} tests</summary><table>{''.join(rows)}</table></details>"


def _html_row(cells: Sequence[str], tag: str, before: str = "") -> str:
    return f"{before}<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"
