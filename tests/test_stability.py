"""The measurement behind docs/training.md: its tasks, its rules and its file of results."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks import stability
from benchmarks.stability_tasks import TASKS, evidence, forecast


def test_evidence_can_be_decided_from_the_input():
    task = evidence(100)
    x, target = task.batch(400, torch.Generator().manual_seed(0))
    assert x.shape == (100, 400, 2)
    assert not x[80:].any()
    decided = (x.sum(0).diff(dim=1) > 0).long().squeeze(1)
    assert (decided == target).double().mean() > 0.98


def test_forecasts_are_relative_to_the_last_value_and_the_test_is_later():
    values = np.arange(200, dtype=np.float64) ** 2
    task = forecast("squares", values, steps=10, ahead=3)
    x, target = task.batch(500, torch.Generator().manual_seed(0))
    assert not x[-1].any()
    assert x.shape == (10, 500, 1)
    assert target.shape == (500, 1)
    assert abs(target.mean()) < 0.2
    assert target.std() == pytest.approx(1, abs=0.1)
    # (k + 3)² - k² = 6 k + 9, and x of the first step is proportional to (k - 9)² - k² = 81 - 18 k
    slope, offset = np.polyfit(x[0, :, 0], target[:, 0], 1)
    assert np.allclose(slope * x[0, :, 0] + offset, target[:, 0], atol=1e-3)
    assert task.test[1].min() > target.max()
    assert task.test[0].shape[1] < 60  # windows that share values with the training part are left out


def test_all_variants_have_the_parameters_of_the_arun():
    for inputs in (1, 12):
        goal = stability.parameter_count(stability.VARIANTS["ARUN"][0], inputs, stability.HIDDEN)
        for variant, (make, _) in stability.VARIANTS.items():
            count = stability.parameter_count(make, inputs, stability.hidden_size(variant, inputs))
            assert abs(count / goal - 1) < 0.03, variant


@pytest.mark.parametrize(
    ("worst", "last", "not_finite", "expected"),
    [(5, 2, 0, False), (50, 0.1, 0, False), (50, 1.0, 0, True), (50, float("inf"), 0, True), (2, 0.1, 1, True)],
)
def test_what_counts_as_exploded(worst, last, not_finite, expected):
    line = {"worst_loss": worst, "last_loss": last, "not_finite": not_finite}
    assert stability.exploded(line) == expected


def test_runs_are_written_once_and_read_again(tmp_path, monkeypatch):
    path = tmp_path / "results.jsonl"
    task = evidence(12)
    ask = (path, [task], ["ARUN", "GRU"], [1e-3, 1e-2], 1, 3)
    results = stability.measure(*ask)
    assert len(results) == 4
    assert [json.loads(line) for line in path.read_text().splitlines()] == results
    for line in results:
        assert line["T"] == 12
        assert 0 <= line["score"] <= 100
        assert line["worst_loss"] >= line["first_loss"] > 0
        assert line["torch"] == torch.__version__
    monkeypatch.setattr(stability, "train", None)
    assert stability.measure(*ask) == results
    table = stability.tables(results).splitlines()
    assert table[0] == "Learning rate 0.001:"
    assert "| task | T | ARUN | GRU |" in table
    assert table[-1] == "| runs that exploded | | 0 of 1 | 0 of 1 |"


def line(variant, score, kind="class", worst=1.0, last=0.5):
    of_run = {"score": score, "first_loss": 1.0, "worst_loss": worst, "last_loss": last, "not_finite": 0, "kind": kind}
    return of_run | {"task": kind, "variant": variant, "lr": 0.01, "T": 7}


def test_tables_show_medians_spikes_and_the_best():
    results = [line("ARUN", score) for score in (90, 70, 80)] + [line("LSTM", 60, worst=2e3), line("LSTM", 62)]
    results += [line("ARUN", 0.5, "forecast"), line("LSTM", 0.25, "forecast", worst=5e12, last=0.99)]
    assert stability.tables(results).splitlines()[2:] == [
        "| task | T | ARUN | LSTM |",
        "|---|---|---|---|",
        "| class | 7 | **80** | 61, 2e3 |",
        "| forecast | 7 | 0.50 | **0.25**, 5e12, 1 exploded |",
        "| runs that exploded | | 0 of 4 | 1 of 3 |",
    ]


def test_a_run_with_learning_rates_by_fan_in_learns():
    line = stability.train(evidence(30), "ARUN", 1e-2, 0, 60)
    assert line["score"] > 80
    assert not stability.exploded(line)


def test_a_task_without_its_package_is_left_out(capsys, monkeypatch):
    monkeypatch.setitem(TASKS, "elsewhere", (TASKS["evidence"][0], "a_package_that_does_not_exist"))
    names = [task.name for task in stability.available_tasks(["elsewhere", "evidence"])]
    assert names == ["evidence (100 steps)"]
    assert capsys.readouterr().err == "elsewhere needs a_package_that_does_not_exist, which is not installed.\n"
