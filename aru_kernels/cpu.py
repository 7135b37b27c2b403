"""The backend `cpu`: Python face of the C++ kernels in csrc/cpu (extension `aru_kernels._C`).

Every operation is a pair (forward, backward) of functions on tensors of one dtype, as `aru_kernels.ops` registers them.
"""

from __future__ import annotations

import importlib
import itertools
import math
import os
import platform
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from aru_kernels._memory import state_budget
from aru_kernels._version import __version__

_C: ModuleType | None
try:
    # After torch, so that the extension shares torch's OpenMP run time.
    _C = importlib.import_module("aru_kernels._C")
except ImportError as error:
    _C, _import_error = None, str(error)


def unavailable() -> str | None:
    """Why the extension cannot be used, or None."""
    if _C is None:
        outcome = Path(__file__).with_name("_build.txt")
        if outcome.exists() and (text := outcome.read_text().strip()) != "built":
            return f"the C++ extension is not built: {text}"
        return f"the C++ extension cannot be loaded ({_import_error}); run `pip install -e .` to build it"
    if _C.version != __version__:
        return f"the C++ extension is of version {_C.version}, the package of {__version__}; run `pip install -e .`"
    try:
        _C.isa()
    except ValueError as error:
        # `auto` would take the reference, some ten times slower, without a word
        warnings.warn(f"{error} The CPU kernels are not used.", RuntimeWarning, stacklevel=2)
        return str(error)
    return None


def processor() -> str:
    """The processor's name; with its family and model where the system tells, as a cloud's machines share a name."""
    try:
        with open("/proc/cpuinfo") as lines:
            first = itertools.takewhile(str.strip, lines)  # each processor's lines end with an empty one
            known = dict(map(str.strip, line.split(":", 1)) for line in first if ":" in line)
    except OSError:
        known = {}
    if "model name" not in known:
        return platform.processor() or platform.machine()
    if "cpu family" not in known:
        return known["model name"]
    return f"{known['model name']} (family {known['cpu family']}, model {known['model']})"


def device() -> str:
    """Instruction set and threads in use."""
    assert _C is not None
    others = ", ".join(_C.usable_isas())
    threads = torch.get_num_threads() if _C.openmp else 1
    return f"{_C.isa()} (of {others}), {threads} thread{'s' if threads > 1 else ''}, compiler {_C.compiler}"


# Dimensions that the element-wise kernel can walk (max_dims in csrc/cpu/gamma.h); beyond, operands are copied.
MAX_DIMS = 8
_NAMES = {torch.float32: "float32", torch.float64: "float64"}


def bfloat16_products() -> bool:
    """Whether the processor multiplies bfloat16 (AVX512-BF16) and the kernels in use know how."""
    return _C.bfloat16_products()


def _scalar(dtype: torch.dtype, precision: str) -> str:
    """The kernels' name of what they compute in."""
    if precision == "medium" and dtype == torch.float32 and bfloat16_products():
        return "bfloat16 products"
    return _NAMES[dtype]


def _launch(
    kernel: Callable[..., None], scalar: str, sizes: tuple[int, ...], n_floor: float, *tensors: Tensor | None
) -> None:
    """Calls a sequence kernel with tensors in the order of its struct; absent and empty ones become null pointers."""
    alive = [None if x is None else x.contiguous() for x in tensors]
    addresses = [0 if x is None else x.data_ptr() for x in alive]
    kernel(scalar, sizes, addresses, n_floor, torch.get_num_threads())


def gamma_fwd(x: Tensor, n: Tensor, s: Tensor, n_floor: float) -> Tensor:
    """γ; n and s broadcast to x's shape."""
    if x.ndim > MAX_DIMS:
        return gamma_fwd(*(p.expand(x.shape).reshape(-1) for p in (x, n, s)), n_floor).view(x.shape)
    y = x.new_empty(x.shape)
    if x.numel():
        n, s = n.expand(x.shape), s.expand(x.shape)
        _C.gamma_fwd(
            *(_NAMES[x.dtype], x.shape, x.data_ptr(), x.stride(), n.data_ptr(), n.stride(), s.data_ptr(), s.stride()),
            *(y.data_ptr(), n_floor, torch.get_num_threads()),
        )
    return y


def gamma_bwd(dy: Tensor, x: Tensor, n: Tensor, s: Tensor, n_floor: float) -> tuple[Tensor, Tensor, Tensor]:
    """γ's gradients for x, n and s, each of its operand's shape."""
    if x.ndim > MAX_DIMS:
        flat = gamma_bwd(*(p.expand(x.shape).reshape(-1) for p in (dy, x, n, s)), n_floor)
        return tuple(d.view(x.shape).sum_to_size(p.shape) for d, p in zip(flat, (x, n, s), strict=True))
    dx = x.new_empty(x.shape)
    dn, ds = (x.new_empty(p.shape) for p in (n, s))
    if x.numel():
        n_full, s_full = n.expand(x.shape), s.expand(x.shape)
        _C.gamma_bwd(
            *(_NAMES[x.dtype], x.shape, dy.data_ptr(), dy.stride(), x.data_ptr(), x.stride()),
            *(n_full.data_ptr(), n_full.stride(), s_full.data_ptr(), s_full.stride()),
            *(dx.data_ptr(), dn.data_ptr(), dn.expand(x.shape).stride(), dn.numel()),
            *(ds.data_ptr(), ds.expand(x.shape).stride(), ds.numel(), n_floor, torch.get_num_threads()),
        )
    else:
        dn.zero_()
        ds.zero_()
    return dx, dn, ds


# Bytes of controller state of a tile that leave room for its other data in a second-level cache of 512 KiB.
TILE_BYTES = 400 * 1024


def tile_size(B: int, H: int, G: int) -> int:
    """Sequences that a thread takes through all steps together.

    At least eight tiles where the batch allows it, so that threads have work; but four sequences or more, so that the
    recurrent product runs from registers; and no more than the cache holds.  From the sizes alone, so that the order of
    every sum is the same for any number of threads.
    """
    cached = TILE_BYTES // (4 * H * max(G, 8))
    # sym_*: under torch.compile with a dynamic B, a comparison would bind the program to a range of B
    wanted = torch.sym_min(torch.sym_max(4, -(-B // 8)), max(4, cached))
    return torch.sym_max(1, torch.sym_min(B, wanted))


# Bytes above which the C library asks the system for fresh pages each time.
POOLED = 128 * 1024

# Bytes of kept state for which looking up the free memory is not worth its 30 µs.
SMALL_STATE = 16 * 2**20


def _stored_units(G: int, dtype: torch.dtype, precision: str) -> int:
    """Entries in which a row's state is stored: G, or pairs of bfloat16, padded to an odd number."""
    return (-(-G // 2) if _scalar(dtype, precision) == "bfloat16 products" else G) | 1


# Beside checkpoints n and s are computed again, as g is.
KEEPS_GAINS = False


def kept_elements(T: int, B: int, H: int, G: int, dtype: torch.dtype, precision: str, segment: int) -> int:
    """Elements of the state that a forward pass keeps: per tile, slot (step) and strip of rows."""
    if segment == 0 or B == 0:
        return 0
    tile, strip = tile_size(B, H, G), _C.strip(_NAMES[dtype])
    slots = T + 1 if segment == 1 else -(-T // segment)
    return -(-B // tile) * slots * -(-tile * H // strip) * _stored_units(G, dtype, precision) * strip


def kept_elements_of_step(B: int, H: int, G: int, dtype: torch.dtype, precision: str) -> int:
    """The same for a controller step."""
    return kept_elements(1, B, H, G, dtype, precision, 1)


def choose_segment(T: int, B: int, H: int, G: int, dtype: torch.dtype, precision: str) -> int:
    """K: the state g is kept before every K-th step; 1 where all of it fits the memory budget."""
    everything = T * B * H * _stored_units(G, dtype, precision) * dtype.itemsize
    if everything <= SMALL_STATE and "ARU_STATE_BUDGET" not in os.environ:
        return 1
    budget = state_budget()
    if everything <= budget:
        return 1
    # From 4 to 16 the time does not depend on K; beyond, the recomputed segment leaves the cache.
    return min(T, max(8, -(-everything // max(1, budget))))


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
    return _adaptive_fwd(
        xp, h0, g0, weight_hh, controller, n_floor, precision, segment, trace or segment > 0, trace or segment == 1
    )


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
    upstream = (d_h, d_a, d_n, d_s, d_h_last, d_g)
    return _adaptive_bwd(upstream, h0, g0, weight_hh, controller, (h, a, n, s), kept, n_floor, precision, segment)


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
    """h, next g, n, s and the kept state: a sequence of one step without recurrence; a (B, H), g (B, H, G)."""
    controller = (weight_ag, weight_gg, bias_g, weight_gc, bias_c)
    h, g, _, n, s, kept = _adaptive_fwd(a[None], None, g, None, controller, n_floor, precision, int(keep), False, True)
    return h[0], g, n[0], s[0], kept


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
    """Gradients for a, g and the controller's weights."""
    controller = (weight_ag, weight_gg, bias_g, weight_gc, bias_c)
    upstream = (d_h, None, d_n, d_s, None, d_g)
    results = (None, a[None], n, s)
    d_a, *rest = _adaptive_bwd(upstream, None, g, None, controller, results, kept, n_floor, precision, 1)
    return d_a[0], *rest


def _from_pool(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """An uninitialised tensor in memory that is given back for reuse: fresh pages can cost more than a kernel."""
    elements = math.prod(shape)
    if elements * like.itemsize < POOLED:
        return like.new_empty(shape)
    return torch.frombuffer(_C.StateBuffer(elements * like.itemsize), dtype=like.dtype, count=elements).view(shape)


def _adaptive_fwd(
    xp: Tensor,
    h0: Tensor | None,
    g0: Tensor,
    weight_hh: Tensor | None,
    controller: tuple[Tensor, ...],
    n_floor: float,
    precision: str,
    segment: int,
    with_a: bool,
    with_ns: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    (T, B, H), G = xp.shape, g0.shape[-1]
    h, g = xp.new_empty(xp.shape), xp.new_empty(g0.shape)
    a, n, s = (_from_pool(xp, xp.shape) if wanted else xp.new_empty(0) for wanted in (with_a, with_ns, with_ns))
    if xp.numel() == 0:
        return h, g, a, n, s, xp.new_empty(0)
    scalar, sizes = _scalar(xp.dtype, precision), (T, B, H, G, tile_size(B, H, G), max(1, segment))
    kept = xp.new_empty(0)
    if segment:
        kept = _from_pool(xp, (_C.kept_elements(scalar, sizes),))
    _launch(_C.aru_fwd, scalar, sizes, n_floor, xp, h0, g0, weight_hh, *controller, h, a, n, s, g, kept)
    return h, g, a, n, s, kept


def _adaptive_bwd(
    upstream: tuple[Tensor | None, ...],
    h0: Tensor | None,
    g0: Tensor,
    weight_hh: Tensor | None,
    controller: tuple[Tensor, ...],
    results: tuple[Tensor | None, ...],
    kept: Tensor,
    n_floor: float,
    precision: str,
    segment: int,
) -> tuple[Tensor, ...]:
    """upstream: gradients of h, a, n, s, the last h and g; results: h, a, n, s -> gradients of xp and of the arguments
    present."""
    a = results[1]
    (T, B, H), G = a.shape, g0.shape[-1]
    arguments = [h0, g0, weight_hh, *controller]
    d_xp = _from_pool(a, a.shape)
    gradients = [None if x is None else a.new_empty(x.shape) for x in arguments]
    if a.numel():
        scalar, sizes = _scalar(a.dtype, precision), (T, B, H, G, tile_size(B, H, G), segment)
        operands = (h0, weight_hh, *controller, *results, kept, *upstream, d_xp, *gradients)
        _launch(_C.aru_bwd, scalar, sizes, n_floor, *operands)
    present = [x for x in gradients if x is not None]
    if not a.numel():
        for x in present:
            x.zero_()
    return d_xp, *present


def gamma_rnn_sequence_fwd(
    xp: Tensor, h0: Tensor, weight_hh: Tensor, n: Tensor, s: Tensor, n_floor: float, precision: str, keep: bool
) -> tuple[Tensor, Tensor]:
    """h, and a where a gradient or the trace needs it (else empty)."""
    T, B, H = xp.shape
    h, a = xp.new_empty(xp.shape), xp.new_empty(xp.shape if keep else (0,))
    if xp.numel():
        sizes = (T, B, H, 0, tile_size(B, H, 0), 1)
        _launch(_C.gamma_rnn_fwd, _NAMES[xp.dtype], sizes, n_floor, xp, h0, weight_hh, n.expand(H), s.expand(H), h, a)
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
    d_xp, d_h0, d_weight_hh = (a.new_empty(x.shape) for x in (a, h0, weight_hh))
    d_n, d_s = a.new_empty(H), a.new_empty(H)
    if a.numel():
        sizes = (T, B, H, 0, tile_size(B, H, 0), 1)
        operands = (h0, weight_hh, n.expand(H), s.expand(H), h, a, d_h, d_a, d_h_last)
        _launch(_C.gamma_rnn_bwd, _NAMES[a.dtype], sizes, n_floor, *operands, d_xp, d_h0, d_weight_hh, d_n, d_s)
    else:
        for x in (d_weight_hh, d_n, d_s):
            x.zero_()
    return d_xp, d_h0, d_weight_hh, d_n.sum_to_size(n.shape), d_s.sum_to_size(s.shape)


KERNELS = {
    "gamma": (gamma_fwd, gamma_bwd),
    "controller_step": (controller_step_fwd, controller_step_bwd),
    "aru_sequence": (aru_sequence_fwd, aru_sequence_bwd),
    "gamma_rnn_sequence": (gamma_rnn_sequence_fwd, gamma_rnn_sequence_bwd),
}
