"""Choices on drawn trials: intervals, logistic curves, what each task shows, and the figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import binomtest

from aru_lab.analysis.psychometric import FORMS, analyse_psychometric, answers_of, logistic_fit, wilson_interval
from aru_lab.cli import main
from aru_lab.data.cognitive import KINDS
from aru_lab.data.tasks import find_task
from aru_lab.data.trials import TrialTask
from aru_lab.errors import ConfigError
from aru_lab.experiments.analyse import analyse
from aru_lab.plots.paper.draw import DRAWINGS, draw
from aru_lab.plots.paper.measured import MAIN, Analysed, Measured
from aru_lab.plots.style import style
from aru_lab.runs.analyses import AnalysisFolder, Run
from aru_lab.runs.evaluation import evaluate_in_detail

from .conftest import SETTINGS, quiet, train_tiny

TASKS = {
    "delayed-match-to-sample": "delayed-match-to-sample:dt=100,trials=60",
    "context-integration": "context-integration:dt=50,trials=200",
    "parametric-working-memory": "parametric-working-memory:dt=100,trials=200",
    "copy": "copy:length=3,delay=4,trials=60",
    "adding": "adding:steps=8,trials=60",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    own: dict[str, Any] = {"subset": None, "validation_subset": None}
    found = {name: train_tiny(folder / name, "arun", task=task, **own) for name, task in TASKS.items()}
    return found | {"lstm": train_tiny(folder / "lstm", "lstm", task=TASKS["context-integration"], **own)}


def result_of(run: Path) -> Any:
    return analyse_psychometric(Run(run), SETTINGS, lambda done, total: None)


@pytest.mark.parametrize(("chosen", "n"), [(0, 12), (12, 12), (5, 12), (300, 1000)])
def test_interval_is_wilsons(chosen: int, n: int) -> None:
    expected = binomtest(chosen, n).proportion_ci(0.95, method="wilson")
    low, high = wilson_interval(chosen, n)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_interval_of_no_trial_is_unknown() -> None:
    low, high = wilson_interval([0, 1], [0, 2])
    assert np.isnan(low[0])
    assert 0 < low[1] < 0.5 < high[1] < 1


def test_logistic_curve_has_the_highest_likelihood() -> None:
    rng = np.random.default_rng(0)
    x, n = np.array([-0.5, -0.15, -0.05, 0.05, 0.15, 0.5]), np.full(6, 80)
    chosen = rng.binomial(n, 1 / (1 + np.exp(-6 * (x - 0.07))))

    def loss(parameters: np.ndarray) -> float:
        u = parameters[1] * (x - parameters[0])
        return -float((chosen * u - n * np.logaddexp(0, u)).sum())

    expected = minimize(loss, [0.0, 1.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12}).x
    assert logistic_fit(x, chosen, n) == pytest.approx(tuple(expected), abs=1e-6)
    assert logistic_fit(100 * x, chosen, n) == pytest.approx((100 * expected[0], expected[1] / 100), rel=1e-6)
    assert logistic_fit(x, n - chosen, n) == pytest.approx((expected[0], -expected[1]), rel=1e-6)


@pytest.mark.parametrize(
    ("chosen", "n"),
    [([0, 0, 5, 5], [5, 5, 5, 5]), ([5, 5, 0, 0], [5, 5, 5, 5]), ([0, 2, 5, 5], [5, 5, 5, 5]), ([0, 0, 0, 0], [5] * 4)],
    ids=["separated", "reversed", "separated but for one stimulus", "one choice"],
)
def test_curve_that_the_choices_do_not_determine_is_unknown(chosen: list[int], n: list[int]) -> None:
    assert np.isnan(logistic_fit([-2, -1, 1, 2], chosen, n)).all()


def test_steep_curve_is_found() -> None:
    bias, slope = logistic_fit([-2, -1, 1, 2], [0, 1, 4999, 5000], [5000] * 4)
    assert abs(bias) < 1e-3
    assert slope == pytest.approx(np.log(4999), rel=1e-3)


def test_choices_against_the_coherence_of_motion_and_colour(runs: dict[str, Path]) -> None:
    for name in ("context-integration", "lstm"):
        run, found = Run(runs[name]), result_of(runs[name]).arrays
        task = find_task(TASKS["context-integration"])
        conditions, answers = task.trials("test").conditions, answers_of(run.model, run.test, task.kind)
        assert found["curves"].tolist() == [
            f"{f}, {c} context" for c in ("motion", "colour") for f in ("motion", "colour")
        ]
        np.testing.assert_allclose(found["levels"], [-0.5, -0.15, -0.05, 0.05, 0.15, 0.5])
        for k, (context, feature) in enumerate(((0, "motion"), (0, "colour"), (1, "motion"), (1, "colour"))):
            for i, level in enumerate(found["levels"]):
                of = (conditions["context"] == context) & np.isclose(conditions[feature], level) & (answers >= 0)
                assert found["counts"][k, i] == of.sum()
                assert found["chosen"][k, i] == (answers[of] == 1).sum()
        assert found["undecided"] == (answers < 0).sum()
        shown = found["counts"] > 0
        assert (found["low"] <= found["share"])[shown].all()
        assert (found["share"] <= found["high"])[shown].all()


def test_answers_are_those_at_the_last_step(runs: dict[str, Path]) -> None:
    run = Run(runs["parametric-working-memory"])
    outputs = evaluate_in_detail(run.path, []).clean.outputs
    steps = int(run.test.mask[0].sum())
    answers = answers_of(run.model, run.test, find_task(run.config.task).kind)
    np.testing.assert_array_equal(answers, outputs[steps - 1 :: steps].argmax(1) - 1)
    found = result_of(run.path).arrays
    assert found["levels"].tolist() == [-8, -4, -2, 2, 4, 8]
    assert found["counts"].sum() + found["undecided"] == len(run.test)


def test_pairs_positions_and_numbers(runs: dict[str, Path]) -> None:
    pairs = result_of(runs["delayed-match-to-sample"]).arrays
    assert pairs["pairs"].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert pairs["counts"].sum() + pairs["undecided"] == 30
    copy, evaluated = result_of(runs["copy"]).arrays, evaluate_in_detail(runs["copy"], []).clean
    assert copy["chosen"].sum() == round(evaluated.score.accuracy * evaluated.score.n)
    assert copy["counts"].tolist() == [30] * 3
    adding, evaluated = result_of(runs["adding"]).arrays, evaluate_in_detail(runs["adding"], []).clean
    assert adding["r_squared"] == pytest.approx(evaluated.score.accuracy, abs=1e-6)
    np.testing.assert_array_equal(adding["predicted"], evaluated.outputs[:, 0])


def test_perfect_answers_are_perfect() -> None:
    for name, task in TASKS.items():
        found = find_task(task)
        assert isinstance(found, TrialTask)
        trials = found.trials("test")
        last = trials.y[:, -1] - 1 if trials.y.dtype.kind == "i" else trials.y[:, 0]
        answers = trials.conditions["symbols"] if name == "copy" else last
        arrays = FORMS[KINDS[name]](answers, trials).arrays
        if name == "context-integration":
            np.testing.assert_array_equal(arrays["share"][0], arrays["levels"] > 0)  # motion in the motion context
            assert 0 < arrays["share"][1].mean() < 1  # colour does not matter there
        elif name == "parametric-working-memory":
            np.testing.assert_array_equal(arrays["share"][0], arrays["levels"] > 0)
        elif name == "delayed-match-to-sample":
            assert arrays["share"].tolist() == [1, 0, 0, 1]
        elif name == "copy":
            assert arrays["share"].tolist() == [1, 1, 1]
        else:
            assert arrays["r_squared"] == 1


def test_the_figure(runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, run in runs.items():
        analyse(run, ["psychometric"], SETTINGS, console=quiet())
        png, _ = draw("psychometric", [run], tmp_path / name)
        assert png.stat().st_size > 10_000
    both = [runs["context-integration"], runs["lstm"]]
    assert main(["figure", "psychometric", *map(str, both), "--output", str(tmp_path / "both")]) == 0
    assert "figure-psychometric.png" in capsys.readouterr().out.replace("\n", "")
    with style():
        shown = [Analysed(AnalysisFolder(run), model, "") for run, model in zip(both, ("arun", "lstm"), strict=True)]
        figure = DRAWINGS["psychometric"][0](Measured(runs={MAIN: shown}))
    for axes, run in zip(figure.axes, both, strict=True):
        arrays = AnalysisFolder(run).load("psychometric")
        points = [container.lines[0] for container in axes.containers]
        assert len(points) == 4
        for k, line in enumerate(points):
            np.testing.assert_allclose(line.get_ydata(), arrays["share"][k])
            np.testing.assert_allclose(line.get_xdata(), arrays["levels"])
    with pytest.raises(ConfigError, match=r"runs: got runs of adding.* and copy.*, expected one task"):
        draw("psychometric", [runs["adding"], runs["copy"]], tmp_path)
    with pytest.raises(ConfigError, match="runs: got 13, expected at most 12"):
        draw("psychometric", [runs["adding"]] * 13, tmp_path)


def test_runs_of_other_options_stand_side_by_side(runs: dict[str, Path], tmp_path: Path) -> None:
    own: dict[str, Any] = {"subset": None, "validation_subset": None}
    longer = train_tiny(tmp_path, "relu", task="copy:length=3,delay=9,trials=60", **own)
    for run in (runs["copy"], longer):
        analyse(run, ["psychometric"], SETTINGS, console=quiet())
    assert draw("psychometric", [runs["copy"], longer], tmp_path)[0].stat().st_size > 10_000


def test_other_data_have_no_such_analysis(trained: dict[str, Path]) -> None:
    with pytest.raises(
        ConfigError, match=r"psychometric: .* is a run of sdigits, expected one of delayed-match-to-sam"
    ):
        analyse(trained["arun"], ["psychometric"], SETTINGS, console=quiet())
