"""How accurate float32 products must be: PyTorch's own switches, read."""

from __future__ import annotations

import torch

from aru_kernels._compile import constant_when_compiled

# torch.backends.*.matmul.fp32_precision in the words of torch.set_float32_matmul_precision
_WORDS = {"tf32": "high", "bf16": "medium"}


@constant_when_compiled
def product_precision(device_type: str) -> str:
    """Of products on devices of this type: "highest", "high" or "medium".

    torch.compile cannot trace it and watches only the TF32 that comes with "high" and "medium": a compiled program does
    not notice a change between those two.
    """
    try:
        word = torch.get_float32_matmul_precision()
    except RuntimeError:  # torch.backends.*.fp32_precision was set, and torch has no word for that
        return _WORDS.get(_own_precision(device_type), "highest")
    # torch keeps the word where "ieee" was set after it
    return "highest" if word == "highest" or _own_precision(device_type) == "ieee" else word


def _own_precision(device_type: str) -> str:
    """The switch of the devices' own matrix products, from torch 2.9 on."""
    matmul = getattr(torch.backends.mkldnn if device_type == "cpu" else torch.backends.cuda, "matmul", None)
    return str(getattr(matmul, "fp32_precision", None))
