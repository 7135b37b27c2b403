"""The backend `triton`: kernels for any GPU that Triton runs on, and for the CPU in Triton's interpreter.

Every operation is a pair (forward, backward) of functions on the tuples of `aru_kernels._arguments`, which
`aru_kernels.ops` registers. All tensors of a call have one dtype, have elements, and were checked.
Triton is imported with the first call, not with the package.

With TRITON_INTERPRET=1 in the environment before Python starts, the kernels serve CPU tensors, slowly, and float64,
too; they are tested this way without a GPU.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch

from aru_kernels._memory import wanted_budget
from aru_kernels.triton._mode import INTERPRETED


def unavailable() -> str | None:
    """Why the kernels cannot run here, or None."""
    try:
        found = importlib.util.find_spec("triton") is not None
    except (ImportError, ValueError) as error:
        return f"Triton cannot be imported ({error})"
    if not found:
        return "Triton is not installed (`pip install triton`; it has builds only for Linux)"
    if INTERPRETED:
        return None
    if not torch.cuda.is_available():
        return "PyTorch finds no GPU"
    return None


def device() -> str:
    """The GPUs that the kernels serve, or the interpreter."""
    if INTERPRETED:
        return "CPU, in Triton's interpreter (TRITON_INTERPRET): for tests, slow"
    return ", ".join(dict.fromkeys(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())))


# Bytes of controller state up to which a sequence keeps the state of every step by default.  Writing and reading more
# takes as long as recomputing it.
STATE_BUDGET = 512 * 2**20


def choose_segment(T: int, B: int, H: int, G: int, dtype: torch.dtype, precision: str) -> int:
    """K: the state g is kept before every K-th step; 1 if the states of all steps fit the budget.

    Above the budget K is a power of two within a factor of √2 of √T.  T/K + K, the number of states held at a time, is
    then within 6% of its minimum, and a compiled program serves many T.
    """
    budget = wanted_budget()
    if T * B * H * G * dtype.itemsize <= (STATE_BUDGET if budget is None else budget):
        return 1
    segment = 4
    while 2 * segment * segment < T:
        segment *= 2
    return segment


def kept_slots(T: int, segment: int) -> int:
    """The number of states that a forward pass keeps: before every segment-th step, and with segment = 1 the last."""
    if segment == 0:
        return 0
    return T + 1 if segment == 1 else -(-T // segment)


# With checkpoints, n and s are recomputed, as g is.
KEEPS_GAINS = False


def kept_elements(T: int, B: int, H: int, G: int, dtype: torch.dtype, precision: str, segment: int) -> int:
    """Elements of the kept state, with G rounded up to a multiple of four."""
    return kept_slots(T, segment) * B * H * -(-G // 4) * 4


def kept_elements_of_step(B: int, H: int, G: int, dtype: torch.dtype, precision: str) -> int:
    """0: the backward pass of a controller step recomputes g from its arguments."""
    return 0


MAX_CONTROLLER = 128  # a larger weight_gg does not fit into a program's registers and shared memory
# With more units, weight_gg and the tile of states need 72 KiB of shared memory; compute capability 7.5 has 64 KiB.
MAX_CONTROLLER_7_5 = 64


def refuses(H: int, G: int) -> str | None:
    """Why the kernels cannot serve these sizes on the current device, or None."""
    if G > MAX_CONTROLLER:
        return f"its controller has at most {MAX_CONTROLLER} units, got {G}"
    if G > MAX_CONTROLLER_7_5 and _capability() == (7, 5):
        return (
            f"its controller has at most {MAX_CONTROLLER_7_5} units on a GPU of compute capability 7.5, "
            f"which has 64 KiB of shared memory, got {G}"
        )
    return None


def _capability() -> tuple[int, int] | None:
    """The compute capability of the current NVIDIA GPU, or None without one, or in the interpreter."""
    if INTERPRETED or torch.version.hip or not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_capability()


def release_graphs() -> None:
    """Frees the CUDA graphs of time steps that are kept for the next call, and their buffers."""
    importlib.import_module("aru_kernels.triton.graphs").GRAPHS.clear()


def _kernel(module: str, name: str) -> Callable[..., Any]:
    @functools.cache
    def load() -> Callable[..., Any]:
        return getattr(importlib.import_module(f"aru_kernels.triton.{module}"), name)

    def call(*arguments: Any) -> Any:
        return load()(*arguments)

    return call


# Sequences with and without a leak are the same functions.
KERNELS = {
    op: tuple(_kernel(module, f"{op.removeprefix('leaky_')}_{direction}") for direction in ("fwd", "bwd"))
    for op, module in (
        ("gamma", "gamma"),
        ("controller_step", "controller"),
        ("aru_sequence", "sequence"),
        ("gamma_rnn_sequence", "sequence"),
        ("leaky_aru_sequence", "sequence"),
        ("leaky_gamma_rnn_sequence", "sequence"),
    )
}
