"""What all layers, cells and activations share: checked parameters, constructors in torch.nn's order, torch.fx."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor, fx, nn
from torch.fx.proxy import TraceError

from aru_kernels import _checks as check

# A parameter's name, without the suffix of its layer, and its shape.
Shapes = dict[str, tuple[int, ...]]

# More layers by position are taken for the size of a controller, once the third argument of ARUN.
_MOST_LAYERS_BY_POSITION = 8


def recurrent_shapes(I: int, H: int, bias: bool = True) -> Shapes:  # noqa: E741
    """The main network's parameters."""
    shapes: Shapes = {"weight_ih": (H, I), "weight_hh": (H, H)}
    return shapes | {"bias": (H,)} if bias else shapes


def controller_shapes(G: int) -> Shapes:
    """The controller's parameters, in the order of `functional.controller_step`."""
    return {"weight_ag": (G,), "weight_gg": (G, G), "bias_g": (G,), "weight_gc": (2, G), "bias_c": (2,)}


def gamma_shapes(size: int) -> Shapes:
    """The parameters of an activation that does not adapt."""
    return {"gain": (size,), "saturation": (size,)}


def lstm_order(constructor: Callable[..., None]) -> Callable[..., None]:
    """Refuses positional arguments that are not in the order of torch.nn.LSTM or torch.nn.LSTMCell."""
    signature = inspect.signature(constructor).parameters
    parameters = list(signature)[1:]
    positional = [name for name in parameters if signature[name].kind is not inspect.Parameter.KEYWORD_ONLY]
    third, adaptive = parameters[2], "controller_size" in parameters

    @functools.wraps(constructor)
    def checked(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        name = type(self).__name__
        for value in args[2:]:
            if isinstance(value, str):
                raise TypeError(
                    f"{name} has no argument nonlinearity, got {check.shown(value)} by position, expected "
                    f"{', '.join(positional)}."
                )
        if adaptive and len(args) > 2 and isinstance(args[2], int) and not isinstance(args[2], bool):
            if third == "num_layers" and args[2] > _MOST_LAYERS_BY_POSITION:
                raise ValueError(
                    f"num_layers is {args[2]} by position, expected at most {_MOST_LAYERS_BY_POSITION}: write "
                    f"controller_size={args[2]} for the controller, or num_layers={args[2]} for as many layers."
                )
            if third == "bias":
                raise TypeError(
                    f"bias must be a bool, got {args[2]}: write controller_size={args[2]} for the controller."
                )
        constructor(self, *args, **kwargs)

    return checked


class Module(nn.Module):
    """A module with checked parameters that torch.fx takes for a leaf."""

    def _register(self, shapes: Shapes, suffix: str, device: Any, dtype: torch.dtype | None) -> None:
        if dtype is not None and not isinstance(dtype, torch.dtype):
            raise TypeError(f"dtype must be a torch.dtype, got {check.shown(dtype)} of type {type(dtype).__name__}.")
        if dtype is not None and not dtype.is_floating_point:
            raise TypeError(f"dtype is {dtype}, expected a floating-point dtype.")
        for name, shape in shapes.items():
            parameter = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
            self.register_parameter(name + suffix, parameter)

    def _weights(self, shapes: Shapes, suffix: str = "", like: Tensor | None = None) -> list[Tensor]:
        """The parameters of these names, in their order, each of its shape and of the dtype and device of the first.

        They may have been exchanged: by assignment, by a parametrization or in torch.func.functional_call.

        like: weight_ih of the first layer, or of the cell; the first of `shapes` if None.
        """
        first = next(iter(shapes)) + suffix
        if like is None:
            like = check.tensor(first, getattr(self, first))
        else:
            first = "weight_ih_l0" if suffix else "weight_ih"
        dtype, device, in_memory = like.dtype, like.device, check.memory_is_known()
        parameters = self._parameters  # where torch.nn.Module looks, in a third of the time
        weights = []
        for name, shape in shapes.items():
            name += suffix
            weight: Any = parameters[name] if name in parameters else getattr(self, name)
            plain = type(weight) in check.PLAIN
            if (
                not (plain or isinstance(weight, Tensor))
                or weight.shape != shape
                or weight.dtype != dtype
                or weight.device != device
            ):
                _check_weight(name, weight, shape, like, first)
            if plain and in_memory:
                # what check.in_memory passes first, without a call
                if weight.layout != torch.strided:
                    check.in_memory(name, weight)
                size = weight.untyped_storage().nbytes()
                if weight.nbytes > size or weight.storage_offset() != 0 or not weight.is_contiguous():
                    check.in_memory(name, weight)
            weights.append(weight)
        return weights

    def _leaf(self, *arguments: Any) -> Any:
        """The node for this call in the graph that torch.fx traces; None if no argument is traced."""
        for argument in arguments:
            if isinstance(argument, fx.Proxy):
                return self._leaf_node(argument.tracer, arguments)
            if type(argument) in (tuple, list):
                for item in argument:
                    if isinstance(item, fx.Proxy):
                        return self._leaf_node(item.tracer, arguments)
        return None

    def _leaf_node(self, tracer: Any, arguments: tuple[Any, ...]) -> fx.Proxy:
        path = tracer.path_of_module(self)
        if not path:
            name = type(self).__name__
            raise TraceError(f"torch.fx cannot trace {name} as the root, expected a module that contains the {name}.")
        return tracer.create_proxy("call_module", path, arguments, {})

    def __prepare_scriptable__(self) -> NoReturn:
        """Called by torch.jit.script."""
        raise RuntimeError(
            f"torch.jit.script does not support {type(self).__name__}, use torch.export.export to capture the model."
        )


def _check_weight(name: str, weight: object, shape: tuple[int, ...], like: Tensor, first: str) -> None:
    weight = check.tensor(name, weight)
    if weight.shape != shape:
        raise ValueError(f"{name} has shape {tuple(weight.shape)}, expected {shape}.")
    check_dtype(name, weight, like, first)


def check_argument(name: str, value: Tensor, weight: Tensor) -> None:
    """Checks the dtype, device and memory of an argument, where `weight` is a parameter."""
    check_dtype(name, value, weight, "the parameters")
    check.memory(name, value)


def check_dtype(name: str, value: Tensor, weight: Tensor, of: str) -> None:
    """Input and parameters must agree, unless autocast will make them; it does not change float64."""
    if value.device != weight.device:
        raise ValueError(f"{name} is on {value.device}, expected {weight.device}, the device of {of}.")
    if value.dtype != weight.dtype:
        cast = torch.float64 not in (value.dtype, weight.dtype) and check.autocasting(value.device)
        if not cast:
            raise TypeError(f"{name} has dtype {value.dtype}, expected {weight.dtype}, the dtype of {of}.")


def describe(value: object) -> str:
    """What an argument of the wrong type was, for a message."""
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return type(value).__name__
