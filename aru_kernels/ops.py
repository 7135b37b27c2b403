"""The kernels as torch.library operators, so that torch.compile, torch.export, autograd and opcheck know them.

Every backend's kernel of an operation shares one schema, one fake kernel and one autograd formula; the operator of
backend `cpu` for `gamma` is `torch.ops.aru_kernels.cpu_gamma`, its backward pass `cpu_gamma_backward`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from aru_kernels.backends import BACKENDS, Backend


@dataclass(frozen=True)
class Operator:
    """What all backends' kernels of one operation share.

    schema, backward_schema: in torch.library's language, without the name.
    fake, backward_fake: outputs without data; their first argument is the backend's module, which knows how much state
    it keeps.  save: fills the autograd context.  gradients(ctx, backward, *grads): the gradients of all inputs by means
    of the backward operator.  with_last: of a sequence, whose last step is a result that kernels need not make.
    """

    schema: str
    backward_schema: str
    fake: Callable[..., Any]
    backward_fake: Callable[..., Any]
    save: Callable[..., None]
    gradients: Callable[..., tuple[Tensor | None, ...]]
    with_last: bool = False


def _gamma_fake(module: ModuleType, x: Tensor, n: Tensor, s: Tensor, n_floor: float) -> Tensor:
    return x.new_empty(x.shape)


def _gamma_backward_fake(
    module: ModuleType, dy: Tensor, x: Tensor, n: Tensor, s: Tensor, n_floor: float
) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(operand.shape) for operand in (x, n, s))


def _gamma_save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.n_floor = inputs
    ctx.save_for_backward(*tensors)


def _gamma_gradients(ctx: Any, backward: Callable[..., tuple[Tensor, ...]], dy: Tensor) -> tuple[Tensor | None, ...]:
    return (*backward(dy, *ctx.saved_tensors, ctx.n_floor), None)


_CONTROLLER = "Tensor weight_ag, Tensor weight_gg, Tensor bias_g, Tensor weight_gc, Tensor bias_c"


def _aru_fake(module: ModuleType, xp: Tensor, h0: Tensor, g0: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    *_, precision, segment, trace = rest
    T, B, H = xp.shape
    kept = module.kept_elements(T, B, H, g0.shape[-1], xp.dtype, precision, segment)
    a = xp.new_empty(xp.shape if trace or segment > 0 else (0,))
    gains = segment > 0 if module.KEEPS_GAINS else segment == 1
    n, s = (xp.new_empty(xp.shape if trace or gains else (0,)) for _ in "ns")
    return xp.new_empty(xp.shape), h0.new_empty(h0.shape), g0.new_empty(g0.shape), a, n, s, xp.new_empty(kept)


def _aru_backward_fake(module: ModuleType, *arguments: Any) -> tuple[Tensor, ...]:
    h0, g0, *weights = arguments[6:14]
    a = arguments[15]
    return tuple(x.new_empty(x.shape) for x in (a, h0, g0, *weights))


def _aru_save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, *tensors, ctx.n_floor, ctx.precision, ctx.segment, _ = inputs
    h, _, _, a, n, s, kept = output
    ctx.mark_non_differentiable(kept)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, h, a, n, s, kept)


def _aru_gradients(ctx: Any, backward: Callable[..., tuple[Tensor, ...]], *grads: Tensor | None) -> tuple[Any, ...]:
    *upstream, _ = grads
    arguments = (*upstream, *ctx.saved_tensors, ctx.n_floor, ctx.precision, ctx.segment)
    return (*backward(*arguments), None, None, None, None)


def _controller_fake(module: ModuleType, a: Tensor, g: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    *_, precision, keep = rest
    kept = module.kept_elements_of_step(*g.shape, a.dtype, precision) if keep else 0
    h, n, s = (a.new_empty(a.shape) for _ in "hns")
    return h, g.new_empty(g.shape), n, s, a.new_empty(kept)


def _controller_backward_fake(module: ModuleType, *arguments: Any) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in arguments[4:11])


def _controller_save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.n_floor, ctx.precision, _ = inputs
    _, _, n, s, kept = output
    ctx.mark_non_differentiable(kept)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, n, s, kept)


def _controller_gradients(
    ctx: Any, backward: Callable[..., tuple[Tensor, ...]], *grads: Tensor | None
) -> tuple[Any, ...]:
    return (*backward(*grads[:4], *ctx.saved_tensors, ctx.n_floor, ctx.precision), None, None, None)


def _gamma_rnn_fake(module: ModuleType, xp: Tensor, h0: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return xp.new_empty(xp.shape), h0.new_empty(h0.shape), xp.new_empty(xp.shape if rest[-1] else (0,))


def _gamma_rnn_backward_fake(module: ModuleType, *arguments: Any) -> tuple[Tensor, ...]:
    a = arguments[8]
    return tuple(x.new_empty(x.shape) for x in (a, *arguments[3:7]))


def _gamma_rnn_save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, *tensors, ctx.n_floor, ctx.precision, _ = inputs
    h, _, a = output
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, h, a)


def _gamma_rnn_gradients(
    ctx: Any, backward: Callable[..., tuple[Tensor, ...]], *grads: Tensor | None
) -> tuple[Any, ...]:
    return (*backward(*grads, *ctx.saved_tensors, ctx.n_floor, ctx.precision), None, None, None)


# precision: of float32 products, in the words of torch.set_float32_matmul_precision; an argument, so that the backward
# pass finds the state as the forward pass left it.
# h_last: the last step of h, with a gradient of its own: that of h would be zeros at all other steps.
# segment: K of the checkpoints, 0 where no backward pass follows.  trace: whether a, n and s are wanted as results.
OPERATORS = {
    "gamma": Operator(
        schema="(Tensor x, Tensor n, Tensor s, float n_floor) -> Tensor",
        backward_schema="(Tensor dy, Tensor x, Tensor n, Tensor s, float n_floor) -> (Tensor, Tensor, Tensor)",
        fake=_gamma_fake,
        backward_fake=_gamma_backward_fake,
        save=_gamma_save,
        gradients=_gamma_gradients,
    ),
    "controller_step": Operator(
        schema=f"(Tensor a, Tensor g, {_CONTROLLER}, float n_floor, str precision, bool keep)"
        " -> (Tensor h, Tensor g_next, Tensor n, Tensor s, Tensor kept)",
        backward_schema="(Tensor? d_h, Tensor? d_g, Tensor? d_n, Tensor? d_s, Tensor a, Tensor g, "
        f"{_CONTROLLER}, Tensor n, Tensor s, Tensor kept, float n_floor, str precision)"
        f" -> ({', '.join(['Tensor'] * 7)})",
        fake=_controller_fake,
        backward_fake=_controller_backward_fake,
        save=_controller_save,
        gradients=_controller_gradients,
    ),
    "aru_sequence": Operator(
        schema=f"(Tensor xp, Tensor h0, Tensor g0, Tensor weight_hh, {_CONTROLLER}, float n_floor, str precision, "
        "int segment, bool trace) -> (Tensor h, Tensor h_last, Tensor g, Tensor a, Tensor n, Tensor s, Tensor kept)",
        backward_schema="(Tensor? d_h, Tensor? d_h_last, Tensor? d_g, Tensor? d_a, Tensor? d_n, Tensor? d_s, "
        f"Tensor h0, Tensor g0, Tensor weight_hh, {_CONTROLLER}, Tensor h, Tensor a, Tensor n, Tensor s, Tensor kept, "
        f"float n_floor, str precision, int segment) -> ({', '.join(['Tensor'] * 9)})",
        fake=_aru_fake,
        backward_fake=_aru_backward_fake,
        save=_aru_save,
        gradients=_aru_gradients,
        with_last=True,
    ),
    "gamma_rnn_sequence": Operator(
        schema="(Tensor xp, Tensor h0, Tensor weight_hh, Tensor n, Tensor s, float n_floor, str precision, bool keep)"
        " -> (Tensor h, Tensor h_last, Tensor a)",
        backward_schema="(Tensor? d_h, Tensor? d_h_last, Tensor? d_a, Tensor h0, Tensor weight_hh, Tensor n, Tensor s, "
        f"Tensor h, Tensor a, float n_floor, str precision) -> ({', '.join(['Tensor'] * 5)})",
        fake=_gamma_rnn_fake,
        backward_fake=_gamma_rnn_backward_fake,
        save=_gamma_rnn_save,
        gradients=_gamma_rnn_gradients,
        with_last=True,
    ),
}

# (backend, operation) -> the callable operator
_FORWARD: dict[tuple[str, str], Callable[..., Any]] = {}
# (backend, operation) -> the kernel, and a function with its gradient for eager programs
_EAGER: dict[tuple[str, str], tuple[Callable[..., Any], type[torch.autograd.Function]]] = {}
_PLAIN = (Tensor, torch.nn.Parameter)
# backend -> K of the checkpoints, from (T, B, H, G, dtype, precision)
_CHOOSE_SEGMENT: dict[str, Callable[[int, int, int, int, torch.dtype, str], int]] = {}


def _register(backend: Backend, op: str, forward: Callable[..., Any], backward: Callable[..., Any]) -> None:
    shared, module = OPERATORS[op], backend.load()
    if shared.with_last:
        forward = _with_last(forward)
    name = f"aru_kernels::{backend.name}_{op}"
    backward_name = f"{name}_backward"
    devices = tuple(backend.devices)
    for qualified, schema, kernel, fake in (
        (name, shared.schema, forward, shared.fake),
        (backward_name, shared.backward_schema, backward, shared.backward_fake),
    ):
        torch.library.define(qualified, schema)
        torch.library.impl(qualified, devices, kernel)
        torch.library.register_fake(qualified, functools.partial(fake, module))
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
    _EAGER[backend.name, op] = forward, _eager_function(shared, forward, backward, backward_op)


def _with_last(kernel: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...]]:
    """The kernel of a sequence, with a copy of the last step of h after h."""

    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        h, *others = kernel(*arguments)
        return h, h[-1].clone(), *others

    return forward


def _eager_function(
    shared: Operator,
    kernel: Callable[..., Any],
    backward_kernel: Callable[..., tuple[Tensor, ...]],
    backward_op: Callable[..., tuple[Tensor, ...]],
) -> type[torch.autograd.Function]:
    class Eager(torch.autograd.Function):
        # with a setup_context of its own, apply would inspect the signature at every call
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Any:
            output = kernel(*arguments)
            shared.save(ctx, arguments, output)
            return output

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
            # a graph of the backward pass is built: the operator knows what to say if it is used
            operator = torch.is_grad_enabled() or _without_memory(grads)
            return shared.gradients(ctx, backward_op if operator else backward_kernel, *grads)

    return Eager


def _overload(name: str) -> Callable[..., Any]:
    namespace, op = name.split("::")
    return getattr(getattr(torch.ops, namespace), op).default


def call(backend: str, op: str, *arguments: Any) -> Any:
    """`op` of `backend`, differentiable.

    The dispatcher costs more than a small kernel, so plain tensors of an eager program go to the kernel directly, with
    the same formula for the gradient; whatever traces, records or wraps tensors sees the operator.
    """
    if (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()
        or torch.jit.is_tracing()
        or not all(type(x) in _PLAIN for x in arguments if isinstance(x, Tensor))
        or _negated(arguments)
    ):
        return _FORWARD[backend, op](*arguments)
    kernel, function = _EAGER[backend, op]
    if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in arguments):
        return function.apply(*arguments)
    return kernel(*arguments)


def _negated(arguments: tuple[Any, ...]) -> bool:
    """Whether memory holds the negative of a tensor's values, as that of z.conj().imag: the dispatcher makes a copy."""
    return any(x.is_neg() for x in arguments if isinstance(x, Tensor))


def _without_memory(grads: tuple[Tensor | None, ...]) -> bool:
    """Whether a gradient's values are not in memory of its own.

    Negated, or one of a batch, as in torch.autograd.grad(is_grads_batched=True), which the dispatcher takes apart.
    """
    functorch = torch._C._functorch
    return _negated(grads) or any(
        functorch.is_batchedtensor(x) or functorch.is_legacy_batchedtensor(x) for x in grads if x is not None
    )


def operator(backend: str, op: str) -> Callable[..., Any]:
    """The differentiable operator of `op` in `backend`."""
    return _FORWARD[backend, op]


def choose_segment(backend: str, T: int, B: int, H: int, G: int, dtype: torch.dtype, precision: str) -> int:
    """K: with a backward pass to come, `backend` keeps the controller's state before every K-th step."""
    return _CHOOSE_SEGMENT[backend](T, B, H, G, dtype, precision)


for _backend in BACKENDS.values():
    if _backend.module is not None:
        _CHOOSE_SEGMENT[_backend.name] = _backend.load().choose_segment
        for _op, (_forward, _backward) in _backend.load().KERNELS.items():
            _register(_backend, _op, _forward, _backward)
