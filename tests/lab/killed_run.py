"""Run as a script: forks a child for every moment, which trains and kills itself with SIGKILL at that moment.

Arguments: a JSON list of [folder, moment, count, configuration]. The child dies when the moment comes for the count-th
time. Folders that hold a run already are resumed. Forking saves importing torch anew for every child, and what torch's
optimizers and the laboratory import late (torch._dynamo, sklearn.datasets) is imported here for the same reason.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sklearn.datasets  # noqa: F401
import torch
import torch._dynamo
from rich.console import Console

from aru_lab import files
from aru_lab.runs import folder as run_folder
from aru_lab.runs import learner, training
from aru_lab.runs.config import TrainConfig


def die() -> None:
    """Kill this process as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def on_call(owner: Any, name: str, count: int, instead: Callable[..., Any]) -> None:
    """Call `instead` with the arguments of the count-th call of owner.name."""
    original, calls = getattr(owner, name), 0

    def patched(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        return (instead if calls == count else original)(*arguments, **named)

    setattr(owner, name, patched)


def half_a_file(content: bytes, path: Path, *_: Any) -> None:
    """Write half of the temporary file of an atomic write, then die."""
    path.with_name(f"{path.name}.0123456789abcdef{files.TEMPORARY_SUFFIX}").write_bytes(content[: len(content) // 2])
    die()


def half_a_line(folder: run_folder.RunFolder, entry: dict[str, Any]) -> None:
    """Write half of a line of metrics.jsonl, then die."""
    line = files.sealed(entry)
    with folder.metrics_file.open("a", encoding="utf-8") as file:
        file.write(line[: len(line) // 2])
    die()


def arm(moment: str, count: int) -> None:
    """Prepare the death of this process."""
    dead = lambda *_, **__: die()  # noqa: E731
    places: dict[str, tuple[Any, str, Callable[..., Any]]] = {
        "before a step": (training._Trainer, "step", dead),
        "before a validation": (training, "score", dead),
        "in the middle of writing a file": (run_folder, "save_atomically", half_a_file),
        "before a file takes its place": (os, "replace", dead),
        "before a line of metrics": (run_folder.RunFolder, "append_metrics", dead),
        "in the middle of a line of metrics": (run_folder.RunFolder, "append_metrics", half_a_line),
    }
    owner, name, instead = places[moment]
    on_call(owner, name, count, instead)


def main() -> None:
    """Fork, train, die; fail unless every child died of SIGKILL."""
    torch.set_num_threads(1)
    learner.PLATEAUS = {"plateau": (0.5, 0)}
    for folder, moment, count, values in json.loads(sys.argv[1]):
        child = os.fork()
        if child == 0:
            arm(moment, count)
            console = Console(file=io.StringIO())
            if (Path(folder) / "config.json").exists():
                training.resume(Path(folder), console)
            else:
                training.train(TrainConfig.from_json({**values, "output": folder}), console)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            sys.exit(f"{folder}: the child was not killed {moment} ({count}), status {status}")


if __name__ == "__main__":
    main()
