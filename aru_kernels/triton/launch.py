"""What every launch needs: the tensors' device, the dtype of the computation, the kind of float32 product."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import triton
import triton.language as tl
from torch import Tensor

from aru_kernels import _checks as check
from aru_kernels.triton._mode import INTERPRETED

# Explicit, because Triton warns that its default will change; the kernels are tested with fused multiply-adds.
OPTIONS = {"enable_fp_fusion": True}


@contextmanager
def launching_on(tensor: Tensor) -> Iterator[None]:
    """Makes the tensor's device current, on whose current stream Triton launches, and disables autocast."""
    with check.no_autocast(tensor.device):
        if tensor.is_cuda:
            with torch.cuda.device(tensor.device):
                yield
        else:
            yield


def accumulator(dtype: torch.dtype) -> tl.dtype:
    """The dtype in which kernels compute on tensors of this dtype."""
    return tl.float64 if dtype == torch.float64 else tl.float32


def product_kind(device: torch.device, precision: str) -> str:
    """How kernels on this device multiply float32 matrices; see `product_kind_of`."""
    if INTERPRETED:
        return "ieee"
    if torch.version.hip:
        return product_kind_of("hip", torch.cuda.get_device_properties(device).gcnArchName.split(":")[0], precision)
    major, minor = torch.cuda.get_device_capability(device)
    return product_kind_of("cuda", 10 * major + minor, precision)


def product_kind_of(backend: str, architecture: int | str, precision: str) -> str:
    """The kind of product on a Triton target: "cuda" with the compute capability times ten, or "hip" with its name.

    precision: as in torch.set_float32_matmul_precision.  "highest" is as accurate as IEEE float32: three TF32 products
    ("tf32x3"), or float32 units ("ieee") on a GPU without TF32.  "high" is TF32, "medium" is bfloat16 operands.
    """
    if backend == "cuda":
        return "ieee" if int(architecture) < 80 else {"highest": "tf32x3", "high": "tf32", "medium": "bf16"}[precision]
    if precision == "medium":
        return "bf16"
    return "tf32" if precision == "high" and architecture == "gfx942" else "ieee"


def warp_size(device: torch.device) -> int:
    """The number of threads in a warp."""
    return torch.cuda.get_device_properties(device).warp_size if torch.version.hip else 32


def padded(G: int) -> int:
    """GP, the padded number of units in a kernel: a power of two that tl.dot takes."""
    return max(16, triton.next_power_of_2(G))
