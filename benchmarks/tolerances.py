"""The one table of tolerances: how far a result may be from the exact one.

Errors are relative in the L2 norm: ||actual - expected|| / ||expected||.  A tolerance is widened only together with the
measured error beside it (largest over the test suite; x86-64, torch 2.13).

The table is here because the GPU checks run from a bare source tree, without a test framework.  The tests import it
from here; `tests/support/tolerances.py` has the assertions.
"""

from __future__ import annotations

import torch
from torch import Tensor

TOLERANCES = {
    # γ or a derivative of it, element by element: a few roundings of the dtype (and |z| of them in e^-|z|, so at |z| =
    # 100 a hundred); narrow dtypes round a float32 result once.
    "element": {
        torch.float64: 1e-14,  # 5.8e-15
        torch.float32: 1e-6,  # 3.7e-7
        torch.float16: 1e-3,  # 2.9e-4
        torch.bfloat16: 8e-3,  # 4.5e-3
    },
    # Sums over elements (gradients of broadcast parameters): cancellation can make a sum smaller than its terms, so
    # that the relative error of the terms grows.
    "sum": {
        torch.float64: 1e-13,  # 6.7e-15
        torch.float32: 1e-5,  # 1.5e-6
    },
    # Recurrences, values and gradients, by another order of operations; narrow dtypes round weights, inputs and
    # outputs, not the state.
    "sequence": {
        torch.float64: 2e-13,  # 2.4e-14
        torch.float32: 2e-5,  # 2.9e-6
        torch.float16: 2e-3,  # 4.8e-4
        torch.bfloat16: 2e-2,  # 4.1e-3
    },
    # Recurrences whose controller multiplies and keeps its state in bfloat16 (set_float32_matmul_precision("medium")).
    "bfloat16 products, values": {
        torch.float32: 3e-4,  # 1.4e-4
    },
    "bfloat16 products, gradients": {
        torch.float32: 2e-2,  # 1.0e-2
    },
    # Sequences whose float32 matrices are multiplied, by torch's matmul precision, in bfloat16, in TF32, or split in
    # three bfloat16.
    "medium products": {torch.float32: 6e-2},  # 3.0e-2, a sum of few terms that cancel; values 3.2e-3
    "high products": {torch.float32: 3e-3},  # 1.5e-3; values 6.0e-4
    "highest products": {torch.float32: 5e-6},  # 7.7e-7
    # Vectors of the authors' code where n x passes 20: they replace softplus by the identity there, which leaves out
    # log1p(e^-20) = 2e-9 at the worst.
    "authors": {
        torch.float64: 3e-9,  # 1.1e-9
    },
}

# Sequences in float32 by torch.get_float32_matmul_precision, on GPUs: as accurate as IEEE products, TF32 operands (11
# bits), bfloat16 operands (8 bits); values and gradients.  Of the two narrow ones, bounds from the operands' rounding.
PRODUCTS = {"highest": 2e-5, "high": 5e-3, "medium": 4e-2}


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """||actual - expected|| / ||expected||, or ||actual|| where expected is 0."""
    actual, expected = actual.detach().double(), expected.detach().double()
    scale = expected.norm().item()
    return (actual - expected).norm().item() / (scale or 1.0)
