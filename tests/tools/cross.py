"""`make cross`: the C++ test of the CPU kernels for other systems, run here in their emulators.

Nothing is installed: a target whose tools are missing is skipped, and the reason names Debian's packages. The exit
status is 1 where a target that was built fails.

    python tests/tools/cross.py [windows] [aarch64] [threads]
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.kernels_build import build_settings, compile_kernels_test

GENERIC: dict[str, tuple[list[str], int]] = {"generic": ([], 16)}
MOST_SECONDS = 1800


class Target(NamedTuple):
    """A system: its compiler, and how its programs run here."""

    compilers: tuple[str, ...]  # the first that is found
    runners: tuple[str, ...]  # likewise; none where programs run by themselves
    packages: str  # of Debian and Ubuntu
    flags: tuple[str, ...]
    link_flags: tuple[str, ...] = ("-pthread",)
    runner_flags: tuple[str, ...] = ()
    x86: bool = False  # with all instruction sets


TARGETS = {
    # gcc aligns the stack to 16 bytes there, and moves of whole AVX vectors would fail
    "windows": Target(
        ("x86_64-w64-mingw32-g++-posix",),
        ("wine64", "wine"),
        "g++-mingw-w64-x86-64-posix wine wine64",
        ("-Wa,-muse-unaligned-vector-move", "-DARU_X86=1", "-DARU_UNIT_BLOCK=4"),
        ("-static",),
        x86=True,
    ),
    "aarch64": Target(
        ("aarch64-linux-gnu-g++",),
        ("qemu-aarch64", "qemu-aarch64-static"),
        "g++-aarch64-linux-gnu qemu-user",
        ("-fopenmp",),
        # not linked statically: such programs now and then abort under QEMU
        runner_flags=("-L", "/usr/aarch64-linux-gnu"),
    ),
    # as on macOS, whose compiler has no OpenMP
    "threads": Target(("g++", "clang++"), (), "g++", ()),
}


def first_found(names: tuple[str, ...]) -> str | None:
    """Path of the first of some programs that is there."""
    return next((path for name in names if (path := shutil.which(name))), None)


def missing_tools(target: Target) -> str | None:
    """Why a target can't be tried here, or None."""
    missing = [" or ".join(names) for names in (target.compilers, target.runners) if names and not first_found(names)]
    return f"no {', no '.join(missing)} on the PATH (Debian: {target.packages})" if missing else None


def instruction_sets(target: Target) -> Mapping[str, tuple[list[str], int]]:
    """Those of setup.py for x86-64, or the generic one."""
    if not target.x86:
        return GENERIC
    settings = build_settings()
    if not settings["X86"]:
        return GENERIC
    return settings["ISAS"]


def check(name: str, target: Target) -> str | None:
    """Builds and runs the test; what failed, or None."""
    compiler, runner = first_found(target.compilers), first_found(target.runners)
    assert compiler is not None
    with tempfile.TemporaryDirectory() as folder:
        try:
            program = compile_kernels_test(
                Path(folder), compiler, list(target.flags), instruction_sets(target), target.link_flags
            )
        except subprocess.CalledProcessError as error:
            return f"{Path(compiler).name} exits with {error.returncode}"
        if not program.exists():  # MinGW adds the suffix
            program = program.with_suffix(".exe")
        environment = os.environ | {"WINEDEBUG": "-all", "WINEPREFIX": str(Path(folder) / "wine")}
        command = [*([runner, *target.runner_flags] if runner else []), str(program)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=MOST_SECONDS)
        except subprocess.TimeoutExpired:
            return f"kernels_test did not end within {MOST_SECONDS} seconds"
        if done.returncode or "0 failed" not in done.stdout:
            return f"kernels_test exits with {done.returncode}\n{done.stdout}{done.stderr}"
    return None


def main() -> int:
    """Tries the targets that are named, or all."""
    parser = argparse.ArgumentParser(description="The C++ test of the CPU kernels for other systems.")
    parser.add_argument("targets", nargs="*", metavar="target", help=f"of {', '.join(TARGETS)}; all by default")
    names = parser.parse_args().targets or list(TARGETS)
    if unknown := [name for name in names if name not in TARGETS]:
        parser.error(f"target is {unknown[0]!r}, expected {', '.join(TARGETS)}")
    failed = False
    for name in names:
        if reason := missing_tools(TARGETS[name]):
            print(f"{name}: skipped: {reason}", flush=True)
            continue
        begun = time.monotonic()
        failure = check(name, TARGETS[name])
        failed |= failure is not None
        outcome = "passed" if failure is None else f"FAILED: {failure}"
        print(f"{name}: {outcome} ({time.monotonic() - begun:.0f} s)", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
