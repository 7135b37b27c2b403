"""Runs the emulated kernels that faults are planted in, in a process of its own; `test_cuda_faults.py` starts it.

    python -m support.fault_checks [PRECISION TOGETHER MODULE]...

imports torch once and forks for each module.  It prints "passed" or "noticed" with the module's path: a wrong value, an
error of the emulation and a crash all count as noticed.  TOGETHER: warps that make products together at "medium".
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
import torch

from aru_kernels import cuda
from support.cuda_checks import (
    RANGES,
    adaptive_arguments,
    check_adaptive,
    check_mixed,
    complete,
    one_signed_arguments,
)
from support.cuda_emulation import Emulation

SMALL = (4, 7, 23, 11), (12, 5), (12, 3)  # (T, B, H, G), slice and batch forward and backward
LARGE = (3, 7, 39, 11), (20, 7), (20, 7)  # rows for two groups of warps
CASES = (  # sizes, cluster, steps of a segment, schedule
    (SMALL, 1, 1, "random, late stores"),
    (SMALL, 0, 3, "starving in order"),
    (SMALL, 1, 2, "reversed"),
    (SMALL, 0, 2, "random, late stores"),
    (SMALL, 1, 2, "starving, late stores"),
    (LARGE, 1, 2, "random, late stores"),
)


def check(precision: str, together: int, path: str) -> None:
    """Raises AssertionError or RuntimeError, or crashes, if the kernels of a module are wrong."""

    def tiling(cluster: int, slice_: int, batch: int) -> tuple[int, ...]:
        warps = max(4 if precision in ("medium", "mixed") else 2, -(-slice_ * batch // 32))
        return complete((cluster, 2, slice_, batch, warps, 1), precision, together)

    emulation = Emulation(Path(path))
    with emulation.in_place_of_a_gpu(), pytest.MonkeyPatch.context() as patch:
        for (shape, *cuts), cluster, segment, schedule in CASES:
            both = [tiling(cluster, *cut) for cut in cuts]
            patch.setattr(cuda, "_plan", lambda index, form, backward, B, H, G, both=both: both[backward])
            emulation.schedule(schedule)
            torch.manual_seed(0)
            if precision == "mixed":
                check_mixed(adaptive_arguments(*shape))
                check_mixed(one_signed_arguments(*shape, RANGES["negative W_gc"]))
            else:
                check_adaptive(adaptive_arguments(*shape), precision, segment)


def main(arguments: list[str]) -> None:
    """Checks each module in a child process."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for precision, together, path in zip(arguments[::3], arguments[1::3], arguments[2::3], strict=True):
        child = os.fork()
        if child == 0:
            signal.alarm(100)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            outcome = 1
            try:
                check(precision, int(together), path)
                outcome = 0
            finally:
                os._exit(outcome)
        print("passed" if os.waitpid(child, 0)[1] == 0 else "noticed", path, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
