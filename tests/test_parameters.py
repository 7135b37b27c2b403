"""Parameters that were exchanged for others, which kernels would read past the end, are refused by their names."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import pack_sequence

from aru_kernels import ARUN, AdaptiveGamma, ARUNCell, Gamma, GammaRNN, GammaRNNCell, use_backend
from support.tolerances import assert_close

I, H, G = 3, 5, 4  # noqa: E741
META = torch.device("meta")

MODULES: dict[str, Callable[[], nn.Module]] = {
    "ARUN": lambda: ARUN(I, H, controller_size=G, num_layers=2),
    "GammaRNN": lambda: GammaRNN(I, H, num_layers=2),
    "GammaRNN of equal neurons": lambda: GammaRNN(I, H, heterogeneous=False),
    "ARUNCell": lambda: ARUNCell(I, H, controller_size=G),
    "GammaRNNCell": lambda: GammaRNNCell(I, H),
    "Gamma": lambda: Gamma(I),
    "Gamma of one pair": lambda: Gamma(),
    "AdaptiveGamma": lambda: AdaptiveGamma(G),
}
EVERY = [(module, name) for module, make in MODULES.items() for name, _ in make().named_parameters()]
every_parameter = pytest.mark.parametrize(("module", "name"), EVERY)


def run(module: nn.Module) -> Tensor:
    """The first result for some input."""
    results = module(
        torch.linspace(-1, 1, 4 * 2 * I).view(4, 2, I) if hasattr(module, "num_layers") else torch.ones(4, I)
    )
    return results[0] if isinstance(results, tuple) else results


def with_functional_call(module: nn.Module, name: str, value: Tensor) -> None:
    x = torch.randn(4, I)
    torch.func.functional_call(module, {name: value}, (x,))


def with_assignment(module: nn.Module, name: str, value: Tensor) -> None:
    setattr(module, name, nn.Parameter(value))
    run(module)


def with_data(module: nn.Module, name: str, value: Tensor) -> None:
    module.get_parameter(name).data = value
    run(module)


class Constant(nn.Module):
    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, original: Tensor) -> Tensor:
        return self.value


def with_parametrization(module: nn.Module, name: str, value: Tensor) -> None:
    parametrize.register_parametrization(module, name, Constant(value), unsafe=True)
    run(module)


EXCHANGES = [with_functional_call, with_assignment, with_data, with_parametrization]


def other_shapes(shape: torch.Size) -> list[tuple[int, ...]]:
    return [(0,), tuple(size + 1 for size in shape), (*shape, 1), (1, *shape), (), tuple(max(s - 1, 0) for s in shape)]


@every_parameter
@pytest.mark.parametrize("exchange", EXCHANGES)
def test_of_another_shape(module, name, exchange):
    right = MODULES[module]().get_parameter(name).shape
    for shape in other_shapes(right):
        if shape == right:
            continue
        sentence = f"{name} has shape {shape}, expected {tuple(right)}."
        with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
            exchange(MODULES[module](), name, torch.randn(shape))


def first_of(module: nn.Module) -> str:
    return next(name for name, _ in module.named_parameters())


@every_parameter
@pytest.mark.parametrize("exchange", [with_functional_call, with_assignment, with_parametrization])
def test_of_another_dtype(module, name, exchange):
    made = MODULES[module]()
    value = made.get_parameter(name).detach().double()
    second = list(dict(made.named_parameters()))[1]
    if name == first_of(made):
        sentence = f"{second} has dtype torch.float32, expected torch.float64, the dtype of {name}."
    else:
        sentence = f"{name} has dtype torch.float64, expected torch.float32, the dtype of {first_of(made)}."
    with pytest.raises(TypeError, match=f"^{re.escape(sentence)}$"):
        exchange(made, name, value)


@every_parameter
def test_of_another_device(module, name):
    made = MODULES[module]()
    names = list(dict(made.named_parameters()))
    first, other = (name, names[1]) if name == names[0] else (names[0], name)
    devices = ("cpu", "meta") if name == first else ("meta", "cpu")
    sentence = f"{other} is on {devices[0]}, expected {devices[1]}, the device of {first}."
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        with_assignment(made, name, made.get_parameter(name).detach().to(META))


@every_parameter
@pytest.mark.parametrize("elements", [0, 1])
def test_whose_memory_was_freed(module, name, elements):
    """As shards of a model are between its uses."""
    made = MODULES[module]()
    parameter = made.get_parameter(name)
    if parameter.numel() <= elements:
        elements = 0
    parameter.untyped_storage().resize_(4 * elements)
    sentence = f"{name} has shape {tuple(parameter.shape)}, but its storage has only {4 * elements} bytes."
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        run(made)


@every_parameter
def test_part_of_freed_memory(module, name):
    """One piece of memory holds all parameters, and lost its end."""
    made = MODULES[module]()
    whole = nn.utils.parameters_to_vector(made.parameters())
    nn.utils.vector_to_parameters(whole.detach(), made.parameters())
    run(made)
    parameter = made.get_parameter(name)
    end = 4 * (parameter.storage_offset() + parameter.numel())
    parameter.untyped_storage().resize_(end)
    parameter.untyped_storage().resize_(end - 4)
    with pytest.raises(ValueError, match=f"^{name} has shape .*, but its storage has only {end - 4} bytes"):
        run(made)


def freed(*shape: int) -> Tensor:
    value = torch.zeros(shape)
    value.untyped_storage().resize_(0)
    return value


X, STATE = torch.zeros(6, 2, I), (torch.zeros(1, 2, H), torch.zeros(1, 2, H, G))
FREED = {
    "input of ARUN": ("input", lambda: ARUN(I, H)(freed(6, 2, I))),
    "packed input": ("input", lambda: ARUN(I, H)(pack_sequence([X[0]])._replace(data=freed(2, I)))),
    "h_0": ("h_0", lambda: ARUN(I, H, controller_size=G)(X, (freed(1, 2, H), STATE[1]))),
    "g_0": ("g_0", lambda: ARUN(I, H, controller_size=G)(X, (STATE[0], freed(1, 2, H, G)))),
    "h_0 of GammaRNN": ("h_0", lambda: GammaRNN(I, H)(X, freed(1, 2, H))),
    "drive": ("drive", lambda: ARUN(I, H)(X, drive=freed(6, 2, H))),
    "input of ARUNCell": ("input", lambda: ARUNCell(I, H)(freed(2, I))),
    "h": ("h", lambda: ARUNCell(I, H, controller_size=G)(X[0], (freed(2, H), STATE[1][0]))),
    "g": ("g", lambda: ARUNCell(I, H, controller_size=G)(X[0], (STATE[0][0], freed(2, H, G)))),
    "hx": ("hx", lambda: GammaRNNCell(I, H)(X[0], freed(2, H))),
    "drive of a cell": ("drive", lambda: GammaRNNCell(I, H)(X[0], drive=freed(2, H))),
    "input of Gamma": ("input", lambda: Gamma()(freed(2, H))),
    "a": ("a", lambda: AdaptiveGamma(G)(freed(2, H))),
    "g of AdaptiveGamma": ("g", lambda: AdaptiveGamma(G)(STATE[0][0], freed(2, H, G))),
}


@pytest.mark.parametrize("name", FREED)
def test_arguments_whose_memory_was_freed(name):
    argument, call = FREED[name]
    with pytest.raises(ValueError, match=rf"^{argument} has shape \(.*\), but its storage has only 0 bytes\.$"):
        call()


@pytest.mark.parametrize("module", MODULES)
def test_no_tensor(module):
    made = MODULES[module]()
    name = list(dict(made.named_parameters()))[-1]
    setattr(made, name, None)
    with pytest.raises(TypeError, match=rf"^{name} must be a torch\.Tensor, got NoneType\.$"):
        run(made)


def test_of_no_floating_point_dtype():
    layer = ARUN(I, H)
    weights = {name: p.detach().int() for name, p in layer.named_parameters()}
    with pytest.raises(TypeError, match=r"^weight_ih_l0 has dtype torch\.int32, expected a floating-point dtype\.$"):
        torch.func.functional_call(layer, weights, (torch.randn(4, I),))


# ---- what may be exchanged


@pytest.mark.parametrize("module", MODULES)
def test_any_strides(module):
    """Parameters that are transposed, expanded, or parts of one piece of memory, as a flat parameter's are."""
    made = MODULES[module]()
    expected = run(made)
    for change in (
        lambda p: p.mT.contiguous().mT if p.ndim == 2 else p,
        lambda p: torch.stack([p, p], -1)[..., 0],
        lambda p: torch.cat([p, p])[: len(p)],
        lambda p: torch.cat([p, p])[len(p) :],
    ):
        weights = {name: change(p.detach()) for name, p in made.named_parameters()}
        x = torch.linspace(-1, 1, 4 * 2 * I).view(4, 2, I) if hasattr(made, "num_layers") else torch.ones(4, I)
        results = torch.func.functional_call(made, weights, (x,))
        assert_close("output", results[0] if isinstance(results, tuple) else results, expected, "sequence")


def test_an_expanded_parameter():
    layer = GammaRNN(I, H)
    layer.gain_l0 = nn.Parameter(torch.full((1,), 3.0).expand(H))
    other = GammaRNN(I, H, heterogeneous=False)
    other.load_state_dict({k: v[:1] if k.startswith(("gain", "sat")) else v for k, v in layer.state_dict().items()})
    assert_close("output", run(layer), run(other), "sequence")


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_parametrizations_train(backend):
    layer = ARUN(I, H, controller_size=G)
    parametrize.register_parametrization(
        layer, "weight_gg_l0", nn.utils.parametrizations._SpectralNorm(layer.weight_gg_l0)
    )
    nn.utils.parametrizations.weight_norm(layer, "weight_hh_l0")
    with use_backend(backend):
        run(layer).sum().backward()
    gradients = {name: p.grad for name, p in layer.named_parameters()}
    assert {"parametrizations.weight_gg_l0.original", "parametrizations.weight_hh_l0.original0"} <= set(gradients)
    assert all(gradient is not None for gradient in gradients.values())


def test_mixed_dtypes_under_autocast():
    layer = ARUN(I, H, controller_size=G)
    expected = run(layer)
    layer.weight_hh_l0.data = layer.weight_hh_l0.data.bfloat16()
    layer.bias_g_l0.data = layer.bias_g_l0.data.half()
    with torch.autocast("cpu", torch.bfloat16):
        assert_close("output", run(layer), expected, "sequence", torch.bfloat16)
    with pytest.raises(TypeError, match=r"^weight_hh_l0 has dtype torch\.bfloat16"):
        run(layer)


def test_a_parameter_of_a_subclass():
    """Tensors that wrap others are left to their own operations."""

    class Wrapped(torch.Tensor):
        pass

    layer = GammaRNN(I, H)
    expected = run(layer)
    weights: dict[str, Any] = {name: p.detach().as_subclass(Wrapped) for name, p in layer.named_parameters()}
    output, _ = torch.func.functional_call(layer, weights, (torch.linspace(-1, 1, 4 * 2 * I).view(4, 2, I),))
    assert torch.equal(output.as_subclass(torch.Tensor), expected)
