"""The kernels as torch.library operators, so that torch.compile, torch.export, autograd and opcheck know them.

Every backend's kernel of an operation shares one schema, one fake kernel and one autograd formula; the operator of
backend `cpu` for `gamma` is `torch.ops.aru_kernels.cpu_gamma`, its backward pass `cpu_gamma_backward`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aru_kernels.backends import BACKENDS, Backend


@dataclass(frozen=True)
class Operator:
    """What all backends' kernels of one operation share.

    schema, backward_schema: in torch.library's language, without the name.
    fake, backward_fake: outputs without data.  save: fills the autograd context.  gradients(ctx, backward, *grads):
    the gradients of all inputs by means of the backward operator.
    """

    schema: str
    backward_schema: str
    fake: Callable[..., Any]
    backward_fake: Callable[..., Any]
    save: Callable[..., None]
    gradients: Callable[..., tuple[Tensor | None, ...]]


def _gamma_fake(x: Tensor, n: Tensor, s: Tensor, n_floor: float) -> Tensor:
    return x.new_empty(x.shape)


def _gamma_backward_fake(dy: Tensor, x: Tensor, n: Tensor, s: Tensor, n_floor: float) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(operand.shape) for operand in (x, n, s))


def _gamma_save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.n_floor = inputs
    ctx.save_for_backward(*tensors)


def _gamma_gradients(ctx: Any, backward: Callable[..., tuple[Tensor, ...]], dy: Tensor) -> tuple[Tensor | None, ...]:
    return (*backward(dy, *ctx.saved_tensors, ctx.n_floor), None)


OPERATORS = {
    "gamma": Operator(
        schema="(Tensor x, Tensor n, Tensor s, float n_floor) -> Tensor",
        backward_schema="(Tensor dy, Tensor x, Tensor n, Tensor s, float n_floor) -> (Tensor, Tensor, Tensor)",
        fake=_gamma_fake,
        backward_fake=_gamma_backward_fake,
        save=_gamma_save,
        gradients=_gamma_gradients,
    ),
}

# (backend, operation) -> the callable operator
_FORWARD: dict[tuple[str, str], Callable[..., Any]] = {}


def _register(backend: Backend, op: str, forward: Callable[..., Any], backward: Callable[..., Any]) -> None:
    shared = OPERATORS[op]
    name = f"aru_kernels::{backend.name}_{op}"
    backward_name = f"{name}_backward"
    devices = tuple(backend.devices)
    for qualified, schema, kernel, fake in (
        (name, shared.schema, forward, shared.fake),
        (backward_name, shared.backward_schema, backward, shared.backward_fake),
    ):
        torch.library.define(qualified, schema)
        torch.library.impl(qualified, devices, kernel)
        torch.library.register_fake(qualified, fake)
    backward_op = _overload(backward_name)

    def gradients(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return shared.gradients(ctx, backward_op, *grads)

    # Raised where a second derivative is taken, not where a graph for one is built: torch.func.grad always builds it.
    def no_second_derivative(ctx: Any, *grads: Tensor) -> None:
        raise RuntimeError(
            f"backend {backend.name!r} has no second derivative of {op}; compute it under "
            "aru_kernels.use_backend('reference'), which differentiates to any order."
        )

    torch.library.register_autograd(name, gradients, setup_context=shared.save)
    torch.library.register_autograd(backward_name, no_second_derivative, setup_context=lambda ctx, inputs, output: None)
    _FORWARD[backend.name, op] = _overload(name)


def _overload(name: str) -> Callable[..., Any]:
    namespace, op = name.split("::")
    return getattr(getattr(torch.ops, namespace), op).default


def operator(backend: str, op: str) -> Callable[..., Any]:
    """The differentiable operator of `op` in `backend`."""
    return _FORWARD[backend, op]


for _backend in BACKENDS.values():
    if _backend.module is not None:
        for _op, (_forward, _backward) in _backend.load().KERNELS.items():
            _register(_backend, _op, _forward, _backward)
