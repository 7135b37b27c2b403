"""The CUDA kernels under ThreadSanitizer: each CUDA thread is one of its threads, ordered as a GPU orders them.

The emulation's values show a race only if its schedules reach another outcome.  This test compares the accesses
themselves: to shared memory, to other blocks' shared memory and to device memory.  It also plants faults: some that no
value shows, and some of those that one does.
"""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.cuda_emulation import (
    CXX,
    FORMS,
    WITHOUT_GROUPS,
    Fault,
    build_passes,
    compile_object,
    needs_compiler,
)
from support.cuda_faults import FAULTS as SHOWN_BY_VALUES
from support.cuda_faults import SOUND
from support.helpers import ROOT, run_sanitized

pytestmark = [needs_compiler, pytest.mark.slow]

NOT_SHOWN = {
    "one buffer for the partial sums, forward": Fault(
        "forward.cuh", "sums + (v & 1) * p.shape.sum_floats", "sums", "medium"
    ),
    "one buffer for the partial sums, backward": Fault(
        "backward.cuh", "partial + (v & 1) * p.shape.sum_floats", "partial", "medium"
    ),
    "a counter that releases nothing": Fault("exchange.cuh", "add_release(counter());", "++*counter();"),
}
SHOWN = {
    name: SHOWN_BY_VALUES[name]
    for name in (
        "blocks that begin before the cluster is ready",
        "no barrier between the shared operands and their product",
        "no barrier of the group between the shared operands and their product",
        "shared operands written while they are multiplied",
    )
}

SANITIZED = ["-fsanitize=thread", "-g1"]

Objects = dict[str, Path]


def host_objects(folder: Path, precision: str, groups: bool) -> Objects:
    """The program's own objects, which include no kernel and so no fault."""
    folder.mkdir()
    flags = ["-O1", f"-DARU_FORM={FORMS[precision]}", *SANITIZED, *([] if groups else [WITHOUT_GROUPS])]
    sources = {name: ROOT / "tests" / "csrc" / f"{name}.cpp" for name in ("emulated_launch", "cuda_races")}
    return {
        name: compile_object(source, folder / f"{name}.o", ROOT / "csrc", *flags) for name, source in sources.items()
    }


def build(folder: Path, precision: str, groups: bool, fault: Fault | None, sound: Objects | None) -> Objects:
    """The objects of the kernels."""
    return build_passes(folder, precision, groups, fault, *SANITIZED, sound=sound)


def report(program: Path, objects: Objects) -> str:
    """Links and runs the program -> what it and the sanitizer print, and its exit status."""
    subprocess.run([CXX, *SANITIZED, *map(str, objects.values()), "-o", str(program)], check=True)
    done = run_sanitized(program, TSAN_OPTIONS="exitcode=66 log_path=stdout")
    return done.stdout + done.stderr + f"exit status {done.returncode}"


@pytest.mark.timeout(600)
def test_nothing_races_but_planted_faults(tmp_path, pytestconfig):
    """With --every-fault also those faults that values show."""
    faults = NOT_SHOWN | (SHOWN if pytestconfig.getoption("every_fault") else {})
    with ThreadPoolExecutor(os.cpu_count()) as pool:

        def in_parallel(function, jobs: dict) -> dict:
            return dict(zip(jobs, pool.map(lambda job: function(*job), jobs.values()), strict=True))

        kernels = in_parallel(
            build, {kind: (tmp_path / f"sound {i}", *kind, None, None) for i, kind in enumerate(SOUND)}
        )
        hosts = in_parallel(host_objects, {kind: (tmp_path / f"host {i}", *kind) for i, kind in enumerate(SOUND)})
        kinds = {name: (fault.precision, fault.groups) for name, fault in faults.items()}
        faulty = in_parallel(
            build, {name: (tmp_path / name, *kinds[name], faults[name], kernels[kinds[name]]) for name in faults}
        )
        programs = {kind: hosts[kind] | kernels[kind] for kind in SOUND}
        programs |= {name: hosts[kinds[name]] | faulty[name] for name in faults}
        reports = in_parallel(report, {key: (tmp_path / f"races {i}", programs[key]) for i, key in enumerate(programs)})
    for kind in SOUND:
        assert "0 failed" in reports[kind], reports[kind]
        assert reports[kind].endswith("exit status 0"), reports[kind]
    assert [name for name in faults if "data race" not in reports[name]] == []
