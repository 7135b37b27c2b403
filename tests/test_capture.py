"""What is captured once (torch.export, torch.jit.trace, make_fx) serves every size, and trains exactly, later."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, export
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils.rnn import pack_sequence

from aru_kernels import ARUN, AdaptiveGamma, ARUNCell, Gamma, GammaRNN, GammaRNNCell
from support.tolerances import assert_close

DOUBLE = torch.float64
I, H, G = 3, 5, 4  # noqa: E741
# (T, B) of later calls; T, B, I, H and G of the example differ, for symbolic sizes that are equal count as one
SIZES = ((1, 1), (9, 1), (1, 4), (29, 8), (150, 20), (7, 2))

OPTIONS = {
    "plain": {},
    "batch first": {"batch_first": True},
    "two layers and directions": {"num_layers": 2, "bidirectional": True, "batch_first": True},
    "without a bias": {"bias": False},
}
LAYERS = {
    f"{cls.__name__} {name}": (cls, options | ({"controller_size": G} if cls is ARUN else {}))
    for cls in (ARUN, GammaRNN)
    for name, options in OPTIONS.items()
}
# (module, its arguments for T steps of B sequences) of everything but the layers
STEPS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], tuple[Any, ...]]]] = {
    "ARUNCell": (
        lambda: ARUNCell(I, H, controller_size=G, dtype=DOUBLE),
        lambda B: (randn(B, I), (randn(B, H), randn(B, H, G))),
    ),
    "ARUNCell without a state": (lambda: ARUNCell(I, H, controller_size=G, dtype=DOUBLE), lambda B: (randn(B, I),)),
    "GammaRNNCell": (lambda: GammaRNNCell(I, H, dtype=DOUBLE), lambda B: (randn(B, I), randn(B, H), randn(B, 1))),
    "Gamma": (lambda: Gamma(I, dtype=DOUBLE), lambda B: (randn(B, I),)),
    "AdaptiveGamma": (lambda: AdaptiveGamma(G, dtype=DOUBLE), lambda B: (randn(B, H), randn(B, H, G))),
}

each_layer = pytest.mark.parametrize("layer", LAYERS)
each_step = pytest.mark.parametrize("step", STEPS)
# torch.jit.trace is deprecated, and warns of every size that Python looks at, as it does of torch.nn.LSTM
traces = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")


def randn(*sizes: int) -> Tensor:
    return torch.randn(sizes, dtype=DOUBLE)


def make(layer: str) -> nn.Module:
    cls, options = LAYERS[layer]
    return cls(I, H, dtype=DOUBLE, **options)


def sequence(layer: nn.Module, T: int, B: int, features: int = I) -> Tensor:
    return randn(B, T, features) if layer.batch_first else randn(T, B, features)


def states(layer: nn.Module, B: int) -> Any:
    rows = layer.num_layers * (1 + layer.bidirectional)
    return (randn(rows, B, H), randn(rows, B, H, G)) if isinstance(layer, ARUN) else randn(rows, B, H)


def flat(value: Any) -> Iterator[Tensor]:
    """The tensors of nested tuples."""
    if isinstance(value, Tensor):
        yield value
    else:
        for item in value:
            yield from flat(item)


def assert_same(actual: Any, expected: Any) -> None:
    for i, (a, e) in enumerate(zip(flat(actual), flat(expected), strict=True)):
        assert_close(f"result {i}", a, e, "sequence")


def named(layer: nn.Module, batch: Any, time: Any) -> dict[int, Any]:
    return {0: batch, 1: time} if layer.batch_first else {0: time, 1: batch}


@each_layer
@pytest.mark.parametrize("strict", [True, False], ids=["strict", "not strict"])
def test_export_with_named_dimensions(layer, strict):
    """No size is fixed or bounded, not even 1."""
    module = make(layer)
    shapes = (named(module, Dim("B"), Dim("T")),)
    program = export(module, (sequence(module, 7, 6),), dynamic_shapes=shapes, strict=strict).module()
    for T, B in SIZES:
        x = sequence(module, T, B)
        assert_same(program(x), module(x))


@pytest.mark.parametrize("layer", [name for name in LAYERS if "bias" not in name])
def test_export_with_states_a_drive_and_a_trace(layer):
    module = make(layer)
    B, T = Dim("B"), Dim("T")

    def arguments(T: int, B: int) -> tuple[Any, ...]:
        return sequence(module, T, B), states(module, B), sequence(module, T, B, H), True

    hx = ({1: B}, {1: B}) if isinstance(module, ARUN) else {1: B}
    shapes = (named(module, B, T), hx, named(module, B, T), None)
    program = export(module, arguments(7, 6), dynamic_shapes=shapes).module()
    for size in SIZES:
        given = arguments(*size)
        assert_same(program(*given), module(*given))


@pytest.mark.parametrize("drive", [(), (7,), (7, 1, 1), (1, 3, 1), (1, 1, H)], ids=str)
def test_export_with_a_drive_that_broadcasts(drive):
    module, T, B = ARUN(I, H, controller_size=G, dtype=DOUBLE), Dim("T"), Dim("B")
    where = {i: {7: T, 3: B}[size] for i, size in enumerate(drive) if size in (7, 3)}
    program = export(
        module, (randn(7, 3, I),), {"drive": randn(*drive)}, dynamic_shapes={"input": {0: T, 1: B}, "drive": where}
    ).module()
    for steps, batch in SIZES:
        sizes = {7: steps, 3: batch}
        x, xi = randn(steps, batch, I), randn(*(sizes.get(size, size) for size in drive))
        assert_same(program(x, drive=xi), module(x, drive=xi))


@pytest.mark.parametrize("cls", [ARUN, GammaRNN])
def test_export_without_a_batch(cls):
    module = cls(I, H, num_layers=2, dtype=DOUBLE)
    program = export(module, (randn(7, I),), dynamic_shapes=({0: Dim("T")},)).module()
    for T, _ in SIZES:
        x = randn(T, I)
        assert_same(program(x), module(x))


@each_step
@pytest.mark.parametrize("strict", [True, False], ids=["strict", "not strict"])
def test_export_of_one_step(step, strict):
    make, arguments = STEPS[step]
    module, B = make(), Dim("B")
    shapes = tuple(tuple({0: B} for _ in a) if isinstance(a, tuple) else {0: B} for a in arguments(3))
    program = export(module, arguments(3), dynamic_shapes=shapes, strict=strict).module()
    for batch in (1, 2, 30):
        given = arguments(batch)
        assert_same(program(*given), module(*given))


@traces
def test_a_packed_sequence_is_refused():
    """A graph would keep the lengths of the example; torch.export cannot capture one for torch.nn.LSTM either."""
    packed, sentence = pack_sequence([randn(4, I), randn(2, I)]), "^input is a PackedSequence, whose lengths a captured"
    module = ARUN(I, H, dtype=DOUBLE)
    with pytest.raises(RuntimeError, match=sentence):
        export(module, (packed,), strict=False)
    with pytest.raises(RuntimeError, match=sentence):
        torch.jit.trace(lambda x: module(pack_sequence([x]))[1], randn(4, I))


@traces
@each_layer
def test_trace_serves_other_sizes(layer):
    module = make(layer)
    traced = torch.jit.trace(module, sequence(module, 7, 6))
    for T, B in SIZES:
        x = sequence(module, T, B)
        assert_same(traced(x), module(x))


@traces
@each_step
def test_trace_of_one_step(step):
    make, arguments = STEPS[step]
    module = make()
    traced = torch.jit.trace(module, arguments(3))
    for batch in (1, 2, 30):
        given = arguments(batch)
        assert_same(traced(*given), module(*given))


@each_layer
def test_make_fx_serves_other_sizes(layer):
    module = make(layer)
    parameters = dict(module.named_parameters())

    def call(parameters: dict[str, Tensor], x: Tensor) -> Any:
        return torch.func.functional_call(module, parameters, (x,))

    graph = make_fx(call, tracing_mode="symbolic")(parameters, sequence(module, 7, 6))
    for T, B in SIZES[3:]:
        x = sequence(module, T, B)
        assert_same(graph(parameters, x), module(x))


def with_export(module: nn.Module, arguments: tuple[Any, ...]) -> nn.Module:
    return export(module, arguments).module()


def with_trace(module: nn.Module, arguments: tuple[Any, ...]) -> Callable[..., Any]:
    return torch.jit.trace(module, arguments)


def with_make_fx(module: nn.Module, arguments: tuple[Any, ...]) -> Callable[..., Any]:
    return make_fx(module)(*arguments)


def gradients(call: Callable[..., Any], parameters: list[Tensor], arguments: tuple[Any, ...]) -> list[Tensor | None]:
    """Of a loss of all results, for the arguments and the parameters."""
    leaves = [x.clone().requires_grad_() for x in flat(arguments)]
    rest = iter(leaves)
    arguments = tuple(tuple(next(rest) for _ in a) if isinstance(a, tuple) else next(rest) for a in arguments)
    loss = sum((x * torch.linspace(-1, 2, x.numel(), dtype=DOUBLE).view(x.shape)).sum() for x in flat(call(*arguments)))
    return list(torch.autograd.grad(loss, [*leaves, *parameters], allow_unused=True))


TRAINED: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], tuple[Any, ...]]]] = {
    **{layer: (lambda layer=layer: make(layer), lambda module: (sequence(module, 7, 6),)) for layer in LAYERS},
    **{step: (STEPS[step][0], lambda _, step=step: STEPS[step][1](3)) for step in STEPS},
}


@traces
@pytest.mark.parametrize("capture", [with_export, with_trace, with_make_fx])
@pytest.mark.parametrize("captured", ["with gradients", "under no_grad", "with frozen parameters"])
@pytest.mark.parametrize("name", TRAINED)
def test_what_is_captured_trains_exactly(name, captured, capture):
    """As torch.nn.LSTM does, however it was captured."""
    make_module, make_arguments = TRAINED[name]
    module = make_module()
    arguments = make_arguments(module)
    module.requires_grad_(captured != "with frozen parameters")
    with torch.no_grad() if captured == "under no_grad" else contextlib.nullcontext():
        program = capture(module, arguments)
    module.requires_grad_()
    parameters = list(module.parameters())
    if capture is not with_make_fx:  # whose graph refers to the parameters of the module
        own = dict(program.named_parameters())
        parameters = [own[name].requires_grad_() for name, _ in module.named_parameters()]
    actual = gradients(program, parameters, arguments)
    expected = gradients(module, list(module.parameters()), arguments)
    assert expected[0] is not None
    for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert (a is None) == (e is None), i
        if e is not None:
            assert_close(f"gradient {i}", a, e, "sequence")
