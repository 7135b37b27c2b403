"""The operations behind the layers and `aru_kernels.functional`: inputs checked, one dtype, results in the caller's.

A call runs on the backend of the moment, unless its program is being captured: then it is recorded as an operator that
decides when it runs (`aru_kernels.ops`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aru_kernels import _checks as check
from aru_kernels import _program as program
from aru_kernels import backends, ops
from aru_kernels._arguments import (
    AruInputs,
    GammaInputs,
    GammaOptions,
    GammaRnnInputs,
    LeakyAruInputs,
    LeakyGammaRnnInputs,
    SequenceSettings,
    StepInputs,
    StepSettings,
)
from aru_kernels._operation import Operation
from aru_kernels.operations import OPERATIONS
from aru_kernels.reference import Trace

_GAMMA, _STEP = OPERATIONS["gamma"], OPERATIONS["controller_step"]
_ARU_SEQUENCE, _GAMMA_RNN_SEQUENCE = OPERATIONS["aru_sequence"], OPERATIONS["gamma_rnn_sequence"]
_LEAKY_ARU_SEQUENCE = OPERATIONS["leaky_aru_sequence"]
_LEAKY_GAMMA_RNN_SEQUENCE = OPERATIONS["leaky_gamma_rnn_sequence"]


def _call(operation: Operation, inputs: Any, settings: Any) -> Any:
    """The outputs of an operation, in the dtype of the inputs or in float32 under autocast."""
    operation.check(inputs)
    dtype = check.common_dtype(inputs._fields, inputs)
    recorded = program.recorded(inputs)
    if recorded and not backends.reference_is_wanted(operation.name):
        # which backend will run is not known, so neither is whether it takes narrow tensors
        inputs = _cast(operation, inputs, check.compute_dtype(dtype))
        outputs = ops.record(operation, inputs, settings)
    else:
        inputs = _cast(operation, inputs, dtype)
        by_operator = recorded or torch.compiler.is_compiling()
        results = ops.run(operation, inputs, settings, program.needs_gradient(inputs), by_operator)
        outputs = results[: len(operation.Outputs._fields)]
    if outputs[0].dtype != dtype:
        outputs = check.to_dtype(outputs, dtype)
    return operation.Outputs(*outputs)


def _cast(operation: Operation, inputs: Any, dtype: torch.dtype) -> Any:
    for x in inputs:  # under autocast they may differ
        if x.dtype != dtype:
            return operation.Inputs(*(x.to(dtype) for x in inputs))
    return inputs


def gamma(x: Tensor, n: Tensor, s: Tensor, n_floor: float) -> Tensor:
    """γ; n and s broadcast to x."""
    return _call(_GAMMA, GammaInputs(x, n, s), GammaOptions(n_floor)).y


def controller_step(a: Tensor, g: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """n, s and the next g."""
    outputs = _call(_STEP, StepInputs(a, g, *weights), StepSettings(1.0))  # h is not asked for
    return outputs.n, outputs.s, outputs.g


def adaptive_gamma(a: Tensor, g: Tensor, *weights: Tensor, n_floor: float) -> tuple[Tensor, Tensor]:
    """h and the next g."""
    outputs = _call(_STEP, StepInputs(a, g, *weights), StepSettings(n_floor))
    return outputs.h, outputs.g


def aru_sequence(
    *tensors: Tensor, n_floor: float, return_trace: bool, leak: Tensor | None = None
) -> tuple[Tensor, tuple[Tensor, Tensor], Trace | None]:
    """xp, h0, g0, weight_hh and the controller's weights -> h, last (h, g), trace."""
    settings = SequenceSettings(n_floor, return_trace)
    if leak is None:
        outputs = _call(_ARU_SEQUENCE, AruInputs(*tensors), settings)
    else:
        outputs = _call(_LEAKY_ARU_SEQUENCE, LeakyAruInputs(*AruInputs(*tensors), leak), settings)
    trace = Trace(outputs.a, outputs.n, outputs.s) if return_trace else None
    return outputs.h, (outputs.h_last, outputs.g), trace


def gamma_rnn_sequence(
    *tensors: Tensor, n_floor: float, return_trace: bool, leak: Tensor | None = None
) -> tuple[Tensor, tuple[Tensor], Trace | None]:
    """xp, h0, weight_hh, n and s -> h, last (h,), trace."""
    inputs = GammaRnnInputs(*tensors)
    settings = SequenceSettings(n_floor, return_trace)
    if leak is None:
        outputs = _call(_GAMMA_RNN_SEQUENCE, inputs, settings)
    else:
        outputs = _call(_LEAKY_GAMMA_RNN_SEQUENCE, LeakyGammaRnnInputs(*inputs, leak), settings)
    trace = None
    if return_trace:
        a = outputs.a
        # copies: a trace that is kept must not change with the parameters
        n, s = (p.to(a.dtype, copy=True).expand_as(a) for p in (inputs.n, inputs.s))
        trace = Trace(a, n, s)
    return outputs.h, (outputs.h_last,), trace
