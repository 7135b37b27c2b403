"""Every kind of file that the laboratory reads, damaged: one sentence that names it, or the same result as before."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aru_lab.errors import LabError, RunError
from aru_lab.files import append_line, check_form, read_lines
from aru_lab.runs.analyses import AnalysisFolder, Result
from aru_lab.runs.folder import load_checkpoint, save_checkpoint

from .damage import bit_flips, damages, replacements
from .damaged import SUBJECTS, Subject, build, command, comparable, expectation, outcome, trials
from .small_run import run

TRIALS = 4  # of a subject, and one of what is no file at all


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """The folder of undamaged files, and the one in which copies of them are damaged."""
    folder = tmp_path_factory.mktemp("damaged")
    work = folder / "work"
    work.mkdir()
    torch.set_num_threads(1)
    with build(work):
        yield Path(shutil.copytree(work, folder / "base")), work


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: f"{subject.file}, {subject.what}".replace(" ", "-"))
def test_damaged_file_is_refused_or_harmless(base: tuple[Path, Path], subject: Subject) -> None:
    undamaged, work = base
    # Strings, unlike hashes of them, seed the same numbers in every process.
    rng = random.Random(f"{subject.file} {subject.what}")
    of_subject = [trial for trial in trials(undamaged, 2, rng) if trial.subject is subject]
    no_file = [trial for trial in of_subject if trial.damage in replacements()]
    chosen = rng.sample([trial for trial in of_subject if trial not in no_file], TRIALS)
    chosen.append(rng.choice(no_file))
    expected = expectation(subject, undamaged, work)
    found = {trial.damage: outcome(trial, undamaged, work, expected) for trial in chosen}
    assert {name: result for name, result in found.items() if result not in ("refused", "harmless")} == {}


def test_flipped_bits_of_an_analysis_are_refused_or_harmless(tmp_path: Path) -> None:
    folder = AnalysisFolder(tmp_path)
    arrays = {"before": np.arange(3.0), "after": np.arange(4) * 2j}
    folder.save("spectrum", Result(arrays), {"weights": "x"})
    path = folder.file("spectrum")
    content = path.read_bytes()
    expected, refused = comparable(dict(folder.load("spectrum"))), 0
    for name, changed in bit_flips(content, 1000, random.Random(0)):
        path.write_bytes(changed)
        try:
            assert comparable(dict(folder.load("spectrum"))) == expected, name
        except RunError:
            refused += 1
    assert 500 < refused < 1000  # dates and attributes of the archive's members mean nothing


@pytest.fixture
def checkpoint(tmp_path: Path) -> tuple[Path, bytes]:
    """A small checkpoint and its content."""
    path = tmp_path / "best.pt"
    save_checkpoint({"model": {"weight": torch.arange(6.0)}, "epoch": 3}, path)
    return path, path.read_bytes()


def test_checkpoint_is_what_torch_reads(checkpoint: tuple[Path, bytes]) -> None:
    path, _ = checkpoint
    assert comparable(torch.load(path, weights_only=True)) == comparable(load_checkpoint(path))


def test_flipped_bits_of_a_checkpoint_are_refused(checkpoint: tuple[Path, bytes]) -> None:
    """All but those of the seal itself: there the file counts as one of an earlier version, whose parts are whole."""
    path, content = checkpoint
    expected, rng = comparable(load_checkpoint(path)), random.Random(0)
    seal = len(content) - 73
    for name, changed in bit_flips(content, 1000, rng):
        path.write_bytes(changed)
        try:
            found = load_checkpoint(path)
        except RunError:
            continue
        assert int(name.split()[4]) >= seal, name
        assert comparable(found) == expected


def test_checkpoint_without_a_checksum_is_read_and_its_parts_are_checked(tmp_path: Path) -> None:
    """As earlier versions wrote it."""
    path = tmp_path / "last.pt"
    torch.save({"model": {"weight": torch.arange(100.0)}}, path)
    content = path.read_bytes()
    assert load_checkpoint(path)["model"]["weight"].sum() == 4950
    changed = bytearray(content)
    changed[content.find(torch.arange(100.0).numpy().tobytes()) + 4 * 57 + 3] ^= 1
    path.write_bytes(changed)
    assert torch.load(path, weights_only=True)["model"]["weight"].sum() != 4950  # torch reads it
    with pytest.raises(RunError, match=r"last\.pt can't be read \(its part .*data/0 is damaged\); .* restore it"):
        load_checkpoint(path)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    save_checkpoint({"model": {"a": torch.ones(2), "b": torch.full((3,), value)}}, tmp_path / "best.pt")
    with pytest.raises(RunError, match=r"best\.pt can't be read \(its weight b is not finite\)"):
        load_checkpoint(tmp_path / "best.pt")


def test_lines_are_sealed_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    entries = [{"a": 1, "b": 0.1}, {"a": 2, "b": 1e-7}]
    for entry in entries:
        append_line(entry, path)

    def check(entry: dict[str, object]) -> None:
        check_form(entry, {"a": int, "b": float})

    assert read_lines(path, check, RunError) == entries
    text = path.read_text()
    path.write_text(text.replace('"a": 2', '"a": 3'))
    with pytest.raises(RunError, match=r"lines\.jsonl can't be read \(line 2 does not have the checksum"):
        read_lines(path, check, RunError)
    path.write_text('{"a": 1, "b": 2}\n')  # as earlier versions wrote it
    assert read_lines(path, check, RunError) == [{"a": 1, "b": 2}]
    path.write_text('{"a": 1, "b": 2}\n{"a": 1')  # as a kill leaves it
    append_line({"a": 4, "b": 0.5}, path)
    assert read_lines(path, check, RunError) == [{"a": 1, "b": 2}, {"a": 4, "b": 0.5}]


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"a": True}, "'a' is True, expected int or None"),
        ({"a": "1"}, "'a' is '1', expected int or None"),
        ({}, "it has no 'a'"),
        ({"a": 1, "b": 2}, "it has the unknown name 'b'"),
        ([], "it is a list and not a dictionary"),
    ],
)
def test_form_is_told(entry: object, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        check_form(entry, {"a": (int, type(None))})
    check_form({"a": None}, {"a": (int, type(None))})


def test_damages_are_a_function_of_the_seed() -> None:
    """Otherwise a fault that was found could not be found again."""
    one, two = (damages(b'{"a": 1}\n{"b": 2}\n' * 20, {"other": b"x"}, 3, random.Random(5)) for _ in range(2))
    assert one == two
    assert len(one) > 80


def test_files_that_are_no_files_do_not_hang(tmp_path: Path) -> None:
    for name, put in replacements().items():
        path = tmp_path / f"{name}.pt"
        put(path)
        with pytest.raises(LabError, match=r"\.pt (can't be read|does not exist)"):
            load_checkpoint(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch that follows the validation loss, not to be written to."""
    torch.set_num_threads(1)
    return run(
        tmp_path_factory.mktemp("trained") / "run", model="gamma-heterogeneous", epochs=1, schedule="plateau"
    ).run


def moments(content: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The moments of one parameter in last.pt."""
    return content["optimizer"]["state"][1]


def group(content: dict[str, Any]) -> dict[str, Any]:
    """The optimizer's group of parameters in last.pt."""
    return content["optimizer"]["param_groups"][0]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda content: content["model"]["recurrent.weight_hh_l0"].view(-1)[1:2].fill_(torch.nan),
            "its weight recurrent",
        ),
        (lambda content: moments(content)["exp_avg"].view(-1)[:1].fill_(torch.nan), "exp_avg of its optimizer"),
        (lambda content: moments(content)["exp_avg_sq"].fill_(torch.inf), "exp_avg_sq of its optimizer"),
        (lambda content: moments(content)["step"].fill_(torch.nan), "step of its optimizer"),
        (lambda content: group(content).update(lr=torch.nan), "lr of its optimizer"),
        (lambda content: content["plateau"].update(best=torch.nan), "best of its plateau"),
        (lambda content: content["plateau"].update(_last_lr=[torch.inf]), "_last_lr of its plateau"),
        (lambda content: content["position"].update(loss_sum=torch.nan), "loss_sum of its position"),
        (lambda content: content["position"].update(seconds=torch.inf), "seconds of its position"),
        (lambda content: content["position"].update(best_accuracy=torch.nan), "best_accuracy of its position"),
        (lambda content: content["position"].update(best_loss=torch.inf), "its position has no best epoch"),
        (lambda content: content["position"]["history"][0].update(train_loss=torch.nan), "'train_loss' is nan"),
    ],
)
def test_numbers_that_are_not_finite_are_refused(
    trained: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], sentence: str
) -> None:
    """Training would go on with them; it never saves them."""
    copy = Path(shutil.copytree(trained, tmp_path / "copy"))
    assert command("train", "--resume", str(copy))
    content = load_checkpoint(copy / "last.pt")
    change(content)
    save_checkpoint(content, copy / "last.pt")
    for arguments in (("train", "--resume", str(copy)), ("evaluate", str(copy), "--checkpoint", "last")):
        with pytest.raises(
            LabError, match=rf"^aru: \S+last\.pt can't be read \({sentence}.*\); it is damaged: restore"
        ):
            command(*arguments)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda content: group(content).update(lr=-1.0), "its optimizer has the learning rate -1.0"),
        (lambda content: group(content).update(lr="x"), "its optimizer has the learning rate 'x'"),
        (lambda content: group(content).update(betas="ab"), "its optimizer has the betas 'ab'"),
        (lambda content: group(content).update(amsgrad=True), "its optimizer has the amsgrad True"),
        (
            lambda content: moments(content).update(exp_avg=torch.zeros(1)),
            "its optimizer has another state of parameter 1",
        ),
        (lambda content: moments(content).pop("exp_avg_sq"), "its optimizer has another state of parameter 1"),
        (lambda content: content["optimizer"]["state"].pop(2), "its optimizer has the state of 6 of 7 parameters"),
        (lambda content: content["plateau"].update(step=3), "its plateau has the step 3"),
        (lambda content: content["plateau"].update(factor="x"), "its plateau has the factor 'x'"),
        (lambda content: content["plateau"].update(min_lrs=[None]), r"its plateau has the min_lrs \[None\]"),
    ],
)
def test_state_of_another_optimizer_is_refused(
    trained: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], sentence: str
) -> None:
    copy = Path(shutil.copytree(trained, tmp_path / "copy"))
    content = load_checkpoint(copy / "last.pt")
    change(content)
    save_checkpoint(content, copy / "last.pt")
    with pytest.raises(
        LabError, match=rf"last\.pt does not belong to the configuration in .*config\.json \({sentence}"
    ):
        command("train", "--resume", str(copy))
