"""`aru reproduce figures`: one page with its pictures, from nothing and again without work."""

from __future__ import annotations

import base64
import dataclasses
from pathlib import Path

import pytest
from rich.console import Console

from aru_lab.analysis.checks import AnalysisError
from aru_lab.errors import Interrupted
from aru_lab.experiments import analyse as analyse_module
from aru_lab.experiments import figures, reproduce, sweep, tables
from aru_lab.experiments import pictures as pictures_module
from aru_lab.experiments.figures import analyse_item
from aru_lab.experiments.pictures import Picture
from aru_lab.experiments.scales import SCALES
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
    monkeypatch.setattr(pictures_module, "OF_THE_PAPER", FIGURES)
    monkeypatch.setattr(tables, "commit", lambda: "0123abc")  # a commit meanwhile would change the page


@pytest.mark.slow
def test_page_from_nothing_and_again_without_work(
    smaller: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, markdown, failures = reproduce.reproduce("figures", "tiny", tmp_path, device="cpu", console=QUIET)
    assert [picture.number for picture in pictures] == list(FIGURES)
    assert failures == []
    content = (tmp_path / "results" / "figures.html").read_text(encoding="utf-8")
    page = Page(content)
    assert (page.open, page.fetched) == ([], [])
    shown = [base64.b64decode(source.partition("base64,")[2]) for source in page.pictures]
    assert shown == [(tmp_path / "results" / f"figure-{number}.png").read_bytes() for number in FIGURES]
    text = markdown.read_text(encoding="utf-8")
    for picture in pictures:
        assert picture.caption in page.text
        assert f"![{picture.heading}](figure-{picture.number}.png)" in text
    assert "`aru reproduce figures --scale tiny`" in text

    monkeypatch.setattr(sweep, "train", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(scores, "score", lambda *_, **__: pytest.fail("scored again"))
    monkeypatch.setattr(analyse_module, "PARTS", _untouchable())
    monkeypatch.setattr(
        pictures_module, "draw", lambda number, _, folder: [folder / f"figure-{number}.{x}" for x in ("png", "pdf")]
    )
    again, *_ = reproduce.reproduce("figures", "tiny", tmp_path, device="cpu", console=QUIET)
    assert again == pictures
    assert (tmp_path / "results" / "figures.html").read_text(encoding="utf-8") == content


def _untouchable() -> dict[str, object]:
    """The parts of the analyses, none of which may be computed."""
    return {
        name: dataclasses.replace(part, compute=lambda *_: pytest.fail("analysed again"))
        for name, part in analyse_module.PARTS.items()
    }


def test_page_escapes_and_says_what_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "figure-1.png"
    file.write_bytes(b"\x89PNG")
    pictures = [Picture("1", file), Picture("6", None, "no <run>")]
    page = Page(figures._html(pictures, [], "tiny", "a <scale>", ["left & out"]))
    assert page.open == []
    for text in ("Not drawn: no <run>", "a <scale>", "left & out"):
        assert text in page.text
    assert len(page.pictures) == 1


def test_analysis_that_is_not_possible_is_a_remark_and_a_stop_is_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raising(error: BaseException) -> None:
        def analyse(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(figures, "analyse", analyse)

    item = (tmp_path, (), SETTINGS, "best", None, None)
    raising(AnalysisError("The Jacobian is singular."))
    assert analyse_item(item, lambda fraction: None) == "The Jacobian is singular."
    raising(KeyboardInterrupt())
    with pytest.raises(Interrupted, match=r"Stopped; finished analyses are kept."):
        analyse_item(item, lambda fraction: None)
