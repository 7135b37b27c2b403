"""The CUDA kernels under ThreadSanitizer: each of their threads is one, ordered by what orders threads on a GPU alone.

The emulation's values cannot show a race whose outcome its schedules do not reach; here the accesses themselves are
compared, in shared memory, other blocks' shared memory and device memory.  Faults are planted: some that no value
shows, some of those that one does.
"""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cuda_emulation import CXX, FORMS, WITHOUT_GROUPS, Fault, build_kernels, compile_object, needs_compiler, plant
from helpers import ROOT, run_sanitized
from test_cuda_faults import FAULTS as SHOWN_BY_VALUES
from test_cuda_faults import SOUND

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
FAULTS = NOT_SHOWN | {
    name: SHOWN_BY_VALUES[name]
    for name in (
        "blocks that begin before the cluster is ready",
        "no barrier between the shared operands and their product",
        "no barrier of the group between the shared operands and their product",
        "shared operands written while they are multiplied",
    )
}

SANITIZED = ["-fsanitize=thread", "-g1"]


def build(folder: Path, precision: str, groups: bool, fault: Fault | None) -> Path:
    """The program that runs all launches."""
    folder.mkdir()
    sources, form = plant(folder, fault), FORMS[precision]
    flags = SANITIZED if groups else [*SANITIZED, WITHOUT_GROUPS]
    objects = [build_kernels(folder, sources, form, 0b1, *flags)]
    for name in ("emulated_launch", "cuda_races"):
        source = ROOT / "tests" / "csrc" / f"{name}.cpp"
        objects.append(compile_object(source, folder / f"{name}.o", sources, "-O1", f"-DARU_FORM={form}", *flags))
    subprocess.run([CXX, *SANITIZED, *map(str, objects), "-o", str(folder / "races")], check=True)
    return folder / "races"


def report(program: Path) -> str:
    """What it and the sanitizer say, and its exit status."""
    done = run_sanitized(program, TSAN_OPTIONS="exitcode=66 log_path=stdout")
    return done.stdout + done.stderr + f"exit status {done.returncode}"


@pytest.mark.timeout(600)
def test_nothing_races_but_planted_faults(tmp_path):
    runs = {sound: (*sound, None) for sound in SOUND}
    runs |= {name: (fault.precision, fault.groups, fault) for name, fault in FAULTS.items()}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        programs = pool.map(lambda job: build(tmp_path / str(job[0]), *job[1]), enumerate(runs.values()))
        reports = dict(zip(runs, pool.map(report, programs), strict=True))
    for sound in SOUND:
        assert "0 failed" in reports[sound], reports[sound]
        assert reports[sound].endswith("exit status 0"), reports[sound]
    assert [name for name in FAULTS if "data race" not in reports[name]] == []
