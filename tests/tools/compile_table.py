"""Prints registers, spills and shared memory of every Triton kernel that users' calls launch.

    python tests/tools/compile_table.py [--all]

No GPU is needed.  The program fails if a kernel spills registers (with Triton 3.9 or later), needs more shared memory
than the GPU has, or, on NVIDIA, has a sum that threads disagree on (see `sums` in kernels/math.py) or a product with an
operand at a wrong address (see support/descriptors.py).  Without --all the table has the paper's size and a small
network at every precision on every architecture, with every option that takes registers, the dtypes of γ only on sm_90,
and networks with a leak only on sm_90 and gfx942.  --all adds other controller sizes, every combination of options, and
the leak on every architecture.
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import triton

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

from support import compilation  # noqa: E402


def _row(job: tuple[compilation.Launch, str, int | str]) -> tuple[compilation.Launch, str, compilation.Usage | str]:
    launch, backend, architecture = job
    try:
        return launch, str(architecture), compilation.compile_launch(launch, backend, architecture)
    except Exception as error:
        return launch, str(architecture), f"{type(error).__name__}: {error}"


def main() -> int:
    """Prints the table; 1 if a kernel does not fit."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--all", action="store_true", help="every controller size, dtype and option")
    everything = parser.parse_args().all
    jobs = [
        (launch, backend, architecture)
        for backend, architecture in compilation.ARCHITECTURES
        for launch in compilation.launches_for(backend, architecture, everything)
    ]
    failed = 0
    print(f"Triton {triton.__version__}, {len(jobs)} kernels: registers a thread, spilled, shared memory a program")
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for launch, architecture, usage in pool.map(_row, jobs, chunksize=4):
            problem = usage if isinstance(usage, str) else compilation.excess(usage, architecture)
            failed += bool(problem)
            figures = "" if isinstance(usage, str) else f"{usage.registers:4} {usage.spilled:5} {usage.shared:7} B"
            verdict = f" FAILS: {problem}" if problem else ""
            print(f"{architecture:>6} {launch.kernel:<26} {figures:<20} {launch.describe()}{verdict}", flush=True)
    fit = f"all {len(jobs)} kernels fit" + ("" if compilation.OLDER_TRITON else ", without spills")
    print(f"{failed} of {len(jobs)} kernels do not fit" if failed else fit)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
