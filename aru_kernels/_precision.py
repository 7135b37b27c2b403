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
    matmul = getattr(torch.backends.mkldnn if device_type == "cpu" else torch.backends.cuda, "matmul", None)
    own = getattr(matmul, "fp32_precision", None)  # from torch 2.9 on
    try:
        word = torch.get_float32_matmul_precision()
    except RuntimeError:  # torch.backends.*.fp32_precision was set, and torch has no word for that
        return _WORDS.get(str(own), "highest")
    return "highest" if own == "ieee" else word  # torch keeps the word where "ieee" was set after it
