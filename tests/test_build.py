"""setup.py where something is missing or switched off: the installation goes on, and the package says what happened."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

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
    assert "repeat `pip install -e .`" in outcome
    program = """
import torch, aru_kernels
from aru_kernels.__main__ import main
main()
print(*aru_kernels.ARUN(1, 4, controller_size=3)(torch.rand(3, 2, 1))[0].shape)
"""
    used = run_python("-c", f"{ALONE}\n{program}", PYTHONPATH=str(tmp_path))
    assert "not available: the C++ extension is not built: no working C++ compiler" in used.stdout, used.stderr
    assert used.stdout.split()[-3:] == ["3", "2", "4"]


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
    assert re.search(r"nvcc failed on csrc/cuda/\w+\.cu: nvcc: out of order; when that is mended, repeat", outcome)
    program = "from aru_kernels.__main__ import main; main()"
    used = run_python("-c", f"{ALONE}\n{program}", PYTHONPATH=str(tmp_path))
    (line,) = (line for line in used.stdout.splitlines() if line.startswith("cuda "))
    assert "not available: the CUDA extension is not built: nvcc failed on csrc/cuda/" in line


def test_a_cuda_build_that_is_asked_for_must_succeed(build, broken_nvcc):
    _, done = build(ARU_BUILD_CUDA="1", **broken_nvcc)
    assert done.returncode != 0
    assert "nvcc: out of order" in done.stderr


def test_a_cuda_build_can_be_switched_off(build, broken_nvcc):
    outcome, done = build(**broken_nvcc)
    assert done.returncode == 0, done.stderr
    assert "switched off by ARU_BUILD_CUDA=0" in outcome
