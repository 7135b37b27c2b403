"""The Triton kernels in Triton's interpreter: every file of tests/interpreter in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

from support.helpers import ROOT

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")

FILES = sorted(path.name for path in (ROOT / "tests" / "interpreter").glob("test_*.py"))


def run_pytest(*arguments: str, **environment: str) -> str:
    """Runs pytest in the interpreter's mode -> its report; fails with the report if a test fails."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *arguments],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"} | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_there_are_files():
    assert FILES


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("file", FILES)
def test_under_the_interpreter(file):
    report = run_pytest(f"tests/interpreter/{file}")
    assert " passed" in report
    assert " skipped" not in report


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_operators_under_the_interpreter():
    """Schema, fake kernels, autograd: the tests of all backends' operators, for this one."""
    report = run_pytest("tests/test_ops.py", "-k", "triton")
    assert " passed" in report
    assert " skipped" not in report
