"""The controller step fused with γ, forward and backward, for rows r = (b, i): every neuron of every sequence.

A program owns BLOCK_R rows and all G units, padded inside to a power of two with zero weights: padded units are
tanh(0) = 0 and pass no gradient.  The backward pass carries du_t, the gradient of the controller's pre-activation, from
step to step: with dg_t = W_gg^T du_{t+1} + what comes through the read-out, a step has one product.  The gradients of
the controller's weights are sums over rows of products of what the steps leave behind; they are taken over many steps
at once, by one kernel, each of whose programs sums in a fixed order into a slice of its own; the slices are added up in
float64.  No atomics.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from aru_kernels import _checks as check
from aru_kernels.triton._controller import (
    _X,
    controller_bwd_kernel,
    controller_fwd_kernel,
    controller_states_kernel,
    controller_sums_kernel,
    pack_kernel,
)
from aru_kernels.triton._launch import OPTIONS, accumulator, launching_on, padded, products, warp_size
from aru_kernels.triton._mode import INTERPRETED


class Tile(NamedTuple):
    """Rows that a program takes at a time, and its threads."""

    BLOCK_R: int
    threads: int


# Below, tiles of 64 rows leave multiprocessors of the largest GPUs idle.
_FEW_ROWS = 8192


def tile(kernel: str, GP: int, PRODUCT: str, R: int) -> Tile:
    """The tile of a kernel ("forward", "states", "backward" or "sums"), by the padded controller, product and rows.

    For GP = 64 the fastest of those timed on an H100 with Triton 3.6, 2026-11-26, at R = 40,000 and 3,200.  Others by
    the compiler's reports: the largest without spills on every architecture of the tests' table.
    """
    if PRODUCT == "ieee":
        return Tile(16, 256)
    if GP == 128:
        return Tile(16 if PRODUCT == "tf32x3" or kernel == "backward" else 32, 256)
    if kernel == "sums":
        return Tile(64 if PRODUCT == "bf16" else 32, 128)
    narrow = {"states": ("tf32",), "backward": ("tf32", "tf32x3")}
    return Tile(32 if R <= _FEW_ROWS or PRODUCT in narrow.get(kernel, ()) else 64, 128)


# Tiles of the sums' kernel that are on their way at a time.
_STAGES = 4
# Programs of the sums' kernel: two for every multiprocessor of the largest GPUs.  The same on every GPU, so that the
# order of every sum is.
_PROGRAMS = 264


def sums_size(G: int) -> int:
    """Rows and columns of the sums of the weights' gradients: the units, and two more at the end."""
    P = padded(G + 2)
    return P if P <= 64 else G + 2


def sums_fit(G: int) -> bool:
    """Whether the kernel takes the sums; those of larger controllers do not fit into its registers: PyTorch does."""
    return padded(G + 2) <= 64


def row_length(G: int, dtype: torch.dtype = torch.float32) -> int:
    """Units in a row of the states that sequences hold: with zeros to a multiple of 16 bytes, for whole vectors."""
    unit = max(4, 16 // dtype.itemsize)
    return -(-G // unit) * unit


def partial_size(GP: int) -> int:
    """Elements of the partial sums of a program that takes whole sequences."""
    return (GP + 1) * _X.value + GP * GP


class Controller:
    """The controller's weights, and how its kernels are launched for them.

    States g are (..., GS) with GS units in a row: G, or more where those beyond are 0.
    """

    def __init__(self, weights: tuple[Tensor, ...], n_floor: float, precision: str) -> None:
        self.G = G = weights[0].shape[0]
        self.GP = GP = padded(G)
        self.n_floor = n_floor
        self.warp_size = warp_size(weights[0].device)
        self.narrow = precision == "medium" and weights[0].dtype == torch.float32 and sums_fit(G)
        # all steps in one launch: by these, forward and backward; step by step: by the first
        self.products = products(weights[0].device, precision)
        self.w = torch.empty(2 * GP + 5, GP, dtype=check.compute_dtype(weights[0].dtype), device=weights[0].device)
        self.constants = {"ACC": accumulator(weights[0].dtype), **OPTIONS}
        # the interpreter takes its time for every program, whatever its size
        BLOCK = triton.next_power_of_2(len(self.w)) if INTERPRETED else 8
        pack_kernel[(triton.cdiv(len(self.w), BLOCK),)](
            *(x.contiguous() for x in weights), self.w, G, GP, BLOCK, num_warps=4, **OPTIONS
        )

    def copied(self) -> Controller:
        """The same controller on weights of its own."""
        other = copy.copy(self)
        other.w = self.w.clone()
        return other

    def _launch(self, kernel: str, g: Tensor, R: int) -> dict[str, object]:
        product = self.products[0]
        tiles = tile(kernel, self.GP if kernel != "sums" else sums_size(self.G), product, R)
        chosen = {"GS": g.shape[-1], "PRODUCT": product, "BLOCK_R": tiles.BLOCK_R}
        return self.constants | chosen | {"num_warps": tiles.threads // self.warp_size}

    def step(
        self,
        x: Tensor | None,
        a: Tensor,
        total: Tensor | None,
        g: Tensor,
        h: Tensor,
        g_next: Tensor,
        n: Tensor | None,
        s: Tensor | None,
    ) -> None:
        """Fills h, g_next and, if given, n and s, and total with a + x where x is given; g_next may be g."""
        R = a.numel()
        options = self._launch("forward", g, R)
        controller_fwd_kernel[(triton.cdiv(R, options["BLOCK_R"]),)](
            *(x, a, total, g, self.w, h, g_next, n, s, R, x is not None),
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
                *(a, g_before, g, self.w, R, len(a), g_before.shape[-1]), GP=self.GP, **options
            )

    def step_backward(
        self,
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
    ) -> None:
        """Fills da, du and, in vectors (3, ...), what the sums need: a, dn and ds; g: after the step."""
        R = a.numel()
        options = self._launch("backward", g, R)
        optional = (d_h, d_rec, d_a, d_n, d_s, d_g, du_after)
        controller_bwd_kernel[(triton.cdiv(R, options["BLOCK_R"]),)](
            *(*optional, a, g, self.w, da, du, *vectors, R, *(x is not None for x in optional)),
            GP=self.GP,
            N_FLOOR=self.n_floor,
            **options,
        )

    def new_sums(self, rows: int) -> Tensor:
        """Sums of the weights' gradients, for `add_sums` of at most so many rows at a time; 0."""
        P, programs = sums_size(self.G), 1
        if sums_fit(self.G):
            programs = min(_PROGRAMS, triton.cdiv(rows, tile("sums", P, self.products[0], rows).BLOCK_R))
        return self.w.new_zeros(programs, P, P)

    def add_sums(
        self, sums: Tensor, du: Tensor | None, a: Tensor | None, g: Tensor, dn: Tensor | None, ds: Tensor | None
    ) -> None:
        """Adds the rows' [du, dn, ds]^T [g, a, 1] to the sums; du and a, or dn and ds, may be left out."""
        GS, P = g.shape[-1], sums.shape[-1]
        if sums_fit(self.G):
            rows = g.numel() // GS
            options = self._launch("sums", g, rows)
            controller_sums_kernel[(len(sums),)](
                *(du, a, g, dn, ds, sums, rows, triton.cdiv(rows, options["BLOCK_R"])),
                *(du is not None, dn is not None),
                P=P,
                STAGES=_STAGES,
                **options,
            )
            return
        (total,), G = sums, self.G
        g = g.reshape(-1, GS)[:, :G].to(sums.dtype)
        if du is not None:
            du = du.reshape(-1, GS)[:, :G]
            a = a.reshape(-1).to(sums.dtype)
            total[:G, :G] += du.t() @ g
            total[:G, G:] += du.t() @ torch.stack((a, torch.ones_like(a)), 1)
        if dn is not None:
            d_gains = torch.stack((dn.reshape(-1), ds.reshape(-1)))
            total[G:, :G] += d_gains @ g
            total[G:, G + 1] += d_gains.sum(1)

    def weight_gradients(self, sums: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Gradients of weight_ag, weight_gg, bias_g, weight_gc, bias_c from the sums."""
        G, P = self.G, sums.shape[-1]
        total = sums.sum(0, dtype=torch.float64)
        d_w_ag, d_b_g = total[:G, P - 2], total[:G, P - 1]
        return _copies((d_w_ag, total[:G, :G], d_b_g, total[P - 2 :, :G], total[P - 2 :, P - 1]), dtype)

    def before(self, du: Tensor, like: Tensor) -> Tensor:
        """The gradient of g_{t-1}, W_gg^T du_t, of the shape and dtype of `like`, (..., G)."""
        G, GP = self.G, self.GP
        rows = du.reshape(-1, du.shape[-1])[:, :G].to(self.w.dtype)
        return torch.mm(rows, self.w[GP : GP + G, :G]).to(like.dtype).view(like.shape)

    def new_partials(self, programs: int) -> Tensor:
        """Partial sums, 0, for programs that take whole sequences."""
        return self.w.new_zeros(programs, partial_size(self.GP))

    def gradients_of_partials(self, partials: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """As `weight_gradients`."""
        G, GP = self.G, self.GP
        total = partials.sum(0, dtype=torch.float64)
        columns, ends, square = total.split([GP * _X.value, _X.value, GP * GP])
        columns = columns.view(GP, _X.value)[:G, :4].t()
        return _copies((columns[0], square.view(GP, GP)[:G, :G], columns[1], columns[2:], ends[:2]), dtype)


def _copies(tensors: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    return tuple(x.to(dtype, memory_format=torch.contiguous_format, copy=True) for x in tensors)


def controller_step_fwd(
    a: Tensor,
    g: Tensor,
    weight_ag: Tensor,
    weight_gg: Tensor,
    bias_g: Tensor,
    weight_gc: Tensor,
    bias_c: Tensor,
    n_floor: float,
    precision: str,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """h, next g, n, s and the kept state, which is empty; a (B, H), g (B, H, G)."""
    h, n, s = (a.new_empty(a.shape) for _ in "hns")
    g_next = g.new_empty(g.shape)
    if a.numel():
        with launching_on(a):
            controller = Controller((weight_ag, weight_gg, bias_g, weight_gc, bias_c), n_floor, precision)
            controller.step(None, a.contiguous(), None, g.contiguous(), h, g_next, n, s)
    return h, g_next, n, s, a.new_empty(0)


def controller_step_bwd(
    d_h: Tensor | None,
    d_g: Tensor | None,
    d_n: Tensor | None,
    d_s: Tensor | None,
    a: Tensor,
    g: Tensor,
    weight_ag: Tensor,
    weight_gg: Tensor,
    bias_g: Tensor,
    weight_gc: Tensor,
    bias_c: Tensor,
    n: Tensor,
    s: Tensor,
    kept: Tensor,
    n_floor: float,
    precision: str,
) -> tuple[Tensor, ...]:
    """Gradients for a, g and the controller's weights; the state after the step is computed again."""
    weights = (weight_ag, weight_gg, bias_g, weight_gc, bias_c)
    da = a.new_empty(a.shape)
    if not a.numel():
        return da, *(w.new_zeros(w.shape) for w in (g, *weights))
    with launching_on(a):
        controller = Controller(weights, n_floor, precision)
        d_h, d_g, d_n, d_s = (x if x is None else x.contiguous() for x in (d_h, d_g, d_n, d_s))
        a, g = a.contiguous(), g.contiguous()
        g_next, du = (controller.w.new_empty(g.shape) for _ in range(2))
        vectors = controller.w.new_empty(3, a.numel())
        controller.states(a[None], g, g_next[None])
        controller.step_backward(d_h, None, None, d_n, d_s, d_g, None, a, g_next, da, du, vectors)
        sums = controller.new_sums(a.numel())
        controller.add_sums(sums, du, vectors[0], g, None, None)
        controller.add_sums(sums, None, None, g_next, *vectors[1:])
        return da, controller.before(du, g), *controller.weight_gradients(sums, a.dtype)
