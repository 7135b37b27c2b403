"""Pieces that several suites share: layers, passes over them, and the variants that stand beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

import aru_kernels
from aru_kernels.backends import BACKENDS

from . import peers
from .work import Shape

Work = Callable[[], list[Tensor]]


@dataclass
class Variant:
    """One way to do the case's work.

    work: does it and returns the results that are checked against ours; same_function: whether they must be equal.
    extra: figures to keep with it.
    """

    work: Work
    same_function: bool = True
    extra: dict[str, object] = field(default_factory=dict)


def check_equal(name: str, actual: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    """Fresh networks amplify round-off over time: the tolerance is that of float32 there."""
    assert len(actual) == len(expected), f"{name}: {len(actual)} results, expected {len(expected)}"
    for index, (x, y) in enumerate(zip(actual, expected, strict=True)):
        error = ((x.double() - y.double()).norm() / y.double().norm().clamp(min=1e-30)).item()
        assert error < tolerance, f"{name}: result {index} differs by {error:.2g}: nothing is timed"


def fused_backends(op: str, device: torch.device, dtype: torch.dtype = torch.float32) -> list[str]:
    """The backends, but for the reference, that can serve the call; fastest first."""
    return [name for name, b in BACKENDS.items() if b.module is not None and b.refuses(op, device, dtype) is None]


def on(backend: str, work: Work) -> Work:
    """`work` on a backend."""

    def run() -> list[Tensor]:
        with aru_kernels.use_backend(backend):
            return work()

    return run


def pass_over(network: nn.Module, x: Tensor, backward: bool, parameters: list[Tensor] | None = None) -> list[Tensor]:
    """One pass over a sequence -> its output and, with the backward pass, the gradients of the parameters."""
    if not backward:
        with torch.no_grad():
            output = network(x)
            return [output if isinstance(output, Tensor) else output[0]]
    parameters = list(network.parameters()) if parameters is None else parameters
    output = network(x)
    output = output if isinstance(output, Tensor) else output[0]
    return [output.detach(), *torch.autograd.grad(output.square().sum(), parameters)]


def adaptive_variants(
    shape: Shape, backward: bool, device: torch.device, *, compiled: bool, others: bool, eager: bool = True
) -> dict[str, Variant]:
    """Every backend's ARUN and its peers, by name; the first is the one under test."""
    B, T, H, G = shape
    torch.manual_seed(0)
    layer, x = aru_kernels.ARUN(1, H, controller_size=G, device=device), torch.rand(T, B, 1, device=device)
    variants = {
        name: Variant(on(name, lambda: pass_over(layer, x, backward)))
        for name in fused_backends("aru_sequence", device)
    }
    if eager:
        authors = peers.AuthorsNetwork(layer)
        # weights alone: the authors' network has two biases where one acts
        own = [layer.weight_ih_l0, layer.weight_hh_l0, layer.weight_gg_l0]
        theirs = [authors.Uxh.weight, authors.Whh.weight, authors.Wgg.weight]
        checked = pass_over(layer, x, backward, own)
        result = pass_over(authors, x, backward, theirs)
        for name, a, b in zip(("h", "weight_ih", "weight_hh", "weight_gg"), result, checked, strict=False):
            error = ((a - b).norm() / b.norm()).item()
            assert error < 5e-4, f"the authors' algorithm: {name} differs by {error:.2g}: nothing is timed"
        variants["reference"] = Variant(on("reference", lambda: pass_over(layer, x, backward)))
        variants["authors' algorithm"] = Variant(
            lambda: pass_over(authors, x, backward), same_function=False, extra={"checked": "h and dW"}
        )
        if device.type == "cuda":
            variants["reference, CUDA graph"] = Variant(
                peers.GraphedWork(on("reference", lambda: pass_over(layer, x, backward)))
            )
    if compiled:
        network, seconds = peers.compiled_step(layer, x, backward)
        parameters = list(layer.parameters())
        variants["torch.compile of the step"] = Variant(
            lambda: pass_over(network, x, backward, parameters), extra={"compile_seconds": round(seconds, 1)}
        )
    if others:
        for name, other in peers.other_networks(layer, 1, device).items():
            variants[name] = Variant(
                lambda other=other: pass_over(other, x, backward),
                same_function=False,
                extra={"parameters": sum(p.numel() for p in other.parameters()), "hidden_size": other.hidden_size},
            )
    return variants
