"""The command `aru`: what it prints, its exit codes, and one sentence for every error."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from aru_lab.cli import main
from aru_lab.plots.curves import learning_curves
from aru_lab.runs import training

from .conftest import with_sources

SMALL = [
    "--model",
    "relu",
    "--hidden-size",
    "6",
    "--epochs",
    "2",
    "--subset",
    "60",
    "--validation-subset",
    "30",
    "--device",
    "cpu",
]


def test_train_then_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "run")
    assert main(["train", "sdigits", *SMALL, "--output", folder]) == 0
    printed = capsys.readouterr().out
    assert f"Run folder: {folder}" in printed.replace("\n", "")
    assert printed.count("train loss") == 2
    assert f"aru evaluate {folder}" in printed
    assert main(["evaluate", folder, "--perturb", "step:amplitude=-1,onset=5", "contrast:amplitude=0.5"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for row in (
        "359 test sequences",
        "clean",
        "step:amplitude=-1,onset=5",
        "contrast:amplitude=0.5,frequency=1,phase=0",
    ):
        assert row in printed


def test_learning_curves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of several runs, with what their metrics say."""
    from matplotlib.figure import Figure

    folders = [str(tmp_path / f"run-{seed}") for seed in (0, 1)]
    for seed, folder in enumerate(folders):
        assert main(["train", "sdigits", *SMALL, "--seed", str(seed), "--output", folder]) == 0
    drawn = []
    with pytest.MonkeyPatch.context() as patch:
        save = Figure.savefig
        patch.setattr(
            Figure, "savefig", lambda figure, *args, **options: (drawn.append(figure), save(figure, *args, **options))
        )
        assert main(["curves", *folders, "--output", str(tmp_path / "figures" / "curves.png")]) == 0
    assert (tmp_path / "figures" / "curves.png").stat().st_size > 1000
    lines = {line.get_label(): line.get_xydata() for line in drawn[0].axes[0].get_lines()}
    assert set(lines) == {f"run-{seed}, {part}" for seed in (0, 1) for part in ("validation", "train")}
    metrics = [json.loads(line) for line in (Path(folders[1]) / "metrics.jsonl").read_text().splitlines()]
    assert lines["run-1, validation"].tolist() == [[m["epoch"], 100 * m["validation_accuracy"]] for m in metrics]


@pytest.mark.parametrize("n", [2, 7, 16, 40])
def test_learning_curves_of_many_runs_have_different_colours(tmp_path: Path, n: int) -> None:
    from matplotlib.figure import Figure

    entry = {"epoch": 1, "train_accuracy": 0.5, "validation_accuracy": 0.4}
    histories = {f"run-{k}": [entry, entry | {"epoch": 2}] for k in range(n)}
    drawn = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda figure, file, **_: (drawn.append(figure), file.write(b"picture")))
        learning_curves(histories, tmp_path / "curves.png")
    (axes,) = drawn[0].axes
    colours = {tuple(line.get_color()) for line in axes.get_lines()}
    assert len(axes.get_lines()) == 2 * n
    assert len(colours) == n
    drawn[0].draw_without_rendering()
    if n > 4:
        (legend,) = drawn[0].legends
        assert [text.get_text() for text in legend.get_texts()] == list(histories)
        assert axes.get_legend() is None
        box = legend.get_window_extent()
        assert box.x0 >= axes.get_window_extent().x1
        assert box.y0 >= 0
        assert box.height <= drawn[0].bbox.height


def test_curves_of_a_regression_show_r_squared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from matplotlib.figure import Figure

    rng = np.random.RandomState(0)
    np.savez(tmp_path / "data.npz", x=rng.rand(40, 3, 1), y=rng.rand(40))
    small = ["--model", "relu", "--hidden-size", "3", "--epochs", "1", "--device", "cpu"]
    assert main(["train", str(tmp_path / "data.npz"), *small, "--output", str(tmp_path / "numbers")]) == 0
    assert "R²" in capsys.readouterr().out
    drawn = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda figure, file, **_: (drawn.append(figure), file.write(b"picture")))
        assert main(["curves", str(tmp_path / "numbers"), "--output", str(tmp_path / "curves.png")]) == 0
    assert drawn[0].axes[0].get_ylabel() == "R² (%)"


def test_curves_of_the_runs_that_have_some(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, figure = tmp_path / "run", tmp_path / "curves.png"
    assert main(["train", "sdigits", *SMALL, "--output", str(run)]) == 0
    capsys.readouterr()
    assert main(["curves", str(tmp_path / "nowhere"), str(run), "--output", str(figure)]) == 2
    out, err = capsys.readouterr()
    assert out == f"Learning curves of 1 run: {figure}\n"
    assert err.startswith(f"aru: 1 of 2 runs failed; the first: {tmp_path / 'nowhere'} holds no run")
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_learning_curves_of_runs_of_one_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sweeps name their runs alike; none may take the place of another."""
    first, second = tmp_path / "first" / "relu-seed0", tmp_path / "second" / "relu-seed0"
    assert main(["train", "sdigits", *SMALL, "--output", str(first)]) == 0
    shutil.copytree(first, second)
    assert main(["curves", str(first), str(second), "--output", str(tmp_path / "curves.png")]) == 0
    assert "Learning curves of 2 runs" in capsys.readouterr().out


def test_results_that_can_not_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, obstacle = tmp_path / "run", tmp_path / "file"
    obstacle.touch()
    assert main(["train", "sdigits", *SMALL, "--output", str(run)]) == 0
    capsys.readouterr()
    (run / "analysis").symlink_to(obstacle)
    small, one = ["--test-subset", "5"], ["--models", "relu", "--seeds", "0", "--no-match-parameters"]
    for command in (
        ["curves", str(run), "--output", str(obstacle / "curves.png")],
        ["robustness", str(run), *small, "--output", str(obstacle / "scores")],
        ["sweep", "sdigits", *SMALL[2:], *one, "--output", str(obstacle / "sweep")],
        ["analyse", str(run), "spectrum"],
    ):
        assert main(command) == 2
        message = capsys.readouterr().err
        assert re.search(r"^aru: \S+ can't be written \(.*\); .* choose another folder", message), message
        assert "--resume" not in message


def test_default_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "sdigits", *SMALL, "--seed", "4"]) == 0
    assert (tmp_path / "runs" / "sdigits-relu-seed4" / "config.json").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            "train fly",
            r"task: got 'fly', expected one of adding, .*psmnist, .* or the path of an \.npz or \.mat file\.",
        ),
        ("train fly.npz", r"fly\.npz: there is no such file; expected an \.npz file with x of shape \(N, T, I\)"),
        ("train --model rnn", r"model: got 'rnn', expected one of arun"),
        ("train --epochs 0", r"epochs: got 0, expected a whole number of at least 1"),
        ("train --epochs 99999999999", r"epochs: got 99999999999, expected a whole number from 1 to 1000000000\."),
        ("train --threads 100000", r"threads: got 100000, expected a whole number from 1 to 1024 or None\."),
        (
            "train --learning-rate 1e300",
            r"learning_rate: got 1e\+300, expected a finite number above 0 and within",
        ),
        ("train --perturb step:amplitude=1e39", r"amplitude: got 1e\+39, expected a finite number within float32"),
        ("train --epochs many", r"--epochs: got 'many', expected a whole number; `aru train --help` lists what is"),
        ("train --colour red", r"--colour: there is no such option; `aru train --help` lists what is expected\.\n"),
        ("train --subset 5000", r"subset: got 5000, expected at most 1258, the number"),
        ("train --device cuda:99", r"device: got 'cuda:99', .* expected auto, cpu, or a GPU that is present"),
        ("train --backend fast", r"backend: .*'fast'"),
        ("train smnist --data-dir nowhere", r"nowhere: MNIST's file .* is neither there nor"),
        ("train scifar10 --data-dir nowhere", r"nowhere: neither cifar-10-binary\.tar\.gz nor .* is there"),
        ("train --pixels-per-step 7", r"pixels_per_step: got 7, expected a divisor of 64\."),
        ("train --perturb wind", r"perturb: got 'wind', expected one of step:amplitude=\.\.\.,\[onset=\.\.\.\]"),
        ("train --freeze head", r"freeze: got 'head', expected one of activation, recurrent, readout, encoder\."),
        ("train --freeze encoder", r"freeze: got encoder, which this model does not have; expected parts of act"),
        ("train --freeze activation recurrent readout", r"freeze: got .*, expected to leave something to train"),
        ("train --model gru --freeze-controller", r"freeze_controller: got the model gru, expected arun"),
        ("train --model gru --controller-from x", r"controller_from: got x with the model gru, expected .* arun"),
        ("train --initial-gain 3", r"initial_gain: got '3' with the model arun, expected one of the models gamma-hom"),
        ("train --initial-saturation 1 --model relu", r"initial_saturation: got '1' with the model relu, expected"),
        ("train --model gamma-homogeneous --controller-size 8", r"controller_size: got 8 .*, expected the model arun"),
        ("train --biases torch", r"biases: got 'torch' with the model arun, expected .* gamma-heterogeneous, relu"),
        ("train --model gru --lstm-weights xavier", r"lstm_weights: got 'xavier' .*, expected the model lstm"),
        ("train --model gru --backend reference", r"backend: got 'reference' with the model gru, expected one of"),
        ("sweep --initial-gain 3 --models relu arun", r"initial_gain: got '3' with the models relu, arun, expected"),
        (
            "sweep --models relu --controller-size 8 --no-match-parameters",
            r"controller_size: got 8 with the model relu",
        ),
        ("sweep --models gru --vary initial_gain=1,2", r"vary: got initial_gain with gru, expected one of gamma-hom"),
        ("sweep --model relu", r"model: got 'relu', expected --models, which lists those of a sweep"),
        ("sweep --seed 3", r"seed: got 3, expected --seeds, which lists those of a sweep"),
        ("train --controller-from nowhere", r"nowhere holds no run"),
        ("train --initial-from nowhere", r"nowhere holds no run"),
        ("train --resume nowhere", r"nowhere holds no run .*; start one with"),
        ("train --resume nowhere --epochs 3", r"resume: got further arguments beside --resume nowhere"),
        ("evaluate nowhere", r"nowhere holds no run"),
        ("evaluate", r"RUN: got nothing, expected a value; `aru evaluate --help` lists what is expected\."),
        ("evaluate nowhere --batch-size 0", r"batch_size: got 0"),
        ("evaluate nowhere --perturb step:amplitude=nan", r"perturb: 'step:amplitude=nan': amplitude: got nan"),
        ("evaluate nowhere --perturb flood", r"perturb: got 'flood', expected one of step:"),
        ("curves nowhere", r"nowhere holds no run"),
        ("curves", r"run: got no run, expected the folder of at least one"),
        ("curves nowhere --output curves.xyz", r"output: got curves\.xyz, expected a name that ends in .*\.png"),
        ("sweep --vary size=1,2", r"vary: got 'size=1,2', expected FIELD=VALUE,VALUE,... with a field of task, hidden"),
        ("sweep --vary seed=1,2", r"vary: got 'seed=1,2', expected another field; for seed there is --seeds"),
        ("sweep --vary epochs=0,2", r"epochs: got 0, expected a whole number of at least 1"),
        ("sweep --models rnn", r"models: got 'rnn', expected one of arun"),
        ("sweep --jobs 0", r"jobs: got 0, expected a whole number of at least 1"),
        ("sweep --seeds", r"seeds: got none, expected at least one\."),
        ("sweep --seeds 0 1 0", r"seeds: got 0 1 0, expected each once\."),
        ("sweep --models", r"models: got none, expected at least one\."),
        ("sweep --vary epochs=1,2,1", r"vary: epochs: got 1 2 1, expected each once\."),
        ("sweep --vary epochs=1 epochs=2", r"vary: got epochs epochs, expected each once\."),
        ("robustness nowhere", r"nowhere holds no run"),
        ("robustness", r"run: got no run, expected the folder of at least one"),
        ("robustness nowhere --step-lengths 0.9", r"step_lengths: got 0\.9, expected fractions of T from 0 to 0\.75"),
        ("transfer nowhere", r"nowhere holds no run"),
        ("transfer", r"run: got no run, expected the folder of at least one"),
        ("reproduce table2", r"result: got 'table2', expected one of table1, fig2, transfer, transplant"),
        ("reproduce table1 --scale huge", r"scale: got 'huge', expected one of tiny, small, paper"),
        ("fly", r"fly: there is no such command; `aru --help` lists them\.\n"),
    ],
)
def test_user_error_is_one_sentence_and_exit_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(rf"^aru: .*{sentence}", err), err
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_file_of_another_kind_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("walk.csv").write_text("0.1,0.2\n")
    assert main(["train", "walk.csv"]) == 2
    sentence = r"task: got the file 'walk\.csv', expected one whose name ends in \.npz or \.mat; numpy\.savez\("
    assert re.search(sentence, capsys.readouterr().err)


def test_printed_commands_can_be_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    first = ["train", "sdigits", *SMALL, "--epochs", "1", "--output", "my runs/a run"]
    assert main(first) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "parameters for 1 epoch; best" in printed
    evaluate = re.search(r"test it with: aru (evaluate '.*')", printed)
    assert evaluate
    assert main(shlex.split(evaluate[1])) == 0
    capsys.readouterr()
    assert main(first) == 2
    assert "`aru train --resume 'my runs/a run'`" in capsys.readouterr().err
    assert main(["evaluate", "no run"]) == 2
    assert "`aru train TASK --output 'no run'`" in capsys.readouterr().err


def test_finished_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "sdigits", *SMALL, "--output", str(tmp_path / "run")]
    assert main(arguments) == 0
    capsys.readouterr()
    assert main(arguments) == 2
    assert "already holds a run: continue it with `aru train --resume" in capsys.readouterr().err


def test_non_finite_loss_has_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--learning-rate", "100", "--schedule", "constant", "--clip", "None", "--controller-size", "3"]
    arguments = ["train", "sdigits", *SMALL, *options, "--output", str(tmp_path / "run"), "--model", "arun"]
    assert main(arguments) == 1
    assert "training has stopped and the last good checkpoint is" in capsys.readouterr().err


def test_interrupt_has_exit_code_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", interrupted)
    assert main(["train"]) == 130
    assert "aru train --resume RUN" in capsys.readouterr().err


def test_help_does_not_import_torch() -> None:
    script = "import sys, aru_lab.cli as c\nc.main(['train', '--help'])\n"
    script += "sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules or 'sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], env=with_sources(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--hidden-size" in done.stdout


def test_wrong_state_budget_is_told_before_a_run_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ARU_STATE_BUDGET", "much")
    assert main(["train", "psdigits", "--epochs", "1", "--subset", "50"]) == 2
    assert capsys.readouterr().err.startswith("aru: the environment variable ARU_STATE_BUDGET is 'much', expected")
    assert not (tmp_path / "runs").exists()
