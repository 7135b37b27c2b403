"""What tests share beside fixtures: paths and conditions to skip on."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from aru_kernels import cpu

ROOT = Path(__file__).resolve().parents[2]

needs_cpu_kernels = pytest.mark.skipif(cpu.unavailable() is not None, reason=f"no backend cpu: {cpu.unavailable()}")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
needs_resident_peak = pytest.mark.skipif(
    sys.platform == "win32", reason="the peak of memory is not measured on Windows"
)


def run_sanitized(program: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a program under the sanitizer that it is compiled with.

    ThreadSanitizer fails where the kernel randomises addresses too much. The program then runs again without
    randomisation, if the system allows it.
    """
    settings = {"capture_output": True, "text": True, "env": os.environ | environment, "timeout": 600}
    done = subprocess.run([program], **settings)
    if "unexpected memory mapping" in done.stderr:
        done = subprocess.run(["setarch", platform.machine(), "-R", program], **settings)
        if "personality" in done.stderr:
            pytest.skip("ThreadSanitizer fails with this kernel's random addresses (vm.mmap_rnd_bits)")
    return done
