"""The activations of the layers, for networks of any kind."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aru_kernels import _checks as check
from aru_kernels import functional, init
from aru_kernels._module import Module, controller_shapes, gamma_shapes

__all__ = ["AdaptiveGamma", "Gamma"]


class Gamma(Module):
    r"""Applies the activation γ with trained gain and saturation to every element; like `torch.nn.PReLU`.

    .. math::
        \gamma(x; n, s) = (1 - s) \frac{\operatorname{softplus}(n x)}{n} + s \, \sigma(n x)

    Args:
        num_parameters: number of pairs (n, s): 1 for all elements, or the size of dimension `dim` of the input, for one
            pair per neuron.
        gain: initial value of n.
        saturation: initial value of s.
        dim: dimension of the neurons.  It is the last by default, where `torch.nn.PReLU` takes dimension 1.
        n_floor: smallest absolute value of the gain at which γ is evaluated; see `functional.gamma`.
        device: device of the parameters.
        dtype: floating-point dtype of the parameters.

    Shape:
        * input: any; with `num_parameters` > 1, of that size in dimension `dim`.
        * output: the shape of the input.

    Attributes:
        gain: :math:`n`, of shape (num_parameters,).
        saturation: :math:`s`, of shape (num_parameters,).

    Raises:
        TypeError: if an argument is not of the type that is named above.
        ValueError: if `num_parameters` is below 1, `gain` or `saturation` is not finite, or `n_floor` is not above 0.

    Source: V. Geadah, S. Horoi, G. Kerg, G. Wolf, G. Lajoie, 2024; see `ARUN`.

    Examples:
        >>> act = Gamma(gain=2.0)
        >>> act(torch.zeros(3))
        tensor([0.3466, 0.3466, 0.3466], grad_fn=<...>)
        >>> act = Gamma(64, dim=1)
        >>> act(torch.randn(8, 64, 32, 32)).shape
        torch.Size([8, 64, 32, 32])
    """

    gain: nn.Parameter
    saturation: nn.Parameter

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
        self._register(gamma_shapes(self.num_parameters), "", device, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets gain and saturation to their initial values."""
        for parameter, value in zip((self.gain, self.saturation), self._initial, strict=True):
            nn.init.constant_(parameter, value)

    def extra_repr(self) -> str:
        """The sizes and options, for `print`."""
        return f"num_parameters={self.num_parameters}"

    def forward(self, input: Tensor) -> Tensor:
        """Computes γ of every element.

        Args:
            input: any shape; with `num_parameters` > 1, of that size in dimension `dim`.

        Raises:
            TypeError: if `input` is no tensor, or of another dtype than the parameters.
            ValueError: if the shape or device of `input` or of a parameter does not fit.
        """
        if (leaf := self._leaf(input)) is not None:
            return leaf
        n, s = self._weights(gamma_shapes(self.num_parameters))
        check.memory("input", check.tensor("input", input))
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


class AdaptiveGamma(Module):
    r"""Applies the activation γ with a gain and a saturation that a controller sets at every step.

    It makes the neurons of any recurrent cell adaptive.

    .. math::
        \begin{aligned}
        g' &= \tanh(w_{ag} a + W_{gg} g + b_g) \\
        (n, s) &= W_{gc} g' + b_c \\
        h &= \gamma(a; n, s)
        \end{aligned}

    Args:
        controller_size: number of units of the controller, G.  The paper uses 50.
        n_floor: smallest absolute value of the gain at which γ is evaluated; see `functional.gamma`.
        device: device of the parameters.
        dtype: floating-point dtype of the parameters.

    Shape:
        * a and h: (..., H), for any number of neurons H.
        * g and the next g: (..., H, G).

    Attributes:
        weight_ag: :math:`w_{ag}`, of shape (G,).
        weight_gg: :math:`W_{gg}`, of shape (G, G).
        bias_g: :math:`b_g`, of shape (G,).
        weight_gc: :math:`W_{gc}`, of shape (2, G), whose row 0 makes n and row 1 makes s.
        bias_c: :math:`b_c`, of shape (2,).

    They are initialised as in `ARUN`, which also names the source.

    Raises:
        TypeError: if an argument is not of the type that is named above.
        ValueError: if `controller_size` is below 1 or `n_floor` is not above 0.

    Examples:
        >>> act, W = AdaptiveGamma(), torch.randn(20, 20) / 20**0.5
        >>> h, g = torch.zeros(3, 20), None
        >>> for x in torch.randn(6, 3, 20):
        ...     h, g = act(x + h @ W, g)
        >>> h.shape, g.shape
        (torch.Size([3, 20]), torch.Size([3, 20, 16]))
        >>> from aru_kernels import parameter_groups
        >>> optimizer = torch.optim.Adam(parameter_groups(act, lr=2e-3))  # see `ARUN`
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
        self._register(controller_shapes(self.controller_size), "", device, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all parameters again, as the paper's authors do (`aru_kernels.init`)."""
        init.controller_(*(getattr(self, name) for name in controller_shapes(1)))

    def extra_repr(self) -> str:
        """The sizes and options, for `print`."""
        return f"controller_size={self.controller_size}"

    def forward(self, a: Tensor, g: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Computes one step.

        Args:
            a: the pre-activation, of shape (..., H).
            g: the state of the controller, of shape (..., H, G).  Zeros if None.

        Returns:
            The activation h, of shape (..., H), and the next g.  They can be changed and detached in place.

        Raises:
            TypeError: if an argument is not of the type or dtype that is expected.
            ValueError: if the shape or device of an argument or a parameter does not fit.
        """
        if (leaf := self._leaf(a, g)) is not None:
            return leaf
        weight_ag, weight_gg, bias_g, weight_gc, bias_c = self._weights(controller_shapes(self.controller_size))
        check.memory("a", check.tensor("a", a))
        if g is None:
            g = a.new_zeros(*a.shape, self.controller_size)
        else:
            check.memory("g", check.tensor("g", g))
        return functional.adaptive_gamma(a, g, weight_ag, weight_gg, bias_g, weight_gc, bias_c, self.n_floor)
