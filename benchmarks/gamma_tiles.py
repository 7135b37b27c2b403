"""Times γ's Triton kernels on this machine's GPU with other blocks than the package's, beside the copy's bandwidth.

    python benchmarks/gamma_tiles.py

Checks each against the reference first.  The package's blocks are constants of aru_kernels/triton/gamma.py.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import aru_kernels.functional as F
from aru_kernels import reference, use_backend
from aru_kernels.triton import gamma
from benchmarks.gpu import timings
from benchmarks.gpu.problems import Place, random


@contextmanager
def blocks(forward: int, backward: int, stages: int) -> Iterator[None]:
    """γ's kernels with these constants."""
    with mock.patch.multiple(gamma, _FWD_BLOCK=forward, _BWD_BLOCK=backward, _BWD_STAGES=stages):
        yield


def cases(place: Place, rows: int, columns: int) -> Iterator[timings.Case]:
    """Forward and backward of float32 γ by kind of parameters; a variant for every choice of blocks."""
    x, dy = random(place, rows, columns), random(place, rows, columns)
    for kind, sizes in (("scalar", ()), ("per neuron", (columns,)), ("per element", (rows, columns))):
        n, s = 1 + random(place, *sizes).abs(), random(place, *sizes)
        leaves = [t.detach().requires_grad_() for t in (x, n, s)]
        exact = [t.detach().double().requires_grad_() for t in (x, n, s)]
        expected = torch.autograd.grad(reference.gamma(*exact), exact, dy.double())
        full = sum(t.numel() == x.numel() for t in (n, s))

        def forward(block: int, n=n, s=s) -> timings.Work:
            def run() -> object:
                with blocks(block, gamma._BWD_BLOCK, gamma._BWD_STAGES), use_backend("triton"), torch.no_grad():
                    return F.gamma(x, n, s)

            return run

        def backward(block: int, stages: int, leaves=leaves) -> timings.Work:
            with use_backend("triton"):
                work = timings.backward_of(F.gamma, leaves, dy)

            def run() -> tuple[torch.Tensor, ...]:
                with blocks(gamma._FWD_BLOCK, block, stages):
                    return work()

            return run

        # the package's own come first: the others' times are told as ratios to theirs
        own = gamma._BWD_BLOCK, gamma._BWD_STAGES
        choices = sorted(itertools.product((512, 1024, 2048), (1, 2, 3)), key=lambda choice: choice != own)
        backwards = {f"{block}, {stages} stages": backward(block, stages) for block, stages in choices}
        for name, work in backwards.items():
            for actual, exactly in zip(work(), expected, strict=True):
                error = (actual.double() - exactly).norm() / exactly.norm()
                assert error < 1e-5, f"{kind}, {name}: relative error {error:.2g}"
        del exact, expected
        sizes = sorted((1024, 2048, 4096), key=lambda block: block != gamma._FWD_BLOCK)
        forwards = {f"{block}": forward(block) for block in sizes}
        moved = x.nbytes * (2 + full)
        yield timings.Case(f"{kind}, forward", forwards, moved_bytes=moved, short=True)
        yield timings.Case(f"{kind}, backward", backwards, moved_bytes=moved + x.nbytes * (1 + full), short=True)


def main(device: str = "cuda", rows: int = 78_400, columns: int = 400, seconds: float = 0.5) -> None:
    """Prints every case."""
    place = Place("triton", torch.device(device), small=device == "cpu")
    limits = timings.measured_limits(place, seconds)
    for case in cases(place, rows, columns):
        print("\n".join(timings.measure(case, place, seconds, limits).lines()), flush=True)


if __name__ == "__main__":
    main()
