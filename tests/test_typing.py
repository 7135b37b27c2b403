"""Type checkers in a user's project: they find an editable installation, and the package's annotations."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from support.helpers import ROOT

pytest.importorskip("mypy")
pytest.importorskip("pybind11", reason="pybind11 is needed to run setup.py")

PROGRAM = """
from aru_kernels import ARUN, backends_info
reveal_type(ARUN(1, 64))
reveal_type(backends_info()[0].name)
"""


@pytest.fixture
def user_python(tmp_path: Path) -> Path:
    """A Python with an editable installation of a copy of the sources, without torch, which takes mypy long to read."""
    copy, wheels, environment = tmp_path / "copy", tmp_path / "wheels", tmp_path / "environment"
    ignore = shutil.ignore_patterns("*.so", "_build*.txt", "__pycache__")
    for folder in ("aru_kernels", "csrc", "python/aru_lab"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignore)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    command = [sys.executable, "setup.py", "-q", "editable_wheel", "--dist-dir", str(wheels)]
    switches = {"ARU_BUILD_CPU": "0", "ARU_BUILD_CUDA": "0"}
    done = subprocess.run(command, cwd=copy, env=os.environ | switches, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    venv.create(environment, symlinks=True)
    (site_packages,) = environment.glob("lib/python*/site-packages")
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site_packages)
    return environment / "bin" / "python"


@pytest.mark.skipif(sys.platform == "win32", reason="a virtual environment has other folders on Windows")
def test_mypy_finds_an_editable_installation(user_python: Path, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "mypy", "--python-executable", str(user_python), "--cache-dir", os.devnull]
    done = subprocess.run([*command, "program.py"], cwd=folder, capture_output=True, text=True, timeout=120)
    assert re.findall(r'Revealed type is "(.*)"', done.stdout) == ["aru_kernels.modules.ARUN", "str"], done.stdout
    assert "error:" not in done.stdout


def test_an_editable_installation_has_both_packages(user_python: Path, tmp_path: Path) -> None:
    program = "import importlib.util as u; print(*(u.find_spec(name).origin for name in ('aru_kernels', 'aru_lab')))"
    done = subprocess.run([user_python, "-E", "-c", program], cwd=tmp_path, capture_output=True, text=True)
    copy = (tmp_path / "copy").resolve()
    expected = [str(copy / "aru_kernels" / "__init__.py"), str(copy / "python" / "aru_lab" / "__init__.py")]
    assert done.stdout.split() == expected, done.stderr
