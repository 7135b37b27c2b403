"""Figures of a reproduction: drawn from planted measurements, with their numbers in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from aru_lab.errors import ConfigError
from aru_lab.experiments.paper import works
from aru_lab.experiments.paper.evidence import GROUPS, Evidence
from aru_lab.experiments.paper.judges.accuracy import TRANSPLANT_TESTS
from aru_lab.experiments.paper.judges.heterogeneity import STARTS
from aru_lab.experiments.paper.plans import PLANS
from aru_lab.experiments.paper.protocol import CONTRAST_PHASES, STEP_AMPLITUDES, STEP_LENGTHS, SWEEPS
from aru_lab.experiments.paper.shown import measured
from aru_lab.networks.perturbations import PaperStep, Sine
from aru_lab.plots.paper import OF_THE_PAPER, WITHOUT_RUNS
from aru_lab.plots.paper import measured as shown
from aru_lab.plots.paper.draw import DRAWINGS, draw_measured
from aru_lab.plots.paper.transplant import TESTS
from aru_lab.plots.style import style
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.evaluation import Score
from aru_lab.runs.folder import RunFolder

from .planted import PSMNIST, SEEDS, plant, planted

SHAPE = {
    "n_before": [5.0, 5.0, 5.0],
    "s_before": [0.0, 0.0, 0.0],
    "n_after": [4.0, 5.5, 7.0],
    "s_after": [0.1, 0.0, 0.2],
}


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    """Planted scores, a grid of starts whose paths go to (n + 1, s), a retraining, transplants, random networks."""
    found = planted()
    for group in ("transplant", "swapped"):
        for test in TRANSPLANT_TESTS:
            plant(found, group, "arun", test, 0.9 if group == "transplant" else 0.8)
    for k, (name, (n, s)) in enumerate(STARTS.items()):
        for seed in SEEDS[:3]:
            for group in ("grid-frozen", "grid-trained"):
                found.put_scores(group, name, "clean", seed, {(): Score(1.0, 0.2 + 0.005 * k + 0.01 * seed, 100)})
            found.put_record("grid-trained", name, shown.COURSE, seed, {"shape": np.array([(n + 0.5, s), (n + 1, s)])})
    found.put_record("psmnist", "gamma-heterogeneous", shown.RETRAINING, 0, {k: np.array(v) for k, v in SHAPE.items()})
    found.once["random networks"] = works.random_networks(PLANS["tiny"].random)
    return found


@pytest.fixture(autouse=True)
def styled() -> Iterator[None]:
    with style():
        yield


def figure(number: str, evidence: Evidence) -> Figure:
    return DRAWINGS[number][0](measured(evidence))


def lines(axes: Any, label: str) -> Any:
    (found,) = [c.lines[0] for c in axes.containers if c.get_label() == label]
    return found


def test_groups_are_those_of_the_evidence() -> None:
    groups = {shown.MAIN, shown.LINEAR, shown.CONVOLUTIONAL, shown.LONGER, shown.HOMOGENEOUS, shown.TRANSPLANT}
    assert groups | {shown.SWAPPED, shown.FROZEN, shown.TRAINED} <= GROUPS.keys()
    assert tuple(TESTS) == TRANSPLANT_TESTS


def test_other_tasks_are_named(tmp_path: Path) -> None:
    """The scale tiny reads digits in place of MNIST."""
    folders = {}
    for group, task in (("psmnist", "psdigits"), ("scifar10", "scifar10")):
        RunFolder(tmp_path / group).make()
        RunFolder(tmp_path / group).create(TrainConfig(task, "arun", learning_rate=1e-3), {})
        folders[group, "arun"] = {0: tmp_path / group}
    tasks = measured(Evidence(folders=folders)).tasks
    assert (tasks["psmnist"], tasks["scifar10"]) == ("psdigits", "sCIFAR10")


@pytest.mark.parametrize("number", ["2", "3", "6", "13", "14", "15", "16", "17"])
def test_letters_are_readable_and_nothing_is_covered(evidence: Evidence, number: str) -> None:
    drawn = figure(number, evidence)
    drawn.draw_without_rendering()
    texts = [text for text in drawn.findobj(lambda x: hasattr(x, "get_fontsize")) if text.get_text()]
    assert min(text.get_fontsize() for text in texts) >= 7
    letters = [axes.get_title(loc="left") for axes in drawn.axes if axes.get_title(loc="left")]
    assert letters == list({"2": "abc", "3": "ab", "6": "ABCD", "17": ""}.get(number, "ab"))
    for legend in drawn.legends:
        box = legend.get_window_extent()
        assert not [axes for axes in drawn.axes if axes.get_window_extent().padded(-2).overlaps(box)]
    for axes in drawn.axes:
        left, right = axes._left_title, axes._right_title
        if left.get_text() and right.get_text():
            assert left.get_window_extent().x1 < right.get_window_extent().x0 + 1


def test_robustness_begins_at_the_clean_score(evidence: Evidence) -> None:
    drawn = figure("2", evidence)
    step, contrast = drawn.axes[1], drawn.axes[5]
    assert [axes.get_title(loc="right") for axes in drawn.axes[1:4]] == ["psMNIST", "sCIFAR10", "sCIFAR10, conv."]
    line = lines(step, "ARUN")
    np.testing.assert_array_equal(line.get_xdata(), STEP_AMPLITUDES)
    scores = [evidence.scores["psmnist", "arun", sweep] for sweep in ("clean", "step sweep")]
    expected = [np.mean([100 * scores[0][seed][()].accuracy for seed in SEEDS])]
    expected += [np.mean([100 * scores[1][seed][xi,].accuracy for seed in SEEDS]) for xi in STEP_AMPLITUDES[1:]]
    np.testing.assert_allclose(line.get_ydata(), expected)
    assert len(step.containers) == 4  # drives are not defined for LSTM and GRU
    assert len(contrast.containers) == 6


def test_stimuli_are_those_of_the_protocol(evidence: Evidence) -> None:
    drawn = figure("2", evidence)
    for axes, strongest in ((drawn.axes[0], PaperStep(30.0)), (drawn.axes[4], Sine(1.0))):
        course = strongest.drive(200, 1, [0]) if axes is drawn.axes[0] else strongest.contrast(200, [0])
        np.testing.assert_allclose(axes.lines[0].get_ydata(), course.reshape(200))
        assert [line.get_linestyle() for line in axes.lines] == ["-", "--", ":"]


@pytest.mark.parametrize(("number", "sweep"), [("13", "contrast grid"), ("14", "step grid"), ("16", "step grid")])
def test_grids_have_the_mean_of_every_point(evidence: Evidence, number: str, sweep: str) -> None:
    drawn = figure(number, evidence)
    group = "psmnist" if number in ("13", "14") else "scifar10"
    models = [model for model in PSMNIST if (group, model, sweep) in evidence.scores]
    second = CONTRAST_PHASES if sweep == "contrast grid" else STEP_LENGTHS
    for row, measure in enumerate(("loss", "accuracy")):
        for column, model in enumerate(models):
            (mesh,) = drawn.axes[row * len(models) + column].collections
            by_seed = evidence.scores[group, model, sweep]
            points = list(SWEEPS[sweep](784))
            expected = np.reshape(
                [np.mean([getattr(by_seed[s][p], measure) for s in SEEDS]) for p in points], (-1, len(second))
            )
            np.testing.assert_allclose(np.asarray(mesh.get_array()), expected * (100 if row else 1))
    assert type(drawn.axes[0].collections[0].norm).__name__ == "LogNorm"  # of the loss


def test_transplant_pairs_the_seeds(evidence: Evidence) -> None:
    (axes,) = figure("17", evidence).axes
    heights = [[bar.get_height() for bar in container] for container in axes.containers]
    flat = np.array([height for container in heights for height in container]).reshape(len(TESTS), 3)
    for k, test in enumerate(TESTS):
        for c, group in enumerate(("psmnist", "transplant", "swapped")):
            of = evidence.scores[group, "arun", test]
            assert flat[k, c] == pytest.approx(100 * np.mean([of[seed][()].accuracy for seed in SEEDS]))
    assert len(axes.lines) == len(TESTS) * len(SEEDS)
    np.testing.assert_allclose(
        axes.lines[0].get_ydata(),
        [100 * evidence.scores[g, "arun", "clean"][0][()].accuracy for g in ("psmnist", "transplant", "swapped")],
    )
    assert axes.get_ylim()[0] == 0


def test_maps_over_n_and_s(evidence: Evidence) -> None:
    norm, exponent, frozen, paths = figure("6", evidence).axes[:4]
    random = evidence.once["random networks"]
    np.testing.assert_allclose(norm.collections[0].get_array(), random["jacobian_norm"].mean(0).T)
    finite = np.where(np.isfinite(random["exponent"]), random["exponent"], np.nan).mean(0)
    np.testing.assert_allclose(np.ma.filled(exponent.collections[0].get_array(), np.nan), finite.T)
    np.testing.assert_array_equal(frozen.collections[0].get_offsets(), list(STARTS.values()))
    accuracy = frozen.collections[0].get_array()
    np.testing.assert_allclose(accuracy, 100 * (0.21 + 0.005 * np.arange(85)))
    assert frozen.get_title(loc="right") == f"best {accuracy[-1]:.1f}% at n = 20, s = 1"
    ends = [(n + 1, s) for n, s in STARTS.values()]
    np.testing.assert_allclose(paths.collections[0].get_offsets(), ends)
    np.testing.assert_allclose(paths.collections[0].get_array(), accuracy)
    np.testing.assert_allclose(paths.lines[0].get_xdata(), [1.0, 1.5, 2.0])


def test_neurons_before_and_after_retraining(evidence: Evidence) -> None:
    (lower,) = [axes for axes in figure("3", evidence).axes if any("45" in str(x.get_label()) for x in axes.lines)]
    (after,) = [line for line in lower.lines if "45" in line.get_label()]
    np.testing.assert_array_equal(after.get_xdata(), SHAPE["n_after"])
    np.testing.assert_array_equal(lower.lines[0].get_ydata(), [0.0, 0.1])  # a neuron's path


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    for number in OF_THE_PAPER[1:]:
        with pytest.raises(ConfigError, match=f"figure {number}: got no .*, expected at least one"):
            draw_measured(number, measured(Evidence()), tmp_path)
    assert not list(tmp_path.iterdir())
    assert set(WITHOUT_RUNS) < set(OF_THE_PAPER)
