"""Scores of a run that are computed once: RUN/scores.jsonl, one line each.

A line holds for the weights, the test examples and the perturbation that it names; a killed evaluation loses one score.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from aru_lab.checkpoint import RunFolder, mend_lines, read_lines
from aru_lab.errors import RunError
from aru_lab.evaluation import Score, load_classifier, score, task_of
from aru_lab.perturbations import Perturbation, describe
from aru_lab.runtime import run_on
from aru_lab.sequences import Sequences

CLEAN = "clean"
FILE = "scores.jsonl"


def known_scores(
    run: Path,
    perturbations: Sequence[Perturbation | None],
    test_subset: int | None = None,
    task: str | None = None,
    report: Callable[[float], None] = lambda fraction: None,
) -> list[Score]:
    """The scores of a run's best weights on its test examples, one for each perturbation; None is the clean input.

    Args:
        run: the run folder.
        perturbations: what to score under.
        test_subset: take the first so many test examples; None takes all.
        task: read the test examples of this task; None takes the run's.
        report: called with the fraction that is done.

    Raises:
        RunError, ConfigError, DataError: with a sentence that says what to do.
    """
    folder = RunFolder(Path(run))
    config, _ = folder.read_config()
    path = folder.path / FILE
    try:
        weights = hashlib.sha256(folder.best_file.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise RunError(f"{folder.best_file} can't be read ({error}); train the run first.") from error
    context = {"weights": weights, "task": task or config.task, "test_subset": test_subset}
    names = [CLEAN if perturbation is None else describe(perturbation) for perturbation in perturbations]
    known = {
        line["perturbation"]: Score(line["loss"], line["accuracy"], line["n"])
        for line in read_lines(path)
        if all(line.get(name) == value for name, value in context.items())
    }
    missing = {name: perturbation for name, perturbation in zip(names, perturbations, strict=True) if name not in known}
    if missing:
        mend_lines(path)
        model, config = load_classifier(run)
        sequences = task_of(config, task).load(config.data_dir).test
        sequences = sequences if test_subset is None else _first(sequences, test_subset)
        with run_on(config.backend, model, config.matmul_precision):
            for k, (name, perturbation) in enumerate(missing.items()):
                result = score(model, sequences, perturbation=perturbation)
                known[name] = result
                line = {**context, "perturbation": name, "loss": result.loss, "accuracy": result.accuracy}
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({**line, "n": result.n}) + "\n")
                report((k + 1) / len(missing))
    return [known[name] for name in names]


def kept_scores(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's own task and of the weights that were scored last, in the order in which they came."""
    config, _ = RunFolder(Path(run)).read_config()
    lines = [line for line in read_lines(Path(run) / FILE) if line.get("task") == config.task]
    return [line for line in lines if line.get("weights") == lines[-1]["weights"]]


def _first(sequences: Sequences, n: int) -> Sequences:
    return sequences.take(slice(min(n, len(sequences))))
