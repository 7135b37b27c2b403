"""The report of a reproduction: its table, its page and its first page say what the findings say."""

from __future__ import annotations

import csv
import dataclasses
import math
from pathlib import Path

import pytest

from aru_lab.experiments import tables
from aru_lab.experiments.paper import findings, registry, report, rules
from aru_lab.experiments.paper.findings import Finding, seeds_needed
from aru_lab.experiments.paper.protocol import RNNS
from aru_lab.experiments.paper.report import Reproduction
from aru_lab.experiments.paper.rules import FAILS, HOLDS, PAPER_SIZE, UNDECIDED, UNTESTED, Outcome
from aru_lab.experiments.paper.run import table1_of
from aru_lab.experiments.pictures import Picture
from aru_lab.networks.names import MODELS
from support.pages import Page

from .planted import FALLS, planted


@pytest.fixture
def found() -> list[Finding]:
    evidence = planted(falls=FALLS | {"arun": 0.45})
    evidence.sizes |= {"scifar10": "T = 256", "scifar10-conv": "T = 64"}
    return findings.judge(registry.CLAIMS, evidence)


@pytest.fixture
def reproduction(found: list[Finding], tmp_path: Path) -> Reproduction:
    picture = tmp_path / "figure-2.png"
    picture.write_bytes(b"\x89PNG")
    pictures = [
        Picture("2", picture),
        Picture("3", None, "no <run>"),
    ]
    return Reproduction("small", "T = 112 & H = 64", found, pictures, ["left & out"], "aru reproduce paper")


def claim_rows(reproduction: Reproduction) -> list[str]:
    """The rows of the table of all claims; the halves of the seeds have a table of their own."""
    table = report.as_table(reproduction).partition(f"## {report.HALVES}")[0]
    return [line for line in table.splitlines() if line.startswith("| C")]


def test_csv_has_a_line_for_every_test(reproduction: Reproduction, tmp_path: Path) -> None:
    paths = report.write(reproduction, tmp_path)
    with paths["paper.csv"].open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["claim"] for row in rows} == {claim.name for claim in registry.CLAIMS}
    for finding in reproduction.findings:
        of_claim = [row for row in rows if row["claim"] == finding.claim.name]
        assert [row["test"] for row in of_claim] == ([outcome.name for outcome in finding.outcomes] or [""])
        assert {row["verdict"] for row in of_claim} == {finding.verdict}
    first = next(row for row in rows if row["claim"] == "C1")
    outcome = next(finding for finding in reproduction.findings if finding.claim.name == "C1").outcomes[0]
    assert float(first["mean"]) == pytest.approx(outcome.mean, rel=1e-5)
    assert float(first["test_p"]) == pytest.approx(outcome.p, rel=1e-5)


def test_table_has_a_row_for_every_claim(reproduction: Reproduction) -> None:
    rows = claim_rows(reproduction)
    assert [row.split(" | ")[0] for row in rows] == [f"| {claim.name}" for claim in registry.CLAIMS]
    for row, finding in zip(rows, reproduction.findings, strict=True):
        assert row.replace("\\|", "").count("|") == len(report.HEADINGS) + 1
        assert finding.verdict in row


def test_the_drawn_pictures_stand_below_the_table(reproduction: Reproduction) -> None:
    below = report.as_table(reproduction).split("## Figures")[1]
    assert below.count("![") == 1
    assert "![Figure 2](figures/figure-2.png)" in below
    assert "*Figure 2. " in below


def test_page_is_whole_and_shows_everything(reproduction: Reproduction) -> None:
    page = Page(report.as_page(reproduction))
    assert (page.open, page.fetched) == ([], [])
    assert len(page.pictures) == 1
    for text in ("T = 112 & H = 64", "Not drawn: no <run>", "left & out", report.counted(reproduction)):
        assert text in page.text
    for finding in reproduction.findings:
        assert finding.claim.says in page.text
        for outcome in finding.outcomes if len(finding.outcomes) > 1 else ():
            assert outcome.name in page.text


def test_first_page_sorts_the_claims_by_verdict(reproduction: Reproduction) -> None:
    text = report.as_first_page(reproduction)
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    counted = {
        verdict: sum(finding.verdict == verdict for finding in reproduction.findings) for verdict in rules.VERDICTS
    }
    expected = [f"## {report.MEANINGS[verdict]} ({n})" for verdict, n in counted.items() if n]
    assert headings == ["## The pictures that matter", *expected, "## Remarks"]
    assert "![Figure 2](figures/figure-2.png)" in text
    part = text.split(f"## {report.MEANINGS[FAILS]}")[1].split("## ")[0]
    assert "**C9** step drive, psMNIST: ARUN is highly robust" in part


def test_first_page_counts_the_claims_of_every_topic(reproduction: Reproduction) -> None:
    text = report.as_first_page(reproduction)
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")][1:]
    by_topic = {row[0]: row[1:] for row in rows if row[0] in registry.TOPICS}
    assert list(by_topic) == list(registry.TOPICS)
    told = {}
    for cells in by_topic.values():
        for cell, verdict in zip(cells, (HOLDS, FAILS, ""), strict=True):
            told |= dict.fromkeys((name for name in cell.split(", ") if name != "-"), verdict)
    assert told == {
        finding.claim.name: finding.verdict if finding.verdict in (HOLDS, FAILS) else ""
        for finding in reproduction.findings
    }


def test_table_1_is_in_the_table_and_on_the_first_page(reproduction: Reproduction) -> None:
    rows = table1_of(planted())
    assert {(row.model, row.quantity) for row in rows if row.task == "psmnist"} == {
        *((model, "psMNIST") for model in MODELS),
        *((model, "psMNIST, noisy drive") for model in RNNS),
    }
    with_table = dataclasses.replace(reproduction, table1=rows)
    for text in (report.as_first_page(with_table), report.as_table(with_table)):
        part = text.split("## Table 1")[1]
        (line,) = [line for line in part.splitlines() if line.startswith("| LSTM |")]
        values = planted().accuracy("psmnist", "lstm").values()
        assert line.startswith(f"| LSTM | {tables.percent(list(values))} (N = 10) | - | ")
    assert "## Table 1" not in report.as_first_page(reproduction)


def test_first_page_says_where_measurements_without_a_verdict_are() -> None:
    (claim,) = registry.chosen(["C3"])
    one = Finding(claim, UNTESTED, (Outcome("a - b", "EQ(0.01)", UNTESTED, 1, 0.005),), "waits for all its networks")
    text = report.as_first_page(Reproduction("small", "", [one], [], [], "x"))
    assert "* C3: waits for all its networks" in text
    assert "[The table of all claims](paper.md) lists the measurements so far of 1 of them." in text
    assert "a - b" not in text
    bare = dataclasses.replace(one, outcomes=())
    assert "measurements so far" not in report.as_first_page(Reproduction("small", "", [bare], [], [], "x"))


def test_verdicts_are_counted_in_a_sentence() -> None:
    first, second, third = registry.chosen(["C1", "C2", "C3"])
    found = [Finding(first, HOLDS), Finding(second, HOLDS), Finding(third, FAILS)]
    assert report.counted(Reproduction("small", "", found, [], [], "x")) == "3 claims: 2 hold, 1 does not hold."


def test_first_page_links_what_else_is_in_the_folder(reproduction: Reproduction, tmp_path: Path) -> None:
    (tmp_path / "networks").mkdir()
    (tmp_path / "networks" / "README.md").write_text("# Trained networks\n\nText.\n")
    (tmp_path / "table1.md").write_text("# Table 1: accuracy\n")
    for _ in range(2):  # the report's own pages are not further ones
        text = report.write(reproduction, tmp_path)["README.md"].read_text(encoding="utf-8")
        links = text.split("## Further pages\n\n")[1].splitlines()[:3]
        assert links == ["* [Trained networks](networks/README.md)", "* [Table 1: accuracy](table1.md)", ""]


def test_first_page_says_what_an_open_claim_takes() -> None:
    (claim,) = registry.chosen(["C3"])
    undecided = Finding(
        claim, UNDECIDED, (Outcome("a - b", "EQ(0.01)", UNDECIDED, 10, 0.005, -0.01, 0.02, 0.2, 0.3, 62),), p=0.3
    )
    reproduction = Reproduction("small", "", [undecided], [], [], "x")
    assert r"(a - b: 0.005 \[-0.01, 0.02\]; N = 10; p = 0.3; N = 62 would decide)" in report.as_first_page(reproduction)
    assert "undecided; N = 62 would decide" in report.as_table(reproduction)
    lacking = [Finding(claim, UNTESTED, remark=f"needs {what}") for what in ("x", "x", "y")]
    text = report.as_first_page(Reproduction("small", "", lacking, [], [], "x"))
    assert "* C3, C3: needs x" in text.splitlines()


def test_a_factor_that_was_not_judged_is_named_where_the_verdict_is() -> None:
    limit = "direction only: the factor of 10^1 needs paper size"
    (claim,) = registry.chosen(["C15"])
    (found,) = findings.judge([claim], planted())
    assert found.verdict == HOLDS
    assert found.limits == [limit]
    made = Reproduction("small", "", [found], [], [], "x")
    (row,) = claim_rows(made)
    (line,) = (line for line in report.as_first_page(made).splitlines() if line.startswith("* **C15**"))
    assert f"holds ({limit}; reduced size: " in row
    assert line.endswith(f"; {limit})")
    assert dataclasses.replace(found, verdict=UNTESTED).limits == []


def test_either_half_of_the_seeds_is_judged_alone(tmp_path: Path) -> None:
    evidence = planted()
    of_arun = evidence.scores["psmnist", "arun", "noisy drive"]
    for seed in range(5, 10):  # the ARUN is the best of the RNNs in the first seeds only, and by far
        of_arun[seed] = {point: dataclasses.replace(score, accuracy=0.1) for point, score in of_arun[seed].items()}
    alike, best, exact = findings.judge(registry.chosen(["C3", "C8", "C51"]), evidence)
    assert [half.verdict for half in best.halves] == [HOLDS, FAILS]
    assert [half.n for half in best.halves] == [5, 5]
    assert [half.verdict for half in alike.halves] == [HOLDS, HOLDS]
    assert (best.repeats, alike.repeats, exact.repeats, exact.halves) == (False, True, False, ())
    held = dataclasses.replace(best, verdict=HOLDS)
    made = Reproduction("small", "", [held, alike, exact], [], [], "x")
    told = "Claims on trained networks with the same verdict in both halves of the seeds: 1 of the 2 that hold."
    assert report.repeated(made) == told
    assert f"{told} [Each of them](paper.md#two-sets-of-seeds)." in report.as_first_page(made)
    part = report.as_table(made).split(f"## {report.HALVES}")[1]
    rows = {line[2:].split(" | ")[0]: line.split(" | ") for line in part.splitlines() if line.startswith("| C")}
    assert list(rows) == ["C8", "C3"]
    (first, last) = best.in_halves(best.deciding)
    assert rows["C8"][3:] == [
        *(report.as_markdown(report.mean_and_interval(first)), "5", HOLDS),
        *(report.as_markdown(report.mean_and_interval(last)), "5", f"{FAILS} |"),
    ]
    with report.write(made, tmp_path)["paper.csv"].open(newline="", encoding="utf-8") as file:
        halves = {row["claim"]: (row["first_half"], row["last_half"]) for row in csv.DictReader(file)}
    assert halves == {"C8": (HOLDS, FAILS), "C3": (HOLDS, HOLDS), "C51": ("", "")}
    nothing = Reproduction("small", "", [exact], [], [], "x")
    assert report.repeated(nothing) == ""
    assert report.HALVES not in report.as_table(nothing)


def test_halves_share_no_network() -> None:
    evidence = planted()
    evidence.put_value("psmnist", "arun", "x", 4, 1.0)
    evidence.scores["scifar10", "gru", "clean"].pop(9)  # another group's and another model's seeds stay where they are
    evidence.once["y"] = {}
    first, last = evidence.halves()
    for key, by_seed in evidence.scores.items():
        assert first.scores[key] | last.scores[key] == by_seed
        assert list(first.scores[key]) == [0, 1, 2, 3, 4]
    assert (first.values, last.values) == ({("psmnist", "arun", "x"): {4: 1.0}}, {("psmnist", "arun", "x"): {}})
    assert first.once == last.once == {"y": {}}
    evidence.scores = {key: {0: by_seed[0], 1: by_seed[1], 7: by_seed[7]} for key, by_seed in evidence.scores.items()}
    assert {tuple(by_seed) for by_seed in evidence.halves()[0].scores.values()} == {(0, 1)}


def test_numbers_in_tables() -> None:
    assert [report.p_value(p) for p in (None, 0.0123, 1e-7)] == ["-", "0.012", "<0.0001"]
    assert [report.number(x) for x in (math.nan, 0.12345, -math.inf)] == ["-", "0.123", "-inf"]
    assert seeds_needed(math.inf) == "over 10,000"


def test_the_test_that_decides_is_shown() -> None:
    (claim,) = registry.chosen(["C3"])

    def outcome(name: str, verdict: str, p: float | None) -> Outcome:
        return Outcome(name, "PT", verdict, 10, p=p)

    tests = [outcome("a", HOLDS, 0.01), outcome("b", UNDECIDED, 0.3), outcome("c", UNDECIDED, 0.6)]
    assert Finding(claim, UNDECIDED, tuple(tests)).deciding.name == "c"
    assert Finding(claim, FAILS, (*tests, outcome("d", FAILS, 0.2))).deciding.name == "d"
    assert Finding(claim, HOLDS, (tests[0], outcome("e", HOLDS, None))).deciding.name == "a"
    assert Finding(claim, PAPER_SIZE).deciding is None
