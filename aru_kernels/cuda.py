"""The backend `cuda`: Python face of the persistent kernels in csrc/cuda (extension `aru_kernels._cuda`).

One launch takes a sequence through all its steps.  It serves only sequences; other backends compute γ and the
single step.  Products follow the precision: "medium" bfloat16, "high" TF32, "highest" numbers split in three
bfloat16 parts, which is float32 to the last bit or so; sums are float32.  See docs/cuda.md.
"""

from __future__ import annotations

import functools
import importlib
import math
import os
import reprlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aru_kernels import _checks as check
from aru_kernels._arguments import (
    AruInputs,
    AruOptions,
    AruOutputs,
    AruSaved,
    AruStates,
    GammaRnnInputs,
    GammaRnnOptions,
    GammaRnnOutputs,
    GammaRnnSaved,
    GammaRnnStates,
    controller_of,
)
from aru_kernels._install import cure
from aru_kernels._memory import wanted_budget
from aru_kernels._precision import product_precision
from aru_kernels._version import __version__

_C: Any  # the extension, or None
try:
    _C = importlib.import_module("aru_kernels._cuda")
except ImportError as error:
    _C, _import_error = None, str(error)

# Form of csrc/cuda/forms.h: how float32 matrices are multiplied
FORMS = {"medium": 0, "high": 1, "highest": 2}
# A second form for "high", which serves forward passes that keep no state, on GPUs with groups of warps
MIXED = 3

Sizes = tuple[int, int, int, int]
"""T, B, H, G; G = 0 for the static network."""
Tiling = tuple[int, ...]
"""cluster, blocks, slice, batch, warps, groups, together: see csrc/cuda/tiling.h."""


def unavailable() -> str | None:
    """Why the extension cannot be used, or None."""
    if _C is None:
        outcome = Path(__file__).with_name("_build_cuda.txt")
        if outcome.exists() and (text := outcome.read_text(encoding="utf-8").split("\n", 1)[0]) != "built":
            return f"the CUDA extension is not built: {text}; {cure('with nvcc and a C++17 compiler (g++ or clang++)')}"
        return f"the CUDA extension cannot be loaded ({_import_error}); {cure()}"
    if _C.version != __version__:
        return f"the CUDA extension is of version {_C.version}, the package of {__version__}; {cure()}"
    return _C.device_problem(torch.cuda.current_device() if torch.cuda.is_available() else 0) or None


def device() -> str:
    """The GPU, and what the kernels were compiled for."""
    assert _C is not None
    return f"{torch.cuda.get_device_name()}, kernels for sm_{_C.architectures}"


def refuses(H: int, G: int) -> str | None:
    """Why no kernel serves a sequence of these sizes on the current device, or None.  G = 0: the static network."""
    index = _current_index()
    for backward in (False, True):
        if isinstance(plan := _plan(index, FORMS[product_precision("cuda")], backward, 1, H, G), str):
            return plan
    return None


@functools.lru_cache(4096)
def _plan(index: int, form: int, backward: bool, B: int, H: int, G: int) -> Tiling | str:
    """How device `index` takes the sequence, or why it cannot."""
    try:
        return tuple(_C.plan(index, form, backward, (1, B, H, G)))
    except ValueError as error:
        return str(error)


def _tiling(index: int, form: int, backward: bool, sizes: Sizes) -> Tiling:
    plan = _plan(index, form, backward, *sizes[1:])
    if isinstance(plan, str):
        raise RuntimeError(f"backend 'cuda' cannot run the sequence: {plan}.")
    return plan


def forward_form(index: int, precision: str, segment: int, sizes: Sizes) -> int:
    """The form of a forward pass: MIXED where ARU_CUDA_HIGH asks for it and its kernels serve the pass."""
    wanted = precision == "high" and _high() == "mixed" and segment == 0 and sizes[3] > 0
    if wanted and not isinstance(_plan(index, MIXED, False, *sizes[1:]), str):
        return MIXED
    return FORMS[precision]


def _high() -> str:
    """ARU_CUDA_HIGH: the form of the products at "high", "tf32" or "mixed"."""
    name = os.environ.get("ARU_CUDA_HIGH") or "tf32"
    if name not in ("tf32", "mixed"):
        raise ValueError(f"the environment variable ARU_CUDA_HIGH is {reprlib.repr(name)}, expected 'tf32' or 'mixed'.")
    return name


def _stream(x: Tensor) -> int:
    return torch.cuda.current_stream(x.device).cuda_stream


def _current_index() -> int:
    return torch.cuda.current_device() if torch.cuda.is_available() else 0


def _index(x: Tensor) -> int:
    return x.device.index or 0


def _bytes(like: Tensor, count: int) -> Tensor | None:
    return like.new_empty(-(-count // 4)) if count else None


# Bytes of kept state up to which all of it is kept.
SMALL_STATE = 256 * 2**20
# Steps between checkpoints beyond that, of float32 and of float16: about 2 GB of memory for a training step of the
# paper's size.  The state of a segment, computed again, still lies in the second-level cache for the most part.
SEGMENT, SEGMENT_HALF = 8, 4
# n and s of all steps are kept beside checkpoints too: they take little, and save their share of the recomputation.
KEEPS_GAINS = True


def kept_elements(T: int, B: int, H: int, G: int, dtype: torch.dtype, precision: str, segment: int) -> int:
    """Elements of the state that a forward pass keeps: slots of float32 numbers, or of pairs of float16 in "medium"."""
    if segment == 0 or B == 0:
        return 0
    slots = T + 1 if segment == 1 else -(-T // segment)
    return slots * _slot_elements(B, H, G, precision)


def _slot_elements(B: int, H: int, G: int, precision: str) -> int:
    """Elements of the state of all neurons at one time, in quads of neurons and column tiles of eight units.

    The layout is that of csrc/cuda/device_layout.h.
    """
    return B * -(-H // 4) * 4 * -(-G // 8) * (4 if _half(precision) else 8)


def _half(precision: str) -> bool:
    """Whether the kept state is float16."""
    return precision == "medium"


def choose_segment(T: int, B: int, H: int, G: int, dtype: torch.dtype, precision: str) -> int:
    """K: the state g is kept before every K-th step; 1 where all of it is small or fits ARU_STATE_BUDGET."""
    everything = 4 * kept_elements(T, B, H, G, dtype, precision, 1)
    budget = wanted_budget()
    limit = SMALL_STATE if budget is None else budget
    if everything <= limit:
        return 1
    usual = SEGMENT_HALF if _half(precision) else SEGMENT
    if budget is None:
        return min(T, usual)
    checkpoints = max(1, limit * (T + 1) // everything)
    # As many steps again as there are checkpoints take the least memory together.
    return min(T, max(usual, min(-(-T // checkpoints), math.isqrt(T) + 1)))


def aru_sequence_fwd(inputs: AruInputs, options: AruOptions) -> AruStates:
    """h, the last g, a, n, s and the kept state; a, n and s are empty where neither trace nor gradient needs them."""
    xp, precision, segment = inputs.xp, options.precision, options.segment
    (T, B, H), G = xp.shape, inputs.g0.shape[-1]
    shape = xp.shape if options.trace or segment else (0,)
    states = AruStates(
        h=xp.new_empty(xp.shape),
        g=xp.new_empty(inputs.g0.shape),
        a=xp.new_empty(shape),
        n=xp.new_empty(shape),
        s=xp.new_empty(shape),
        kept=xp.new_empty(kept_elements(T, B, H, G, xp.dtype, precision, segment)),
    )
    _forward(
        (T, B, H, G),
        options.n_floor,
        precision,
        segment,
        **inputs._asdict(),
        h=states.h,
        a=states.a,
        n=states.n,
        s=states.s,
        g_last=states.g,
        kept=states.kept,
    )
    return states


def _forward(sizes: Sizes, n_floor: float, precision: str, segment: int, **tensors: Tensor) -> None:
    """Runs the kernel with tensors by the names of its struct's fields; empty ones become null pointers."""
    xp = tensors["xp"]
    index = _index(xp)
    form = forward_form(index, precision, segment, sizes)
    tiling = _tiling(index, form, segment > 0, sizes)  # what is kept lies as the backward pass has its rows
    exchange = _bytes(xp, _C.exchange_bytes(form, False, sizes, tiling))
    alive, addresses = _addresses(exchange=exchange, **tensors)
    _C.forward(index, _stream(xp), form, sizes, tiling, n_floor, max(1, segment), **addresses)
    del alive


def _addresses(**tensors: Tensor | None) -> tuple[list[Tensor], dict[str, int]]:
    """Contiguous tensors, to be held during the launch, and the addresses of those that are present."""
    alive = {name: x.contiguous() for name, x in tensors.items() if x is not None and x.numel()}
    return list(alive.values()), {name: x.data_ptr() for name, x in alive.items()}


def aru_sequence_bwd(upstream: AruOutputs, saved: AruSaved, options: AruOptions) -> AruInputs:
    """The gradients of the inputs."""
    a, precision, segment = saved.a, options.precision, options.segment
    (T, B, H), G = a.shape, saved.g0.shape[-1]
    d_xp, d_h0, d_g0 = (a.new_empty(x.shape) for x in (a, saved.h0, saved.g0))
    sums = _backward(
        (T, B, H, G),
        options.n_floor,
        precision,
        segment,
        weight_hh=saved.weight_hh,
        **controller_of(saved)._asdict(),
        a=a,
        n=saved.n,
        s=saved.s,
        kept=saved.kept,
        recomputed=a.new_empty(segment * _slot_elements(B, H, G, precision)) if segment > 1 else None,
        d_h=upstream.h,
        d_h_last=upstream.h_last,
        d_g_last=upstream.g,
        d_a=upstream.a,
        d_n=upstream.n,
        d_s=upstream.s,
        d_xp=d_xp,
        d_h0=d_h0,
        d_g0=d_g0,
    )
    total = sums.sum(0)
    last = total.shape[1] - 1
    units = _of_units(total, 0, G)
    return AruInputs(
        xp=d_xp,
        h0=d_h0,
        g0=d_g0,
        weight_hh=_recurrent_gradient(d_xp, saved.h0, saved.h),
        weight_ag=units[:, last - 1].contiguous(),
        weight_gg=_of_units(units, 1, G).contiguous(),
        bias_g=units[:, last].contiguous(),
        weight_gc=_of_units(total[last - 1 : last + 1], 1, G).contiguous(),
        bias_c=total[last - 1 : last + 1, last].contiguous(),
    )


def _of_units(sums: Tensor, dim: int, G: int) -> Tensor:
    """Those rows or columns of the kernels' sums that belong to units: of the last eight, up to three units have even
    ones (`unit_of` in csrc/cuda/tiling.h)."""
    whole, rest = G // 8 * 8, G % 8
    if not 0 < rest < 4:
        return sums.narrow(dim, 0, G)
    spread = sums.narrow(dim, whole, 2 * rest).unflatten(dim, (rest, 2)).select(dim + 1, 0)
    return torch.cat((sums.narrow(dim, 0, whole), spread), dim)


def _backward(
    sizes: Sizes, n_floor: float, precision: str, segment: int, d_xp: Tensor, **tensors: Tensor | None
) -> Tensor:
    """Runs the kernel and returns its sums, one to add over their first dimension."""
    index, form = _index(d_xp), FORMS[precision]
    tiling = _tiling(index, form, True, sizes)
    sums = d_xp.new_empty(_C.sums_shape(form, sizes, tiling))
    exchange = _bytes(d_xp, _C.exchange_bytes(form, True, sizes, tiling))
    alive, addresses = _addresses(d_xp=d_xp, sums=sums, exchange=exchange, **tensors)
    _C.backward(index, _stream(d_xp), form, sizes, tiling, n_floor, segment, **addresses)
    del alive
    return sums


def _recurrent_gradient(d_xp: Tensor, h0: Tensor, h: Tensor) -> Tensor:
    """Σ_t da_t h_{t-1}^T, by products over all steps at once; in torch's own matmul precision."""
    H = d_xp.shape[-1]
    with check.no_autocast(d_xp.device):
        first = d_xp[0].T @ h0
        return torch.addmm(first, d_xp[1:].view(-1, H).T, h[:-1].view(-1, H)) if len(d_xp) > 1 else first


def gamma_rnn_sequence_fwd(inputs: GammaRnnInputs, options: GammaRnnOptions) -> GammaRnnStates:
    """h, and a where a gradient or the trace needs it (else empty)."""
    xp = inputs.xp
    T, B, H = xp.shape
    states = GammaRnnStates(h=xp.new_empty(xp.shape), a=xp.new_empty(xp.shape if options.keep else (0,)))
    _forward(
        (T, B, H, 0),
        options.n_floor,
        options.precision,
        0,
        xp=xp,
        h0=inputs.h0,
        weight_hh=inputs.weight_hh,
        n_given=inputs.n.expand(H),
        s_given=inputs.s.expand(H),
        h=states.h,
        a=states.a,
    )
    return states


def gamma_rnn_sequence_bwd(upstream: GammaRnnOutputs, saved: GammaRnnSaved, options: GammaRnnOptions) -> GammaRnnInputs:
    """The gradients of the inputs."""
    a = saved.a
    T, B, H = a.shape
    d_xp, d_h0 = a.new_empty(a.shape), a.new_empty(saved.h0.shape)
    sums = _backward(
        (T, B, H, 0),
        options.n_floor,
        options.precision,
        1,
        weight_hh=saved.weight_hh,
        n_given=saved.n.expand(H),
        s_given=saved.s.expand(H),
        a=a,
        d_h=upstream.h,
        d_h_last=upstream.h_last,
        d_a=upstream.a,
        d_xp=d_xp,
        d_h0=d_h0,
    )
    d_n, d_s = sums.sum(0)[:, :H]
    return GammaRnnInputs(
        xp=d_xp,
        h0=d_h0,
        weight_hh=_recurrent_gradient(d_xp, saved.h0, saved.h),
        n=d_n.sum_to_size(saved.n.shape),
        s=d_s.sum_to_size(saved.s.shape),
    )


KERNELS = {
    "aru_sequence": (aru_sequence_fwd, aru_sequence_bwd),
    "gamma_rnn_sequence": (gamma_rnn_sequence_fwd, gamma_rnn_sequence_bwd),
}
