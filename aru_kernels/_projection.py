"""The input projection x W^T + b of a layer, before its recurrence.

A layer with one input a step (psMNIST) would pay for two passes over memory forward, a copy of the bias and a product
with one term, and for two of the slowest ways to sum over all steps backward.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from aru_kernels import _checks as check


def project(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (T, B, I), weight (H, I), bias (H) -> (T, B, H)."""
    if x.device.type == "cuda" and weight.shape[1] == 1 and not check.autocasting(x.device):
        return OuterProduct.apply(x, weight, bias)
    return F.linear(x, weight, bias)


class OuterProduct(torch.autograd.Function):
    """As F.linear, of one input: x (..., 1), weight (H, 1), bias (H) or None -> (..., H)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return x * weight.mT if bias is None else torch.addcmul(bias, x, weight.mT)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor | None, ...], output: Tensor) -> None:
        x, weight, _ = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        columns = d.reshape(-1, d.shape[-1]).mT
        d_x = d @ weight if ctx.needs_input_grad[0] else None
        d_weight = torch.mv(columns, x.reshape(-1)).unsqueeze(1) if ctx.needs_input_grad[1] else None
        d_bias = torch.mv(columns, columns.new_ones(columns.shape[1])) if ctx.needs_input_grad[2] else None
        return d_x, d_weight, d_bias
