"""The layers and torch.compile over the Triton kernels, in the interpreter."""

from __future__ import annotations

import pytest
import torch

import aru_kernels
from aru_kernels import ARUN, AdaptiveGamma, ARUNCell, Gamma, GammaRNN, GammaRNNCell, backends, use_backend
from support.tolerances import assert_all_close, assert_close

CASES = {
    "ARUN": (lambda: ARUN(3, 5, controller_size=4, num_layers=2, bidirectional=True), lambda m, x: m(x)[0]),
    "GammaRNN": (lambda: GammaRNN(3, 5, num_layers=2), lambda m, x: m(x)[0]),
    "ARUNCell": (lambda: ARUNCell(3, 5, controller_size=4), lambda m, x: m(x[1], m(x[0]))[0]),
    "GammaRNNCell": (lambda: GammaRNNCell(3, 5), lambda m, x: m(x[1], m(x[0]))),
    "Gamma": (lambda: Gamma(3), lambda m, x: m(x)),
    "AdaptiveGamma": (lambda: AdaptiveGamma(4), lambda m, x: m(x, torch.zeros(*x.shape, 4))[0]),
}


@pytest.mark.parametrize("name", CASES)
def test_layers(name):
    """The same output and gradients as on the reference."""
    make, call = CASES[name]
    module, x = make(), torch.randn(4, 2, 3)
    results = []
    for backend in ("triton", "reference"):
        with use_backend(backend):
            output = call(module, x)
        parameters = list(module.parameters())
        results.append((output.detach(), *torch.autograd.grad(output.square().sum(), parameters, allow_unused=True)))
    (output, *gradients), (expected, *expected_gradients) = results
    assert_close("output", output, expected, "sequence")
    names = [n for (n, _), g in zip(module.named_parameters(), expected_gradients, strict=True) if g is not None]
    assert_all_close(names, *([g for g in gs if g is not None] for gs in (gradients, expected_gradients)), "sequence")


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # the compiler's own
@pytest.mark.parametrize("kind", ["ARUN", "GammaRNN"])
def test_compiled_layer_serves_other_lengths_and_batches(kind):
    """In one graph, with one compilation for all T and B."""
    torch.compiler.reset()
    layer = getattr(aru_kernels, kind)(2, 5)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    with use_backend("triton"), torch._dynamo.config.patch(error_on_recompile=True):
        for T, B in ((3, 6), (4, 9), (7, 8)):
            x = torch.randn(T, B, 2)
            output, _ = compiled(x)
            output.sum().backward()
            assert_close("output", output, layer(x)[0], "sequence")
    torch.compiler.reset()


def test_autocast():
    layer, x = ARUN(3, 5, controller_size=4), torch.randn(6, 2, 3)
    expected, _ = layer(x)
    with use_backend("triton"), torch.autocast("cpu", torch.bfloat16):
        output, (h, g) = layer(x)
    assert output.dtype == h.dtype == g.dtype == torch.float32
    assert_close("output", output, expected, "sequence", torch.bfloat16)
    output.sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in layer.parameters())


def test_the_row_of_the_table():
    row = next(row for row in aru_kernels.backends_info() if row.name == "triton")
    assert row.available
    assert "interpreter" in row.device
    sequences = "aru_sequence", "gamma_rnn_sequence"
    assert row.ops == tuple(sorted(("gamma", "controller_step", *sequences, *(f"leaky_{op}" for op in sequences))))


def test_auto_prefers_the_compiled_kernels():
    assert backends.select("gamma", torch.device("cpu"), torch.float32) in ("cpu", "reference")
