"""`aru reproduce paper`: from nothing to the report, again without work, and from kept networks without training."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import math
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
from rich.console import Console

from aru_lab.cli import main
from aru_lab.errors import ConfigError, DataError
from aru_lab.experiments import networks, pictures, scales, sweep, tables
from aru_lab.experiments.figures import analyse_item
from aru_lab.experiments.kept import ALL, LINES, NOTHING, RECURRENT, Kept, read_kept
from aru_lab.experiments.paper import gather, plans, registry, works
from aru_lab.experiments.paper.claim import Scores
from aru_lab.experiments.paper.evidence import GROUPS, Evidence
from aru_lab.experiments.paper.gather import Gathering, Wanted, values_of_log
from aru_lab.experiments.paper.judges.gradients import SD_OF_NORMS
from aru_lab.experiments.paper.judges.heterogeneity import VALIDATION
from aru_lab.experiments.paper.plans import PLANS
from aru_lab.experiments.paper.rules import UNTESTED
from aru_lab.experiments.paper.run import Reproduced, reproduce_paper
from aru_lab.experiments.scales import NETWORKS
from aru_lab.files import read_lines
from aru_lab.networks.names import MODELS
from aru_lab.plots.paper.measured import COURSE, RETRAINING
from aru_lab.runs import scores
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.evaluation import Score, build_for, score
from aru_lab.runs.folder import METRICS

QUIET = Console(quiet=True)
CLAIMS = ("C8", "C17", "C41", "C44", "C45", "C50", "C51")
CLEAN = Score(1.0, 0.5, 10)
RNNS = {"arun", "gamma-homogeneous", "gamma-heterogeneous", "relu"}


@pytest.fixture(autouse=True)
def smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of the scale tiny that take a second, and no figures."""

    def less(network_set: scales.NetworkSet) -> scales.NetworkSet:
        training = dataclasses.replace(network_set.training, hidden_size=24, controller_size=4, subset=100)
        return dataclasses.replace(network_set, training=training)

    monkeypatch.setitem(NETWORKS, "tiny", tuple(map(less, NETWORKS["tiny"])))
    monkeypatch.setattr(pictures, "OF_THE_PAPER", ())
    monkeypatch.setattr(tables, "commit", lambda: "0123abc")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one reproduction, which the tests share."""
    return tmp_path_factory.mktemp("paper")


def run(root: Path, claims: tuple[str, ...] = CLAIMS, kept: Path | None = None) -> Reproduced:
    return reproduce_paper("tiny", claims, kept, root, None, 1, QUIET, device="cpu")


def test_from_nothing_to_the_report(root: Path) -> None:
    made = run(root)
    assert made.failures == []
    assert [finding.claim.name for finding in made.findings] == list(CLAIMS)
    assert {finding.verdict for finding in made.findings} == {UNTESTED}  # tiny judges nothing
    for finding in made.findings:
        assert finding.outcomes, finding.remark  # but everything was measured
        assert finding.n >= 2
        if finding.claim.name != "C41":  # two starts of four may be alike
            assert all(math.isfinite(outcome.mean) for outcome in finding.outcomes if outcome.rule[:2] != "EX")
    with made.files["paper.csv"].open(newline="", encoding="utf-8") as file:
        assert {row["claim"] for row in csv.DictReader(file)} == set(CLAIMS)
    assert "`aru reproduce paper --scale tiny --claims C8" in made.files["paper.md"].read_text(encoding="utf-8")


def test_only_what_the_claims_need_is_done(root: Path) -> None:
    run(root)
    kept = {folder.name: {kept.config.model for kept in read_kept(folder)} for folder in (root / "kept/tiny").iterdir()}
    assert kept == {
        "psdigits": RNNS,
        "homogeneous-start": {"gamma-heterogeneous"},
        "transplant": {"arun"},
        "frozen": {"gamma-homogeneous"},
    }
    analyses = {path.relative_to(root / "networks/tiny").parts for path in root.glob("networks/**/analysis/*.npz")}
    names = [f"gamma-heterogeneous-seed{seed}" for seed in (0, 1)]
    assert analyses == {("homogeneous-start", name, "analysis", "heterogeneity.npz") for name in names}


def test_again_without_work(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(root)
    page = first.files["paper.html"].read_text(encoding="utf-8")
    monkeypatch.setattr(sweep, "train", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(scores, "score", lambda *_, **__: pytest.fail("scored again"))
    monkeypatch.setattr(works, "score", lambda *_, **__: pytest.fail("exchanged controllers again"))
    monkeypatch.setattr(works, "ONCE", dict.fromkeys(works.ONCE, lambda _: pytest.fail("computed again")))
    assert run(root).findings == first.findings
    assert first.files["paper.html"].read_text(encoding="utf-8") == page


def test_kept_networks_need_no_training(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(root)
    monkeypatch.setattr(sweep, "train", lambda *_: pytest.fail("trained"))
    again = run(tmp_path / "elsewhere", kept=root / "kept")
    assert again.findings == first.findings
    # What is not kept is named, and not trained.
    lacking = run(tmp_path / "elsewhere", ("C52", "C4"), root / "kept")
    assert [finding.remark for finding in lacking.findings] == [
        "waits for all its networks (sCIFAR10, linear encoder: 0 of 12 networks are there)",
        "waits for all its networks (psMNIST, RMSprop: 0 of 4 networks are there)",
    ]
    with pytest.raises(ConfigError, match=r"networks: got .*nowhere, expected a folder of kept networks"):
        run(tmp_path, CLAIMS, tmp_path / "nowhere")


def test_a_group_that_cannot_be_trained_does_not_keep_the_others(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(root)
    shutil.copytree(root / "kept", tmp_path / "kept")

    def train(
        scale: str, output: Path, runs: Path, seconds: None, sets: tuple[str, ...], *_: object, **__: object
    ) -> None:
        if sets == ("homogeneous-start",):
            raise DataError("There is no such data.")

    monkeypatch.setattr(gather, "networks", train)
    (tmp_path / "kept/tiny/homogeneous-start" / LINES).unlink()
    made = run(tmp_path, ("C8", "C17"))
    assert [finding.remark for finding in made.findings] == [
        "this scale judges no claim",
        "waits for all its networks (psMNIST, all neurons started at one (n, s): 0 of 2 networks are there)",
    ]
    assert [str(failure) for failure in made.failures] == ["There is no such data."]


def test_networks_that_are_not_trained_yet_are_counted(root: Path, tmp_path: Path) -> None:
    run(root)
    kept = tmp_path / "kept"
    shutil.copytree(root / "kept", kept)
    lines = (kept / "tiny/psdigits" / LINES).read_text().splitlines(keepends=True)
    (kept / "tiny/psdigits" / LINES).write_text("".join(lines[:3]))
    evidence = Gathering(1, QUIET, "tiny", tmp_path, kept, False, {}).gather(registry.chosen(["C8"]))
    there = [network.config.model for network in read_kept(kept / "tiny/psdigits")]
    assert evidence.waiting == {("psmnist", model): (there.count(model), 2) for model in RNNS}
    assert evidence.lacks("psmnist", RNNS) == "psMNIST: 3 of 8 networks are there"
    assert evidence.lacks("psmnist", ["lstm"]) == ""  # another claim's
    assert re.fullmatch(r"T = 16, H = \d+, 1 seed", evidence.sizes["psmnist"])


def test_the_needs_of_several_claims_are_put_together() -> None:
    wanted = Wanted.by(registry.chosen(["C1", "C9", "C15", "C21", "C26", "C40"]))
    assert list(wanted.variants) == ["psmnist"]
    assert set(wanted.variants["psmnist"]) == RNNS
    assert set(wanted.sweeps["psmnist", "arun"]) == {"clean", "step sweep", "step grid"}
    assert set(wanted.parts["psmnist", "arun"]) == {"gain-scaling", "fractional"}
    assert list(wanted.works) == ["random networks"]


def test_drives_of_lstm_and_gru_are_not_defined() -> None:
    wanted = Wanted.by(registry.CLAIMS)
    for model in MODELS:
        drives = {name for name in wanted.sweeps["scifar10", model] if name.startswith("step")}
        assert bool(drives) == (model in RNNS)
    assert set(wanted.sweeps["scifar10", "lstm"]) == {"clean", "contrast sweep", "contrast grid"}


def test_every_need_names_something_known() -> None:
    for claim in registry.CLAIMS:
        assert claim.needs
        for need in claim.needs:
            assert need.group == "" or need.group in GROUPS
    for plan in PLANS.values():
        assert set(plan.sources) <= GROUPS.keys() | {"sdigits", "psdigits", "frozen", "trained"}
        for group in plan.sources:
            assert plan.network_set(group) is not None


def kept_network(failure: str | None = None, history: tuple[dict[str, float], ...] = ()) -> Kept:
    config = TrainConfig(model="gamma-homogeneous", initial_gain="1.25", initial_saturation="0.5", seed=3)
    return Kept(Path(), "x", config, list(history), None, failure, 10, {}, None, NOTHING)


def test_a_start_whose_training_diverges_has_the_accuracy_of_chance(tmp_path: Path) -> None:
    gathering = Gathering(1, QUIET, "tiny", tmp_path, tmp_path, False, {})
    evidence = Evidence()
    gathering.take("grid-frozen", kept_network("The loss became inf."), evidence)
    assert evidence.accuracy("grid-frozen", "n=1.25,s=0.5") == {3: 0.1}
    assert evidence.value("grid-frozen", "n=1.25,s=0.5", VALIDATION) == {3: 0.1}
    assert gathering.failures == []
    # Elsewhere it is left out and named.
    gathering.take("psmnist", kept_network("The loss became inf."), evidence)
    assert gathering.remarks == ["Left out because it failed: psmnist x (The loss became inf)."]


def test_a_network_without_its_encoder_is_analysed_and_not_scored(tmp_path: Path) -> None:
    sizes = {"hidden_size": 6, "controller_size": 3, "learning_rate": 1e-3, "device": "cpu"}
    config = TrainConfig("scifar10-conv", "arun", **sizes)
    torch.manual_seed(1)  # not the run's
    network = build_for(config, works.task_of(config), torch.device("cpu"))
    kept_weights = {name: x for name, x in network.state_dict().items() if not name.startswith("encoder")}
    content = safetensors.torch.save(kept_weights)
    (tmp_path / "arun-seed0.safetensors").write_bytes(content)
    entry = dict.fromkeys(METRICS, 1.0) | {"epoch": 1, "step": 1}
    checksum = hashlib.sha256(content).hexdigest()
    kept = Kept(tmp_path, "arun-seed0", config, [entry], Score(1.0, 0.5, 10), None, 10, {}, checksum, RECURRENT)
    gathering = Gathering(1, QUIET, "small", tmp_path / "root", tmp_path, False, {})
    evidence = Evidence()
    gathering.take("scifar10-conv-long", kept, evidence)
    folder = evidence.folders["scifar10-conv-long", "arun"][0]
    restored = works.load_classifier(folder, "last")[0]
    weights = network.state_dict()
    differ = {name for name, x in restored.state_dict().items() if not torch.equal(x, weights[name])}
    assert differ == {f"encoder.layers.{k}.weight" for k in (2, 5, 9, 12)}  # its convolutions; the rest starts constant
    assert analyse_item((folder, ("fractional",), PLANS["tiny"].analysis, "last", None, None), lambda _: None) == ""
    assert evidence.arrays("fractional", "scifar10-conv-long", "arun").keys() == {0}
    wanted = Wanted(sweeps={("scifar10-conv-long", "arun"): {"step sweep": None}})
    gathering.score(wanted, evidence)
    assert ("scifar10-conv-long", "arun", "step sweep") not in evidence.scores


def test_a_network_whose_weights_are_elsewhere_keeps_its_score_and_is_named(tmp_path: Path) -> None:
    config = TrainConfig("scifar10-conv", "relu", hidden_size=6, learning_rate=1e-3)
    entry = dict.fromkeys(METRICS, 1.0) | {"epoch": 1, "step": 1}
    kept = Kept(tmp_path, "relu-seed0", config, [entry], Score(1.0, 0.5, 10), None, 10, {}, "0" * 64, ALL)
    gathering = Gathering(1, QUIET, "small", tmp_path / "root", tmp_path, False, {})
    evidence = Evidence()
    gathering.take("scifar10-conv", kept, evidence)
    assert evidence.accuracy("scifar10-conv", "relu") == {0: 0.5}
    assert evidence.folders == {}
    assert gathering.remarks == [
        f"Left out because it failed: scifar10-conv relu-seed0 (its weights are not in {tmp_path})."
    ]


def test_log_gives_validation_and_spread_of_gradient_norms() -> None:
    history = [{"validation_accuracy": 0.5, "gradient_norm": 0.1}, {"validation_accuracy": 0.75, "gradient_norm": 10.0}]
    assert values_of_log(history) == {VALIDATION: 0.75, SD_OF_NORMS: pytest.approx(math.sqrt(2))}
    assert values_of_log([{"validation_accuracy": 0.5}]) == {VALIDATION: 0.5}  # of an earlier version


def test_course_of_n_and_s_of_a_start(tmp_path: Path) -> None:
    """A homogeneous network's mean over neurons is its n, and its s, at the end of every epoch."""
    gathering = Gathering(1, QUIET, "tiny", tmp_path, tmp_path, False, {})
    evidence = Evidence()
    entry = dict.fromkeys(METRICS, 1.0)
    shapes = [(1.5, 0.25), (2.0, 0.125)]
    history = [entry | {"gain_mean": n, "saturation_mean": s} for n, s in shapes]
    kept = kept_network()
    kept = dataclasses.replace(kept, clean=CLEAN, config=dataclasses.replace(kept.config, learning_rate=1e-3))
    gathering.take("grid-trained", dataclasses.replace(kept, history=history), evidence)
    assert evidence.records["grid-trained", "n=1.25,s=0.5", COURSE][3]["shape"].tolist() == list(map(list, shapes))
    gathering.take("grid-frozen", dataclasses.replace(kept, history=[entry]), evidence)
    assert len(evidence.records) == 1  # earlier versions did not write n and s


def test_retraining_keeps_n_and_s_of_the_neurons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = {"run": (np.array([5.0, 6.0]), np.array([0.0, 0.1])), "transfer": (np.array([4.0, 7.0]), np.zeros(2))}
    monkeypatch.setattr(works, "shapes_of", lambda folder: shapes[folder.name.partition("-")[0]])
    result = SimpleNamespace(run=tmp_path / "run", before=CLEAN, rotated=CLEAN, retrained=CLEAN)
    jobs = SimpleNamespace(map=lambda *_: [(0, result)])
    evidence = Evidence(folders={("psmnist", "gamma-heterogeneous"): {7: tmp_path / "run"}})
    works.rotation(jobs, PLANS["tiny"], evidence, tmp_path)
    record = evidence.records["psmnist", "gamma-heterogeneous", RETRAINING][7]
    assert {name: values.tolist() for name, values in record.items()} == {
        "n_before": [5.0, 6.0],
        "s_before": [0.0, 0.1],
        "n_after": [4.0, 7.0],
        "s_after": [0.0, 0.0],
    }
    assert evidence.value("psmnist", "gamma-heterogeneous", "sd of n retrained") == {7: 1.5}


def test_exchanged_controller_is_that_of_the_next_seed(root: Path) -> None:
    """The clean score is that of a network put together by hand."""
    run(root)
    folders = [root / "networks/tiny/psdigits" / f"arun-seed{seed}" for seed in (0, 1)]
    found = works.swap_item((folders[0], folders[1]), lambda fraction: None)
    models = [works.load_classifier(folder, "last") for folder in folders]
    (model, config), (donor, _) = models
    own = dict(donor.recurrent.named_parameters())
    for name, parameter in model.recurrent.named_parameters():
        if name in works.CONTROLLER:
            parameter.data.copy_(own[name].data)
    assert found["clean"] == score(model, works.task_of(config).load().test)
    assert len(read_lines(folders[0] / works.SWAPPED, lambda _: None, ConfigError)) == 4


def test_computations_of_other_sizes_are_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setitem(works.ONCE, "x", lambda sizes: calls.append(sizes.size) or {"a": np.array(sizes.size)})
    path = tmp_path / "x.npz"
    for size in (20, 20, 30):
        sizes = plans.RandomNetworks(size=size)
        assert int(works.once_item((path, "x", sizes), lambda fraction: None)["a"]) == size
    assert calls == [20, 30]


def test_random_networks_have_a_norm_and_an_exponent_at_every_point() -> None:
    sizes = PLANS["tiny"].random
    found = works.random_networks(sizes)
    assert found["jacobian_norm"].shape == found["exponent"].shape == (2, 4, 3)
    starts = works.norms_of_starts(sizes)
    assert len(starts) == 85
    assert starts["n=20,s=0"] == pytest.approx(1, abs=0.01)  # ReLU


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["reproduce", "paper", "--scale", "tiny", "--runs", str(tmp_path), "--device", "cpu"]
    assert main([*arguments, "--claims", "c51"]) == 0
    out = capsys.readouterr().out
    assert "4 of 4: further work" in out
    assert "1 claim: 1 not tested" in out
    assert main([*arguments, "--claims", "C99"]) == 2
    assert "claims: got 'C99', expected names from C1 to C53." in capsys.readouterr().err
    assert main(["reproduce", "table1", "--scale", "tiny", "--claims", "C1"]) == 2
    assert "claims: got a value with the result table1, expected the result paper." in capsys.readouterr().err


def test_rates_and_models_that_are_chosen(tmp_path: Path) -> None:
    """Of some models, only those are trained, at the size that they have among all."""
    sets = ("sdigits",)
    networks.networks("tiny", tmp_path, tmp_path / "runs", sets=sets, console=QUIET, models=("lstm",), device="cpu")
    (first, second) = read_kept(tmp_path / "sdigits")
    assert [first.name, second.name] == ["lstm-seed0", "lstm-seed1"]
    whole = dict(networks.configurations(NETWORKS["tiny"][4], dict.fromkeys(MODELS, 2e-3), tmp_path))
    assert first.config.hidden_size == whole["lstm-seed0"].hidden_size
    assert json.loads((tmp_path / "sdigits" / LINES).read_text().splitlines()[0])["name"] == "lstm-seed0"
    assert isinstance(registry.chosen(["C1"])[0].needs[0], Scores)
