"""Networks that fill a GPU once: all steps of a sequence in one cooperative launch.

A program owns BLOCK_B sequences and BLOCK_H neurons through every step; the controller's states and its slice of W_hh
stay in its registers.  What couples neurons goes through the second-level cache: at the end of a step every program
writes its h (backwards: da), waits for the others of the same sequences, and multiplies theirs with its slice.
Programs of other sequences do not meet.  The waiting is sound because all programs run at the same time: there are no
more than multiprocessors, and the launch is cooperative, which the driver refuses where that cannot be.

It serves where ARU_TRITON_COOPERATIVE=1 asks for it: no time speaks for it yet.
"""

from __future__ import annotations

import functools
import os
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from aru_kernels.triton._cooperative import (
    BLOCK_B,
    adaptive_cooperative_bwd_kernel,
    adaptive_cooperative_fwd_kernel,
    static_cooperative_bwd_kernel,
    static_cooperative_fwd_kernel,
)
from aru_kernels.triton._launch import OPTIONS, VERSION, accumulator
from aru_kernels.triton.controller import Controller

# Neurons of a program, to be tried in this order: the fewer, the shorter a step.
BLOCKS_H = (8, 16)
# A program has a whole multiprocessor, and 255 registers a thread.
_WARPS = 8
# Parts of a sum over neurons: one for a warp; where there is no controller, two, which takes fewer registers at a time.
_SPLITS, _SPLITS_STATIC = 8, 16
# Before Triton 3.6 a product of 8 columns does not compile.
COMPILES = VERSION >= (3, 6)
# A slice of W_hh for more neurons does not fit beside the states.
MAX_NEURONS = 512


class Tiling(NamedTuple):
    """How a network is cut: neurons of a program, and programs along neurons and along sequences."""

    BLOCK_H: int
    along_neurons: int
    along_sequences: int

    @property
    def programs(self) -> int:
        """In all."""
        return self.along_neurons * self.along_sequences


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """Programs that run at the same time for sure."""
    return torch.cuda.get_device_properties(device).multi_processor_count


@functools.cache
def capability(device: torch.device) -> tuple[int, int]:
    """Of an NVIDIA GPU."""
    return torch.cuda.get_device_capability(device)


def wanted(device: torch.device) -> bool:
    """Whether ARU_TRITON_COOPERATIVE asks for one launch of a grid, on a GPU that can.

    AMD's are left out: theirs have several second-level caches.
    """
    asked = os.environ.get("ARU_TRITON_COOPERATIVE", "0") != "0"
    return asked and COMPILES and device.type == "cuda" and not torch.version.hip and capability(device) >= (8, 0)


def largest_block(GP: int, product: str, compute: tuple[int, int]) -> int:
    """Neurons of a program that the compiler keeps in registers without spilling, by its reports; 0: none.

    GP: padded units of the controller, 0 without one; product: of the forward kernel; compute: capability.
    """
    if not GP:
        return 8 if product == "tf32x3" else 16
    # the backward kernel's products of 64 rows: see `_math.product`; in other forms they spill
    most = 16 if compute < (9, 0) else 32 if product == "tf32x3" else 64
    if most < GP:
        return 0
    return 8 if GP >= 32 and product == "tf32x3" else 16


def backward_product(GP: int, product: str) -> str:
    """The backward kernel's product with the controller's weights: three TF32 products of 32 units spill."""
    return "ieee" if GP == 32 and product == "tf32x3" else product


def rows_at_a_time(GP: int, product: str) -> int:
    """Rows that the backward kernel takes through the controller at a time, by the same reports."""
    return 16 if GP == 64 or product in ("tf32x3", "ieee") else 32


def tiling(B: int, H: int, device: torch.device, product: str, GP: int = 0) -> Tiling | None:
    """The tiling whose programs all run at the same time, or None; arguments as for `largest_block`."""
    if not wanted(device) or H > MAX_NEURONS:
        return None
    for BLOCK_H in BLOCKS_H:
        cut = Tiling(BLOCK_H, triton.cdiv(H, BLOCK_H), triton.cdiv(B, BLOCK_B.value))
        if cut.programs <= multiprocessors(device) and largest_block(GP, product, capability(device)) >= BLOCK_H:
            return cut
    return None


def _launch(cut: Tiling, H: int, n_floor: float, like: Tensor, splits: int) -> tuple[Tensor, dict[str, object]]:
    """The counters that the programs meet at, and what all kernels are launched with."""
    HP = max(16, triton.next_power_of_2(H))
    constants = {"H": H, "HP": HP, "BLOCK_H": cut.BLOCK_H, "SPLITS": min(splits, HP // 16), "N_FLOOR": n_floor}
    options = {"num_warps": _WARPS, "launch_cooperative_grid": True, **OPTIONS}
    counters = torch.zeros(cut.along_sequences, dtype=torch.int32, device=like.device)
    return counters, {**constants, "ACC": accumulator(like.dtype), **options}


def adaptive_forward(
    cut: Tiling,
    weight_hh: Tensor,
    controller: Controller,
    xp: Tensor,
    h_before: Tensor,
    g_before: Tensor,
    a: Tensor,
    h: Tensor,
    g: Tensor,
    n: Tensor | None,
    s: Tensor | None,
) -> None:
    """`Adaptive.forward` in one launch."""
    S, B, H = xp.shape
    counters, keywords = _launch(cut, H, controller.n_floor, xp, _SPLITS)
    adaptive_cooperative_fwd_kernel[(cut.along_neurons, cut.along_sequences)](
        *(xp, h_before, g_before, weight_hh, controller.w, a, h, g, n, s, counters, B, S),
        *(len(a) == S, len(g) == S, n is not None),
        GS=g.shape[-1],
        GP=controller.GP,
        PRODUCT=controller.products[0],
        **keywords,
    )


def adaptive_backward(
    cut: Tiling,
    weight_hh: Tensor,
    controller: Controller,
    d_h: Tensor | None,
    d_a: Tensor | None,
    d_n: Tensor | None,
    d_s: Tensor | None,
    a: Tensor,
    g: Tensor,
    d_xp: Tensor,
    d_rec: Tensor,
    dg: Tensor,
    sums: Tensor,
) -> None:
    """`Adaptive.backward` in one launch; sums: partial sums for every program."""
    S, B, H = a.shape
    counters, keywords = _launch(cut, H, controller.n_floor, a, _SPLITS)
    forward, backward = controller.products[0], backward_product(controller.GP, controller.products[1])
    adaptive_cooperative_bwd_kernel[(cut.along_neurons, cut.along_sequences)](
        *(d_h, d_a, d_n, d_s, a, g, weight_hh, controller.w, d_xp, d_rec, dg, sums, counters, B, S),
        *(x is not None for x in (d_h, d_a, d_n, d_s)),
        GS=g.shape[-1],
        GP=controller.GP,
        BLOCK_R=rows_at_a_time(controller.GP, backward),
        PRODUCT=backward,
        RECURRENT=forward,
        **keywords,
    )


def static_forward(
    cut: Tiling,
    weights: tuple[Tensor, ...],
    product: str,
    n_floor: float,
    xp: Tensor,
    h_before: Tensor,
    a: Tensor,
    h: Tensor,
) -> None:
    """`Static.forward` in one launch."""
    S, B, H = xp.shape
    counters, keywords = _launch(cut, H, n_floor, xp, _SPLITS_STATIC)
    static_cooperative_fwd_kernel[(cut.along_neurons, cut.along_sequences)](
        *(xp, h_before, *weights, a, h, counters, B, S), len(a) == S, PRODUCT=product, **keywords
    )


def static_backward(
    cut: Tiling,
    weights: tuple[Tensor, ...],
    product: str,
    n_floor: float,
    d_h: Tensor | None,
    d_a: Tensor | None,
    a: Tensor,
    d_xp: Tensor,
    d_rec: Tensor,
    dn: Tensor,
    ds: Tensor,
) -> None:
    """`Static.backward` in one launch."""
    S, B, H = a.shape
    counters, keywords = _launch(cut, H, n_floor, a, _SPLITS_STATIC)
    static_cooperative_bwd_kernel[(cut.along_neurons, cut.along_sequences)](
        *(d_h, d_a, a, *weights, d_xp, d_rec, dn, ds, counters, B, S),
        *(d_h is not None, d_a is not None),
        PRODUCT=product,
        **keywords,
    )
