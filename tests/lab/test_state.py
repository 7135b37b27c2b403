"""Whether the files of a run, its config.json and what it began with belong together."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from aru_lab.cli import main
from aru_lab.errors import DataError, Interrupted, LabError, RunError
from aru_lab.experiments.sweep import complete
from aru_lab.runs import learner, training
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.evaluation import evaluate, load_classifier
from aru_lab.runs.folder import RunFolder, load_checkpoint, save_checkpoint
from aru_lab.runs.state import read_history

CONFIG = TrainConfig(
    task="sdigits",
    model="relu",
    hidden_size=5,
    pixels_per_step=8,
    epochs=4,
    batch_size=10,
    subset=30,
    validation_subset=20,
    device="cpu",
    threads=1,
    schedule="constant",
)
QUIET = Console(quiet=True)


def train_half(folder: Path, config: TrainConfig) -> Path:
    """A run that was stopped in its third epoch."""
    step = training._Trainer.step

    def stopping(trainer: Any, index: torch.Tensor) -> Any:
        if trainer.position.step == 7:
            trainer.stop.received = 15
        return step(trainer, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training._Trainer, "step", stopping)
        with pytest.raises(Interrupted):
            training.train(dataclasses.replace(config, output=folder), QUIET)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Stopped and finished runs under both kinds of schedule, not to be written to."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("state")
    cosine = dataclasses.replace(CONFIG, schedule="cosine")
    whole = {name: folder / f"whole-{name}" for name in ("constant", "cosine")}
    training.train(dataclasses.replace(CONFIG, output=whole["constant"]), QUIET)
    training.train(dataclasses.replace(cosine, output=whole["cosine"]), QUIET)
    return {
        "constant": train_half(folder / "constant", CONFIG),
        "cosine": train_half(folder / "cosine", cosine),
        **{f"whole {name}": path for name, path in whole.items()},
    }


def copy(runs: dict[str, Path], name: str, folder: Path) -> Path:
    return Path(shutil.copytree(runs[name], folder / "copy"))


def edit(run: Path, section: str = "config", **values: Any) -> None:
    """Change config.json as a user would."""
    file = run / "config.json"
    content = json.loads(file.read_text())
    content[section] |= values
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("name", "section", "values"),
    [
        ("constant", "config", {"learning_rate": 1e-3}),
        ("constant", "config", {"learning_rate_scaling": "none"}),
        ("constant", "config", {"batch_size": 15}),
        ("constant", "config", {"seed": 1}),
        ("constant", "config", {"task": "psdigits"}),
        ("constant", "config", {"clip": None, "input_noise": 0.1}),
        ("constant", "config", {"schedule": "plateau"}),
        ("constant", "config", {"threads": 2}),
        ("constant", "environment", {"threads": 2}),
        ("cosine", "config", {"epochs": 6}),
    ],
)
def test_edit_that_resuming_can_not_honour_is_refused(
    runs: dict[str, Path], tmp_path: Path, name: str, section: str, values: dict[str, Any]
) -> None:
    run = copy(runs, name, tmp_path)
    edit(run, section, **values)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    names = ", ".join(sorted(values, key=list(TrainConfig().to_json()).index))
    with pytest.raises(RunError, match=rf"last\.pt does not belong to .* which has changed since in {names};"):
        training.resume(run, QUIET)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


@pytest.mark.parametrize(
    "values", [{"device": "auto"}, {"checkpoint_seconds": 0.0}, {"output": "elsewhere"}, {"early_stop": 3}]
)
def test_edit_that_changes_no_result_is_honoured(runs: dict[str, Path], tmp_path: Path, values: dict[str, Any]) -> None:
    run = copy(runs, "cosine", tmp_path)
    edit(run, **values)
    training.resume(run, QUIET)
    assert_same_weights(run, runs["whole cosine"])


def assert_same_weights(run: Path, other: Path) -> None:
    for name in ("last.pt", "best.pt"):
        found, expected = (load_checkpoint(folder / name)["model"] for folder in (run, other))
        assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_more_epochs_of_a_constant_rate_are_those_of_a_longer_run(runs: dict[str, Path], tmp_path: Path) -> None:
    run = copy(runs, "whole constant", tmp_path)
    edit(run, epochs=6)
    assert len(training.resume(run, QUIET).history) == 6
    training.train(dataclasses.replace(CONFIG, epochs=6, output=tmp_path / "long"), QUIET)
    assert_same_weights(run, tmp_path / "long")
    assert evaluate(run, [])[0].n == 359


def test_edit_that_evaluation_can_not_honour_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    """The weights would fit, and the numbers would be of another experiment."""
    run = copy(runs, "whole constant", tmp_path)
    edit(run, task="psdigits")
    for which in ("best", "last"):
        with pytest.raises(RunError, match=rf"{which}\.pt does not belong to .* which has changed since in task;"):
            evaluate(run, [], which)


def test_run_of_an_earlier_version_is_read_and_resumed(runs: dict[str, Path], tmp_path: Path) -> None:
    """Without checksums, without the configuration in its checkpoints, without the sources in config.json."""
    old = copy(runs, "cosine", tmp_path)
    (old / ".lock").unlink()
    for name in ("last.pt", "best.pt"):
        content = load_checkpoint(old / name)
        del content["run"]
        torch.save(content, old / name)
    lines = [json.loads(line) for line in (old / "metrics.jsonl").read_text().splitlines()]
    assert all(line.pop("checksum") for line in lines)
    (old / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    content = json.loads((old / "config.json").read_text())
    del content["environment"]["sources"], content["config"]["learning_rate_scaling"]
    (old / "config.json").write_text(json.dumps(content))
    assert read_history(RunFolder(old)) == lines
    assert evaluate(old, [])[0] == evaluate(runs["cosine"], [])[0]
    training.resume(old, QUIET)
    assert_same_weights(old, runs["whole cosine"])
    config = dataclasses.replace(CONFIG, schedule="cosine", learning_rate_scaling="none", output=old)
    assert complete(config).clean.n == 359


@pytest.fixture(scope="module")
def adaptive(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Stopped and finished runs of an ARUN with one learning rate and by fan-in, not to be written to."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("adaptive")
    found = {}
    for scaling in ("none", "fan-in"):
        config = dataclasses.replace(CONFIG, model="arun", controller_size=3, learning_rate_scaling=scaling)
        found[scaling] = train_half(folder / scaling, config)
        training.train(dataclasses.replace(config, output=folder / f"whole-{scaling}"), QUIET)
        found[f"whole {scaling}"] = folder / f"whole-{scaling}"
    return found


def forget(run: Path, fields: tuple[str, ...] = (), in_config: bool = False) -> None:
    """Take fields out of the checkpoints, or the whole configuration if none is named, and out of config.json."""
    for name in ("last.pt", "best.pt"):
        content = load_checkpoint(run / name)
        for field in fields:
            del content["run"]["config"][field]
        if not fields:
            del content["run"]
        save_checkpoint(content, run / name)
    if in_config:
        content = json.loads((run / "config.json").read_text())
        for field in fields:
            del content["config"][field]
        (run / "config.json").write_text(json.dumps(content))


def test_run_without_the_scaling_of_learning_rates_goes_on_with_one_rate(
    adaptive: dict[str, Path], tmp_path: Path
) -> None:
    run = copy(adaptive, "none", tmp_path)
    forget(run, ("learning_rate_scaling",), in_config=True)
    assert RunFolder(run).read_config()[0].learning_rate_scaling == "none"
    assert evaluate(run, [])[0] == evaluate(adaptive["none"], [])[0]
    training.resume(run, QUIET)
    assert_same_weights(run, adaptive["whole none"])
    assert len(load_checkpoint(run / "last.pt")["optimizer"]["param_groups"]) == 1


def test_scaling_of_learning_rates_is_resumed_to_the_bit(adaptive: dict[str, Path], tmp_path: Path) -> None:
    run = copy(adaptive, "fan-in", tmp_path)
    training.resume(run, QUIET)
    assert_same_weights(run, adaptive["whole fan-in"])
    weights = [load_checkpoint(adaptive[f"whole {name}"] / "last.pt")["model"] for name in ("none", "fan-in")]
    assert not torch.equal(*(weight["recurrent.weight_hh_l0"] for weight in weights))


@pytest.mark.parametrize(
    ("started", "edited", "said"),
    [
        ("none", "fan-in", "has 1 group of learning rates, and learning_rate_scaling fan-in makes 6"),
        ("fan-in", "none", "has 6 groups of learning rates, and learning_rate_scaling none makes 1"),
    ],
)
def test_state_of_the_other_scaling_is_refused(
    adaptive: dict[str, Path], tmp_path: Path, started: str, edited: str, said: str
) -> None:
    run = copy(adaptive, started, tmp_path)
    edit(run, learning_rate_scaling=edited)
    with pytest.raises(RunError, match=r"last\.pt does not belong to .* has changed since in learning_rate_scaling;"):
        training.resume(run, QUIET)
    forget(run)  # as of a version that kept no configuration in its checkpoints
    with pytest.raises(
        RunError, match=rf"last\.pt does not belong to the configuration in .* \(its optimizer {said}\)"
    ):
        training.resume(run, QUIET)


def test_config_without_a_number_as_learning_rate_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    run = copy(runs, "constant", tmp_path)
    edit(run, learning_rate=None)
    with pytest.raises(RunError, match=r"config\.json can't be read \(learning_rate is null, expected a number\)"):
        training.resume(run, QUIET)


def test_missing_best_checkpoint_is_told_rightly(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy(runs, "whole constant", tmp_path)
    (run / "best.pt").unlink()
    said = rf"best\.pt is missing, though the run has finished 4 epochs; .* `aru evaluate {run} --checkpoint last`"
    for command in (["evaluate", str(run)], ["train", "--resume", str(run)], ["robustness", str(run)]):
        assert main(command) == 2
        assert re.search(said, capsys.readouterr().err)
    assert main(["evaluate", str(run), "--checkpoint", "last"]) == 0


def test_missing_last_checkpoint_does_not_start_over(runs: dict[str, Path], tmp_path: Path) -> None:
    run = copy(runs, "constant", tmp_path)
    (run / "last.pt").unlink()
    metrics = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(RunError, match=r"last\.pt is missing, though the run has finished epochs; restore it"):
        training.resume(run, QUIET)
    assert (run / "metrics.jsonl").read_bytes() == metrics


def test_best_checkpoint_of_another_epoch_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    run = copy(runs, "whole constant", tmp_path)
    folder = RunFolder(run)
    content, history = load_checkpoint(folder.best_file), read_history(folder)
    other = next(entry for entry in history if entry["epoch"] != content["epoch"])
    save_checkpoint(content | {"epoch": other["epoch"], "validation": other}, folder.best_file)
    with pytest.raises(RunError, match=rf"best\.pt holds epoch {other['epoch']}, and the best of last\.pt is epoch "):
        training.resume(run, QUIET)


def test_metrics_that_lost_lines_are_taken_from_the_checkpoint(runs: dict[str, Path], tmp_path: Path) -> None:
    run = copy(runs, "whole constant", tmp_path)
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:2]))
    assert len(read_history(RunFolder(run))) == 4
    (run / "metrics.jsonl").write_text("".join(lines[:1] + lines[2:]))
    with pytest.raises(RunError, match=r"metrics\.jsonl is damaged: epoch 3 stands where epoch 2 belongs"):
        read_history(RunFolder(run))
    (run / "last.pt").unlink()
    (run / "metrics.jsonl").write_text("".join(lines))
    assert len(read_history(RunFolder(run))) == 4


def test_metrics_of_another_run_are_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    run = copy(runs, "whole constant", tmp_path)
    shutil.copy(runs["whole cosine"] / "metrics.jsonl", run)
    with pytest.raises(RunError, match=r"metrics\.jsonl does not agree with last\.pt; `aru train --resume"):
        read_history(RunFolder(run))
    training.resume(run, QUIET)
    assert len(read_history(RunFolder(run))) == 4


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of sequences in the working folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    rng = np.random.RandomState(0)
    np.savez("x.npz", x=rng.rand(30, 4, 2), y=np.arange(30) % 2)
    return tmp_path / "here" / "x.npz"


FILE = dataclasses.replace(CONFIG, task="x.npz", pixels_per_step=1, subset=None, validation_subset=None, epochs=2)


def test_run_finds_its_data_from_any_folder(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(FILE, task="x.npz", output=tmp_path / "run")
    training.train(config, QUIET)
    score = evaluate(tmp_path / "run", [])[0]
    content = json.loads((tmp_path / "run" / "config.json").read_text())
    assert content["config"]["task"] == str(data)
    assert len(content["environment"]["sources"]["task"]) == 64
    monkeypatch.chdir(tmp_path)
    assert evaluate(tmp_path / "run", [])[0] == score
    # Moved, and told where to: the same data, by its checksum.
    (tmp_path / "there").mkdir()
    shutil.move(data, tmp_path / "there" / "y.npz")
    with pytest.raises(DataError, match=r"x\.npz: there is no such file"):
        evaluate(tmp_path / "run", [])
    edit(tmp_path / "run", task=str(tmp_path / "there" / "y.npz"))
    assert evaluate(tmp_path / "run", [])[0] == score
    training.resume(tmp_path / "run", QUIET)


def test_data_that_have_changed_are_refused(data: Path, tmp_path: Path) -> None:
    """Of the same shape, so that nothing else would be noticed."""
    run = tmp_path / "run"
    config = dataclasses.replace(FILE, task="x.npz", output=run)
    training.train(config, QUIET)
    np.savez(data, x=np.random.RandomState(1).rand(30, 4, 2), y=np.arange(30) % 2)
    for attempt in (lambda: evaluate(run, []), lambda: training.resume(run, QUIET)):
        with pytest.raises(DataError, match=r"x\.npz has changed since the run began: .* that in config\.json,"):
            attempt()
    with pytest.raises(RunError, match=r"holds a run with other settings \(the content of task\)"):
        complete(config)


def test_weights_that_a_run_began_with_are_remembered(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    training.train(dataclasses.replace(CONFIG, epochs=1, output=first), QUIET)
    config = dataclasses.replace(CONFIG, epochs=1, initial_from=first, output=second)
    complete(config)
    shutil.rmtree(first)
    training.train(dataclasses.replace(CONFIG, epochs=1, seed=5, output=first), QUIET)
    with pytest.raises(RunError, match=r"holds a run with other settings \(the content of initial_from\)"):
        complete(config)
    training.resume(second, QUIET)  # it took the weights when it began


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.arange(30) % 2, None),
        (np.arange(30) % 2 * 3, "of the 4 classes from 0 to the largest label, 2 have no sequences (1, 2), and the"),
        (np.arange(30) // 29 * 29, "28 have no sequences (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, ...)"),
    ],
)
def test_empty_classes_are_told(data: Path, tmp_path: Path, labels: np.ndarray, said: str | None) -> None:
    np.savez(data, x=np.ones((30, 4, 2)), y=labels)
    written = io.StringIO()
    config = dataclasses.replace(FILE, task="x.npz", keep_gaps=True, output=tmp_path / "run")
    training.train(config, Console(file=written))
    assert ("have no sequences" in written.getvalue()) is (said is not None)
    assert said is None or said in written.getvalue()


def test_empty_classes_are_told_once_by_a_sweep(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(data, x=np.ones((30, 4, 2)), y=np.arange(30) % 2 * 3)
    options = ["--models", "relu", "--seeds", "0", "1", "--no-match-parameters", "--epochs", "1", "--hidden-size", "4"]
    assert main(["sweep", "x.npz", *options, "--keep-gaps"]) == 0
    assert capsys.readouterr().out.count("have no sequences (1, 2)") == 1


@pytest.mark.parametrize("value", [1e300, -1e39])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values_beyond_float32_are_refused_before_a_run_folder_is_made(
    data: Path, capsys: pytest.CaptureFixture[str], value: float, dtype: str
) -> None:
    x = np.ones((30, 4, 2))
    x[3, 2, 1] = value
    np.savez(data, x=x, y=np.arange(30) % 2)
    assert main(["train", "x.npz", "--dtype", dtype, "--output", "run"]) == 2
    assert re.search(
        r"x\.npz: x holds numbers of up to 1e\+\d+, which are not finite in float32", capsys.readouterr().err
    )
    assert not Path("run").exists()


def test_inputs_too_large_for_the_network_are_not_blamed_on_the_learning_rate(data: Path, tmp_path: Path) -> None:
    x = np.full((30, 4, 2), 3e38)
    np.savez(data, x=x, y=np.arange(30) % 2)
    with pytest.raises(
        LabError, match=r"loss became (nan|inf) in epoch 1, step 1; .* the inputs, of up to 3e\+38, are too"
    ):
        training.train(dataclasses.replace(FILE, task="x.npz", output=tmp_path / "run"), QUIET)


@pytest.mark.parametrize(
    ("fused", "what"),
    [
        (True, "validation loss became nan in epoch 1, step 2"),
        (False, "update of a weight became inf in epoch 1, step 1"),
    ],
    ids=["fused", "as in older checkpoints"],
)
def test_overflow_in_the_optimizer_is_told(
    fused: bool, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not fused:
        monkeypatch.setitem(learner.OPTIMIZERS, "adam", lambda groups, **options: torch.optim.Adam(groups))
    options = [
        "--learning-rate",
        "3e38",
        "--schedule",
        "constant",
        "--model",
        "relu",
        "--epochs",
        "1",
        "--subset",
        "50",
    ]
    assert main(["train", "sdigits", *options, "--output", str(tmp_path / "run")]) == 1
    err = capsys.readouterr().err
    assert re.match(rf"aru: The {what}.*; .* lower --learning-rate \(now 3e\+38\)", err)
    assert err.count("\n") == 1


def test_network_that_memory_can_not_hold_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--hidden-size", "20000000", "--model", "relu", "--output", str(tmp_path / "run")]
    assert main(["train", "sdigits", *options]) == 2
    assert capsys.readouterr().err.startswith("aru: There is not enough memory for this network and these sequences;")
    assert not (tmp_path / "run").exists()


def test_threads_that_the_machine_does_not_permit_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_more(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setattr("threading.Thread.start", no_more)
        stack.enter_context(
            pytest.raises(LabError, match=r"threads: got 1000, and this machine permits no more than 0")
        )
        training.train(dataclasses.replace(CONFIG, threads=1000, output=tmp_path / "run"), QUIET)
    assert not (tmp_path / "run").exists()


def test_source_without_a_finished_epoch_is_told(tmp_path: Path, runs: dict[str, Path]) -> None:
    shutil.copytree(runs["whole constant"], tmp_path / "first")
    (tmp_path / "first" / "best.pt").unlink()
    with pytest.raises(RunError, match=r"first/best\.pt is missing, though the run has finished 4 epochs"):
        training.train(dataclasses.replace(CONFIG, initial_from=tmp_path / "first", output=tmp_path / "second"), QUIET)
    assert not (tmp_path / "second").exists()
    with pytest.raises(RunError, match=r"best\.pt is missing"):
        load_classifier(tmp_path / "first")
