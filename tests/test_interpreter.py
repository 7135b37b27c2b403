"""The Triton kernels in Triton's interpreter: the files of tests/interpreter in processes that have its mode."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.helpers import ROOT

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")

FILES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests" / "interpreter").glob("test_*.py"))
# Not one process a file, because the imports take seconds; not one for all, because pytest's workers share the groups.
GROUPS = [FILES[k::3] for k in range(3)]


def run_pytest(*arguments: str, **environment: str) -> str:
    """Runs pytest in the interpreter's mode -> its report; fails with the report if a test fails."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *arguments],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"} | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_there_are_files():
    assert all(GROUPS)


@pytest.mark.slow
@pytest.mark.timeout(1000)
@pytest.mark.parametrize("files", GROUPS, ids=lambda files: ", ".join(Path(file).stem for file in files))
def test_under_the_interpreter(files):
    report = run_pytest(*files)
    assert " passed" in report
    assert " skipped" not in report


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_operators_under_the_interpreter():
    """Schema, fake kernels, autograd: the tests of all backends' operators, for this one."""
    report = run_pytest("tests/test_ops.py", "-k", "triton")
    assert " passed" in report
    assert " skipped" not in report
