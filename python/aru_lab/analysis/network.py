"""Weights of a network's layer in float64, and the derivatives of γ."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from aru_kernels import ARUN, GammaRNN, reference
from aru_lab.errors import ConfigError
from aru_lab.networks.classifier import CONTROLLER, STATIC

SHARED = ("weight_ih_l0", "weight_hh_l0", "bias_l0")  # what ARUN and GammaRNN have alike


@dataclass(frozen=True)
class Layer:
    """Weights of one recurrent layer, detached copies in float64 on the CPU.

    weight_ih (H, I), weight_hh (H, H), bias (H,); controller: the five weights of `reference.controller_step`, or None;
    gain, saturation (H,) of a GammaRNN, or None; n_floor as in `aru_kernels.functional.gamma`; leak (H,) or None.
    """

    weight_ih: Tensor
    weight_hh: Tensor
    bias: Tensor
    controller: tuple[Tensor, ...] | None
    gain: Tensor | None
    saturation: Tensor | None
    n_floor: float
    leak: Tensor | None = None

    @property
    def hidden_size(self) -> int:
        """H."""
        return self.weight_hh.shape[0]

    @property
    def controller_size(self) -> int:
        """G; 0 without a controller."""
        return 0 if self.controller is None else self.controller[0].shape[0]


def layer_of(network: nn.Module) -> Layer:
    """The weights of an ARUN or GammaRNN of one layer and one direction.

    Raises:
        ConfigError: another kind of network, or more than one layer or direction.
    """
    check_network(network)

    def weight(name: str) -> Tensor:
        return getattr(network, f"{name}_l0").detach().to("cpu", torch.float64, copy=True)

    controller = tuple(weight(name.removesuffix("_l0")) for name in CONTROLLER) if isinstance(network, ARUN) else None
    gain = saturation = None
    if controller is None:
        gain, saturation = (weight(name).expand(network.hidden_size) for name in ("gain", "saturation"))
    leak = weight("leak") if hasattr(network, "leak_l0") else None
    return Layer(
        weight("weight_ih"), weight("weight_hh"), weight("bias"), controller, gain, saturation, network.n_floor, leak
    )


def controller_of(network: nn.Module) -> tuple[Tensor, ...]:
    """The controller's weights, float64, in the order of `reference.controller_step`.

    Raises:
        ConfigError: the network has no controller.
    """
    if isinstance(network, ARUN):
        return layer_of(network).controller
    raise ConfigError(
        f"network: got {_kind(network)}, expected an ARUN: only an adaptive network has a controller to analyse."
    )


def check_network(network: nn.Module) -> None:
    """Raise ConfigError unless `network` is an ARUN or GammaRNN of one layer and one direction."""
    if not isinstance(network, (ARUN, GammaRNN)):
        raise ConfigError(f"network: got {_kind(network)}, expected an ARUN or a GammaRNN.")
    if network.num_layers != 1 or network.bidirectional:
        raise ConfigError(
            f"network: got {network.num_layers} layers{' in two directions' if network.bidirectional else ''}, "
            "expected one layer in one direction; analyse layers one at a time."
        )


def recurrent_weight(network: nn.Module) -> Tensor:
    """W_hh (H, H) of an ARUN, GammaRNN or torch.nn.RNN of one layer, a detached copy in float64.

    Raises:
        ConfigError: another kind of network; the gates of an LSTM or GRU have one matrix each.
    """
    if not isinstance(network, nn.RNN):
        check_network(network)
    elif network.num_layers != 1 or network.bidirectional:
        raise ConfigError("network: got more than one layer or direction, expected one.")
    return network.weight_hh_l0.detach().to("cpu", torch.float64, copy=True)


def unconstrained(network: nn.Module) -> nn.Module:
    """A copy of an ARUN or GammaRNN whose W_hh is a parameter of its own, without constraints."""
    check_network(network)
    if not parametrize.is_parametrized(network, "weight_hh_l0"):
        return copy.deepcopy(network)
    # A deep copy shares the class on which PyTorch keeps the constraints, and would take those of `network` away.
    if isinstance(network, ARUN):
        return _filled(ARUN, network, {"controller_size": network.controller_size}, (*SHARED, *CONTROLLER))
    return _filled(GammaRNN, network, {"heterogeneous": network.heterogeneous}, (*SHARED, *STATIC))


def _filled(kind: type[Any], network: Any, options: dict[str, Any], names: tuple[str, ...], **values: Any) -> Any:
    """A layer of the sizes of `network`, with its weights of these names and with further values."""
    weight = network.weight_hh_l0
    options |= {"batch_first": network.batch_first, "n_floor": network.n_floor, "dtype": weight.dtype}
    options |= {"leak": getattr(network, "leak_l0", None), "device": weight.device}
    layer = kind(network.input_size, network.hidden_size, **options)
    with torch.no_grad():
        for name, value in ({name: getattr(network, name) for name in names} | values).items():
            into = getattr(layer, name)
            into.copy_(torch.as_tensor(value).to(into).expand_as(into))
    return layer


def isolated(network: nn.Module) -> nn.Module:
    """A copy of an ARUN or GammaRNN whose neurons do not see each other: of W_hh only the diagonal is left."""
    copied = unconstrained(network)
    with torch.no_grad():
        copied.weight_hh_l0.copy_(copied.weight_hh_l0.diagonal().clone().diag())
    return copied


def uncoupled(network: nn.Module) -> nn.Module:
    """A copy of an ARUN or GammaRNN without W_hh and b: the pre-activation is the input's and the drive's."""
    copied = unconstrained(network)
    with torch.no_grad():
        copied.weight_hh_l0.zero_()
        copied.bias_l0.zero_()
    return copied


def held(network: nn.Module, n: Any, s: Any) -> GammaRNN:
    """The static network with the weights of an ARUN and its n and s held: numbers, or (H,), one a neuron."""
    check_network(network)
    return _filled(GammaRNN, network, {}, SHARED, gain_l0=n, saturation_l0=s)


def gamma_derivatives(a: Tensor, n: Tensor, s: Tensor, n_floor: float = 1e-3) -> tuple[Tensor, Tensor, Tensor]:
    """∂γ/∂x, ∂γ/∂n, ∂γ/∂s at (a, n, s), each of the broadcast shape: autograd of `reference.gamma`."""
    with torch.enable_grad():
        arguments = [x.detach().clone().requires_grad_() for x in torch.broadcast_tensors(a, n, s)]
        value = reference.gamma(*arguments, n_floor)
        return torch.autograd.grad(value, arguments, torch.ones_like(value))


def gamma_slope(a: Tensor, n: Tensor, s: Tensor, n_floor: float = 1e-3) -> Tensor:
    """γ'(a; n, s) = ∂γ/∂x, of the broadcast shape."""
    return gamma_derivatives(a, n, s, n_floor)[0]


def _kind(network: object) -> str:
    name = type(network).__name__
    return f"{'an' if name[:1] in 'AEIOLR' else 'a'} {name}"
