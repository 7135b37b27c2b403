"""What is measured: sizes, the useful work in them, and the bytes that must move."""

from __future__ import annotations

from typing import NamedTuple


class Shape(NamedTuple):
    """B sequences of T steps, H neurons, controllers of G units (0: static network)."""

    B: int
    T: int
    H: int
    G: int

    def __str__(self) -> str:
        return "x".join(map(str, self))

    def gflop(self, backward: bool) -> float:
        """F = 2 B T (H² + H G² + 3 H G), three times that with the backward pass; recomputation is not counted."""
        B, T, H, G = self
        return 2 * B * T * (H * H + H * G * G + 3 * H * G) / 1e9 * (3 if backward else 1)

    def transcendental(self, backward: bool) -> int:
        """Instructions of a GPU's special-function units that the useful work takes at the least.

        Two for every tanh (ex2, rcp) and two for every γ and for its derivatives; recomputation is not counted.
        """
        B, T, H, G = self
        return B * T * H * (2 * G + (4 if backward else 2))


QUICK = Shape(32, 64, 64, 16)
ODD = Shape(13, 37, 53, 11)
MEDIUM = Shape(100, 64, 100, 32)
LONG = Shape(16, 784, 64, 16)
# the paper's network over the first steps of its sequence: an eager loop needs 15 GB for all 784
PAPER_START = Shape(100, 28, 400, 50)
PAPER_PIECE = Shape(100, 100, 400, 50)
PAPER = Shape(100, 784, 400, 50)
SEQUENCES = (QUICK, ODD, MEDIUM, PAPER_START, LONG, PAPER_PIECE)


def step_gflop(rows: int, G: int, backward: bool) -> float:
    """Of one controller step over rows (b, i)."""
    return 2 * rows * (G * G + 3 * G) / 1e9 * (3 if backward else 1)


def gamma_gigabytes(elements: int, parameters: int, backward: bool) -> float:
    """float32: x in, y out; backward dy and x in, dx out; n and s in, and their gradients out."""
    return 4 * (elements * (3 if backward else 2) + parameters * (4 if backward else 2)) / 1e9
