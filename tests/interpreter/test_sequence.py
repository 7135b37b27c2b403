"""The sequences in Triton's interpreter, against the reference: values, every gradient, checkpoints."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import aru_kernels
import aru_kernels.functional as F
from aru_kernels import ops, triton
from aru_kernels.triton import controller, persistent, stepwise, ways
from support import last_state
from support.problems import ADAPTIVE, STATIC, adaptive_arguments, double, run, static_arguments
from support.tolerances import assert_all_close


def check_adaptive(arguments: list[Tensor], trace: bool = False) -> None:
    outputs, gradients = run("triton", F.aru_sequence, arguments, trace)
    expected, expected_gradients = run("reference", F.aru_sequence, double(arguments), trace)
    assert_all_close(("h", "g", "a", "n", "s")[: len(outputs)], outputs, expected, "sequence")
    assert_all_close(ADAPTIVE, gradients, expected_gradients, "sequence")


def check_static(arguments: list[Tensor], trace: bool = False) -> None:
    outputs, gradients = run("triton", F.gamma_rnn_sequence, arguments, trace)
    expected, expected_gradients = run("reference", F.gamma_rnn_sequence, double(arguments), trace)
    assert_all_close(("h", "a", "n", "s")[: len(outputs)], outputs, expected, "sequence")
    assert_all_close(STATIC, gradients, expected_gradients, "sequence")


@settings(max_examples=8)
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
        check_adaptive(adaptive_arguments(T, B, H, G), trace)


@pytest.mark.parametrize("trace", [False, True])
def test_adaptive_over_several_chunks(budget, way, trace):
    check_adaptive(adaptive_arguments(10, 2, 4, 3, torch.float32), trace)


@pytest.mark.parametrize("G", [3, 14, 15, 62, 63], ids=str)
def test_sums_of_the_weights_gradients(G, budget, step_by_step, monkeypatch):
    """Several times in a chunk; of controllers that fill the sums' columns, or have one more unit; few programs."""
    monkeypatch.setattr(stepwise, "SLOTS", 2)
    monkeypatch.setattr(controller, "_PROGRAMS", 2)
    check_adaptive(adaptive_arguments(7, 3, 5, G, torch.float64 if G < 16 else torch.float32))


@pytest.mark.parametrize("segments", [True, False], ids=["checkpoints", "all kept"])
def test_narrow_states(segments, step_by_step, monkeypatch):
    """At "medium", states between checkpoints are float16, their gradients bfloat16, in whole vectors; else float32."""
    monkeypatch.setenv("ARU_STATE_BUDGET", "1" if segments else "1T")
    monkeypatch.setattr(stepwise, "SLOTS", 3)
    seen: set[tuple[torch.dtype, torch.dtype, int]] = set()
    true = controller.Controller.step_backward

    def step_backward(self, *, g: Tensor, du: Tensor, **others: Tensor | None) -> None:
        seen.add((g.dtype, du.dtype, g.shape[-1]))
        true(self, g=g, du=du, **others)

    monkeypatch.setattr(controller.Controller, "step_backward", step_backward)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        arguments = adaptive_arguments(10, 3, 7, 9, torch.float32)
        outputs, gradients = run("triton", F.aru_sequence, arguments)
    finally:
        torch.set_float32_matmul_precision(before)
    expected, expected_gradients = run("reference", F.aru_sequence, double(arguments))
    kind = "medium products" if segments else "sequence"
    assert_all_close(("h", "g"), outputs, expected, kind)
    assert_all_close(ADAPTIVE, gradients, expected_gradients, kind)
    assert seen == {(torch.float16, torch.bfloat16, 16) if segments else (torch.float32, torch.float32, 12)}


@pytest.mark.parametrize("sizes", [(), (1,), (7,)], ids=str)
@pytest.mark.parametrize("trace", [False, True])
def test_static(sizes, trace, way, monkeypatch):
    monkeypatch.setattr(ways, "CHUNK", 4)
    check_static(static_arguments(7, 3, 7, sizes), trace)
    check_static(static_arguments(2, 50, 7, sizes, torch.float32), trace)


def test_small_networks_are_one_launch(monkeypatch):
    """Of every kernel, however many steps; a large network takes a launch a step."""
    counts: Counter[str] = Counter()

    def counting(true, name):
        def run(*arguments, **keywords):
            counts[name] += 1
            return true(*arguments, **keywords)

        return run

    for kernel in (
        persistent.adaptive_steps_fwd_kernel,
        persistent.adaptive_steps_bwd_kernel,
        controller.controller_step_fwd_kernel,
    ):
        monkeypatch.setattr(kernel, "run", counting(kernel.run, kernel.fn.__name__))
    monkeypatch.setenv("ARU_STATE_BUDGET", "1T")
    run("triton", F.aru_sequence, adaptive_arguments(9, 2, 5, 3))
    assert counts == {"adaptive_steps_fwd_kernel": 1, "adaptive_steps_bwd_kernel": 1}
    run("triton", F.aru_sequence, adaptive_arguments(3, 1, 65, 3))
    assert counts["controller_step_fwd_kernel"] == 3


def test_gradcheck(budget, way):
    with aru_kernels.use_backend("triton"):
        assert torch.autograd.gradcheck(
            lambda *x: F.aru_sequence(*x)[:2], adaptive_arguments(5, 1, 3, 2), fast_mode=True
        )
        assert torch.autograd.gradcheck(
            lambda *x: F.gamma_rnn_sequence(*x)[0], static_arguments(3, 2, 3, (3,)), fast_mode=True
        )


def test_bits_do_not_change_between_runs(way, budget):
    arguments = adaptive_arguments(9, 2, 10, 5, torch.float32)
    first, again = (list(chain(*run("triton", F.aru_sequence, arguments))) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))


def test_non_contiguous_arguments():
    arguments = adaptive_arguments(4, 3, 5, 3, torch.float32)
    strided = [
        x.detach().transpose(0, -1).contiguous().transpose(0, -1).requires_grad_() if x.ndim > 1 else x
        for x in arguments
    ]
    assert not strided[0].is_contiguous()
    results = [list(chain(*run("triton", F.aru_sequence, x))) for x in (arguments, strided)]
    assert all(torch.equal(x, y) for x, y in zip(*results, strict=True))


def test_empty_batch():
    for function, arguments in (
        (F.aru_sequence, adaptive_arguments(3, 0, 4, 2)),
        (F.gamma_rnn_sequence, static_arguments(3, 0, 4, (4,))),
    ):
        outputs, gradients = run("triton", function, arguments)
        assert outputs[0].shape == (3, 0, 4)
        assert [x.shape for x in gradients] == [x.shape for x in arguments]
        assert all((x == 0).all() for x in gradients)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_one_bad_sequence_does_not_touch_the_others(bad, way):
    arguments = adaptive_arguments(4, 5, 7, 4, torch.float32)
    clean, _ = run("triton", F.aru_sequence, arguments)
    with torch.no_grad():
        arguments[0][2, 3, 1] = bad
    with aru_kernels.use_backend("triton"):
        h, g, _ = F.aru_sequence(*arguments)
    others = [0, 1, 2, 4]
    assert torch.equal(h[:, others], clean[0][:, others])
    assert torch.equal(g[others], clean[1][others])
    assert not torch.equal(h[:, 3], clean[0][:, 3])
    (d_xp,) = torch.autograd.grad(h[:, others].sum(), arguments[:1])
    assert d_xp[:, others].isfinite().all()


def test_only_the_last_state_is_used(way):
    arguments = adaptive_arguments(5, 2, 4, 3)
    gradients = []
    for backend in ("triton", "reference"):
        with aru_kernels.use_backend(backend):
            _, g, _ = F.aru_sequence(*arguments)
        gradients.append(torch.autograd.grad(g.sum(), arguments))
    assert_all_close(ADAPTIVE, *gradients, "sequence")


@last_state.each_use
def test_the_last_state_has_a_gradient_of_its_own(used, way, budget):
    last_state.check_adaptive("triton", adaptive_arguments(10, 2, 4, 3), used)
    last_state.check_static("triton", static_arguments(10, 2, 4, (1,)), used)


def test_inference_keeps_nothing():
    arguments = [x.detach() for x in adaptive_arguments(4, 2, 5, 3)]
    *_, a, n, s, kept = ops.operator("triton", "aru_sequence")(*arguments, 1e-3, "highest", 0, False)
    assert [x.numel() for x in (a, n, s, kept)] == [0, 0, 0, 0]


def test_saturated_controller_passes_no_gradient():
    """The network of a fresh start over 50 steps: gradients of float32 as good as the reference's own."""
    torch.manual_seed(0)
    single = aru_kernels.ARUN(1, 16, controller_size=6)
    exact = aru_kernels.ARUN(1, 16, controller_size=6, dtype=torch.float64)
    exact.load_state_dict(single.state_dict())
    x = torch.rand(50, 2, 1)
    errors = {}
    for backend in ("triton", "reference"):
        with aru_kernels.use_backend(backend):
            gradients = torch.autograd.grad(single(x)[0].square().sum(), list(single.parameters()))
        with aru_kernels.use_backend("reference"):
            truth = torch.autograd.grad(exact(x.double())[0].square().sum(), list(exact.parameters()))
        errors[backend] = [((a - e).norm() / e.norm()).item() for a, e in zip(gradients, truth, strict=True)]
    for fused, eager in zip(errors["triton"], errors["reference"], strict=True):
        assert fused < 3 * eager + 2e-6


@pytest.mark.parametrize(("T", "segment"), [(1, 4), (32, 4), (33, 8), (100, 8), (784, 32), (5000, 64), (10**6, 1024)])
def test_segments_above_the_budget(T, segment, monkeypatch):
    """Powers of two close to √T: a few per cent more states at a time than the best segment has."""
    monkeypatch.setenv("ARU_STATE_BUDGET", "1")
    assert triton.choose_segment(T, 10, 10, 10, torch.float32, "highest") == segment
    if T >= 32:
        held = triton.kept_slots(T, segment) + segment
        best = min(triton.kept_slots(T, k) + k for k in range(2, T))
        assert held <= 1.07 * best + 2


def test_budget_decides_the_segment(monkeypatch):
    monkeypatch.delenv("ARU_STATE_BUDGET", raising=False)
    assert triton.choose_segment(784, 100, 400, 50, torch.float32, "highest") == 32  # 6.3 GB
    assert triton.choose_segment(64, 32, 64, 16, torch.float32, "highest") == 1  # 8 MB
    monkeypatch.setenv("ARU_STATE_BUDGET", "8GiB")
    assert triton.choose_segment(784, 100, 400, 50, torch.float32, "highest") == 1


@given(T=st.integers(1, 8), B=st.integers(0, 3), data=st.data())
@settings(max_examples=6)
def test_kept_elements_are_counted_alike(T, B, data):
    segment = data.draw(st.integers(0, T), "segment")
    arguments = [x.detach() for x in adaptive_arguments(T, B, 2, 3)]
    *_, kept = ops.operator("triton", "aru_sequence")(*arguments, 1e-3, "highest", segment, False)
    assert kept.numel() == triton.kept_elements(T, B, 2, 3, torch.float64, "highest", segment)
