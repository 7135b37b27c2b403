"""The decision under Dale's law: test trials that are kept, verdicts by the paper's rules, and the kept networks."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from aru_lab.analysis.psychometric import FORMS, answers_of
from aru_lab.data.gym import COHERENCE, NeuroGym
from aru_lab.data.tasks import find_task
from aru_lab.data.trials import Trials
from aru_lab.errors import ConfigError, RunError
from aru_lab.experiments.decision import CLAIMS, NETWORK_SET, Decisions, findings, measure, read_decisions
from aru_lab.experiments.kept import TRIALS, keep_trials, read_kept, read_trials
from aru_lab.experiments.paper.evidence import DECISION, Evidence
from aru_lab.experiments.paper.protocol import SWEEPS
from aru_lab.experiments.paper.rules import FAILS, HOLDS, UNTESTED
from aru_lab.files import archive_of, read_arrays
from aru_lab.runs.evaluation import Score, score

from .conftest import ROOT

FOLDER = ROOT / "docs" / "results" / "networks" / "decision" / NETWORK_SET.name
PAGE = ROOT / "docs" / "cognitive-tasks.md"
TASK = "context-integration:dt=50,trials=20"


def planted(falls: dict[str, float]) -> Evidence:
    """Five seeds of each model, whose accuracies fall by so much over all sweeps but one."""
    evidence = Evidence(reduced=False)
    for model, fall in falls.items():
        for seed in range(5):
            clean = 0.9 + 0.003 * np.sin(7 * seed)
            for sweep in ("clean", "noisy drive", "step drive", "sine", "step sweep"):
                lost = 0.0 if sweep == "clean" else fall + 0.004 * np.sin(3 * seed + len(model))
                points = {point: Score(1.0, clean - lost, 100) for point in SWEEPS[sweep](44)}
                evidence.put_scores(DECISION, model, sweep, seed, points)
    return evidence


@pytest.mark.parametrize(
    ("falls", "verdict"),
    [
        ({"arun": 0.02, "gamma-heterogeneous": 0.1, "relu": 0.2}, HOLDS),
        ({"arun": 0.15, "gamma-heterogeneous": 0.1, "relu": 0.2}, FAILS),
        ({"arun": 0.1, "gamma-heterogeneous": 0.1, "relu": 0.2}, FAILS),  # less than a point apart
        ({"arun": 0.1, "gamma-heterogeneous": 0.2}, UNTESTED),
    ],
)
def test_verdicts(falls: dict[str, float], verdict: str) -> None:
    found = findings(planted(falls))
    # the contrast sweep was not measured
    assert [finding.claim.name for finding in found] == ["D1", "D2", "D3", "D4"]
    assert {finding.verdict for finding in found} == {verdict}
    for finding in found if verdict != UNTESTED else ():
        assert [outcome.name for outcome in finding.outcomes] == [
            "fall of RNN+γ het. - ARUN",
            "fall of RNN+ReLU - ARUN",
        ]
        gap = falls["gamma-heterogeneous"] - falls["arun"]
        assert finding.outcomes[0].mean == pytest.approx(gap, abs=0.005)
        assert finding.p_holm == pytest.approx(min(1, 4 * finding.p))  # all four have one p


def test_claims_need_what_they_read() -> None:
    assert [claim.name for claim in CLAIMS] == [f"D{k}" for k in range(1, 6)]
    for claim in CLAIMS:
        (need,) = claim.needs
        assert (need.group, need.variants) == (DECISION, ("arun", "gamma-heterogeneous", "relu"))
        assert set(need.sweeps) <= set(SWEEPS)


def test_networks_that_are_missing_leave_the_claims_untested() -> None:
    evidence = planted({"arun": 0.02, "gamma-heterogeneous": 0.1, "relu": 0.2})
    evidence.waiting[DECISION, "relu"] = 3, 5
    for finding in findings(evidence):
        assert finding.verdict == UNTESTED
        assert "NeuroGym, perceptual decision, Dale's law: 3 of 5 networks are there" in finding.remark
        assert finding.p is None


def test_trials_are_kept_whole(tmp_path: Path) -> None:
    keep_trials(tmp_path / "kept", TASK)
    task = find_task(TASK)
    sequences, conditions = read_trials(tmp_path / "kept", TASK)
    test = task.load().test
    for name in ("x", "y", "mask", "centre"):
        np.testing.assert_array_equal(getattr(sequences, name), getattr(test, name))
    assert sequences.lengths is None
    assert conditions.keys() == task.trials("test").conditions.keys()
    np.testing.assert_array_equal(conditions["relevant"], task.trials("test").conditions["relevant"])
    with pytest.raises(ConfigError, match="task: got sdigits, expected one whose trials are drawn"):
        keep_trials(tmp_path, "sdigits")


def test_other_trials_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=rf"{TRIALS} can't be read"):
        read_trials(tmp_path, TASK)
    keep_trials(tmp_path, TASK)
    path = tmp_path / TRIALS
    with pytest.raises(RunError, match=r"it holds trials of context-integration:.*, expected copy\); restore"):
        read_trials(tmp_path, "copy")
    arrays = read_arrays(path)
    path.write_bytes(archive_of({"task": arrays["task"], "x": arrays["x"]}))
    with pytest.raises(RunError, match=r"it has no y\); restore"):
        read_trials(tmp_path, TASK)
    path.write_bytes(archive_of(arrays | {"y": arrays["y"][:-1]}))
    with pytest.raises(RunError, match=r"y has 9 trials, expected 10"):
        read_trials(tmp_path, TASK)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunError, match="can't be read"):
        read_trials(tmp_path, TASK)


def test_a_folder_without_networks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="keeps no networks; train them with `aru networks --scale decision`"):
        read_decisions(tmp_path, tmp_path / "runs")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Decisions:
    """The networks of docs/results, without NeuroGym."""
    return read_decisions(FOLDER, tmp_path_factory.mktemp("runs"))


def test_kept_networks_are_those_of_the_scale(kept: Decisions) -> None:
    names = {f"{model}-seed{seed}" for model in NETWORK_SET.models for seed in NETWORK_SET.seeds}
    assert {network.name for network in read_kept(FOLDER)} == kept.networks.keys() == names
    for name, model in kept.models.items():
        network = kept.networks[name]
        own = {name: getattr(network.config, name) for name in ("model", "seed", "learning_rate")}
        assert own["learning_rate"] == (2e-3 if own["model"] == "relu" else 1e-2)  # the defaults
        same = dataclasses.replace(NETWORK_SET.training, **own)
        assert set(network.config.differences(same)) <= {"hidden_size"}
        weight = model.recurrent.weight_hh_l0
        excitatory = round(0.8 * weight.shape[1])
        assert (weight[:, :excitatory] >= 0).all(), name
        assert (weight[:, excitatory:] <= 0).all(), name
        assert kept.seeds_of(network.config.model)[network.config.seed] == name


def test_kept_networks_decide_as_they_did(kept: Decisions) -> None:
    assert isinstance(kept.kind, NeuroGym)
    for name in ("arun-seed0", "gamma-heterogeneous-seed0", "relu-seed0"):
        clean = score(kept.models[name], kept.trials)
        assert clean.n == kept.networks[name].clean.n
        # another processor rounds otherwise, which may turn single choices
        assert clean.accuracy == pytest.approx(kept.networks[name].clean.accuracy, abs=0.003)
        answers = answers_of(kept.models[name], kept.trials, kept.kind)
        curve = FORMS[NeuroGym](answers, as_trials(kept)).arrays
        assert curve["levels"].tolist() == [-51.2, -25.6, -12.8, -6.4, 0, 6.4, 12.8, 25.6, 51.2]
        assert curve["share"][0, 0] < 0.05
        assert curve["share"][0, -1] > 0.95
        assert curve["slope"][0] > 0


def as_trials(kept: Decisions) -> Trials:
    return Trials(kept.trials.x, kept.trials.y, conditions={COHERENCE: kept.coherences})


def test_sweeps_are_scored_on_the_trials_with_evidence(kept: Decisions) -> None:
    few = dataclasses.replace(kept, models={"relu-seed0": kept.models["relu-seed0"]})
    steps: list[float] = []
    evidence = measure(few, ("sine",), steps.append)
    found = evidence.points(DECISION, "relu", "sine")
    assert list(found) == [0]
    (of_sine,) = found[0].values()
    assert of_sine.n == kept.trials.mask[kept.coherences != 0].sum()
    assert len(kept.with_evidence) == (kept.coherences != 0).sum()
    assert steps == [1]


def test_the_page_has_the_numbers_of_the_kept_networks(kept: Decisions) -> None:
    evidence = measure(kept)
    verdicts = {finding.claim.needs[0].sweeps[1]: finding for finding in findings(evidence)}
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.read_text().splitlines()]
    table = {row[0]: row[1:] for row in rows if len(row) == 7}
    for name, sweep in (
        ("none", "clean"),
        ("noisy drive, mean 5, deviation √2", "noisy drive"),
        ("step drive, ξ = 1", "step drive"),
        ("contrast, A = 0.5", "sine"),
    ):
        for model, cell in zip(NETWORK_SET.models, table[name], strict=False):
            found = 100 * np.array(list(evidence.accuracy(DECISION, model, sweep).values()))
            mean, deviation = map(float, cell.split(" ± "))
            # another processor rounds otherwise, which may turn single choices
            assert mean == pytest.approx(found.mean(), abs=0.3), (name, model)
            assert deviation == pytest.approx(found.std(ddof=1), abs=0.3), (name, model)
        if sweep == "clean":
            continue
        assert table[name][-1] == verdicts[sweep].verdict
        for cell, outcome in zip(table[name][3:5], verdicts[sweep].outcomes, strict=True):
            numbers = [float(number) for number in re.findall(r"-?\d+\.\d", cell)]
            assert numbers == pytest.approx([100 * v for v in (outcome.mean, outcome.low, outcome.high)], abs=0.5), name
