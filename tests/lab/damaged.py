"""What the laboratory reads, and what becomes of a command when one of these files is damaged.

Run as a script it makes a campaign of many damages: python -m tests.lab.damaged N SEED, from the repository's folder.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import io
import operator
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from aru_lab.analysis.settings import Settings
from aru_lab.cli import main
from aru_lab.data import cifar, images
from aru_lab.errors import Interrupted, LabError
from aru_lab.experiments import robustness
from aru_lab.experiments.analyse import analyse
from aru_lab.runs import training
from aru_lab.runs.analyses import AnalysisFolder
from aru_lab.runs.folder import RunFolder, load_checkpoint
from aru_lab.runs.sensitivity import kept_sweeps
from aru_lab.runs.state import read_history

from .conftest import idx_bytes, write_idx
from .damage import damages, replacements

SIZES = ["--hidden-size", "4", "--controller-size", "3", "--threads", "1", "--device", "cpu", "--batch-size", "10"]
STRENGTHS = "--step-amplitudes 0 1 --step-lengths 0 0.5 --noise-deviations 0 1 --contrast-amplitudes 0 1"
STRENGTHS = [*STRENGTHS.split(), "--contrast-phases", "0", "1"]
SMALLEST = Settings((0.0, 0.5, 1.0, 2.0, 4.0), repeats=1, sequences=4, steps=10, exponents=1, grid=2)
MNIST_SIZES = {"train-images-idx3-ubyte": (12, 3, 3), "train-labels-idx1-ubyte": (12,)}
MNIST_SIZES |= {"t10k-images-idx3-ubyte": (4, 3, 3), "t10k-labels-idx1-ubyte": (4,)}


@dataclass(frozen=True)
class Subject:
    """A file that the laboratory reads, below the folder that `build` makes, and what reads it.

    `attempt` gets the folder; what it returns must be the same, in the sense of `same`, after a damage that is not
    refused.
    """

    file: str
    attempt: Callable[[Path], Any]
    what: str
    same: Callable[[Any, Any], bool] = operator.eq


def command(*arguments: str) -> tuple[str, str]:
    """What a command printed to standard output; raises LabError with its sentence where it ended with status 2."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(list(arguments))
    if status == 0:
        return out.getvalue(), err.getvalue()
    assert status == 2, (status, err.getvalue())
    assert err.getvalue().startswith("aru: "), err.getvalue()
    assert err.getvalue().count("\n") == 1, err.getvalue()
    raise LabError(err.getvalue())


def _evaluate(folder: Path) -> Any:
    return command("evaluate", str(folder / "done"))


def _evaluate_last(folder: Path) -> Any:
    return command("evaluate", str(folder / "done"), "--checkpoint", "last")


def _curves(folder: Path) -> Any:
    run = RunFolder(folder / "done")
    run.read_config()
    return read_history(run)


def _robustness(folder: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(robustness, "draw", lambda *_: None)  # it takes longer than all else
        command("robustness", str(folder / "done"), *STRENGTHS, "--output", str(folder / "rob"))
    return (folder / "rob.csv").read_bytes()


def _sensitivity(folder: Path) -> Any:
    return {
        (name, kept.label, strength): score
        for name, kept in kept_sweeps(folder / "done").items()
        for strength, score in kept.scores.items()
    }


def _fewer(found: dict[Any, Any], expected: dict[Any, Any]) -> bool:
    """Whole lines may be missing, as where the measurement was stopped: what is there is shown, and nothing else."""
    return found.items() <= expected.items()


def _resume(folder: Path) -> Any:
    command("train", "--resume", str(folder / "stopped"))
    run = RunFolder(folder / "stopped")
    last, best = load_checkpoint(run.last_file), load_checkpoint(run.best_file)
    return comparable((last["model"], last["optimizer"], best["model"], best["epoch"], run.read_metrics()))


def _resume_finished(folder: Path) -> Any:
    command("train", "--resume", str(folder / "done"))
    return comparable([load_checkpoint(folder / "done" / name)["model"] for name in ("last.pt", "best.pt")])


def _train(folder: Path) -> Any:
    output = folder / "new"
    shutil.rmtree(output, ignore_errors=True)
    try:
        command("train", str(folder / "x.npz"), *SIZES, "--epochs", "1", "--output", str(output))
    except LabError:
        assert not output.exists(), "a run folder was made"
        raise
    return comparable(load_checkpoint(output / "last.pt")["model"])


def _begin_from(folder: Path) -> Any:
    output = folder / "new"
    shutil.rmtree(output, ignore_errors=True)
    options = ["--epochs", "1", "--initial-from", str(folder / "done"), "--output", str(output)]
    command("train", str(folder / "x.npz"), *SIZES, *options)
    return comparable(load_checkpoint(output / "last.pt")["model"])


def _mnist(folder: Path) -> Any:
    return comparable(vars(images.load_mnist(folder / "mnist")))


def _cifar(folder: Path) -> Any:
    return comparable(cifar.read_cifar10(folder / "cifar"))


def _cifar_archive(folder: Path) -> Any:
    return comparable(cifar.read_cifar10(folder / "packed"))


def _analysis(part: str) -> Callable[[Path], Any]:
    def attempt(folder: Path) -> Any:
        return comparable(dict(AnalysisFolder(folder / "done").load(part)))

    return attempt


def _analyse(folder: Path) -> Any:
    """Damaged parts are made again."""
    analyse(folder / "done", ["spectrum"], SMALLEST, console=Console(quiet=True))
    return _analysis("spectrum")(folder)


PARTS = ("responses", "fractional", "spectrum", "heterogeneity")
SUBJECTS = [
    Subject("done/config.json", _evaluate, "evaluate"),
    Subject("done/config.json", _curves, "curves"),
    Subject("done/config.json", _robustness, "robustness"),
    Subject("done/best.pt", _evaluate, "evaluate"),
    Subject("done/best.pt", _robustness, "robustness"),
    Subject("done/best.pt", _begin_from, "train --initial-from"),
    Subject("done/best.pt", _resume_finished, "train --resume (finished)"),
    Subject("done/last.pt", _evaluate_last, "evaluate --checkpoint last"),
    Subject("done/last.pt", _curves, "curves"),
    Subject("done/metrics.jsonl", _curves, "curves"),
    Subject("done/metrics.jsonl", _resume_finished, "train --resume (finished)"),
    Subject("done/scores.jsonl", _robustness, "robustness"),
    Subject("done/scores.jsonl", _sensitivity, "figure 2", _fewer),
    Subject("stopped/config.json", _resume, "train --resume"),
    Subject("stopped/last.pt", _resume, "train --resume"),
    Subject("stopped/best.pt", _resume, "train --resume"),
    Subject("stopped/metrics.jsonl", _resume, "train --resume"),
    Subject("x.npz", _train, "train"),
    Subject("x.npz", _evaluate, "evaluate"),
    Subject("x.npz", _resume, "train --resume"),
    *(
        Subject(f"mnist/{name}{suffix}", _mnist, "MNIST")
        for name, suffix in zip(MNIST_SIZES, ("", ".gz") * 2, strict=True)
    ),
    Subject("cifar/data_batch_2.bin", _cifar, "CIFAR-10"),
    Subject("cifar/MD5SUMS", _cifar, "CIFAR-10"),
    Subject(f"packed/{cifar.ARCHIVE}", _cifar_archive, "CIFAR-10's archive"),
    *(Subject(f"done/analysis/{part}.npz", _analysis(part), "figures") for part in PARTS),
    Subject("done/analysis/spectrum.npz", _analyse, "analyse"),
]


def comparable(value: Any) -> Any:
    """A value that == compares to the bit, without the timings of metrics."""
    if isinstance(value, dict):
        return {
            name: comparable(item) for name, item in value.items() if name not in ("seconds", "sequences_per_second")
        }
    if isinstance(value, (list, tuple)):
        return [comparable(item) for item in value]
    if isinstance(value, images.Images):
        return comparable(vars(value))
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    return value


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _stop_at_5(step: Callable[..., Any]) -> Callable[..., Any]:
    def stopping(trainer: Any, index: torch.Tensor) -> Any:
        if trainer.position.step == 4:
            trainer.stop.received = 15
        return step(trainer, index)

    return stopping


@contextlib.contextmanager
def build(folder: Path) -> Iterator[None]:
    """Make all files in the folder; within the block the small MNIST and CIFAR-10 among them count as the real ones."""
    rng = np.random.RandomState(0)
    np.savez(folder / "x.npz", x=rng.normal(size=(40, 4, 2)).astype(np.float32), y=rng.randint(0, 3, 40))
    for name, epochs in (("done", "2"), ("stopped", "3")):
        options = ["--epochs", epochs, "--checkpoint-seconds", "0", "--output", str(folder / name)]
        with pytest.MonkeyPatch.context() as patch:
            if name == "stopped":
                patch.setattr(training._Trainer, "step", _stop_at_5(training._Trainer.step))
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                status = main(["train", str(folder / "x.npz"), *SIZES, *options])
            assert status == (Interrupted.exit_code if name == "stopped" else 0)
    _robustness(folder)
    analyse(folder / "done", PARTS, SMALLEST, console=Console(quiet=True))
    checksums = {}
    for (name, shape), suffix in zip(MNIST_SIZES.items(), ("", ".gz") * 2, strict=True):
        array = rng.randint(0, 10, shape).astype(np.uint8)
        write_idx(folder / "mnist" / f"{name}{suffix}", array)
        checksums[name] = (_md5(idx_bytes(array)), "")
    (folder / "cifar").mkdir()
    (folder / "packed").mkdir()
    for name in (*cifar.TRAIN_FILES, cifar.TEST_FILE):
        labels = np.repeat(np.arange(10, dtype=np.uint8), 1)[:, None]
        records = np.concatenate([labels, rng.randint(0, 256, (10, 3072)).astype(np.uint8)], axis=1)
        (folder / "cifar" / name).write_bytes(records.tobytes())
    sums = (
        f"{_md5((folder / 'cifar' / name).read_bytes())}  {name}\n" for name in (*cifar.TRAIN_FILES, cifar.TEST_FILE)
    )
    (folder / "cifar" / "MD5SUMS").write_text("".join(sums))
    archive = Path(shutil.make_archive(str(folder / "packed" / "made"), "gztar", folder, "cifar"))
    archive.rename(folder / "packed" / cifar.ARCHIVE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "MNIST_FILES", checksums)
        patch.setattr(cifar, "IMAGES_PER_FILE", 10)
        patch.setattr(cifar, "FOLDER", "cifar")
        patch.setattr(cifar, "ARCHIVE_MD5", _md5((folder / "packed" / cifar.ARCHIVE).read_bytes()))
        yield


@dataclass(frozen=True)
class Trial:
    """One damage to one file; `put` does it."""

    subject: Subject
    damage: str
    put: Callable[[Path], None]


def trials(base: Path, n: int, rng: random.Random) -> list[Trial]:
    """All damages to all subjects, n of every random kind."""
    found = []
    names = sorted({subject.file for subject in SUBJECTS})
    for subject in SUBJECTS:
        content = (base / subject.file).read_bytes()
        others = {name: (base / name).read_bytes() for name in names if name != subject.file}
        for name, changed in damages(content, others, n, rng):
            found.append(Trial(subject, name, lambda path, changed=changed: _write(changed, path)))
        found += [Trial(subject, name, put) for name, put in replacements().items()]
    return found


def _write(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def expectation(subject: Subject, base: Path, work: Path) -> Any:
    """What the subject's command gives where nothing is damaged."""
    with _copied(base, work):
        return subject.attempt(work)


@contextlib.contextmanager
def _copied(base: Path, work: Path) -> Iterator[None]:
    """The files in the folder `work`, which is the same for every trial: paths are part of what is compared."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(base, work)
    before = Path.cwd()
    os.chdir(work)
    try:
        yield
    finally:
        os.chdir(before)


def outcome(trial: Trial, base: Path, work: Path, expected: Any) -> str:
    """refused or harmless; anything else is a fault, in words."""
    with _copied(base, work):
        path = work / trial.subject.file
        path.unlink()
        trial.put(path)
        try:
            found = trial.subject.attempt(work)
        except LabError as error:
            sentence = str(error)
            if path.name not in sentence and path.parent.name not in sentence:
                return f"does not name the file: {sentence.strip()}"
            return "refused" if "\n" not in sentence.strip() else f"several lines: {sentence}"
        except Exception:
            return f"traceback: {traceback.format_exc()}"
        if (work / "unpickled").exists():
            return "executed what the file holds"
        if list(work.rglob("*.partial")):
            return "left a temporary file"
        return "harmless" if trial.subject.same(found, expected) else "silently different"


def campaign(n: int, seed: int) -> int:
    """Run all trials, print the counts and the faults; the number of faults."""
    torch.set_num_threads(1)
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    faults = []
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        base, work = Path(name) / "base", Path(name) / "work"
        base.mkdir()
        work.mkdir()
        with build(work):
            shutil.rmtree(base)
            shutil.copytree(work, base)
            expected = {subject: expectation(subject, base, work) for subject in SUBJECTS}
            planned = trials(base, n, random.Random(seed))
            for trial in planned:
                result = outcome(trial, base, work, expected[trial.subject])
                counts[trial.subject.file.split("/")[-1], result if result in ("refused", "harmless") else "fault"] += 1
                if result not in ("refused", "harmless"):
                    faults.append(f"{trial.subject.file}, {trial.subject.what}, {trial.damage}: {result}")
                    print(faults[-1], flush=True)
    for (file, result), count in sorted(counts.items()):
        print(f"{file:28} {result:10} {count}")
    print(f"{len(planned)} damaged files, {len(faults)} faults, {time.monotonic() - started:.0f} s")
    return len(faults)


if __name__ == "__main__":
    sys.exit(campaign(int(sys.argv[1]), int(sys.argv[2])) > 0)
