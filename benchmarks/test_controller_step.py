"""One step of the controller fused with γ, and cells in a Python loop: what users' own loops cost."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import aru_kernels
import aru_kernels.functional as F

from . import work
from .cases import Variant, fused_backends, on

MODES = pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward+backward"])
NAMES = {False: "forward", True: "forward+backward"}


@MODES
@pytest.mark.parametrize(("B", "H", "G"), [(32, 64, 16), (13, 53, 11), (100, 400, 50)])
def test_controller_step(measure, device, B, H, G, backward):
    torch.manual_seed(0)
    cell = aru_kernels.ARUNCell(1, H, controller_size=G, device=device)
    weights = [getattr(cell, name) for name in ("weight_ag", "weight_gg", "bias_g", "weight_gc", "bias_c")]
    a, g = torch.randn(B, H, device=device), torch.rand(B, H, G, device=device)
    operands = [t.detach().requires_grad_(backward) for t in (a, g, *weights)]

    def step() -> list[Tensor]:
        h, g_next = F.adaptive_gamma(*operands)
        if not backward:
            return [h, g_next]
        return [h.detach(), *torch.autograd.grad(h.square().sum() + g_next.square().sum(), operands)]

    names = (*fused_backends("controller_step", device), "reference")
    variants = {name: Variant(on(name, step)) for name in names}
    measure(
        "controller_step",
        NAMES[backward],
        {"B": B, "H": H, "G": G},
        names[0],
        variants,
        gflop=work.step_gflop(B * H, G, backward),
        steps=1,
        rounds=40,
        tolerance=1e-4,
    )


@MODES
@pytest.mark.parametrize(
    "shape", [pytest.param(work.QUICK, marks=pytest.mark.quick, id="quick"), pytest.param(work.PAPER_START, id="paper")]
)
def test_cell_in_a_python_loop(measure, device, shape, backward):
    B, T, H, G = shape
    torch.manual_seed(0)
    cell, x = aru_kernels.ARUNCell(1, H, controller_size=G, device=device), torch.rand(T, B, 1, device=device)
    parameters = list(cell.parameters())

    def loop() -> list[Tensor]:
        state = None
        with torch.set_grad_enabled(backward):
            for x_t in x:
                state = cell(x_t, state)
        if not backward:
            return [state[0]]
        return [state[0].detach(), *torch.autograd.grad(state[0].square().sum(), parameters)]

    names = (*fused_backends("controller_step", device), "reference")
    variants = {name: Variant(on(name, loop)) for name in names}
    measure(
        "cell in a Python loop",
        NAMES[backward],
        shape._asdict(),
        names[0],
        variants,
        gflop=shape.gflop(backward),
        steps=T,
        rounds=8,
    )
