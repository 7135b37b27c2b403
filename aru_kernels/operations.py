"""The operations that backends have kernels for: arguments, checks, results without data, plain PyTorch, arithmetic.

Everything about one operation stands in its class, that of a sequence in `aru_kernels.sequence_operations`;
`aru_kernels.ops` turns each into torch.library operators, and `aru_kernels._arguments` names what goes in and out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from aru_kernels import _checks as check
from aru_kernels import reference
from aru_kernels._arguments import (
    GammaInputs,
    GammaOptions,
    GammaOutputs,
    GammaSaved,
    StepInputs,
    StepOptions,
    StepOutputs,
    StepSaved,
    StepSettings,
    StepStates,
    controller_of,
)
from aru_kernels._operation import (
    CONTROLLER_DIMS,
    Dims,
    Operation,
    check_controller,
    check_kept,
    check_precision,
    check_shapes,
    controller_shapes,
    gradients_fit,
)
from aru_kernels._precision import product_precision
from aru_kernels.sequence_operations import AruSequence, GammaRnnSequence, LeakyAruSequence, LeakyGammaRnnSequence


class Gamma(Operation):
    """γ(x; n, s); n and s broadcast to x."""

    name = "gamma"
    Inputs, Settings, Options, Outputs, Saved = GammaInputs, GammaOptions, GammaOptions, GammaOutputs, GammaSaved
    single = True

    def sizes(self, inputs: GammaInputs) -> tuple[int, int]:
        return 0, 0

    def check(self, inputs: GammaInputs) -> None:
        shape = inputs.x.shape
        for name, value in (("n", inputs.n), ("s", inputs.s)):
            if not check.broadcasts_to(value, shape):
                raise ValueError(
                    f"{name} has shape {tuple(value.shape)}, expected one that broadcasts to {tuple(shape)}, the shape "
                    "of x."
                )

    def check_saved(self, module: ModuleType, saved: GammaSaved, options: GammaOptions) -> None:
        self.check(self.inputs_of(saved))
        check.gain_floor(options.n_floor)

    def check_upstream(self, upstream: GammaOutputs, saved: GammaSaved) -> None:
        if upstream.y is None:
            check.tensor("d_y", None)
        gradients_fit(upstream, (saved.x.shape,), saved.x)

    def decide(
        self, module: ModuleType, inputs: GammaInputs, dtype: torch.dtype, settings: GammaOptions, needed: bool
    ) -> GammaOptions:
        return settings

    def forward(self, kernel: Callable[..., Any], inputs: GammaInputs, options: GammaOptions) -> tuple[Tensor]:
        y = torch.empty_like(inputs.x)
        kernel(*_in_memory_order(y, inputs), options)
        return (y,)

    def backward(
        self, kernel: Callable[..., Any], upstream: GammaOutputs, saved: GammaSaved, options: GammaOptions
    ) -> tuple[Tensor, ...]:
        dx = torch.empty_like(saved.x)
        order = _memory_order(dx)
        if order is None:
            return (dx, *kernel(dx, upstream, saved, options))
        # the gradients of n and s have the shapes of n and s, permuted as well
        full = GammaSaved(*(_with_rank(x, dx.ndim).permute(order) for x in saved))
        d_n, d_s = kernel(dx.permute(order), GammaOutputs(upstream.y.permute(order)), full, options)
        back = sorted(range(dx.ndim), key=order.__getitem__)
        return dx, *(d.permute(back).reshape(p.shape).contiguous() for d, p in ((d_n, saved.n), (d_s, saved.s)))

    def save(self, inputs: GammaInputs, results: tuple[Tensor, ...]) -> GammaSaved:
        return GammaSaved(*inputs)

    def fake(self, module: ModuleType, inputs: GammaInputs, options: GammaOptions) -> tuple[Tensor]:
        return (torch.empty_like(inputs.x),)

    def fake_outputs(self, inputs: GammaInputs, settings: GammaOptions) -> tuple[Tensor]:
        return (torch.empty_like(inputs.x),)

    def inputs_of(self, saved: GammaSaved) -> GammaInputs:
        return GammaInputs(*saved)

    def fake_gradients(self, inputs: GammaInputs) -> tuple[Tensor, ...]:
        x, n, s = inputs
        return torch.empty_like(x), x.new_empty(n.shape), x.new_empty(s.shape)

    def reference(self, inputs: GammaInputs, settings: GammaOptions) -> tuple[Tensor]:
        return (reference.gamma(*inputs, settings.n_floor),)

    def flops(self, inputs: Any) -> int:
        return 0  # element by element, which torch.utils.flop_counter does not count


def _memory_order(dense: Tensor) -> list[int] | None:
    """The dimensions of a dense tensor as they lie in memory, slowest first; None if that is their order."""
    if dense.is_contiguous():
        return None
    strides = dense.stride()
    return sorted(range(dense.ndim), key=lambda d: (-strides[d], d))


def _with_rank(x: Tensor, rank: int) -> Tensor:
    return x if x.ndim == rank else x.view((1,) * (rank - x.ndim) + tuple(x.shape))


def _in_memory_order(y: Tensor, inputs: GammaInputs) -> tuple[Tensor, GammaInputs]:
    """y, which is dense, and the inputs with their dimensions permuted so that y is contiguous."""
    order = _memory_order(y)
    if order is None:
        return y, inputs
    return y.permute(order), GammaInputs(*(_with_rank(x, y.ndim).permute(order) for x in inputs))


def _in_memory_as(argument: Tensor, result: Tensor) -> Tensor:
    """The result, contiguous so far, in the memory order of the argument."""
    ordered = torch.empty_like(argument)
    return result if ordered.stride() == result.stride() else ordered.copy_(result)


def _in_format_of(argument: Tensor, result: Tensor) -> Tensor:
    """The result in the argument's channels-last format, if it has one; differentiable."""
    memory_format = {4: torch.channels_last, 5: torch.channels_last_3d}.get(argument.ndim)
    # torch.func.vmap cannot tell, and needs no more than the values
    if memory_format is None or torch._C._functorch.maybe_current_level() is not None or argument.is_contiguous():
        return result
    return (
        result.contiguous(memory_format=memory_format)
        if argument.is_contiguous(memory_format=memory_format)
        else result
    )


class ControllerStep(Operation):
    """One step of the controller together with γ."""

    name = "controller_step"
    Inputs, Settings, Options, Outputs, Saved = StepInputs, StepSettings, StepOptions, StepOutputs, StepSaved
    kept = ("kept",)

    def sizes(self, inputs: StepInputs) -> tuple[int, int]:
        H, G = inputs.g.shape[-2:]
        return H, G

    def check(self, inputs: StepInputs) -> None:
        a = inputs.a
        check.rank_at_least("a", a, "(..., H)", 1)
        G = check_controller(inputs)
        shape = tuple(a.shape)
        if tuple(inputs.g.shape[:-1]) != shape:
            check.shape("g", inputs.g, "(..., H, G), where a is (..., H),", (*shape, G))
        dims: tuple[Dims, ...] = (shape, (*shape, "G"), *CONTROLLER_DIMS)
        check_shapes(inputs, dims, (shape, (*shape, G), *controller_shapes(G)))

    def check_options(self, inputs: StepInputs, options: StepOptions) -> None:
        check.gain_floor(options.n_floor)
        check_precision(options.precision)

    def check_saved(self, module: ModuleType, saved: StepSaved, options: StepOptions) -> None:
        a, g = saved.a, saved.g
        inputs = self.inputs_of(saved)
        self.check(inputs)
        self.check_options(inputs, options)
        for name, value in (("n", saved.n), ("s", saved.s)):
            check.shape(name, value, "(..., H)", tuple(a.shape))
        B, H = math.prod(a.shape[:-1]), a.shape[-1]
        check_kept(saved.kept, module.kept_elements_of_step(B, H, g.shape[-1], a.dtype, options.precision))

    def check_upstream(self, upstream: StepOutputs, saved: StepSaved) -> None:
        a, g = saved.a, saved.g
        gradients_fit(upstream, (a.shape, g.shape, a.shape, a.shape), a)

    def decide(
        self, module: ModuleType, inputs: StepInputs, dtype: torch.dtype, settings: StepSettings, needed: bool
    ) -> StepOptions:
        return StepOptions(settings.n_floor, product_precision(check.device_type(inputs.a)), needed)

    def forward(self, kernel: Callable[..., Any], inputs: StepInputs, options: StepOptions) -> tuple[Tensor, ...]:
        states: StepStates = kernel(inputs, options)
        a, g = inputs.a, inputs.g
        if a.is_contiguous() and g.is_contiguous():
            return tuple(states)
        h, n, s = (_in_memory_as(a, x) for x in (states.h, states.n, states.s))
        return h, _in_memory_as(g, states.g), n, s, states.kept

    def save(self, inputs: StepInputs, results: tuple[Tensor, ...]) -> StepSaved:
        states = StepStates(*results)
        return StepSaved(*inputs, states.n, states.s, states.kept)

    def fake(self, module: ModuleType, inputs: StepInputs, options: StepOptions) -> tuple[Tensor, ...]:
        a, g = inputs.a, inputs.g
        B, H = math.prod(a.shape[:-1]), a.shape[-1]
        kept = module.kept_elements_of_step(B, H, g.shape[-1], a.dtype, options.precision) if options.keep else 0
        return *self.fake_outputs(inputs, options), a.new_empty((kept,))

    def fake_outputs(self, inputs: StepInputs, settings: StepSettings | StepOptions) -> tuple[Tensor, ...]:
        a, g = inputs.a, inputs.g
        return torch.empty_like(a), torch.empty_like(g), torch.empty_like(a), torch.empty_like(a)

    def inputs_of(self, saved: StepSaved) -> StepInputs:
        return StepInputs(saved.a, saved.g, *controller_of(saved))

    def reference(self, inputs: StepInputs, settings: StepSettings) -> tuple[Tensor, ...]:
        n, s, g = reference.controller_step(*inputs)
        # a copy of g: autograd keeps g itself, and callers may change their states in place
        return _in_format_of(inputs.a, reference.gamma(inputs.a, n, s, settings.n_floor)), g.clone(), n, s

    def flops(self, inputs: Any) -> int:
        G = inputs.g[-1]
        return 2 * math.prod(inputs.a) * (G * G + 3 * G)


OPERATIONS: dict[str, Operation] = {
    operation.name: operation
    for operation in (
        Gamma(),
        ControllerStep(),
        AruSequence(),
        GammaRnnSequence(),
        LeakyAruSequence(),
        LeakyGammaRnnSequence(),
    )
}
