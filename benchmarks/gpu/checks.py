"""What must hold on a GPU before anything is timed: accuracy, bits, streams, graphs, compilation, memory.

Plain functions that raise AssertionError, so that `check.py` needs no test framework; `tests/gpu` runs the same
ones under pytest.  Each takes a `Place`, and is small enough in `Place(small=True)` for a dry run on a CPU.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor

import aru_kernels
import aru_kernels.functional as F
from aru_kernels import ops, use_backend
from aru_kernels.backends import BACKENDS
from benchmarks.gpu.problems import (
    ROOT,
    Function,
    Place,
    Problem,
    Skip,
    adaptive,
    all_failures,
    compare,
    environment,
    exact_results,
    mixed_products,
    one_of_each,
    one_signed_step,
    operation,
    precision,
    random,
    refusal,
    run,
    run_forward,
    sequences,
    served,
    static,
)
from benchmarks.gpu.sanitizer import the_sanitizer_finds_nothing
from benchmarks.problems import controller_weights
from benchmarks.tolerances import PRODUCTS, TOLERANCES, relative_error

NARROW = (torch.bfloat16, torch.float16)


def gamma_is_accurate(place: Place) -> None:
    """In every dtype, with every kind of parameters."""
    rows, H = (30, 20) if place.small else (3000, 401)

    def gains(*sizes: int) -> Tensor:
        """From 1 to 7: near 0 a gain's gradient would be too large for float16, and outweigh all others."""
        return 4 + random(place, *sizes).clamp(-3, 3)

    for dtype in (torch.float32, *NARROW):
        tolerance = TOLERANCES["element"][dtype] if dtype != torch.float32 else TOLERANCES["sum"][dtype]
        for n, s in (((), ()), ((H,), (H,)), ((rows, 1), (H,)), ((rows, H), (rows, H))):
            arguments = [random(place, rows, H), gains(*n), 0.3 * random(place, *s).abs()]
            arguments = [x.to(dtype) for x in arguments]
            served(place, [(F.gamma, arguments)])
            # the gradients of scalars are sums over all elements, which float16 must be able to hold
            compare(place, F.gamma, arguments, 2 * tolerance, f"γ, {dtype}, n {n}, s {s}", scale=2.0**-6)
        strided = random(place, H, rows, dtype=dtype).t()[:, ::2]
        arguments = [strided, -gains(*strided.shape).to(dtype), random(place, dtype=dtype).abs()]
        compare(place, F.gamma, arguments, 2 * tolerance, f"γ, {dtype}, strided, n < 0", scale=2.0**-6)


def steps_are_accurate(place: Place) -> None:
    """The controller step, in every dtype and precision."""
    problems = [
        (F.adaptive_gamma, one_signed_step(place, 3, 41, G)) for G in ((4,) if place.small else (1, 16, 50, 64, 128))
    ]
    for _, arguments in served(place, problems):
        G = arguments[1].shape[-1]
        for function in (F.controller_step, F.adaptive_gamma):
            exact = exact_results(function, arguments)
            for name, tolerance in PRODUCTS.items():
                with precision(name):
                    compare(place, function, arguments, tolerance, f"{function.__name__}, G = {G}, {name}", exact)
        for dtype in NARROW:
            narrow = [x.to(dtype) for x in arguments]
            compare(place, F.adaptive_gamma, narrow, TOLERANCES["sequence"][dtype], f"step, G = {G}, {dtype}")


def sequences_are_accurate(place: Place) -> None:
    """Values and all gradients, at every precision, with all state kept and with checkpoints, in every dtype."""
    shapes = [(5, 2, 6, 4)]
    if not place.small:
        shapes = [(40, 32, 64, 16), (21, 7, 65, 50), (9, 3, 130, 128), (70, 9, 400, 50), (5, 100, 400, 50)]
        shapes += [(11, 6, 90, 32), (8, 5, 77, 64), (9, 5, 61, 51), (12, 6, 50, 19)]  # other kernels
    problems = [problem for shape in shapes for problem in sequences(place, *shape)]
    for function, arguments in served(place, problems):
        T, B, _ = arguments[0].shape
        op, H, G = operation(function, arguments)
        what = f"{op}, (T, B, H, G) = {T, B, H, G}"
        exact = exact_results(function, arguments)
        for name, tolerance in PRODUCTS.items():
            for budget in ("1T", "1") if G else ("1T",):
                with precision(name), environment(ARU_STATE_BUDGET=budget):
                    if refusal(place, function, arguments) is None:
                        compare(place, function, arguments, tolerance, f"{what}, {name}, budget {budget}", exact)
        for dtype in NARROW if G else ():
            narrow = [x.to(dtype) for x in arguments]
            compare(place, function, narrow, TOLERANCES["sequence"][dtype], f"{what}, {dtype}")


def mixed_products_are_accurate(place: Place) -> None:
    """Values of passes without gradients in the second form of "high", beyond float16's range too; and their bits."""
    shapes = [(40, 32, 64, 16), (784, 16, 64, 16), (21, 7, 65, 50), (70, 9, 400, 50), (40, 100, 400, 50)]
    shapes += [(11, 6, 90, 32), (8, 5, 77, 64), (9, 5, 61, 51), (12, 6, 50, 19)]  # other kernels
    for shape in shapes:
        with mixed_products(place, shape):
            arguments = adaptive(place, *shape)
            xp, h0, g0, weight_hh, weight_ag, weight_gg, bias_g, weight_gc, bias_c = arguments
            large = [1e6 * xp, 1e6 * h0, *arguments[2:]]
            small = [xp, h0, g0, weight_hh, weight_ag, 1e-7 * weight_gg, bias_g, 1e-7 * weight_gc, bias_c]
            for name, problem in (("usual", arguments), ("large h", large), ("small weights", small)):
                expected = run_forward("reference", F.aru_sequence, [x.double() for x in problem])
                first = run_forward(place.backend, F.aru_sequence, problem)
                for index, (a, e) in enumerate(zip(first, expected, strict=True)):
                    error = relative_error(a, e)
                    assert error <= PRODUCTS["high"], f"{shape}, {name}: output {index} is off by {error:.2g}"
                for _ in range(5):
                    again = run_forward(place.backend, F.aru_sequence, problem)
                    assert all(map(torch.equal, first, again)), f"{shape}, {name}: other bits"


def long_sequences_are_accurate(place: Place) -> None:
    """T = 784 and 5,000: plain float32 is off by 1e-6 and 2e-6 there."""
    shapes = ((40, 1, 3, 2),) if place.small else ((784, 16, 64, 16), (5000, 2, 8, 4))
    problems = [problem for shape in shapes for problem in sequences(place, *shape)]
    for function, arguments in served(place, problems):
        T, B, _ = arguments[0].shape
        op, H, G = operation(function, arguments)
        exact = exact_results(function, arguments)
        for budget in ("1T", "1") if G else ("1T",):
            with environment(ARU_STATE_BUDGET=budget):
                what = f"{op}, (T, B, H, G) = {T, B, H, G}, budget {budget}"
                compare(place, function, arguments, PRODUCTS["highest"], what, exact)


def _problems(place: Place) -> list[Problem]:
    return one_of_each(place, *((5, 2, 6, 4) if place.small else (70, 9, 100, 50)))


def bits_are_the_same_every_time(place: Place) -> None:
    """Over 50 runs of every operation, forward and backward; and over 10 of many neurons, at every precision."""
    for function, arguments in _problems(place):
        same_bits(place, function, arguments, 3 if place.small else 50)
    if F.aru_sequence in [function for function, _ in _problems(place)]:
        for B in (2,) if place.small else (32, 100):  # whose kernels take other tiles
            arguments = adaptive(place, 5, B, 6, 4) if place.small else adaptive(place, 40, B, 400, 50)
            for name in PRODUCTS:
                with precision(name):
                    same_bits(place, F.aru_sequence, arguments, 3 if place.small else 10, f"B = {B}, {name}")


def same_bits(place: Place, function: Function, arguments: list[Tensor], runs: int, what: str = "") -> None:
    """Fails, naming the results, if a run differs from the first."""
    first = run(place.backend, function, arguments)
    for index in range(2, runs + 1):
        again = run(place.backend, function, arguments)
        differ = [k for k, (x, y) in enumerate(zip(first, again, strict=True)) if not torch.equal(x, y)]
        assert not differ, f"{function.__name__} {what}: results {differ} of run {index} differ from run 1"


def results_do_not_depend_on_recorded_graphs(place: Place) -> None:
    """From the second call on a sequence may be replayed: the same bits as launched, with other numbers each time."""
    # more neurons than run in one launch
    sizes = (5, 3, 20, 6) if place.small else (70, 3, 70, 6)
    for function, arguments in served(place, sequences(place, *sizes)):
        for _ in range(4):
            arguments = [x + 0.01 * torch.randn_like(x) for x in arguments]
            with environment(ARU_TRITON_GRAPHS="0"):
                launched = run(place.backend, function, arguments)
            assert all(map(torch.equal, launched, run(place.backend, function, arguments))), function.__name__


def other_streams_work(place: Place) -> None:
    """On a stream that is not the default one, behind work that takes its time."""
    place.gpu_only()
    for function, arguments in _problems(place):
        expected = run(place.backend, function, arguments)
        stream = torch.cuda.Stream(place.device)
        stream.wait_stream(torch.cuda.current_stream(place.device))
        for _ in range(3):
            with torch.cuda.stream(stream):
                torch.cuda._sleep(10**7)
                late = [x.clone() for x in arguments]
                actual = run(place.backend, function, late)
            stream.synchronize()
            assert all(map(torch.equal, expected, actual)), function.__name__


def threads_do_not_disturb_each_other(place: Place) -> None:
    """Two callers at once, each on a stream of its own."""
    if place.backend == "triton" and not place.is_gpu:
        raise Skip("Triton's interpreter serves one thread at a time")
    problems = [adaptive(place, 4 if place.small else 70, 3, 20, 6) for _ in range(2)]
    expected = [run(place.backend, F.aru_sequence, p) for p in problems]

    def repeat(index: int) -> bool:
        stream = torch.cuda.Stream(place.device) if place.is_gpu else None
        with torch.cuda.stream(stream):
            if stream is not None:
                stream.wait_stream(torch.cuda.default_stream(place.device))
            results = [run(place.backend, F.aru_sequence, problems[index]) for _ in range(2 if place.small else 20)]
            return all(all(map(torch.equal, actual, expected[index])) for actual in results)

    with ThreadPoolExecutor(2) as callers:
        same = list(callers.map(repeat, range(2)))
    assert all(same), f"callers got other bits: {same}"


PROCESS = """
import sys, torch
sys.path[:0] = [{root!r}]
import aru_kernels.functional as F
from benchmarks.gpu import problems
place = problems.Place({backend!r}, torch.device({device!r}))
torch.manual_seed(0)
arguments = problems.adaptive(place, {T}, 16, {H}, 16)
first = problems.run({backend!r}, F.aru_sequence, arguments)
for _ in range({runs}):
    assert all(map(torch.equal, first, problems.run({backend!r}, F.aru_sequence, arguments))), "other bits"
print(*(x.double().norm().item() for x in first))
"""


def processes_share_a_device(place: Place) -> None:
    """Four at a time, each with launches that wait for one another: the same results in all, and no end of waiting."""
    T, H, runs = (4, 6, 2) if place.small else (200, 128, 20)
    program = PROCESS.format(root=str(ROOT), backend=place.backend, device=str(place.device), T=T, H=H, runs=runs)
    command = [sys.executable, "-c", program]
    with ThreadPoolExecutor(4) as callers:
        started = [
            callers.submit(subprocess.run, command, capture_output=True, text=True, timeout=300)
            for _ in range(2 if place.small else 4)
        ]
        done = [process.result() for process in started]
    assert not any(process.returncode for process in done), "\n".join(process.stderr[-1000:] for process in done)
    assert len({process.stdout for process in done}) == 1, f"processes differ: {[p.stdout for p in done]}"


def callers_can_capture_graphs(place: Place) -> None:
    """Forward and backward inside a graph that the caller captures; replayed with other numbers."""
    place.gpu_only()
    for function, arguments in _problems(place):
        fixed = [x.clone() for x in arguments]
        stream = torch.cuda.Stream(place.device)
        stream.wait_stream(torch.cuda.current_stream(place.device))
        with torch.cuda.stream(stream):
            for _ in range(2):
                run(place.backend, function, fixed)
        torch.cuda.current_stream(place.device).wait_stream(stream)
        leaves = [x.requires_grad_() for x in fixed]
        graph = torch.cuda.CUDAGraph()
        with use_backend(place.backend), torch.cuda.graph(graph):
            outputs = function(*leaves)
            output = outputs[0] if isinstance(outputs, tuple) else outputs
            gradients = torch.autograd.grad(output.square().sum(), leaves)
        for _ in range(3):
            fresh = [x + 0.01 * torch.randn_like(x) for x in arguments]
            with torch.no_grad():
                for leaf, value in zip(leaves, fresh, strict=True):
                    leaf.copy_(value)
            graph.replay()
            again = [x.requires_grad_() for x in fresh]
            with use_backend(place.backend):
                outputs = function(*again)
                expected = outputs[0] if isinstance(outputs, tuple) else outputs
                wanted = torch.autograd.grad(expected.square().sum(), again)
            for name, a, e in zip(("output", *"0123456789"), (output, *gradients), (expected, *wanted), strict=False):
                assert torch.equal(a, e), f"{function.__name__}: {name} differs from the launched one"


def compiled_layers_work(place: Place) -> None:
    """torch.compile(fullgraph=True), dynamic T and B, one compilation; and the mode that captures graphs."""
    compiler = "aot_eager" if place.small else "inductor"
    for kind in ("ARUN", "GammaRNN"):
        torch.compiler.reset()
        layer = getattr(aru_kernels, kind)(2, 20, device=place.device)
        compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=compiler)
        with use_backend(place.backend), torch._dynamo.config.patch(error_on_recompile=True):
            for T, B in ((3, 11), (5, 12), (4, 14)):
                x = random(place, T, B, 2)
                output, expected = compiled(x)[0], layer(x)[0]
                assert relative_error(output, expected) < 1e-6, kind
                output.sum().backward()
        if place.is_gpu:
            torch.compiler.reset()
            compiled = torch.compile(layer, fullgraph=True, mode="reduce-overhead")
            with use_backend(place.backend):
                for _ in range(4):
                    x = random(place, 5, 12, 2)
                    torch.compiler.cudagraph_mark_step_begin()
                    output = compiled(x)[0].clone()
                    assert relative_error(output, layer(x)[0]) < 1e-6, f"{kind}, reduce-overhead"
    torch.compiler.reset()


def operators_are_registered_correctly(place: Place) -> None:
    """torch.library.opcheck, forward."""
    T, B, H, G = 3, 2, 5, 4
    weights, leak = controller_weights(G, place.device), torch.full((H,), 0.5, device=place.device)
    calls: dict[str, tuple[object, ...]] = {
        "gamma": (random(place, 3, 4), random(place, 4), random(place, 3, 1), 1e-3),
        "controller_step": (random(place, B, H), random(place, B, H, G), *weights, 1e-3, "highest", True),
        "aru_sequence": (*adaptive(place, T, B, H, G), 1e-3, "highest", 2, True),
        "gamma_rnn_sequence": (*static(place, T, B, H), 1e-3, "highest", True),
        "leaky_aru_sequence": (*adaptive(place, T, B, H, G), leak, 1e-3, "highest", 2, True),
        "leaky_gamma_rnn_sequence": (*static(place, T, B, H), leak, 1e-3, "highest", True),
    }
    for op in sorted(BACKENDS[place.backend].ops):
        arguments = calls[op]
        leaves = tuple(x.requires_grad_() if isinstance(x, Tensor) else x for x in arguments)
        torch.library.opcheck(ops.operator(place.backend, op), leaves)


def autocast_works(place: Place) -> None:
    """Results in float32, near those without."""
    layer = aru_kernels.ARUN(3, 8, controller_size=4, device=place.device)
    x = random(place, 6, 2, 3)
    with use_backend(place.backend):
        exact, _ = layer(x)
        for dtype in NARROW:
            with torch.autocast(place.device.type, dtype):
                output, (h, g) = layer(x)
            assert output.dtype == h.dtype == g.dtype == torch.float32
            assert relative_error(output, exact) < TOLERANCES["sequence"][dtype]
            output.sum().backward()


def training_equals_the_reference(place: Place) -> None:
    """The losses of ten optimizer steps."""
    losses = {}
    for backend in (place.backend, "reference"):
        torch.manual_seed(0)
        layer = aru_kernels.ARUN(1, 16, controller_size=8, device=place.device)
        readout = torch.nn.Linear(16, 3, device=place.device)
        optimizer = torch.optim.Adam([*layer.parameters(), *readout.parameters()], lr=1e-2)
        x, y = torch.rand(25, 12, 1, device=place.device), torch.arange(12, device=place.device) % 3
        losses[backend] = []
        with use_backend(backend):
            for _ in range(3 if place.small else 10):
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(readout(layer(x)[1][0][-1]), y)
                loss.backward()
                optimizer.step()
                losses[backend].append(loss.detach())
    error = relative_error(torch.stack(losses[place.backend]), torch.stack(losses["reference"]))
    assert error < 10 * TOLERANCES["sequence"][torch.float32], f"losses differ by {error:.2g}"


def other_devices_work(place: Place) -> None:
    """Tensors on a GPU that is not the current one."""
    place.gpu_only()
    if torch.cuda.device_count() < 2:
        raise Skip("there is one GPU")
    other = Place(place.backend, torch.device("cuda", (torch.cuda.current_device() + 1) % torch.cuda.device_count()))
    for function, arguments in _problems(other):
        compare(other, function, arguments, 1e-4, f"{function.__name__} on {other.device}")


PAPER = (784, 100, 400, 50)  # T, B, H, G


def peak_memory(work: Callable[[], object]) -> int:
    """Bytes that `work` adds at its worst to what is allocated before it."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


# Bytes that a training step of the paper's size may add: what each backend has set itself.  Eager keeps over 15 GB.
MOST_MEMORY = {"triton": 1.5e9, "cuda": 2e9}


def memory_is_small(place: Place) -> None:
    """A training step of the paper's size: within the backend's limit; and three of them no more than one."""
    place.gpu_only()
    layer = aru_kernels.ARUN(1, PAPER[2], controller_size=PAPER[3], device=place.device)
    x = torch.rand(*PAPER[:2], 1, device=place.device)

    def step() -> None:
        layer(x)[0].square().sum().backward()
        layer.zero_grad()

    with use_backend(place.backend):
        peaks = [peak_memory(step) for _ in range(3)]
    limit = MOST_MEMORY[place.backend]
    assert max(peaks) < limit, f"peaks of {[round(p / 1e9, 2) for p in peaks]} GB, at most {limit / 1e9} are allowed"


def second_derivatives_are_refused(place: Place) -> None:
    """With a sentence, never a wrong number."""
    for function, arguments in one_of_each(place, 3, 2, 5, 4):
        leaves = [x.requires_grad_() for x in arguments]
        with use_backend(place.backend):
            outputs = function(*leaves)
        y = outputs[0] if isinstance(outputs, tuple) else outputs
        (first,) = torch.autograd.grad(y.square().sum(), leaves[0], create_graph=True)
        message = ""
        try:
            torch.autograd.grad(first.sum(), leaves[0])
        except RuntimeError as error:
            message = str(error)
        wanted = f"no second derivative of {operation(function, arguments)[0]}"
        assert wanted in message, f"{function.__name__}: no refusal, but {message!r}"


def reference_agrees_with_itself(place: Place) -> None:
    """The yardstick: the reference in float32 on this device against float64."""
    arguments = adaptive(place, 10, 3, 20, 6)
    actual = run("reference", F.aru_sequence, arguments)
    exact = run("reference", F.aru_sequence, [x.double() for x in arguments])
    for a, e in zip(actual, exact, strict=True):
        assert relative_error(a, e) < PRODUCTS["highest"]


CHECKS: dict[str, Callable[[Place], None]] = {
    check.__name__.replace("_", " "): check
    for check in (
        # the longest first: several run at a time
        the_sanitizer_finds_nothing,
        long_sequences_are_accurate,
        sequences_are_accurate,
        mixed_products_are_accurate,
        operators_are_registered_correctly,
        compiled_layers_work,
        steps_are_accurate,
        gamma_is_accurate,
        processes_share_a_device,
        reference_agrees_with_itself,
        bits_are_the_same_every_time,
        results_do_not_depend_on_recorded_graphs,
        other_streams_work,
        threads_do_not_disturb_each_other,
        callers_can_capture_graphs,
        autocast_works,
        training_equals_the_reference,
        other_devices_work,
        memory_is_small,
        second_derivatives_are_refused,
    )
}


@contextmanager
def poisoned() -> Iterator[None]:
    """NaN in memory that nobody wrote: a kernel that leaves an element of its output unwritten returns one."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def run_check(name: str, place: Place) -> None:
    """One check, from a fixed seed, with uninitialised memory poisoned."""
    torch.manual_seed(0)
    with poisoned(), all_failures():
        CHECKS[name](place)
