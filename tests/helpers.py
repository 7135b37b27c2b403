"""What tests share beside fixtures: paths and conditions to skip on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aru_kernels import cpu

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("ARU_SHARED_DIR", ROOT.parent / "shared"))

needs_cpu_kernels = pytest.mark.skipif(cpu.unavailable() is not None, reason=f"no backend cpu: {cpu.unavailable()}")
