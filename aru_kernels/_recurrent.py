"""What the recurrent layers share: parameters, states, layers and directions, dropout, layouts."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from aru_kernels import _checks as check
from aru_kernels import init
from aru_kernels._layout import Layout, flatten
from aru_kernels._projection import project
from aru_kernels.reference import Trace


def controller_shapes(G: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the controller's parameters, in the order of `functional.controller_step`."""
    return {"weight_ag": (G,), "weight_gg": (G, G), "bias_g": (G,), "weight_gc": (2, G), "bias_c": (2,)}


def recurrent_shapes(I: int, H: int) -> dict[str, tuple[int, ...]]:  # noqa: E741
    return {"weight_ih": (H, I), "weight_hh": (H, H), "bias": (H,)}


def gamma_shapes(size: int) -> dict[str, tuple[int, ...]]:
    return {"gain": (size,), "saturation": (size,)}


def register(module: nn.Module, shapes: dict[str, tuple[int, ...]], suffix: str, device: object, dtype: object) -> None:
    for name, shape in shapes.items():
        module.register_parameter(name + suffix, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))


def named(module: nn.Module, names: Iterable[str], suffix: str = "") -> list[Tensor]:
    """The module's parameters of these names, in their order."""
    return [getattr(module, name + suffix) for name in names]


def check_dtype(name: str, value: Tensor, weight: Tensor) -> None:
    """Input and parameters must agree, unless autocast will make them; it leaves float64 alone."""
    if value.device != weight.device:
        raise ValueError(f"{name} is on {value.device}, expected {weight.device}, the device of the parameters.")
    cast = torch.float64 not in (value.dtype, weight.dtype) and check.autocasting(value.device)
    if value.dtype != weight.dtype and not cast:
        raise TypeError(f"{name} has dtype {value.dtype}, expected {weight.dtype}, the dtype of the parameters.")


# More by position are taken for the size of a controller, which was ARUN's third argument once.
_MOST_LAYERS_BY_POSITION = 8


def lstm_order(constructor: Callable[..., None]) -> Callable[..., None]:
    """Refuses positional arguments that were meant for another order than that of torch.nn.LSTM or LSTMCell."""
    parameters = list(inspect.signature(constructor).parameters)[1:]
    third, adaptive = parameters[2], "controller_size" in parameters
    most = _MOST_LAYERS_BY_POSITION if third == "num_layers" else -1

    @functools.wraps(constructor)
    def checked(self: nn.Module, *args: object, **kwargs: object) -> None:
        name = type(self).__name__
        value = args[2] if len(args) > 2 else None
        if adaptive and isinstance(value, int) and not isinstance(value, bool) and value > most:
            meant = f"controller_size={value}" + (f" or num_layers={value}" if third == "num_layers" else "")
            raise ValueError(
                f"{third} is {value}, the third positional argument of {name} as of torch.nn.LSTM; controller_size is "
                f"keyword-only, so write {meant}, whichever is meant."
                if third == "num_layers"
                else f"{third} is {value}, the third positional argument of {name} as of torch.nn.LSTMCell; "
                f"controller_size is keyword-only, so write {meant}."
            )
        for value in args[2:]:
            if isinstance(value, str):
                raise TypeError(
                    f"{name} has no nonlinearity, got {value!r}: its activation is γ, and its positional arguments are "
                    "those of torch.nn.LSTM."
                )
        constructor(self, *args, **kwargs)

    return checked


class Recurrent(nn.Module):
    """Layers, directions, dropout, layouts and states; a subclass says what one layer computes."""

    # what a state tensor is called, for messages
    _state_names: tuple[str, ...] = ("h",)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        proj_size: int,
        n_floor: float,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        self.input_size = check.size("input_size", input_size)
        self.hidden_size = check.size("hidden_size", hidden_size)
        self.num_layers = check.size("num_layers", num_layers)
        self.bias = check.flag("bias", bias)
        self.batch_first = check.flag("batch_first", batch_first)
        self.dropout = check.number("dropout", dropout, 0, 1)
        self.bidirectional = check.flag("bidirectional", bidirectional)
        self.proj_size = check.integer("proj_size", proj_size)
        if self.proj_size != 0:
            raise ValueError(
                f"proj_size is {proj_size}, expected 0: {type(self).__name__} does not project its output."
            )
        self.n_floor = check.gain_floor(n_floor)
        if self.dropout > 0 and self.num_layers == 1:
            warnings.warn(
                f"dropout = {self.dropout} acts between layers and has no effect with num_layers = 1.", stacklevel=4
            )
        for layer, suffix in self._layers():
            register(self, self._shapes(layer), suffix, device, dtype)
        self.reset_parameters()

    def _layers(self) -> list[tuple[int, str]]:
        """(layer, suffix of its parameters' names), in the order of the states."""
        return [
            (layer, f"_l{layer}{direction}")
            for layer in range(self.num_layers)
            for direction in (("", "_reverse") if self.bidirectional else ("",))
        ]

    def _input_size(self, layer: int) -> int:
        return self.input_size if layer == 0 else self.hidden_size * (1 + self.bidirectional)

    def _shapes(self, layer: int) -> dict[str, tuple[int, ...]]:
        shapes = recurrent_shapes(self._input_size(layer), self.hidden_size)
        if not self.bias:
            del shapes["bias"]
        return shapes

    def _reset_recurrent(self, suffix: str) -> None:
        init.recurrent_(*(getattr(self, name + suffix, None) for name in recurrent_shapes(1, 1)))

    def _state_sizes(self) -> tuple[tuple[int, ...], ...]:
        """Sizes of each state tensor after (D·L, B)."""
        raise NotImplementedError

    def _run(
        self, xp: Tensor, state: tuple[Tensor, ...], suffix: str, return_trace: bool
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """One layer in one direction: xp (T, B, H) -> (h, and the trace if asked for), next state."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Draws all parameters anew."""
        raise NotImplementedError

    def flatten_parameters(self) -> None:
        """Nothing to do, for programs that call it: torch.nn.RNNBase has all weights in one piece of memory."""

    def extra_repr(self) -> str:
        parts = [f"{self.input_size}, {self.hidden_size}"]
        defaults = {
            "num_layers": 1,
            "bias": True,
            "batch_first": False,
            "dropout": 0.0,
            "bidirectional": False,
            "n_floor": 1e-3,
        }
        parts += [f"{k}={getattr(self, k)}" for k, default in defaults.items() if getattr(self, k) != default]
        return ", ".join(parts)

    def _initial_state(self, given: object, layout: Layout, like: Tensor) -> tuple[Tensor, ...]:
        """State tensors (D·L, B, ...) in the order of the flat data; zeros where none is given."""
        layers = len(self._layers())
        names = [f"{name}_0" for name in self._state_names]
        if given is None:
            return tuple(like.new_zeros(layers, layout.B, *sizes) for sizes in self._state_sizes())
        if len(names) == 1:
            given = (given,)
        if not isinstance(given, (tuple, list)) or len(given) != len(names):
            raise TypeError(f"hx must be a tuple ({', '.join(names)}) of tensors, got {describe(given)}.")
        states = []
        for name, state, sizes in zip(names, given, self._state_sizes(), strict=True):
            check.tensor(name, state)
            batch = (layout.B,) if layout.batched else ()
            letters = "(D·L, B, H" if layout.batched else "(D·L, H"
            check.shape(name, state, letters + (", G)" if len(sizes) == 2 else ")"), (layers, *batch, *sizes))
            check_dtype(name, state, like)
            states.append(layout.sort(state if layout.batched else state.unsqueeze(1)))
        return tuple(states)

    def _forward(
        self, input: Tensor | PackedSequence, hx: object, drive: object, return_trace: bool
    ) -> tuple[Tensor | PackedSequence, list[Tensor], Trace | None]:
        x, layout = flatten(input, self.batch_first, self.input_size)
        layers = self._layers()
        weight = getattr(self, "weight_ih" + layers[0][1])
        check_dtype("input", x, weight)
        states = self._initial_state(hx, layout, weight)
        xi = layout.flat_drive(drive, x, self.hidden_size)
        last: list[tuple[Tensor, ...]] = []
        traces: list[tuple[Tensor, ...]] = []
        outputs: list[Tensor] = []
        for index, (layer, suffix) in enumerate(layers):
            xp = project(x, getattr(self, "weight_ih" + suffix), getattr(self, "bias" + suffix) if self.bias else None)
            if xi is not None:
                xp = xp + xi
            (h, *trace), state = layout.scan(
                lambda xp, state, suffix=suffix: self._run(xp, state, suffix, return_trace),
                xp,
                tuple(s[index] for s in states),
                reverse=suffix.endswith("_reverse"),
            )
            outputs.append(h)
            last.append(state)
            traces.append(tuple(trace))
            if len(outputs) == 1 + self.bidirectional:
                x = torch.cat(outputs, -1) if self.bidirectional else h
                outputs = []
                if layer < self.num_layers - 1:
                    x = F.dropout(x, self.dropout, self.training)
        # stacked even if of one layer: detach_(), as between the parts of a long sequence, refuses a view
        h_n = [layout.restore_state(torch.stack(s)) for s in zip(*last, strict=True)]
        trace = Trace(*(layout.restore(torch.cat(t, -1)) for t in zip(*traces, strict=True))) if return_trace else None
        return layout.restore(x), h_n, trace


def describe(value: object) -> str:
    """What an argument of the wrong type was, for a message."""
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return type(value).__name__
