r"""Noise for the argument `drive` of the layers and cells: the external drive :math:`\xi` of every neuron and step."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from aru_kernels import _checks as check

__all__ = ["gaussian", "ornstein_uhlenbeck"]


def gaussian(
    T: int,
    B: int,
    H: int,
    deviation: float,
    *,
    leak: float = 1.0,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Draws white noise, independent over steps, sequences and neurons.

    .. math::
        \xi_t \sim \sqrt{2 / \alpha} \, \sigma \, N(0, 1)

    for a network with the leak :math:`\alpha < 1`.  The factor makes the deviation of a leaky neuron's state nearly
    independent of the step size dt, where :math:`\alpha = dt / \tau`.  With :math:`\alpha = 1`, which is a network
    without leak, there is no factor: :math:`\xi_t \sim \sigma N(0, 1)`.

    Args:
        T: number of time steps.
        B: number of sequences.
        H: number of neurons.
        deviation: :math:`\sigma`, the standard deviation, at least 0.
        leak: :math:`\alpha`, above 0 and at most 1.
        generator: the source of the numbers, on `device`.  PyTorch's own if None.
        device: of the noise.
        dtype: of the noise.

    Returns:
        The noise, of shape (T, B, H).

    Raises:
        TypeError: if a size is not an integer, or a number is none.
        ValueError: if a size is below 1, `deviation` is below 0, or `leak` is not above 0 and at most 1.

    Source: H. F. Song, G. R. Yang, X.-J. Wang, PLoS Computational Biology 2016.

    Examples:
        >>> from aru_kernels import ARUN
        >>> xi = gaussian(50, 16, 64, deviation=0.1, generator=torch.Generator().manual_seed(0))
        >>> output, state = ARUN(3, 64)(torch.randn(50, 16, 3), drive=xi)
        >>> round(xi.std().item(), 3)
        0.1
    """
    shape = _sizes(T, B, H)
    deviation = check.number("deviation", deviation, 0)
    leak = check.number("leak", leak, 0, 1)
    if leak == 0:
        raise ValueError("leak is 0, expected a number above 0 and at most 1.")
    scale = deviation * (math.sqrt(2 / leak) if leak < 1 else 1.0)
    return torch.empty(shape, device=device, dtype=dtype).normal_(generator=generator) * scale


def ornstein_uhlenbeck(
    T: int,
    B: int,
    H: int,
    deviation: float,
    time_constant: float,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Draws noise that is correlated over time: an Ornstein-Uhlenbeck process for each sequence and neuron.

    .. math::
        \xi_t = e^{-1/\tau} \xi_{t-1} + \sigma \sqrt{1 - e^{-2/\tau}} \, N(0, 1), \quad \xi_0 \sim \sigma N(0, 1)

    It is stationary: every step has the deviation :math:`\sigma`, and steps k apart have the correlation
    :math:`e^{-k/\tau}`.

    Args:
        T: number of time steps.
        B: number of sequences.
        H: number of neurons.
        deviation: :math:`\sigma`, the standard deviation, at least 0.
        time_constant: :math:`\tau`, in steps, above 0.
        generator: the source of the numbers, on `device`.  PyTorch's own if None.
        device: of the noise.
        dtype: of the noise.

    Returns:
        The noise, of shape (T, B, H).

    Raises:
        TypeError: if a size is not an integer, or a number is none.
        ValueError: if a size is below 1, `deviation` is below 0, or `time_constant` is not above 0.

    Source: D. T. Gillespie, "Exact numerical simulation of the Ornstein-Uhlenbeck process and its integral", Physical
    Review E 1996.

    Examples:
        >>> xi = ornstein_uhlenbeck(1000, 1, 64, 0.5, 10, generator=torch.Generator().manual_seed(0))
        >>> xi.shape, round(xi.std().item(), 1)
        (torch.Size([1000, 1, 64]), 0.5)
    """
    shape = _sizes(T, B, H)
    deviation = check.number("deviation", deviation, 0)
    time_constant = check.number("time_constant", time_constant)
    if time_constant <= 0:
        raise ValueError(f"time_constant is {time_constant}, expected a number of steps above 0.")
    keep = math.exp(-1 / time_constant)
    fresh = deviation * math.sqrt(-math.expm1(-2 / time_constant))
    xi = torch.empty(shape, device=device, dtype=dtype).normal_(generator=generator)
    xi[0] *= deviation
    for t in range(1, T):
        xi[t] = keep * xi[t - 1] + fresh * xi[t]
    return xi


def _sizes(T: int, B: int, H: int) -> tuple[int, int, int]:
    return check.size("T", T), check.size("B", B), check.size("H", H)
