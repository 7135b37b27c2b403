"""What the checks on a GPU are made of: where they run, problems to solve, and the comparison with the reference.

Nothing but torch and the package is needed, so that it runs from a source tree.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from aru_kernels import backends, use_backend

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests"))
from tolerances import relative_error  # noqa: E402

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic algorithms need on a GPU


class Skip(Exception):
    """A check that cannot be made here, with the reason."""


@dataclass(frozen=True)
class Place:
    """Where and how the checks run.  small: sizes for a dry run."""

    backend: str
    device: torch.device
    small: bool = False

    @property
    def is_gpu(self) -> bool:
        """Whether there is a GPU to speak of."""
        return self.device.type == "cuda"

    def gpu_only(self) -> None:
        """Skips a check that says nothing on a CPU."""
        if not self.is_gpu:
            raise Skip("needs a GPU")


def fused_backends(device_type: str) -> list[str]:
    """Backends with kernels of their own that can run here on tensors of this device type."""
    return [
        name
        for name, backend in backends.BACKENDS.items()
        if backend.module is not None and device_type in backend.devices and backend.unavailable() is None
    ]


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Environment variables for the length of a block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


@contextmanager
def precision(name: str) -> Iterator[None]:
    """torch.set_float32_matmul_precision for the length of a block."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def random(place: Place, *sizes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(sizes, device=place.device).to(dtype)


def controller_weights(place: Place, G: int) -> list[Tensor]:
    """Weights of a controller that moves with its input and does not amplify round-off."""
    return [
        *(random(place, G), random(place, G, G) / (2 * G**0.5), 0.1 * random(place, G)),
        *(0.5 * random(place, 2, G) / G**0.5, torch.tensor([4.0, 0.2], device=place.device)),
    ]


def adaptive(place: Place, T: int, B: int, H: int, G: int) -> list[Tensor]:
    """Arguments of aru_sequence."""
    state = random(place, T, B, H), random(place, B, H).abs(), random(place, B, H, G).tanh()
    return [*state, random(place, H, H) / (2 * H**0.5), *controller_weights(place, G)]


def static(place: Place, T: int, B: int, H: int) -> list[Tensor]:
    """Arguments of gamma_rnn_sequence."""
    weights = random(place, H, H) / (2 * H**0.5), 4 + random(place, H), 0.4 * random(place, H).abs()
    return [random(place, T, B, H), random(place, B, H), *weights]


def run(backend: str, function: Callable[..., object], arguments: list[Tensor]) -> list[Tensor]:
    """All outputs, and the gradients of their weighted sum for all arguments."""
    leaves = [x.detach().requires_grad_() for x in arguments]
    with use_backend(backend):
        outputs = function(*leaves)
    outputs = [x for x in (outputs if isinstance(outputs, tuple) else (outputs,)) if isinstance(x, Tensor)]
    generator = torch.Generator().manual_seed(1)
    # exact in every dtype, and of one sign: sums do not cancel
    weights = [torch.randint(1, 9, x.shape, generator=generator) / 8 for x in outputs]
    weights = [w.to(x.device, x.dtype) for w, x in zip(weights, outputs, strict=True)]
    return [*(x.detach() for x in outputs), *torch.autograd.grad(outputs, leaves, weights)]


def compare(
    place: Place, function: Callable[..., object], arguments: list[Tensor], tolerance: float, what: str
) -> None:
    """Fails if an output or a gradient is off against the reference in float64 on the same (rounded) arguments."""
    actual = run(place.backend, function, arguments)
    exact = run("reference", function, [x.double() for x in arguments])
    for index, (a, e) in enumerate(zip(actual, exact, strict=True)):
        assert a.isfinite().all(), f"{what}: result {index} is not finite"
        error = relative_error(a, e)
        assert error <= tolerance, f"{what}: result {index} is off by {error:.2g}, at most {tolerance:.2g} allowed"
