"""Systems other than Linux: modules without POSIX's own, and kernels from a compiler without OpenMP."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from aru_kernels import _memory
from support.helpers import ROOT

# Hidden as on Windows: modules, functions of os, signals.
HIDE_POSIX = """
import sys
import torch  # another package's own imports are not the question; nor are those of the libraries below
import matplotlib, numpy, pooch, rich, scipy, sklearn, tyro, filelock, safetensors, multiprocessing.pool, subprocess
import sklearn.decomposition, matplotlib.pyplot, torch.export, torch.utils.data, hypothesis
import os, signal

for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for name in ("fork", "sysconf", "register_at_fork", "sched_getaffinity", "getuid", "geteuid", "killpg", "setsid",
             "nice", "statvfs", "getloadavg", "uname", "O_NONBLOCK", "O_NOFOLLOW", "O_CLOEXEC"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCHLD", "SIGPIPE", "alarm", "pthread_sigmask"):
    if hasattr(signal, name):
        delattr(signal, name)
"""
IMPORT_ALL = """
import importlib, pkgutil
import aru_kernels, aru_lab
names = [
    found.name
    for package in (aru_kernels, aru_lab)
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
    if not found.name.endswith("__main__")
]
for name in names:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        # an optional package that isn't installed here either, but none of the hidden ones
        if error.name in ("fcntl", "resource", "pwd", "grp", "termios") or error.name.startswith("aru_"):
            raise
        print("absent", name, error.name)
assert sys.modules["aru_kernels._memory"].resource is None
print(len(names), "modules")
"""


def test_every_module_is_imported_without_what_windows_lacks(run_python):
    pytest.importorskip("tyro")
    done = run_python("-c", HIDE_POSIX + IMPORT_ALL)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-2]) > 60


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_test_is_collected_without_what_windows_lacks(run_python, tmp_path):
    pytest.importorskip("tyro")
    (tmp_path / "hide_posix.py").write_text(HIDE_POSIX)
    code = f"import sys, pytest; sys.path.insert(0, {str(tmp_path)!r}); sys.exit(pytest.main(sys.argv[1:]))"
    arguments = ("-p", "hide_posix", "--collect-only", "-q", "--rootdir", str(ROOT), str(ROOT / "tests"))
    done = run_python("-c", code, *arguments, timeout=800)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="this is Windows, where the real function is called")
def test_windows_is_asked_for_its_memory(monkeypatch):
    import ctypes
    from types import SimpleNamespace

    def answer(pointer):
        assert pointer._obj.length == 64  # sizeof(MEMORYSTATUSEX)
        pointer._obj.total = 8 << 30
        return answers.pop()

    answers = [0, 1]
    monkeypatch.delattr(os, "sysconf")
    windll = SimpleNamespace(kernel32=SimpleNamespace(GlobalMemoryStatusEx=answer))
    monkeypatch.setattr(ctypes, "windll", windll, raising=False)
    assert _memory.total_bytes() == 8 << 30
    with pytest.raises(OSError, match="how much memory"):
        _memory.total_bytes()


def test_the_machine_has_memory():
    assert 2**26 < _memory.total_bytes() < 2**60


@pytest.fixture
def without_openmp(tmp_path) -> Path:
    """A compiler that refuses -fopenmp, as Apple's clang does."""
    wrapper = tmp_path / "c++"
    compiler = os.environ.get("CXX", "g++")
    wrapper.write_text(
        "#!/bin/sh\n"
        'for flag; do [ "$flag" != -fopenmp ] || { echo "unsupported option \'-fopenmp\'" >&2; exit 1; }; done\n'
        f'exec {compiler} "$@"\n'
    )
    wrapper.chmod(0o755)
    return wrapper


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform == "win32", reason="the wrapper is a script of a POSIX shell")
def test_kernels_without_openmp_have_threads_of_their_own(without_openmp, tmp_path):
    import subprocess

    from support.kernels_build import compile_kernels_test

    refused = subprocess.run([without_openmp, "-fopenmp", "--version"], capture_output=True, text=True)
    assert refused.returncode == 1
    flags = ["-O1", "-DARU_UNIT_BLOCK=2"]  # for the time of the compiler
    program = compile_kernels_test(tmp_path, str(without_openmp), flags, {"generic": ([], 16)})
    done = subprocess.run([program], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 failed" in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="the wrapper is a script of a POSIX shell")
def test_setup_links_threads_where_openmp_is_refused(without_openmp, monkeypatch):
    pytest.importorskip("pybind11", reason="pybind11 is needed to run setup.py")
    from setuptools import Distribution, Extension
    from setuptools.command.build_ext import build_ext

    from support.kernels_build import build_settings

    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("CXX", str(without_openmp))
    command = build_settings()["OptionalBuild"](Distribution())
    command.ensure_finalized()
    from setuptools._distutils.ccompiler import new_compiler
    from setuptools._distutils.sysconfig import customize_compiler

    command.compiler = new_compiler()
    customize_compiler(command.compiler)
    monkeypatch.setattr(command, "_compile_kernel", lambda *_: [])
    monkeypatch.setattr(build_ext, "build_extension", lambda *_: None)
    extension = Extension("aru_kernels._C", [])
    command.build_extension(extension)
    assert "-fopenmp" not in extension.extra_compile_args
    assert extension.extra_link_args == ["-pthread"]
