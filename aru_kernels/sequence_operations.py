"""The operations over T steps: the adaptive and the static network, with and without a leak."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor

from aru_kernels import _checks as check
from aru_kernels import reference
from aru_kernels._arguments import (
    AruInputs,
    AruOptions,
    AruOutputs,
    AruSaved,
    GammaRnnInputs,
    GammaRnnOptions,
    GammaRnnOutputs,
    GammaRnnSaved,
    GammaRnnStates,
    LeakyAruInputs,
    LeakyAruSaved,
    LeakyGammaRnnInputs,
    LeakyGammaRnnSaved,
    SequenceSettings,
    controller_of,
    leak_of,
)
from aru_kernels._operation import (
    CONTROLLER_DIMS,
    Operation,
    check_controller,
    check_kept,
    check_precision,
    check_segment,
    check_shapes,
    controller_shapes,
    empty,
    gradients_fit,
)
from aru_kernels._precision import product_precision


class AruSequence(Operation):
    """The adaptive network over T steps."""

    name = "aru_sequence"
    Inputs, Settings, Options, Outputs, Saved = AruInputs, SequenceSettings, AruOptions, AruOutputs, AruSaved
    kept = ("kept",)

    def sizes(self, inputs: AruInputs) -> tuple[int, int]:
        H, G = inputs.g0.shape[-2:]
        return H, G

    def check(self, inputs: AruInputs) -> None:
        T, B, H = _check_projection(inputs.xp)
        G = check_controller(inputs)
        dims = (("T", "B", "H"), ("B", "H"), ("B", "H", "G"), ("H", "H"), *CONTROLLER_DIMS)
        check_shapes(inputs, dims, ((T, B, H), (B, H), (B, H, G), (H, H), *controller_shapes(G)))

    def check_options(self, inputs: AruInputs, options: AruOptions) -> None:
        check.gain_floor(options.n_floor)
        check_precision(options.precision)
        check_segment(options.segment, inputs.xp.shape[0], 0)

    def check_saved(self, module: ModuleType, saved: AruSaved, options: AruOptions) -> None:
        h = saved.h
        _check_steps(saved)
        self.check(self.inputs_of(saved))
        (T, B, H), G = h.shape, saved.g0.shape[-1]
        check.gain_floor(options.n_floor)
        check_precision(options.precision)
        check_segment(options.segment, T, 1)
        for name, value in (("n", saved.n), ("s", saved.s)):
            if options.segment == 1 or module.KEEPS_GAINS or tuple(value.shape) != (0,):
                check.shape(name, value, "(T, B, H)", (T, B, H))
        check_kept(saved.kept, module.kept_elements(T, B, H, G, h.dtype, options.precision, options.segment))

    def check_upstream(self, upstream: AruOutputs, saved: AruSaved) -> None:
        full = saved.h.shape
        gradients_fit(upstream, (full, full[1:], saved.g0.shape, full, full, full), saved.h)

    def decide(
        self, module: ModuleType, inputs: AruInputs, dtype: torch.dtype, settings: SequenceSettings, needed: bool
    ) -> AruOptions:
        xp = inputs.xp
        precision = product_precision(check.device_type(xp))
        segment = 0
        if needed:
            segment = module.choose_segment(*xp.shape, inputs.g0.shape[-1], dtype, precision)
        return AruOptions(settings.n_floor, precision, segment, settings.trace)

    def forward(self, kernel: Callable[..., Any], inputs: AruInputs, options: AruOptions) -> tuple[Tensor, ...]:
        states = kernel(inputs, options)
        return (states.h, states.h[-1].clone(), *states[1:])

    def save(self, inputs: AruInputs, results: tuple[Tensor, ...]) -> AruSaved:
        h, _, _, a, n, s, kept = results
        return AruSaved(inputs.h0, inputs.g0, inputs.weight_hh, *controller_of(inputs), h, a, n, s, kept)

    def fake(self, module: ModuleType, inputs: AruInputs, options: AruOptions) -> tuple[Tensor, ...]:
        xp, segment = inputs.xp, options.segment
        T, B, H = xp.shape
        kept = module.kept_elements(T, B, H, inputs.g0.shape[-1], xp.dtype, options.precision, segment)
        gains = segment > 0 if module.KEEPS_GAINS else segment == 1
        return *self._fake(inputs, options.trace or segment > 0, options.trace or gains), xp.new_empty((kept,))

    def fake_outputs(self, inputs: AruInputs, settings: SequenceSettings) -> tuple[Tensor, ...]:
        return self._fake(inputs, settings.trace, settings.trace)

    @staticmethod
    def _fake(inputs: AruInputs, with_a: bool, with_gains: bool) -> tuple[Tensor, ...]:
        xp = inputs.xp
        per_step = (xp.new_empty(xp.shape if wanted else (0,)) for wanted in (with_a, with_gains, with_gains))
        h_last, g = inputs.h0.new_empty(inputs.h0.shape), inputs.g0.new_empty(inputs.g0.shape)
        return xp.new_empty(xp.shape), h_last, g, *per_step

    def inputs_of(self, saved: AruSaved) -> AruInputs:
        return AruInputs(saved.h, saved.h0, saved.g0, saved.weight_hh, *controller_of(saved))

    def reference(self, inputs: AruInputs, settings: SequenceSettings) -> tuple[Tensor, ...]:
        plain, leak = AruInputs(*inputs[: len(AruInputs._fields)]), leak_of(inputs)
        h, g, trace = reference.aru_sequence(*plain, settings.n_floor, settings.trace, leak)
        return h, h[-1].clone(), g.clone(), *(trace or (empty(h) for _ in range(3)))

    def asked_for(self, outputs: tuple[Tensor, ...], settings: SequenceSettings) -> tuple[Tensor, ...]:
        if settings.trace:
            return outputs
        h, h_last, g, *_ = outputs
        return h, h_last, g, *(empty(h) for _ in range(3))

    def flops(self, inputs: Any) -> int:
        (T, B, H), G = inputs.xp, inputs.g0[-1]
        return 2 * T * B * (H * H + H * G * G + 3 * H * G)


class GammaRnnSequence(Operation):
    """The static network over T steps."""

    name = "gamma_rnn_sequence"
    Inputs, Settings, Options = GammaRnnInputs, SequenceSettings, GammaRnnOptions
    Outputs, Saved = GammaRnnOutputs, GammaRnnSaved

    def sizes(self, inputs: GammaRnnInputs) -> tuple[int, int]:
        return inputs.xp.shape[-1], 0

    def check(self, inputs: GammaRnnInputs) -> None:
        T, B, H = _check_projection(inputs.xp)
        shapes = tuple(inputs.n.shape), tuple(inputs.s.shape)
        dims = (("T", "B", "H"), ("B", "H"), ("H", "H"), *shapes)
        check_shapes(inputs, dims, ((T, B, H), (B, H), (H, H), *shapes))
        for name, shape in zip(("n", "s"), shapes, strict=True):
            if shape not in ((), (1,), (H,)):
                raise ValueError(f"{name} has shape {shape}, expected (), (1,) or (H,) = ({H},).")

    def check_options(self, inputs: GammaRnnInputs, options: GammaRnnOptions) -> None:
        check.gain_floor(options.n_floor)
        check_precision(options.precision)

    def check_saved(self, module: ModuleType, saved: GammaRnnSaved, options: GammaRnnOptions) -> None:
        _check_steps(saved)
        inputs = self.inputs_of(saved)
        self.check(inputs)
        self.check_options(inputs, options)

    def check_upstream(self, upstream: GammaRnnOutputs, saved: GammaRnnSaved) -> None:
        full = saved.h.shape
        gradients_fit(upstream, (full, full[1:], full), saved.h)

    def decide(
        self, module: ModuleType, inputs: GammaRnnInputs, dtype: torch.dtype, settings: SequenceSettings, needed: bool
    ) -> GammaRnnOptions:
        return GammaRnnOptions(
            settings.n_floor, product_precision(check.device_type(inputs.xp)), settings.trace or needed
        )

    def forward(
        self, kernel: Callable[..., Any], inputs: GammaRnnInputs, options: GammaRnnOptions
    ) -> tuple[Tensor, ...]:
        states: GammaRnnStates = kernel(inputs, options)
        return states.h, states.h[-1].clone(), states.a

    def save(self, inputs: GammaRnnInputs, results: tuple[Tensor, ...]) -> GammaRnnSaved:
        h, _, a = results
        return GammaRnnSaved(inputs.h0, inputs.weight_hh, inputs.n, inputs.s, h, a)

    def fake(self, module: ModuleType, inputs: GammaRnnInputs, options: GammaRnnOptions) -> tuple[Tensor, ...]:
        return self._fake(inputs, options.keep)

    def fake_outputs(self, inputs: GammaRnnInputs, settings: SequenceSettings) -> tuple[Tensor, ...]:
        return self._fake(inputs, settings.trace)

    @staticmethod
    def _fake(inputs: GammaRnnInputs, with_a: bool) -> tuple[Tensor, ...]:
        xp, h0 = inputs.xp, inputs.h0
        return xp.new_empty(xp.shape), h0.new_empty(h0.shape), xp.new_empty(xp.shape if with_a else (0,))

    def inputs_of(self, saved: GammaRnnSaved) -> GammaRnnInputs:
        return GammaRnnInputs(saved.h, saved.h0, saved.weight_hh, saved.n, saved.s)

    def reference(self, inputs: GammaRnnInputs, settings: SequenceSettings) -> tuple[Tensor, ...]:
        plain, leak = GammaRnnInputs(*inputs[: len(GammaRnnInputs._fields)]), leak_of(inputs)
        h, trace = reference.gamma_rnn_sequence(*plain, settings.n_floor, settings.trace, leak)
        return h, h[-1].clone(), trace.a if trace else empty(h)

    def asked_for(self, outputs: tuple[Tensor, ...], settings: SequenceSettings) -> tuple[Tensor, ...]:
        if settings.trace:
            return outputs
        h, h_last, _ = outputs
        return h, h_last, empty(h)

    def flops(self, inputs: Any) -> int:
        T, B, H = inputs.xp
        return 2 * T * B * H * H


class _Leaky(Operation):
    """A sequence with a leak, which is the last of the inputs and of the saved tensors; `Plain` is the one without."""

    Plain: ClassVar[type[Operation]]

    def check(self, inputs: Any) -> None:
        *others, leak = inputs
        super().check(self.Plain.Inputs(*others))
        check.shape("leak", leak, "(H,)", (inputs.xp.shape[-1],))

    def save(self, inputs: Any, results: tuple[Tensor, ...]) -> Any:
        return self.Saved(*super().save(inputs, results), inputs.leak)

    def inputs_of(self, saved: Any) -> Any:
        return self.Inputs(*super().inputs_of(saved), saved.leak)


class LeakyAruSequence(_Leaky, AruSequence):
    """The adaptive network over T steps, with a leak."""

    name = "leaky_aru_sequence"
    Plain = AruSequence
    Inputs: ClassVar[Any] = LeakyAruInputs
    Saved: ClassVar[Any] = LeakyAruSaved


class LeakyGammaRnnSequence(_Leaky, GammaRnnSequence):
    """The static network over T steps, with a leak."""

    name = "leaky_gamma_rnn_sequence"
    Plain = GammaRnnSequence
    Inputs: ClassVar[Any] = LeakyGammaRnnInputs
    Saved: ClassVar[Any] = LeakyGammaRnnSaved


def _check_steps(saved: AruSaved | GammaRnnSaved) -> None:
    """Checks the results of every step."""
    check.rank("h", saved.h, "(T, B, H)", 3)
    check.shape("a", saved.a, "the shape of h,", tuple(saved.h.shape))


def _check_projection(xp: Tensor) -> tuple[int, int, int]:
    """Checks the input projection and returns T, B, H."""
    check.rank("xp", xp, "(T, B, H)", 3)
    check.not_empty("xp", xp, 0, "time step")
    check.not_empty("xp", xp, 2, "neuron")
    T, B, H = xp.shape
    return T, B, H
