"""Builds tests/csrc/kernels_test, the C++ test of the CPU kernels, with any compiler."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def build_settings() -> dict[str, Any]:
    """setup.py's sources and flags, so that the tests build what users get."""
    definitions = (ROOT / "setup.py").read_text().split("\nsetup(")[0]
    namespace: dict[str, Any] = {"__file__": str(ROOT / "setup.py"), "__name__": "setup_settings"}
    exec(compile(definitions, "setup.py", "exec"), namespace)
    return namespace


def compile_kernels_test(
    folder: Path,
    compiler: str,
    flags: list[str],
    isas: Mapping[str, tuple[list[str], int]],
    link_flags: tuple[str, ...] = ("-pthread",),
) -> Path:
    """Compiles and links the test.

    Args:
        folder: for the objects and the program.
        compiler: in the manner of g++ and clang++.
        flags: of every object and of the program, after those of setup.py.
        isas: the flags of each instruction set and the width of its vectors in bytes.
        link_flags: of the program only.

    Raises:
        subprocess.CalledProcessError: the compiler failed; its messages stand on stderr.
    """
    settings = build_settings()
    common = [*settings["FLAGS"], f"-I{ROOT / 'csrc'}", *flags]
    jobs = [
        (source, [f"-DARU_ISA={isa}", f"-DARU_VECTOR_BYTES={width}", *isa_flags], isa)
        for (isa, (isa_flags, width)), source in product(
            isas.items(), [*settings["PER_ISA_SOURCES"], "tests/csrc/vectors_test.cpp"]
        )
    ]
    jobs += [(source, [], "") for source in settings["SOURCES"] if "bindings" not in source]
    jobs.append(("tests/csrc/kernels_test.cpp", [], ""))

    def compile_one(job: tuple[str, list[str], str]) -> str:
        source, extra, isa = job
        out = folder / f"{isa}_{Path(source).stem}.o"
        subprocess.run([compiler, *common, *extra, "-c", str(ROOT / source), "-o", str(out)], check=True)
        return str(out)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, jobs))
    program = folder / "kernels_test"
    subprocess.run([compiler, *flags, *objects, *link_flags, "-o", str(program)], check=True)
    return program
