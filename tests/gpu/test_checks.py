"""What the interpreter cannot show: the checks of `benchmarks/gpu_checks.py` on every backend that serves a GPU."""

from __future__ import annotations

import pytest
import torch

from benchmarks import gpu_checks

BACKENDS = gpu_checks.fused_backends("cuda") if torch.cuda.is_available() else []

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not BACKENDS, reason="no GPU, or no backend that serves one")]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("backend", BACKENDS or ["none"])
@pytest.mark.parametrize("name", gpu_checks.CHECKS)
def test_check(name, backend):
    try:
        gpu_checks.run_check(name, gpu_checks.Place(backend, torch.device("cuda", torch.cuda.current_device())))
    except gpu_checks.Skip as reason:
        pytest.skip(str(reason))
