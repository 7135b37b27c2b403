"""The CPU kernels of the sequences beside the reference's eager loop and torch.nn.RNN: same weights, checked first.

extra_info of every case: `ratio` (best interleaved times, peer over ours), `gflops` of useful work as in the equations'
operation count, `fraction` of a 2048³ matrix product measured in the same run, µs a step.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import aru_kernels
from aru_kernels import cpu

from .conftest import best_times, matrix_product_rate

pytestmark = pytest.mark.skipif(cpu.unavailable() is not None, reason=f"no backend cpu: {cpu.unavailable()}")

# (B, T, H, G)
SHAPES = [(32, 64, 64, 16), (100, 64, 100, 32), (100, 28, 400, 50), (16, 784, 64, 16), (100, 100, 400, 50)]


def useful_gflop(B: int, T: int, H: int, G: int, backward: bool) -> float:
    """F = 2 B T (H² + H G² + 3 H G), three times that with the backward pass; recomputation is not counted."""
    return 2 * B * T * (H * H + H * G * G + 3 * H * G) / 1e9 * (3 if backward else 1)


def step(layer: nn.Module, x: Tensor, backward: bool) -> list[Tensor]:
    """One pass over a sequence -> results and gradients."""
    if not backward:
        with torch.no_grad():
            return [layer(x)[0]]
    layer.zero_grad()
    output, _ = layer(x)
    output.square().sum().backward()
    return [output.detach(), *(p.grad for p in layer.parameters())]


def on(backend: str, work: Callable[[], list[Tensor]]) -> Callable[[], list[Tensor]]:
    def run() -> list[Tensor]:
        with aru_kernels.use_backend(backend):
            return work()

    return run


def check_equal(actual: list[Tensor], expected: list[Tensor], tolerance: float = 2e-4) -> None:
    """The networks are freshly initialised, where gradients grow over time: float32 itself is good to 5e-5 there."""
    for x, y in zip(actual, expected, strict=True):
        error = ((x - y).norm() / y.norm()).item()
        assert error < tolerance, f"results differ by {error:.2g}: nothing is timed"


def measure(benchmark, machine, work, peer, gflop: float, steps: int, rounds: int, **info) -> None:
    """Times `work`, and notes how it compares with `peer` and with a matrix product."""
    best = best_times({"ours": work, "peer": peer}, rounds)
    peak = matrix_product_rate()
    rate = gflop / best["ours"]
    benchmark.extra_info.update(machine)
    benchmark.extra_info.update(
        ratio=round(best["peer"] / best["ours"], 2),
        gflops=round(rate, 1),
        fraction=round(rate / peak, 3),
        peak_gflops=round(peak, 1),
        us_per_step=round(best["ours"] / steps * 1e6, 2),
        **info,
    )
    benchmark.pedantic(work, rounds=rounds, warmup_rounds=1)
    print(f"\n{benchmark.name}: {best['ours'] * 1e3:.2f} ms, {benchmark.extra_info}")


@pytest.mark.parametrize("state", ["all kept", "checkpoints"])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward+backward"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_arun(benchmark, machine, monkeypatch, shape, backward, state):
    if state == "checkpoints" and not backward:
        pytest.skip("without a backward pass nothing is kept")
    B, T, H, G = shape
    monkeypatch.setenv("ARU_STATE_BUDGET", "1T" if state == "all kept" else str(T * B * H * (G | 1) * 4 // 8))
    torch.manual_seed(0)
    layer, x = aru_kernels.ARUN(1, H, G), torch.rand(T, B, 1)
    ours, peer = (on(backend, lambda: step(layer, x, backward)) for backend in ("cpu", "reference"))
    check_equal(ours(), [y.clone() for y in peer()])
    rounds = 15 if B * T * H * G * G < 1e8 else 3
    measure(benchmark, machine, ours, peer, useful_gflop(B, T, H, G, backward), T, rounds, state=state)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward+backward"])
def test_gamma_rnn_beside_torch_rnn(benchmark, machine, backward):
    """ratio: torch.nn.RNN(relu) over RNN+γ at equal H, not the same function; 1 / ratio is what γ costs."""
    B, T, H = 100, 784, 400
    torch.manual_seed(0)
    layer, peer, x = aru_kernels.GammaRNN(1, H), nn.RNN(1, H, nonlinearity="relu"), torch.rand(T, B, 1)
    with torch.no_grad():
        peer.weight_hh_l0.copy_(layer.weight_hh_l0)
        small = x[:20]
    check_equal(
        on("cpu", lambda: step(layer, small, backward))(),
        [y.clone() for y in on("reference", lambda: step(layer, small, backward))()],
    )
    gflop = 2 * B * T * H * H / 1e9 * (3 if backward else 1)
    measure(
        benchmark, machine, on("cpu", lambda: step(layer, x, backward)), lambda: step(peer, x, backward), gflop, T, 3
    )


def test_one_long_sequence(benchmark, machine):
    B, T, H, G = 1, 1000, 64, 16
    torch.manual_seed(0)
    layer, x = aru_kernels.ARUN(1, H, G), torch.rand(T, B, 1)
    ours, peer = (on(backend, lambda: step(layer, x, False)) for backend in ("cpu", "reference"))
    check_equal(ours(), peer())
    measure(benchmark, machine, ours, peer, useful_gflop(B, T, H, G, False), T, 15)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward+backward"])
def test_cell_in_a_python_loop(benchmark, machine, backward):
    B, T, H, G = 32, 64, 64, 16
    torch.manual_seed(0)
    cell, x = aru_kernels.ARUNCell(1, H, G), torch.rand(T, B, 1)

    def loop() -> list[Tensor]:
        cell.zero_grad()
        state = None
        with torch.set_grad_enabled(backward):
            for x_t in x:
                state = cell(x_t, state)
        if backward:
            state[0].square().sum().backward()
        return [state[0].detach(), *(p.grad for p in cell.parameters() if backward)]

    ours, peer = (on(backend, loop) for backend in ("cpu", "reference"))
    check_equal(ours(), [y.clone() for y in peer()])
    measure(benchmark, machine, ours, peer, useful_gflop(B, T, H, G, backward), T, 10)
