"""What every launch needs: the tensors' device, the dtype of the computation, how float32 products are taken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import triton
import triton.language as tl
from torch import Tensor

from aru_kernels import _checks as check
from aru_kernels.triton._mode import INTERPRETED

# Triton's default is about to change and it warns of that; the kernels are tested with multiply-adds fused.
OPTIONS = {"enable_fp_fusion": True}

VERSION = tuple(int(part) for part in triton.__version__.split(".")[:2])


@contextmanager
def launching_on(tensor: Tensor) -> Iterator[None]:
    """Triton launches on the current stream of the current device: makes that the tensor's; and no autocast."""
    with check.no_autocast(tensor.device):
        if tensor.is_cuda:
            with torch.cuda.device(tensor.device):
                yield
        else:
            yield


def accumulator(dtype: torch.dtype) -> tl.dtype:
    """What tensors of this dtype are computed in."""
    return tl.float64 if dtype == torch.float64 else tl.float32


def products(device: torch.device, wanted: str) -> tuple[str, str]:
    """How kernels, and backward kernels of all steps, multiply float32 matrices; see `product_of_architecture`."""
    if INTERPRETED:
        return "ieee", "ieee"
    if torch.version.hip:
        backend, architecture = "hip", torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
    else:
        major, minor = torch.cuda.get_device_capability(device)
        backend, architecture = "cuda", 10 * major + minor
    forward, backward = (product_of_architecture(backend, architecture, wanted, b) for b in (False, True))
    return forward, backward


def product_of_architecture(backend: str, architecture: int | str, wanted: str, backward: bool) -> str:
    """The product for a Triton target: backend "cuda" with the compute capability times ten, or "hip" with its name.

    wanted: in the words of torch.set_float32_matmul_precision.  "highest": to the accuracy of IEEE float32, as three
    TF32 products ("tf32x3") where there are any, but in backward kernels of all steps from compute capability 9.0
    alone: before, they spill.  "high": TF32.  "medium": bfloat16 operands.  GPUs without TF32 use their float32 units
    ("ieee").
    """
    if backend == "cuda":
        if architecture < 80:
            return "ieee"
        highest = "ieee" if backward and architecture < 90 else "tf32x3"
        return {"highest": highest, "high": "tf32", "medium": "bf16"}[wanted]
    if wanted == "medium":
        return "bf16"
    return "tf32" if wanted == "high" and architecture == "gfx942" else "ieee"


def warp_size(device: torch.device) -> int:
    """Threads of a warp."""
    return torch.cuda.get_device_properties(device).warp_size if torch.version.hip else 32


def padded(G: int) -> int:
    """Units of the controller in a kernel: a power of two that tl.dot takes."""
    return max(16, triton.next_power_of_2(G))
