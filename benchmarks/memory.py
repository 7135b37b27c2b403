"""Peak memory of one forward and backward pass, in a process of its own.

python -m benchmarks.memory BACKEND B T H G
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import torch

import aru_kernels

from . import machine
from .work import Shape

ROOT = Path(__file__).parents[1]


def peak_in_fresh_process(backend: str, shape: Shape) -> float:
    """MB (10⁶ bytes) that a forward and backward pass needs beyond what was there before it."""
    command = [sys.executable, "-m", "benchmarks.memory", backend, *map(str, shape)]
    # what this process can import, that one can
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    if done.returncode:
        raise RuntimeError(f"the memory of {backend!r} at {shape} could not be measured:\n{done.stderr}")
    return float(done.stdout.split()[-1])


def resident_peak() -> int:
    """Bytes that this process has had in memory at most.

    Raises:
        RuntimeError: on Windows, which has another way to tell.
    """
    try:
        # not getrusage, where Linux counts what the parent of a process had in memory before
        status = Path("/proc/self/status").read_text()
        return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", status)[1])
    except (OSError, TypeError):
        if sys.platform == "win32":
            raise RuntimeError("the peak of memory is not measured on Windows") from None
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def main(backend: str, *sizes: str) -> None:
    """Prints the megabytes."""
    device = machine.device()
    B, T, H, G = map(int, sizes)
    torch.manual_seed(0)
    layer, x = aru_kernels.ARUN(1, H, controller_size=G, device=device), torch.rand(T, B, 1, device=device)

    def run(steps: int) -> None:
        with aru_kernels.use_backend(backend):
            layer(x[:steps])[0].square().sum().backward()

    run(2)  # libraries and workspaces are loaded before the count begins
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(T)
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated()
    else:
        before = resident_peak()
        run(T)
        peak = resident_peak()
    print((peak - before) / 1e6)


if __name__ == "__main__":
    main(*sys.argv[1:])
