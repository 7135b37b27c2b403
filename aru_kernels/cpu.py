"""The backend `cpu`: Python face of the C++ kernels in csrc/cpu (extension `aru_kernels._C`).

Every operation is a pair (forward, backward) of functions on the tuples of `aru_kernels._arguments`, which
`aru_kernels.ops` registers.  All tensors of a call have one dtype, have elements, and were checked.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import math
import os
import platform
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from aru_kernels._arguments import (
    AruInputs,
    AruOptions,
    AruOutputs,
    AruSaved,
    AruStates,
    GammaInputs,
    GammaOptions,
    GammaOutputs,
    GammaRnnInputs,
    GammaRnnOptions,
    GammaRnnOutputs,
    GammaRnnSaved,
    GammaRnnStates,
    GammaSaved,
    LeakyAruInputs,
    LeakyAruSaved,
    LeakyGammaRnnInputs,
    LeakyGammaRnnSaved,
    StepInputs,
    StepOptions,
    StepOutputs,
    StepSaved,
    StepStates,
    controller_of,
    leak_of,
)
from aru_kernels._install import cure
from aru_kernels._memory import state_budget
from aru_kernels._strides import expanded_strides
from aru_kernels._version import __version__

Results = TypeVar("Results")

_C: Any  # the extension, or None
try:
    # After torch, so that the extension shares torch's OpenMP run time.
    _C = importlib.import_module("aru_kernels._C")
except ImportError as error:
    _C, _import_error = None, str(error)


def unavailable() -> str | None:
    """Why the extension cannot be used, or None."""
    if _C is None:
        outcome = Path(__file__).with_name("_build.txt")
        if outcome.exists() and (text := outcome.read_text(encoding="utf-8").strip()) != "built":
            return f"the C++ extension is not built: {text}; {cure('with a C++17 compiler (g++ or clang++)')}"
        return f"the C++ extension cannot be loaded ({_import_error}); {cure()}"
    if _C.version != __version__:
        return f"the C++ extension is of version {_C.version}, the package of {__version__}; {cure()}"
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
            fields = (line.split(":", 1) for line in first if ":" in line)
            known = {name.strip(): value.strip() for name, value in fields}
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
    threads = torch.get_num_threads()
    pool = "" if _C.openmp else " without OpenMP"
    return f"{_C.isa()} (of {others}), {threads} thread{'s' if threads > 1 else ''}{pool}, compiler {_C.compiler}"


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


def multiply_adds(dtype: torch.dtype, precision: str, rounds: int) -> float:
    """Runs multiply-adds on registers, 12,000 vectors a round in each of torch's threads, and returns their FLOP.

    They measure the limit that the products of this dtype and precision have on this processor.
    """
    return _C.multiply_adds(_scalar(dtype, precision), rounds, torch.get_num_threads())


def _launch(
    kernel: Callable[..., None], scalar: str, sizes: tuple[int, ...], n_floor: float, **tensors: Tensor | None
) -> None:
    """Calls a sequence kernel with tensors by the names of its struct's fields; absent ones become null pointers."""
    copies, addresses = [], {}
    for name, x in tensors.items():
        if x is None:
            continue
        if not x.is_contiguous():
            x = x.contiguous()
            copies.append(x)  # alive until the kernel has run
        addresses[name] = x.data_ptr()
    kernel(scalar, sizes, n_floor, torch.get_num_threads(), **addresses)


def gamma_fwd(y: Tensor, inputs: GammaInputs, options: GammaOptions) -> None:
    """Fills y, which is contiguous, with γ; n and s broadcast to x's shape, which is y's."""
    shape = y.shape
    if y.ndim > MAX_DIMS:
        y, inputs = y.view(-1), GammaInputs(*(p.expand(shape).reshape(-1) for p in inputs))
    x, n, s = inputs
    _C.gamma_fwd(
        _NAMES[x.dtype],
        tuple(y.shape),
        options.n_floor,
        torch.get_num_threads(),
        x=_strided(x, y.shape),
        n=_strided(n, y.shape),
        s=_strided(s, y.shape),
        y=y.data_ptr(),
    )


def usual_gamma(x: Tensor, n: Tensor, s: Tensor, n_floor: float) -> Tensor:
    """γ of usual tensors (`aru_kernels._usual`): x is (B, H), n and s are (H,) or (1,).

    What `gamma_fwd` does, in one function, because a loop over cells waits for Python.
    """
    y = torch.empty_like(x)
    B, H = x.shape
    own = (0, 1 if n.shape[0] == H else 0)
    _C.gamma_fwd(
        _NAMES[x.dtype],
        (B, H),
        n_floor,
        torch.get_num_threads(),
        x=(x.data_ptr(), (H, 1)),
        n=(n.data_ptr(), own),
        s=(s.data_ptr(), own),
        y=y.data_ptr(),
    )
    return y


def gamma_bwd(dx: Tensor, upstream: GammaOutputs, saved: GammaSaved, options: GammaOptions) -> tuple[Tensor, Tensor]:
    """Fills dx, which is contiguous, and returns the gradients of n and s, each of its operand's shape."""
    shape = dx.shape
    if dx.ndim > MAX_DIMS:
        flat = GammaSaved(*(p.expand(shape).reshape(-1) for p in saved))
        d_n, d_s = gamma_bwd(dx.view(-1), GammaOutputs(upstream.y.reshape(-1)), flat, options)
        return d_n.view(shape).sum_to_size(saved.n.shape), d_s.view(shape).sum_to_size(saved.s.shape)
    d_n, d_s = _empty_like(saved.n), _empty_like(saved.s)
    x, n, s = saved
    _C.gamma_bwd(
        _NAMES[x.dtype],
        tuple(shape),
        options.n_floor,
        torch.get_num_threads(),
        dy=_strided(upstream.y, shape),
        x=_strided(x, shape),
        n=_strided(n, shape),
        s=_strided(s, shape),
        dx=dx.data_ptr(),
        dn=(*_strided(d_n, shape), d_n.numel()),
        ds=(*_strided(d_s, shape), d_s.numel()),
    )
    return d_n, d_s


def _strided(x: Tensor, shape: torch.Size) -> tuple[int, tuple[int, ...]]:
    """Address and strides of x, expanded to `shape`."""
    return x.data_ptr(), expanded_strides(x.shape, x.stride(), shape)


# Bytes of controller state of a tile that leave room for its other data in a second-level cache of 512 KiB.
TILE_BYTES = 400 * 1024


def tile_size(B: int, H: int, G: int) -> int:
    """Sequences that a thread takes through all steps together.

    At least eight tiles where the batch allows it, so that threads have work; but four sequences or more, so that the
    recurrent product runs from registers; and no more than the cache holds.  It depends only on the sizes, so
    that the order of every sum is the same for any number of threads.
    """
    most = max(4, TILE_BYTES // (4 * H * max(G, 8)))
    if isinstance(B, int):
        return max(1, min(B, max(4, -(-B // 8)), most))
    # under torch.compile with a dynamic B, a comparison would bind the program to a range of B
    return torch.sym_max(1, torch.sym_min(B, torch.sym_min(torch.sym_max(4, -(-B // 8)), most)))


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
    if segment == 0 or B == 0 or H == 0:
        return 0
    tile, strip = tile_size(B, H, G), _C.strip(_NAMES[dtype])
    return -(-B // tile) * -(-T // segment) * -(-tile * H // strip) * _stored_units(G, dtype, precision) * strip


def kept_elements_of_step(B: int, H: int, G: int, dtype: torch.dtype, precision: str) -> int:
    """The same for a controller step."""
    return kept_elements(1, B, H, G, dtype, precision, 1)


def choose_segment(T: int, B: int, H: int, G: int, dtype: torch.dtype, precision: str) -> int:
    """K: the state g is kept before every K-th step; 1 where all of it fits the memory budget."""
    everything = T * B * H * _stored_units(G, dtype, precision) * dtype.itemsize
    if everything <= SMALL_STATE and not os.environ.get("ARU_STATE_BUDGET"):
        return 1
    budget = state_budget()
    if everything <= budget:
        return 1
    # From 4 to 16 the time does not depend on K; beyond, the recomputed segment leaves the cache.
    return min(T, max(8, -(-everything // max(1, budget))))


def _from_pool(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """An uninitialised tensor in memory that is given back for reuse: fresh pages can cost more than a kernel."""
    elements = math.prod(shape)
    if elements * like.itemsize < POOLED:
        return like.new_empty(*shape)  # parsing a torch.Size would take longer than the allocation
    return torch.frombuffer(_C.StateBuffer(elements * like.itemsize), dtype=like.dtype, count=elements).view(shape)


def _empty_like(x: Tensor) -> Tensor:
    """An uninitialised, contiguous tensor of the same shape; `new_empty` would take twice as long."""
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def aru_sequence_fwd(inputs: AruInputs | LeakyAruInputs, options: AruOptions) -> AruStates:
    """h, the last g, a, n, s and the kept state; a, n and s are empty where neither trace nor gradient needs them."""
    xp, segment = inputs.xp, options.segment
    (T, B, H), G = xp.shape, inputs.g0.shape[-1]
    with_a, with_gains = options.trace or segment > 0, options.trace or segment == 1
    states = AruStates(
        h=_empty_like(xp),
        g=_empty_like(inputs.g0),
        a=_from_pool(xp, xp.shape if with_a else (0,)),
        n=_from_pool(xp, xp.shape if with_gains else (0,)),
        s=_from_pool(xp, xp.shape if with_gains else (0,)),
        kept=_from_pool(xp, (kept_elements(T, B, H, G, xp.dtype, options.precision, segment),)),
    )
    _launch(
        _C.aru_fwd,
        _scalar(xp.dtype, options.precision),
        (T, B, H, G, tile_size(B, H, G), max(1, segment)),
        options.n_floor,
        **inputs._asdict(),
        h=states.h,
        g_last=states.g,
        a=states.a,
        n=states.n,
        s=states.s,
        kept=states.kept,
    )
    return states


def aru_sequence_bwd(
    upstream: AruOutputs, saved: AruSaved | LeakyAruSaved, options: AruOptions
) -> AruInputs | LeakyAruInputs:
    """The gradients of the inputs."""
    a, weights = saved.a, controller_of(saved)
    leak = leak_of(saved)
    d_leak = None if leak is None else _empty_like(leak)
    (T, B, H), G = a.shape, saved.g0.shape[-1]
    d_xp = _from_pool(a, a.shape)
    gradients = AruInputs(d_xp, *map(_empty_like, (saved.h0, saved.g0, saved.weight_hh, *weights)))
    _launch(
        _C.aru_bwd,
        _scalar(a.dtype, options.precision),
        (T, B, H, G, tile_size(B, H, G), options.segment),
        options.n_floor,
        h0=saved.h0,
        g0=saved.g0,
        weight_hh=saved.weight_hh,
        **weights._asdict(),
        h=saved.h,
        a=a,
        n=saved.n,
        s=saved.s,
        kept=saved.kept,
        d_h=upstream.h,
        d_h_last=upstream.h_last,
        d_g_last=upstream.g,
        d_a=upstream.a,
        d_n=upstream.n,
        d_s=upstream.s,
        leak=leak,
        d_leak=d_leak,
        **_gradients_by_name(gradients),
    )
    return gradients if d_leak is None else LeakyAruInputs(*gradients, d_leak)


def controller_step_fwd(inputs: StepInputs, options: StepOptions) -> StepStates:
    """h, the next g, n, s and the kept state: a sequence of one step without recurrence."""
    a = inputs.a
    B, H, G = math.prod(a.shape[:-1]), a.shape[-1], inputs.g.shape[-1]
    kept = kept_elements_of_step(B, H, G, a.dtype, options.precision) if options.keep else 0
    h, g, n, s = map(_empty_like, (a, inputs.g, a, a))
    states = StepStates(h, g, n, s, _from_pool(a, (kept,)))
    _launch(
        _C.aru_fwd,
        _scalar(a.dtype, options.precision),
        (1, B, H, G, tile_size(B, H, G), 1),
        options.n_floor,
        xp=a,
        g0=inputs.g,
        **controller_of(inputs)._asdict(),
        h=h,
        g_last=g,
        n=n,
        s=s,
        kept=states.kept,
    )
    return states


def usual_step(
    a: Tensor,
    g0: Tensor,
    weight_ag: Tensor,
    weight_gg: Tensor,
    bias_g: Tensor,
    weight_gc: Tensor,
    bias_c: Tensor,
    n_floor: float,
    precision: str,
    keep: bool,
) -> tuple[Tensor, ...]:
    """What `controller_step_fwd` does with usual tensors (`aru_kernels._usual`): h, the next g and, if kept, the rest.

    It is one function, because a loop over cells waits for Python.
    """
    (B, H, G), dtype = g0.shape, a.dtype
    results = {"h": torch.empty_like(a), "g_last": torch.empty_like(g0)}
    if keep:
        results["n"], results["s"] = torch.empty_like(a), torch.empty_like(a)
        results["kept"] = _from_pool(a, (kept_elements_of_step(B, H, G, dtype, precision),))
    _C.aru_fwd(
        _scalar(dtype, precision),
        (1, B, H, G, tile_size(B, H, G), 1),
        n_floor,
        torch.get_num_threads(),
        xp=a.data_ptr(),
        g0=g0.data_ptr(),
        weight_ag=weight_ag.data_ptr(),
        weight_gg=weight_gg.data_ptr(),
        bias_g=bias_g.data_ptr(),
        weight_gc=weight_gc.data_ptr(),
        bias_c=bias_c.data_ptr(),
        **{name: x.data_ptr() for name, x in results.items()},
    )
    return tuple(results.values())


def controller_step_bwd(upstream: StepOutputs, saved: StepSaved, options: StepOptions) -> StepInputs:
    """The gradients of the inputs."""
    a, weights = saved.a, controller_of(saved)
    B, H, G = math.prod(a.shape[:-1]), a.shape[-1], saved.g.shape[-1]
    gradients = StepInputs(*map(_empty_like, (a, saved.g, *weights)))
    by_name = _gradients_by_name(gradients)
    _launch(
        _C.aru_bwd,
        _scalar(a.dtype, options.precision),
        (1, B, H, G, tile_size(B, H, G), 1),
        options.n_floor,
        g0=saved.g,
        **weights._asdict(),
        a=a,
        n=saved.n,
        s=saved.s,
        kept=saved.kept,
        d_h=upstream.h,
        d_g_last=upstream.g,
        d_n=upstream.n,
        d_s=upstream.s,
        d_xp=by_name.pop("d_a"),
        d_g0=by_name.pop("d_g"),
        **by_name,
    )
    return gradients


def gamma_rnn_sequence_fwd(inputs: GammaRnnInputs | LeakyGammaRnnInputs, options: GammaRnnOptions) -> GammaRnnStates:
    """h, and a where a gradient or the trace needs it (else empty)."""
    xp = inputs.xp
    T, B, H = xp.shape
    states = GammaRnnStates(h=_empty_like(xp), a=_empty_like(xp) if options.keep else xp.new_empty(0))
    _launch(
        _C.gamma_rnn_fwd,
        _NAMES[xp.dtype],
        (T, B, H, 0, tile_size(B, H, 0), 1),
        options.n_floor,
        xp=xp,
        h0=inputs.h0,
        weight_hh=inputs.weight_hh,
        n=inputs.n.expand(H),
        s=inputs.s.expand(H),
        leak=leak_of(inputs),
        h=states.h,
        a=states.a,
    )
    return states


def gamma_rnn_sequence_bwd(
    upstream: GammaRnnOutputs, saved: GammaRnnSaved | LeakyGammaRnnSaved, options: GammaRnnOptions
) -> GammaRnnInputs | LeakyGammaRnnInputs:
    """The gradients of the inputs."""
    a = saved.a
    leak = leak_of(saved)
    d_leak = None if leak is None else _empty_like(leak)
    T, B, H = a.shape
    d_xp, d_h0, d_weight_hh = map(_empty_like, (a, saved.h0, saved.weight_hh))
    d_n, d_s = a.new_empty(H), a.new_empty(H)
    _launch(
        _C.gamma_rnn_bwd,
        _NAMES[a.dtype],
        (T, B, H, 0, tile_size(B, H, 0), 1),
        options.n_floor,
        h0=saved.h0,
        weight_hh=saved.weight_hh,
        n=saved.n.expand(H),
        s=saved.s.expand(H),
        leak=leak,
        h=saved.h,
        a=a,
        d_h=upstream.h,
        d_h_last=upstream.h_last,
        d_a=upstream.a,
        d_xp=d_xp,
        d_h0=d_h0,
        d_weight_hh=d_weight_hh,
        d_n=d_n,
        d_s=d_s,
        d_leak=d_leak,
    )
    gradients = GammaRnnInputs(d_xp, d_h0, d_weight_hh, d_n.sum_to_size(saved.n.shape), d_s.sum_to_size(saved.s.shape))
    return gradients if d_leak is None else LeakyGammaRnnInputs(*gradients, d_leak)


# Interned, so that the extension finds a field by its name's address.
_GRADIENTS = {kind: tuple(sys.intern(f"d_{name}") for name in kind._fields) for kind in (AruInputs, StepInputs)}


def _gradients_by_name(gradients: AruInputs | StepInputs) -> dict[str, Tensor]:
    return dict(zip(_GRADIENTS[type(gradients)], gradients, strict=True))


def with_idle_memory(kernel: Callable[..., Results]) -> Callable[..., Results]:
    """A call of a kernel that is made a second time, without the idle buffers of the pool, if memory was short."""

    @functools.wraps(kernel)
    def call(*arguments: Any) -> Results:
        try:
            return kernel(*arguments)
        except (MemoryError, RuntimeError) as error:
            if not _memory_is_short(error):
                raise
            _C.free_idle()
        # outside of the handler, whose traceback holds the tensors of the first attempt
        try:
            return kernel(*arguments)
        except RuntimeError as error:
            if not _memory_is_short(error):
                raise
            raise MemoryError(
                f"{error}. With a smaller ARU_STATE_BUDGET a call keeps less state for its backward pass."
            ) from None

    return call


def _memory_is_short(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)


KERNELS = {
    "gamma": (gamma_fwd, gamma_bwd),
    "controller_step": (controller_step_fwd, controller_step_bwd),
    "aru_sequence": (aru_sequence_fwd, aru_sequence_bwd),
    "gamma_rnn_sequence": (gamma_rnn_sequence_fwd, gamma_rnn_sequence_bwd),
    "leaky_aru_sequence": (aru_sequence_fwd, aru_sequence_bwd),
    "leaky_gamma_rnn_sequence": (gamma_rnn_sequence_fwd, gamma_rnn_sequence_bwd),
}
