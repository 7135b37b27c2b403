"""Tasks whose trials are drawn: what is shown and wanted, options, seeds, and the way through a run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from aru_lab.cli import main
from aru_lab.data.cognitive import KINDS
from aru_lab.data.summary import baseline
from aru_lab.data.tasks import TASKS, canonical, find_task
from aru_lab.data.trials import Trials, TrialTask
from aru_lab.errors import ConfigError, DataError
from aru_lab.experiments.sweep import plan
from aru_lab.experiments.transfer import Retraining, transfer
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.evaluation import evaluate_in_detail, load_classifier, task_of
from aru_lab.runs.folder import RunFolder, load_checkpoint
from aru_lab.runs.state import check_data
from aru_lab.runs.training import resume, train

SMALL: dict[str, Any] = {"model": "arun", "hidden_size": 8, "controller_size": 3, "epochs": 1, "device": "cpu"}
QUIET = Console(quiet=True)


def drawn(task: str) -> Trials:
    found = find_task(task)
    assert isinstance(found, TrialTask)
    return found.trials("train")


def at(trials: Trials, k: int) -> np.ndarray:
    """The steps at which the answer of trial k counts."""
    return np.flatnonzero(trials.response[k])


@pytest.mark.parametrize("name", KINDS)
def test_parts_are_of_the_sizes_that_the_task_says_and_of_different_trials(name: str) -> None:
    task = find_task(f"{name}:trials=50")
    data = task.load()
    assert [len(part) for part in (data.train, data.validation, data.test)] == [50, 10, 25]
    for part in (data.train, data.validation, data.test):
        assert part.x.shape[1:] == (task.n_steps, task.input_size)
        assert (part.x.dtype, part.y.dtype) == (np.float32, np.int64 if task.target.is_classes else np.float32)
        assert part.mask is None or part.mask.any(axis=1).all()
    assert not np.array_equal(data.validation.x, data.test.x[:10])
    assert not np.array_equal(data.validation.x, data.train.x[:10])
    assert len(task.load(subset=7, validation_subset=3).train) == 7


@pytest.mark.parametrize("name", KINDS)
def test_trials_follow_from_the_options(name: str) -> None:
    one, other = find_task(f"{name}:trials=20"), find_task(f"{name}:trials=20,seed=1")
    again = KINDS[name](trials=20).draw(np.random.RandomState([0, 0]), 20)
    np.testing.assert_array_equal(again.x, one.load().train.x)
    assert not np.array_equal(one.load().train.x, other.load().train.x)
    assert one.checksum != other.checksum
    assert one.checksum == TrialTask(name, KINDS[name](trials=20)).checksum


def test_trials_are_the_same_with_every_version() -> None:
    """What RandomState draws never changes; the numbers are those of the first version."""
    trials = drawn("copy:trials=2,length=4,delay=2")
    assert trials.conditions["symbols"].tolist() == [[1, 5, 5, 2], [0, 6, 1, 1]]
    numbers = [0.15071726, 0.19554272, 0.16532539, 0.08604737]
    np.testing.assert_allclose(drawn("adding:trials=2,steps=4").x[0, :, 0], numbers, rtol=1e-6)


def test_delayed_match_to_sample() -> None:
    trials = drawn("delayed-match-to-sample:stimuli=3,noise=0,dt=100,delay=300,trials=400")
    sample, test = trials.conditions["sample"], trials.conditions["test"]
    assert trials.x.shape == (400, 5 + 5 + 3 + 5, 4)
    for k in range(20):
        shown = np.zeros((18, 4))
        shown[:13, 0] = 1
        shown[5:10, 1 + sample[k]] = 1
        shown[13:, 1 + test[k]] = 1
        np.testing.assert_array_equal(trials.x[k], shown)
        assert at(trials, k).tolist() == list(range(13, 18))
        assert set(trials.y[k, 13:]) == {1 if sample[k] == test[k] else 2}
        assert not trials.y[k, :13].any()
    assert 0.4 < (sample == test).mean() < 0.6
    assert len(np.unique(np.stack([sample, test]), axis=1).T) == 9
    assert find_task("delayed-match-to-sample").target.names == ("fixate", "match", "non-match")
    assert find_task("delayed-match-to-sample").n_steps == 125


def test_context_integration() -> None:
    trials = drawn("context-integration:noise=0,dt=50,trials=600")
    c = trials.conditions
    assert trials.x.shape == (600, 6 + 15 + 6 + 6, 7)
    dots = trials.x[:, 6:21]
    np.testing.assert_allclose(dots[..., 1] - dots[..., 2], np.repeat(c["motion"][:, None], 15, 1), atol=1e-6)
    np.testing.assert_allclose(dots[..., 3] - dots[..., 4], np.repeat(c["colour"][:, None], 15, 1), atol=1e-6)
    np.testing.assert_array_equal(trials.x[:, :27, 5].all(axis=1), c["context"] == 0)
    np.testing.assert_array_equal(trials.x[:, :27, 6].all(axis=1), c["context"] == 1)
    assert not trials.x[:, 27:].any()
    relevant = np.where(c["context"] == 0, c["motion"], c["colour"])
    np.testing.assert_array_equal(trials.y[:, -1], 1 + (relevant > 0))
    assert np.unique(relevant).tolist() == [-0.5, -0.15, -0.05, 0.05, 0.15, 0.5]
    assert abs(np.corrcoef(c["motion"], c["colour"])[0, 1]) < 0.15
    weak = drawn("context-integration:coherence=0.5,trials=20").conditions["relevant"]
    assert abs(weak).max() == 0.25


def test_parametric_working_memory() -> None:
    trials = drawn("parametric-working-memory:noise=0,dt=100,trials=2000")
    f1, f2 = trials.conditions["f1"], trials.conditions["f2"]
    assert trials.x.shape == (2000, 5 + 5 + 10 + 5 + 3, 3)
    for period, f in ((slice(5, 10), f1), (slice(20, 25), f2)):
        np.testing.assert_allclose(trials.x[:, period, 1], np.repeat((f[:, None] - 2) / 40, 5, 1), atol=1e-6)
        np.testing.assert_allclose(trials.x[:, period, 1:].sum(2), 1, atol=1e-6)
    np.testing.assert_array_equal(trials.y[:, -1] == 2, f1 > f2)
    assert set(np.unique(f1 - f2)) == {-8, -4, -2, 2, 4, 8}
    for f in np.unique(f1):  # the first frequency does not say the answer
        assert 0.35 < (f2[f1 == f] > f).mean() < 0.65


def test_noise_of_a_mean_does_not_depend_on_the_step() -> None:
    for dt in (10, 50):
        x = drawn(f"delayed-match-to-sample:noise=2,dt={dt},trials=2000,sample=500").x
        deviation = x[:, : 500 // dt, 1].mean(axis=1).std()  # during the fixation
        assert deviation == pytest.approx(2 / np.sqrt(500), rel=0.06)


def test_copy() -> None:
    trials = drawn("copy:symbols=3,length=2,delay=4,trials=5")
    shown = trials.conditions["symbols"]
    read = trials.x.argmax(axis=2)
    np.testing.assert_array_equal(read[:, :2], shown)
    np.testing.assert_array_equal(read[:, 2:], [[3, 3, 3, 4, 3, 3]] * 5)
    np.testing.assert_array_equal(trials.y, np.concatenate([np.zeros((5, 6)), shown + 1], axis=1))
    assert at(trials, 0).tolist() == [6, 7]
    assert find_task("copy:symbols=3").target.names == ("blank", "1", "2", "3")
    assert find_task("copy:symbols=3,blanks=false").target.names == ("1", "2", "3")


def test_adding() -> None:
    trials = drawn("adding:steps=11,trials=500")
    numbers, marker = trials.x[..., 0], trials.x[..., 1]
    np.testing.assert_array_equal(marker.sum(axis=1), 2)
    np.testing.assert_array_equal(marker[:, :5].sum(axis=1), 1)
    np.testing.assert_allclose(trials.y[:, 0], (numbers * marker).sum(axis=1), rtol=1e-6)
    assert trials.y.var() == pytest.approx(1 / 6, rel=0.15)


def test_fixation_counts_in_the_training_only() -> None:
    data = find_task("delayed-match-to-sample:trials=20").load()
    assert data.train.mask.all()
    assert data.test.mask.sum(axis=1).tolist() == [25] * 10
    found = baseline(data, find_task("delayed-match-to-sample").target)
    assert found.answer in ("match", "non-match")
    assert 0.2 < found.score < 0.8
    without = find_task("delayed-match-to-sample:fixate=false,trials=20")
    assert without.target.names == ("match", "non-match")
    assert without.load().train.mask.sum(axis=1).tolist() == [25] * 20


@pytest.mark.parametrize(
    ("task", "kept"),
    [
        ("copy", "copy"),
        ("copy:", "copy"),
        ("copy:symbols=8,delay=30", "copy:delay=30"),
        ("copy:delay=30,trials=100", "copy:trials=100,delay=30"),
        ("delayed-match-to-sample:dt=10.0,fixate=false", "delayed-match-to-sample:dt=10,fixate=false"),
        ("context-integration:noise=0.1234567890123456", "context-integration:noise=0.1234567890123456"),
        ("psdigits", "psdigits"),
    ],
)
def test_names_with_options_have_one_form(task: str, kept: str) -> None:
    assert canonical(task) == kept
    assert TrainConfig(task).task == kept
    assert TrainConfig.from_json(json.loads(json.dumps(TrainConfig(task).to_json()))).task == kept
    assert not TrainConfig(task).differences(TrainConfig(kept))


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        ("copy:delai=3", r"task: got 'delai=3' in 'copy:delai=3', expected copy:\[trials=.* Did you mean delay\?"),
        ("copy:delay=3,delay=4", "got 'delay=4' .* each parameter once"),
        ("copy:delay=long", "got 'delay=long' .* expected a number"),
        ("copy:delay=0", "task: 'copy:delay=0': delay: got 0, expected a whole number from 1 to 1000000"),
        ("copy:delay=1e9", "got 'delay=1e9' .* expected a number"),
        ("copy:delay=1000000", "trials: got 2000 of 1000010 steps with 10 inputs, expected at most 268435456 numbers"),
        ("copy:blanks=1", "got 'blanks=1' .* expected true or false"),
        ("adding:steps=1", "steps: got 1, expected a whole number from 2 to 1000000"),
        ("adding:trials=1", "trials: got 1, expected a whole number of at least 2"),
        ("adding:seed=-1", "seed: got -1"),
        ("adding:seed=4294967296", "seed: got 4294967296, expected a whole number from 0 to 4294967295"),
        ("delayed-match-to-sample:stimuli=1", "stimuli: got 1, expected a whole number from 2 to 1000"),
        ("delayed-match-to-sample:dt=0", "dt: got 0.0, expected a finite number above 0"),
        ("delayed-match-to-sample:sample=0", "sample: got 0.0, expected a finite number above 0"),
        ("delayed-match-to-sample:delay=nan", "delay: got nan, expected a finite number of at least 0"),
        ("delayed-match-to-sample:delay=1e30", r"delay: got 1e\+30 ms with steps of 20 ms, expected at most"),
        ("context-integration:noise=-1", "noise: got -1.0, expected a finite number of at least 0"),
        ("context-integration:coherence=3", "coherence: got 3.0, expected a number above 0 and at most 2"),
        ("parametric-working-memory:f2=-5", "f2: got -5.0"),
        ("psdigits:seed=3", "task: got 'psdigits:seed=3', expected one of adding, "),
        ("coppy", "got 'coppy', expected one of .*Did you mean copy"),
    ],
)
def test_a_bad_option_is_a_sentence(task: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        TrainConfig(task)


def test_options_of_other_data_are_refused() -> None:
    with pytest.raises(ConfigError, match="permutation_seed: got 3 with the task copy, expected 0: the option seed"):
        TrainConfig("copy", permutation_seed=3)
    with pytest.raises(ConfigError, match="pixels_per_step: got 2 for the task copy, expected 1"):
        find_task("copy", 2)
    with pytest.raises(ConfigError, match="standardise: got True with the task copy"):
        TrainConfig("copy", standardise=True)


def test_a_run_goes_through_every_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, task = tmp_path / "run", "delayed-match-to-sample:trials=40,dt=100"
    sizes = ("--hidden-size", "6", "--controller-size", "3", "--device", "cpu", "--epochs", "2")
    assert main(["train", task, *sizes, "--output", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "68 sequences, T = 25, I = 3" in printed
    config, environment = RunFolder(run).read_config()
    assert config.task == "delayed-match-to-sample:trials=40,dt=100"
    assert environment["sources"] == {"task": find_task(task).checksum}
    assert environment["data"]["options"]["delay"] == 1000
    assert main(["evaluate", str(run), "--perturb", "step:amplitude=0.5", "contrast:amplitude=0.5"]) == 0
    assert "100 targets at steps of test sequences" in capsys.readouterr().out.replace("\n", " ")
    assert evaluate_in_detail(run, []).clean.score == evaluate_in_detail(run, []).clean.score
    assert main(["analyse", str(run), "states", "spectrum", "--quiet"]) == 0
    x = find_task(task).load().test.x
    np.savez(tmp_path / "new.npz", x=x)
    assert main(["predict", str(run), str(tmp_path / "new.npz"), "--output", str(tmp_path / "out.npz")]) == 0
    with np.load(tmp_path / "out.npz") as found:
        assert found["classes"].shape == x.shape[:2]
    assert main(["curves", str(run), "--output", str(tmp_path / "curves.png")]) == 0
    assert main(["train", "--resume", str(run)]) == 0


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    config = TrainConfig("context-integration:trials=60,dt=100", **SMALL | {"epochs": 3}, schedule="constant")
    whole = train(dataclasses.replace(config, output=tmp_path / "whole"), QUIET)
    train(dataclasses.replace(config, epochs=2, output=tmp_path / "part"), QUIET)
    file = tmp_path / "part" / "config.json"
    file.write_text(file.read_text().replace('"epochs": 2', '"epochs": 3'))
    resumed = resume(tmp_path / "part", QUIET)
    first, second = (load_checkpoint(result.run / "last.pt")["model"] for result in (whole, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_trials_that_are_drawn_otherwise_are_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = dataclasses.replace(TrainConfig("adding:trials=40,steps=8", **SMALL), output=run)
    train(config, QUIET)
    with pytest.raises(DataError, match=r"adding:trials=40,steps=8 has changed since the run began: .*same trials"):
        check_data(config, {"sources": {"task": "0" * 64}})
    load_classifier(run)
    file = run / "config.json"
    file.write_text(file.read_text().replace(find_task(config.task).checksum, "0" * 64))
    with pytest.raises(Exception, match="changed since"):
        load_classifier(run)


def test_numbers_are_scored_by_r_squared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    train(dataclasses.replace(TrainConfig("adding:trials=40,steps=8", **SMALL), output=run), QUIET)
    assert main(["evaluate", str(run)]) == 0
    assert "R²" in capsys.readouterr().out


def test_n_and_s_are_retrained_on_other_trials(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(dataclasses.replace(TrainConfig("copy:trials=40,delay=3,length=2", **SMALL), output=run), QUIET)
    found = transfer(run, Retraining(epochs=1, data=Path("copy:length=2,delay=6,trials=40")))
    config, _ = RunFolder(run / "transfer-copy-trials=40-length=2-delay=6").read_config()
    assert config.task == "copy:trials=40,length=2,delay=6"
    assert found.rotated.n == 20 * 2
    with pytest.raises(ConfigError, match=r"data: got copy:symbols=3 with 5 inputs .*expected 10 inputs and 9 classes"):
        transfer(run, Retraining(epochs=1, data=Path("copy:symbols=3")))
    with pytest.raises(ConfigError, match=r"expected the path of an .npz or .mat file, or a task whose trials are"):
        Retraining(data=Path("psdigits"))
    with pytest.raises(ConfigError, match=r"data: .*|task: got 'dely=3'"):
        Retraining(data=Path("copy:dely=3"))
    with pytest.raises(ConfigError, match="run: got a run of copy:trials=40"):
        transfer(run, Retraining())


def test_a_sweep_varies_options(tmp_path: Path) -> None:
    vary = ("task=copy:delay=10,length=3,copy:delay=30,adding",)
    configs = plan(TrainConfig("copy"), ("arun",), (0,), vary, tmp_path, match_parameters=False)
    assert [config.task for config in configs] == ["copy:length=3,delay=10", "copy:delay=30", "adding"]
    names = [config.run_folder.name for config in configs]
    assert names[1] == "arun-task=copy_delay=30-seed0"
    assert not any(sign in name for name in names for sign in ":/\\")


def test_old_configurations_without_options_are_read() -> None:
    values = TrainConfig("psdigits").to_json()
    assert TrainConfig.from_json(values) == TrainConfig("psdigits")
    assert task_of(TrainConfig("psdigits")) == TASKS["psdigits"]


def test_run_folders_are_named_by_the_options() -> None:
    assert TrainConfig("copy:delay=3,length=2").run_folder == Path("runs/copy-length=2-delay=3-arun-seed0")
