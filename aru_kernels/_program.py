"""What a program does with a call: records, watches, differentiates or transforms it, and with what tensors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from aru_kernels import _checks as check

# operator -> its arithmetic, from the shapes of its arguments
FLOPS: dict[Any, Callable[..., int]] = {}


def needs_gradient(inputs: Sequence[Tensor]) -> bool:
    """Whether a backward pass may follow."""
    if torch.is_grad_enabled():
        for x in inputs:
            if x.requires_grad:
                return True
    return False


def _observed() -> bool:
    """Whether something watches the operators of this thread: a mode, a profiler."""
    return torch._C._len_torch_dispatch_stack() > 0 or torch._C._autograd._profiler_enabled()


def tell_flop_counters() -> None:
    """Makes the operators' formulas known to torch.utils.flop_counter, if the program uses it: it imports Triton."""
    module = sys.modules.get("torch.utils.flop_counter")
    if module is None:
        return
    if not FLOPS.keys() <= module.flop_registry.keys():
        for packet, flops in FLOPS.items():
            module.register_flop_formula(packet)(flops)
    # a counter copies the formulas when it is made
    for mode in torch.utils._python_dispatch._get_current_dispatch_mode_stack():
        registry = getattr(getattr(mode, "counter", None), "flop_registry", None)
        if registry is not None and not FLOPS.keys() <= registry.keys():
            registry.update({packet: module.flop_registry[packet] for packet in FLOPS})


def captured_by_proxies() -> bool:
    """Whether make_fx records the program; torch.compile, which uses it too, guards its decisions."""
    proxies = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY)
    return proxies is not None and not torch.compiler.is_compiling()


def recorded(inputs: Sequence[Tensor]) -> bool:
    """Whether a call must be seen as an operator: a program is captured, watched, or made of tensors of another kind.

    The dispatcher costs more than a small kernel, so plain tensors of an eager program go to the kernel directly, with
    the same formula for the gradient.
    """
    if torch.compiler.is_compiling():
        return torch.compiler.is_exporting()
    return watched() or not plain(inputs)


def watched() -> bool:
    """Whether an eager program's operators are watched or traced."""
    if _observed():
        tell_flop_counters()
        return True
    return torch._C._is_tracing()


def plain(tensors: Sequence[Tensor]) -> bool:
    """Whether tensors hold their values in memory of their own.

    Memory holds the negative of some tensors' values, as of z.conj().imag, and some zeros have no memory; the
    dispatcher copies both.
    """
    types = check.PLAIN
    return not any([type(x) not in types or x.is_neg() or x._is_zerotensor() for x in tensors])  # noqa: C419 (a generator is slower)


def without_memory(grads: tuple[Tensor | None, ...]) -> bool:
    """Whether a gradient's values are not in memory of its own.

    Negated, zeros without memory, or one of a batch, as in torch.autograd.grad(is_grads_batched=True), which the
    dispatcher takes apart.
    """
    functorch = torch._C._functorch
    return any(
        x.is_neg() or x._is_zerotensor() or functorch.is_batchedtensor(x) or functorch.is_legacy_batchedtensor(x)
        for x in grads
        if x is not None
    )


Place = tuple[int, int, torch.Size, torch.dtype, bool]


def places_of(tensors: Sequence[Tensor]) -> list[Place]:
    """Where tensors have their values, and in what form."""
    return [(x.data_ptr(), x.untyped_storage().nbytes(), x.shape, x.dtype, x.is_neg()) for x in tensors]


def in_place(saved: Sequence[Tensor], places: list[Place]) -> bool:
    """Whether saved tensors are where they were, so that they are still legal and plain.

    They may come from elsewhere: torch.autograd.graph.saved_tensors_hooks.
    """
    try:
        return places_of(saved) == places
    except RuntimeError:  # sparse tensors, for example, have no such memory
        return False
