"""What the recurrent layers share: parameters, states, layers and directions, dropout, layouts."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from aru_kernels import _checks as check
from aru_kernels import _leak, _step, _usual, init
from aru_kernels._layout import Layout, Padded, State, arrange
from aru_kernels._module import Shapes, check_argument, describe, recurrent_shapes
from aru_kernels._projection import project
from aru_kernels.reference import Trace

# what torch.load may build by default: a trace, also one of packed input
torch.serialization.add_safe_globals([Trace, PackedSequence])


class Recurrent(_leak.Leaky):
    """Layers, directions, dropout, layouts and states; a subclass says what one layer computes."""

    # what torch.nn.LSTM calls its kind
    mode: str
    # of layers that were pickled before these were arguments
    bias: bool = True
    proj_size: int = 0
    init: str = "paper"
    # what a state tensor is called, for messages
    _state_names: tuple[str, ...] = ("h",)
    # its name in `aru_kernels.operations`
    _operation: str
    # the parameters of a layer that may take the short way (`_usual`)
    _single: Shapes | None = None
    # (xp, *state, weight_hh, *activation's parameters, n_floor=, return_trace=, leak=) -> h, last state, trace
    _sequence: Callable[..., tuple[Tensor, State, Trace | None]]

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
        initialisation: str,
        leak: float | Tensor | None,
        train_leak: bool,
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
        self.init = init.choice(initialisation)
        self._initial_leak = _leak.values(leak, train_leak, self.hidden_size, dtype)
        self.train_leak = train_leak
        if self.dropout > 0 and self.num_layers == 1:
            warnings.warn(
                f"dropout = {self.dropout} acts between layers and has no effect with num_layers = 1.", stacklevel=4
            )
        for layer, suffix in self._layers():
            self._register(self._shapes(layer), suffix, device, dtype)
            self._register_leak(suffix, device, dtype)
        if self.num_layers == 1 and not self.bidirectional and self._initial_leak is None:
            self._single = {f"{name}_l0": shape for name, shape in self._shapes(0).items()}
        self.reset_parameters()

    def _layers(self) -> Iterator[tuple[int, str]]:
        """(layer, suffix of its parameters' names), in the order of the states."""
        for layer in range(self.num_layers):
            yield layer, f"_l{layer}"
            if self.bidirectional:
                yield layer, f"_l{layer}_reverse"

    def _shapes(self, layer: int) -> Shapes:
        """Parameters of one direction of a layer: weight_ih, weight_hh, bias if there is one, the activation's."""
        inputs = self.input_size if layer == 0 else self.hidden_size * (1 + self.bidirectional)
        return recurrent_shapes(inputs, self.hidden_size, self.bias) | self._activation_shapes()

    def _activation_shapes(self) -> Shapes:
        raise NotImplementedError

    def _state_sizes(self) -> tuple[tuple[int, ...], ...]:
        """Sizes of each state tensor after (D·L, B)."""
        raise NotImplementedError

    def _reset_activation(self, *parameters: Tensor) -> None:
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Draws all parameters again, as `init` says (`aru_kernels.init`), and sets the leak to its initial value."""
        for layer, suffix in self._layers():
            weight_ih, weight_hh, *others = (getattr(self, name + suffix) for name in self._shapes(layer))
            bias = others.pop(0) if self.bias else None
            init.recurrent_(weight_ih, weight_hh, bias, self.init)
            self._reset_activation(*others)
            self._reset_leak(suffix)

    @property
    def all_weights(self) -> list[list[nn.Parameter]]:
        """The parameters of each layer and direction, in the order of the state dict."""
        return [[getattr(self, name + suffix) for name in self._shapes(layer)] for layer, suffix in self._layers()]

    def flatten_parameters(self) -> None:
        """Does nothing, for programs that call it: torch.nn.LSTM moves all weights to one piece of memory."""

    def extra_repr(self) -> str:
        """The sizes and options, for `print`."""
        parts = [f"{self.input_size}, {self.hidden_size}"]
        defaults: dict[str, object] = {
            "num_layers": 1,
            "bias": True,
            "batch_first": False,
            "dropout": 0.0,
            "bidirectional": False,
        }
        defaults |= {"n_floor": 1e-3, "init": "paper"}
        parts += [f"{k}={getattr(self, k)!r}" for k, default in defaults.items() if getattr(self, k) != default]
        return ", ".join(parts + self._leak_repr())

    def _initial_states(self, given: object, layout: Layout, like: Tensor) -> State:
        """State tensors (D·L, B, ...) in the order of the rows; zeros where none is given."""
        layers = self.num_layers * (1 + self.bidirectional)
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
            check_argument(name, state, like)
            states.append(layout.sort(state if layout.batched else state.unsqueeze(1)))
        return tuple(states)

    def _forward(
        self, input: Tensor | PackedSequence, hx: object, drive: object, return_trace: bool
    ) -> tuple[Any, list[Tensor], Trace | None]:
        """Output, last states and, if asked for, trace."""
        check.flag("return_trace", return_trace)
        if drive is None and not return_trace and (usual := self._usual(input, hx)) is not None:
            return usual
        x, layout = arrange(input, self.batch_first, self.input_size)
        weights: list[list[Tensor]] = []
        for layer, suffix in self._layers():
            weights.append(self._weights(self._shapes(layer), suffix, weights[0][0] if weights else None))
        first = weights[0][0]
        leaks = [self._leak_of(suffix, first) for _, suffix in self._layers()]
        check_argument("input", x, first)
        states = self._initial_states(hx, layout, first)
        xi = layout.drive(drive, x, self.hidden_size)
        directions = (False, True) if self.bidirectional else (False,)
        last: list[State] = []
        traces: list[State] = []
        for layer in range(self.num_layers):
            outputs = []
            for reverse in directions:
                index = len(last)
                others = list(weights[index])  # torch.compile in torch 2.8 makes a tuple of *others
                weight_ih = others.pop(0)
                xp = project(x, weight_ih, others.pop(1) if self.bias else None)
                if xi is not None:
                    xp = xp + xi
                run = functools.partial(self._run, others, leaks[index], return_trace)
                (h, *of_run), state = layout.scan(run, xp, tuple(s[index] for s in states), reverse)
                outputs.append(h)
                last.append(state)
                traces.append(tuple(of_run))
            x = torch.cat(outputs, -1) if self.bidirectional else outputs[0]
            if layer < self.num_layers - 1:
                x = F.dropout(x, self.dropout, self.training)
        h_n = [layout.last(list(of_layers)) for of_layers in zip(*last, strict=True)]
        if not return_trace:
            return layout.output(x), h_n, None
        per_step: list[Any] = [layout.output(torch.cat(of_layers, -1)) for of_layers in zip(*traces, strict=True)]
        return layout.output(x), h_n, Trace(*per_step)

    def _usual(self, input: Any, hx: Any) -> tuple[Tensor, list[Tensor], None] | None:
        """What `_forward` returns, by few functions, for a single layer if nothing about a call needs the general path.

        `aru_kernels._usual` says what is usual.
        """
        shapes = self._single
        if shapes is None or type(input) not in check.PLAIN or not _usual.program():
            return None
        if input.ndim != 3 or input.numel() == 0:
            return None
        T, B = input.shape[1::-1] if self.batch_first else input.shape[:2]
        sizes = [(1, B, *of_state) for of_state in self._state_sizes()]
        parameters = self._parameters
        weights: list[Any] = [parameters.get(name) for name in shapes]
        given = () if hx is None else (hx,) if len(sizes) == 1 else hx
        if hx is not None and not (type(given) is tuple and len(given) == len(sizes)):
            return None
        expected = [(*input.shape[:2], self.input_size), *shapes.values(), *sizes[: len(given)]]
        if not _usual.tensors([input, *weights, *given], expected, self._operation):
            return None
        x = input.transpose(0, 1).contiguous() if self.batch_first else input
        if hx is None:
            states = [x.new_zeros(of_state[1:]) for of_state in sizes]
        else:
            states = [state.view(of_state[1:]) for state, of_state in zip(given, sizes, strict=True)]
        bias = weights.pop(2) if self.bias else None
        weight_ih, *others = weights
        h, *last = _step.sequence(self._operation, F.linear(x, weight_ih, bias), states, others, self.n_floor)
        layout = Padded(T, B, self.batch_first, True)
        return layout.output(h), [layout.last([state]) for state in last], None

    def _run(
        self, weights: list[Tensor], leak: Tensor | None, return_trace: bool, xp: Tensor, state: State
    ) -> tuple[State, State]:
        """One direction of one layer: xp (T, B, H), state -> h and the trace if asked for, last state."""
        settings = {"n_floor": self.n_floor, "return_trace": return_trace}
        h, last, trace = self._sequence(xp, *state, *weights, **settings, leak=leak)
        return (h, *(trace or ())), last
