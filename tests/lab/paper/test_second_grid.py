"""The published numbers of the grid of starts (C41, C42, C43) beside those of `second.grid`, from the same networks."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from lab.paper.second import grid
from lab.paper.second.model import ROOT


@pytest.fixture(scope="module")
def published() -> dict[tuple[str, str], dict[str, str]]:
    """Lines of the table by (claim, test)."""
    with (ROOT / "docs" / "results" / "paper.csv").open(encoding="utf-8", newline="") as file:
        return {(line["claim"], line["test"]): line for line in csv.DictReader(file)}


def test_norms_against_their_bounds() -> None:
    """At s = 0, γ' is at most 1; the sigmoid's is at most n / 4."""
    norms = dict(zip(grid.STARTS, grid.norms(draws=10), strict=True))
    assert all(norm <= 1 for (_, s), norm in norms.items() if s == 0)
    assert norms[1.0, 1.0] == pytest.approx(0.25, abs=1e-3)


def test_rank_correlation_and_norms(published: dict[tuple[str, str], dict[str, str]]) -> None:
    away = np.abs(np.log10(grid.norms()))
    found = np.mean([grid.rank_correlation(away, row) for row in grid.read("frozen")[0]])
    # the weights and states are drawn by other generators
    assert -float(published["C41", "ρ < 0"]["mean"]) == pytest.approx(found, abs=0.005)
    assert -0.5 - float(published["C41", "-0.5 - ρ"]["mean"]) == pytest.approx(found, abs=0.005)


def test_starts_of_the_worst_quarter(published: dict[tuple[str, str], dict[str, str]]) -> None:
    norms, accuracy = grid.norms(), grid.read("frozen")[0]
    count = grid.exploding(norms, accuracy)
    assert published["C42", "norm > 1 in the worst quarter"]["note"] == f"{count} of 105 cases"


@pytest.mark.parametrize("shape", grid.SHAPES)
def test_learned_against_fixed_shapes(published: dict[tuple[str, str], dict[str, str]], shape: str) -> None:
    mean = float(published["C43", f"learned - {shape}"]["mean"])
    assert mean == pytest.approx(grid.learned_minus(shape), abs=1e-6)
