"""The layers; with the cells and activations of `aru_kernels.cells` and `aru_kernels.activations`.

Sizes: T time steps, B batch, I input features, H neurons, G controller units, L layers, D = 2 directions if
bidirectional, else 1.  Equations and initialisation: Geadah et al. 2024, as written in `aru_kernels.reference` and
`aru_kernels.init`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from aru_kernels import _checks as check
from aru_kernels import _dispatch, init
from aru_kernels._module import Shapes, controller_shapes, gamma_shapes, lstm_order
from aru_kernels._recurrent import Recurrent
from aru_kernels.activations import AdaptiveGamma, Gamma
from aru_kernels.cells import ARUNCell, GammaRNNCell

__all__ = ["ARUN", "ARUNCell", "AdaptiveGamma", "Gamma", "GammaRNN", "GammaRNNCell"]


class ARUN(Recurrent):
    r"""Applies an adaptive recurrent unit (ARU) network to an input sequence; a drop-in for `torch.nn.LSTM`.

    Every neuron has an activation γ with a gain :math:`n` and a saturation :math:`s`.  A controller sets both at every
    time step: a small recurrent network whose weights all neurons of a layer share, and whose state :math:`g` each
    neuron has to itself.

    .. math::
        \begin{aligned}
        a_t &= W_{ih} x_t + b + W_{hh} h_{t-1} + \xi_t \\
        g_t &= \tanh(w_{ag} a_t + W_{gg} g_{t-1} + b_g) \\
        (n_t, s_t) &= W_{gc} g_t + b_c \\
        h_t &= \gamma(a_t; n_t, s_t)
        \end{aligned}

    with the activation

    .. math::
        \gamma(x; n, s) = (1 - s) \frac{\operatorname{softplus}(n x)}{n} + s \, \sigma(n x)

    With a `leak`, the neurons integrate γ over time as those of a continuous-time network with the time constant
    :math:`\tau` do, in steps of :math:`\Delta t` and with :math:`\alpha = \Delta t / \tau`:

    .. math::
        h_t = (1 - \alpha) h_{t-1} + \alpha \, \gamma(a_t; n_t, s_t)

    :math:`x_t` is the input at step t, :math:`a_t` the pre-activation, :math:`h_t` the output of the neurons and
    :math:`\xi_t` an optional external drive.  In layers above the first, :math:`x_t` is the output of the layer below,
    after dropout.

    Args:
        input_size: number of features of the input, I.
        hidden_size: number of neurons of a layer, H.
        num_layers: number of stacked layers, L, each with a controller of its own.
        bias: whether the layers have the bias :math:`b`.  The controller has its biases :math:`b_g` and :math:`b_c`
            in any case, because :math:`b_c` holds the initial gain.
        batch_first: whether input and output are (B, T, features) instead of (T, B, features).  The states are
            (D·L, B, ...) in both cases.
        dropout: probability with which an output of a layer below the last is set to zero in training.
        bidirectional: whether each layer has a second direction, which reads the sequence backwards.  The outputs of
            both directions are concatenated.
        proj_size: has to be 0.  The projection of the output that `torch.nn.LSTM` offers is not supported.
        controller_size: number of units of the controller, G.  The paper uses 50.
        n_floor: smallest absolute value of the gain at which γ is evaluated; see `functional.gamma`.
        init: how `weight_ih`, `weight_hh` and `bias` are drawn: "paper", or "uniform", as `torch.nn.RNN` draws them;
            see `init.recurrent_`.
        leak: the fraction :math:`\alpha` of γ that enters h in one step, in (0, 1]: a number, or a tensor of shape (H,)
            with one for each neuron; the same in all layers and directions.  If None, h is γ itself, as with 1.
        train_leak: whether the leak is trained; `leak` is then its initial value, below 1.
        device: device of the parameters.
        dtype: floating-point dtype of the parameters.

    Shape:
        * input: (T, B, I), (B, T, I) if `batch_first`, (T, I) without a batch, or a `PackedSequence`.
        * h_0 and h_n: (D·L, B, H), or (D·L, H) without a batch.
        * g_0 and g_n: (D·L, B, H, G), or (D·L, H, G) without a batch.
        * output: (T, B, D·H), (B, T, D·H), (T, D·H) or a `PackedSequence`, as the input.

    Attributes:
        weight_ih_l[k]: :math:`W_{ih}` of layer k, of shape (H, I) for k = 0 and (H, D·H) for the others.  Initialised
            with Kaiming's normal distribution.
        weight_hh_l[k]: :math:`W_{hh}`, of shape (H, H).  Initialised with random rotations of pairs of neurons; see
            `init.henaff_orthogonal_`.
        bias_l[k]: :math:`b`, of shape (H,).  Initialised with 0.
        weight_ag_l[k]: :math:`w_{ag}`, of shape (G,).  Initialised with Kaiming's normal distribution.
        weight_gg_l[k]: :math:`W_{gg}`, of shape (G, G).  Initialised as `weight_hh_l[k]`.
        bias_g_l[k]: :math:`b_g`, of shape (G,).  Initialised with 0.
        weight_gc_l[k]: :math:`W_{gc}`, of shape (2, G), whose row 0 makes n and row 1 makes s.  Initialised with
            Xavier's normal distribution, times 0.1 for n and 0.01 for s.
        bias_c_l[k]: :math:`b_c`, of shape (2,).  Initialised with 5 + 2 U(0, 1) for n and with 0 for s.
        leak_l[k]: :math:`\alpha`, of shape (H,), if `leak` is not None: a buffer, or with `train_leak` a parameter in
            (0, 1), the sigmoid of `parametrizations.leak_l[k].original`.
        all_weights: a list of the parameters of each layer and direction, without the leak.
        mode: the string "ARUN".

    Parameters of the backward direction have the suffix `_reverse`.

    Note:
        Give the optimizer `parameter_groups`, which sets learning rates by fan-in, and clip the norm of the gradient to
        1.  Adam then trained this layer and `GammaRNN` at 2e-3 and at 1e-2 on twelve tasks of 24 to 251 steps, with
        H = 64 and G = 16, and none of 144 runs exploded; neither did runs of 150 updates on sequences of 784 steps.
        With 1e-2 for all parameters, 9 of 24 runs of this layer exploded.  `docs/training.md` has the tables.

    Raises:
        TypeError: if an argument is not of the type that is named above.
        ValueError: if a size is below 1, `dropout` is outside [0, 1], `n_floor` is not above 0, `proj_size` is not 0,
            `init` is unknown, a leak is not in (0, 1], or more than eight layers are given by position, where an
            earlier version had `controller_size`.

    Source: V. Geadah, S. Horoi, G. Kerg, G. Wolf, G. Lajoie, `Neural networks with optimized single-neuron adaptation
    uncover biologically plausible regularization <https://doi.org/10.1371/journal.pcbi.1012567>`_, PLOS Computational
    Biology, 2024.  The leak: H. F. Song, G. R. Yang, X.-J. Wang, `Training excitatory-inhibitory recurrent neural
    networks for cognitive tasks <https://doi.org/10.1371/journal.pcbi.1004792>`_, PLOS Computational Biology, 2016.

    Examples:
        >>> rnn = ARUN(10, 20, num_layers=2)
        >>> input = torch.randn(5, 3, 10)
        >>> h_0, g_0 = torch.zeros(2, 3, 20), torch.zeros(2, 3, 20, 16)
        >>> output, (h_n, g_n) = rnn(input, (h_0, g_0))
        >>> output.shape
        torch.Size([5, 3, 20])
        >>> g_n.shape
        torch.Size([2, 3, 20, 16])

        Neurons with a time constant of five steps, and the same where training may change it:

        >>> slow = ARUN(10, 20, leak=0.2)
        >>> slow.leak_l0[0]
        tensor(0.2000)
        >>> trained = ARUN(10, 20, leak=0.2, train_leak=True)
        >>> trained.parametrizations.leak_l0.original.requires_grad
        True

        A step of training, with learning rates by fan-in:

        >>> from aru_kernels import parameter_groups
        >>> optimizer = torch.optim.Adam(parameter_groups(rnn, lr=2e-3))
        >>> h_n.square().mean().backward()
        >>> norm = torch.nn.utils.clip_grad_norm_(rnn.parameters(), 1.0)
        >>> optimizer.step()
    """

    mode = "ARUN"
    _state_names = ("h", "g")
    _operation = "aru_sequence"
    _sequence = staticmethod(_dispatch.aru_sequence)

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
        init: str = "paper",
        leak: float | Tensor | None = None,
        train_leak: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.controller_size = check.size("controller_size", controller_size)  # super() asks for the shapes
        lstm = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size)
        super().__init__(*lstm, n_floor, init, leak, train_leak, device, dtype)

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
        self,
        input: Tensor | PackedSequence,
        hx: tuple[Tensor, Tensor] | None = None,
        drive: Tensor | float | None = None,
        return_trace: bool = False,
    ) -> tuple[Any, ...]:
        r"""Runs the network over a sequence.

        Args:
            input: the sequence, of shape (T, B, I), (B, T, I) if `batch_first`, (T, I) without a batch, or a
                `PackedSequence`.
            hx: the initial state, a tuple of h_0, of shape (D·L, B, H), and g_0, of shape (D·L, B, H, G); without B
                for an input without a batch.  Zeros if None.
            drive: the external drive :math:`\xi`, which is added to the pre-activation of every neuron in every layer:
                a number, a tensor of shape (T,) with one value per step, or a tensor that broadcasts to (T, B, H), to
                (B, T, H) if `batch_first`.
            return_trace: whether to return what the neurons did, too.

        Returns:
            A tuple of

            * output: h of the last layer at every step, of shape (T, B, D·H), in the layout of the input;
            * (h_n, g_n): the state of every layer and direction after the last step of each sequence, of the shapes of
              h_0 and g_0;
            * with `return_trace`, a `Trace` of a, n and s at every step, each of shape (T, B, L·D·H), layer after
              layer, in the layout of the input.

            None of these tensors is a view: they can be changed and detached in place.  A loss on the last step takes
            less memory and time with h_n than with `output[-1]`.

        Raises:
            TypeError: if an argument is not of the type or dtype that is expected.
            ValueError: if the shape or device of an argument or a parameter does not fit, or if the fields of a
                `PackedSequence` do not fit each other.

        Examples:
            >>> rnn = ARUN(1, 8, batch_first=True)
            >>> drive = torch.zeros(100)
            >>> drive[50:] = 0.5
            >>> output, (h_n, g_n), trace = rnn(torch.rand(4, 100, 1), drive=drive, return_trace=True)
            >>> trace.n.shape
            torch.Size([4, 100, 8])
        """
        if (leaf := self._leaf(input, hx, drive, return_trace)) is not None:
            return leaf
        output, (h, g), trace = self._forward(input, hx, drive, return_trace)
        return (output, (h, g), trace) if return_trace else (output, (h, g))


class GammaRNN(Recurrent):
    r"""Applies a recurrent network with the static activation γ to an input sequence; a drop-in for `torch.nn.RNN`.

    .. math::
        h_t = \gamma(W_{ih} x_t + b + W_{hh} h_{t-1} + \xi_t; n, s)

    The gain :math:`n` and the saturation :math:`s` of γ, which `ARUN` defines, are trained with the weights and do not
    change over time.

    With a `leak` :math:`\alpha`, :math:`h_t = (1 - \alpha) h_{t-1} + \alpha \, \gamma`, as in `ARUN`.

    Args:
        input_size: number of features of the input, I.
        hidden_size: number of neurons of a layer, H.
        num_layers: number of stacked layers, L.
        bias: whether the layers have the bias :math:`b`.
        batch_first: whether input and output are (B, T, features) instead of (T, B, features).
        dropout: probability with which an output of a layer below the last is set to zero in training.
        bidirectional: whether each layer has a second direction, which reads the sequence backwards.
        proj_size: has to be 0, as in `ARUN`.
        heterogeneous: whether each neuron has a pair (n, s) of its own; otherwise all neurons of a layer share one.
        n_floor: smallest absolute value of the gain at which γ is evaluated; see `functional.gamma`.
        init: how `weight_ih`, `weight_hh` and `bias` are drawn: "paper", or "uniform", as `torch.nn.RNN` draws them;
            see `init.recurrent_`.
        leak: the fraction :math:`\alpha` of γ that enters h in one step, in (0, 1]: a number, or a tensor of shape (H,)
            with one for each neuron; the same in all layers and directions.  If None, h is γ itself, as with 1.
        train_leak: whether the leak is trained; `leak` is then its initial value, below 1.
        device: device of the parameters.
        dtype: floating-point dtype of the parameters.

    Shape:
        * input: (T, B, I), (B, T, I) if `batch_first`, (T, I) without a batch, or a `PackedSequence`.
        * h_0 and h_n: (D·L, B, H), or (D·L, H) without a batch.
        * output: (T, B, D·H), (B, T, D·H), (T, D·H) or a `PackedSequence`, as the input.

    Attributes:
        weight_ih_l[k]: :math:`W_{ih}` of layer k, of shape (H, I) for k = 0 and (H, D·H) for the others.  Initialised
            with Kaiming's normal distribution.
        weight_hh_l[k]: :math:`W_{hh}`, of shape (H, H).  Initialised with random rotations of pairs of neurons; see
            `init.henaff_orthogonal_`.
        bias_l[k]: :math:`b`, of shape (H,).  Initialised with 0.
        gain_l[k]: :math:`n`, of shape (H,), or (1,) if not `heterogeneous`.  Initialised from N(5, 2²).
        saturation_l[k]: :math:`s`, of the shape of the gain.  Initialised with 0.
        leak_l[k]: :math:`\alpha`, of shape (H,), if `leak` is not None: a buffer, or with `train_leak` a parameter in
            (0, 1), the sigmoid of `parametrizations.leak_l[k].original`.
        all_weights: a list of the parameters of each layer and direction, without the leak.
        mode: the string "GammaRNN".

    Parameters of the backward direction have the suffix `_reverse`.

    Note:
        Give the optimizer `parameter_groups` and clip the norm of the gradient, as in `ARUN`.  The learning rates named
        there are safe for this layer, too.

    Raises:
        TypeError: if an argument is not of the type that is named above, such as torch.nn.RNN's nonlinearity.
        ValueError: if a size is below 1, `dropout` is outside [0, 1], `n_floor` is not above 0, `proj_size` is not
            0, `init` is unknown, or a leak is not in (0, 1].

    Source: as `ARUN`, section "static network".

    Examples:
        >>> rnn = GammaRNN(10, 20, num_layers=2, bidirectional=True)
        >>> output, h_n = rnn(torch.randn(5, 3, 10))
        >>> output.shape
        torch.Size([5, 3, 40])
        >>> h_n.shape
        torch.Size([4, 3, 20])

        A step of training, with learning rates by fan-in:

        >>> from aru_kernels import parameter_groups
        >>> optimizer = torch.optim.Adam(parameter_groups(rnn, lr=2e-3))
        >>> h_n.square().mean().backward()
        >>> norm = torch.nn.utils.clip_grad_norm_(rnn.parameters(), 1.0)
        >>> optimizer.step()
    """

    mode = "GammaRNN"
    _operation = "gamma_rnn_sequence"
    _sequence = staticmethod(_dispatch.gamma_rnn_sequence)

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
        init: str = "paper",
        leak: float | Tensor | None = None,
        train_leak: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.heterogeneous = check.flag("heterogeneous", heterogeneous)  # super() asks for the shapes
        lstm = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size)
        super().__init__(*lstm, n_floor, init, leak, train_leak, device, dtype)

    def _activation_shapes(self) -> Shapes:
        return gamma_shapes(self.hidden_size if self.heterogeneous else 1)

    def _state_sizes(self) -> tuple[tuple[int, ...], ...]:
        return ((self.hidden_size,),)

    def _reset_activation(self, *parameters: Tensor) -> None:
        init.static_gamma_(*parameters)

    def extra_repr(self) -> str:
        """The sizes and options, for `print`."""
        return f"{super().extra_repr()}, heterogeneous={self.heterogeneous}"

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | None = None,
        drive: Tensor | float | None = None,
        return_trace: bool = False,
    ) -> tuple[Any, ...]:
        """Runs the network over a sequence.

        Args:
            input: the sequence; see `ARUN.forward`.
            hx: the initial state h_0, of shape (D·L, B, H), or (D·L, H) for an input without a batch.  Zeros if None.
            drive: the external drive; see `ARUN.forward`.
            return_trace: whether to return what the neurons did, too.

        Returns:
            A tuple of output, of shape (T, B, D·H), of h_n, of the shape of h_0, and, with `return_trace`, of a
            `Trace`; see `ARUN.forward`.

        Raises:
            TypeError: if an argument is not of the type or dtype that is expected.
            ValueError: if the shape or device of an argument or a parameter does not fit, or if the fields of a
                `PackedSequence` do not fit each other.

        Examples:
            >>> rnn = GammaRNN(1, 8)
            >>> output, h_n, trace = rnn(torch.rand(100, 4, 1), drive=0.5, return_trace=True)
            >>> trace.a.shape
            torch.Size([100, 4, 8])
        """
        if (leaf := self._leaf(input, hx, drive, return_trace)) is not None:
            return leaf
        output, (h,), trace = self._forward(input, hx, drive, return_trace)
        return (output, h, trace) if return_trace else (output, h)
