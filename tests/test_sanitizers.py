"""The C++ kernels under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer.

The AVX-512 source is built with AVX2 instructions, so that its vector width and register blocks are tested on machines
without AVX-512 too; what that cannot show is the AVX-512 instructions themselves.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from support.helpers import run_sanitized
from support.kernels_build import build_settings, compile_kernels_test

CXX = os.environ.get("CXX", "g++")


def compile_all(folder: Path, flags: list[str], widths: bool) -> Path:
    """widths: vectors of all widths, or the generic ones only."""
    settings = build_settings()
    # blocks of other sizes differ only in their registers, and take minutes to compile under a sanitizer
    flags = ["-g1", "-DARU_UNIT_BLOCK=4", *flags]
    isas = settings["ISAS"] if widths else {"generic": settings["ISAS"]["generic"]}
    if settings["X86"] and widths:
        flags += ["-DARU_X86=1", "-DARU_AVX512_EVERYWHERE"]
        isas["avx512"] = (isas["avx2"][0], 64)
        del isas["avx512bf16"]  # the same source; its one instruction is beyond AVX2
    return compile_kernels_test(folder, CXX, flags, isas)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="the sanitizers' run time is looked for on Linux only")
@pytest.mark.parametrize(
    ("flags", "widths"),
    [
        # null, object-size: AddressSanitizer finds these, too
        pytest.param(
            [
                # the compiler takes a third of the time that it takes with -O1, and no check is optimised away
                "-O0",
                "-fsanitize=address,undefined",
                "-fno-sanitize=null,object-size,vptr",
                "-fno-sanitize-recover=all",
                "-fopenmp",
            ],
            True,
            id="address and undefined",
        ),
        # without OpenMP, whose threads ThreadSanitizer does not know: the pool of C++ threads, which divides the work
        # of all widths in the same way
        pytest.param(["-O1", "-fsanitize=thread"], False, id="thread"),
    ],
)
def test_kernels_run_clean(flags, widths, tmp_path):
    program = compile_all(tmp_path, flags, widths)
    # libgomp keeps its pool of threads to the end: memory that is still reachable, not lost.
    done = run_sanitized(program, ASAN_OPTIONS="detect_leaks=1", OMP_NUM_THREADS="3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 failed" in done.stdout
