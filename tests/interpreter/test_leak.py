"""Sequences with a leak in Triton's interpreter, against the reference: values, every gradient, graphs, layers."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence

import aru_kernels.functional as F
from aru_kernels import ARUN, GammaRNN, _dispatch, use_backend
from aru_kernels.triton import controller, persistent, stepwise, ways
from support import last_state
from support.problems import ADAPTIVE, STATIC, adaptive_arguments, double, leaky, run, static_arguments, with_leak
from support.tolerances import assert_all_close, assert_close

ADAPTIVE_SEQUENCE, STATIC_SEQUENCE = leaky(F.aru_sequence), leaky(F.gamma_rnn_sequence)


def adaptive(T: int, B: int, H: int, G: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return with_leak(adaptive_arguments(T, B, H, G, dtype))


def static(
    T: int, B: int, H: int, sizes: tuple[int, ...] | None = None, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    return with_leak(static_arguments(T, B, H, sizes, dtype))


def check_adaptive(arguments: list[Tensor], trace: bool = False) -> None:
    outputs, gradients = run("triton", ADAPTIVE_SEQUENCE, arguments, trace)
    expected, expected_gradients = run("reference", ADAPTIVE_SEQUENCE, double(arguments), trace)
    assert_all_close(("h", "g", "a", "n", "s")[: len(outputs)], outputs, expected, "sequence")
    assert_all_close((*ADAPTIVE, "leak"), gradients, expected_gradients, "sequence")


def check_static(arguments: list[Tensor], trace: bool = False) -> None:
    outputs, gradients = run("triton", STATIC_SEQUENCE, arguments, trace)
    expected, expected_gradients = run("reference", STATIC_SEQUENCE, double(arguments), trace)
    assert_all_close(("h", "a", "n", "s")[: len(outputs)], outputs, expected, "sequence")
    assert_all_close((*STATIC, "leak"), gradients, expected_gradients, "sequence")


@settings(max_examples=4)
@given(
    T=st.integers(1, 9),
    B=st.integers(1, 4),
    H=st.integers(1, 20),
    G=st.one_of(st.integers(1, 16), st.integers(17, 70)),
    trace=st.booleans(),
    budget=st.sampled_from(["1T", "1"]),
    largest=st.sampled_from([0, 1024]),
)
def test_adaptive(T, B, H, G, trace, budget, largest):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARU_STATE_BUDGET", budget)
        patch.setattr(persistent, "MAX_BATCH", largest)
        check_adaptive(adaptive(T, B, H, G), trace)


@pytest.mark.parametrize("trace", [False, True])
def test_adaptive_over_several_chunks(budget, way, trace, monkeypatch):
    monkeypatch.setattr(ways, "CHUNK", 4)
    check_adaptive(adaptive(10, 2, 4, 3, torch.float32), trace)


@pytest.mark.parametrize("sizes", [(), (7,)], ids=str)
@pytest.mark.parametrize("trace", [False, True])
def test_static(sizes, trace, way, monkeypatch):
    monkeypatch.setattr(ways, "CHUNK", 4)
    check_static(static(7, 3, 7, sizes), trace)
    check_static(static(2, 50, 7, sizes, torch.float32), trace)


@pytest.mark.parametrize("G", [3, 63], ids=str)
def test_sums_of_the_weights_gradients(G, budget, step_by_step, monkeypatch):
    monkeypatch.setattr(stepwise, "SLOTS", 2)
    monkeypatch.setattr(controller, "_PROGRAMS", 2)
    check_adaptive(adaptive(7, 3, 5, G, torch.float64 if G < 16 else torch.float32))


def test_narrow_states(step_by_step, monkeypatch):
    """At "medium", states between checkpoints are float16; the states h that the leak reads are not."""
    monkeypatch.setenv("ARU_STATE_BUDGET", "1")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        arguments = adaptive(10, 3, 7, 9, torch.float32)
        outputs, gradients = run("triton", ADAPTIVE_SEQUENCE, arguments)
    finally:
        torch.set_float32_matmul_precision(before)
    expected, expected_gradients = run("reference", ADAPTIVE_SEQUENCE, double(arguments))
    assert_all_close(("h", "g"), outputs, expected, "medium products")
    assert_all_close((*ADAPTIVE, "leak"), gradients, expected_gradients, "medium products")


def test_gradcheck(way):
    with use_backend("triton"):
        assert torch.autograd.gradcheck(lambda *x: ADAPTIVE_SEQUENCE(*x)[:2], adaptive(5, 1, 3, 2), fast_mode=True)
        assert torch.autograd.gradcheck(lambda *x: STATIC_SEQUENCE(*x)[0], static(3, 2, 3, (3,)), fast_mode=True)


@pytest.mark.parametrize("kind", ["adaptive", "static"])
def test_a_leak_of_one_changes_no_bit(kind, way):
    """Of the outputs and of all other gradients."""
    function, arguments = {
        "adaptive": (F.aru_sequence, adaptive_arguments(6, 2, 5, 3, torch.float32)),
        "static": (F.gamma_rnn_sequence, static_arguments(6, 2, 5, (5,), torch.float32)),
    }[kind]
    outputs, gradients = run("triton", function, arguments, True)
    ones = torch.ones(5, requires_grad=True)
    same, (*others, d_leak) = run("triton", leaky(function), [*arguments, ones], True)
    assert all(map(torch.equal, outputs, same))
    assert all(map(torch.equal, gradients, others))
    assert d_leak.abs().min() > 0


def test_bits_do_not_change_between_runs(way):
    for function, arguments in (
        (ADAPTIVE_SEQUENCE, adaptive(9, 2, 10, 5, torch.float32)),
        (STATIC_SEQUENCE, static(9, 2, 10, None, torch.float32)),
    ):
        first, again = (list(chain(*run("triton", function, arguments))) for _ in range(2))
        assert all(map(torch.equal, first, again))


def test_non_contiguous_arguments():
    arguments = adaptive(4, 3, 5, 3, torch.float32)
    strided = [x.detach().T.contiguous().T.requires_grad_() if x.ndim == 2 else x for x in arguments[:-1]]
    leak = arguments[-1].detach()
    strided.append(torch.stack((leak, leak), 1)[:, 0].requires_grad_())
    assert not any(strided[i].is_contiguous() for i in (1, -1))
    results = [list(chain(*run("triton", ADAPTIVE_SEQUENCE, x))) for x in (arguments, strided)]
    assert all(map(torch.equal, *results))


def test_empty_batch():
    for function, arguments in ((ADAPTIVE_SEQUENCE, adaptive(3, 0, 4, 2)), (STATIC_SEQUENCE, static(3, 0, 4, (4,)))):
        outputs, gradients = run("triton", function, arguments)
        assert outputs[0].shape == (3, 0, 4)
        assert [x.shape for x in gradients] == [x.shape for x in arguments]
        assert all((x == 0).all() for x in gradients)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_one_bad_sequence_does_not_touch_the_others(way):
    others = [0, 1, 2, 4]
    for function, arguments in (
        (ADAPTIVE_SEQUENCE, adaptive(4, 5, 7, 4, torch.float32)),
        (STATIC_SEQUENCE, static(4, 5, 7, None, torch.float32)),
    ):
        clean, _ = run("triton", function, arguments)
        with torch.no_grad():
            arguments[0][2, 3, 1] = torch.nan
        with use_backend("triton"):
            h = function(*arguments)[0]
        assert torch.equal(h[:, others], clean[0][:, others])
        assert not torch.equal(h[:, 3], clean[0][:, 3])
        (d_xp,) = torch.autograd.grad(h[:, others].sum(), arguments[:1])
        assert d_xp[:, others].isfinite().all()


@last_state.each_use
def test_the_last_state_has_a_gradient_of_its_own(used, way):
    for function, names, arguments in (
        (_dispatch.aru_sequence, ADAPTIVE, adaptive(10, 2, 4, 3)),
        (_dispatch.gamma_rnn_sequence, STATIC, static(10, 2, 4, (1,))),
    ):
        actual, expected = (last_state.gradients(b, leaky(function), arguments, used) for b in ("triton", "reference"))
        assert_all_close((*names, "leak"), actual, expected, "sequence")


@pytest.mark.parametrize("train", [False, True], ids=["fixed", "trained"])
@pytest.mark.parametrize("kind", [ARUN, GammaRNN])
def test_layers(kind, train):
    """Two layers, both directions, packed sequences."""
    layer = kind(3, 5, num_layers=2, bidirectional=True, leak=torch.linspace(0.1, 0.9, 5), train_leak=train)
    x, results = pack_sequence([torch.randn(T, 3) for T in (5, 4, 2)]), []
    for backend in ("triton", "reference"):
        with use_backend(backend):
            output = layer(x)[0].data
        results.append((output.detach(), *torch.autograd.grad(output.square().sum(), list(layer.parameters()))))
    (output, *gradients), (expected, *expected_gradients) = results
    assert_close("output", output, expected, "sequence")
    names = tuple(name for name, _ in layer.named_parameters())
    assert train == any("leak" in name for name in names)
    assert_all_close(names, gradients, expected_gradients, "sequence")


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # the compiler's own
@pytest.mark.parametrize("kind", [ARUN, GammaRNN])
def test_compiled_layer(kind):
    torch.compiler.reset()
    layer, x = kind(2, 5, leak=0.3, train_leak=True), torch.randn(4, 3, 2)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    results = []
    with use_backend("triton"):
        for module in (layer, compiled):
            results.append(torch.autograd.grad(module(x)[0].square().sum(), list(layer.parameters())))
    assert_all_close(tuple(name for name, _ in layer.named_parameters()), *results, "sequence")
    torch.compiler.reset()
