"""Faults planted in the text of the CUDA kernels, each of which the emulation must notice.

The kernels with a fault are built for few sizes and run through checks that the kernels without it pass.  All of them
are in one test: one process imports torch and forks for each build.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.cuda_emulation import Fault, build_passes, built, included, link, needs_compiler
from support.cuda_faults import FAULTS, SOUND

pytestmark = [needs_compiler, pytest.mark.slow]


def build(
    folder: Path, precision: str, groups: bool, fault: Fault | None = None, sound: dict[str, Path] | None = None
) -> dict[str, Path]:
    """Builds a module, folder/_cuda_emulated.so -> the objects of both passes."""
    objects = build_passes(folder, precision, groups, fault, "-DARU_STATIC=0", sound=sound)
    link([*objects.values(), built() / "launch.o", built() / "bindings.o"], folder / "_cuda_emulated.so")
    return objects


@pytest.mark.timeout(900)
def test_planted_faults_are_noticed(tmp_path, run_python, pytestconfig):
    """Each fault takes seconds to compile, and the kernels rarely change: --every-fault plants all of them."""
    step = 1 if pytestconfig.getoption("every_fault") else 4
    faults = dict(list(FAULTS.items())[::step])
    kinds = [*SOUND, *((fault.precision, fault.groups) for fault in faults.values())]
    folders = [tmp_path / str(i) for i in range(len(kinds))]
    built()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sound = dict(zip(SOUND, pool.map(lambda kind, folder: build(folder, *kind), SOUND, folders), strict=False))
        rest = kinds[len(SOUND) :], folders[len(SOUND) :], faults.values()
        list(pool.map(lambda kind, folder, fault: build(folder, *kind, fault, sound[kind]), *rest))
    modules = [str(folder / "_cuda_emulated.so") for folder in folders]
    arguments = []
    for (precision, groups), module in zip(kinds, modules, strict=True):
        arguments += [precision, "4" if groups else "1", module]
    done = run_python("-m", "support.fault_checks", *arguments, timeout=600)
    lines = [line.split(" ", 1) for line in done.stdout.splitlines()]
    assert [path for _, path in lines] == modules, done.stderr
    outcomes = [outcome for outcome, _ in lines]
    passed, faulty = outcomes[: len(SOUND)], outcomes[len(SOUND) :]
    assert passed == ["passed"] * len(SOUND), "the kernels without a fault do not pass the checks"
    assert [name for name, outcome in zip(faults, faulty, strict=True) if outcome == "passed"] == []


def test_a_fault_is_compiled_into_every_pass_that_has_it():
    """And a pass without the faulty file is not compiled again."""
    both = included("forward.cuh"), included("backward.cuh")
    assert "shared_sums.cuh" not in both[0]
    assert "forward.cuh" not in both[1]
    assert {fault.file for fault in FAULTS.values()} <= both[0] | both[1]
