"""The leak of a layer or cell: its argument, its buffer or trained parameter."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from aru_kernels import _checks as check
from aru_kernels._module import Module, Shapes

# The leak as a constructor keeps it: a number for all neurons, or one for each.
Values = float | tuple[float, ...]


class Sigmoid(nn.Module):
    """The parametrization of a trained leak, σ(v), which keeps it between 0 and 1.

    Shape:
        * v and the leak: (H,).
    """

    def forward(self, v: Tensor) -> Tensor:
        """The leak."""
        return torch.sigmoid(v)

    def right_inverse(self, leak: Tensor) -> Tensor:
        """v, of a leak between 0 and 1."""
        return torch.logit(leak)


def values(leak: object, train_leak: object, hidden_size: int, dtype: object) -> Values | None:
    """The argument `leak`, checked.

    Raises TypeError or ValueError unless it is None, a number in (0, 1] or a tensor of H of them, rounded to this
    dtype, and below 1 if it is trained: the sigmoid does not reach 1.
    """
    train_leak = check.flag("train_leak", train_leak)
    if leak is None:
        if train_leak:
            raise ValueError("train_leak is True without a leak, expected its initial value as leak.")
        return None
    if isinstance(leak, Tensor):
        check.tensor("leak", leak)
        if leak.shape != ():
            check.shape("leak", leak, "(hidden_size,)", (hidden_size,))
        if leak.is_meta:
            raise ValueError("leak is on meta, expected a tensor with values.")
        check.memory("leak", leak)
        found: Values = leak.item() if leak.shape == () else tuple(leak.tolist())
    else:
        found = check.number_beside_tensor("leak", leak)
    # on a CPU, for the default device may be "meta"
    as_stored = torch.tensor(found, dtype=dtype if isinstance(dtype, torch.dtype) else None, device="cpu")
    rounded = as_stored.reshape(-1).tolist()
    for value in rounded:
        if not 0 < value <= 1 or (train_leak and value == 1):
            limit = "above 0 and below 1 because it is trained" if train_leak else "above 0 and at most 1"
            raise ValueError(f"leak is {value}, expected a number {limit}.")
    return found


class Leaky(Module):
    """A module whose neurons may have a leak; without one, nothing is registered."""

    hidden_size: int
    # of modules that were pickled before these were arguments
    _initial_leak: Values | None = None
    train_leak: bool = False

    def _leak_shapes(self) -> Shapes:
        return {} if self._initial_leak is None else {"leak": (self.hidden_size,)}

    def _register_leak(self, suffix: str, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        if self._initial_leak is None:
            return
        name = f"leak{suffix}"
        initial = torch.full((self.hidden_size,), 0.5, device=device, dtype=dtype)
        if self.train_leak:
            self.register_parameter(name, nn.Parameter(initial))
            parametrize.register_parametrization(self, name, Sigmoid())
        else:
            self.register_buffer(name, initial)

    @torch.no_grad()
    def _reset_leak(self, suffix: str) -> None:
        if self._initial_leak is None:
            return
        name = f"leak{suffix}"
        like: Tensor = getattr(self, name)
        initial = torch.tensor(self._initial_leak, dtype=like.dtype, device=like.device).expand(self.hidden_size)
        if parametrize.is_parametrized(self, name):
            setattr(self, name, initial)
        else:
            like.copy_(initial)

    def _leak_of(self, suffix: str, like: Tensor) -> Tensor | None:
        """The leak (H,) of one direction of a layer, or None."""
        return None if self._initial_leak is None else self._weights(self._leak_shapes(), suffix, like)[0]

    def _leak_repr(self) -> list[str]:
        if self._initial_leak is None:
            return []
        shown = (
            f"({len(self._initial_leak)} values)"
            if isinstance(self._initial_leak, tuple)
            else f"{self._initial_leak:g}"
        )
        return [f"leak={shown}"] + ["train_leak=True"] * self.train_leak
