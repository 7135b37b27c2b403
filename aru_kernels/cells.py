"""Cells, which compute one step of a layer.

Sizes: B batch, I input features, H neurons, G controller units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aru_kernels import _checks as check
from aru_kernels import _dispatch, _leak, _step, _usual, init, reference
from aru_kernels._module import (
    Shapes,
    check_argument,
    controller_shapes,
    describe,
    gamma_shapes,
    lstm_order,
    recurrent_shapes,
)

__all__ = ["ARUNCell", "GammaRNNCell"]


class _Cell(_leak.Leaky):
    """The pre-activation of one step; a subclass adds the activation."""

    weight_ih: nn.Parameter
    weight_hh: nn.Parameter
    bias: nn.Parameter | None
    # of cells that were pickled before this was an argument
    init: str = "paper"
    _shapes: Shapes | None = None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool,
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
        self.n_floor = check.gain_floor(n_floor)
        self.init = init.choice(initialisation)
        self._initial_leak = _leak.values(leak, train_leak, self.hidden_size, dtype)
        self.train_leak = train_leak
        self._shapes = self._all_shapes(check.flag("bias", bias))
        if not bias:
            self.register_parameter("bias", None)
        self._register(self._shapes, "", device, dtype)
        self._register_leak("", device, dtype)
        self.reset_parameters()

    def _all_shapes(self, bias: bool) -> Shapes:
        return recurrent_shapes(self.input_size, self.hidden_size, bias) | self._activation_shapes()

    def _activation_shapes(self) -> Shapes:
        raise NotImplementedError

    def _reset_activation(self, *parameters: Tensor) -> None:
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Draws all parameters again, as `init` says (`aru_kernels.init`), and sets the leak to its initial value."""
        init.recurrent_(self.weight_ih, self.weight_hh, self.bias, self.init)
        self._reset_activation(*(getattr(self, name) for name in self._activation_shapes()))
        self._reset_leak("")

    def extra_repr(self) -> str:
        """The sizes and options, for `print`."""
        parts = [f"{self.input_size}, {self.hidden_size}"]
        parts += ["bias=False"] if self.bias is None else []
        parts += [f"init={self.init!r}"] if self.init != "paper" else []
        return ", ".join(parts + self._leak_repr())

    def _checked(self, input: Tensor) -> tuple[list[Any], tuple[int, ...]]:
        """The parameters, and the batch sizes of the input."""
        has_bias = self.bias is not None
        shapes = self._shapes
        if shapes is None or ("bias" in shapes) != has_bias:  # the bias may have been set to None
            shapes = self._all_shapes(has_bias)
        weights: list[Any] = self._weights(shapes)
        if not has_bias:
            weights.insert(2, None)
        check.tensor("input", input)
        check.rank("input", input, "(B, I), or (I,) without a batch", 1, 2)
        *batch, features = input.shape
        if features != self.input_size:
            check.shape("input", input, "(..., I)", (*batch, self.input_size))
        check_argument("input", input, weights[0])
        return weights, tuple(batch)

    def _usual(self, op: str, input: Any, states: Sequence[Any], drive: Any) -> list[Any] | None:
        """The parameters as `_checked` returns them, if nothing about a call of `op` needs the general path."""
        shapes, parameters = self._shapes, self._parameters
        if shapes is None or drive is not None or type(input) not in check.PLAIN or not _usual.program():
            return None
        if input.ndim != 2 or input.size(0) == 0:
            return None
        B = input.size(0)
        weights: list[Any] = [parameters.get(name) for name in shapes]
        expected = [(B, self.input_size), *((B, *sizes) for sizes in self._state_sizes()), *shapes.values()]
        if not _usual.tensors([input, *states, *weights], expected, op):
            return None
        if "bias" not in shapes:
            if parameters.get("bias") is not None:
                return None
            weights.insert(2, None)
        return weights

    def _state_sizes(self) -> tuple[tuple[int, ...], ...]:
        """The sizes of one sequence's states."""
        raise NotImplementedError

    def _preactivation(self, input: Tensor, h: Tensor, weights: list[Tensor], drive: Any) -> Tensor:
        weight_ih, weight_hh, bias = weights
        a = F.linear(input, weight_ih, bias)
        # one operation fewer; it takes matrices only
        a = torch.addmm(a, h, weight_hh.t()) if h.ndim == 2 else a + F.linear(h, weight_hh)
        if drive is None:
            return a
        if not isinstance(drive, Tensor):
            return a + check.number_beside_tensor("drive", drive, a.dtype)
        check.tensor("drive", drive)
        # a size is compared with the full one first: a captured graph must not depend on whether that is 1
        missing = a.ndim - drive.ndim
        if missing < 0 or any(d not in (f, 1) for d, f in zip(drive.shape, a.shape[missing:], strict=True)):
            raise ValueError(
                f"drive has shape {tuple(drive.shape)}, expected a number or a shape that broadcasts to "
                f"{tuple(a.shape)}."
            )
        if drive.device != a.device:
            raise ValueError(f"drive is on {drive.device}, expected {a.device}, the device of input.")
        check.memory("drive", drive)
        return a + drive.to(a.dtype)


def _state(name: str, state: Tensor, letters: str, sizes: tuple[int, ...], weight: Tensor) -> Tensor:
    check.shape(name, check.tensor(name, state), letters, sizes)
    check_argument(name, state, weight)
    return state


class ARUNCell(_Cell):
    r"""Computes one step of `ARUN`; a drop-in for `torch.nn.LSTMCell`.

    .. math::
        \begin{aligned}
        a' &= W_{ih} x + b + W_{hh} h + \xi \\
        g' &= \tanh(w_{ag} a' + W_{gg} g + b_g) \\
        (n', s') &= W_{gc} g' + b_c \\
        h' &= \gamma(a'; n', s')
        \end{aligned}

    Args:
        input_size: number of features of the input, I.
        hidden_size: number of neurons, H.
        bias: whether the cell has the bias :math:`b`; the attribute `bias` is None otherwise.  The controller has its
            biases :math:`b_g` and :math:`b_c` in any case.
        controller_size: number of units of the controller, G.  The paper uses 50.
        n_floor: smallest absolute value of the gain at which γ is evaluated; see `functional.gamma`.
        init: how `weight_ih`, `weight_hh` and `bias` are drawn: "paper", or "uniform", as `torch.nn.RNN` draws them;
            see `init.recurrent_`.
        leak, train_leak: as in `ARUN`.
        device: device of the parameters.
        dtype: floating-point dtype of the parameters.

    Shape:
        * input: (B, I), or (I,) without a batch.
        * h and the next h: (B, H), or (H,) without a batch.
        * g and the next g: (B, H, G), or (H, G) without a batch.

    Attributes:
        weight_ih: :math:`W_{ih}`, of shape (H, I).
        weight_hh: :math:`W_{hh}`, of shape (H, H).
        bias: :math:`b`, of shape (H,), or None.
        weight_ag: :math:`w_{ag}`, of shape (G,).
        weight_gg: :math:`W_{gg}`, of shape (G, G).
        bias_g: :math:`b_g`, of shape (G,).
        weight_gc: :math:`W_{gc}`, of shape (2, G), whose row 0 makes n and row 1 makes s.
        bias_c: :math:`b_c`, of shape (2,).
        leak: :math:`\alpha`, of shape (H,), if `leak` is not None: as in the layer.

    They are initialised as in `ARUN`, which also names the source.

    Raises:
        TypeError: if an argument is not of the type that is named above.
        ValueError: if a size is below 1, `n_floor` is not above 0, `init` is unknown, or a leak is not in (0, 1].

    Examples:
        >>> cell = ARUNCell(10, 20)
        >>> h, g = torch.zeros(3, 20), torch.zeros(3, 20, 16)
        >>> for x in torch.randn(6, 3, 10):
        ...     h, g = cell(x, (h, g))
        >>> h.shape
        torch.Size([3, 20])
        >>> from aru_kernels import parameter_groups
        >>> optimizer = torch.optim.Adam(parameter_groups(cell, lr=2e-3))  # see `ARUN`
    """

    @lstm_order
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        controller_size: int = 16,
        n_floor: float = 1e-3,
        init: str = "paper",
        leak: float | Tensor | None = None,
        train_leak: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.controller_size = check.size("controller_size", controller_size)  # super() asks for the shapes
        super().__init__(input_size, hidden_size, bias, n_floor, init, leak, train_leak, device, dtype)

    def _activation_shapes(self) -> Shapes:
        return controller_shapes(self.controller_size)

    def _state_sizes(self) -> tuple[tuple[int, ...], ...]:
        return (self.hidden_size,), (self.hidden_size, self.controller_size)

    def _reset_activation(self, *parameters: Tensor) -> None:
        init.controller_(*parameters)

    def extra_repr(self) -> str:
        """The sizes and options, for `print`."""
        return f"{super().extra_repr()}, controller_size={self.controller_size}"

    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None, drive: Tensor | float | None = None
    ) -> tuple[Tensor, Tensor]:
        r"""Computes one step.

        Args:
            input: the input of this step, of shape (B, I), or (I,) without a batch.
            hx: the state, a tuple of h, of shape (B, H), and g, of shape (B, H, G); without B for an input without a
                batch.  Zeros if None.
            drive: the external drive :math:`\xi`, which is added to the pre-activation: a number or a tensor that
                broadcasts to (B, H).

        Returns:
            The next state (h, g).  It can be changed and detached in place.

        Raises:
            TypeError: if an argument is not of the type or dtype that is expected.
            ValueError: if the shape or device of an argument or a parameter does not fit.
        """
        if (leaf := self._leaf(input, hx, drive)) is not None:
            return leaf
        if type(hx) is tuple and len(hx) == 2 and (usual := self._usual("controller_step", input, hx, drive)):
            h, g = hx
            a = self._preactivation(input, h, usual[:3], None)
            y, g = _step.adaptive_gamma(a, g, *usual[3:], n_floor=self.n_floor)
            return reference.leaky(h, y, self._leak_of("", usual[0])), g
        (*main, weight_ag, weight_gg, bias_g, weight_gc, bias_c), batch = self._checked(input)
        sizes = (*batch, self.hidden_size)
        if hx is None:
            h, g = main[0].new_zeros(sizes), main[0].new_zeros(*sizes, self.controller_size)
        else:
            if not isinstance(hx, (tuple, list)) or len(hx) != 2:
                raise TypeError(f"hx must be a tuple (h, g) of tensors, got {describe(hx)}.")
            h = _state("h", hx[0], "(B, H)" if batch else "(H,)", sizes, main[0])
            g = _state("g", hx[1], "(B, H, G)" if batch else "(H, G)", (*sizes, self.controller_size), main[0])
        a = self._preactivation(input, h, main, drive)
        weights = weight_ag, weight_gg, bias_g, weight_gc, bias_c
        y, g = _dispatch.adaptive_gamma(a, g, *weights, n_floor=self.n_floor)
        return reference.leaky(h, y, self._leak_of("", main[0])), g


class GammaRNNCell(_Cell):
    r"""Computes one step of `GammaRNN`; a drop-in for `torch.nn.RNNCell`.

    .. math::
        h' = \gamma(W_{ih} x + b + W_{hh} h + \xi; n, s)

    Args:
        input_size: number of features of the input, I.
        hidden_size: number of neurons, H.
        bias: whether the cell has the bias :math:`b`; the attribute `bias` is None otherwise.
        heterogeneous: whether each neuron has a pair (n, s) of its own; otherwise all neurons share one.
        n_floor: smallest absolute value of the gain at which γ is evaluated; see `functional.gamma`.
        init: how `weight_ih`, `weight_hh` and `bias` are drawn: "paper", or "uniform", as `torch.nn.RNN` draws them;
            see `init.recurrent_`.
        leak, train_leak: as in `GammaRNN`.
        device: device of the parameters.
        dtype: floating-point dtype of the parameters.

    Shape:
        * input: (B, I), or (I,) without a batch.
        * h and the next h: (B, H), or (H,) without a batch.

    Attributes:
        weight_ih: :math:`W_{ih}`, of shape (H, I).
        weight_hh: :math:`W_{hh}`, of shape (H, H).
        bias: :math:`b`, of shape (H,), or None.
        gain: :math:`n`, of shape (H,), or (1,) if not `heterogeneous`.
        saturation: :math:`s`, of the shape of the gain.
        leak: :math:`\alpha`, of shape (H,), if `leak` is not None: as in the layer.

    They are initialised as in `GammaRNN`, which also names the source.

    Raises:
        TypeError: if an argument is not of the type that is named above.
        ValueError: if a size is below 1, `n_floor` is not above 0, `init` is unknown, or a leak is not in (0, 1].

    Examples:
        >>> cell = GammaRNNCell(10, 20)
        >>> h = torch.zeros(3, 20)
        >>> for x in torch.randn(6, 3, 10):
        ...     h = cell(x, h)
        >>> h.shape
        torch.Size([3, 20])
        >>> from aru_kernels import parameter_groups
        >>> optimizer = torch.optim.Adam(parameter_groups(cell, lr=2e-3))  # see `ARUN`
    """

    @lstm_order
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        heterogeneous: bool = True,
        n_floor: float = 1e-3,
        init: str = "paper",
        leak: float | Tensor | None = None,
        train_leak: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.heterogeneous = check.flag("heterogeneous", heterogeneous)  # super() asks for the shapes
        super().__init__(input_size, hidden_size, bias, n_floor, init, leak, train_leak, device, dtype)

    def _activation_shapes(self) -> Shapes:
        return gamma_shapes(self.hidden_size if self.heterogeneous else 1)

    def _state_sizes(self) -> tuple[tuple[int, ...], ...]:
        return ((self.hidden_size,),)

    def _reset_activation(self, *parameters: Tensor) -> None:
        init.static_gamma_(*parameters)

    def extra_repr(self) -> str:
        """The sizes and options, for `print`."""
        return f"{super().extra_repr()}, heterogeneous={self.heterogeneous}"

    def forward(self, input: Tensor, hx: Tensor | None = None, drive: Tensor | float | None = None) -> Tensor:
        r"""Computes one step.

        Args:
            input: the input of this step, of shape (B, I), or (I,) without a batch.
            hx: the state h, of shape (B, H), or (H,) for an input without a batch.  Zeros if None.
            drive: the external drive :math:`\xi`, which is added to the pre-activation: a number or a tensor that
                broadcasts to (B, H).

        Returns:
            The next h.  It can be changed and detached in place.

        Raises:
            TypeError: if an argument is not of the type or dtype that is expected.
            ValueError: if the shape or device of an argument or a parameter does not fit.
        """
        if (leaf := self._leaf(input, hx, drive)) is not None:
            return leaf
        if hx is not None and (usual := self._usual("gamma", input, (hx,), drive)):
            *main, gain, saturation = usual
            y = _step.gamma(self._preactivation(input, hx, main, None), gain, saturation, self.n_floor)
            return reference.leaky(hx, y, self._leak_of("", main[0]))
        (*main, gain, saturation), batch = self._checked(input)
        sizes, letters = (*batch, self.hidden_size), "(B, H)" if batch else "(H,)"
        h = main[0].new_zeros(sizes) if hx is None else _state("hx", hx, letters, sizes, main[0])
        y = _dispatch.gamma(self._preactivation(input, h, main, drive), gain, saturation, self.n_floor)
        return reference.leaky(h, y, self._leak_of("", main[0]))
