"""Arguments of the operations: networks whose gain and saturation move with the state, and that amplify no round-off.

Tensors are float32, in the order of the functions of `aru_kernels.functional`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def controller_weights(G: int, device: torch.device | None = None) -> list[Tensor]:
    """weight_ag (G,), weight_gg (G, G), bias_g (G,), weight_gc (2, G), bias_c (2,)."""
    weight_ag, weight_gg = torch.randn(G, device=device), torch.randn(G, G, device=device) / (2 * G**0.5)
    bias_g, weight_gc = 0.1 * torch.randn(G, device=device), 0.5 * torch.randn(2, G, device=device) / G**0.5
    return [weight_ag, weight_gg, bias_g, weight_gc, torch.tensor([4.0, 0.2], device=device)]


def step(B: int, H: int, G: int, device: torch.device | None = None) -> list[Tensor]:
    """Arguments of controller_step and adaptive_gamma: a (B, H), g (B, H, G) and the controller's weights."""
    a, g = torch.randn(B, H, device=device), torch.rand(B, H, G, device=device) - 0.5
    return [a, g, *controller_weights(G, device)]


def adaptive(T: int, B: int, H: int, G: int, device: torch.device | None = None) -> list[Tensor]:
    """Arguments of aru_sequence: xp (T, B, H), h0 (B, H), g0 (B, H, G), weight_hh (H, H), the controller's weights."""
    xp, h0 = torch.randn(T, B, H, device=device), torch.rand(B, H, device=device)
    g0 = torch.rand(B, H, G, device=device) - 0.5
    weight_hh = torch.randn(H, H, device=device) / (2 * H**0.5)
    return [xp, h0, g0, weight_hh, *controller_weights(G, device)]


def static(
    T: int, B: int, H: int, sizes: tuple[int, ...] | None = None, device: torch.device | None = None
) -> list[Tensor]:
    """Arguments of gamma_rnn_sequence: xp (T, B, H), h0 (B, H), weight_hh (H, H), n and s of `sizes`, or (H,)."""
    sizes = (H,) if sizes is None else sizes
    xp, h0 = torch.randn(T, B, H, device=device), torch.rand(B, H, device=device)
    weight_hh = torch.randn(H, H, device=device) / (2 * H**0.5)
    return [xp, h0, weight_hh, 4 + torch.randn(sizes, device=device), 0.4 * torch.rand(sizes, device=device)]
