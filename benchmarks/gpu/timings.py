"""Times on a GPU: γ, the controller step and the sequences beside eager PyTorch, torch.compile, CUDA graphs and cuDNN.

Every case is a set of variants of one task that take turns, so that a slow moment of the machine hits them all.  Times
are of CUDA events (of the clock in a dry run on a CPU), as quantiles over rounds; the headline is the ratio of medians.
Where kernels are shorter than their launches, the GPU gets a head start of work, so that the events tell its time; the
host's time of a call stands beside it.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from statistics import median

import torch
from torch import Tensor, nn

import aru_kernels
import aru_kernels.functional as F
from aru_kernels import reference, use_backend
from aru_kernels.backends import BACKENDS
from benchmarks.cases import on
from benchmarks.gpu.checks import peak_memory
from benchmarks.gpu.problems import Place, fused_backends, mixed_products, precision, random
from benchmarks.peers import GraphedWork, SteppedNetwork, step
from benchmarks.problems import controller_weights
from benchmarks.timing import Sample, sample_of
from benchmarks.work import Shape

Work = Callable[[], object]
QUANTILES = (0.2, 0.5, 0.8)
# Clocks, some 2 ms: the host enqueues a call of every variant of a short case in less.
HEAD_START = 4_000_000
# Seconds of a call above which a variant takes part in three rounds only.
SLOW = 0.3


@dataclass
class Timing:
    """Seconds of one variant, and bytes at its peak; or why there are none.

    host_seconds: the median time after which a call came back, on a GPU; rounds: calls that were timed.
    fraction_of_copy, fraction_of_product, fraction_of_special: of the rates in `Limits`, counting only the useful work.
    """

    quantiles: list[float] = field(default_factory=list)
    host_seconds: float | None = None
    rounds: int = 0
    peak_bytes: int | None = None
    us_per_step: float | None = None
    fraction_of_copy: float | None = None
    fraction_of_product: float | None = None
    fraction_of_special: float | None = None
    failure: str = ""

    @property
    def median(self) -> float:
        """Seconds."""
        return self.quantiles[1]


@dataclass
class Case:
    """One task: variants by name, ours first; steps of a sequence; bytes that must move, for what memory bounds.

    flop, special: useful work on the matrix and the special-function units, for what they bound; precisions: of the
    variants that are not at "highest"; short: kernels may be shorter than their launches.
    """

    name: str
    variants: dict[str, Work]
    steps: int = 0
    moved_bytes: int = 0
    flop: float = 0
    special: int = 0
    short: bool = False
    precisions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Limits:
    """What the GPU can do: bytes a second of a large copy; FLOP/s of a large float32 matrix product by precision;
    special-function instructions a second, 16 a clock on every multiprocessor, where the clock is known.
    """

    copy: float | None = None
    product: dict[str, float] = field(default_factory=dict)
    special: float | None = None


@dataclass
class Result:
    """The timings of a case."""

    name: str
    timings: dict[str, Timing]

    def ratios(self) -> dict[str, float]:
        """Median time of every other variant over that of the first: how many times faster ours is."""
        ours, *others = self.timings
        if self.timings[ours].failure:
            return {}
        base = self.timings[ours].median
        return {name: self.timings[name].median / base for name in others if not self.timings[name].failure}

    def to_json(self) -> dict[str, object]:
        """For the results file."""
        return {
            "name": self.name,
            "timings": {name: asdict(timing) for name, timing in self.timings.items()},
            "ratios": self.ratios(),
        }

    def lines(self) -> Iterator[str]:
        """For the terminal."""
        yield self.name
        ratios = self.ratios()
        for name, timing in self.timings.items():
            if timing.failure:
                yield f"    {name:<34} {timing.failure}"
                continue
            low, median, high = (f"{1e3 * q:.4g}" for q in timing.quantiles)
            extras = [f"{median} ms ({low} to {high})"]
            if name in ratios:
                extras.insert(0, f"ours is {ratios[name]:.2f} times as fast")
            if timing.host_seconds is not None:
                extras.append(f"host {1e3 * timing.host_seconds:.4g} ms")
            if timing.us_per_step is not None:
                extras.append(f"{timing.us_per_step:.2f} µs a step")
            if timing.fraction_of_copy is not None:
                extras.append(f"{timing.fraction_of_copy:.0%} of copy bandwidth")
            if timing.fraction_of_product is not None:
                extras.append(f"{timing.fraction_of_product:.0%} of a matrix product")
            if timing.fraction_of_special is not None:
                extras.append(f"{timing.fraction_of_special:.0%} of the special functions")
            if timing.peak_bytes is not None:
                extras.append(f"peak {timing.peak_bytes / 1e9:.2f} GB")
            yield f"    {name:<34} {', '.join(extras)}"


def flush_cache(place: Place) -> None:
    """Writes more than a GPU's second-level cache holds, so that inputs come from memory."""
    if place.is_gpu:
        torch.empty(2**28, dtype=torch.int8, device=place.device).zero_()


def measure(case: Case, place: Place, budget: float, limits: Limits = Limits()) -> Result:  # noqa: B008 (frozen)
    """Times a case for about `budget` seconds; a variant that fails (out of memory, ...) is noted as such."""
    timings = {name: Timing() for name in case.variants}
    samples: dict[str, list[Sample]] = {name: [] for name in case.variants}
    most_rounds = dict.fromkeys(case.variants, 200)

    def attempt(name: str, work: Work) -> object:
        """What work() returns; None, with the reason noted, if it fails."""
        try:
            return work()
        except Exception as error:
            timings[name].failure = f"{type(error).__name__}: {str(error).splitlines()[0][:90]}"
            if place.is_gpu:
                torch.cuda.empty_cache()
            return None

    def warm_up(name: str, work: Work) -> None:
        """Three calls: compilations; recordings of graphs; the usual one, which tells how many are to be timed."""
        work()
        work()
        begin = time.perf_counter()
        if place.is_gpu:
            timings[name].peak_bytes = peak_memory(work)
        else:
            work()
        if time.perf_counter() - begin > SLOW:
            most_rounds[name] = 3

    for name, work in case.variants.items():
        attempt(name, lambda name=name, work=work: warm_up(name, work))
    spent, rounds = 0.0, 0
    while rounds < 5 or (spent < budget and rounds < 200):
        for name, work in case.variants.items():
            if timings[name].failure or len(samples[name]) == most_rounds[name]:
                continue
            begin = time.perf_counter()
            if case.moved_bytes:
                flush_cache(place)
            sample = attempt(name, lambda work=work: sample_of(work, place.device, HEAD_START if case.short else 0))
            if sample is not None:
                samples[name].append(sample)
            if most_rounds[name] > 3:  # slow variants leave the others their time
                spent += time.perf_counter() - begin
        rounds += 1
    alive = [name for name in case.variants if not timings[name].failure]
    for name in alive:
        timings[name].rounds = len(samples[name])
        times = torch.tensor([sample.device for sample in samples[name]], dtype=torch.float64)
        timings[name].quantiles = torch.quantile(times, torch.tensor(QUANTILES, dtype=torch.float64)).tolist()
        if place.is_gpu:
            timings[name].host_seconds = median(sample.host for sample in samples[name])
        if case.steps:
            timings[name].us_per_step = timings[name].median / case.steps * 1e6
        seconds, product = timings[name].median, limits.product.get(case.precisions.get(name, "highest"))
        if case.moved_bytes and limits.copy:
            timings[name].fraction_of_copy = case.moved_bytes / seconds / limits.copy
        if case.flop and product:
            timings[name].fraction_of_product = case.flop / seconds / product
        if case.special and limits.special:
            timings[name].fraction_of_special = case.special / seconds / limits.special
    return Result(case.name, timings)


def measured_limits(place: Place, budget: float) -> Limits:
    """The limits of this GPU, measured but for the clock, which is the highest that the driver names."""
    budget = min(budget, 0.5)
    source = random(place, 1000 if place.small else 2**27)
    target = torch.empty_like(source)
    copy = Case("copy", {"copy": lambda: target.copy_(source)})
    n = 32 if place.small else 8192
    x, y, z = (random(place, n, n) for _ in "xyz")
    products = {name: at_precision(name, lambda: torch.mm(x, y, out=z)) for name in ("highest", "high", "medium")}
    timings = measure(Case("matrix product", products), place, budget).timings
    return Limits(
        copy=2 * source.nbytes / measure(copy, place, budget).timings["copy"].median,
        product={name: 2 * n**3 / timing.median for name, timing in timings.items()},
        special=special_rate(place),
    )


def special_rate(place: Place) -> float | None:
    """Special-function instructions a second of an NVIDIA GPU."""
    if not place.is_gpu or torch.version.hip:
        return None
    properties = torch.cuda.get_device_properties(place.device)
    name = f"GPU-{str(properties.uuid).removeprefix('GPU-')}"
    query = ["nvidia-smi", f"--id={name}", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits"]
    try:
        clock = float(subprocess.run(query, capture_output=True, text=True, check=True).stdout)
    except (OSError, ValueError, subprocess.CalledProcessError):
        return None
    return 16 * properties.multi_processor_count * clock * 1e6


def backward_of(function: Callable[..., Tensor], leaves: list[Tensor], dy: Tensor) -> Work:
    """Only the backward pass, over a graph that is built once."""
    y = function(*leaves)
    return lambda: torch.autograd.grad(y, leaves, dy, retain_graph=True)


Wanted = Callable[[str], bool]
"""Whether the case of this name is to be timed."""


def gamma_cases(place: Place, wanted: Wanted) -> Iterator[Case]:
    """γ over the activations of a whole sequence of the paper's size, by dtype and kind of parameters."""
    compiler = "aot_eager" if place.small else "inductor"
    rows, H = (30, 20) if place.small else (78_400, 400)
    for dtype in (torch.float32, torch.bfloat16):
        for kind, sizes in (("scalar", ()), ("per neuron", (H,)), ("per element", (rows, H))):
            label = f"γ, {rows} x {H}, {str(dtype).removeprefix('torch.')}, n and s {kind}"
            names = forward_name, backward_name = f"{label}, forward", f"{label}, backward"
            if not any(map(wanted, names)):
                continue
            x, dy = random(place, rows, H, dtype=dtype), random(place, rows, H, dtype=dtype)
            n, s = random(place, *sizes, dtype=dtype) + 5, random(place, *sizes, dtype=dtype).abs()
            torch.compiler.reset()
            compiled = torch.compile(reference.gamma, backend=compiler, dynamic=False)
            functions = {place.backend: F.gamma, "eager": reference.gamma, "torch.compile": compiled}
            backends = {place.backend: place.backend, "eager": "reference", "torch.compile": "reference"}

            def forward(function: Callable[..., Tensor], x=x, n=n, s=s) -> Work:
                return torch.no_grad()(lambda: function(x, n, s))

            full = n.nbytes if sizes == (rows, H) else 0
            moved = 2 * x.nbytes + 2 * full
            if wanted(forward_name):
                variants = {k: on(backends[k], forward(f)) for k, f in functions.items()}
                yield Case(forward_name, variants, moved_bytes=moved, short=True)
            if not wanted(backward_name):
                continue
            variants = {}
            for name, function in functions.items():
                leaves = [t.clone().requires_grad_() for t in (x, n, s)]
                with use_backend(backends[name]):
                    variants[name] = on(backends[name], backward_of(function, leaves, dy))
            yield Case(backward_name, variants, moved_bytes=3 * x.nbytes + 4 * full, short=True)


def step_cases(place: Place, wanted: Wanted) -> Iterator[Case]:
    """One controller step with γ at the paper's size."""
    compiler = "aot_eager" if place.small else "inductor"
    B, H, G = (2, 6, 4) if place.small else (100, 400, 50)
    a, g, weights = random(place, B, H), random(place, B, H, G).tanh(), controller_weights(G, place.device)

    def eager(a: Tensor, g: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        n, s, g = reference.controller_step(a, g, *weights)
        return reference.gamma(a, n, s), g

    torch.compiler.reset()
    functions = {
        place.backend: (place.backend, F.adaptive_gamma),
        "eager": ("reference", eager),
        "torch.compile": ("reference", torch.compile(eager, backend=compiler, dynamic=False)),
    }
    label = f"controller step (B, H, G) = {B, H, G}"
    if wanted(name := f"{label}, forward"):
        variants = {k: on(b, torch.no_grad()(lambda f=f: f(a, g, *weights))) for k, (b, f) in functions.items()}
        yield Case(name, variants, short=True)
    leaves = [t.clone().requires_grad_() for t in (a, g, *weights)]

    def training(function: Callable[..., tuple[Tensor, Tensor]]) -> Work:
        def run() -> object:
            h, g = function(*leaves)
            return torch.autograd.grad([h, g], leaves, [torch.ones_like(h), torch.ones_like(g)])

        return run

    if wanted(name := f"{label}, forward and backward"):
        yield Case(name, {k: on(b, training(f)) for k, (b, f) in functions.items()}, short=True)


# (B, T, H, G)
SHAPES = [(100, 784, 400, 50), (32, 784, 64, 16), (32, 784, 128, 16), (32, 784, 400, 50), (256, 784, 400, 50)]


# torch.compile takes longer than all that is timed.
COMPILED_SHAPES = SHAPES[:2]


def eager_bytes(B: int, T: int, H: int, G: int) -> float:
    """What autograd keeps of an eager loop, measured at the paper's size: 2.5 times the states."""
    return 2.5 * 4 * B * T * H * G


def sequence_cases(place: Place, wanted: Wanted) -> Iterator[Case]:
    """The adaptive network: forward, and a training step, at every precision of ours."""
    memory = torch.cuda.get_device_properties(place.device).total_memory if place.is_gpu else float("inf")
    for B, T, H, G in [(2, 5, 6, 4)] if place.small else SHAPES:
        for backward in (False, True):
            name = f"ARUN (B, T, H, G) = {B, T, H, G}, {direction(backward)}"
            if not wanted(name) or BACKENDS[place.backend].refuses("aru_sequence", place.device, torch.float32, H, G):
                continue
            passes = training if backward else inference
            torch.manual_seed(0)
            layer = aru_kernels.ARUN(1, H, controller_size=G, device=place.device)
            x = torch.rand(T, B, 1, device=place.device)
            ours = on(place.backend, passes(layer, x))
            variants = {
                place.backend: ours,
                f"{place.backend}, high": at_precision("high", ours),
                f"{place.backend}, medium": at_precision("medium", ours),
            }
            if not backward and place.backend == "cuda":
                variants["cuda, mixed, high"] = in_mixed_products(place, (T, B, H, G), ours)
            for other in others(place, "aru_sequence", H, G):
                variants[other] = on(other, passes(layer, x))
                variants[f"{other}, medium"] = at_precision("medium", variants[other])
            eager = on("reference", passes(layer, x))
            kept = backward * eager_bytes(B, T, H, G)
            if kept < 0.9 * memory:
                variants["eager loop"] = eager
                variants["eager loop, medium"] = at_precision("medium", eager)
            if place.small or (B, T, H, G) in COMPILED_SHAPES:
                torch.compiler.reset()
                compiled = torch.compile(step, backend="aot_eager" if place.small else "inductor", dynamic=False)
                stepped = SteppedNetwork(layer, compiled)
                variants["torch.compile of the step"] = passes(lambda x, stepped=stepped: (stepped(x),), x, layer)
            variants["nn.RNN(relu), same H"] = passes(nn.RNN(1, H, nonlinearity="relu", device=place.device), x)
            variants["nn.LSTM, same H"] = passes(nn.LSTM(1, H, device=place.device), x)
            # their memory stays their own while the eager loop, too, runs
            if place.is_gpu and 3 * kept < 0.9 * memory:
                variants["eager loop in a CUDA graph"] = GraphedWork(eager)
                variants["eager loop in a CUDA graph, medium"] = GraphedWork(at_precision("medium", eager))
            yield Case(
                name,
                variants,
                steps=T,
                flop=1e9 * Shape(B, T, H, G).gflop(backward),
                special=Shape(B, T, H, G).transcendental(backward),
                precisions={
                    name: precision for name in variants for precision in ("high", "medium") if name.endswith(precision)
                },
            )


def static_cases(place: Place, wanted: Wanted) -> Iterator[Case]:
    """The static network beside cuDNN's RNN of the same size."""
    for B, T, H in [(2, 5, 6)] if place.small else [(100, 784, 400), (32, 784, 64)]:
        for backward in (False, True):
            name = f"GammaRNN (B, T, H) = {B, T, H}, {direction(backward)}"
            if not wanted(name) or BACKENDS[place.backend].refuses(
                "gamma_rnn_sequence", place.device, torch.float32, H
            ):
                continue
            passes = training if backward else inference
            torch.manual_seed(0)
            layer = aru_kernels.GammaRNN(1, H, device=place.device)
            x = torch.rand(T, B, 1, device=place.device)
            ours = on(place.backend, passes(layer, x))
            variants = {
                place.backend: ours,
                f"{place.backend}, medium": at_precision("medium", ours),
                **{other: on(other, passes(layer, x)) for other in others(place, "gamma_rnn_sequence", H)},
                "eager loop": on("reference", passes(layer, x)),
                "nn.RNN(relu), same H": passes(nn.RNN(1, H, nonlinearity="relu", device=place.device), x),
            }
            yield Case(name, variants, steps=T)


def leak_cases(place: Place, wanted: Wanted) -> Iterator[Case]:
    """A training step of networks with a leak beside the same networks without one."""
    for B, T, H, G in [(2, 5, 6, 4)] if place.small else SHAPES[:2]:
        for kind, op, sizes in (
            ("ARUN", "leaky_aru_sequence", {"controller_size": G}),
            ("GammaRNN", "leaky_gamma_rnn_sequence", {}),
        ):
            shape = f"(B, T, H, G) = {B, T, H, G}" if sizes else f"(B, T, H) = {B, T, H}"
            name = f"{kind} {shape} with a leak, {direction(True)}"
            if not wanted(name) or BACKENDS[place.backend].refuses(
                op, place.device, torch.float32, H, G if sizes else 0
            ):
                continue
            x, variants = torch.rand(T, B, 1, device=place.device), {}
            for variant, leak in ((place.backend, 0.2), (f"{place.backend}, without a leak", None)):
                torch.manual_seed(0)
                layer = getattr(aru_kernels, kind)(1, H, **sizes, leak=leak, device=place.device)
                ours = on(place.backend, training(layer, x))
                variants[variant], variants[f"{variant}, medium"] = ours, at_precision("medium", ours)
            yield Case(name, variants, steps=T)


def others(place: Place, op: str, H: int, G: int = 0) -> list[str]:
    """The other fused backends that serve the same sequence."""
    return [
        name
        for name in fused_backends(place.device.type)
        if name != place.backend and not BACKENDS[name].refuses(op, place.device, torch.float32, H, G)
    ]


def direction(backward: bool) -> str:
    """What is done to a layer, in the name of a case."""
    return "forward and backward" if backward else "forward"


def inference(layer: Callable[..., object], x: Tensor, owner: nn.Module | None = None) -> Work:
    """A forward pass without gradients."""
    return torch.no_grad()(lambda: layer(x))


def training(layer: Callable[..., object], x: Tensor, owner: nn.Module | None = None) -> Work:
    """A forward and a backward pass; gradients of `owner`'s parameters, the layer's by default."""
    parameters = list((owner or layer).parameters())

    def run() -> object:
        output = layer(x)[0]
        return torch.autograd.grad(output.sum(), parameters)

    return run


def at_precision(name: str, work: Work) -> Work:
    """`work` under torch.set_float32_matmul_precision(name)."""

    def run() -> object:
        with precision(name):
            return work()

    return run


def in_mixed_products(place: Place, sizes: tuple[int, int, int, int], work: Work) -> Work:
    """`work` in the second form of "high"."""

    def run() -> object:
        with mixed_products(place, sizes):
            return work()

    return run


def all_cases(place: Place, wanted: Wanted = lambda name: True) -> Iterator[Case]:
    """In the order in which they are printed; each is made when its turn comes, so that its memory is free again."""
    for op, cases in (
        ("gamma", gamma_cases),
        ("controller_step", step_cases),
        ("aru_sequence", sequence_cases),
        ("gamma_rnn_sequence", static_cases),
        ("leaky_aru_sequence", leak_cases),
    ):
        if op in BACKENDS[place.backend].ops:
            yield from cases(place, wanted)
