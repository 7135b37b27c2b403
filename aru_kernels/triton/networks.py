"""The networks that run time steps, and the arguments of a chunk of steps by name.

S is the number of steps in a chunk.  States g are (..., GS): rows of G units, then zeros (see `controller.row_length`).
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor

from aru_kernels._precision import product_precision
from aru_kernels.triton.controller import Controller


class Adaptive:
    """The adaptive network: W_hh (H, H), the controller, and the leak (H,) or None."""

    def __init__(
        self,
        weight_hh: Tensor,
        controller: tuple[Tensor, ...],
        n_floor: float,
        precision: str,
        leak: Tensor | None = None,
    ) -> None:
        self.weight_hh = weight_hh.contiguous()
        self.controller = Controller(controller, n_floor, precision)
        self.leak = None if leak is None else leak.contiguous()

    def copied(self) -> Adaptive:
        """The same network on a copy of its weights."""
        other = copy.copy(self)
        other.weight_hh, other.controller = self.weight_hh.clone(), self.controller.copied()
        other.leak = None if self.leak is None else self.leak.clone()
        return other

    def assign(self, other: Adaptive) -> None:
        """Copies the other network's weights into this one's."""
        self.weight_hh.copy_(other.weight_hh)
        self.controller.w.copy_(other.controller.w)
        _assign_leak(self, other)

    @property
    def key(self) -> tuple[object, ...]:
        """What a graph depends on, besides the sizes of its arguments."""
        precision = product_precision("cuda")  # of the products with W_hh, which are PyTorch's
        controller, leaky = self.controller, self.leak is not None
        return "adaptive", controller.n_floor, controller.product, precision, self.weight_hh.dtype, leaky


class Static:
    """The static network: W_hh (H, H), gains n and saturations s (H,), and the leak (H,) or None."""

    def __init__(self, weight_hh: Tensor, n: Tensor, s: Tensor, n_floor: float, leak: Tensor | None = None) -> None:
        H = weight_hh.shape[0]
        self.weight_hh = weight_hh.contiguous()
        self.n, self.s = (x.expand(H).contiguous() for x in (n, s))
        self.n_floor = n_floor
        self.leak = None if leak is None else leak.contiguous()

    def copied(self) -> Static:
        """The same network on a copy of its weights."""
        other = copy.copy(self)
        other.weight_hh, other.n, other.s = (x.clone() for x in (self.weight_hh, self.n, self.s))
        other.leak = None if self.leak is None else self.leak.clone()
        return other

    def assign(self, other: Static) -> None:
        """Copies the other network's weights into this one's."""
        self.weight_hh.copy_(other.weight_hh)
        self.n.copy_(other.n)
        self.s.copy_(other.s)
        _assign_leak(self, other)

    @property
    def key(self) -> tuple[object, ...]:
        """What a graph depends on, besides the sizes of its arguments."""
        return "static", self.n_floor, product_precision("cuda"), self.weight_hh.dtype, self.leak is not None


def _assign_leak(network: Adaptive | Static, other: Adaptive | Static) -> None:
    if network.leak is not None and other.leak is not None:
        network.leak.copy_(other.leak)


class AdaptiveForward(NamedTuple):
    """Steps of the adaptive network forward: from xp and the states before the first step to h, a, g, n and s."""

    xp: Tensor  # (S, B, H)
    h_before: Tensor  # (B, H)
    g_before: Tensor  # (B, H, GS)
    a: Tensor  # (S, B, H), or (1, B, H): not kept
    h: Tensor  # (S, B, H)
    g: Tensor  # (S, B, H, GS), or (1, B, H, GS): the last state, which may be g_before
    n: Tensor | None  # (S, B, H)
    s: Tensor | None  # (S, B, H)

    @property
    def written(self) -> tuple[str, ...]:
        """The fields that the steps write."""
        return ("a", "h", "g", "n", "s")

    @property
    def updated(self) -> tuple[str, ...]:
        """Those among the written fields that the steps also read."""
        return ()

    @property
    def length(self) -> int:
        """S."""
        return len(self.xp)


class AdaptiveBackward(NamedTuple):
    """Steps of the adaptive network backward, step by step."""

    d_h: Tensor | None  # (S, B, H)
    d_a: Tensor | None  # (S, B, H)
    d_n: Tensor | None  # (S, B, H)
    d_s: Tensor | None  # (S, B, H)
    d_g: Tensor | None  # (B, H, GS), of the last step, if no step follows it
    a: Tensor  # (S, B, H)
    g: Tensor  # (S, B, H, GS), after each step
    d_xp: Tensor  # (S, B, H)
    d_rec: Tensor  # (B, H): the gradient of h through the next step
    # Slots of steps whose gradients wait for the sums; slot 0 of du and of a goes from chunk to chunk.
    du: Tensor  # (slots, B, H, GS): the gradients of u
    vectors: Tensor  # (3, slots, B, H): a and the gradients of n and s
    sums: Tensor  # the sums of the weights' gradients (see `Controller.add_sums`)
    # of a network with a leak
    h_before: Tensor | None = None  # (S, B, H), h before each step
    d_leak: Tensor | None = None  # (B, H): the sum over the steps

    @property
    def written(self) -> tuple[str, ...]:
        """The fields that the steps write."""
        return ("d_xp", "d_rec", "du", "vectors", "sums", "d_leak")

    @property
    def updated(self) -> tuple[str, ...]:
        """Those among the written fields that the steps also read."""
        return ("d_rec", "du", "vectors", "sums", "d_leak")

    @property
    def length(self) -> int:
        """S."""
        return len(self.a)


class AdaptiveBackwardAtOnce(NamedTuple):
    """Steps of the adaptive network backward, in one launch, which writes d_xp and updates what follows it."""

    d_h: Tensor | None  # (S, B, H)
    d_a: Tensor | None  # (S, B, H)
    d_n: Tensor | None  # (S, B, H)
    d_s: Tensor | None  # (S, B, H)
    a: Tensor  # (S, B, H)
    g: Tensor  # (S, B, H, GS), before each step
    d_xp: Tensor  # (S, B, H)
    d_rec: Tensor  # (B, H): the gradient of h through the next step
    dg: Tensor  # (B, H, GS): the gradient of g at the next step
    partials: Tensor  # (B, ...): the sums of the weights' gradients (see `Controller.new_partials`)
    # of a network with a leak
    h_before: Tensor | None = None  # (S, B, H), h before each step
    d_leak: Tensor | None = None  # (S, B, H): the terms of the sum


class StaticForward(NamedTuple):
    """Steps of the static network forward: from xp and h before the first step to a and h."""

    xp: Tensor  # (S, B, H)
    h_before: Tensor  # (B, H)
    a: Tensor  # (S, B, H), or (1, B, H): not kept
    h: Tensor  # (S, B, H)

    @property
    def written(self) -> tuple[str, ...]:
        """The fields that the steps write."""
        return ("a", "h")

    @property
    def updated(self) -> tuple[str, ...]:
        """Those among the written fields that the steps also read."""
        return ()

    @property
    def length(self) -> int:
        """S."""
        return len(self.xp)


class StaticBackward(NamedTuple):
    """Steps of the static network backward."""

    d_h: Tensor | None  # (S, B, H)
    d_a: Tensor | None  # (S, B, H)
    a: Tensor  # (S, B, H)
    d_xp: Tensor  # (S, B, H)
    d_rec: Tensor  # (B, H): the gradient of h through the next step
    dn: Tensor  # (B, H): the sum over the steps
    ds: Tensor  # (B, H): the sum over the steps
    # of a network with a leak
    h_before: Tensor | None = None  # (S, B, H), h before each step
    d_leak: Tensor | None = None  # (B, H): the sum over the steps

    @property
    def written(self) -> tuple[str, ...]:
        """The fields that the steps write."""
        return ("d_xp", "d_rec", "dn", "ds", "d_leak")

    @property
    def updated(self) -> tuple[str, ...]:
        """Those among the written fields that the steps also read."""
        return ("d_rec", "dn", "ds", "d_leak")

    @property
    def length(self) -> int:
        """S."""
        return len(self.a)


class AdaptiveUpstream(NamedTuple):
    """Gradients of the results of a whole adaptive sequence, None where there is none."""

    d_h: Tensor | None  # (T, B, H), contiguous, as the next three
    d_a: Tensor | None
    d_n: Tensor | None
    d_s: Tensor | None
    d_h_last: Tensor | None  # (B, H), added to d_h[-1]
    d_g: Tensor | None  # (B, H, G), of the last state

    def of_steps(self, steps: slice) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        """d_h, d_a, d_n and d_s of some steps."""
        d_h, d_a, d_n, d_s = (None if x is None else x[steps] for x in self[:4])
        return d_h, d_a, d_n, d_s


class Past(NamedTuple):
    """The states h that the backward pass through a leak reads."""

    h0: Tensor  # (B, H)
    h: Tensor  # (T, B, H), after each step; contiguous

    def before(self, steps: slice) -> Tensor:
        """h before each of some steps, (S, B, H)."""
        if steps.start:
            return self.h[steps.start - 1 : steps.stop - 1]
        return torch.cat((self.h0[None], self.h[: steps.stop - 1]))
