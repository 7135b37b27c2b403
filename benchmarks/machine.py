"""The machine a figure was measured on, and its limits at that minute: multiply-adds, a matrix product, a copy."""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable

import torch

import aru_kernels
from aru_kernels import cpu
from aru_lab.runs import provenance

from .timing import interleaved


def device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """What the hardware calls itself."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu.processor()


@functools.cache
def describe(device: torch.device) -> dict[str, object]:
    """What a figure must be read with: hardware, clocks, threads, instruction set, versions, commit."""
    info: dict[str, object] = {
        "device": device_name(device),
        "device_type": device.type,
        "threads": torch.get_num_threads(),
        "isa": cpu.device().split(" (")[0] if cpu.unavailable() is None else "none",
        "clock_mhz": _clock(device),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "aru_kernels": aru_kernels.__version__,
        "commit": provenance.commit() or "unknown",
    }
    return info


def _version(package: str) -> str:
    try:
        return __import__(package).__version__
    except ImportError:
        return "none"


def _clock(device: torch.device) -> float | None:
    """MHz at this moment, where the system tells."""
    if device.type == "cuda":
        try:
            return float(torch.cuda.clock_rate(device))
        except Exception:  # needs pynvml, which is no dependency
            return None
    try:
        with open("/proc/cpuinfo") as lines:
            return max(float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz"))
    except (OSError, ValueError):
        return None


def product_limit(device: torch.device) -> tuple[str, Callable[[torch.device], float]]:
    """The limit of what multiplies matrices on this device: its name, and what measures it in GFLOP/s.

    On a CPU it is the rate of the multiply-add units, which a large torch.mm may miss by more than half.
    """
    if device.type == "cpu" and cpu.unavailable() is None:
        return "multiply-adds", multiply_add_rate
    return "matrix product", matrix_product_rate


def multiply_add_rate(device: torch.device, rounds: int = 5) -> float:
    """GFLOP/s of multiply-adds on registers in all threads, with the kernels' instruction set and precision."""
    precision = torch.get_float32_matmul_precision()
    done: list[float] = []

    def work() -> None:
        done.append(cpu.multiply_adds(torch.float32, precision, 8000))

    times = interleaved({"multiply-adds": work}, rounds, device)
    return done[-1] / times["multiply-adds"].best / 1e9


def matrix_product_rate(device: torch.device, dtype: torch.dtype = torch.float32, rounds: int = 5) -> float:
    """GFLOP/s of a large torch.mm (2048³ on a CPU, 8192³ on a GPU)."""
    size = 8192 if device.type == "cuda" else 2048
    a, b, c = (torch.rand(size, size, device=device, dtype=dtype) for _ in range(3))
    times = interleaved({"mm": lambda: torch.mm(a, b, out=c)}, rounds, device)
    return 2 * size**3 / times["mm"].best / 1e9


@functools.cache
def other_limits(device: torch.device) -> dict[str, float]:
    """What a reader may compare a limit with: GFLOP/s of a matrix product, GB/s of a copy."""
    return {"matrix_product_gflops": matrix_product_rate(device), "copy_gbps": copy_rate(device)}


def copy_rate(device: torch.device, rounds: int = 5) -> float:
    """GB/s, read and written, of a copy that no cache holds: the limit of what moves memory."""
    elements = 2**27 if device.type == "cuda" else 2**25
    a, b = (torch.rand(elements, device=device) for _ in range(2))
    times = interleaved({"copy": lambda: b.copy_(a)}, rounds, device)
    return 2 * 4 * elements / times["copy"].best / 1e9
