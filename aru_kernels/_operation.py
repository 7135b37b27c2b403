"""What all operations share: the class that describes one, and checks of shapes, options and gradients."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor

from aru_kernels import _checks as check
from aru_kernels._arguments import AruInputs, StepInputs

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


def check_shapes(inputs: Any, dims: tuple[Dims, ...], expected: tuple[Shape, ...]) -> None:
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
            check.rank(name, value, letters(own), len(own))
        check.shape(name, value, letters(own), tuple(dim if isinstance(dim, int) else sizes[dim] for dim in own))


def letters(dims: tuple[str | int, ...]) -> str:
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


def check_segment(segment: int, T: int, least: int) -> None:
    if not least <= segment <= T:
        raise ValueError(f"segment is {segment}, expected an integer from {least} to T = {T}.")


def check_precision(precision: str) -> None:
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}.")


def check_kept(kept: Tensor, elements: int) -> None:
    if kept.ndim != 1 or kept.shape[0] != elements:
        raise ValueError(
            f"kept has shape {tuple(kept.shape)}, expected ({elements},): the state that this backend's forward pass "
            "keeps at these sizes, in this dtype, precision and segment."
        )


def empty(like: Tensor) -> Tensor:
    return like.new_empty((0,))


CONTROLLER_DIMS: tuple[Dims, ...] = (("G",), ("G", "G"), ("G",), (2, "G"), (2,))


def controller_shapes(G: int) -> tuple[Shape, ...]:
    return (G,), (G, G), (G,), (2, G), (2,)


def check_controller(inputs: StepInputs | AruInputs) -> int:
    """Returns G."""
    weight_ag = inputs.weight_ag
    check.rank("weight_ag", weight_ag, "(G,)", 1)
    check.not_empty("weight_ag", weight_ag, 0, "unit")
    return weight_ag.shape[0]
