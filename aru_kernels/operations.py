"""The operations that backends have kernels for: arguments, checks, results without data, plain PyTorch, arithmetic.

Everything about one operation stands in its class; `aru_kernels.ops` turns each into torch.library operators, and
`aru_kernels._arguments` names what goes in and out.
"""

from __future__ import annotations

import math
import statistics
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
    GammaInputs,
    GammaOptions,
    GammaOutputs,
    GammaRnnInputs,
    GammaRnnOptions,
    GammaRnnOutputs,
    GammaRnnSaved,
    GammaRnnStates,
    GammaSaved,
    LeakyAruInputs,
    LeakyAruSaved,
    LeakyGammaRnnInputs,
    LeakyGammaRnnSaved,
    SequenceSettings,
    StepInputs,
    StepOptions,
    StepOutputs,
    StepSaved,
    StepSettings,
    StepStates,
    controller_of,
)
from aru_kernels._precision import product_precision

PRECISIONS = ("highest", "high", "medium")
# Sizes of a tensor, as far as its name and the sizes of others say.
Shape = tuple[int, ...]
# What the dimensions of a tensor are called, or their sizes where those are given.
Dims = tuple[str | int, ...]


class Operation:
    """What all backends' kernels of one operation share.

    Inputs, Settings, Options, Outputs, Saved: see `aru_kernels._arguments`.  single: whether the operator returns a
    tensor instead of a tuple.
    """

    name: ClassVar[str]
    Inputs: ClassVar[Any]
    Settings: ClassVar[Any]
    Options: ClassVar[Any]
    Outputs: ClassVar[Any]
    Saved: ClassVar[Any]
    # results of the operator beside the outputs
    kept: ClassVar[tuple[str, ...]] = ()
    single: ClassVar[bool] = False

    def sizes(self, inputs: Any) -> tuple[int, int]:
        """H and G for `backends.select`; 0 where the operation has no such size."""
        raise NotImplementedError

    def check(self, inputs: Any) -> None:
        """Raises ValueError with a sentence unless the shapes of the inputs fit together."""
        raise NotImplementedError

    def check_options(self, inputs: Any, options: Any) -> None:
        """Raises ValueError with a sentence unless the options are in their ranges."""
        check.gain_floor(options.n_floor)

    def check_saved(self, module: ModuleType, saved: Any, options: Any) -> None:
        """The same for what the backward pass reads, by the backend that will run it."""
        raise NotImplementedError

    def check_upstream(self, upstream: Any, saved: Any) -> None:
        """The same for the gradients of the outputs, where the saved tensors are right."""
        raise NotImplementedError

    def decide(self, module: ModuleType, inputs: Any, dtype: torch.dtype, settings: Any, needed: bool) -> Any:
        """The options of one call in this dtype; needed: whether a backward pass follows."""
        raise NotImplementedError

    def forward(self, kernel: Callable[..., Any], inputs: Any, options: Any) -> tuple[Tensor, ...]:
        """The operator's results by a backend's kernel: the outputs, then what is kept."""
        raise NotImplementedError

    def backward(self, kernel: Callable[..., Any], upstream: Any, saved: Any, options: Any) -> tuple[Tensor, ...]:
        """The gradients of the inputs by a backend's kernel."""
        return kernel(upstream, saved, options)

    def save(self, inputs: Any, results: tuple[Tensor, ...]) -> Any:
        """What the backward pass reads."""
        raise NotImplementedError

    def fake(self, module: ModuleType, inputs: Any, options: Any) -> tuple[Tensor, ...]:
        """The operator's results without data."""
        raise NotImplementedError

    def fake_outputs(self, inputs: Any, settings: Any) -> tuple[Tensor, ...]:
        """The outputs without data, where the backend is not decided yet."""
        raise NotImplementedError

    def inputs_of(self, saved: Any) -> Any:
        """The inputs; where they are not saved, something of the same shape."""
        raise NotImplementedError

    def fake_gradients(self, inputs: Any) -> tuple[Tensor, ...]:
        """The gradients of the inputs without data."""
        return tuple(x.new_empty(x.shape) for x in inputs)

    def reference(self, inputs: Any, settings: Any) -> tuple[Tensor, ...]:
        """The outputs in plain PyTorch."""
        raise NotImplementedError

    def asked_for(self, outputs: tuple[Tensor, ...], settings: Any) -> tuple[Tensor, ...]:
        """The outputs as `fake_outputs` has them: empty where a result was only made for the backward pass."""
        return outputs

    def flops(self, inputs: Any) -> int:
        """Useful floating-point operations of the forward pass, from the shapes of the inputs."""
        raise NotImplementedError


def _check_shapes(inputs: Any, dims: tuple[Dims, ...], expected: tuple[Shape, ...]) -> None:
    """Raises ValueError unless the inputs have the expected shapes.

    dims: what each dimension is called, or its size if that is given. The sentence blames the input that differs from
    the size that most of them have.
    """
    if tuple([x.shape for x in inputs]) == expected:
        return
    named = list(zip(inputs._fields, inputs, dims, strict=True))
    seen: dict[str | int, list[int]] = {}
    for _, value, own in named:
        if value.ndim == len(own):
            for dim, size in zip(own, value.shape, strict=True):
                seen.setdefault(dim, []).append(size)
    sizes = {dim: statistics.mode(found) for dim, found in seen.items()}
    for name, value, own in named:
        if not all(isinstance(dim, int) or dim in sizes for dim in own):
            check.rank(name, value, _letters(own), len(own))
        check.shape(name, value, _letters(own), tuple(dim if isinstance(dim, int) else sizes[dim] for dim in own))


def _letters(dims: tuple[str | int, ...]) -> str:
    return f"({', '.join(map(str, dims))}{',' * (len(dims) == 1)})"


def gradients_fit(upstream: Any, expected: tuple[Shape, ...], like: Tensor, of: str = "the saved tensors") -> None:
    """Raises an error for the first gradient of an output whose shape, dtype or device does not fit.

    of: what has the dtype and the device of `like`.
    """
    dtype, device, known = like.dtype, like.device, check.memory_is_known()
    for name, value, sizes in zip(upstream._fields, upstream, expected, strict=True):
        if value is not None:
            name = f"d_{name}"
            if value.shape != sizes:
                check.shape(name, value, "the shape of its output", sizes)
            if value.dtype != dtype or value.device != device:
                check.like(name, value, like, of)
            if known and type(value) in check.PLAIN:
                check.in_memory(name, value)


def _check_segment(segment: int, T: int, least: int) -> None:
    if not least <= segment <= T:
        raise ValueError(f"segment is {segment}, expected an integer from {least} to T = {T}.")


def _check_precision(precision: str) -> None:
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}.")


def _check_kept(kept: Tensor, elements: int) -> None:
    if kept.ndim != 1 or kept.shape[0] != elements:
        raise ValueError(
            f"kept has shape {tuple(kept.shape)}, expected ({elements},): the state that this backend's forward pass "
            "keeps at these sizes, in this dtype, precision and segment."
        )


def _empty(like: Tensor) -> Tensor:
    return like.new_empty((0,))


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


_CONTROLLER_DIMS: tuple[Dims, ...] = (("G",), ("G", "G"), ("G",), (2, "G"), (2,))


def _controller_shapes(G: int) -> tuple[Shape, ...]:
    return (G,), (G, G), (G,), (2, G), (2,)


def _check_controller(inputs: StepInputs | AruInputs) -> int:
    """Returns G."""
    weight_ag = inputs.weight_ag
    check.rank("weight_ag", weight_ag, "(G,)", 1)
    check.not_empty("weight_ag", weight_ag, 0, "unit")
    return weight_ag.shape[0]


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
        G = _check_controller(inputs)
        shape = tuple(a.shape)
        if tuple(inputs.g.shape[:-1]) != shape:
            check.shape("g", inputs.g, "(..., H, G), where a is (..., H),", (*shape, G))
        dims: tuple[Dims, ...] = (shape, (*shape, "G"), *_CONTROLLER_DIMS)
        _check_shapes(inputs, dims, (shape, (*shape, G), *_controller_shapes(G)))

    def check_options(self, inputs: StepInputs, options: StepOptions) -> None:
        check.gain_floor(options.n_floor)
        _check_precision(options.precision)

    def check_saved(self, module: ModuleType, saved: StepSaved, options: StepOptions) -> None:
        a, g = saved.a, saved.g
        inputs = self.inputs_of(saved)
        self.check(inputs)
        self.check_options(inputs, options)
        for name, value in (("n", saved.n), ("s", saved.s)):
            check.shape(name, value, "(..., H)", tuple(a.shape))
        B, H = math.prod(a.shape[:-1]), a.shape[-1]
        _check_kept(saved.kept, module.kept_elements_of_step(B, H, g.shape[-1], a.dtype, options.precision))

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
        G = _check_controller(inputs)
        dims = (("T", "B", "H"), ("B", "H"), ("B", "H", "G"), ("H", "H"), *_CONTROLLER_DIMS)
        _check_shapes(inputs, dims, ((T, B, H), (B, H), (B, H, G), (H, H), *_controller_shapes(G)))

    def check_options(self, inputs: AruInputs, options: AruOptions) -> None:
        check.gain_floor(options.n_floor)
        _check_precision(options.precision)
        _check_segment(options.segment, inputs.xp.shape[0], 0)

    def check_saved(self, module: ModuleType, saved: AruSaved, options: AruOptions) -> None:
        h = saved.h
        _check_steps(saved)
        self.check(self.inputs_of(saved))
        (T, B, H), G = h.shape, saved.g0.shape[-1]
        check.gain_floor(options.n_floor)
        _check_precision(options.precision)
        _check_segment(options.segment, T, 1)
        for name, value in (("n", saved.n), ("s", saved.s)):
            if options.segment == 1 or module.KEEPS_GAINS or tuple(value.shape) != (0,):
                check.shape(name, value, "(T, B, H)", (T, B, H))
        _check_kept(saved.kept, module.kept_elements(T, B, H, G, h.dtype, options.precision, options.segment))

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
        plain, leak = AruInputs(*inputs[: len(AruInputs._fields)]), getattr(inputs, "leak", None)
        h, g, trace = reference.aru_sequence(*plain, settings.n_floor, settings.trace, leak)
        return h, h[-1].clone(), g.clone(), *(trace or (_empty(h) for _ in range(3)))

    def asked_for(self, outputs: tuple[Tensor, ...], settings: SequenceSettings) -> tuple[Tensor, ...]:
        if settings.trace:
            return outputs
        h, h_last, g, *_ = outputs
        return h, h_last, g, *(_empty(h) for _ in range(3))

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
        _check_shapes(inputs, dims, ((T, B, H), (B, H), (H, H), *shapes))
        for name, shape in zip(("n", "s"), shapes, strict=True):
            if shape not in ((), (1,), (H,)):
                raise ValueError(f"{name} has shape {shape}, expected (), (1,) or (H,) = ({H},).")

    def check_options(self, inputs: GammaRnnInputs, options: GammaRnnOptions) -> None:
        check.gain_floor(options.n_floor)
        _check_precision(options.precision)

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
        plain, leak = GammaRnnInputs(*inputs[: len(GammaRnnInputs._fields)]), getattr(inputs, "leak", None)
        h, trace = reference.gamma_rnn_sequence(*plain, settings.n_floor, settings.trace, leak)
        return h, h[-1].clone(), trace.a if trace else _empty(h)

    def asked_for(self, outputs: tuple[Tensor, ...], settings: SequenceSettings) -> tuple[Tensor, ...]:
        if settings.trace:
            return outputs
        h, h_last, _ = outputs
        return h, h_last, _empty(h)

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
