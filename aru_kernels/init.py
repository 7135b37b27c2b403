"""Initialisations of the paper (maths: "Henaff orthogonal"; its other weights use torch.nn.init)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


@torch.no_grad()
def henaff_orthogonal_(tensor: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Fills a square matrix with random rotations of pairs of coordinates, in place.

    exp of the block-diagonal skew-symmetric matrix with blocks [[0, θ], [-θ, 0]], θ ~ U(-π, 0): the blocks
    [[cos θ, sin θ], [-sin θ, cos θ]] on the diagonal; an odd last row is that of the identity.
    Source: Henaff, Szlam, LeCun, "Recurrent orthogonal networks and long-memory tasks", 2016.

    tensor: (H, H), any floating dtype.  generator: source of θ; torch's own if None.  Raises ValueError for another
    shape.
    """
    if tensor.ndim != 2 or tensor.shape[0] != tensor.shape[1]:
        raise ValueError(f"tensor must be a square matrix, got shape {tuple(tensor.shape)}.")
    size = tensor.shape[0]
    pairs = size // 2
    theta = -math.pi * torch.rand(pairs, dtype=tensor.dtype, device=tensor.device, generator=generator)
    first = 2 * torch.arange(pairs, device=tensor.device)
    second = first + 1
    tensor.zero_()
    tensor[first, first] = tensor[second, second] = torch.cos(theta)
    tensor[first, second] = torch.sin(theta)
    tensor[second, first] = -torch.sin(theta)
    if size % 2:
        tensor[-1, -1] = 1
    return tensor


@torch.no_grad()
def recurrent_(weight_ih: Tensor, weight_hh: Tensor, bias: Tensor | None) -> None:
    """The main network's weights, in place.

    weight_ih: (H, I), Kaiming normal.  weight_hh: (H, H), Henaff orthogonal.  bias: (H,), zero; or None.
    """
    nn.init.kaiming_normal_(weight_ih)
    henaff_orthogonal_(weight_hh)
    if bias is not None:
        nn.init.zeros_(bias)


@torch.no_grad()
def controller_(weight_ag: Tensor, weight_gg: Tensor, bias_g: Tensor, weight_gc: Tensor, bias_c: Tensor) -> None:
    """The controller's weights, in place; shapes as in `aru_kernels.functional.controller_step`.

    The read-out starts small, so that every neuron begins near one gain drawn from 5 + 2 U(0, 1) and saturation 0.
    """
    nn.init.kaiming_normal_(weight_ag[:, None])
    henaff_orthogonal_(weight_gg)
    nn.init.zeros_(bias_g)
    nn.init.xavier_normal_(weight_gc[0:1], gain=0.1)
    nn.init.xavier_normal_(weight_gc[1:2], gain=0.01)
    bias_c[0].uniform_(5, 7)
    bias_c[1] = 0


@torch.no_grad()
def static_gamma_(gain: Tensor, saturation: Tensor) -> None:
    """The static network's γ, in place: n = gain ~ N(5, 2²), s = saturation = 0."""
    nn.init.normal_(gain, 5, 2)
    nn.init.zeros_(saturation)
