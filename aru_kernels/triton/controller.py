"""The controller step fused with γ, forward and backward, for rows r = (b, i): every neuron of every sequence.

A program owns BLOCK_R rows and all G units.  The backward pass carries du_t, the gradient of the controller's
pre-activation u, from step to step: dg_t is W_gg^T du_{t+1} plus what comes through the read-out, so a step has one
product.  The gradients of the controller's weights are sums over rows and steps of products of du, g and a.  One kernel
takes them over many steps at once; each program sums in a fixed order into its own slice of a buffer, and the slices
are added up in float64.  There are no atomic operations, so the bits are the same in every run.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
import triton
from torch import Tensor
from torch.nn import functional

from aru_kernels import _checks as check
from aru_kernels._arguments import StepInputs, StepOptions, StepOutputs, StepSaved, StepStates, controller_of
from aru_kernels.triton._mode import INTERPRETED
from aru_kernels.triton.kernels.controller import (
    COLUMNS,
    controller_states_kernel,
    controller_step_bwd_kernel,
    controller_step_fwd_kernel,
    controller_sums_kernel,
    pack_kernel,
)
from aru_kernels.triton.launch import OPTIONS, accumulator, launching_on, padded, product_kind, warp_size


class Tile(NamedTuple):
    """The rows that a program takes at a time, and its number of threads."""

    BLOCK_R: int
    threads: int


# With fewer rows, tiles of 64 leave multiprocessors of the largest GPUs idle.
_FEW_ROWS = 8192


def tile(kernel: str, GP: int, PRODUCT: str, R: int) -> Tile:
    """The tile of a kernel ("forward", "states", "backward" or "sums") for GP padded units, a kind of product, R rows.

    For GP = 64 it is the fastest of those timed on an H100 with Triton 3.6 at R = 40,000 and 3,200.  For other GP it is
    the largest that, by the compiler's report, spills no registers on the architectures of `compile_table.py`.
    """
    if PRODUCT == "ieee":
        return Tile(16, 256)
    if GP == 128:
        return Tile(16 if PRODUCT == "tf32x3" or kernel == "backward" else 32, 256)
    if kernel == "sums":
        return Tile(64 if PRODUCT == "bf16" else 32, 128)
    narrow = {"states": ("tf32",), "backward": ("tf32", "tf32x3")}
    return Tile(32 if R <= _FEW_ROWS or PRODUCT in narrow.get(kernel, ()) else 64, 128)


# Tiles in flight at a time in the sums' kernel.
_STAGES = 4
# Programs of the sums' kernel: two for every multiprocessor of the largest GPUs, and the same number on every GPU, so
# that every GPU adds in the same order.
_PROGRAMS = 264


def sums_size(G: int) -> int:
    """P, the rows and columns of the sums of the weights' gradients: the units, and two more at the end."""
    P = padded(G + 2)
    return P if P <= 64 else G + 2


def sums_fit(G: int) -> bool:
    """Whether the sums fit into the registers of their kernel; otherwise PyTorch takes them."""
    return padded(G + 2) <= 64


def row_length(G: int, dtype: torch.dtype = torch.float32) -> int:
    """GS, the elements in a row of a sequence's states: G rounded up to a multiple of 16 bytes, for vector accesses."""
    unit = max(4, 16 // dtype.itemsize)
    return -(-G // unit) * unit


def padded_rows(g: Tensor, GS: int) -> Tensor:
    """A copy of states (..., G) with zeros up to rows of GS."""
    return functional.pad(g, (0, GS - g.shape[-1])).clone(memory_format=torch.contiguous_format)


def partial_size(GP: int) -> int:
    """Elements of the partial sums of a program that runs all steps of a sequence."""
    return (GP + 1) * COLUMNS.value + GP * GP


class Controller:
    """The controller's weights, packed, and the launches of its kernels.

    States g are (..., GS): rows of G units, then zeros.
    """

    def __init__(self, weights: tuple[Tensor, ...], n_floor: float, precision: str) -> None:
        dtype, device = weights[0].dtype, weights[0].device
        self.G = G = weights[0].shape[0]
        self.GP = GP = padded(G)
        self.n_floor = n_floor
        self.warp_size = warp_size(device)
        self.narrow = precision == "medium" and dtype == torch.float32 and sums_fit(G)
        self.product = product_kind(device, precision)
        self.w = torch.empty(2 * GP + 5, GP, dtype=check.compute_dtype(dtype), device=device)
        self.constants = {"ACC": accumulator(dtype), **OPTIONS}
        # one program in the interpreter, where a program takes the same time whatever its size
        BLOCK_R = triton.next_power_of_2(len(self.w)) if INTERPRETED else 8
        pack_kernel[(triton.cdiv(len(self.w), BLOCK_R),)](
            *(x.contiguous() for x in weights), self.w, G=G, GP=GP, BLOCK_R=BLOCK_R, num_warps=4, **OPTIONS
        )

    def copied(self) -> Controller:
        """The same controller on a copy of its weights."""
        other = copy.copy(self)
        other.w = self.w.clone()
        return other

    def _launch(self, kernel: str, g: Tensor, R: int) -> dict[str, object]:
        BLOCK_R, threads = tile(kernel, self.GP if kernel != "sums" else sums_size(self.G), self.product, R)
        return {
            **self.constants,
            "GS": g.shape[-1],
            "PRODUCT": self.product,
            "BLOCK_R": BLOCK_R,
            "num_warps": threads // self.warp_size,
        }

    def step(
        self,
        *,
        x: Tensor | None,
        a: Tensor,
        total: Tensor | None,
        g: Tensor,
        h: Tensor,
        g_next: Tensor,
        n: Tensor | None,
        s: Tensor | None,
        leak: Tensor | None = None,
        h_before: Tensor | None = None,
    ) -> None:
        """Fills h, g_next and, if given, n and s, and total with a + x where x is given; g_next may be g.

        leak: with a row for every element of h_before, the h before the step.
        """
        R = a.numel()
        options = self._launch("forward", g, R)
        controller_step_fwd_kernel[(triton.cdiv(R, options["BLOCK_R"]),)](
            *(x, a, total, g, self.w, leak, h_before, h, g_next, n, s, R),
            HAS_X=x is not None,
            HAS_LEAK=leak is not None,
            GP=self.GP,
            GAINS=n is not None,
            N_FLOOR=self.n_floor,
            **options,
        )

    def states(self, a: Tensor, g_before: Tensor, g: Tensor) -> None:
        """Fills g, the states after each step, from the one before and a; a (steps, ...), g (steps, ..., GS)."""
        if len(a):
            R = a[0].numel()
            options = self._launch("states", g, R)
            controller_states_kernel[(triton.cdiv(R, options["BLOCK_R"]),)](
                *(a, g_before, g, self.w, R, len(a)), GS_BEFORE=g_before.shape[-1], GP=self.GP, **options
            )

    def step_backward(
        self,
        *,
        d_h: Tensor | None,
        d_rec: Tensor | None,
        d_a: Tensor | None,
        d_n: Tensor | None,
        d_s: Tensor | None,
        d_g: Tensor | None,
        du_after: Tensor | None,
        a: Tensor,
        g: Tensor,
        da: Tensor,
        du: Tensor,
        vectors: Tensor,
        leak: Tensor | None = None,
        h_before: Tensor | None = None,
        d_leak: Tensor | None = None,
    ) -> None:
        """Fills da, du and, for the sums, vectors (3, ...) with a, dn and ds; g: the state after the step.

        With a leak, as in `step`, it adds to d_leak, and d_rec becomes the gradient of h_before through the leak.
        """
        R = a.numel()
        options = self._launch("backward", g, R)
        controller_step_bwd_kernel[(triton.cdiv(R, options["BLOCK_R"]),)](
            *(d_h, d_rec, d_a, d_n, d_s, d_g, du_after, a, g, self.w, leak, h_before, da, du, *vectors, d_leak, R),
            HAS_H=d_h is not None,
            HAS_REC=d_rec is not None,
            HAS_A=d_a is not None,
            HAS_N=d_n is not None,
            HAS_S=d_s is not None,
            HAS_G=d_g is not None,
            HAS_AFTER=du_after is not None,
            HAS_LEAK=leak is not None,
            GP=self.GP,
            N_FLOOR=self.n_floor,
            **options,
        )

    def sums_shape(self, R: int) -> tuple[int, int, int]:
        """(programs, P, P), the shape of the weights' gradients' sums if `add_sums` takes at most R rows a call."""
        P, programs = sums_size(self.G), 1
        if sums_fit(self.G):
            programs = min(_PROGRAMS, triton.cdiv(R, tile("sums", P, self.product, R).BLOCK_R))
        return programs, P, P

    def add_sums(
        self, sums: Tensor, du: Tensor | None, a: Tensor | None, g: Tensor, dn: Tensor | None, ds: Tensor | None
    ) -> None:
        """Adds the rows' [du, dn, ds]^T [g, a, 1] to the sums; du and a, or dn and ds, may be None."""
        GS, P = g.shape[-1], sums.shape[-1]
        if sums_fit(self.G):
            R = g.numel() // GS
            options = self._launch("sums", g, R)
            controller_sums_kernel[(len(sums),)](
                *(du, a, g, dn, ds, sums, R, triton.cdiv(R, options["BLOCK_R"])),
                HAS_U=du is not None,
                HAS_GAINS=dn is not None,
                P=P,
                STAGES=_STAGES,
                **options,
            )
            return
        (total,), G = sums, self.G
        g = g.reshape(-1, GS)[:, :G].to(sums.dtype)
        if du is not None and a is not None:
            du = du.reshape(-1, GS)[:, :G]
            a = a.reshape(-1).to(sums.dtype)
            total[:G, :G] += du.t() @ g
            total[:G, G:] += du.t() @ torch.stack((a, torch.ones_like(a)), 1)
        if dn is not None and ds is not None:
            d_gains = torch.stack((dn.reshape(-1), ds.reshape(-1)))
            total[G:, :G] += d_gains @ g
            total[G:, G + 1] += d_gains.sum(1)

    def weight_gradients(self, sums: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Gradients of weight_ag, weight_gg, bias_g, weight_gc and bias_c, from the sums."""
        G, P = self.G, sums.shape[-1]
        total = sums.sum(0, dtype=torch.float64)
        d_w_ag, d_b_g = total[:G, P - 2], total[:G, P - 1]
        return _copies((d_w_ag, total[:G, :G], d_b_g, total[P - 2 :, :G], total[P - 2 :, P - 1]), dtype)

    def before(self, du: Tensor, like: Tensor) -> Tensor:
        """W_gg^T du_t, the gradient of g_{t-1}, with the shape (..., G) and the dtype of `like`."""
        G, GP = self.G, self.GP
        rows = du.reshape(-1, du.shape[-1])[:, :G].to(self.w.dtype)
        return torch.mm(rows, self.w[GP : GP + G, :G]).to(like.dtype).view(like.shape)

    def new_partials(self, programs: int) -> Tensor:
        """Partial sums of the weights' gradients, 0, for programs that run all steps of a sequence."""
        return self.w.new_zeros(programs, partial_size(self.GP))

    def gradients_of_partials(self, partials: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """The same as `weight_gradients`, from partial sums (see `adaptive_steps_bwd_kernel`)."""
        G, GP = self.G, self.GP
        total = partials.sum(0, dtype=torch.float64)
        columns, ends, square = total.split([GP * COLUMNS.value, COLUMNS.value, GP * GP])
        columns = columns.view(GP, COLUMNS.value)[:G, :4].t()
        return _copies((columns[0], square.view(GP, GP)[:G, :G], columns[1], columns[2:], ends[:2]), dtype)


def _copies(tensors: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    return tuple(x.to(dtype, memory_format=torch.contiguous_format, copy=True) for x in tensors)


def controller_step_fwd(inputs: StepInputs, options: StepOptions) -> StepStates:
    """h, the next g, n, s and the kept state, which is empty."""
    a, g = inputs.a, inputs.g
    h, n, s = (a.new_empty(a.shape) for _ in "hns")
    g_next = g.new_empty(g.shape)
    with launching_on(a):
        controller = Controller(controller_of(inputs), options.n_floor, options.precision)
        controller.step(x=None, a=a.contiguous(), total=None, g=g.contiguous(), h=h, g_next=g_next, n=n, s=s)
    return StepStates(h=h, g=g_next, n=n, s=s, kept=a.new_empty(0))


def controller_step_bwd(upstream: StepOutputs, saved: StepSaved, options: StepOptions) -> StepInputs:
    """The gradients of the inputs; the state after the step is recomputed."""
    da = saved.a.new_empty(saved.a.shape)
    with launching_on(da):
        controller = Controller(controller_of(saved), options.n_floor, options.precision)
        upstream = StepOutputs(*(None if x is None else x.contiguous() for x in upstream))
        a, g = saved.a.contiguous(), saved.g.contiguous()
        g_next, du = (controller.w.new_empty(g.shape) for _ in range(2))
        vectors = controller.w.new_empty(3, a.numel())
        controller.states(a[None], g, g_next[None])
        controller.step_backward(
            d_h=upstream.h,
            d_rec=None,
            d_a=None,
            d_n=upstream.n,
            d_s=upstream.s,
            d_g=upstream.g,
            du_after=None,
            a=a,
            g=g_next,
            da=da,
            du=du,
            vectors=vectors,
        )
        sums = controller.w.new_zeros(controller.sums_shape(a.numel()))
        controller.add_sums(sums, du, vectors[0], g, None, None)
        controller.add_sums(sums, None, None, g_next, *vectors[1:])
        return StepInputs(da, controller.before(du, g), *controller.weight_gradients(sums, a.dtype))
