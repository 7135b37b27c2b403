"""Checks of arguments: each failure is a sentence that names the argument, what came and what was expected."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from aru_kernels._compile import constant_when_compiled

# Types of tensors that are their own memory: not fake, traced, distributed, ...
PLAIN = (Tensor, torch.nn.Parameter)

_LARGEST = {dtype: torch.finfo(dtype).max for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)}
# Below it the reciprocal of a gain overflows in float32.
_SMALLEST_FLOOR = torch.finfo(torch.float32).tiny


def shown(value: object, most: int = 100) -> str:
    """`value` for a message, in at most so many characters."""
    if isinstance(value, int) and abs(value) >= 10**30:  # Python refuses to print thousands of digits
        return "a number of more than 30 digits"
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def tensor(name: str, value: object) -> Tensor:
    """`value`, if it is a dense floating-point tensor; raises TypeError otherwise."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}.")
    if not value.is_floating_point():
        raise TypeError(f"{name} has dtype {value.dtype}, expected a floating-point dtype.")
    if value.is_nested:
        raise TypeError(f"{name} is a nested tensor, expected a padded tensor or, in a layer, a PackedSequence.")
    if value.layout != torch.strided:
        raise _layout_error(name, value)
    return value


def _layout_error(name: str, value: Tensor) -> TypeError:
    return TypeError(f"{name} has layout {value.layout}, expected torch.strided.")


def shape(name: str, value: Tensor, letters: str, sizes: tuple[int, ...]) -> None:
    """Raises ValueError unless `value` has these sizes; `letters` names them, as in "(B, H)"."""
    if value.shape != sizes:
        raise ValueError(f"{name} has shape {tuple(value.shape)}, expected {letters} = {tuple(sizes)}.")


def rank(name: str, value: Tensor, letters: str, *ranks: int) -> None:
    """Raises ValueError unless `value` has one of these numbers of dimensions."""
    if value.ndim not in ranks:
        raise ValueError(f"{name} has shape {tuple(value.shape)}, expected {letters}.")


def rank_at_least(name: str, value: Tensor, letters: str, least: int) -> None:
    """Raises ValueError unless `value` has this many dimensions or more."""
    if value.ndim < least:
        raise ValueError(f"{name} has shape {tuple(value.shape)}, expected {letters}.")


def not_empty(name: str, value: Tensor, dim: int, what: str) -> None:
    """Raises ValueError if dimension `dim` of `value` has size 0."""
    if value.shape[dim] == 0:
        raise ValueError(f"{name} has shape {tuple(value.shape)}: no {what}, expected at least one.")


def integer(name: str, value: object) -> int:
    """`value`, if it is an integer."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer, got {shown(value)} of type {type(value).__name__}.")
    return int(value)


def size(name: str, value: object) -> int:
    """`value`, if it is an integer >= 1."""
    value = integer(name, value)
    if value < 1:
        raise ValueError(f"{name} is {shown(value)}, expected an integer of at least 1.")
    if value >= 2**63:
        raise ValueError(f"{name} is {shown(value)}, expected an integer below 2**63.")
    return value


def flag(name: str, value: object) -> bool:
    """`value`, if it is a bool; catches `GammaRNN(10, 20, 2, 0.5)`, where torch.nn.RNN expects bias."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, got {shown(value)} of type {type(value).__name__}.")
    return value


def number(
    name: str, value: object, low: float = -math.inf, high: float = math.inf, expected: str = "a number"
) -> float:
    """`value`, if it is a finite real number in [low, high]; `expected`: what else the caller would have taken."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be {expected}, got {shown(value)} of type {type(value).__name__}.")
    try:
        converted = float(value)
    except OverflowError:  # an integer
        converted = math.inf
    if not -math.inf < converted < math.inf or not low <= converted <= high:  # torch.compile traces no math.isfinite
        limits = [f"of at least {low:g}" if low > -math.inf else "", f"of at most {high:g}" if high < math.inf else ""]
        came = shown(value) if isinstance(value, int) else value
        raise ValueError(
            f"{name} is {came}, expected a finite number {' and '.join(filter(None, limits))}".strip() + "."
        )
    return converted


def number_beside_tensor(name: str, value: object, dtype: torch.dtype | None = None) -> float:
    """`value`, if it is a finite number, in the range of `dtype` if that is given, where a tensor would do too."""
    converted = number(name, value, expected="a number or a torch.Tensor")
    most = math.inf if dtype is None else _LARGEST.get(dtype, math.inf)
    if not -most <= converted <= most:
        raise ValueError(f"{name} is {value}, expected a number within {dtype}, from {-most:g} to {most:g}.")
    return converted


def gain_floor(value: object) -> float:
    """`value`, if it can serve as n_floor: above 0, and within the normal numbers of float32."""
    value = number("n_floor", value)
    if value <= 0:
        raise ValueError(f"n_floor is {value}, expected a number above 0.")
    if not _SMALLEST_FLOOR <= value <= _LARGEST[torch.float32]:
        raise ValueError(f"n_floor is {value}, expected a number from 1.2e-38 to 3.4e+38, as float32 holds them.")
    return value


@constant_when_compiled  # up to torch 2.11 torch.compile cannot trace the call
def _autocast_available(device_type: str) -> bool:
    return torch.amp.is_autocast_available(device_type)


def autocasting(device: torch.device) -> bool:
    """Whether torch.autocast is active for tensors of this device."""
    if not torch.compiler.is_compiling() and not torch._C._is_any_autocast_enabled():
        return False
    return _autocast_available(device.type) and torch.is_autocast_enabled(device.type)


@contextmanager
def no_autocast(device: torch.device) -> Iterator[None]:
    """Computes in the dtypes at hand, also under autocast."""
    if autocasting(device):
        with torch.autocast(device.type, enabled=False):
            yield
    else:
        yield


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """State and accumulation are float64 for float64 tensors and float32 for all narrower ones."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def common_dtype(names: tuple[str, ...], tensors: tuple[Tensor, ...]) -> torch.dtype:
    """The dtype of results.

    All tensors must be on the device of the first and, unless autocast is active, of its dtype.  As PyTorch does with
    operations that need the range of float32, results are of the compute dtype under autocast.
    """
    first = tensors[0]
    device, dtype = first.device, first.dtype
    casting = autocasting(device)
    for value in tensors:
        if value.device != device or value.dtype != dtype:
            break
    else:
        return compute_dtype(dtype) if casting else dtype
    for name, value in zip(names, tensors, strict=True):
        if value.device != device:
            raise ValueError(f"{name} is on {value.device}, expected {device}, the device of {names[0]}.")
        if value.dtype != dtype and not casting:
            raise TypeError(f"{name} has dtype {value.dtype}, expected {dtype}, the dtype of {names[0]}.")
    return compute_dtype(dtype)


def to_dtype(tensors: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """The tensors in this dtype."""
    return tuple(x if x.dtype == dtype else x.to(dtype) for x in tensors)


def memory_is_known() -> bool:
    """Whether tensors hold their values in memory of their own: not while they are compiled or mapped over."""
    return not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is None


def memory(name: str, value: Tensor) -> None:
    """Refuses a tensor whose memory was freed, if that can be told; PyTorch's own operations may read past its end."""
    if type(value) in PLAIN and memory_is_known():
        in_memory(name, value)


def in_memory(name: str, value: Tensor) -> None:
    """Raises ValueError if `value` has elements beyond the end of its storage, as after `resize_(0)` of the storage."""
    try:
        size = value.untyped_storage().nbytes()
    except NotImplementedError:
        raise _layout_error(name, value) from None
    if value.nbytes <= size and value.is_contiguous() and value.storage_offset() == 0:
        return
    last = sum((size - 1) * stride for size, stride in zip(value.shape, value.stride(), strict=True))
    if (value.storage_offset() + last + 1) * value.itemsize > size and value.numel() > 0:
        raise ValueError(f"{name} has shape {tuple(value.shape)}, but its storage has only {size} bytes.")


def broadcasts_to(value: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether `value` can be expanded to this shape."""
    own = value.shape
    rank = len(own)
    if rank == len(shape) and own == shape:  # sizes are only compared with those of the same dimension
        return True
    if rank == 1 and len(shape) > 0:  # one value for each neuron
        return own[0] in (1, shape[-1])
    if rank > len(shape):
        return False
    return all(o in (1, d) for o, d in zip(own, shape[len(shape) - rank :], strict=True))


def device_type(value: Tensor) -> str:
    """That of the tensor's device; on a CPU ten times as fast as `value.device.type`."""
    return "cpu" if value.is_cpu else value.device.type


def like(name: str, value: Tensor, first: Tensor, what: str) -> None:
    """Raises an error unless `value` has the dtype and device of `first`, which belongs to `what`."""
    if value.dtype != first.dtype:
        raise TypeError(f"{name} has dtype {value.dtype}, expected {first.dtype}, the dtype of {what}.")
    if value.device != first.device:
        raise ValueError(f"{name} is on {value.device}, expected {first.device}, the device of {what}.")


def same_kind(arguments: Any) -> None:
    """Raises an error unless all fields of a NamedTuple have the dtype and device of the first, and memory."""
    first = arguments[0]
    dtype, device, known = getattr(first, "dtype", None), getattr(first, "device", None), memory_is_known()
    for name, value in zip(arguments._fields, arguments, strict=True):
        if value is None:  # the dispatcher takes it for a tensor
            raise TypeError(f"{name} must be a torch.Tensor, got NoneType.")
        if value.dtype != dtype or value.device != device:
            like(name, value, first, arguments._fields[0])
        if known and type(value) in PLAIN:
            in_memory(name, value)
