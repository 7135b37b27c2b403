"""Run under torchrun: commands that only the first process finds impossible. Argument: a folder.

Each process writes what it ended with into the folder: the exit code, or the error that got through.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from aru_lab.cli import main
from aru_lab.runs import folder as run_folder

SMALL = "train sdigits --model relu --hidden-size 6 --pixels-per-step 8 --subset 40 --validation-subset 20"


def fail_at_4(save: Any) -> Any:
    """Write checkpoints but for the fourth, as on a disk that fills up."""
    calls = 0

    def saving(content: bytes, path: Path, *advice: str) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise run_folder.RunError(f"{path} can't be written (No space left on device); make room.")
        save(content, path, *advice)

    return saving


def run(folder: Path, name: str, *options: str) -> None:
    """Run a command in all processes and note how it ended."""
    try:
        code: Any = main([*SMALL.split(), "--batch-size", "10", "--checkpoint-seconds", "0", *options])
    except BaseException as error:
        code = repr(error)
    (folder / f"{name}-{os.environ['RANK']}").write_text(str(code))


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")  # once for all commands
    place = Path(sys.argv[1])
    (place / "file").touch()
    run(place, "folder", "--output", str(place / "file" / "run"))
    if os.environ["RANK"] == "0":
        run_folder.save_atomically = fail_at_4(run_folder.save_atomically)
    run(place, "disk", "--output", str(place / "full"))
    run(place, "again", "--output", str(place / "full"))
