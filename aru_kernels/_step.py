"""What cells and layers compute in a usual call (`aru_kernels._usual`), by few functions.

The kernels, the saved tensors and the gradients are those of the general path (`aru_kernels.ops`).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from aru_kernels import _program as program
from aru_kernels import cpu, ops
from aru_kernels._arguments import SequenceSettings, StepOptions
from aru_kernels._precision import product_precision
from aru_kernels.operations import OPERATIONS

_step = cpu.with_idle_memory(cpu.usual_step)
_gamma = cpu.with_idle_memory(cpu.usual_gamma)


def _forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
    *inputs, n_floor, precision = arguments
    h, g, *kept = _step(*arguments, True)
    saved = (*inputs, *kept)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*saved)
    ctx.options, ctx.places = StepOptions(n_floor, precision, True), program.places_of(saved)
    return h, g


def _backward(ctx: Any, d_h: Tensor | None, d_g: Tensor | None) -> tuple[Tensor | None, ...]:
    grads = d_h, d_g, None, None
    found = ops.gradients("cpu", "controller_step", grads, ctx.saved_tensors, ctx.options, ctx.places)
    return *found, None, None


_differentiable = ops.function("cpu_controller_step", _forward, _backward)


def adaptive_gamma(a: Tensor, g: Tensor, *weights: Tensor, n_floor: float) -> tuple[Tensor, Tensor]:
    """h and the next g."""
    arguments = a, g, *weights, n_floor, product_precision("cpu")
    if program.needs_gradient((a, g, *weights)):
        return _differentiable.apply(*arguments)
    h, g = _step(*arguments, False)
    return h, g


def gamma(x: Tensor, n: Tensor, s: Tensor, n_floor: float) -> Tensor:
    """γ; n and s broadcast to x."""
    if program.needs_gradient((x, n, s)):
        return ops.call("cpu", "gamma", x, n, s, n_floor)
    return _gamma(x, n, s, n_floor)


def sequence(op: str, xp: Tensor, states: list[Tensor], weights: list[Tensor], n_floor: float) -> tuple[Tensor, ...]:
    """h and the last states of a layer without a leak."""
    operation = OPERATIONS[op]
    inputs = operation.Inputs(xp, *states, *weights)
    needed = program.needs_gradient(inputs)
    options = operation.decide(cpu, inputs, xp.dtype, SequenceSettings(n_floor, False), needed)
    return ops.run_plain("cpu", operation, inputs, options, needed)[: 1 + len(states)]
