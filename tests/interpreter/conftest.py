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

    from races import races

    # Before Triton 3.6 launches go past `run`, where tests count them; compiled kernels' never do.
    InterpretedFunction.__getitem__ = KernelInterface.__getitem__


@pytest.fixture(autouse=True)
def races_found():
    """Fails a test in whose launches races are found; a test that plants one takes it from the set."""
    with races() as found:
        yield found
    assert not found, "\n".join(sorted(found))
