"""The adaptive and the static sequence, forward and with the backward pass, beside everything else that could run."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import aru_kernels

from . import work
from .cases import Variant, adaptive_variants, fused_backends, on, pass_over
from .memory import peak_in_fresh_process

MODES = pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward+backward"])
NAMES = {False: "forward", True: "forward+backward"}


@MODES
@pytest.mark.parametrize(
    "shape", [pytest.param(s, marks=[pytest.mark.quick] if s == work.QUICK else [], id=str(s)) for s in work.SEQUENCES]
)
def test_adaptive(measure, device, shape, backward):
    variants = adaptive_variants(
        shape,
        backward,
        device,
        compiled=shape == work.PAPER_START,
        others=shape in (work.QUICK, work.PAPER_START),
        eager=shape != work.PAPER_PIECE or backward is False,
    )
    measure(
        "aru_sequence",
        NAMES[backward],
        shape._asdict(),
        next(iter(variants)),
        variants,
        gflop=shape.gflop(backward),
        steps=shape.T,
        rounds=15 if shape.gflop(backward) < 1 else 4,
        # a fresh network amplifies round-off over 784 steps
        tolerance=2e-4 if shape.T < 500 else 5e-3,
    )


@pytest.mark.parametrize(
    "shape", [pytest.param(s, marks=[pytest.mark.quick] if s == work.QUICK else [], id=str(s)) for s in work.SEQUENCES]
)
def test_adaptive_with_checkpoints(measure, monkeypatch, device, shape):
    B, T, H, G = shape
    monkeypatch.setenv("ARU_STATE_BUDGET", str(T * B * H * (G | 1) * 4 // 8))
    variants = adaptive_variants(shape, True, device, compiled=False, others=False, eager=shape != work.PAPER_PIECE)
    measure(
        "aru_sequence",
        "forward+backward, checkpoints",
        shape._asdict(),
        next(iter(variants)),
        variants,
        gflop=shape.gflop(True),
        steps=T,
        rounds=15 if shape.gflop(True) < 1 else 4,
        tolerance=2e-4 if T < 500 else 5e-3,
    )


@MODES
@pytest.mark.parametrize("precision", ["high", "medium"])
def test_adaptive_in_lower_precision(measure, device, precision, backward):
    shape = work.PAPER_START
    torch.set_float32_matmul_precision(precision)
    variants = adaptive_variants(shape, backward, device, compiled=False, others=False, eager=False)
    measure(
        "aru_sequence",
        NAMES[backward],
        shape._asdict(),
        next(iter(variants)),
        variants,
        gflop=shape.gflop(backward),
        steps=shape.T,
        tolerance=3e-2,
    )


@MODES
def test_static(measure, device, backward):
    B, T, H, _ = work.PAPER
    torch.manual_seed(0)
    layer, peer = aru_kernels.GammaRNN(1, H, device=device), nn.RNN(1, H, nonlinearity="relu", device=device)
    x = torch.rand(T, B, 1, device=device)
    with torch.no_grad():
        peer.weight_hh_l0.copy_(layer.weight_hh_l0)
    variants = {
        name: Variant(on(name, lambda: pass_over(layer, x, backward)))
        for name in (*fused_backends("gamma_rnn_sequence", device), "reference")
    }
    variants["nn.RNN(relu), equal H"] = Variant(lambda: pass_over(peer, x, backward), same_function=False)
    shape = work.Shape(B, T, H, 0)
    measure(
        "gamma_rnn_sequence",
        NAMES[backward],
        shape._asdict(),
        next(iter(variants)),
        variants,
        gflop=shape.gflop(backward),
        steps=T,
        rounds=3,
        tolerance=5e-3,
    )


@pytest.mark.parametrize("shape", [work.PAPER_START], ids=str)
def test_peak_memory(measure, device, shape):
    variants = adaptive_variants(shape, True, device, compiled=False, others=False)
    variants.pop("authors' algorithm")
    for name in variants:
        if name in (*fused_backends("aru_sequence", device), "reference"):
            variants[name].extra["peak_megabytes"] = peak_in_fresh_process(name, shape)
    measure(
        "aru_sequence",
        "peak memory of a fresh process, forward+backward",
        shape._asdict(),
        next(iter(variants)),
        variants,
        gflop=shape.gflop(True),
        steps=shape.T,
        rounds=3,
    )


@MODES
@pytest.mark.parametrize("shape", [work.QUICK, work.PAPER_START], ids=str)
def test_leak(measure, device, shape, backward):
    """A network with a leak, the same without one, and the reference."""
    B, T, H, G = shape
    x, variants = torch.rand(T, B, 1, device=device), {}
    for label, leak, op in (("", 0.2, "leaky_aru_sequence"), (", without a leak", None, "aru_sequence")):
        torch.manual_seed(0)
        layer = aru_kernels.ARUN(1, H, controller_size=G, leak=leak, device=device)
        for name in fused_backends(op, device):
            variants[f"{name}{label}"] = Variant(
                on(name, lambda layer=layer: pass_over(layer, x, backward)), same_function=leak is not None
            )
        if leak is not None:
            variants["reference"] = Variant(on("reference", lambda layer=layer: pass_over(layer, x, backward)))
    measure(
        "leaky_aru_sequence",
        NAMES[backward],
        shape._asdict(),
        next(iter(variants)),
        variants,
        gflop=shape.gflop(backward),
        steps=T,
        rounds=15 if shape.gflop(backward) < 1 else 4,
    )
