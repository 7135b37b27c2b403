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


def product_precision(device: torch.device, wanted: str) -> str:
    """How the kernels multiply float32 matrices, by the wanted precision and the device.

    "highest": to the accuracy of IEEE float32, as three TF32 products on NVIDIA from compute capability 8.0; "high":
    TF32; "medium": bfloat16 operands.  GPUs without TF32 use their float32 units, at every setting.
    """
    if INTERPRETED:
        return "ieee"
    if torch.version.hip:
        architecture = torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
        return product_of_architecture("hip", architecture, wanted)
    major, minor = torch.cuda.get_device_capability(device)
    return product_of_architecture("cuda", 10 * major + minor, wanted)


def product_of_architecture(backend: str, architecture: int | str, wanted: str) -> str:
    """The same for a Triton target: backend "cuda" with the compute capability times ten, or "hip" with its name."""
    if backend == "cuda":
        if architecture < 80:
            return "ieee"
        return {"highest": "tf32x3", "high": "tf32", "medium": "bf16"}[wanted]
    if wanted == "medium":
        return "bf16"
    return "tf32" if wanted == "high" and architecture == "gfx942" else "ieee"


def padded(G: int) -> int:
    """Units of the controller in a kernel: a power of two that tl.dot takes."""
    return max(16, triton.next_power_of_2(G))
