"""Builds the optional extensions aru_kernels._C (C++) and aru_kernels._cuda; the rest stands in pyproject.toml.

The extensions know no torch: they need a C++17 compiler and pybind11, and nvcc for CUDA, and one build serves every
torch version.  Without a compiler the installation still succeeds, and `python -m aru_kernels` says what was missing.

ARU_BUILD_CPU = auto (default: build if possible) | 0 (do not) | 1 (fail if it cannot be built)
ARU_BUILD_CUDA = likewise; `auto` builds where nvcc is found
TORCH_CUDA_ARCH_LIST = the GPUs to compile for, as for PyTorch's extensions, such as "8.0;9.0a"
CXX = the C++ compiler: g++, clang++ or, on Windows, clang-cl
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command import editable_wheel
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "aru_kernels" / "_version.py").read_text(encoding="utf-8"))[1]
X86 = platform.machine().lower() in ("x86_64", "amd64")

# Compiled once per instruction set; the namespace, the flags and the width of a vector in bytes.
PER_ISA_SOURCES = [
    f"csrc/cpu/{name}.cpp"
    for name in ("gamma", "aru_forward", "aru_backward", "gamma_sequence", "recurrent_gradient", "limit", "table")
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
# Of clang-cl, which takes its other half's flags behind this prefix.
CLANG_CL = "/clang:"
# gcc aligns the stack of Windows programs to 16 bytes, where it moves vectors of 32.
MINGW_FLAGS = ["-Wa,-muse-unaligned-vector-move"]
# Python does not look on the PATH for the DLLs of MinGW's C++ library and threads.
MINGW_LINK_FLAGS = ["-static"]
FLAGS += ["-Wall", "-Wextra", "-Wno-psabi", "-Wno-unknown-pragmas", "-Wno-ignored-attributes"]


# CUDA: one source, compiled once per (form of products, direction), the longest first.
CUDA_FORMS = ("bf16", "tf32", "split", "mixed")  # in the order of csrc/cuda/forms.h
CUDA_KERNELS = [(form, backward) for backward in (1, 0) for form in reversed(CUDA_FORMS[:3])]
# Of an architecture whose groups of warps make products: kernels that no other one has.
CUDA_GROUPS = "90a"
CUDA_KERNELS_OF_GROUPS = [("mixed", 0)]
CUDA_SOURCES = [
    "csrc/aru_math.h",
    "csrc/addresses.h",
    *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc" / "cuda").iterdir()),
]
CUDA_ARCHITECTURES = ("80", "90a", "100")
# Divisions to 2 ulp, denormal numbers as 0.  ptxas reports registers and spills.
CUDA_FLAGS = ["-std=c++17", "-O3", "-prec-div=false", "-ftz=true", "-Xptxas=-v"]
CUDA_FLAGS += ["-Xcompiler=-fPIC,-fvisibility=hidden", "-Icsrc"]


class BuildError(Exception):
    """A sentence that says why the extension cannot be built here."""


def find_nvcc() -> str | None:
    """Path of nvcc: of CUDA_HOME, on the PATH, or in its usual place."""
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    places = [os.path.join(home, "bin") for home in homes] + [os.environ.get("PATH", ""), "/usr/local/cuda/bin"]
    return shutil.which("nvcc", path=os.pathsep.join(places))


def cuda_architectures(nvcc: str) -> list[str]:
    """Those of TORCH_CUDA_ARCH_LIST, else the default ones that this nvcc knows; with "+PTX" kept."""
    wanted = os.environ.get("TORCH_CUDA_ARCH_LIST", "")
    if not wanted.strip():
        known = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True)
        usable = [a for a in CUDA_ARCHITECTURES if f"compute_{a.rstrip('a')}\n" in known.stdout]
        if not usable:
            raise BuildError(f"`{nvcc} --list-gpu-arch` names no architecture from 80 on: {known.stderr.strip()[:200]}")
        return usable
    found = [re.fullmatch(r"(\d+)\.(\d)([a-z]?)(\+PTX)?", item) for item in re.split(r"[;\s]+", wanted.strip())]
    if not all(found):
        raise BuildError(f"TORCH_CUDA_ARCH_LIST is {wanted!r}, expected a list such as '8.0;9.0a;10.0+PTX'")
    usable = [m[1] + m[2] + m[3] + (m[4] or "") for m in found if int(m[1]) >= 8]
    if not usable:
        raise BuildError(f"TORCH_CUDA_ARCH_LIST is {wanted!r}, and the kernels need 8.0 or later")
    return usable


def compile_cuda(nvcc: str, architectures: list[str], folder: Path) -> tuple[list[str], str]:
    """Compiles the kernels into `folder`; the objects, and a table with a line for each kernel and architecture."""
    folder.mkdir(parents=True, exist_ok=True)
    targets = {}
    for architecture in architectures:
        number = architecture.removesuffix("+PTX")
        code = f"sm_{number},compute_{number}" if architecture != number else f"sm_{number}"
        targets[architecture] = f"-gencode=arch=compute_{number},code=[{code}]"
    of_groups = [target for architecture, target in targets.items() if architecture.startswith(CUDA_GROUPS)]
    common = [nvcc, *CUDA_FLAGS, f'-DARU_CUDA_ARCHITECTURES="{" ".join(architectures)}"']
    kernels = [(kernel, [*targets.values()]) for kernel in CUDA_KERNELS]
    kernels += [(kernel, of_groups) for kernel in CUDA_KERNELS_OF_GROUPS if of_groups]
    jobs = [
        (f"kernels_{form}_{backward}", "kernels", [*gencode, f"-DARU_FORM={form}", f"-DARU_BACKWARD={backward}"])
        for (form, backward), gencode in kernels
    ]
    jobs.append(("launch", "launch", [*targets.values(), f"-DARU_WARP_GROUPS={int(bool(of_groups))}"]))

    def compile_one(job: tuple[str, str, list[str]]) -> tuple[str, str]:
        name, source, extra = job
        target = str(folder / f"{name}.o")
        command = [*common, *extra, "-c", f"csrc/cuda/{source}.cu", "-o", target]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise BuildError(f"nvcc failed on csrc/cuda/{source}.cu: {(done.stderr or done.stdout).strip()[:500]}")
        return target, done.stderr

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects, reports = zip(*pool.map(compile_one, jobs), strict=True)
    entry = re.compile(
        r"Compiling entry function '\w*aru_(forward|backward)ILN\w+4FormE(\d)ELi(\d)E\w*' for 'sm_(\w+)'"
        r".*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
        r".*?Used (\d+) registers(?:[^\n]*?(\d+) bytes smem)?",
        re.DOTALL,
    )
    # waits that the code does not ask for: the products of a group of warps before them run beside nothing
    wait = re.compile(r"warpgroup\.wait is injected.*?aru_(forward|backward)ILN\w+4FormE(\d)ELi(\d)E")
    waits = Counter(kernel for report in reports for kernel in wait.findall(report))
    rows = sorted(
        f"{direction} form={CUDA_FORMS[int(form)]} tiles={tiles} sm_{sm} registers={registers} stack={stack}"
        f" spills={stores}+{loads} shared={shared or 0} waits={waits[direction, form, tiles] * (sm == '90a')}"
        for report in reports
        for direction, form, tiles, sm, stack, stores, loads, registers, shared in entry.findall(report)
    )
    return list(objects), "\n".join(rows)


def cuda_digest() -> str:
    """Of the kernels' sources, so that a table can be told to be theirs."""
    return hashlib.sha256(b"".join((ROOT / source).read_bytes() for source in CUDA_SOURCES)).hexdigest()


class CleanBuild(build):
    """Builds from the sources only: what an earlier build left in its folder doesn't get into a wheel."""

    def run(self) -> None:
        """Removes this project's packages from the build folder, then builds."""
        for package in ("aru_kernels", "aru_lab"):
            shutil.rmtree(Path(self.build_lib) / package, ignore_errors=True)
        super().run()


class OptionalBuild(build_ext):
    """Compiles each kernel once per instruction set, and survives the absence of a compiler."""

    def run(self) -> None:
        """Builds, or says why not.

        The outcomes are kept in aru_kernels/_build.txt and _build_cuda.txt for `python -m aru_kernels`.
        """
        in_source = self.inplace or getattr(self, "editable_mode", False)  # before run() changes them
        folder = ROOT / "aru_kernels" if in_source else Path(self.build_lib) / "aru_kernels"
        cpu, cuda = ([e for e in self.extensions if e.name.endswith(name)] for name in ("._C", "._cuda"))
        missing = None if find_nvcc() else "there was no nvcc when the package was installed"
        built = self._run("C++", "ARU_BUILD_CPU", cpu, folder / "_build.txt")
        built += self._run("CUDA", "ARU_BUILD_CUDA", cuda, folder / "_build_cuda.txt", missing)
        self.extensions = built

    def _run(
        self,
        title: str,
        switch: str,
        extensions: list[Extension],
        note: Path,
        missing: str | None = None,
    ) -> list[Extension]:
        """missing: why `auto` does not try."""
        choice = os.environ.get(switch, "auto")
        if choice not in ("auto", "0", "1"):
            raise SystemExit(f"{switch} is {choice!r}, expected auto, 0 or 1.")
        self.extensions, self.report = extensions, ""
        # Of an earlier build, with another compiler or from other sources: no output is better than one of those.
        for extension in extensions:
            name = Path(self.get_ext_filename(extension.name)).name
            for output in (note.with_name(name), Path(self.build_lib) / "aru_kernels" / name):
                output.unlink(missing_ok=True)
        compiler = self.compiler  # a name that run() replaces by the compiler
        outcome = "built"
        if choice == "0":
            outcome = f"switched off by {switch}=0 when the package was installed"
        elif choice == "auto" and missing is not None:
            outcome = missing
        if outcome != "built":
            self.extensions = []
        try:
            super().run()
        except Exception as error:
            if choice == "1":
                raise
            outcome = str(error)
            self.extensions = []
        self.compiler = compiler
        encoding = sys.stdout.encoding or "ascii"
        printed = f"aru_kernels: {title} extension: {outcome}".encode(encoding, "backslashreplace")
        print(printed.decode(encoding), flush=True)
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(f"{outcome}\n{self.report}", encoding="utf-8", errors="backslashreplace")
        return self.extensions

    def build_extension(self, ext: Extension) -> None:
        """Compiles the per-instruction-set objects, then links them with the rest."""
        if ext.name.endswith("._cuda"):
            self._build_cuda(ext)
            return
        self._choose_compiler()
        self._check_compiler()
        openmp = self._openmp()
        ext.extra_compile_args = [*self._flags(*FLAGS), *openmp]
        # without OpenMP the kernels have C++ threads
        ext.extra_link_args = [] if self._is_msvc() else openmp or ["-pthread"]
        if self.compiler.compiler_type == "mingw32":
            ext.extra_compile_args += MINGW_FLAGS
            ext.extra_link_args = MINGW_LINK_FLAGS
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            compiled = pool.map(lambda job: self._compile_kernel(ext, *job), product(ISAS, PER_ISA_SOURCES))
            ext.extra_objects += [path for paths in compiled for path in paths]
        super().build_extension(ext)

    def _build_cuda(self, ext: Extension) -> None:
        """Compiles with nvcc and links with it, the CUDA run time statically: the module loads without a driver."""
        nvcc = find_nvcc()
        if nvcc is None:
            raise BuildError("there is no nvcc on the PATH, in CUDA_HOME or in /usr/local/cuda")
        if self._is_msvc():
            raise BuildError("the CUDA kernels are built with g++ or clang++ beside nvcc, and so not on Windows")
        self._check_compiler()
        architectures = cuda_architectures(nvcc)
        print(f"aru_kernels: compiling for sm_{', sm_'.join(architectures)} with {nvcc}", flush=True)
        objects, table = compile_cuda(nvcc, architectures, Path(self.build_temp) / "cuda")
        objects += self.compiler.compile(
            ext.sources,
            output_dir=self.build_temp,
            include_dirs=ext.include_dirs,
            macros=[*ext.define_macros, ("ARU_CUDA_ARCHITECTURES", f'"{" ".join(architectures)}"')],
            extra_postargs=["-std=c++17", "-O2", "-g0", "-fvisibility=hidden"],
        )
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        link = [nvcc, "-shared", "-cudart=static", *objects, "-o", str(target)]
        done = subprocess.run(link, capture_output=True, text=True)
        if done.returncode:
            raise BuildError(f"linking with nvcc failed: {(done.stderr or done.stdout).strip()[:500]}")
        self.report = f"sources {cuda_digest()}\n{table}\n"

    def _compile_kernel(self, ext: Extension, isa: str, source: str) -> list[str]:
        flags, vector_bytes = ISAS[isa]
        return self.compiler.compile(
            [source],
            output_dir=str(Path(self.build_temp) / isa),
            macros=[("ARU_ISA", isa), ("ARU_VECTOR_BYTES", str(vector_bytes))],
            extra_postargs=[*ext.extra_compile_args, *self._flags(*flags)],
            depends=HEADERS,
        )

    def _openmp(self) -> list[str]:
        """The flags of OpenMP, where the kernels may use it."""
        # torch brings a run time of Intel's or LLVM's on Windows and macOS. It ends a process that loads another one
        # ("OMP: Error #15"), which is what -fopenmp links there.
        if self.compiler.compiler_type in ("msvc", "mingw32") or platform.system() == "Darwin":
            return []
        flags = ["-fopenmp"]
        return flags if self._compiles("#include <omp.h>\nint main() { return omp_in_parallel(); }", *flags) else []

    def _is_msvc(self) -> bool:
        return self.compiler.compiler_type == "msvc"

    def _flags(self, *flags: str) -> list[str]:
        """Flags of g++ and clang++ in the form of the compiler in use."""
        return [CLANG_CL + flag for flag in flags] if self._is_msvc() else list(flags)

    def _choose_compiler(self) -> None:
        """With MSVC's compiler family: clang-cl, which CXX or CC has to name. cl.exe has no vector extensions."""
        family = self.compiler.compiler_type
        if family in ("unix", "mingw32"):
            return
        if family != "msvc":
            raise BuildError(f"the kernels need g++, clang++ or clang-cl, found the compiler family {family}")
        named = os.environ.get("CXX") or os.environ.get("CC") or "cl.exe"
        if not re.search(r"(^|[/\\])clang-cl(\.exe)?$", named, re.IGNORECASE):
            raise BuildError(
                f"the kernels use vector extensions of g++ and clang, which {named} does not have: install LLVM's "
                "clang-cl and set CXX=clang-cl"
            )
        if not getattr(self.compiler, "initialized", False):
            self.compiler.initialize()  # which looks for cl.exe, the linker and the folders of headers
        self.compiler.cc = shutil.which(named) or named
        # optimisation at link time is cl.exe's own
        for name in ("compile_options", "compile_options_debug"):
            options = getattr(self.compiler, name, None)
            if options is not None:
                setattr(self.compiler, name, [option for option in options if option != "/GL"])

    def _check_compiler(self) -> None:
        if not self._compiles("int main() { return 0; }"):
            name = self.compiler.cc if self._is_msvc() else self.compiler.compiler_so_cxx[0]
            raise BuildError(f"no working C++ compiler: `{name}` does not compile an empty program")

    def _compiles(self, program: str, *flags: str) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "probe.cpp"
            source.write_text(program)
            try:
                objects = self.compiler.compile(
                    [str(source)], output_dir=folder, extra_postargs=[*self._flags("-std=c++17"), *flags]
                )
                self.compiler.link_executable(
                    objects,
                    "probe",
                    output_dir=folder,
                    extra_postargs=[] if self._is_msvc() else list(flags),
                    target_lang="c++",
                )
            except Exception:
                return False
        return True


class EditableWheel(editable_wheel.editable_wheel):
    """Installs with `-e` by a .pth file that names the folders of the packages, which type checkers read.

    setuptools would install a hook of Python's imports, as the packages lie in two folders; mypy and pyright know
    nothing of hooks.
    """

    def _select_strategy(self, name: str, tag: str, build_lib: str) -> object:
        path_file = getattr(editable_wheel, "_StaticPth", None)
        if path_file is None or self.mode:  # another setuptools; a mode that was asked for
            return super()._select_strategy(name, tag, build_lib)
        return path_file(self.distribution, name, [ROOT, ROOT / "python"])


def repository() -> str | None:
    """The public address, as [project.urls] of pyproject.toml names it."""
    found = re.search(r'^Repository = "(.+?)/*"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else None


def readme(address: str | None) -> str:
    """README.md for PyPI, where links within the repository lead nowhere unless they have its address."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    if address is None:
        return text
    relative = r"\]\((?!\w+:|#)([^)]+)\)"
    text = re.sub(rf"(!\[[^\]]*){relative}", rf"\1]({address}/raw/HEAD/\2)", text)
    return re.sub(relative, rf"]({address}/blob/HEAD/\1)", text)


def extensions() -> list[Extension]:
    import pybind11  # a build requirement; absent only where setup.py is run by hand without it

    cpu = Extension(
        "aru_kernels._C",
        SOURCES,
        include_dirs=[pybind11.get_include()],
        define_macros=[("ARU_VERSION", f'"{VERSION}"'), *([("ARU_X86", "1")] if X86 else [])],
        depends=[*HEADERS, *PER_ISA_SOURCES, "setup.py"],
        language="c++",
    )
    cuda = Extension(
        "aru_kernels._cuda",
        ["csrc/bindings_cuda.cpp"],
        include_dirs=[pybind11.get_include(), "csrc"],
        define_macros=[("ARU_VERSION", f'"{VERSION}"')],
        depends=[*CUDA_SOURCES, "setup.py"],
        language="c++",
    )
    return [cpu, cuda]


COMMANDS = {"build": CleanBuild, "build_ext": OptionalBuild, "editable_wheel": EditableWheel}
setup(
    ext_modules=extensions(),
    cmdclass=COMMANDS,
    long_description=readme(repository()),
    long_description_content_type="text/markdown",
)
