"""This tree beside another commit, measured in turns on the same machine.

    python -m benchmarks.against main               builds `main` in a folder of its own, then runs the quick subset
    python -m benchmarks.against main -k adaptive   what follows is given to pytest instead of `-m quick`

Exit status 1 if something became slower by more than a tenth and the noise.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from . import comparison
from .records import Record, load

ROOT = Path(__file__).parents[1]


def _run(command: list[str], folder: Path) -> None:
    # each tree imports its own package: nothing that is installed may stand in for it
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(folder / "python")])}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"`{' '.join(command[1:])}` failed in {folder}:\n{(done.stdout + done.stderr)[-3000:]}")


def measured(trees: dict[str, Path], selection: list[str], rounds: int, folder: Path) -> dict[str, list[Record]]:
    """Runs the benchmarks of every tree `rounds` times, in turns."""
    for number in range(rounds):
        for name, tree in trees.items():
            print(f"round {number + 1} of {rounds}: {name}", flush=True)
            command = [sys.executable, "-m", "pytest", "benchmarks", "--benchmark-only", "-q", "-p", "no:cacheprovider"]
            _run([*command, "--results", str(folder / f"{name}.jsonl"), *selection], tree)
    return {name: load([folder / f"{name}.jsonl"]) for name in trees}


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.against", description=__doc__.splitlines()[0])
    parser.add_argument("base", help="a commit, branch or tag")
    parser.add_argument("--rounds", type=int, default=3)
    options, selection = parser.parse_known_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}, expected 1 or more")
    with tempfile.TemporaryDirectory() as temporary:
        tree = Path(temporary) / "base"
        added = subprocess.run(
            ["git", "worktree", "add", "--detach", str(tree), options.base],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if added.returncode:
            raise SystemExit(f"{options.base!r} cannot be checked out: {added.stderr.strip()}")
        try:
            for folder in (tree, ROOT):
                _run([sys.executable, "setup.py", "build_ext", "--inplace"], folder)
            trees = {"base": tree, "this": ROOT}
            results = measured(trees, selection or ["-m", "quick"], options.rounds, Path(temporary))
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=False)
    changes = comparison.compare(results["base"], results["this"])
    print(comparison.as_markdown(changes, options.base, "this tree"), end="")
    return int(any(change.slower for change in changes))


if __name__ == "__main__":
    sys.exit(main())
