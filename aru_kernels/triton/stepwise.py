"""Large networks: a matrix product with W_hh and one launch a step, in CUDA graphs.

The backward pass carries du, the gradient of the controller's pre-activation u, from step to step (see
`controller.py`), and sums the gradients of the controller's weights over up to SLOTS steps at a time.

At precision "medium" and with checkpoints, states between the checkpoints are float16, whose 11 bits 1 - g² needs near
|g| = 1, and their gradients are bfloat16, because they need range.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from aru_kernels.triton.controller import padded_rows, row_length
from aru_kernels.triton.kernels.static import static_step_bwd_kernel, static_step_fwd_kernel
from aru_kernels.triton.launch import OPTIONS, accumulator
from aru_kernels.triton.networks import (
    Adaptive,
    AdaptiveBackward,
    AdaptiveForward,
    AdaptiveUpstream,
    Past,
    Static,
    StaticBackward,
    StaticForward,
)
from aru_kernels.triton.ways import StepByStep, at, over_batch, sized, start_gradient

# Steps whose gradients wait for the sums: few enough that they are small beside the states.
SLOTS = 16
# Rows of a program of the static network's kernels; a step has fewer rows than a large GPU has threads.
_BLOCK_R = 256


def adaptive_forward(network: Adaptive, x: AdaptiveForward) -> None:
    """Launches steps of the adaptive network; fills h, a, g, n and s."""
    h, g, weight_hh_t = x.h_before, x.g_before, network.weight_hh.t()
    leak = _rows(network.leak, h)
    product = torch.empty_like(h)
    for j in range(len(x.xp)):
        # addmm would copy xp first
        torch.mm(h, weight_hh_t, out=product)
        h_next, g_next = x.h[j], at(x.g, j)
        network.controller.step(
            x=x.xp[j],
            a=product,
            total=at(x.a, j),
            g=g,
            h=h_next,
            g_next=g_next,
            n=at(x.n, j),
            s=at(x.s, j),
            leak=leak,
            h_before=None if leak is None else h,
        )
        h, g = h_next, g_next


def adaptive_backward(network: Adaptive, x: AdaptiveBackward) -> None:
    """Launches steps of the adaptive network backward; fills d_xp, updates d_rec, du, vectors and the sums."""
    controller, du, vectors = network.controller, x.du, x.vectors
    S, most, leak = len(x.a), len(du) - 1, _rows(network.leak, x.d_rec)
    for end in range(S, 0, -most):
        begin = max(0, end - most)
        count = end - begin
        # the step after these is that of slot 0
        du[count].copy_(du[0])
        vectors[0, count].copy_(vectors[0, 0])
        for j in reversed(range(begin, end)):
            slot = j - begin
            # the last step of a sequence has the gradient of g from outside, instead of a next step's du
            outside = x.d_g is not None and j == S - 1
            controller.step_backward(
                d_h=at(x.d_h, j),
                d_rec=x.d_rec,
                d_a=at(x.d_a, j),
                d_n=at(x.d_n, j),
                d_s=at(x.d_s, j),
                d_g=x.d_g if outside else None,
                du_after=None if outside else du[slot + 1],
                a=x.a[j],
                g=x.g[j],
                da=x.d_xp[j],
                du=du[slot],
                vectors=vectors[:, slot],
                leak=leak,
                h_before=at(x.h_before, j),
                d_leak=x.d_leak,
            )
            _through_weights(network, x.d_xp[j], x.d_rec)
        # a state enters the u of the next step, and the gains of its own step
        after, own = slice(1, count + 1), slice(count)
        controller.add_sums(x.sums, du[after], vectors[0, after], x.g[begin:end], *vectors[1:, own])


def _rows(leak: Tensor | None, like: Tensor) -> Tensor | None:
    """The leak (H,) with a row for every element of `like`, (B, H)."""
    return None if leak is None else leak.expand_as(like).contiguous()


def _through_weights(network: Adaptive | Static, da: Tensor, d_rec: Tensor) -> None:
    """Sets d_rec to da W_hh; with a leak adds it, because the step has left the gradient through the leak there."""
    if network.leak is None:
        torch.mm(da, network.weight_hh, out=d_rec)
    else:
        d_rec.addmm_(da, network.weight_hh)


def static_forward(network: Static, x: StaticForward) -> None:
    """Launches steps of the static network; fills h and a."""
    h, weight_hh_t = x.h_before, network.weight_hh.t()
    grid, R, H, options = _static_launch(network, h)
    for j in range(len(x.xp)):
        a = at(x.a, j)
        torch.addmm(x.xp[j], h, weight_hh_t, out=a)
        h_next, before = x.h[j], None if network.leak is None else h
        static_step_fwd_kernel[grid](a, network.n, network.s, network.leak, before, h_next, R, H, **options)
        h = h_next


def static_backward(network: Static, x: StaticBackward) -> None:
    """Launches steps of the static network backward; fills d_xp, updates d_rec, dn and ds."""
    grid, R, H, options = _static_launch(network, x.d_rec)
    options |= {"HAS_H": x.d_h is not None, "HAS_A": x.d_a is not None}
    for j in reversed(range(len(x.a))):
        d_xp = x.d_xp[j]
        static_step_bwd_kernel[grid](
            *(at(x.d_h, j), x.d_rec, at(x.d_a, j), x.a[j], network.n, network.s, network.leak, at(x.h_before, j)),
            *(d_xp, x.dn, x.ds, x.d_leak, R, H),
            **options,
        )
        _through_weights(network, d_xp, x.d_rec)


def _static_launch(network: Static, like: Tensor) -> tuple[tuple[int], int, int, dict[str, object]]:
    """Grid, R, H and options for a step's rows like (B, H)."""
    constants = {"N_FLOOR": network.n_floor, "ACC": accumulator(like.dtype), "BLOCK_R": _BLOCK_R}
    options = {**constants, "HAS_LEAK": network.leak is not None, "num_warps": 4, **OPTIONS}
    return (triton.cdiv(like.numel(), _BLOCK_R),), like.numel(), like.shape[-1], options


class AdaptiveStepByStep(StepByStep[Adaptive]):
    """The adaptive network, step by step."""

    forward = staticmethod(adaptive_forward)

    def _narrow(self, segment: int) -> bool:
        return self.network.controller.narrow and segment > 1

    def state_type(self, segment: int) -> torch.dtype:
        """The dtype of states between checkpoints."""
        return torch.float16 if self._narrow(segment) else self.network.weight_hh.dtype

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
        state_type = self.state_type(segment)
        gradient_type = torch.bfloat16 if self._narrow(segment) else a.dtype
        GS = row_length(g0.shape[-1], state_type)
        slots = min(SLOTS, parts[0].stop)

        def arguments(part: slice, **others: Any) -> AdaptiveBackward:
            return AdaptiveBackward(*upstream.of_steps(part), a=a[part], d_xp=d_xp[part], **others)

        # the example gives sizes, and `run` the memory of what stays from chunk to chunk
        example = arguments(
            parts[0],
            d_g=None,
            g=kept[1:][parts[0]] if segment == 1 else sized(a, parts[0].stop, B, H, GS, dtype=state_type),
            d_rec=a[0],
            du=sized(a, slots + 1, B, H, GS, dtype=gradient_type),
            vectors=sized(a, 3, slots + 1, B, H),
            sums=sized(a, *controller.sums_shape(slots * B * H)),
            h_before=None if past is None else sized(a, parts[0].stop, B, H),
            d_leak=None if past is None else a[0],
        )
        with self.running(adaptive_backward, example) as run:
            d_rec, du, vectors = (run.buffer(name) for name in ("d_rec", "du", "vectors"))
            sums, d_leak = run.zeros("sums"), None if past is None else run.zeros("d_leak")
            states = kept[1:] if segment == 1 else run.buffer("g")
            start_gradient(d_rec, upstream.d_h_last)
            for x in (du[0], vectors[0, 0]):
                x.zero_()
            for index, part in reversed(list(enumerate(parts))):
                if segment == 1:
                    g = states[part]
                else:
                    g = states[: part.stop - part.start]
                    controller.states(a[part], kept[index], g)
                d_g = None if upstream.d_g is None or part.stop < T else padded_rows(upstream.d_g, GS)
                h_before = None if past is None else past.before(part)
                carried = {"d_rec": d_rec, "du": du, "vectors": vectors, "sums": sums, "d_leak": d_leak}
                run(arguments(part, d_g=d_g, g=g, h_before=h_before, **carried))
            # of g0, from which no gains are read
            vectors[1:, 0].zero_()
            controller.add_sums(sums, du[0], vectors[0, 0], padded_rows(g0, GS).to(state_type), *vectors[1:, 0])
            weights = controller.weight_gradients(sums, a.dtype)
            leak = () if d_leak is None else (over_batch(d_leak, (H,)),)
            return run.result(d_rec), controller.before(du[0], g0), *weights, *leak


class StaticStepByStep(StepByStep[Static]):
    """The static network, step by step."""

    forward = staticmethod(static_forward)
    backward = staticmethod(static_backward)
