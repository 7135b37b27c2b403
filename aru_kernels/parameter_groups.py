"""Learning rates by fan-in, as parameter groups of an optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from aru_kernels import _checks as check
from aru_kernels._module import Module, Shapes, controller_shapes, gamma_shapes
from aru_kernels._recurrent import Recurrent
from aru_kernels.activations import AdaptiveGamma, Gamma
from aru_kernels.cells import ARUNCell, GammaRNNCell

__all__ = ["parameter_groups"]

# A matrix with at most this many inputs learns at the full rate.
_FREE_FAN_IN = 4
# The slope of γ is up to 1 - s if s is negative, and h grows by that factor at every time step.
_OF_SATURATION = 0.1

_MATRICES = ("weight_ih", "weight_hh", "weight_gg")
# They do not decay: zero means nothing to a bias, and γ is singular at a gain of zero.
_WITHOUT_DECAY = ("bias", "bias_g", "bias_c", "gain", "saturation", "leak")

# What torch.nn.utils.weight_norm, spectral_norm and prune append to the name of a parameter that they replace.
_REPLACEMENTS = ("_g", "_v", "_orig")


def parameter_groups(
    module: nn.Module, lr: float | Tensor, *, weight_decay: float | None = None
) -> list[dict[str, Any]]:
    r"""Makes the parameter groups of a model with learning rates by fan-in, for `torch.optim.Adam` and its like.

    A step of Adam moves every weight by about the learning rate, and a sum of F weighted inputs by up to F times the
    learning rate; the matrices `weight_ih`, `weight_hh` and `weight_gg` therefore learn at `lr` · min(1, 4 / F), where
    F is their number of columns.  The slope of γ is up to 1 - s for a negative saturation s, and that factor acts on h
    at every time step; what sets s therefore learns more slowly, `saturation` and `bias_c` at `lr` / 10 and
    `weight_gc`, which has G inputs, at `lr` / (10 G).  All other parameters of the model learn at `lr`.

    Args:
        module: the model.  All `ARUN`, `ARUNCell`, `GammaRNN`, `GammaRNNCell`, `AdaptiveGamma` and `Gamma` in it are
            found, also in a model that `torch.compile` or `DistributedDataParallel` wraps.
        lr: the learning rate of the other parameters: a number, or a tensor of one element.
        weight_decay: the weight decay, which each group receives.  The optimizer's own if None.  The biases, the gain,
            the saturation and the leak of the modules named above receive 0 in either case: γ is singular at a gain of
            0.

    Returns:
        A list of groups, for any optimizer of `torch.optim`.  Each has the entries `params`, `lr` and `name`, and
        `weight_decay` as said above.  Every parameter that requires a gradient is in one group.  A parameter that
        several modules share takes the lowest of their learning rates.  The parameters of a parametrization take the
        rate of the tensor that they make.

    Raises:
        TypeError: if `module` is not a `torch.nn.Module`, or `lr` or `weight_decay` is not a number.
        ValueError: if `lr` or `weight_decay` is negative or not finite, or if no parameter requires a gradient.

    Schedulers of `torch.optim.lr_scheduler` multiply the rate of each group.  Those that set it, such as `OneCycleLR`,
    take a list with one rate per group.

    Examples:
        >>> import aru_kernels, torch
        >>> model = torch.nn.ModuleDict({"rnn": aru_kernels.GammaRNN(2, 64), "readout": torch.nn.Linear(64, 3)})
        >>> groups = parameter_groups(model, lr=1e-2)
        >>> [(group["name"], len(group["params"])) for group in groups]
        [('lr', 3), ('lr, no decay', 2), ('lr * 0.1, no decay', 1), ('lr * 0.0625', 1)]
        >>> optimizer = torch.optim.Adam(groups)
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}.")
    base = _learning_rate(lr)
    if weight_decay is not None:
        weight_decay = check.number("weight_decay", weight_decay, 0)
    factors: dict[Tensor, float] = {}
    without_decay: set[Tensor] = set()
    for part in module.modules():
        for name, parameter, factor in _named(part):
            factors[parameter] = min(factor, factors.get(parameter, 1.0))
            if name in _WITHOUT_DECAY:
                without_decay.add(parameter)
    members: dict[tuple[float, bool], list[Tensor]] = {}
    for parameter in module.parameters():
        if parameter.requires_grad:
            key = factors.get(parameter, 1.0), parameter not in without_decay
            members.setdefault(key, []).append(parameter)
    if not members:
        raise ValueError(f"module has no parameter that requires a gradient, got {type(module).__name__}.")
    groups = []
    for (factor, decays), parameters in sorted(members.items(), key=lambda item: item[0], reverse=True):
        name = "lr" if factor == 1 else f"lr * {factor:.4g}"
        group: dict[str, Any] = {"params": parameters, "lr": base * factor}
        if not decays:
            group |= {"name": f"{name}, no decay", "weight_decay": 0.0}
        else:
            group |= {"name": name} | ({} if weight_decay is None else {"weight_decay": weight_decay})
        groups.append(group)
    return groups


def _learning_rate(lr: object) -> Any:
    if isinstance(lr, Tensor):
        if lr.numel() != 1:
            raise ValueError(f"lr has shape {tuple(lr.shape)}, expected a number or a tensor of one element.")
        check.tensor("lr", lr)
        check.number("lr", lr.item(), 0)
        return lr
    return check.number("lr", lr, 0, expected="a number or a torch.Tensor")


def _factors(shapes: Shapes) -> dict[str, float]:
    """The learning rates of the parameters of one layer as multiples of that of all others."""
    factors = {name: min(1.0, _FREE_FAN_IN / shapes[name][-1]) for name in _MATRICES if name in shapes}
    if "weight_gc" in shapes:
        return factors | {"weight_gc": _OF_SATURATION / shapes["weight_gc"][-1], "bias_c": _OF_SATURATION}
    return factors | {"saturation": _OF_SATURATION}


def _named(module: nn.Module) -> Iterator[tuple[str, Tensor, float]]:
    """For each parameter of one of our modules, not of its children: name without layer, parameter, factor."""
    if isinstance(module, Recurrent):
        for layer, suffix in module._layers():
            yield from _of_layer(module, module._shapes(layer) | module._leak_shapes(), suffix)
    elif isinstance(module, (ARUNCell, GammaRNNCell)):
        yield from _of_layer(module, module._all_shapes(bias=True) | module._leak_shapes(), "")
    elif isinstance(module, AdaptiveGamma):
        yield from _of_layer(module, controller_shapes(module.controller_size), "")
    elif isinstance(module, Gamma):
        yield from _of_layer(module, gamma_shapes(module.num_parameters), "")


def _of_layer(module: Module, shapes: Shapes, suffix: str) -> Iterator[tuple[str, Tensor, float]]:
    factors = _factors(shapes)
    for name in shapes:
        attribute = name + suffix
        found: list[Tensor | None] = [module._parameters.get(attribute)]
        if parametrize.is_parametrized(module, attribute):
            parametrizations: Any = module.parametrizations
            found += parametrizations[attribute].parameters()
        found += [module._parameters.get(attribute + end) for end in _REPLACEMENTS if attribute + end not in shapes]
        yield from ((name, parameter, factors.get(name, 1.0)) for parameter in found if parameter is not None)
