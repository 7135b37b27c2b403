"""The operations as torch.library operators, so that torch.compile, torch.export, autograd and opcheck know them.

Two kinds of operator exist for each operation, for instance `aru_sequence`:

* `aru_kernels::aru_sequence` decides when it runs: which backend, in which precision, how much state it keeps and
  whether any. Whatever captures a program (torch.export, torch.jit.trace, make_fx, AOTInductor) records this one, so
  that nothing of the moment of capture is frozen. Its gradient inside a captured program is
  `aru_kernels::aru_sequence_backward`, which runs the forward pass again.
* `aru_kernels::cpu_aru_sequence` (and `cuda_...`, `triton_...`) is one backend's kernel with all decisions among its
  arguments; `aru_kernels::cpu_aru_sequence_backward` is its backward pass. Programs of torch.compile contain these:
  their decisions are guarded.

Only this module knows the order of the operators' arguments; everything else uses the names of
`aru_kernels._arguments`.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from aru_kernels import _checks as check
from aru_kernels import _program as program
from aru_kernels import _recall, backends
from aru_kernels._operation import Operation, gradients_fit
from aru_kernels.backends import BACKENDS, Backend
from aru_kernels.operations import OPERATIONS

_NAMESPACE = "aru_kernels"
_LIBRARY = torch.library.Library(_NAMESPACE, "FRAGMENT")
_TYPES = {Tensor: "Tensor", Tensor | None: "Tensor?", float: "float", str: "str", int: "int", bool: "bool"}

Kernel = Callable[..., tuple[Tensor, ...]]

# (backend, operation) -> the operator of a backend's kernel
_OPERATORS: dict[tuple[str, str], Callable[..., Any]] = {}
# (backend, operation) -> what eager programs call instead of the operator: the kernel, and a function with its gradient
_EAGER: dict[tuple[str, str], tuple[Callable[..., Any], type[torch.autograd.Function]]] = {}
# (backend, operation) -> the gradients of an eager program's call
_GRADIENTS: dict[tuple[str, str], Callable[..., tuple[Tensor | None, ...]]] = {}
# backend -> its module
_MODULES: dict[str, ModuleType] = {}
# operation -> the operator that decides when it runs
_DECIDING: dict[str, Callable[..., Any]] = {}


def _arguments(named: Any, prefix: str = "") -> str:
    """The fields of a NamedTuple as arguments in torch.library's language."""
    hints = typing.get_type_hints(named)
    return ", ".join(f"{_TYPES[hints[name]]} {prefix}{name}" for name in named._fields)


def _results(names: Sequence[str]) -> str:
    return "Tensor" if len(names) == 1 else f"({', '.join(f'Tensor {name}' for name in names)})"


def _gradients(operation: Operation) -> str:
    return _results([f"d_{name}" for name in operation.Inputs._fields])


def schema(operation: Operation) -> tuple[str, str]:
    """Of a backend's kernel and of its backward pass, without the names."""
    results = (*operation.Outputs._fields, *operation.kept)
    forward = f"({_arguments(operation.Inputs)}, {_arguments(operation.Options)}) -> {_results(results)}"
    upstream, saved = _arguments(operation.Outputs, "d_"), _arguments(operation.Saved)
    return forward, f"({upstream}, {saved}, {_arguments(operation.Options)}) -> {_gradients(operation)}"


def deciding_schema(operation: Operation) -> tuple[str, str]:
    """Of the operator that decides when it runs and of its backward pass, without the names."""
    inputs = f"{_arguments(operation.Inputs)}, {_arguments(operation.Settings)}"
    upstream = _arguments(operation.Outputs, "d_")
    return f"({inputs}) -> {_results(operation.Outputs._fields)}", f"({upstream}, {inputs}) -> {_gradients(operation)}"


def _take(arguments: Sequence[Any], *types: Any) -> list[Any]:
    """The flat arguments of an operator as the NamedTuples whose fields they are."""
    taken, start = [], 0
    for named in types:
        end = start + len(named._fields)
        taken.append(named(*arguments[start:end]))
        start = end
    return taken


def _returned(operation: Operation, results: tuple[Tensor, ...]) -> Any:
    return results[0] if operation.single else tuple(results)


def _define(name: str, text: str, flops: Callable[..., int]) -> Any:
    _LIBRARY.define(name + text)
    packet = getattr(getattr(torch.ops, _NAMESPACE), name)
    program.FLOPS[packet] = flops
    return packet.default


def _register_kernel(backend: Backend, operation: Operation) -> None:
    """The operators of a backend's kernel, and the function with a gradient for eager programs."""
    module = _MODULES[backend.name] = backend.load()
    forward_kernel, backward_kernel = module.KERNELS[operation.name]
    Inputs, Options, Outputs, Saved = operation.Inputs, operation.Options, operation.Outputs, operation.Saved
    no_gradients = (None,) * len(Options._fields)
    text, backward_text = schema(operation)

    # a backend that holds memory gives it back where a call needs it
    with_memory: Callable[[Kernel], Kernel] = getattr(module, "with_idle_memory", lambda call: call)

    @with_memory
    def run_kernel(inputs: Any, options: Any) -> tuple[Tensor, ...]:
        if inputs[0].numel() == 0:  # an empty batch
            return operation.fake(module, inputs, options)
        return operation.forward(forward_kernel, inputs, options)

    @with_memory
    def run_backward(upstream: Any, saved: Any, options: Any, known: bool = False) -> tuple[Tensor, ...]:
        """known: whether the saved tensors are those of the forward pass, which need no check."""
        if not known:
            backend.check(operation.name, saved)
            operation.check_saved(module, saved, options)
        operation.check_upstream(upstream, saved)
        if saved[0].numel() == 0:
            return tuple(torch.zeros_like(x) for x in operation.inputs_of(saved))
        return operation.backward(backward_kernel, upstream, saved, options)

    def forward(*arguments: Any) -> Any:
        inputs, options = _take(arguments, Inputs, Options)
        backend.check(operation.name, inputs)
        operation.check(inputs)
        operation.check_options(inputs, options)
        return _returned(operation, run_kernel(inputs, options))

    def backward(*arguments: Any) -> tuple[Tensor, ...]:
        return tuple(run_backward(*_take(arguments, Outputs, Saved, Options)))

    def fake(*arguments: Any) -> Any:
        inputs, options = _take(arguments, Inputs, Options)
        check.same_kind(inputs)
        return _returned(operation, operation.fake(module, inputs, options))

    def backward_fake(*arguments: Any) -> tuple[Tensor, ...]:
        upstream, saved, _ = _take(arguments, Outputs, Saved, Options)
        check.same_kind(saved)
        for name, value in zip(Outputs._fields, upstream, strict=True):
            if value is not None:
                check.like(f"d_{name}", value, saved[0], "the saved tensors")
        return operation.fake_gradients(operation.inputs_of(saved))

    def flops(*shapes: Any, **_: Any) -> int:
        (inputs,) = _take(shapes, Inputs)
        return operation.flops(inputs)

    def backward_flops(*shapes: Any, **_: Any) -> int:
        _, saved = _take(shapes, Outputs, Saved)
        return 2 * operation.flops(operation.inputs_of(saved))

    name = f"{backend.name}_{operation.name}"
    operator = _define(name, text, flops)
    backward_operator = _define(f"{name}_backward", backward_text, backward_flops)
    for overload, kernel, without_data in ((operator, forward, fake), (backward_operator, backward, backward_fake)):
        for device in backend.devices:
            _LIBRARY.impl(overload, kernel, device.upper())
        torch.library.register_fake(overload, without_data, lib=_LIBRARY)

    def save(ctx: Any, inputs: Any, options: Any, results: tuple[Tensor, ...]) -> Any:
        ctx.options = options
        if operation.kept:
            ctx.mark_non_differentiable(*results[len(Outputs._fields) :])
        if not operation.single:
            ctx.set_materialize_grads(False)
        saved = operation.save(inputs, results)
        ctx.save_for_backward(*saved)
        return saved

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        taken, options = _take(inputs, Inputs, Options)
        save(ctx, taken, options, (output,) if operation.single else output)

    def gradients(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        grads = grads[: len(Outputs._fields)]
        return *backward_operator(*grads, *ctx.saved_tensors, *ctx.options), *no_gradients

    torch.library.register_autograd(operator, gradients, setup_context=setup_context, lib=_LIBRARY)
    _refuse_second_derivative(backward_operator, operation, backend.name)

    # with a setup_context of its own, `apply` would inspect the signature at every call
    def eager_forward(ctx: Any, *arguments: Any) -> Any:
        inputs, options = _take(arguments, Inputs, Options)
        results = run_kernel(inputs, options)
        ctx.places = program.places_of(save(ctx, inputs, options, results))
        return _returned(operation, results)

    def eager_gradients(
        grads: tuple[Tensor | None, ...], saved: tuple[Tensor, ...], options: Any, places: list[program.Place]
    ) -> tuple[Tensor | None, ...]:
        # where a graph of the backward pass is built, the operator knows what to say if it is used
        if torch.compiler.is_compiling():  # compiled autograd
            return backward_operator(*grads, *saved, *options)
        known = program.in_place(saved, places)
        if (
            torch.is_grad_enabled()
            or program.watched()
            or program.without_memory(grads)
            or not (known or program.plain(saved))
        ):
            return backward_operator(*grads, *saved, *options)
        return run_backward(Outputs(*grads), Saved(*saved), options, known)

    def eager_backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # once: this may run hooks
        return *eager_gradients(grads[: len(Outputs._fields)], saved, ctx.options, ctx.places), *no_gradients

    _OPERATORS[backend.name, operation.name] = operator
    _EAGER[backend.name, operation.name] = run_kernel, function(name, eager_forward, eager_backward)
    _GRADIENTS[backend.name, operation.name] = eager_gradients


def function(name: str, forward: Callable[..., Any], backward: Callable[..., Any]) -> type[torch.autograd.Function]:
    """A differentiable function that autograd's graphs and profilers show under this name."""
    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    metaclass: Any = type(torch.autograd.Function)
    return metaclass(name, (torch.autograd.Function,), methods)


def _refuse_second_derivative(operator: Any, operation: Operation, backend: str) -> None:
    # Raised where a second derivative is taken, not where a graph for one is built: torch.func.grad always builds it.
    def refuse(ctx: Any, *grads: Tensor) -> None:
        raise RuntimeError(
            f"backend {backend!r} has no second derivative of {operation.name}; compute it under "
            "aru_kernels.use_backend('reference'), which differentiates to any order."
        )

    torch.library.register_autograd(operator, refuse, setup_context=lambda ctx, inputs, output: None, lib=_LIBRARY)


def _register_deciding(operation: Operation) -> None:
    """The operators that decide when they run."""
    Inputs, Settings, Outputs = operation.Inputs, operation.Settings, operation.Outputs
    text, backward_text = deciding_schema(operation)

    def outputs_of(inputs: Any, settings: Any, needed: bool) -> tuple[Tensor, ...]:
        check.same_kind(inputs)
        operation.check(inputs)
        check.gain_floor(settings.n_floor)
        by_operator = torch.compiler.is_compiling() or program.recorded(inputs)
        results = run(operation, inputs, settings, needed, by_operator)
        outputs = check.to_dtype(results[: len(Outputs._fields)], inputs[0].dtype)
        return operation.asked_for(outputs, settings)

    def forward(*arguments: Any) -> Any:
        inputs, settings = _take(arguments, Inputs, Settings)
        return _returned(operation, outputs_of(inputs, settings, needed=False))

    def differentiable(*arguments: Any) -> Any:
        inputs, settings = _take(arguments, Inputs, Settings)
        check.same_kind(inputs)
        program.tell_flop_counters()
        if not program.needs_gradient(inputs) or (torch.compiler.is_compiling() and torch.compiler.is_exporting()):
            with torch._C._AutoDispatchBelowAutograd():
                return operator(*arguments)
        if program.captured_by_proxies():
            return captured.apply(*arguments)
        return _returned(operation, outputs_of(inputs, settings, needed=True))

    def backward(*arguments: Any) -> tuple[Tensor, ...]:
        upstream, inputs, settings = _take(arguments, Outputs, Inputs, Settings)
        check.same_kind(inputs)
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_() for x in inputs]
            outputs = outputs_of(Inputs(*leaves), settings, needed=True)
            gradients_fit(upstream, tuple(y.shape for y in outputs), inputs[0], inputs._fields[0])
            # a trace that is not asked for is empty and has no graph
            used = [(y, d) for y, d in zip(outputs, upstream, strict=True) if d is not None and y.requires_grad]
            if not used:
                return tuple(torch.zeros_like(x) for x in inputs)
            results, grads = zip(*used, strict=True)
            return torch.autograd.grad(results, leaves, grads, materialize_grads=True)

    def differentiable_backward(*arguments: Any) -> tuple[Tensor, ...]:
        if program.needs_gradient([x for x in arguments if isinstance(x, Tensor)]):
            return once.apply(*arguments)
        if program.captured_by_proxies():
            with torch._C._AutoDispatchBelowAutograd():
                return backward_operator(*arguments)
        return backward(*arguments)

    def fake(*arguments: Any) -> Any:
        inputs, settings = _take(arguments, Inputs, Settings)
        check.same_kind(inputs)
        return _returned(operation, operation.fake_outputs(inputs, settings))

    def backward_fake(*arguments: Any) -> tuple[Tensor, ...]:
        _, inputs, _ = _take(arguments, Outputs, Inputs, Settings)
        return operation.fake_gradients(inputs)

    def flops(*shapes: Any, **_: Any) -> int:
        (inputs,) = _take(shapes, Inputs)
        return operation.flops(inputs)

    def backward_flops(*shapes: Any, **_: Any) -> int:
        _, inputs = _take(shapes, Outputs, Inputs)
        return 3 * operation.flops(inputs)

    operator = _define(operation.name, text, flops)
    backward_operator = _define(f"{operation.name}_backward", backward_text, backward_flops)
    for overload, kernel, autograd, without_data in (
        (operator, forward, differentiable, fake),
        (backward_operator, backward, differentiable_backward, backward_fake),
    ):
        _LIBRARY.impl(overload, kernel, "CompositeExplicitAutograd")
        _LIBRARY.impl(overload, autograd, "Autograd")
        torch.library.register_fake(overload, without_data, lib=_LIBRARY)

    def captured_forward(ctx: Any, *arguments: Any) -> Any:
        inputs, ctx.settings = _take(arguments, Inputs, Settings)
        ctx.save_for_backward(*inputs)
        if not operation.single:
            ctx.set_materialize_grads(False)
        return operator(*arguments)

    def captured_backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        gradients = backward_operator(*grads, *ctx.saved_tensors, *ctx.settings)
        return *gradients, *[None] * len(Settings._fields)

    def no_second_derivative(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        raise RuntimeError(
            f"a captured program has no second derivative of {operation.name}; capture it under "
            "aru_kernels.use_backend('reference'), which differentiates to any order."
        )

    captured = function(operation.name, captured_forward, captured_backward)
    once = function(
        f"{operation.name}_backward", lambda ctx, *arguments: backward_operator(*arguments), no_second_derivative
    )
    _DECIDING[operation.name] = operator


def record(operation: Operation, inputs: Any, settings: Any) -> tuple[Tensor, ...]:
    """The outputs by the operator that decides when it runs."""
    outputs = _DECIDING[operation.name](*inputs, *settings)
    return (outputs,) if operation.single else outputs


def run(operation: Operation, inputs: Any, settings: Any, needed: bool, by_operator: bool) -> tuple[Tensor, ...]:
    """The results by the backend of this moment: the outputs, and what is kept.

    The inputs have one dtype; the results have it, or the one that the backend computes in.

    needed: whether a backward pass may follow.  by_operator: whether the kernel must be seen as an operator.
    """
    if not needed or torch.compiler.is_compiling() or not _recall.wanted():
        choice = _decide(operation, inputs, settings, needed)
        return _run(operation, inputs, settings, *choice, needed, by_operator)
    decision = _recall.decision(operation.name, inputs, lambda: _decide(operation, inputs, settings, needed))
    results = _run(operation, inputs, settings, *decision.choice, needed, by_operator)
    _recall.remember(decision, results)
    return results


def _decide(operation: Operation, inputs: Any, settings: Any, needed: bool) -> tuple[str, torch.dtype, Any]:
    """How one call runs: the backend, the dtype that it computes in, the options of its kernel."""
    first = inputs[0]
    dtype = check.compute_dtype(first.dtype)
    backend = backends.select(operation.name, first.device, dtype, *operation.sizes(inputs))
    if backend == "reference":
        return backend, dtype, None
    if first.dtype != dtype and BACKENDS[backend].takes(operation.name, first.dtype):
        dtype = first.dtype
    return backend, dtype, operation.decide(_MODULES[backend], inputs, dtype, settings, needed)


def _run(
    operation: Operation,
    inputs: Any,
    settings: Any,
    backend: str,
    dtype: torch.dtype,
    options: Any,
    needed: bool,
    by_operator: bool,
) -> tuple[Tensor, ...]:
    if inputs[0].dtype != dtype:
        inputs = operation.Inputs(*(x.to(dtype) for x in inputs))
    if options is None:
        with check.no_autocast(inputs[0].device):
            return operation.reference(inputs, settings)
    if by_operator:
        results = _OPERATORS[backend, operation.name](*inputs, *options)
    else:
        kernel, function = _EAGER[backend, operation.name]
        if not needed:
            return kernel(inputs, options)
        results = function.apply(*inputs, *options)
    return (results,) if operation.single else results


def gradients(
    backend: str,
    op: str,
    grads: tuple[Tensor | None, ...],
    saved: tuple[Tensor, ...],
    options: Any,
    places: list[program.Place],
) -> tuple[Tensor | None, ...]:
    """The gradients of an eager call's inputs.

    places: those of the saved tensors in the forward pass; tensors that lie elsewhere are checked first.
    """
    return _GRADIENTS[backend, op](grads, saved, options, places)


def call(backend: str, op: str, *arguments: Any) -> Any:
    """What `operator(backend, op)` returns for plain tensors, without the dispatcher's time and its checks."""
    operation = OPERATIONS[op]
    inputs, options = _take(arguments, operation.Inputs, operation.Options)
    needed, by_operator = program.needs_gradient(inputs), program.recorded(inputs)
    return _returned(operation, _run(operation, inputs, None, backend, inputs[0].dtype, options, needed, by_operator))


def run_plain(backend: str, operation: Operation, inputs: Any, options: Any, needed: bool) -> tuple[Tensor, ...]:
    """The results by the backend's kernel of plain tensors of one dtype, in an eager program that nothing watches."""
    return _run(operation, inputs, None, backend, inputs[0].dtype, options, needed, by_operator=False)


def operator(backend: str, op: str) -> Callable[..., Any]:
    """The differentiable operator of `op` in `backend`."""
    return _OPERATORS[backend, op]


for _operation in OPERATIONS.values():
    _register_deciding(_operation)
    for _backend in BACKENDS.values():
        if _operation.name in _backend.ops:
            _register_kernel(_backend, _operation)
