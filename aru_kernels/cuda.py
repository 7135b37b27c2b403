"""The backend `cuda`: Python face of the persistent kernels in csrc/cuda (extension `aru_kernels._cuda`).

One launch takes a sequence through all its steps.  The module has the sequences alone; γ and the single step are
other backends'.  Products by the wanted precision: "medium" bfloat16, "high" TF32, "highest" numbers split in three
bfloat16 parts, which is float32 to the last bit or so; sums are float32.  docs/cuda.md has the whole of it.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from aru_kernels import _checks as check
from aru_kernels._memory import wanted_budget
from aru_kernels._precision import product_precision
from aru_kernels._version import __version__

_C: ModuleType | None
try:
    _C = importlib.import_module("aru_kernels._cuda")
except ImportError as error:
    _C, _import_error = None, str(error)

# Form of csrc/cuda/sequence.h: how float32 matrices are multiplied
FORMS = {"medium": 0, "high": 1, "highest": 2}

Sizes = tuple[int, int, int, int]
"""T, B, H, G; G = 0 for the static network."""
Tiling = tuple[int, ...]
"""cluster, blocks, slice, batch, warps, groups, together: see csrc/cuda/sequence.h."""


def unavailable() -> str | None:
    """Why the extension cannot be used, or None."""
    if _C is None:
        outcome = Path(__file__).with_name("_build_cuda.txt")
        if outcome.exists() and (text := outcome.read_text().split("\n", 1)[0]) != "built":
            return f"the CUDA extension is not built: {text}"
        return f"the CUDA extension cannot be loaded ({_import_error}); run `pip install -e .` to build it"
    if _C.version != __version__:
        return f"the CUDA extension is of version {_C.version}, the package of {__version__}; run `pip install -e .`"
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


def _stream(x: Tensor) -> int:
    return torch.cuda.current_stream(x.device).cuda_stream


def _current_index() -> int:
    return torch.cuda.current_device() if torch.cuda.is_available() else 0


def _index(x: Tensor) -> int:
    return x.device.index or 0


def _bytes(like: Tensor, count: int) -> Tensor | None:
    return like.new_empty(-(-count // 4)) if count else None


def _addresses(tensors: Sequence[Tensor | None]) -> list[int]:
    return [0 if x is None else x.data_ptr() for x in tensors]


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
    """Elements of the state of all neurons at one time, as csrc/cuda/sequence.h lays it out: quads of neurons, column
    tiles of eight units."""
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


def aru_sequence_fwd(
    xp: Tensor,
    h0: Tensor,
    g0: Tensor,
    weight_hh: Tensor,
    weight_ag: Tensor,
    weight_gg: Tensor,
    bias_g: Tensor,
    weight_gc: Tensor,
    bias_c: Tensor,
    n_floor: float,
    precision: str,
    segment: int,
    trace: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """h, last g, a, n, s and the kept state; a, n and s are empty where neither the trace nor a gradient needs them."""
    controller = (weight_ag, weight_gg, bias_g, weight_gc, bias_c)
    (T, B, H), G = xp.shape, g0.shape[-1]
    h, g = xp.new_empty(xp.shape), xp.new_empty(g0.shape)
    a = xp.new_empty(xp.shape if trace or segment else (0,))
    n, s = (xp.new_empty(xp.shape if trace or segment else (0,)) for _ in "ns")
    kept = xp.new_empty(kept_elements(T, B, H, G, xp.dtype, precision, segment))
    if xp.numel():
        results = [x if x.numel() else None for x in (h, a, n, s, g, kept)]
        _forward((T, B, H, G), n_floor, precision, segment, [xp, h0, g0, weight_hh, *controller, None, None, *results])
    return h, g, a, n, s, kept


def _forward(sizes: Sizes, n_floor: float, precision: str, segment: int, tensors: list[Tensor | None]) -> None:
    tensors = [None if x is None else x.contiguous() for x in tensors]
    xp = tensors[0]
    index, form = _index(xp), FORMS[precision]
    keeps = tensors[-1] is not None
    tiling = _tiling(index, form, keeps, sizes)  # what is kept lies as the backward pass has its rows
    exchange = _bytes(xp, _C.exchange_bytes(form, False, sizes, tiling))
    addresses = _addresses([*tensors, exchange])
    _C.forward(index, _stream(xp), form, sizes, tiling, n_floor, max(1, segment), addresses)


def aru_sequence_bwd(
    d_h: Tensor | None,
    d_h_last: Tensor | None,
    d_g: Tensor | None,
    d_a: Tensor | None,
    d_n: Tensor | None,
    d_s: Tensor | None,
    h0: Tensor,
    g0: Tensor,
    weight_hh: Tensor,
    weight_ag: Tensor,
    weight_gg: Tensor,
    bias_g: Tensor,
    weight_gc: Tensor,
    bias_c: Tensor,
    h: Tensor,
    a: Tensor,
    n: Tensor,
    s: Tensor,
    kept: Tensor,
    n_floor: float,
    precision: str,
    segment: int,
) -> tuple[Tensor, ...]:
    """Gradients for xp, h0, g0, weight_hh and the controller's weights."""
    controller = (weight_ag, weight_gg, bias_g, weight_gc, bias_c)
    (T, B, H), G = a.shape, g0.shape[-1]
    if not a.numel():
        return tuple(torch.zeros_like(x) for x in (a, h0, g0, weight_hh, *controller))
    sizes = (T, B, H, G)
    d_xp, d_h0, d_g0 = (a.new_empty(x.shape) for x in (a, h0, g0))
    recomputed = a.new_empty(segment * _slot_elements(B, H, G, precision)) if segment > 1 else None
    sums = _backward(
        sizes,
        n_floor,
        precision,
        segment,
        [weight_hh, *controller, None, None, a, n, s, kept, recomputed],
        [d_h, d_a, d_n, d_s, d_h_last, d_g],
        [d_xp, d_h0, d_g0],
    )
    total = sums.sum(0)
    last = total.shape[1] - 1
    units = _of_units(total, 0, G)
    d_controller = (
        units[:, last - 1].contiguous(),
        _of_units(units, 1, G).contiguous(),
        units[:, last].contiguous(),
        _of_units(total[last - 1 : last + 1], 1, G).contiguous(),
        total[last - 1 : last + 1, last].contiguous(),
    )
    return d_xp, d_h0, d_g0, _recurrent_gradient(d_xp, h0, h), *d_controller


def _of_units(sums: Tensor, dim: int, G: int) -> Tensor:
    """Those rows or columns of the kernels' sums that belong to units: of the last eight, up to three units have even
    ones (`unit_of` in csrc/cuda/sequence.h)."""
    whole, rest = G // 8 * 8, G % 8
    if not 0 < rest < 4:
        return sums.narrow(dim, 0, G)
    spread = sums.narrow(dim, whole, 2 * rest).unflatten(dim, (rest, 2)).select(dim + 1, 0)
    return torch.cat((sums.narrow(dim, 0, whole), spread), dim)


def _backward(sizes, n_floor, precision, segment, operands, upstream, results):
    """Runs the kernel and returns its sums, one to add over their first dimension."""
    operands = [None if x is None else x.contiguous() for x in operands]
    upstream = [None if x is None else x.contiguous() for x in upstream]
    like = results[0]
    index, form = _index(like), FORMS[precision]
    tiling = _tiling(index, form, True, sizes)
    sums = like.new_empty(_C.sums_shape(form, sizes, tiling))
    exchange = _bytes(like, _C.exchange_bytes(form, True, sizes, tiling))
    addresses = _addresses([*operands, *upstream, *results, sums, exchange])
    _C.backward(index, _stream(like), form, sizes, tiling, n_floor, segment, addresses)
    return sums


def _recurrent_gradient(d_xp: Tensor, h0: Tensor, h: Tensor) -> Tensor:
    """Σ_t da_t h_{t-1}^T, by products over all steps at once; in torch's own matmul precision."""
    H = d_xp.shape[-1]
    with check.no_autocast(d_xp.device):
        first = d_xp[0].T @ h0
        return torch.addmm(first, d_xp[1:].view(-1, H).T, h[:-1].view(-1, H)) if len(d_xp) > 1 else first


def gamma_rnn_sequence_fwd(
    xp: Tensor, h0: Tensor, weight_hh: Tensor, n: Tensor, s: Tensor, n_floor: float, precision: str, keep: bool
) -> tuple[Tensor, Tensor]:
    """h, and a where a gradient or the trace needs it (else empty)."""
    T, B, H = xp.shape
    h, a = xp.new_empty(xp.shape), xp.new_empty(xp.shape if keep else (0,))
    if xp.numel():
        results = [h, a if keep else None, *[None] * 4]
        operands = [xp, h0, None, weight_hh, *[None] * 5, n.expand(H), s.expand(H)]
        _forward((T, B, H, 0), n_floor, precision, 1, [*operands, *results])
    return h, a


def gamma_rnn_sequence_bwd(
    d_h: Tensor | None,
    d_h_last: Tensor | None,
    d_a: Tensor | None,
    h0: Tensor,
    weight_hh: Tensor,
    n: Tensor,
    s: Tensor,
    h: Tensor,
    a: Tensor,
    n_floor: float,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients for xp, h0, weight_hh, n and s."""
    T, B, H = a.shape
    if not a.numel():
        return tuple(torch.zeros_like(x) for x in (a, h0, weight_hh, n, s))
    d_xp, d_h0 = a.new_empty(a.shape), a.new_empty(h0.shape)
    sums = _backward(
        (T, B, H, 0),
        n_floor,
        precision,
        1,
        [weight_hh, *[None] * 5, n.expand(H), s.expand(H), a, *[None] * 4],
        [d_h, d_a, None, None, d_h_last, None],
        [d_xp, d_h0, None],
    )
    d_n, d_s = sums.sum(0)[:, :H]
    return d_xp, d_h0, _recurrent_gradient(d_xp, h0, h), d_n.sum_to_size(n.shape), d_s.sum_to_size(s.shape)


KERNELS = {
    "aru_sequence": (aru_sequence_fwd, aru_sequence_bwd),
    "gamma_rnn_sequence": (gamma_rnn_sequence_fwd, gamma_rnn_sequence_bwd),
}
