"""Parts of the checks on a GPU: where they run, problems to solve, and the comparison with the reference.

They need only torch and the package, so they run from a source tree.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import aru_kernels.functional as F
from aru_kernels import backends, cuda, use_backend
from benchmarks import problems
from benchmarks.tolerances import relative_error

ROOT = Path(__file__).resolve().parents[2]

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic algorithms need on a GPU


class Skip(Exception):
    """A check that cannot be made here, with the reason."""


@dataclass(frozen=True)
class Place:
    """Where and how the checks run.  small: sizes for a dry run."""

    backend: str
    device: torch.device
    small: bool = False

    @property
    def is_gpu(self) -> bool:
        """Whether there is a GPU to speak of."""
        return self.device.type == "cuda"

    def gpu_only(self) -> None:
        """Skips a check that says nothing on a CPU."""
        if not self.is_gpu:
            raise Skip("needs a GPU")


def fused_backends(device_type: str) -> list[str]:
    """Backends with kernels of their own that can run here on tensors of this device type."""
    return [
        name
        for name, backend in backends.BACKENDS.items()
        if backend.module is not None and device_type in backend.devices and backend.unavailable() is None
    ]


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Environment variables for the length of a block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


@contextmanager
def precision(name: str) -> Iterator[None]:
    """torch.set_float32_matmul_precision for the length of a block."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def random(place: Place, *sizes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(sizes, device=place.device).to(dtype)


def one_signed_step(place: Place, B: int, H: int, G: int) -> list[Tensor]:
    """Arguments of controller_step and adaptive_gamma, of one sign.

    The gradients of the weights are sums over few rows; where terms cancel, the rounding of the operands exceeds the
    sum.  a is below 1, where ∂γ/∂s changes its sign; the read-out is too weak to change any.
    """
    a, g = random(place, B, H).tanh().abs(), random(place, B, H, G).tanh().abs()
    w_ag, w_gg, b_g, w_gc, b_c = problems.controller_weights(G, place.device)
    return [a, g, w_ag.abs(), w_gg.abs() / G**0.5, b_g.abs(), w_gc / 4, b_c]


def adaptive(place: Place, T: int, B: int, H: int, G: int) -> list[Tensor]:
    """Arguments of aru_sequence."""
    return problems.adaptive(T, B, H, G, place.device)


def static(place: Place, T: int, B: int, H: int) -> list[Tensor]:
    """Arguments of gamma_rnn_sequence."""
    return problems.static(T, B, H, device=place.device)


def leaky_aru_sequence(
    xp: Tensor,
    h0: Tensor,
    g0: Tensor,
    weight_hh: Tensor,
    weight_ag: Tensor,
    weight_gg: Tensor,
    bias_g: Tensor,
    weight_gc: Tensor,
    bias_c: Tensor,
    leak: Tensor,
) -> object:
    """aru_sequence, with the leak by position."""
    return F.aru_sequence(xp, h0, g0, weight_hh, weight_ag, weight_gg, bias_g, weight_gc, bias_c, leak=leak)


def leaky_gamma_rnn_sequence(xp: Tensor, h0: Tensor, weight_hh: Tensor, n: Tensor, s: Tensor, leak: Tensor) -> object:
    """gamma_rnn_sequence, with the leak by position."""
    return F.gamma_rnn_sequence(xp, h0, weight_hh, n, s, leak=leak)


def with_leak(arguments: list[Tensor]) -> list[Tensor]:
    """Arguments of a sequence with a leak, from those of one without.

    The gradient of the leak is a sum over steps of γ_t - h_{t-1}, times the gradient of h_t. h starts at 0, below γ,
    and follows it slowly, so that the terms have one sign, as those of `one_signed_step`.
    """
    xp, h0, *others = arguments
    return [1 + 0.2 * xp, torch.zeros_like(h0), *others, torch.linspace(0.02, 0.1, xp.shape[-1], device=xp.device)]


Function = Callable[..., object]
Problem = tuple[Function, list[Tensor]]


def operation(function: Function, arguments: list[Tensor]) -> tuple[str, int, int]:
    """The operation of a backend behind a function of aru_kernels.functional or this module, and its H and G."""
    if function is F.gamma:
        return "gamma", 0, 0
    leaky = "leaky_" if function in (leaky_aru_sequence, leaky_gamma_rnn_sequence) else ""
    if function in (F.gamma_rnn_sequence, leaky_gamma_rnn_sequence):
        return f"{leaky}gamma_rnn_sequence", arguments[1].shape[-1], 0
    if function in (F.aru_sequence, leaky_aru_sequence):
        return f"{leaky}aru_sequence", *arguments[2].shape[-2:]
    return "controller_step", *arguments[1].shape[-2:]


def refusal(place: Place, function: Function, arguments: list[Tensor]) -> str | None:
    """Why the backend cannot solve this problem at the matmul precision in force, or None."""
    op, H, G = operation(function, arguments)
    return backends.BACKENDS[place.backend].refuses(op, place.device, torch.float32, H, G)


def served(place: Place, wanted: list[Problem]) -> list[Problem]:
    """Those that the backend can solve; raises Skip where there are none."""
    reasons = [refusal(place, *problem) for problem in wanted]
    if None not in reasons:
        raise Skip(reasons[0])
    return [problem for problem, reason in zip(wanted, reasons, strict=True) if reason is None]


def sequences(place: Place, T: int, B: int, H: int, G: int) -> list[Problem]:
    """A problem of every operation on sequences."""
    return [
        (F.aru_sequence, adaptive(place, T, B, H, G)),
        (F.gamma_rnn_sequence, static(place, T, B, H)),
        (leaky_aru_sequence, with_leak(adaptive(place, T, B, H, G))),
        (leaky_gamma_rnn_sequence, with_leak(static(place, T, B, H))),
    ]


def one_of_each(place: Place, T: int, B: int, H: int, G: int) -> list[Problem]:
    """A problem of every operation that the backend has."""
    return served(
        place,
        [
            (F.gamma, [random(place, 50, H), 4 + random(place, H), random(place)]),
            (F.adaptive_gamma, one_signed_step(place, B, H, G)),
            *sequences(place, T, B, H, G),
        ],
    )


def run(backend: str, function: Function, arguments: list[Tensor], scale: float = 1.0) -> list[Tensor]:
    """All outputs, and the gradients of their weighted sum, times a power of two, for all arguments."""
    leaves = [x.detach().requires_grad_() for x in arguments]
    with use_backend(backend):
        outputs = function(*leaves)
    outputs = [x for x in (outputs if isinstance(outputs, tuple) else (outputs,)) if isinstance(x, Tensor)]
    generator = torch.Generator().manual_seed(1)
    # exact in every dtype, and of one sign: sums do not cancel
    weights = [scale * torch.randint(1, 9, x.shape, generator=generator) / 8 for x in outputs]
    weights = [w.to(x.device, x.dtype) for w, x in zip(weights, outputs, strict=True)]
    return [*(x.detach() for x in outputs), *torch.autograd.grad(outputs, leaves, weights)]


def run_forward(backend: str, function: Function, arguments: list[Tensor]) -> list[Tensor]:
    """All outputs of a pass without gradients."""
    with torch.no_grad(), use_backend(backend):
        outputs = function(*arguments)
    return [x for x in outputs if isinstance(x, Tensor)]


@contextmanager
def mixed_products(place: Place, sizes: tuple[int, int, int, int]) -> Iterator[None]:
    """The second form of "high" for the length of a block; raises Skip if it does not serve T, B, H, G."""
    if place.backend != "cuda":
        raise Skip("a form of the backend cuda")
    with precision("high"), environment(ARU_CUDA_HIGH="mixed"):
        if cuda.forward_form(place.device.index or 0, "high", 0, sizes) != cuda.MIXED:
            raise Skip("the device has no groups of warps, or no room for the sizes")
        yield


def exact_results(function: Function, arguments: list[Tensor], scale: float = 1.0) -> list[Tensor]:
    """`run` of the reference, in float64 on the same (rounded) arguments."""
    return run("reference", function, [x.double() for x in arguments], scale)


_found: list[str] | None = None


@contextmanager
def all_failures() -> Iterator[None]:
    """Raises what `compare` finds in the block at its end, together: one run on a GPU reports every failure."""
    global _found
    _found = []
    try:
        yield
    except Exception as error:
        if not _found:
            raise
        _found.append(f"then {type(error).__name__}: {error}")
        raise AssertionError("\n".join(_found)) from error
    else:
        if _found:
            raise AssertionError("\n".join(_found))
    finally:
        _found = None


def compare(
    place: Place,
    function: Function,
    arguments: list[Tensor],
    tolerance: float,
    what: str,
    exact: list[Tensor] | None = None,
    scale: float = 1.0,
) -> None:
    """Fails if an output or a gradient is off against `exact`, the `exact_results` unless they are given."""
    actual = run(place.backend, function, arguments, scale)
    if exact is None:
        exact = exact_results(function, arguments, scale)
    arguments_named = [f"gradient of {name}" for name in inspect.signature(function).parameters][: len(arguments)]
    names = [f"output {i}" for i in range(len(actual) - len(arguments))] + arguments_named
    wrong = []
    for name, a, e in zip(names, actual, exact, strict=True):
        if not a.isfinite().all():
            wrong.append(f"{name} is not finite")
        elif (error := relative_error(a, e)) > tolerance:
            wrong.append(f"{name} is off by {error:.2g}")
    if not wrong:
        return
    message = f"{what}: {', '.join(wrong)}; at most {tolerance:.2g} is allowed"
    if _found is None:
        raise AssertionError(message)
    _found.append(message)
