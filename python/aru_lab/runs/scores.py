"""Scores of a run that are computed once: RUN/scores.jsonl, one line each.

A line holds for the weights, the data, the test examples and the perturbation that it names. A killed evaluation loses
one score.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from aru_lab.arguments import check_choice
from aru_lab.data.sequences import Sequences
from aru_lab.data.tasks import Task
from aru_lab.errors import ConfigError, RunError
from aru_lab.files import Form, check_form, read_lines, reading, sha256_of
from aru_lab.networks.perturbations import Perturbation, describe, parse
from aru_lab.runs.config import CHECKPOINTS
from aru_lab.runs.evaluation import Score, load_classifier, score, task_of
from aru_lab.runs.folder import RunFolder, append_result, without_checkpoint
from aru_lab.runs.runtime import run_on
from aru_lab.runs.state import DAMAGED, check_data, data_of, without_best

CLEAN = "clean"
FILE = "scores.jsonl"
_LINE: Form = {
    "weights": str,
    "task": str,
    "data": (str, type(None)),
    "test_subset": (int, type(None)),
    "perturbation": str,
    "loss": float,
    "accuracy": float,
    "n": int,
}


def known_scores(
    run: Path,
    perturbations: Sequence[Perturbation | None],
    test_subset: int | None = None,
    task: str | None = None,
    report: Callable[[float], None] = lambda fraction: None,
    which: str = "best",
) -> list[Score]:
    """The scores of a run on its test examples, one for each perturbation; None is the clean input.

    Args:
        run: the run folder.
        perturbations: what to score under.
        test_subset: take the first so many test examples; None takes all.
        task: read the test examples of this task; None takes the run's.
        report: called with the fraction that is done.
        which: "best" for the weights of the epoch with the best validation accuracy, "last" for the latest ones.

    Raises:
        RunError, ConfigError, DataError: with a sentence that says what to do.
    """
    folder = RunFolder(Path(run))
    config, environment = folder.read_config()
    if task is None:
        check_data(config, environment)
    path = folder.path / FILE
    check_choice("checkpoint", which, CHECKPOINTS)
    file = folder.best_file if which == "best" else folder.last_file
    if not os.path.lexists(file):
        raise RunError(without_best(folder) if which == "best" else without_checkpoint(file))
    with reading(file, RunError, DAMAGED):
        weights = sha256_of(file)[:16]
    data = data_of(config, task)
    context = {"weights": weights, "task": task or config.task, "data": data, "test_subset": test_subset}
    names = [CLEAN if perturbation is None else describe(perturbation) for perturbation in perturbations]
    known = {
        line["perturbation"]: Score(line["loss"], line["accuracy"], line["n"])
        for line in _read(path)
        if all(line[name] == value for name, value in context.items())
    }
    missing = {name: perturbation for name, perturbation in zip(names, perturbations, strict=True) if name not in known}
    if missing:
        model, config = load_classifier(run, which)
        sequences = _test_examples(task_of(config, task), config.data_dir, data)
        sequences = sequences if test_subset is None else _first(sequences, test_subset)
        with run_on(config.backend, model, config.matmul_precision):
            for k, (name, perturbation) in enumerate(missing.items()):
                result = score(model, sequences, perturbation=perturbation)
                known[name] = result
                line = {**context, "perturbation": name, "loss": result.loss, "accuracy": result.accuracy}
                append_result({**line, "n": result.n}, path)
                report((k + 1) / len(missing))
    return [known[name] for name in names]


@functools.lru_cache(maxsize=1)
def _test_examples(task: Task, data_dir: Path | None, data: str | None) -> Sequences:
    """The test examples of a task whose file, if it has one, has the checksum `data`.

    The last ones stay in memory: several sweeps of one network, and networks of one seed, read the same.
    """
    return task.load(data_dir).test


def kept_scores(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's own task and of the weights that were scored last, in the order in which they came.

    Raises:
        RunError: the folder holds no run, or the file is damaged.
    """
    config, environment = RunFolder(Path(run)).read_config()
    data = environment.get("sources", {}).get("task")
    lines = [line for line in _read(Path(run) / FILE) if (line["task"], line["data"]) == (config.task, data)]
    return [line for line in lines if line["weights"] == lines[-1]["weights"]]


def _read(path: Path) -> list[dict[str, Any]]:
    # Earlier versions did not write "data". Of a file, those scores fit no data and are computed again.
    return [{"data": None} | line for line in read_lines(path, _check, RunError)]


def _check(line: dict[str, Any]) -> None:
    check_form({"data": None} | line, _LINE)
    # of a network that overflows under a perturbation they are not finite
    if line["n"] < 1 or line["accuracy"] > 1 or line["loss"] < 0:
        raise ValueError(f"it has the accuracy {line['accuracy']} and the loss {line['loss']} of {line['n']} sequences")
    if line["perturbation"] != CLEAN:
        try:
            parse(line["perturbation"])
        except ConfigError as error:
            raise ValueError(str(error)) from error


def _first(sequences: Sequences, n: int) -> Sequences:
    return sequences.take(slice(min(n, len(sequences))))
