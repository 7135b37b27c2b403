"""setup.py where something is missing or switched off: the installation goes on, and the package says what happened."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from support.helpers import ROOT

pytest.importorskip("pybind11", reason="pybind11 is needed to run setup.py")


@pytest.fixture
def build(tmp_path):
    """build(**environment): setup.py build_ext in a copy of the sources; the outcomes it leaves, the process.

    Without the CUDA extension, unless the environment asks for it.
    """
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    ignore = shutil.ignore_patterns("*.so", "_build.txt", "__pycache__")
    shutil.copytree(ROOT / "aru_kernels", tmp_path / "aru_kernels", ignore=ignore)
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    (tmp_path / "python").mkdir()

    def run(**environment: str) -> tuple[str, subprocess.CompletedProcess[str]]:
        command = [sys.executable, "setup.py", "build_ext", "--inplace"]
        environment = os.environ | {"ARU_BUILD_CUDA": "0"} | environment
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        outcomes = sorted((tmp_path / "aru_kernels").glob("_build*.txt"))
        return "".join(path.read_text() for path in outcomes), done

    return run


# An editable installation of the package would lend the copy its extensions.
ALONE = "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'Editable' not in getattr(f, '__name__', '')]"
NO_COMPILER = {"CC": "/nonexistent/cc", "CXX": "/nonexistent/c++"}


def test_without_a_compiler_the_installation_goes_on(build, tmp_path, run_python):
    outcome, done = build(**NO_COMPILER)
    assert done.returncode == 0, done.stderr
    assert "no working C++ compiler: `/nonexistent/c++`" in outcome
    program = """
import torch, aru_kernels
from aru_kernels.__main__ import main
main()
print(*aru_kernels.ARUN(1, 4, controller_size=3)(torch.rand(3, 2, 1))[0].shape)
"""
    used = run_python("-c", f"{ALONE}\n{program}", PYTHONPATH=str(tmp_path))
    assert "not available: the C++ extension is not built: no working C++ compiler" in used.stdout, used.stderr
    (line,) = (line for line in used.stdout.splitlines() if line.startswith("cpu "))
    assert line.count("pip install") == 1, line
    assert used.stdout.split()[-3:] == ["3", "2", "4"]


def test_the_outcome_may_have_characters_that_the_system_does_not(build):
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii:strict"}
    outcome, done = build(CC="/nonexistent/ξ", CXX="/nonexistent/ξ", **ascii_only)
    assert done.returncode == 0, done.stderr
    assert "no working C++ compiler: `/nonexistent/" in outcome
    assert "no working C++ compiler: `/nonexistent/" in done.stdout


def test_a_build_that_is_asked_for_must_succeed(build):
    _, done = build(ARU_BUILD_CPU="1", **NO_COMPILER)
    assert done.returncode != 0
    assert "no working C++ compiler" in done.stderr


def test_a_build_can_be_switched_off(build):
    outcome, done = build(ARU_BUILD_CPU="0")
    assert done.returncode == 0, done.stderr
    assert "switched off by ARU_BUILD_CPU=0" in outcome


def test_a_switch_that_is_none(build):
    _, done = build(ARU_BUILD_CPU="yes")
    assert done.returncode != 0
    assert "ARU_BUILD_CPU is 'yes', expected auto, 0 or 1." in done.stderr


@pytest.fixture
def broken_nvcc(tmp_path) -> dict[str, str]:
    """An environment whose nvcc does nothing but complain."""
    nvcc = tmp_path / "cuda" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text("#!/bin/sh\necho 'nvcc: out of order' >&2\nexit 1\n")
    nvcc.chmod(0o755)
    return {"CUDA_HOME": str(nvcc.parents[1]), "TORCH_CUDA_ARCH_LIST": "8.0", "ARU_BUILD_CPU": "0"}


def test_when_nvcc_fails_the_installation_goes_on(build, broken_nvcc, tmp_path, run_python):
    outcome, done = build(ARU_BUILD_CUDA="auto", **broken_nvcc)
    assert done.returncode == 0, done.stderr
    assert re.search(r"nvcc failed on csrc/cuda/\w+\.cu: nvcc: out of order$", outcome, re.MULTILINE)
    program = "from aru_kernels.__main__ import main; main()"
    used = run_python("-c", f"{ALONE}\n{program}", PYTHONPATH=str(tmp_path))
    (line,) = (line for line in used.stdout.splitlines() if line.startswith("cuda "))
    assert "not available: the CUDA extension is not built: nvcc failed on csrc/cuda/" in line
    assert line.count("pip install") == 1, line


def test_a_cuda_build_that_is_asked_for_must_succeed(build, broken_nvcc):
    _, done = build(ARU_BUILD_CUDA="1", **broken_nvcc)
    assert done.returncode != 0
    assert "nvcc: out of order" in done.stderr


def test_a_cuda_build_can_be_switched_off(build, broken_nvcc):
    outcome, done = build(**broken_nvcc)
    assert done.returncode == 0, done.stderr
    assert "switched off by ARU_BUILD_CUDA=0" in outcome


OWN = sysconfig.get_config_var("EXT_SUFFIX")  # of this interpreter's extension modules
OFF = {"ARU_BUILD_CPU": "0", "ARU_BUILD_CUDA": "0"}


def test_a_build_that_is_switched_off_removes_what_an_earlier_one_left(build, tmp_path):
    package = tmp_path / "aru_kernels"
    left = [package / f"{name}{OWN}" for name in ("_C", "_cuda")]
    of_another_python = package / "_C.cpython-399-plan9.so"
    for path in (*left, of_another_python):
        path.write_text("an earlier build")
    _, done = build(**OFF)
    assert done.returncode == 0, done.stderr
    assert not [path for path in left if path.exists()]
    assert of_another_python.exists()


def test_a_build_that_fails_removes_what_an_earlier_one_left(build, tmp_path):
    left = tmp_path / "aru_kernels" / f"_C{OWN}"
    left.write_text("an earlier build")
    outcome, _ = build(**NO_COMPILER)
    assert "no working C++ compiler" in outcome
    assert not left.exists()


def tracked() -> list[str]:
    """The files of the repository; in an sdist, which has no history, its own."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is no clone: git lists no files")
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()]


def backend(hook: str, folder: Path, output: Path) -> tuple[Path, str]:
    """Runs a hook of the build backend as pip does, without compiling: what it made, what it printed."""
    program = f"from setuptools import build_meta; print(build_meta.{hook}({str(output)!r}))"
    # a warning of setuptools shows in the output
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", program],
        cwd=folder,
        env=os.environ | OFF,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return output / done.stdout.split()[-1], done.stdout + done.stderr


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of the repository's files, with what builds and tests leave in a working tree."""
    folder = tmp_path / "clone"
    for name in tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    leftovers = [f"aru_kernels/_C{OWN}", "aru_kernels/_build.txt", "aru_kernels/__pycache__/ops.cpython-311.pyc"]
    leftovers += ["tests/__pycache__/x.pyc", "build/docs/index.html"]
    for platform_folder in ("lib", f"lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}"):
        leftovers += [f"build/{platform_folder}/aru_kernels/{name}" for name in (f"_C{OWN}", "gone.py")]
    for name in leftovers:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("left by an earlier build")
    return folder


@pytest.mark.timeout(900)
def test_the_sdist_has_the_repositorys_files_and_a_wheel_is_built_from_it(clone, tmp_path):
    weights = "docs/results/networks/small/psmnist/arun-seed0.safetensors"  # a network may be added at any time
    (clone / weights).write_text("weights")
    sdist, _ = backend("build_sdist", clone, tmp_path)
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (folder,) = (tmp_path / "unpacked").iterdir()
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    own = {name for name in tracked() if not name.startswith((".github/", ".ci/"))} | {weights}
    assert own - files == set()
    made = {name for name in files - own if ".egg-info/" not in name}
    assert made <= {"PKG-INFO", "setup.cfg"}
    wheel, _ = backend("build_wheel", folder, tmp_path)
    check_wheel(wheel)


@pytest.mark.timeout(900)
def test_an_earlier_build_does_not_reach_a_wheel(clone, tmp_path):
    wheel, _ = backend("build_wheel", clone, tmp_path)
    check_wheel(wheel)


def check_wheel(wheel: Path) -> None:
    """It has the modules of both packages, notes on the builds, and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert archive.read("aru_kernels/_build.txt").decode().startswith("switched off by ARU_BUILD_CPU=0")
    modules = {name.removeprefix("python/") for name in tracked() if re.match(r"(aru_kernels|python)/.*\.py$", name)}
    notes = {f"aru_kernels/{name}" for name in ("py.typed", "_build.txt", "_build_cuda.txt")}
    assert names == modules | notes


def test_an_editable_installation_prints_no_warning(clone, tmp_path):
    _, printed = backend("build_editable", clone, tmp_path)
    assert "warning" not in printed.lower()


class Msvc:
    """Stands for the compiler object of setuptools on Windows, and keeps what it is asked to compile."""

    compiler_type = "msvc"

    def __init__(self) -> None:
        self.compile_options = ["/nologo", "/O2", "/GL"]
        self.flags: list[str] = []
        self.cc = "cl.exe"

    def initialize(self) -> None:
        pass

    def compile(self, sources, output_dir, extra_postargs, **others):
        self.flags += extra_postargs
        return []

    def link_executable(self, objects, name, output_dir, extra_postargs, target_lang):
        assert not extra_postargs


@pytest.fixture
def setup_names(monkeypatch):
    """What setup.py defines."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["setup.py", "--version"])
    names = {"__file__": str(ROOT / "setup.py"), "__name__": "setup"}
    exec(compile((ROOT / "setup.py").read_text(), "setup.py", "exec"), names)
    return names


def test_links_of_the_readme_get_the_address_of_the_repository(setup_names):
    readme = setup_names["readme"]
    text = (ROOT / "README.md").read_text()
    assert readme(None) == text
    found = readme("https://example.org/aru")
    links = re.findall(r"\]\(([^)]+)\)", found)
    assert len(links) == len(re.findall(r"\]\(([^)]+)\)", text)) > 10
    assert all(link.startswith("https://") for link in links)
    assert "(https://example.org/aru/raw/HEAD/docs/demo.png)" in found
    assert "(https://example.org/aru/blob/HEAD/docs/maths.md)" in found


@pytest.fixture
def on_windows(setup_names):
    """OptionalBuild of setup.py with the compiler object of Windows."""
    from setuptools import Distribution

    command = setup_names["OptionalBuild"](Distribution())
    command.compiler = Msvc()
    return command, setup_names["BuildError"]


@pytest.mark.parametrize("compiler", [None, "cl.exe", r"C:\clang-cl\cl.exe"])
def test_cl_is_refused_with_a_sentence(on_windows, monkeypatch, compiler):
    command, error = on_windows
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    if compiler:
        monkeypatch.setenv("CXX", compiler)
    with pytest.raises(error, match=r"cl\.exe does not have: install LLVM's clang-cl and set CXX=clang-cl"):
        command._choose_compiler()


@pytest.mark.parametrize("compiler", ["clang-cl", "clang-cl.exe", r"C:\LLVM\bin\clang-cl.exe"])
def test_clang_cl_is_accepted(on_windows, monkeypatch, compiler):
    command, _ = on_windows
    monkeypatch.setenv("CXX", compiler)
    command._choose_compiler()
    command._check_compiler()
    assert command.compiler.cc == compiler
    assert command.compiler.compile_options == ["/nologo", "/O2"]
    assert command.compiler.flags == ["/clang:-std=c++17"]


def built_with(command, monkeypatch, kind: str):
    """The extension of the CPU kernels as a compiler of this kind would build it."""
    from setuptools import Extension
    from setuptools.command.build_ext import build_ext

    command.compiler.compiler_type = kind
    monkeypatch.setenv("CXX", "clang-cl")
    monkeypatch.setattr(build_ext, "build_extension", lambda *_: None)
    command.build_temp = "build"
    extension = Extension("aru_kernels._C", [])
    command.build_extension(extension)
    return extension


def test_flags_of_clang_cl(on_windows, setup_names, monkeypatch):
    """Without OpenMP: a process that loads LLVM's run time beside torch's ends on Windows."""
    command, _ = on_windows
    extension = built_with(command, monkeypatch, "msvc")
    assert extension.extra_compile_args == ["/clang:" + flag for flag in setup_names["FLAGS"]]
    assert extension.extra_link_args == []
    assert all(flag.startswith("/clang:-") for flag in command.compiler.flags)
    assert ("/clang:-mavx2" in command.compiler.flags) == setup_names["X86"]
    assert not any("openmp" in flag for flag in command.compiler.flags)


def test_flags_of_mingw(on_windows, setup_names, monkeypatch):
    """Linked statically: Python does not find MinGW's DLLs by the PATH."""
    command, _ = on_windows
    command.compiler.compiler_so_cxx = ["g++"]
    extension = built_with(command, monkeypatch, "mingw32")
    assert extension.extra_compile_args == [*setup_names["FLAGS"], "-Wa,-muse-unaligned-vector-move"]
    assert extension.extra_link_args == ["-static"]
    assert not any("openmp" in flag for flag in command.compiler.flags)


def test_flags_on_macos(on_windows, setup_names, monkeypatch):
    """Without OpenMP, whatever the compiler: torch has LLVM's run time, and Homebrew's would be the second."""
    monkeypatch.setattr(setup_names["platform"], "system", lambda: "Darwin")
    extension = built_with(on_windows[0], monkeypatch, "unix")
    assert extension.extra_compile_args == setup_names["FLAGS"]
    assert extension.extra_link_args == ["-pthread"]
