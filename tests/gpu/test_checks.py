"""What the interpreter cannot show: the checks of `benchmarks/gpu/checks.py` on every backend that serves a GPU."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu import checks, problems

BACKENDS = problems.fused_backends("cuda") if torch.cuda.is_available() else []

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not BACKENDS, reason="no GPU, or no backend that serves one")]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("backend", BACKENDS or ["none"])
@pytest.mark.parametrize("name", checks.CHECKS)
def test_check(name, backend):
    try:
        checks.run_check(name, problems.Place(backend, torch.device("cuda", torch.cuda.current_device())))
    except problems.Skip as reason:
        pytest.skip(str(reason))
