"""The sequence operations of the fused backends against the reference: values, every gradient, bits, memory."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import aru_kernels
import aru_kernels.functional as F
from aru_kernels import _memory, cpu, ops
from benchmarks.tolerances import relative_error
from support.helpers import needs_cpu_kernels, needs_fork, needs_resident_peak
from support.problems import (
    ADAPTIVE,
    STATIC,
    STEP,
    adaptive_arguments,
    double,
    run,
    static_arguments,
    step_arguments,
    weighted_sum,
)
from support.tolerances import assert_all_close, assert_close

pytestmark = needs_cpu_kernels

ISAS = cpu._C.usable_isas() if cpu.unavailable() is None else []


@pytest.fixture(autouse=True)
def best_isa() -> Iterator[None]:
    yield
    cpu._C.select_isa("auto")


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("budget", ["1T", "1"], ids=["all kept", "checkpoints"])
@settings(max_examples=25)
@given(T=st.integers(1, 20), B=st.integers(1, 9), H=st.integers(1, 40), G=st.integers(1, 60), trace=st.booleans())
def test_adaptive_matches_reference(isa, budget, T, B, H, G, trace):
    cpu._C.select_isa(isa)
    arguments = adaptive_arguments(T, B, H, G)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARU_STATE_BUDGET", budget)
        outputs, gradients = run("cpu", F.aru_sequence, arguments, trace)
    expected, expected_gradients = run("reference", F.aru_sequence, arguments, trace)
    names = ("h", "g", "a", "n", "s")[: len(outputs)]
    assert_all_close(names, outputs, expected, "sequence")
    assert_all_close(ADAPTIVE, gradients, expected_gradients, "sequence")


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=25)
@given(
    T=st.integers(1, 20),
    B=st.integers(1, 9),
    H=st.integers(1, 40),
    kind=st.sampled_from(["scalar", "one", "each"]),
    trace=st.booleans(),
)
def test_static_matches_reference(isa, T, B, H, kind, trace):
    cpu._C.select_isa(isa)
    arguments = static_arguments(T, B, H, {"scalar": (), "one": (1,), "each": (H,)}[kind])
    outputs, gradients = run("cpu", F.gamma_rnn_sequence, arguments, trace)
    expected, expected_gradients = run("reference", F.gamma_rnn_sequence, arguments, trace)
    assert_all_close(("h", "a", "n", "s")[: len(outputs)], outputs, expected, "sequence")
    assert_all_close(STATIC, gradients, expected_gradients, "sequence")


# Relative L2 against float64, over the sizes below: h <= 1e-6 and gradients <= 5e-6 is what the kernels promise; the
# generic build has no fused multiply-add and rounds twice as often (measured: up to 7e-6).
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", [(64, 32, 64, 16), (64, 8, 100, 32), (28, 10, 400, 50), (784, 16, 64, 16)], ids=str)
def test_float32_accuracy(isa, shape):
    cpu._C.select_isa(isa)
    arguments = adaptive_arguments(*shape, dtype=torch.float32)
    outputs, gradients = run("cpu", F.aru_sequence, arguments)
    expected, expected_gradients = run("reference", F.aru_sequence, double(arguments))
    assert relative_error(outputs[0], expected[0]) < 1e-6
    limit = 1e-5 if isa == "generic" else 5e-6
    for name, gradient, exact in zip(ADAPTIVE, gradients, expected_gradients, strict=True):
        error = relative_error(gradient, exact)
        assert error < limit, f"{name}: {error:.2g}"


@pytest.fixture
def bfloat16_products(monkeypatch) -> Iterator[None]:
    """As on a processor with AVX512-BF16: any instruction set has the kernels, most by a longer way."""
    monkeypatch.setattr(cpu, "bfloat16_products", lambda: True)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", [(40, 8, 64, 16), (28, 5, 100, 50), (300, 4, 20, 32), (9, 3, 7, 5)], ids=str)
def test_medium_precision(isa, shape, bfloat16_products, monkeypatch, set_threads):
    cpu._C.select_isa(isa)
    arguments = adaptive_arguments(*shape, dtype=torch.float32)
    outputs, gradients = run("cpu", F.aru_sequence, arguments, trace=True)
    for threads, budget in ((1, "1T"), (3, "1")):
        set_threads(threads)
        monkeypatch.setenv("ARU_STATE_BUDGET", budget)
        again = run("cpu", F.aru_sequence, arguments, trace=True)
        assert all(torch.equal(x, y) for x, y in zip(outputs + gradients, again[0] + again[1], strict=True))
    torch.set_float32_matmul_precision("highest")
    expected, expected_gradients = run("reference", F.aru_sequence, double(arguments), trace=True)
    assert relative_error(outputs[0], expected[0]) > 1e-6, "the products were exact: nothing was tested"
    assert_close("h", outputs[0], expected[0], "bfloat16 products, values", torch.float32)
    assert_all_close(ADAPTIVE, gradients, expected_gradients, "bfloat16 products, gradients", torch.float32)


def test_medium_precision_of_a_step(bfloat16_products):
    arguments = step_arguments(4, 30, 17, dtype=torch.float32)
    results = []
    for backend, tensors in (("cpu", arguments), ("reference", double(arguments))):
        with aru_kernels.use_backend(backend):
            h, g = F.adaptive_gamma(*tensors)
        results.append([h, g, *torch.autograd.grad(h.square().sum() + g.square().sum(), tensors)])
    names = ("h", "g", *STEP)
    assert_all_close(names[:2], results[0][:2], results[1][:2], "bfloat16 products, gradients", torch.float32)
    assert_all_close(names[2:], results[0][2:], results[1][2:], "bfloat16 products, gradients", torch.float32)


def test_backward_pass_keeps_the_precision_of_the_forward_pass(bfloat16_products):
    arguments = adaptive_arguments(6, 3, 10, 8, dtype=torch.float32)
    _, expected = run("cpu", F.aru_sequence, arguments)
    with aru_kernels.use_backend("cpu"):
        h, g, _ = F.aru_sequence(*arguments)
    torch.set_float32_matmul_precision("highest")
    gradients = torch.autograd.grad(weighted_sum([h, g]), arguments)
    assert all(torch.equal(x, y) for x, y in zip(gradients, expected, strict=True))


@pytest.mark.skipif(not hasattr(torch.backends.mkldnn, "matmul"), reason="from torch 2.9 on")
@pytest.mark.parametrize(
    ("setting", "precision"),
    [
        ("torch.set_float32_matmul_precision('medium')", ("medium", "medium")),
        ("torch.backends.mkldnn.matmul.fp32_precision = 'bf16'", ("medium", "highest")),
        ("torch.backends.mkldnn.matmul.fp32_precision = 'tf32'", ("high", "highest")),
        ("torch.backends.cuda.matmul.fp32_precision = 'tf32'", ("highest", "high")),
        ("torch.backends.fp32_precision = 'tf32'", ("high", "high")),
        ("torch.backends.fp32_precision = 'ieee'", ("highest", "highest")),
        (
            "torch.set_float32_matmul_precision('high'); torch.backends.cuda.matmul.fp32_precision = 'ieee'",
            ("high", "highest"),
        ),
        (
            "torch.set_float32_matmul_precision('medium'); torch.backends.mkldnn.matmul.fp32_precision = 'ieee'",
            ("highest", "medium"),
        ),
    ],
)
def test_all_of_torchs_switches_are_read(setting, precision, run_python):
    """torch.get_float32_matmul_precision raises after most of them."""
    program = f"""
import torch
import aru_kernels.functional as F
from aru_kernels import ARUN, ARUNCell, GammaRNN
from aru_kernels._precision import product_precision
{setting}
x = torch.ones(3, 2, 1)
for layer in ARUN(1, 5, controller_size=4), GammaRNN(1, 5):
    layer(x)[0].sum().backward()
ARUNCell(1, 5, controller_size=4)(x[0])[0].sum().backward()
print(product_precision("cpu"), product_precision("cuda"))
"""
    result = run_python("-W", "error", "-c", program)
    assert result.returncode == 0, result.stderr
    assert tuple(result.stdout.split()) == precision


def test_medium_precision_keeps_nan_and_infinity(bfloat16_products):
    arguments = [x.detach() for x in adaptive_arguments(4, 2, 5, 6, dtype=torch.float32)]
    payload = torch.tensor(0x7FFFFFFF, dtype=torch.int32).view(torch.float32)  # its upper half rounds up to -0
    arguments[2][0, 0, 0] = payload
    with aru_kernels.use_backend("cpu"):
        h, _, _ = F.aru_sequence(*arguments)
    assert h[:, 0].isnan().any()
    assert h[:, 1].isfinite().all()


def test_five_thousand_steps():
    arguments = adaptive_arguments(5000, 2, 8, 4, dtype=torch.float32)
    outputs, gradients = run("cpu", F.aru_sequence, arguments)
    expected, expected_gradients = run("reference", F.aru_sequence, double(arguments))
    assert_close("h", outputs[0], expected[0], "sequence", torch.float32)
    assert_all_close(ADAPTIVE, gradients, expected_gradients, "sequence", torch.float32)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("budget", ["1T", "1"], ids=["all kept", "checkpoints"])
def test_gradcheck(isa, budget, monkeypatch):
    cpu._C.select_isa(isa)
    monkeypatch.setenv("ARU_STATE_BUDGET", budget)
    assert torch.autograd.gradcheck(lambda *x: F.aru_sequence(*x)[:2], adaptive_arguments(3, 2, 5, 4))
    assert torch.autograd.gradcheck(lambda *x: F.gamma_rnn_sequence(*x)[0], static_arguments(3, 2, 5, (5,)))
    assert torch.autograd.gradcheck(F.controller_step, step_arguments(2, 5, 4))
    assert torch.autograd.gradcheck(F.adaptive_gamma, step_arguments(2, 5, 4))


# the second and third are cut into parts that a team of threads shares
@pytest.mark.parametrize("shape", [(30, 33, 64, 16), (9, 3, 300, 50), (18, 1, 131, 60)], ids=str)
def test_bits_do_not_depend_on_threads_runs_or_budget(shape, set_threads, monkeypatch):
    arguments = adaptive_arguments(*shape, dtype=torch.float32)
    results = []
    for threads, budget in ((1, "1T"), (2, "1T"), (3, "1"), (2, "1"), (5, "1T")):
        set_threads(threads)
        monkeypatch.setenv("ARU_STATE_BUDGET", budget)
        outputs, gradients = run("cpu", F.aru_sequence, arguments)
        results.append([*outputs, *gradients])
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))


@pytest.mark.parametrize("shape", [(30, 70, 48), (18, 2, 501)], ids=str)
def test_static_bits_do_not_depend_on_threads(shape, set_threads):
    arguments = static_arguments(*shape, shape[-1:], dtype=torch.float32)
    results = []
    for threads in (1, 2, 3, 5):
        set_threads(threads)
        outputs, gradients = run("cpu", F.gamma_rnn_sequence, arguments)
        results.append([*outputs, *gradients])
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))


def test_a_team_of_threads_matches_reference(set_threads):
    set_threads(3)
    arguments = adaptive_arguments(5, 1, 131, 60)
    outputs, gradients = run("cpu", F.aru_sequence, arguments, trace=True)
    expected, expected_gradients = run("reference", F.aru_sequence, arguments, trace=True)
    assert_all_close(("h", "g", "a", "n", "s"), outputs, expected, "sequence")
    assert_all_close(ADAPTIVE, gradients, expected_gradients, "sequence")
    arguments = static_arguments(5, 2, 501, (501,))
    outputs, gradients = run("cpu", F.gamma_rnn_sequence, arguments)
    expected, expected_gradients = run("reference", F.gamma_rnn_sequence, arguments)
    assert_all_close(("h",), outputs, expected, "sequence")
    assert_all_close(STATIC, gradients, expected_gradients, "sequence")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_bad_sequence_does_not_touch_the_others(bad):
    arguments = adaptive_arguments(6, 5, 7, 4, dtype=torch.float32)
    clean, _ = run("cpu", F.aru_sequence, arguments)
    with torch.no_grad():
        arguments[0][2, 3, 1] = bad
    with aru_kernels.use_backend("cpu"):
        h, g, _ = F.aru_sequence(*arguments)
    others = [0, 1, 2, 4]
    assert torch.equal(h[:, others], clean[0][:, others])
    assert torch.equal(g[others], clean[1][others])
    assert not torch.equal(h[:, 3], clean[0][:, 3])
    (d_xp,) = torch.autograd.grad(h[:, others].sum(), arguments[:1])
    assert d_xp[:, others].isfinite().all()


def test_non_contiguous_arguments():
    arguments = adaptive_arguments(6, 4, 9, 5)
    strided = [
        x.detach().transpose(0, -1).contiguous().transpose(0, -1).requires_grad_() if x.ndim > 1 else x
        for x in arguments
    ]
    assert not strided[0].is_contiguous()
    outputs, gradients = run("cpu", F.aru_sequence, arguments)
    again, gradients_again = run("cpu", F.aru_sequence, strided)
    assert all(torch.equal(x, y) for x, y in zip([*outputs, *gradients], [*again, *gradients_again], strict=True))


def test_empty_batch():
    for function, arguments in (
        (F.aru_sequence, adaptive_arguments(3, 0, 4, 2)),
        (F.gamma_rnn_sequence, static_arguments(3, 0, 4, (4,))),
    ):
        outputs, gradients = run("cpu", function, arguments)
        assert outputs[0].shape == (3, 0, 4)
        assert [x.shape for x in gradients] == [x.shape for x in arguments]
        assert all((x == 0).all() for x in gradients)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_tensors_are_computed_in_float32(dtype):
    arguments = [x.detach().to(dtype) for x in adaptive_arguments(5, 3, 8, 4, torch.float32)]
    with aru_kernels.use_backend("cpu"):
        h, g, _ = F.aru_sequence(*arguments)
        exact, exact_g, _ = F.aru_sequence(*(x.float() for x in arguments))
    assert (h.dtype, g.dtype) == (dtype, dtype)
    assert torch.equal(h, exact.to(dtype))
    assert torch.equal(g, exact_g.to(dtype))


def test_cpu_autocast():
    layer = aru_kernels.ARUN(3, 8, controller_size=4)
    x = torch.randn(6, 2, 3)
    exact, _ = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, (h_n, g_n) = layer(x)
    assert output.dtype == h_n.dtype == g_n.dtype == torch.float32
    # only the input projection is a bfloat16 product
    assert_close("output", output, exact, "sequence", torch.bfloat16)
    output.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


def test_inference_keeps_nothing():
    arguments = [x.detach() for x in adaptive_arguments(4, 2, 5, 3)]
    operator = ops.operator("cpu", "aru_sequence")
    *_, a, n, s, kept = operator(*arguments, 1e-3, "highest", 0, False)
    assert [x.numel() for x in (a, n, s, kept)] == [0, 0, 0, 0]


@given(
    T=st.integers(1, 30), B=st.integers(1, 40), H=st.integers(1, 500), G=st.integers(1, 60), segment=st.integers(0, 31)
)
def test_kept_elements_are_counted_alike(T, B, H, G, segment):
    for isa in ISAS:
        cpu._C.select_isa(isa)
        sizes = (T, B, H, G, cpu.tile_size(B, H, G), segment)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cpu, "bfloat16_products", lambda: True)
            for name, dtype, precision in (
                *(("float32", torch.float32, "highest"), ("float64", torch.float64, "medium")),
                ("bfloat16 products", torch.float32, "medium"),
            ):
                expected = cpu._C.kept_elements(name, sizes) if segment else 0
                assert cpu.kept_elements(T, B, H, G, dtype, precision, segment) == expected


def test_state_goes_back_to_the_pool_and_is_reused():
    cpu._C.free_idle()
    arguments = adaptive_arguments(50, 8, 64, 16, dtype=torch.float32)
    run("cpu", F.aru_sequence, arguments)
    gc.collect()
    idle = cpu._C.idle_bytes()
    assert idle >= 50 * 8 * 64 * 16 * 4
    for _ in range(20):
        run("cpu", F.aru_sequence, arguments)
    assert cpu._C.idle_bytes() == idle
    cpu._C.free_idle()
    assert cpu._C.idle_bytes() == 0


def test_two_callers_at_once():
    problems = [adaptive_arguments(20, 6, 30, 10, dtype=torch.float32) for _ in range(2)]
    alone = [run("cpu", F.aru_sequence, p) for p in problems]
    wrong = []

    def repeat(index: int) -> None:
        for _ in range(30):
            outputs, gradients = run("cpu", F.aru_sequence, problems[index])
            expected = [*alone[index][0], *alone[index][1]]
            if not all(torch.equal(x, y) for x, y in zip([*outputs, *gradients], expected, strict=True)):
                wrong.append(index)

    callers = [threading.Thread(target=repeat, args=(i,)) for i in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


@needs_fork
def test_after_fork(run_python):
    program = """
import os, torch, aru_kernels
import aru_kernels.functional as F
from aru_kernels._module import controller_shapes
layer, xp = aru_kernels.ARUN(1, 64, controller_size=16), torch.rand(20, 100, 64, requires_grad=True)
weights = [getattr(layer, name + "_l0") for name in ("weight_hh", *controller_shapes(16))]
ones, g0 = torch.ones(20, 100, 64), torch.zeros(100, 64, 16)
def step():  # nothing but our kernels: PyTorch's own thread pool does not survive a fork
    h, _, _ = F.aru_sequence(xp, ones[0], g0, *weights)
    return [x.detach().numpy().tobytes() for x in (h, *torch.autograd.grad(h, [xp, *weights], ones))]
expected = step()
pid = os.fork()
if pid == 0:
    os._exit(0 if step() == expected else 1)
assert os.waitpid(pid, 0)[1] == 0
"""
    done = run_python("-W", "ignore::DeprecationWarning", "-c", program, OMP_NUM_THREADS="2")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("text", "size"), [("12345", 12345), ("512M", 512 * 2**20), ("1.5GiB", 3 * 2**29), (" 2 kb ", 2048)]
)
def test_budget_is_read(text, size, monkeypatch):
    monkeypatch.setenv("ARU_STATE_BUDGET", text)
    assert _memory.state_budget() == size


def test_budget_that_is_no_size(monkeypatch):
    monkeypatch.setenv("ARU_STATE_BUDGET", "lots")
    with pytest.raises(ValueError, match="ARU_STATE_BUDGET is 'lots', expected a number of bytes"):
        F.aru_sequence(*adaptive_arguments(2, 1, 3, 2))


def test_budget_decides_the_segment(monkeypatch):
    T, B, H, G = 100, 4, 16, 7
    everything = T * B * H * G * 8
    monkeypatch.setenv("ARU_STATE_BUDGET", str(everything))
    assert cpu.choose_segment(T, B, H, G, torch.float64, "highest") == 1
    monkeypatch.setenv("ARU_STATE_BUDGET", str(everything - 1))
    assert cpu.choose_segment(T, B, H, G, torch.float64, "highest") == 8
    monkeypatch.setenv("ARU_STATE_BUDGET", str(everything // 20))
    assert cpu.choose_segment(T, B, H, G, torch.float64, "highest") == 20
    monkeypatch.setenv("ARU_STATE_BUDGET", "1")
    assert cpu.choose_segment(T, B, H, G, torch.float64, "highest") == T


def test_second_derivative_names_the_reference():
    arguments = adaptive_arguments(3, 2, 4, 3)
    h, _, _ = F.aru_sequence(*arguments)
    (gradient,) = torch.autograd.grad(h.sum(), arguments[:1], create_graph=True)
    with pytest.raises(RuntimeError, match=r"no second derivative of aru_sequence.*use_backend\('reference'\)"):
        gradient.sum().backward()


def test_training_equals_the_reference():
    losses = {}
    for backend in ("cpu", "reference"):
        torch.manual_seed(0)
        layer, readout = aru_kernels.ARUN(1, 16, controller_size=8), torch.nn.Linear(16, 3)
        optimizer = torch.optim.Adam([*layer.parameters(), *readout.parameters()], lr=1e-2)
        x, y = torch.rand(25, 12, 1), torch.arange(12) % 3
        losses[backend] = []
        with aru_kernels.use_backend(backend):
            for _ in range(10):
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(readout(layer(x)[0][-1]), y)
                loss.backward()
                optimizer.step()
                losses[backend].append(loss.detach())
    assert_close("losses", torch.stack(losses["cpu"]), torch.stack(losses["reference"]), "sequence")
    assert losses["cpu"][-1] < losses["cpu"][0]


def test_saturated_controller_passes_no_gradient():
    """A fresh network saturates its controller, and its gradients grow over time: 1 - g² must be 0 there."""
    torch.manual_seed(0)
    single, double = (
        aru_kernels.ARUN(1, 64, controller_size=16),
        aru_kernels.ARUN(1, 64, controller_size=16, dtype=torch.float64),
    )
    double.load_state_dict(single.state_dict())
    x = torch.rand(300, 8, 1)
    errors = {}
    for layer, backend in ((single, "cpu"), (single, "reference"), (double, "reference")):
        layer.zero_grad()
        with aru_kernels.use_backend(backend):
            layer(x.to(layer.bias_l0.dtype))[0].square().sum().backward()
        gradients = [p.grad.clone() for p in layer.parameters()]
        errors[backend if layer is single else "exact"] = gradients
    for fused, eager, exact in zip(errors["cpu"], errors["reference"], errors["exact"], strict=True):
        assert relative_error(fused, exact) < 3 * relative_error(eager, exact) + 2e-6


@needs_resident_peak
@pytest.mark.slow
def test_memory_stays_within_the_budget(run_python):
    """The paper's psMNIST step (6.4 GB of controller state) under a budget of 1 GiB, in a process of its own."""
    program = """
import torch, aru_kernels
from benchmarks.memory import resident_peak as peak
layer, x = aru_kernels.ARUN(1, 400, controller_size=50), torch.rand(784, 100, 1)
before = peak()
layer(x)[0].square().sum().backward()
print(peak() - before)
"""
    done = run_python("-c", program, ARU_STATE_BUDGET="1GiB", OMP_NUM_THREADS=str(torch.get_num_threads()))
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 2 * 2**30


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # inductor's own
@pytest.mark.parametrize("kind", ["ARUN", "GammaRNN"])
def test_compiled_layer_serves_other_lengths_and_batches(kind):
    """One compilation for all T, and for all B above the few that make a single tile."""
    layer = getattr(aru_kernels, kind)(2, 5)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for T, B in ((6, 9), (9, 12), (50, 30)):
            x = torch.randn(T, B, 2)
            output, _ = compiled(x)
            output.sum().backward()
            assert torch.equal(output, layer(x)[0])
