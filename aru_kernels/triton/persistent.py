"""Small networks: all steps of a chunk in one launch.

A program owns one sequence and all its neurons through every step, with h, the controller's states and W_hh in
registers.  Sequences do not depend on each other, so programs never wait for one another, in whatever order they run.
If W_hh or the states of a sequence do not fit into a program's registers, every program would read W_hh from the
second-level cache at every step: 64 MB a step at the paper's size, which takes as long as the step's launches in a
graph.  Such networks run step by step (`stepwise.py`), and so do large batches, which fill a GPU anyway.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from aru_kernels.triton.controller import Controller, padded_rows
from aru_kernels.triton.kernels.persistent import (
    adaptive_steps_bwd_kernel,
    adaptive_steps_fwd_kernel,
    static_steps_bwd_kernel,
    static_steps_fwd_kernel,
)
from aru_kernels.triton.launch import OPTIONS, accumulator, warp_size
from aru_kernels.triton.networks import (
    Adaptive,
    AdaptiveBackwardAtOnce,
    AdaptiveForward,
    AdaptiveUpstream,
    Past,
    Static,
    StaticBackward,
    StaticForward,
)
from aru_kernels.triton.ways import AtOnce, over_batch, slots, start_gradient

# The largest networks that fit into registers without spilling, by the compiler's report: neurons of a static and of an
# adaptive network, and units of its controller.
MAX_STATIC, MAX_ADAPTIVE, MAX_UNITS = 64, 64, 16
# A larger batch fills the largest GPUs by itself, and one matrix product a step uses them better.
MAX_BATCH = 1024
# Enough threads that their registers hold W_hh and the state.
_THREADS = 256


def fits(B: int, H: int, GP: int = 0) -> bool:
    """Whether a network runs in one launch; GP: padded units of its controller, 0 without one."""
    return B <= MAX_BATCH and (H <= MAX_ADAPTIVE if GP else H <= MAX_STATIC) and GP <= MAX_UNITS


def _constants(H: int, n_floor: float, like: Tensor) -> dict[str, object]:
    return {
        "H": H,
        "HP": max(16, triton.next_power_of_2(H)),
        "N_FLOOR": n_floor,
        "ACC": accumulator(like.dtype),
        "num_warps": _THREADS // warp_size(like.device),
        **OPTIONS,
    }


def _product(controller: Controller) -> str:
    # three TF32 products would spill, and products of so few units take little time on float32 units
    return "ieee" if controller.product == "tf32x3" else controller.product


def adaptive_forward(network: Adaptive, x: AdaptiveForward) -> None:
    """Launches steps of the adaptive network; fills h, a, g, n and s."""
    (S, B, H), controller = x.xp.shape, network.controller
    adaptive_steps_fwd_kernel[(B,)](
        *(x.xp, x.h_before, x.g_before, network.weight_hh, controller.w, network.leak),
        *(x.a, x.h, x.g, x.n, x.s, B, S),
        KEEP_A=len(x.a) == S,
        KEEP_G=len(x.g) == S,
        GAINS=x.n is not None,
        HAS_LEAK=network.leak is not None,
        GS=x.g.shape[-1],
        GP=controller.GP,
        PRODUCT=_product(controller),
        **_constants(H, controller.n_floor, x.xp),
    )


def adaptive_backward(network: Adaptive, x: AdaptiveBackwardAtOnce) -> None:
    """Launches steps of the adaptive network backward; fills d_xp, updates d_rec, dg and the sums."""
    (S, B, H), controller = x.a.shape, network.controller
    adaptive_steps_bwd_kernel[(B,)](
        *(x.d_h, x.d_a, x.d_n, x.d_s, x.a, x.g, network.weight_hh, controller.w, network.leak, x.h_before),
        *(x.d_xp, x.d_rec, x.dg, x.partials, x.d_leak, B, S),
        HAS_H=x.d_h is not None,
        HAS_A=x.d_a is not None,
        HAS_N=x.d_n is not None,
        HAS_S=x.d_s is not None,
        HAS_LEAK=network.leak is not None,
        GS=x.g.shape[-1],
        GP=controller.GP,
        PRODUCT=_product(controller),
        **_constants(H, controller.n_floor, x.a),
    )


def static_forward(network: Static, x: StaticForward) -> None:
    """Launches steps of the static network; fills h and a."""
    S, B, H = x.xp.shape
    static_steps_fwd_kernel[(B,)](
        *(x.xp, x.h_before, network.weight_hh, network.n, network.s, network.leak, x.a, x.h, B, S),
        KEEP_A=len(x.a) == S,
        HAS_LEAK=network.leak is not None,
        **_constants(H, network.n_floor, x.xp),
    )


def static_backward(network: Static, x: StaticBackward) -> None:
    """Launches steps of the static network backward; fills d_xp, updates d_rec and the sums."""
    S, B, H = x.a.shape
    static_steps_bwd_kernel[(B,)](
        *(x.d_h, x.d_a, x.a, network.weight_hh, network.n, network.s, network.leak, x.h_before),
        *(x.d_xp, x.d_rec, x.dn, x.ds, x.d_leak, B, S),
        HAS_H=x.d_h is not None,
        HAS_A=x.d_a is not None,
        HAS_LEAK=network.leak is not None,
        **_constants(H, network.n_floor, x.a),
    )


class AdaptiveAtOnce(AtOnce[Adaptive]):
    """The adaptive network, all steps of a chunk in one launch."""

    forward = staticmethod(adaptive_forward)

    def state_type(self, segment: int) -> torch.dtype:
        """The dtype of states between checkpoints."""
        return self.network.weight_hh.dtype

    def gradients(
        self,
        upstream: AdaptiveUpstream,
        a: Tensor,
        kept: Tensor,
        g0: Tensor,
        d_xp: Tensor,
        segment: int,
        past: Past | None,
    ) -> tuple[Tensor, ...]:
        """Fills d_xp; returns the gradients of h0, g0, the controller's weights and, with `past`, the leak.

        a: (T, B, H).  kept: the states that the forward pass kept, (slots, B, H, GS).  past: of a network with a leak.
        """
        T, B, H = a.shape
        controller, parts = self.network.controller, self.chunks(T, segment)
        # the states before the steps of a chunk
        states = kept[:T] if segment == 1 else a.new_empty(parts[0].stop, *kept.shape[1:])
        d_rec = a.new_empty(B, H)
        start_gradient(d_rec, upstream.d_h_last)
        dg = a.new_zeros(kept.shape[1:]) if upstream.d_g is None else padded_rows(upstream.d_g, kept.shape[-1])
        partials, d_leak = controller.new_partials(B), None if past is None else torch.empty_like(a)
        for index, part in reversed(list(enumerate(parts))):
            if segment == 1:
                g = states[part]
            else:
                g = states[: part.stop - part.start]
                g[0].copy_(kept[index])
                controller.states(a[part][:-1], g[0], g[1:])
            adaptive_backward(
                self.network,
                AdaptiveBackwardAtOnce(
                    *upstream.of_steps(part),
                    a=a[part],
                    g=g,
                    d_xp=d_xp[part],
                    d_rec=d_rec,
                    dg=dg,
                    partials=partials,
                    h_before=None if past is None else past.before(part),
                    d_leak=slots(d_leak, part),
                ),
            )
        d_g0 = dg[..., : g0.shape[-1]].clone(memory_format=torch.contiguous_format)
        leak = () if d_leak is None else (over_batch(d_leak.flatten(0, 1), (H,)),)
        return d_rec, d_g0, *controller.gradients_of_partials(partials, a.dtype), *leak


class StaticAtOnce(AtOnce[Static]):
    """The static network, all steps of a chunk in one launch."""

    forward = staticmethod(static_forward)
    backward = staticmethod(static_backward)
