"""`aru reproduce figures`: one page with its pictures and claims, from nothing and again without work."""

from __future__ import annotations

import base64
import csv
import dataclasses
from pathlib import Path

import pytest
from rich.console import Console

from aru_lab.analysis.checks import AnalysisError
from aru_lab.errors import Interrupted
from aru_lab.experiments import analyse as analyse_module
from aru_lab.experiments import figures, reproduce, sweep, tables
from aru_lab.experiments.claims import Finding
from aru_lab.experiments.figures import Section, analyse_item
from aru_lab.experiments.scales import SCALES
from aru_lab.experiments.verdicts import FAILS, HOLDS, UNTESTED
from aru_lab.plots import style
from aru_lab.runs import scores
from support.pages import Page

from .conftest import SETTINGS

QUIET = Console(quiet=True)
FIGURES = ("1", "2", "6")  # the others are drawn by the tests of the figures


@pytest.fixture
def smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scale tiny with three models of one epoch."""
    scale = SCALES["tiny"]
    changes = {
        "training": dataclasses.replace(scale.training, epochs=1, subset=100, validation_subset=30),
        "retraining": dataclasses.replace(scale.retraining, epochs=1),
        "analysis": dataclasses.replace(SETTINGS, exponents=1),
        "models": ("arun", "gamma-heterogeneous", "relu"),
    }
    monkeypatch.setitem(SCALES, "tiny", dataclasses.replace(scale, **changes))
    monkeypatch.setattr(style, "DPI", 50)
    monkeypatch.setattr(figures, "FIGURES", FIGURES)
    monkeypatch.setattr(tables, "commit", lambda: "0123abc")  # a commit meanwhile would change the page


@pytest.mark.slow
def test_page_from_nothing_and_again_without_work(
    smaller: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sections, markdown, failures = reproduce.reproduce("figures", "tiny", tmp_path, device="cpu", console=QUIET)
    assert [section.number for section in sections] == list(FIGURES)
    assert failures == []
    found = [finding for section in sections for finding in section.findings]
    assert {finding.verdict for finding in found if not finding.exact} == {UNTESTED}  # tiny judges nothing
    assert all(finding.p is None or 0 <= finding.p <= 1 for finding in found)
    assert sum(finding.p is not None for finding in found) > 5
    content = (tmp_path / "results" / "figures.html").read_text(encoding="utf-8")
    page = Page(content)
    assert (page.open, page.fetched) == ([], [])
    pictures = [base64.b64decode(source.partition("base64,")[2]) for source in page.pictures]
    assert pictures == [(tmp_path / "results" / f"figure-{number}.png").read_bytes() for number in FIGURES]
    for finding in found:
        assert finding.claim in page.text
        assert finding.number in page.text
    with (tmp_path / "results" / "figures.csv").open(newline="", encoding="utf-8") as file:
        assert [row["claim"] for row in csv.DictReader(file)] == [finding.claim for finding in found]
    assert "`aru reproduce figures --scale tiny`" in markdown.read_text(encoding="utf-8")

    monkeypatch.setattr(sweep, "train", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(scores, "score", lambda *_, **__: pytest.fail("scored again"))
    monkeypatch.setattr(analyse_module, "PARTS", _untouchable())
    monkeypatch.setattr(
        figures, "draw", lambda number, _, folder: [folder / f"figure-{number}.{x}" for x in ("png", "pdf")]
    )
    again, *_ = reproduce.reproduce("figures", "tiny", tmp_path, device="cpu", console=QUIET)
    assert again == sections
    assert (tmp_path / "results" / "figures.html").read_text(encoding="utf-8") == content


def _untouchable() -> dict[str, object]:
    """The parts of the analyses, none of which may be computed."""
    return {
        name: dataclasses.replace(part, compute=lambda *_: pytest.fail("analysed again"))
        for name, part in analyse_module.PARTS.items()
    }


def test_page_escapes_and_says_what_is_missing(tmp_path: Path) -> None:
    picture = tmp_path / "figure-1.png"
    picture.write_bytes(b"\x89PNG")
    sections = [
        Section("1", picture, [Finding("a < b & c", "<1>", HOLDS, "t", 3e-7)]),
        Section("6", None, [Finding("d", "0.5", FAILS, "t", 0.25), Finding("e", "-", UNTESTED)], "no <run>"),
    ]
    page = Page(figures._html(sections, [], "tiny", "a <scale>", ["left & out"]))
    assert page.open == []
    for text in ("a < b & c", "<1>", "3e-07", "0.25", "Not drawn: no <run>", "a <scale>", "left & out"):
        assert text in page.text
    counts = "1 holds; 1 does not hold; 0 undecided: within the spread of the seeds; 1 not tested at this scale"
    assert counts in page.text
    assert len(page.pictures) == 1


def test_analysis_that_is_not_possible_is_a_remark_and_a_stop_is_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raising(error: BaseException) -> None:
        def analyse(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(figures, "analyse", analyse)

    item = (tmp_path, SETTINGS, None, None)
    raising(AnalysisError("The Jacobian is singular."))
    assert analyse_item(item, lambda fraction: None) == "The Jacobian is singular."
    raising(KeyboardInterrupt())
    with pytest.raises(Interrupted, match=r"Stopped; finished analyses are kept."):
        analyse_item(item, lambda fraction: None)
