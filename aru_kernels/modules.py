"""The layers and cells: adaptive and static recurrent networks, and their activations alone.

Sizes: T time steps, B batch, I input features, H neurons, G controller units, L layers, D = 2 directions if
bidirectional, else 1.  Equations and initialisation: Geadah et al. 2024, as written in `aru_kernels.reference` and
`aru_kernels.init`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from aru_kernels import _checks as check
from aru_kernels import _dispatch, functional, init
from aru_kernels._recurrent import (
    Recurrent,
    check_dtype,
    controller_shapes,
    describe,
    gamma_shapes,
    lstm_order,
    named,
    recurrent_shapes,
    register,
)

__all__ = ["ARUN", "ARUNCell", "AdaptiveGamma", "Gamma", "GammaRNN", "GammaRNNCell"]


class ARUN(Recurrent):
    """Adaptive recurrent unit network: a drop-in for torch.nn.LSTM whose neurons adapt their activation.

        a_t = W_ih x_t + b + W_hh h_{t-1} + ξ_t
        g_t = tanh(w_ag a_t + W_gg g_{t-1} + b_g)       (each neuron its own g; weights shared by all)
        (n_t, s_t) = W_gc g_t + b_c
        h_t = γ(a_t; n_t, s_t)

    Args:
        input_size: I.
        hidden_size: H, number of neurons.
        num_layers: stacked layers, each with a controller of its own.
        bias: whether the layers have `bias_l*`; the controller's biases b_g and b_c always exist.
        batch_first: input and output are (B, T, .) instead of (T, B, .); states are not affected.
        dropout: probability of zeroing an output between layers, in training.
        bidirectional: adds a layer that reads the sequence backwards; outputs are concatenated.
        proj_size: 0; torch.nn.LSTM's projection of h is not supported.
        controller_size: G, units of the controller; 50 in the paper.
        n_floor: smallest |gain| at which γ is evaluated; see `functional.gamma`.
        device, dtype: of the parameters.

    Parameters (suffix _l0, _l1, ..., and _reverse for the backward direction): weight_ih (H, I or D·H), weight_hh
    (H, H), bias (H,), weight_ag (G,), weight_gg (G, G), bias_g (G,), weight_gc (2, G), bias_c (2,).
    """

    _state_names = ("h", "g")

    @lstm_order
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        controller_size: int = 16,
        n_floor: float = 1e-3,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.controller_size = check.size("controller_size", controller_size)  # super() asks for the shapes
        lstm = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size)
        super().__init__(*lstm, n_floor, device, dtype)

    def _shapes(self, layer: int) -> dict[str, tuple[int, ...]]:
        return super()._shapes(layer) | controller_shapes(self.controller_size)

    def _state_sizes(self) -> tuple[tuple[int, ...], ...]:
        return (self.hidden_size,), (self.hidden_size, self.controller_size)

    def reset_parameters(self) -> None:
        """Draws all parameters anew, as the paper's authors do (`aru_kernels.init`)."""
        for _, suffix in self._layers():
            self._reset_recurrent(suffix)
            init.controller_(*named(self, controller_shapes(1), suffix))

    def extra_repr(self) -> str:
        """The sizes and options, for `print`."""
        return f"{super().extra_repr()}, controller_size={self.controller_size}"

    def _run(
        self, xp: Tensor, state: tuple[Tensor, ...], suffix: str, return_trace: bool
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        weight_hh = getattr(self, "weight_hh" + suffix)
        controller = named(self, _dispatch.CONTROLLER, suffix)
        h, last, trace = _dispatch.aru_sequence(
            xp, *state, weight_hh, *controller, n_floor=self.n_floor, return_trace=return_trace
        )
        return (h, *(trace or ())), last

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: tuple[Tensor, Tensor] | None = None,
        drive: Tensor | float | None = None,
        return_trace: bool = False,
    ) -> tuple:
        """Runs the network over a sequence.

        Args:
            input: (T, B, I), (B, T, I) if batch_first, (T, I) without a batch, or a PackedSequence.
            hx: (h_0 (D·L, B, H), g_0 (D·L, B, H, G)), without B for unbatched input; zeros if None.
            drive: external input ξ added to the pre-activation of every neuron in every layer: a number, (T,) for one
                value per step, or a tensor that broadcasts to (T, B, H) ((B, T, H) if batch_first).
            return_trace: also return what the neurons did.

        Returns:
            output (T, B, D·H), in the input's layout; (h_n (D·L, B, H), g_n (D·L, B, H, G)), each sequence's state
            after its last step; and, if asked for, `Trace` with a, n and s of shape (T, B, L·D·H), layer after layer.
            For a loss on the last step h_n takes less memory and time than output[-1].

        Raises:
            TypeError, ValueError: an argument of the wrong type, dtype, device or shape.
        """
        output, (h, g), trace = self._forward(input, hx, drive, return_trace)
        return (output, (h, g), trace) if return_trace else (output, (h, g))


class GammaRNN(Recurrent):
    """Recurrent network with the static activation γ, a drop-in for torch.nn.RNN.

        h_t = γ(W_ih x_t + b + W_hh h_{t-1} + ξ_t; n, s)

    Args:
        input_size: I.
        hidden_size: H, number of neurons.
        num_layers, bias, batch_first, dropout, bidirectional, proj_size, n_floor, device, dtype: as in `ARUN`.
        heterogeneous: one trained (n, s) per neuron; otherwise one pair for a whole layer.

    Parameters (suffixes as in `ARUN`): weight_ih (H, I or D·H), weight_hh (H, H), bias (H,), gain and saturation,
    (H,) or (1,).
    """

    @lstm_order
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        heterogeneous: bool = True,
        n_floor: float = 1e-3,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.heterogeneous = check.flag("heterogeneous", heterogeneous)  # super() asks for the shapes
        lstm = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size)
        super().__init__(*lstm, n_floor, device, dtype)

    def _shapes(self, layer: int) -> dict[str, tuple[int, ...]]:
        return super()._shapes(layer) | gamma_shapes(self.hidden_size if self.heterogeneous else 1)

    def _state_sizes(self) -> tuple[tuple[int, ...], ...]:
        return ((self.hidden_size,),)

    def reset_parameters(self) -> None:
        """Draws all parameters anew, as the paper's authors do (`aru_kernels.init`)."""
        for _, suffix in self._layers():
            self._reset_recurrent(suffix)
            init.static_gamma_(*named(self, gamma_shapes(1), suffix))

    def extra_repr(self) -> str:
        """The sizes and options, for `print`."""
        return f"{super().extra_repr()}, heterogeneous={self.heterogeneous}"

    def _run(
        self, xp: Tensor, state: tuple[Tensor, ...], suffix: str, return_trace: bool
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        weight_hh = getattr(self, "weight_hh" + suffix)
        gain, saturation = named(self, gamma_shapes(1), suffix)
        h, last, trace = _dispatch.gamma_rnn_sequence(
            xp, *state, weight_hh, gain, saturation, n_floor=self.n_floor, return_trace=return_trace
        )
        return (h, *(trace or ())), last

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | None = None,
        drive: Tensor | float | None = None,
        return_trace: bool = False,
    ) -> tuple:
        """Runs the network over a sequence.

        Args:
            input, drive, return_trace: as in `ARUN.forward`.
            hx: h_0 (D·L, B, H), (D·L, H) for unbatched input; zeros if None.

        Returns:
            output (T, B, D·H), h_n (D·L, B, H) and, if asked for, `Trace`; see `ARUN.forward`.

        Raises:
            TypeError, ValueError: an argument of the wrong type, dtype, device or shape.
        """
        output, (h,), trace = self._forward(input, hx, drive, return_trace)
        return (output, h, trace) if return_trace else (output, h)


class _Cell(nn.Module):
    """One step of a recurrent layer; a subclass adds the activation."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool,
        activation_shapes: dict[str, tuple[int, ...]],
        n_floor: float,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        self.input_size = check.size("input_size", input_size)
        self.hidden_size = check.size("hidden_size", hidden_size)
        self.n_floor = check.gain_floor(n_floor)
        main = recurrent_shapes(self.input_size, self.hidden_size)
        if not check.flag("bias", bias):
            del main["bias"]
            self.register_parameter("bias", None)
        register(self, main | activation_shapes, "", device, dtype)

    def extra_repr(self) -> str:
        """The sizes and options, for `print`."""
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias is not None else ", bias=False")

    def _check_input(self, input: Tensor) -> None:
        check.tensor("input", input)
        check.rank("input", input, "(B, I), or (I,) without a batch", 1, 2)
        check.shape("input", input, "(..., I)", (*input.shape[:-1], self.input_size))
        check_dtype("input", input, self.weight_ih)

    def _state(self, name: str, state: Tensor, letters: str, *sizes: int) -> Tensor:
        check.shape(name, check.tensor(name, state), letters, sizes)
        check_dtype(name, state, self.weight_ih)
        return state

    def _preactivation(self, input: Tensor, h: Tensor, drive: Tensor | float | None) -> Tensor:
        a = F.linear(input, self.weight_ih, self.bias) + F.linear(h, self.weight_hh)
        if drive is None:
            return a
        if not isinstance(drive, Tensor):
            return a + check.number_beside_tensor("drive", drive)
        check.tensor("drive", drive)
        if drive.ndim > a.ndim or any(d not in (1, f) for d, f in zip(drive.shape[::-1], a.shape[::-1], strict=False)):
            raise ValueError(
                f"drive has shape {tuple(drive.shape)}, expected a number or a shape that broadcasts to "
                f"{tuple(a.shape)}."
            )
        if drive.device != a.device:
            raise ValueError(f"drive is on {drive.device}, expected {a.device}, the device of input.")
        return a + drive.to(a.dtype)


class ARUNCell(_Cell):
    """One step of `ARUN`, for loops of one's own.

    Args:
        input_size: I.  hidden_size: H.  controller_size: G.
        bias: whether the cell has `bias`, which is None otherwise.
        n_floor, device, dtype: as in `ARUN`.

    Parameters: those of `ARUN` without a suffix.
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
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.controller_size = check.size("controller_size", controller_size)
        super().__init__(input_size, hidden_size, bias, controller_shapes(self.controller_size), n_floor, device, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all parameters anew (`aru_kernels.init`)."""
        init.recurrent_(*named(self, recurrent_shapes(1, 1)))
        init.controller_(*named(self, controller_shapes(1)))

    def extra_repr(self) -> str:
        """The sizes and options, for `print`."""
        return f"{super().extra_repr()}, controller_size={self.controller_size}"

    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None, drive: Tensor | float | None = None
    ) -> tuple[Tensor, Tensor]:
        """One step.

        Args:
            input: (B, I), or (I,) without a batch.
            hx: (h (B, H), g (B, H, G)), without B for unbatched input; zeros if None.
            drive: external input added to the pre-activation; a number or a tensor that broadcasts to (B, H).

        Returns:
            The next (h, g).

        Raises:
            TypeError, ValueError: an argument of the wrong type, dtype, device or shape.
        """
        self._check_input(input)
        batch = tuple(input.shape[:-1])
        sizes = (*batch, self.hidden_size)
        if hx is None:
            h = self.weight_ih.new_zeros(sizes)
            g = self.weight_ih.new_zeros(*sizes, self.controller_size)
        else:
            if not isinstance(hx, (tuple, list)) or len(hx) != 2:
                raise TypeError(f"hx must be a tuple (h, g) of tensors, got {describe(hx)}.")
            h = self._state("h", hx[0], "(B, H)" if batch else "(H,)", *sizes)
            g = self._state("g", hx[1], "(B, H, G)" if batch else "(H, G)", *sizes, self.controller_size)
        a = self._preactivation(input, h, drive)
        return _dispatch.adaptive_gamma(a, g, *named(self, _dispatch.CONTROLLER), n_floor=self.n_floor)


class GammaRNNCell(_Cell):
    """One step of `GammaRNN`, for loops of one's own.

    Args:
        input_size: I.  hidden_size: H.
        bias: as in `ARUNCell`.
        heterogeneous, n_floor, device, dtype: as in `GammaRNN`.

    Parameters: those of `GammaRNN` without a suffix.
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
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.heterogeneous = check.flag("heterogeneous", heterogeneous)
        shapes = gamma_shapes(hidden_size if self.heterogeneous else 1)
        super().__init__(input_size, hidden_size, bias, shapes, n_floor, device, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all parameters anew (`aru_kernels.init`)."""
        init.recurrent_(*named(self, recurrent_shapes(1, 1)))
        init.static_gamma_(*named(self, gamma_shapes(1)))

    def extra_repr(self) -> str:
        """The sizes and options, for `print`."""
        return f"{super().extra_repr()}, heterogeneous={self.heterogeneous}"

    def forward(self, input: Tensor, hx: Tensor | None = None, drive: Tensor | float | None = None) -> Tensor:
        """One step.

        Args:
            input, drive: as in `ARUNCell.forward`.
            hx: h (B, H), (H,) for unbatched input; zeros if None.

        Returns:
            The next h.

        Raises:
            TypeError, ValueError: an argument of the wrong type, dtype, device or shape.
        """
        self._check_input(input)
        sizes = (*input.shape[:-1], self.hidden_size)
        if hx is None:
            h = self.weight_ih.new_zeros(sizes)
        else:
            h = self._state("hx", hx, "(B, H)" if len(sizes) == 2 else "(H,)", *sizes)
        return _dispatch.gamma(self._preactivation(input, h, drive), self.gain, self.saturation, self.n_floor)


class Gamma(nn.Module):
    """The activation γ with trained gain and saturation, for any network; like torch.nn.PReLU.

    Args:
        num_parameters: 1 for one pair (n, s), or the size of dimension `dim` of the input for one pair per neuron.
        gain, saturation: initial values.
        dim: the neurons' dimension: the last by default (torch.nn.PReLU's is 1).
        n_floor, device, dtype: as in `ARUN`.

    Parameters: gain and saturation, (num_parameters,).
    """

    def __init__(
        self,
        num_parameters: int = 1,
        gain: float = 5.0,
        saturation: float = 0.0,
        *,
        dim: int = -1,
        n_floor: float = 1e-3,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_parameters = check.size("num_parameters", num_parameters)
        self.dim = check.integer("dim", dim)
        self.n_floor = check.gain_floor(n_floor)
        self._initial = check.number("gain", gain), check.number("saturation", saturation)
        register(self, gamma_shapes(self.num_parameters), "", device, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets gain and saturation to their initial values."""
        for parameter, value in zip(named(self, gamma_shapes(1)), self._initial, strict=True):
            nn.init.constant_(parameter, value)

    def extra_repr(self) -> str:
        """The sizes and options, for `print`."""
        return f"num_parameters={self.num_parameters}"

    def forward(self, input: Tensor) -> Tensor:
        """γ of every element.

        Args:
            input: any shape if num_parameters = 1, else with num_parameters neurons in dimension `dim`.

        Raises:
            TypeError, ValueError: an argument of the wrong type, dtype, device or shape.
        """
        check.tensor("input", input)
        n, s = self.gain, self.saturation
        if self.num_parameters > 1:
            if not -input.ndim <= self.dim < input.ndim or input.shape[self.dim] != self.num_parameters:
                raise ValueError(
                    f"input has shape {tuple(input.shape)}, expected {self.num_parameters} (num_parameters) in "
                    f"dimension {self.dim}."
                )
            shape = [1] * input.ndim
            shape[self.dim] = self.num_parameters
            n, s = n.view(shape), s.view(shape)
        else:
            n, s = n.view(()), s.view(())
        return functional.gamma(input, n, s, self.n_floor)


class AdaptiveGamma(nn.Module):
    """The adaptive activation alone: γ whose n and s a controller sets at every step, for anyone's recurrent cell.

        h, g = act(a, g)

    Args:
        controller_size: G.
        n_floor, device, dtype: as in `ARUN`.

    Parameters: weight_ag (G,), weight_gg (G, G), bias_g (G,), weight_gc (2, G), bias_c (2,); they do not depend on the
    number of neurons.
    """

    def __init__(
        self,
        controller_size: int = 16,
        *,
        n_floor: float = 1e-3,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.controller_size = check.size("controller_size", controller_size)
        self.n_floor = check.gain_floor(n_floor)
        register(self, controller_shapes(self.controller_size), "", device, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all parameters anew (`aru_kernels.init`)."""
        init.controller_(*named(self, controller_shapes(1)))

    def extra_repr(self) -> str:
        """The sizes and options, for `print`."""
        return f"controller_size={self.controller_size}"

    def forward(self, a: Tensor, g: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One step.

        Args:
            a: (..., H), pre-activation.
            g: (..., H, G), controller state; zeros if None.

        Returns:
            h (..., H), activation; and the next g.

        Raises:
            TypeError, ValueError: an argument of the wrong type, dtype, device or shape.
        """
        check.tensor("a", a)
        if g is None:
            g = a.new_zeros(*a.shape, self.controller_size)
        return functional.adaptive_gamma(a, g, *named(self, controller_shapes(1)), self.n_floor)
