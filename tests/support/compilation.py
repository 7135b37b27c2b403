"""Compiles the Triton kernels for GPUs that need not be present.

The launchers run on tensors without data; their launches are recorded and compiled instead of made.
`tests/tools/compile_table.py` prints the result.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from aru_kernels import _arguments as arguments
from aru_kernels._module import controller_shapes
from aru_kernels.triton import (
    MAX_CONTROLLER,
    MAX_CONTROLLER_7_5,
    controller,
    gamma,
    graphs,
    persistent,
    sequence,
)
from aru_kernels.triton.kernels.math import VERSION
from aru_kernels.triton.launch import product_kind_of
from support import descriptors

ARCHITECTURES = (("cuda", 75), ("cuda", 80), ("cuda", 90), ("cuda", 100), ("hip", "gfx942"))
# Bytes of shared memory that a program can have.
SHARED = {"75": 65536, "80": 166912, "90": 232448, "100": 232448, "gfx942": 65536}
TYPES = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}
PRECISIONS = ("highest", "high", "medium")


@dataclasses.dataclass(frozen=True)
class Launch:
    """A launch of a kernel: what the compiler needs to know."""

    module: str
    kernel: str
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, object], ...]
    options: tuple[tuple[str, object], ...]

    def describe(self) -> str:
        """Its constants in short."""
        shown = {k: v for k, v in self.constants if k not in ("ACC", "N_FLOOR") and v is not None}
        flags = [k for k, v in shown.items() if v is True]
        numbers = [f"{k}={v}" for k, v in shown.items() if not isinstance(v, bool)]
        dtypes = sorted({t for _, t in self.signature if t.startswith("*")})
        warps = dict(self.options)["num_warps"]
        return " ".join([*(d[1:] for d in dtypes), *numbers, f"warps={warps}", *flags])


def _launch_of(function: JITFunction, given: tuple, keywords: dict) -> Launch:
    named = dict(zip(function.arg_names, given, strict=False)) | keywords
    options = {k: named.pop(k) for k in list(named) if k not in function.arg_names}
    signature, constants = {}, {}
    for parameter in function.params:
        value = named[parameter.name]
        if parameter.is_constexpr or value is None or (type(value) is int and value == 1):
            signature[parameter.name] = "constexpr"
            constants[parameter.name] = value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = TYPES[value.dtype]
        else:
            signature[parameter.name] = "i32" if -(2**31) <= value < 2**31 else "i64"
    return Launch(
        function.fn.__module__,
        function.fn.__name__,
        tuple(signature.items()),
        tuple(constants.items()),
        tuple(options.items()),
    )


@contextmanager
def recorded_launches(product: str, warp_size: int = 32) -> Iterator[list[Launch]]:
    """Yields a list to which launches inside the block are added instead of made; product: the kind of product."""
    launches: list[Launch] = []

    def run(self: JITFunction, *given: object, grid: object, warmup: bool, **keywords: object) -> None:
        launch = _launch_of(self, given, keywords)
        if launch not in launches:
            launches.append(launch)

    with (
        mock.patch.object(JITFunction, "run", run),
        mock.patch.object(controller, "product_kind", return_value=product),
        mock.patch.object(controller, "warp_size", return_value=warp_size),
        mock.patch.object(persistent, "warp_size", return_value=warp_size),
        mock.patch.object(graphs, "usable", return_value=False),
    ):
        yield launches


def empty(*sizes: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(sizes, dtype=dtype, device="meta")


def gamma_calls(dtype: torch.dtype) -> None:
    """Forward and backward with n and s scalar, per neuron, per sequence and per element; contiguous and strided."""
    for n_shape, s_shape in (((), ()), ((400,), (400,)), ((100, 1), (400,)), ((100, 400), (100, 400))):
        _gamma_call(*(empty(*shape, dtype=dtype) for shape in ((100, 400), n_shape, s_shape)))
    x, n = empty(400, 3, 5, 7, dtype=dtype), empty(400, 1, 5, 1, dtype=dtype)
    _gamma_call(x.permute(3, 1, 0, 2), n.permute(3, 1, 0, 2), empty(dtype=dtype))


def _gamma_call(x: torch.Tensor, n: torch.Tensor, s: torch.Tensor) -> None:
    options, y = arguments.GammaOptions(1e-3), empty(*x.shape, dtype=x.dtype)
    gamma.gamma_fwd(y, arguments.GammaInputs(x, n, s), options)
    gamma.gamma_bwd(torch.empty_like(y), arguments.GammaOutputs(x), arguments.GammaSaved(x, n, s), options)


def controller_weights(G: int, dtype: torch.dtype) -> list[torch.Tensor]:
    return [empty(*sizes, dtype=dtype) for sizes in controller_shapes(G).values()]


def step_calls(G: int, dtype: torch.dtype) -> None:
    """Forward and backward of the operation controller_step."""
    weights = controller_weights(G, dtype)
    a, g = empty(100, 400, dtype=dtype), empty(100, 400, G, dtype=dtype)
    options = arguments.StepOptions(1e-3, "highest", True)
    h, g_next, n, s, kept = controller.controller_step_fwd(arguments.StepInputs(a, g, *weights), options)
    saved = arguments.StepSaved(a, g, *weights, n=n, s=s, kept=kept)
    controller.controller_step_bwd(arguments.StepOutputs(h, g_next, n, s), saved, options)


def sequence_calls(
    G: int,
    H: int = 400,
    kinds: tuple[tuple[int, bool], ...] = ((2, True),),
    precision: str = "highest",
    leaky: bool = False,
) -> None:
    """Forward and backward of the operation aru_sequence; kinds: (segment, trace), the widest by default.

    precision: decides only the dtypes of states; the kind of product is that of `recorded_launches`.  leaky: with a
    leak.
    """
    T, B = 4, 100
    xp, h0, g0, weight_hh = empty(T, B, H), empty(B, H), empty(B, H, G), empty(H, H)
    tensors = (h0, g0, weight_hh, *controller_weights(G, torch.float32))
    inputs = arguments.LeakyAruInputs(xp, *tensors, empty(H)) if leaky else arguments.AruInputs(xp, *tensors)
    for segment, trace in kinds:
        options = arguments.AruOptions(1e-3, precision, segment, trace)
        h, g, a, n, s, kept = sequence.aru_sequence_fwd(inputs, options)
        if segment:
            upstream = arguments.AruOutputs(h, h[-1], g, *((a, n, s) if trace else (None, None, None)))
            plain = arguments.AruSaved(*tensors, h=h, a=a, n=n, s=s, kept=kept)
            saved = arguments.LeakyAruSaved(*plain, empty(H)) if leaky else plain
            sequence.aru_sequence_bwd(upstream, saved, options)


def static_calls(*sizes: int, leaky: bool = False) -> None:
    """Forward and backward of the operation gamma_rnn_sequence; by default step by step and in one launch."""
    for H in sizes or (400, persistent.MAX_STATIC):
        xp, h0, weight_hh, n = empty(4, 100, H), empty(100, H), empty(H, H), empty(H)
        options = arguments.GammaRnnOptions(1e-3, "highest", True)
        inputs = arguments.GammaRnnInputs(xp, h0, weight_hh, n, n)
        h, a = sequence.gamma_rnn_sequence_fwd(arguments.LeakyGammaRnnInputs(*inputs, n) if leaky else inputs, options)
        plain = arguments.GammaRnnSaved(h0, weight_hh, n, n, h, a)
        saved = arguments.LeakyGammaRnnSaved(*plain, n) if leaky else plain
        for d_a in (None, a):
            sequence.gamma_rnn_sequence_bwd(arguments.GammaRnnOutputs(h, h[-1], d_a), saved, options)


def launches_for(backend: str, architecture: int | str, everything: bool) -> list[Launch]:
    """The launches of users' calls on this architecture."""
    precisions = {product_kind_of(backend, architecture, wanted): wanted for wanted in PRECISIONS}
    first = next(iter(precisions))
    small = functools.partial(sequence_calls, persistent.MAX_UNITS, persistent.MAX_ADAPTIVE)
    work: list[tuple[str, Callable[[], None]]] = []
    if not everything:
        # element-wise kernels hardly differ between architectures, and a leak takes one of a vendor as an example
        dtypes = {90: tuple(TYPES), "gfx942": (torch.float32,)}.get(architecture, ())
        for leaky in (False, True) if dtypes else (False,):
            calls = functools.partial(sequence_calls, 50, leaky=leaky)
            work += [(p, functools.partial(calls, precision=wanted)) for p, wanted in precisions.items()]
            work += [(first, functools.partial(function, leaky=leaky)) for function in (small, static_calls)]
            if not leaky:
                work += [(first, functools.partial(gamma_calls, dtype)) for dtype in dtypes]
    else:
        largest = MAX_CONTROLLER_7_5 if architecture == 75 else MAX_CONTROLLER
        sizes = tuple(G for G in (16, 32, 50, 128) if largest >= G)
        kinds = ((0, False), (1, False), (2, False), (2, True))
        work += [(first, functools.partial(gamma_calls, dtype)) for dtype in TYPES]
        for leaky in (False, True):
            work.append((first, functools.partial(static_calls, leaky=leaky)))
            for product, wanted in precisions.items():
                calls = functools.partial(sequence_calls, kinds=kinds, precision=wanted, leaky=leaky)
                work += [(product, functools.partial(calls, G)) for G in sizes]
                work.append((product, functools.partial(small, kinds=kinds, leaky=leaky)))
        # rows of g as they come, 50 units and no whole vectors; narrow tensors
        work += [(p, functools.partial(step_calls, 50, dtype)) for p in precisions for dtype in TYPES]
    launches: dict[Launch, None] = {}
    for product, calls in work:
        with recorded_launches(product, warp_size=64 if backend == "hip" else 32) as found:
            calls()
        launches |= dict.fromkeys(found)
    return list(launches)


@dataclasses.dataclass(frozen=True)
class Usage:
    """What a program of a compiled kernel needs."""

    registers: int
    spilled: int  # bytes of stack (NVIDIA); vector registers and bytes of scratch memory (AMD)
    shared: int
    disagreeing: int = 0  # sums over lanes that begin with a product that is not rounded (NVIDIA)
    misplaced: int = 0  # products whose operands' addresses are wrong (NVIDIA, compute capability 9.0)


def disagreeing(ptx: str) -> int:
    """Sums of a product and another lane's: its own the compiler adds without rounding, fused here or later."""
    products = dict(re.findall(r"\bmul\.f32\s+(%\w+), ([^;]+);", ptx))
    exchanged = re.findall(r"\bshfl\.sync\.bfly\.b32\s+(%\w+), (%\w+),", ptx)
    fused = set(re.findall(r"\bfma\.rn\.f32\s+%\w+, ([^;]+);", ptx))
    added = set(re.findall(r"\badd\.f32\s+%\w+, ([^;]+);", ptx))
    return sum(
        f"{products[own]}, {other}" in fused or bool({f"{own}, {other}", f"{other}, {own}"} & added)
        for other, own in exchanged
        if own in products
    )


def compile_launch(launch: Launch, backend: str, architecture: int | str) -> Usage:
    """Compiles a launch for a GPU that need not be present."""
    function = getattr(sys.modules[launch.module], launch.kernel)
    signature = dict(launch.signature)
    names = list(signature)
    aligned = {(names.index(k),): [["tt.divisibility", 16]] for k, v in signature.items() if v.startswith("*")}
    target = GPUTarget(backend, architecture, 64 if backend == "hip" else 32)
    source = ASTSource(function, signature, dict(launch.constants), aligned)
    compiled = triton.compile(source, target=target, options=dict(launch.options))
    if backend == "hip":
        assembly = compiled.asm["amdgcn"]

        def number(key: str) -> int:
            return int(re.search(rf"\.{key}:\s+(\d+)", assembly)[1])

        spilled = sum(map(number, ("vgpr_spill_count", "private_segment_fixed_size")))
        return Usage(number("vgpr_count"), spilled, compiled.metadata.shared)
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    ptx, shared = compiled.asm["ptx"], compiled.metadata.shared
    misplaced = 0
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()

        def output(tool: str, option: str) -> str:
            command = [tools / tool, option, file.name]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout

        report = output("cuobjdump", "-res-usage")
        if "wgmma" in ptx:
            misplaced = descriptors.find(output("nvdisasm", "-c"), compiled.metadata.num_warps, shared).wrong
    registers, stack, local = (int(re.search(rf"{key}:(\d+)", report)[1]) for key in ("REG", "STACK", "LOCAL"))
    return Usage(registers, stack + local, shared, disagreeing(ptx), misplaced)


# Tiles are chosen with Triton 3.9.  The assemblers of older versions spill some bytes in a few kernels; the table
# prints them but does not fail.
OLDER_TRITON = VERSION < (3, 9)


def excess(usage: Usage, architecture: int | str) -> str:
    """What exceeds the limits, or an empty string."""
    problems = []
    if usage.spilled and not OLDER_TRITON:
        problems.append("spills")
    if usage.shared > SHARED[str(architecture)]:
        problems.append(f"more than {SHARED[str(architecture)]} B of shared memory")
    if usage.disagreeing:
        problems.append("threads disagree on sums")
    if usage.misplaced:
        problems.append("operands at wrong addresses")
    return ", ".join(problems)
