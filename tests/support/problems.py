"""Problems for the operations: arguments that ask for gradients, and runs that return every result and gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

import aru_kernels
from benchmarks import problems

# Arguments of aru_sequence, of gamma_rnn_sequence and of controller_step, in their order.
ADAPTIVE = ("xp", "h0", "g0", "weight_hh", "weight_ag", "weight_gg", "bias_g", "weight_gc", "bias_c")
STATIC = ("xp", "h0", "weight_hh", "n", "s")
STEP = ("a", "g", "weight_ag", "weight_gg", "bias_g", "weight_gc", "bias_c")


def leaves(tensors: Iterable[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """New tensors of the same values that ask for gradients."""
    return [x.detach().to(dtype, copy=True).requires_grad_() for x in tensors]


def double(arguments: Iterable[Tensor]) -> list[Tensor]:
    """The same arguments in float64, for exact results."""
    return leaves(arguments, torch.float64)


def adaptive_arguments(T: int, B: int, H: int, G: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Arguments of aru_sequence."""
    return leaves(problems.adaptive(T, B, H, G), dtype)


def static_arguments(
    T: int, B: int, H: int, sizes: tuple[int, ...] | None = None, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """Arguments of gamma_rnn_sequence; sizes: of n and s, (H,) by default."""
    return leaves(problems.static(T, B, H, sizes), dtype)


def step_arguments(B: int, H: int, G: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Arguments of controller_step."""
    return leaves(problems.step(B, H, G), dtype)


def weights_like(*outputs: Tensor) -> list[Tensor]:
    """Random weights of a sum of the outputs, the same in every call."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype) for x in outputs]


def weighted_sum(outputs: list[Tensor]) -> Tensor:
    """The sum of all elements of all outputs, weighted."""
    return sum((w * x).sum() for w, x in zip(weights_like(*outputs), outputs, strict=True))


def run(
    backend: str, function: Callable[..., tuple], arguments: list[Tensor], trace: bool = False
) -> tuple[list[Tensor], list[Tensor]]:
    """All results of a sequence, and the gradients of their weighted sum for all arguments."""
    with aru_kernels.use_backend(backend):
        *outputs, traced = function(*arguments, return_trace=trace)
    outputs += list(traced or ())
    return outputs, list(torch.autograd.grad(weighted_sum(outputs), arguments))


def with_leak(arguments: list[Tensor]) -> list[Tensor]:
    """Arguments of a sequence, and a leak (H,) as the last."""
    xp = arguments[0]
    return [*arguments, *leaves([0.05 + 0.95 * torch.rand(xp.shape[-1])], xp.dtype)]


def leaky(function: Callable[..., tuple]) -> Callable[..., tuple]:
    """A sequence whose last tensor is the leak."""

    def call(*tensors: Tensor, **options: object) -> tuple:
        return function(*tensors[:-1], leak=tensors[-1], **options)

    return call
