"""γ, element by element: bound by memory, so beside a copy."""

from __future__ import annotations

import pytest
import torch

import aru_kernels.functional as F
from aru_kernels import reference

from . import work
from .cases import Variant, fused_backends, on

# x's shape and that of n and s: one pair, one a neuron, one an element
CASES = {
    "scalar": ((4096, 1000), ()),
    "per neuron": ((4096, 1000), (1000,)),
    "per element": ((4096, 1000), (4096, 1000)),
    "odd, per neuron": ((1237, 401), (401,)),
    "small, per element": ((100, 400), (100, 400)),
}


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward+backward"])
@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[pytest.mark.quick] if c == "per element" else []) for c in CASES]
)
def test_gamma(measure, device, case, backward):
    size, parameters = CASES[case]
    torch.manual_seed(0)
    x = torch.randn(size, device=device)
    n, s = 4 + torch.rand(parameters, device=device), torch.rand(parameters, device=device)
    upstream = torch.randn(size, device=device)
    operands = [t.requires_grad_(backward) for t in (x, n, s)]

    def through(function):
        def run():
            y = function(*operands, 1e-3)
            return [y.detach(), *torch.autograd.grad(y, operands, upstream)] if backward else [y]

        return run

    variants = {name: Variant(on(name, through(F.gamma))) for name in fused_backends("gamma", device)}
    variants["reference"] = Variant(through(reference.gamma))
    if case == "per neuron":
        torch._dynamo.reset()
        variants["torch.compile"] = Variant(through(torch.compile(reference.gamma, fullgraph=True)))
    elements, broadcast = x.numel(), n.numel()
    # with the backward pass both passes are in the time
    gigabytes = work.gamma_gigabytes(elements, broadcast, False)
    if backward:
        gigabytes += work.gamma_gigabytes(elements, broadcast, True)
    measure(
        "gamma",
        "forward+backward" if backward else "forward",
        {"rows": size[0], "columns": size[1], "parameters": broadcast},
        next(iter(variants)),
        variants,
        gigabytes=gigabytes,
        rounds=15,
        tolerance=1e-4,
    )
