"""Tests of the Triton kernels on the CPU, in Triton's interpreter.

They need TRITON_INTERPRET=1 before Python starts, and one process has one mode: `tests/test_interpreter.py` runs
them in processes of their own.  By hand: TRITON_INTERPRET=1 pytest tests/interpreter
"""

from __future__ import annotations

import pytest

from aru_kernels.triton._mode import INTERPRETED

collect_ignore_glob = [] if INTERPRETED else ["test_*.py"]

if INTERPRETED:
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import KernelInterface

    from support.races import races

    # Before Triton 3.6 launches go past `run`, where tests count them; compiled kernels' never do.
    InterpretedFunction.__getitem__ = KernelInterface.__getitem__


@pytest.fixture(autouse=True)
def races_found():
    """Fails a test in whose launches races are found; a test that plants one takes it from the set."""
    with races() as found:
        yield found
    assert not found, "\n".join(sorted(found))


@pytest.fixture(params=["1T", "1"], ids=["all kept", "checkpoints"])
def budget(request, monkeypatch):
    monkeypatch.setenv("ARU_STATE_BUDGET", request.param)


@pytest.fixture
def step_by_step(monkeypatch):
    """No network is small enough for a single launch."""
    from aru_kernels.triton import persistent

    monkeypatch.setattr(persistent, "MAX_BATCH", 0)


@pytest.fixture(params=["at once", "step by step"])
def way(request):
    """Small networks in one launch, and as large ones run."""
    if request.param == "step by step":
        request.getfixturevalue("step_by_step")
