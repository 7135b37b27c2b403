"""Initialisations of the paper (docs/maths.md, sections 2 and 3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from aru_kernels import _checks as check

# Values of the argument `init` of the layers and cells.
_CHOICES = ("paper", "uniform")

__all__ = ["controller_", "henaff_orthogonal_", "recurrent_", "static_gamma_"]


def choice(init: object) -> str:
    """`init`, if it names one of the initialisations of the main network."""
    if not isinstance(init, str):
        raise TypeError(f"init must be a string, got {check.shown(init)} of type {type(init).__name__}.")
    if init not in _CHOICES:
        raise ValueError(f"init is {check.shown(init)}, expected {' or '.join(map(repr, _CHOICES))}.")
    return init


@torch.no_grad()
def henaff_orthogonal_(tensor: Tensor, generator: torch.Generator | None = None) -> Tensor:
    r"""Fills a square matrix with random rotations of pairs of coordinates, in place.

    It is the exponential of a block-diagonal skew-symmetric matrix, with the blocks

    .. math::
        \begin{pmatrix} \cos\theta & \sin\theta \\ -\sin\theta & \cos\theta \end{pmatrix}, \quad
        \theta \sim U(-\pi, 0)

    on the diagonal.  The last row of a matrix of odd size is that of the identity.

    Args:
        tensor: the matrix, of shape (H, H) and of any floating-point dtype.
        generator: the source of the angles.  PyTorch's own if None.

    Returns:
        `tensor`.

    Raises:
        ValueError: if `tensor` is not a square matrix.

    Source: M. Henaff, A. Szlam, Y. LeCun, "Recurrent orthogonal networks and long-memory tasks", ICML 2016.

    Examples:
        >>> w = henaff_orthogonal_(torch.empty(4, 4))
        >>> torch.allclose(w @ w.T, torch.eye(4), atol=1e-6)
        True
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
def recurrent_(weight_ih: Tensor, weight_hh: Tensor, bias: Tensor | None, init: str = "paper") -> None:
    r"""Initialises the weights of the main network, in place.

    Args:
        weight_ih: input weights, of shape (H, I).
        weight_hh: recurrent weights, of shape (H, H).
        bias: the bias, of shape (H,), or None.
        init: "paper" draws `weight_ih` from Kaiming's normal distribution and `weight_hh` by `henaff_orthogonal_`, and
            sets `bias` to 0.  "uniform" draws all three from :math:`U(-1/\sqrt{H}, 1/\sqrt{H})`, as `torch.nn.RNN`
            does.

    Raises:
        TypeError: if `init` is not a string.
        ValueError: if `init` is neither "paper" nor "uniform".

    Examples:
        >>> weight_ih, weight_hh, bias = torch.empty(8, 3), torch.empty(8, 8), torch.empty(8)
        >>> recurrent_(weight_ih, weight_hh, bias)
        >>> bias.any().item()
        False
    """
    if choice(init) == "uniform":
        bound = weight_hh.shape[0] ** -0.5
        for weight in (weight_ih, weight_hh, bias):
            if weight is not None:
                nn.init.uniform_(weight, -bound, bound)
        return
    nn.init.kaiming_normal_(weight_ih)
    henaff_orthogonal_(weight_hh)
    if bias is not None:
        nn.init.zeros_(bias)


@torch.no_grad()
def controller_(weight_ag: Tensor, weight_gg: Tensor, bias_g: Tensor, weight_gc: Tensor, bias_c: Tensor) -> None:
    """Initialises the weights of the controller, in place.

    The read-out starts small.  Every neuron therefore begins near one gain, drawn from 5 + 2 U(0, 1), and near the
    saturation 0.

    Args:
        weight_ag: input weights, of shape (G,); drawn from Kaiming's normal distribution.
        weight_gg: recurrent weights, of shape (G, G); see `henaff_orthogonal_`.
        bias_g: the bias, of shape (G,), which is set to 0.
        weight_gc: read-out weights, of shape (2, G); drawn from Xavier's normal distribution, times 0.1 for n in row 0
            and 0.01 for s in row 1.
        bias_c: the bias of the read-out, of shape (2,); the initial n and s.

    Examples:
        >>> shapes = (4,), (4, 4), (4,), (2, 4), (2,)
        >>> controller_(*(weights := [torch.empty(shape) for shape in shapes]))
        >>> n, s = weights[-1]
        >>> 5 <= n < 7, s.item()
        (tensor(True), 0.0)
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
    """Initialises the gain and the saturation of the static network, in place.

    Args:
        gain: n, of shape (H,) or (1,); drawn from the normal distribution of mean 5 and deviation 2.
        saturation: s, of the shape of the gain, which is set to 0.

    Examples:
        >>> gain, saturation = torch.empty(8), torch.empty(8)
        >>> static_gamma_(gain, saturation)
        >>> saturation.any().item()
        False
    """
    nn.init.normal_(gain, 5, 2)
    nn.init.zeros_(saturation)
