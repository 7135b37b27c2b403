"""The C++ kernels under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer.

The AVX-512 source is built with AVX2 instructions, so that its vector width and register blocks are tested on machines
without AVX-512 too; what that cannot show is the AVX-512 instructions themselves.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import pytest

from support.helpers import ROOT, run_sanitized

CXX = os.environ.get("CXX", "g++")


def build_settings():
    """setup.py's sources and flags, so that the tests build what users get."""
    definitions = (ROOT / "setup.py").read_text().split("\nsetup(")[0]
    namespace = {"__file__": str(ROOT / "setup.py"), "__name__": "setup_settings"}
    exec(compile(definitions, "setup.py", "exec"), namespace)
    return namespace


def compile_all(folder: Path, flags: list[str]) -> Path:
    settings = build_settings()
    # blocks of other sizes differ in their registers alone, and take minutes to compile under a sanitizer
    common = [*settings["FLAGS"], "-O1", "-g1", "-DARU_UNIT_BLOCK=4", f"-I{ROOT / 'csrc'}", *flags]
    if settings["X86"]:
        common += ["-DARU_X86=1", "-DARU_AVX512_EVERYWHERE"]
        settings["ISAS"]["avx512"] = (settings["ISAS"]["avx2"][0], 64)
        del settings["ISAS"]["avx512bf16"]  # the same source; its one instruction is beyond AVX2
    jobs = [
        (source, [f"-DARU_ISA={isa}", f"-DARU_VECTOR_BYTES={width}", *isa_flags], isa)
        for (isa, (isa_flags, width)), source in product(settings["ISAS"].items(), settings["PER_ISA_SOURCES"])
    ]
    jobs += [(source, [], "") for source in settings["SOURCES"] if "bindings" not in source]
    jobs.append(("tests/csrc/kernels_test.cpp", [], ""))

    def compile_one(job) -> str:
        source, extra, isa = job
        out = folder / f"{isa}_{Path(source).stem}.o"
        subprocess.run([CXX, *common, *extra, "-c", str(ROOT / source), "-o", str(out)], check=True)
        return str(out)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, jobs))
    program = folder / "kernels_test"
    subprocess.run([CXX, *flags, *objects, "-pthread", "-o", str(program)], check=True)
    return program


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="the sanitizers' run time is looked for on Linux only")
@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(
            ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fopenmp"], id="address and undefined"
        ),
        pytest.param(["-fsanitize=thread", "-DARU_STD_THREADS"], id="thread"),
    ],
)
def test_kernels_run_clean(flags, tmp_path):
    program = compile_all(tmp_path, flags)
    # libgomp keeps its pool of threads to the end: memory that is still reachable, not lost.
    done = run_sanitized(program, ASAN_OPTIONS="detect_leaks=1", OMP_NUM_THREADS="3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 failed" in done.stdout
