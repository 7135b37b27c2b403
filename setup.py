"""Builds the optional C++ extension aru_kernels._C; everything else stands in pyproject.toml.

The extension knows no torch: it needs a C++17 compiler and pybind11, and one build serves every torch version.
Without a compiler the installation still succeeds, and `python -m aru_kernels` says what was missing.

ARU_BUILD_CPU = auto (default: build if possible) | 0 (do not) | 1 (fail if it cannot be built)
"""

from __future__ import annotations

import os
import platform
import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "aru_kernels" / "_version.py").read_text())[1]
X86 = platform.machine().lower() in ("x86_64", "amd64")

# Compiled once per instruction set; the namespace, the flags and the width of a vector in bytes.
PER_ISA_SOURCES = [
    f"csrc/cpu/{name}.cpp" for name in ("gamma", "aru_sequence", "gamma_sequence", "recurrent_gradient", "table")
]
ISAS = {"generic": ([], 16)}
if X86:
    ISAS["avx2"] = (["-mavx2", "-mfma"], 32)
    avx512 = ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"]
    # gcc 12 finds its own header's undefined operands suspicious
    avx512 += ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]
    ISAS["avx512"] = (avx512, 64)
    ISAS["avx512bf16"] = ([*avx512, "-mavx512bf16"], 64)
SOURCES = ["csrc/bindings.cpp", "csrc/cpu/dispatch.cpp", "csrc/cpu/parallel.cpp", "csrc/cpu/workspace.cpp"]
HEADERS = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc").rglob("*.h"))
FLAGS = [
    "-std=c++17",
    "-O3",
    "-g0",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
]
FLAGS += ["-Wall", "-Wextra", "-Wno-psabi", "-Wno-unknown-pragmas", "-Wno-ignored-attributes"]


class BuildError(Exception):
    """A sentence that says why the extension cannot be built here."""


class OptionalBuild(build_ext):
    """Compiles each kernel once per instruction set, and survives the absence of a compiler."""

    def run(self) -> None:
        """Builds, or says why not; the outcome is kept in aru_kernels/_build.txt for `python -m aru_kernels`."""
        choice = os.environ.get("ARU_BUILD_CPU", "auto")
        if choice not in ("auto", "0", "1"):
            raise SystemExit(f"ARU_BUILD_CPU is {choice!r}, expected auto, 0 or 1.")
        in_source = self.inplace or getattr(self, "editable_mode", False)  # before run() changes them
        outcome = "built"
        if choice == "0":
            outcome = "switched off by ARU_BUILD_CPU=0 when the package was installed"
            self.extensions = []
        try:
            super().run()
        except Exception as error:
            if choice == "1":
                raise
            outcome = f"{error}; with a C++17 compiler (g++ or clang++) installed, repeat `pip install -e .`"
            self.extensions = []
        print(f"aru_kernels: C++ extension: {outcome}", flush=True)
        folder = ROOT / "aru_kernels" if in_source else Path(self.build_lib) / "aru_kernels"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "_build.txt").write_text(outcome + "\n")

    def build_extension(self, ext: Extension) -> None:
        """Compiles the per-instruction-set objects, then links them with the rest."""
        if self.compiler.compiler_type != "unix":
            raise BuildError(
                f"the kernels need g++ or clang++, found the compiler family {self.compiler.compiler_type}"
            )
        self._check_compiler()
        openmp = (
            ["-fopenmp"]
            if self._compiles("#include <omp.h>\nint main() { return omp_in_parallel(); }", "-fopenmp")
            else []
        )
        ext.extra_compile_args = [*FLAGS, *openmp]
        ext.extra_link_args = openmp
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            compiled = pool.map(lambda job: self._compile_kernel(ext, *job), product(ISAS, PER_ISA_SOURCES))
            ext.extra_objects += [path for paths in compiled for path in paths]
        super().build_extension(ext)

    def _compile_kernel(self, ext: Extension, isa: str, source: str) -> list[str]:
        flags, vector_bytes = ISAS[isa]
        return self.compiler.compile(
            [source],
            output_dir=str(Path(self.build_temp) / isa),
            macros=[("ARU_ISA", isa), ("ARU_VECTOR_BYTES", str(vector_bytes))],
            extra_postargs=[*ext.extra_compile_args, *flags],
            depends=HEADERS,
        )

    def _check_compiler(self) -> None:
        if not self._compiles("int main() { return 0; }"):
            raise BuildError(
                f"no working C++ compiler: `{self.compiler.compiler_so_cxx[0]}` does not compile an empty program"
            )

    def _compiles(self, program: str, *flags: str) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "probe.cpp"
            source.write_text(program)
            try:
                objects = self.compiler.compile([str(source)], output_dir=folder, extra_postargs=["-std=c++17", *flags])
                self.compiler.link_executable(
                    objects, "probe", output_dir=folder, extra_postargs=list(flags), target_lang="c++"
                )
            except Exception:
                return False
        return True


def extension() -> Extension:
    import pybind11  # a build requirement; absent only where setup.py is run by hand without it

    return Extension(
        "aru_kernels._C",
        SOURCES,
        include_dirs=[pybind11.get_include()],
        define_macros=[("ARU_VERSION", f'"{VERSION}"'), *([("ARU_X86", "1")] if X86 else [])],
        depends=[*HEADERS, *PER_ISA_SOURCES, "setup.py"],
        language="c++",
    )


setup(ext_modules=[extension()], cmdclass={"build_ext": OptionalBuild})
