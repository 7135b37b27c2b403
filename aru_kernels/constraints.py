r"""Constraints on the weights of a layer or cell, as parametrizations of PyTorch.

Each function registers a parametrization (`torch.nn.utils.parametrize`) on a weight matrix, so a constraint holds after
every step of an optimizer, constraints can be combined in any order, state dicts keep them, and
`torch.nn.utils.parametrize.remove_parametrizations` undoes them.

The matrices act as :math:`W h`: row i holds the weights that neuron i receives, column j those that neuron j sends.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from aru_kernels import _checks as check

__all__ = ["Dale", "Mask", "areas", "balance_", "dale", "mask", "no_self_connections", "sparse"]


class Dale(nn.Module):
    r"""The parametrization :math:`W = \mathrm{abs}(V) \, \mathrm{diag}(d)`: each neuron only excites or only inhibits.

    Args:
        signs: the signs :math:`d` of the neurons that send, of shape (columns of W,), 1 or -1.

    Shape:
        * V, W: (H, columns).

    Examples:
        >>> Dale(torch.tensor([1.0, -1.0]))(torch.tensor([[-2.0, 3.0]]))
        tensor([[ 2., -3.]])
    """

    signs: Tensor

    def __init__(self, signs: Tensor) -> None:
        super().__init__()
        self.register_buffer("signs", signs)

    def forward(self, weight: Tensor) -> Tensor:
        """W, where `weight` is V."""
        return weight.abs() * self.signs

    def right_inverse(self, weight: Tensor) -> Tensor:
        """A V whose W has the signs of the neurons and the sizes of `weight`."""
        return weight.abs()


class Mask(nn.Module):
    r"""The parametrization :math:`W = M \odot V`: connections that do not exist stay 0.

    Args:
        mask: M, of the shape of W: 1 or True where there is a connection.

    Shape:
        * V, W: (H, columns).

    Examples:
        >>> Mask(torch.tensor([[0.0, 1.0]]))(torch.tensor([[-2.0, 3.0]]))
        tensor([[-0., 3.]])
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        """W, where `weight` is V."""
        return weight * self.mask

    def right_inverse(self, weight: Tensor) -> Tensor:
        """A V whose W is `weight` where there is a connection."""
        return weight * self.mask


def dale(
    module: nn.Module,
    excitatory: float | Tensor = 0.8,
    name: str | None = None,
    *,
    balanced: bool = True,
    generator: torch.Generator | None = None,
) -> nn.Module:
    r"""Makes each neuron excitatory or inhibitory (Dale's law): all weights that it sends have one sign.

    Args:
        module: a layer or cell of this package, or any module with such a weight.
        excitatory: the fraction of excitatory neurons, which are the first ones, or a tensor with the sign of each
            neuron that sends, of shape (columns of the weight,): 1 and -1, or True for excitatory.
        name: the weight, such as "weight_hh_l0" or "weight_ih_l0".  All recurrent weights (names that begin with
            weight_hh) if None.
        balanced: whether a square matrix is drawn again by `balance_`, so that excitation and inhibition cancel.
            Without it, each weight keeps its size.
        generator: the source of the new weights.  PyTorch's own if None.

    Returns:
        `module`.

    Raises:
        TypeError: if `excitatory` is neither a number nor a tensor.
        ValueError: if there is no such weight, `excitatory` is not from 0 to 1, or its shape or a sign does not fit.

    Source: H. F. Song, G. R. Yang, X.-J. Wang, "Training excitatory-inhibitory recurrent neural networks for cognitive
    tasks", PLoS Computational Biology 2016.

    Examples:
        >>> from aru_kernels import ARUN
        >>> layer = dale(ARUN(3, 10), excitatory=0.8)
        >>> (layer.weight_hh_l0[:, :8] >= 0).all(), (layer.weight_hh_l0[:, 8:] <= 0).all()
        (tensor(True), tensor(True))
        >>> layer = dale(layer, 1.0, "weight_ih_l0")  # all inputs excite
    """
    for own in _names(module, name):
        weight = getattr(module, own)
        parametrize.register_parametrization(module, own, Dale(_signs(excitatory, weight)))
        if balanced and weight.shape[0] == weight.shape[1]:
            balance_(module, own, generator=generator)
    return module


def mask(module: nn.Module, mask: Tensor, name: str | None = None) -> nn.Module:
    """Keeps the connections of a mask; all others are 0 and stay so.

    Args:
        module: as in `dale`.
        mask: 1 or True where there is a connection, of the shape of the weight.
        name: as in `dale`.

    Returns:
        `module`.

    Raises:
        TypeError: if `mask` is not a tensor.
        ValueError: if there is no such weight, or the shape of the mask does not fit.

    Examples:
        >>> from aru_kernels import GammaRNNCell
        >>> cell = mask(GammaRNNCell(3, 4), torch.ones(4, 4).triu())
        >>> cell.weight_hh.tril(-1).count_nonzero()
        tensor(0)
    """
    if not isinstance(mask, Tensor):
        raise TypeError(f"mask must be a torch.Tensor, got {type(mask).__name__}.")
    for own in _names(module, name):
        weight = getattr(module, own)
        check.shape("mask", mask, f"the shape of {own},", tuple(weight.shape))
        kept = (mask != 0).to(dtype=weight.dtype, device=weight.device)
        parametrize.register_parametrization(module, own, Mask(kept))
    return module


def sparse(
    module: nn.Module, density: float, name: str | None = None, *, generator: torch.Generator | None = None
) -> nn.Module:
    """Keeps a random fraction of the connections.

    Each neuron receives the same number of connections: the nearest whole number to `density` times the columns, and
    at least one.

    Args:
        module: as in `dale`.
        density: the fraction of the connections that exist, above 0 and up to 1.
        name: as in `dale`.
        generator: the source of the mask, on the CPU.  PyTorch's own if None.

    Returns:
        `module`.

    Raises:
        TypeError: if `density` is not a number.
        ValueError: if there is no such weight, or `density` is not above 0 and up to 1.

    Examples:
        >>> from aru_kernels import ARUN
        >>> layer = sparse(ARUN(3, 10), density=0.3)
        >>> (layer.weight_hh_l0.count_nonzero(1) <= 3).all()
        tensor(True)
    """
    density = check.number("density", density, 0, 1)
    if density == 0:
        raise ValueError("density is 0, expected a number above 0 and up to 1.")
    for own in _names(module, name):
        rows, columns = getattr(module, own).shape
        count = max(1, round(density * columns))
        chosen = torch.rand(rows, columns, generator=generator).argsort(1) < count
        mask(module, chosen, own)
    return module


def no_self_connections(module: nn.Module, name: str | None = None) -> nn.Module:
    """Removes the connection of each neuron to itself.

    Args:
        module: as in `dale`.
        name: as in `dale`.

    Returns:
        `module`.

    Raises:
        ValueError: if there is no such weight, or it is not square.

    Examples:
        >>> from aru_kernels import ARUN
        >>> no_self_connections(ARUN(3, 10)).weight_hh_l0.diagonal().count_nonzero()
        tensor(0)
    """
    for own in _names(module, name):
        weight = getattr(module, own)
        _square(own, weight)
        mask(module, 1 - torch.eye(weight.shape[0]), own)
    return module


def areas(
    module: nn.Module,
    sizes: Sequence[int],
    connected: Tensor | Sequence[Sequence[float]],
    name: str | None = None,
    *,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Divides the neurons into areas, with a density of connections for each pair of areas.

    Args:
        module: as in `dale`.
        sizes: the number of neurons of each of the K areas, in the order of the neurons.
        connected: (K, K); `connected[i][j]` is the fraction of the connections from area j to area i that exist, from
            0 to 1.
        name: as in `dale`.
        generator: the source of the mask, on the CPU.  PyTorch's own if None.

    Returns:
        `module`.

    Raises:
        TypeError: if a size is not an integer.
        ValueError: if there is no such weight, it is not square, or the sizes or densities do not fit.

    Examples:
        >>> from aru_kernels import ARUN
        >>> layer = areas(ARUN(3, 10), sizes=(6, 4), connected=((1.0, 0.2), (0.2, 1.0)))
        >>> layer = areas(ARUN(3, 10), sizes=(6, 4), connected=((1.0, 0.0), (1.0, 1.0)))
        >>> layer.weight_hh_l0[:6, 6:].count_nonzero()  # the second area sends nothing back
        tensor(0)
    """
    counts = [check.size("sizes", size) for size in sizes]
    densities = torch.as_tensor(connected, dtype=torch.float64)
    check.shape("connected", densities, "(K, K)", (len(counts), len(counts)))
    if not bool(((densities >= 0) & (densities <= 1)).all()):
        raise ValueError(f"connected has values from {densities.min():g} to {densities.max():g}, expected 0 to 1.")
    of = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    for own in _names(module, name):
        weight = getattr(module, own)
        _square(own, weight)
        if len(of) != weight.shape[0]:
            raise ValueError(f"sizes sum to {len(of)}, expected the {weight.shape[0]} neurons of {own}.")
        density = densities[of][:, of]
        mask(module, torch.rand(density.shape, dtype=density.dtype, generator=generator) < density, own)
    return module


@torch.no_grad()
def balance_(
    module: nn.Module,
    name: str | None = None,
    *,
    spectral_radius: float = 1.0,
    generator: torch.Generator | None = None,
) -> nn.Module:
    r"""Draws a constrained recurrent matrix again, so that excitation and inhibition of each neuron cancel.

    The sizes of the weights are absolute values of a normal distribution, on the connections and with the signs that
    the constraints leave.  In each row with both signs, the inhibitory weights are scaled so that the row sums to 0:
    a common input of all neurons, such as the mean of h, then does not move the pre-activations out of the range in
    which γ adapts.  The matrix is scaled to the spectral radius.

    Args:
        module: as in `dale`.
        name: as in `dale`.
        spectral_radius: the largest absolute value of an eigenvalue; 1 as of the orthogonal matrices of `init`.
        generator: the source of the weights, on their device.  PyTorch's own if None.

    Returns:
        `module`.

    Raises:
        TypeError: if `spectral_radius` is not a number.
        ValueError: if there is no such weight, it is not square, `spectral_radius` is not above 0, or the constraints
            leave a matrix without eigenvalues other than 0, as with connections in one direction only.

    Examples:
        >>> from aru_kernels import ARUN
        >>> layer = dale(ARUN(3, 50), balanced=False)
        >>> balance_(layer).weight_hh_l0.sum(1).abs().max() < 1e-5
        tensor(True)
        >>> round(torch.linalg.eigvals(layer.weight_hh_l0).abs().max().item(), 3)
        1.0
    """
    spectral_radius = check.number("spectral_radius", spectral_radius)
    if spectral_radius <= 0:
        raise ValueError(f"spectral_radius is {spectral_radius}, expected a number above 0.")
    for own in _names(module, name):
        weight = getattr(module, own)
        _square(own, weight)
        drawn = torch.empty_like(weight).normal_(generator=generator)
        weights = _constrained(module, own, drawn)
        excitation, inhibition = weights.clamp(min=0).sum(1), -weights.clamp(max=0).sum(1)
        both = (excitation > 0) & (inhibition > 0)
        scale = torch.where(both, excitation / inhibition.where(both, torch.ones_like(inhibition)), 1.0)
        weights = torch.where(weights < 0, weights * scale[:, None], weights)
        radius = torch.linalg.eigvals(weights.double()).abs().max().item()
        if not radius > 1e-6 * weights.abs().max().item():
            raise ValueError(f"{own} has no eigenvalue other than 0 under its constraints, expected some to scale.")
        weights *= spectral_radius / radius
        if parametrize.is_parametrized(module, own):
            setattr(module, own, weights)
        else:
            weight.copy_(weights)
    return module


def _constrained(module: nn.Module, name: str, weights: Tensor) -> Tensor:
    """The weights with the connections and signs that the constraints of this matrix leave."""
    if not parametrize.is_parametrized(module, name):
        return weights
    constraints = module.parametrizations[name]  # type: ignore[index]
    if any(isinstance(constraint, Dale) for constraint in constraints):
        weights = weights.abs()
    allowed = torch.ones_like(weights)
    for constraint in constraints:
        allowed = constraint(allowed)
    return weights * allowed.sign()


def _names(module: nn.Module, name: str | None) -> list[str]:
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}.")
    known = [own for own, _ in module.named_parameters(recurse=False)]
    if parametrize.is_parametrized(module):
        known += list(module.parametrizations)  # type: ignore[arg-type]
    matrices = [own for own in known if getattr(module, own).ndim == 2]
    if name is not None:
        if name not in matrices:
            raise ValueError(f"name is {name!r}, expected one of {', '.join(matrices) or 'no matrix'}.")
        return [name]
    recurrent = [own for own in matrices if own.startswith("weight_hh")]
    if not recurrent:
        raise ValueError(
            f"{type(module).__name__} has no weight whose name begins with weight_hh, expected a name: one of "
            f"{', '.join(matrices) or 'no matrix'}."
        )
    return recurrent


def _square(name: str, weight: Tensor) -> None:
    if weight.shape[0] != weight.shape[1]:
        raise ValueError(f"{name} has shape {tuple(weight.shape)}, expected a square matrix.")


def _signs(excitatory: float | Tensor, weight: Tensor) -> Tensor:
    """(columns,): 1 for the neurons that excite, -1 for those that inhibit."""
    columns = weight.shape[1]
    if not isinstance(excitatory, Tensor):
        fraction = check.number("excitatory", excitatory, 0, 1, "a number or a torch.Tensor")
        return torch.where(torch.arange(columns) < round(fraction * columns), 1.0, -1.0).to(weight)
    check.shape("excitatory", excitatory, "(columns of the weight,)", (columns,))
    if excitatory.dtype == torch.bool:
        return torch.where(excitatory, 1.0, -1.0).to(weight)
    if not bool((excitatory.abs() == 1).all()):
        raise ValueError("excitatory has values other than 1 and -1, expected the sign of each neuron.")
    return excitatory.to(weight)
