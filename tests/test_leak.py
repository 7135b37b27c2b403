"""The leak: h_t = (1 - leak) h_{t-1} + leak γ_t in the operations, the layers and the cells."""

from __future__ import annotations

import copy
import io
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

import aru_kernels.functional as F
from aru_kernels import (
    ARUN,
    ARUNCell,
    GammaRNN,
    GammaRNNCell,
    backends,
    cpu,
    parameter_groups,
    reference,
    use_backend,
)
from support.helpers import needs_cpu_kernels
from support.problems import ADAPTIVE, STATIC, adaptive_arguments, leaky, run, static_arguments, with_leak
from support.tolerances import assert_all_close, assert_close

ISAS = cpu._C.usable_isas() if cpu.unavailable() is None else []
SEQUENCES = {"adaptive": F.aru_sequence, "static": F.gamma_rnn_sequence}
LAYERS = pytest.mark.parametrize("layer", [ARUN, GammaRNN])
CELLS = pytest.mark.parametrize(("cell", "layer"), [(ARUNCell, ARUN), (GammaRNNCell, GammaRNN)])


@pytest.fixture(autouse=True)
def best_isa():
    yield
    if ISAS:
        cpu._C.select_isa("auto")


def arguments_of(kind: str, T: int, B: int, H: int, G: int, dtype: torch.dtype) -> list[Tensor]:
    """Arguments of a sequence, and the leak as the last."""
    arguments = adaptive_arguments(T, B, H, G, dtype) if kind == "adaptive" else static_arguments(T, B, H, dtype=dtype)
    return with_leak(arguments)


def run_leaky(backend: str, kind: str, arguments: list[Tensor], trace: bool) -> tuple[list[Tensor], list[Tensor]]:
    return run(backend, leaky(SEQUENCES[kind]), arguments, trace)


@pytest.mark.parametrize("kind", SEQUENCES)
def test_reference_by_hand(kind):
    """Two steps of one neuron whose activation does not depend on the leak."""
    arguments = arguments_of(kind, 2, 1, 1, 2, torch.float64)
    arguments[1].data.fill_(0.5)
    weight_hh = 3 if kind == "adaptive" else 2
    arguments[weight_hh].data.zero_()
    *plain, leak = arguments
    with use_backend("reference"):
        gammas = SEQUENCES[kind](*plain)[0].flatten()
        h = SEQUENCES[kind](*plain, leak=leak)[0].flatten()
    first = (1 - leak) * 0.5 + leak * gammas[0]
    second = (1 - leak) * first + leak * gammas[1]
    assert torch.equal(h, torch.cat([first, second]))


@pytest.mark.parametrize("kind", SEQUENCES)
def test_gradcheck(kind):
    arguments = arguments_of(kind, 3, 2, 3, 2, torch.float64)
    function = reference.aru_sequence if kind == "adaptive" else reference.gamma_rnn_sequence

    def h(*tensors: Tensor) -> Tensor:
        return function(*tensors[:-1], leak=tensors[-1])[0]

    assert gradcheck(h, arguments)
    assert gradgradcheck(h, arguments)


@needs_cpu_kernels
@pytest.mark.parametrize("kind", SEQUENCES)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("budget", ["1T", "1"], ids=["all kept", "checkpoints"])
@settings(max_examples=15)
@given(T=st.integers(1, 40), B=st.integers(1, 9), H=st.integers(1, 40), G=st.integers(1, 20), trace=st.booleans())
def test_cpu_matches_reference(isa, budget, kind, T, B, H, G, trace):
    cpu._C.select_isa(isa)
    arguments = arguments_of(kind, T, B, H, G, torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARU_STATE_BUDGET", budget)
        outputs, gradients = run_leaky("cpu", kind, arguments, trace)
    expected, expected_gradients = run_leaky("reference", kind, arguments, trace)
    assert_all_close(tuple(map(str, range(len(outputs)))), outputs, expected, "sequence")
    names = (*(ADAPTIVE if kind == "adaptive" else STATIC), "leak")
    assert_all_close(names, gradients, expected_gradients, "sequence")


@needs_cpu_kernels
@pytest.mark.parametrize("kind", SEQUENCES)
@pytest.mark.parametrize("shape", [(64, 8, 100, 32), (784, 4, 33, 5), (20, 3, 400, 50)], ids=str)
def test_float32_and_any_number_of_threads(kind, shape, set_threads):
    """Large networks are cut in parts that a team of threads shares."""
    arguments = arguments_of(kind, *shape, torch.float32)
    results = []
    for threads in (1, 3):
        set_threads(threads)
        outputs, gradients = run_leaky("cpu", kind, arguments, False)
        results.append([*outputs, *gradients])
    assert all(torch.equal(x, y) for x, y in zip(*results, strict=True))
    exact = [x.detach().double().requires_grad_() for x in arguments]
    expected, expected_gradients = run_leaky("reference", kind, exact, False)
    names = (*(ADAPTIVE if kind == "adaptive" else STATIC), "leak")
    assert_close("h", outputs[0], expected[0], "sequence")
    assert_all_close(names, gradients, expected_gradients, "sequence")


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("kind", SEQUENCES)
def test_a_leak_of_one_changes_no_bit(kind, backend):
    if backend == "cpu" and cpu.unavailable() is not None:
        pytest.skip("no CPU kernels")
    *plain, leak = arguments_of(kind, 9, 3, 7, 4, torch.float32)
    with use_backend(backend):
        without = SEQUENCES[kind](*plain, return_trace=True)
        with_one = SEQUENCES[kind](*plain, return_trace=True, leak=torch.ones_like(leak))
    assert torch.equal(without[0], with_one[0])
    assert all(torch.equal(x, y) for x, y in zip(without[-1], with_one[-1], strict=True))


@needs_cpu_kernels
@pytest.mark.parametrize("kind", SEQUENCES)
def test_empty_batch(kind):
    *plain, leak = arguments_of(kind, 3, 0, 4, 2, torch.float32)
    h = SEQUENCES[kind](*plain, leak=leak)[0]
    assert h.shape == (3, 0, 4)
    h.sum().backward()
    assert torch.equal(leak.grad, torch.zeros(4))


def test_the_cuda_backend_says_that_it_has_no_kernel():
    *plain, leak = arguments_of("static", 2, 1, 3, 0, torch.float32)
    with use_backend("cuda"), pytest.raises(RuntimeError, match=r"^backend 'cuda' cannot run leaky_gamma_rnn_seq"):
        F.gamma_rnn_sequence(*plain, leak=leak)
    refused = backends.BACKENDS["cuda"].refuses("leaky_aru_sequence", torch.device("cuda"), torch.float32, 400, 50)
    assert refused == "it has no kernel for leaky_aru_sequence, only for aru_sequence, gamma_rnn_sequence"


@pytest.mark.parametrize("op", ["leaky_aru_sequence", "leaky_gamma_rnn_sequence"])
def test_auto_takes_triton_on_a_gpu(op, monkeypatch):
    """Also where the CUDA kernels are compiled, which serve sequences without a leak."""
    monkeypatch.setattr(backends, "_unavailable", lambda module: None)
    monkeypatch.setattr(backends, "_refuses", lambda module, H, G: None)
    gpu = torch.device("cuda")
    assert backends.select(op, gpu, torch.float32, 400, 50) == "triton"
    assert backends.select(op.removeprefix("leaky_"), gpu, torch.float32, 400, 50) == "cuda"


@LAYERS
@pytest.mark.parametrize("train", [False, True], ids=["fixed", "trained"])
def test_packed_and_bidirectional_layers_are_those_of_single_sequences(layer, train):
    torch.manual_seed(0)
    network = layer(3, 6, num_layers=2, bidirectional=True, leak=torch.linspace(0.1, 0.9, 6), train_leak=train)
    sequences = [torch.randn(T, 3) for T in (4, 7, 2, 7)]
    output, state = network(pack_sequence(sequences, enforce_sorted=False))
    padded, lengths = pad_packed_sequence(output)
    h_n = state[0] if layer is ARUN else state
    for b, x in enumerate(sequences):
        alone, last = network(x)
        assert_close("output", padded[: lengths[b], b], alone, "sequence")
        assert_close("h_n", h_n[:, b], last[0] if layer is ARUN else last, "sequence")


@LAYERS
def test_each_layer_and_direction_has_its_own_leak(layer):
    network = layer(3, 4, num_layers=2, bidirectional=True, leak=0.5)
    x = torch.randn(5, 2, 3)
    outputs = [network(x)[0]]
    for name in ("leak_l0", "leak_l0_reverse", "leak_l1", "leak_l1_reverse"):
        getattr(network, name).fill_(0.25)
        outputs.append(network(x)[0])
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(outputs))


@CELLS
@pytest.mark.parametrize("train", [False, True], ids=["fixed", "trained"])
def test_cells_step_as_layers(cell, layer, train):
    torch.manual_seed(0)
    one, network = (
        kind(3, 5, leak=torch.linspace(0.2, 0.8, 5), train_leak=train, dtype=torch.float64) for kind in (cell, layer)
    )
    network.load_state_dict(
        {
            ("leak_l0".join(name.split("leak")) if "leak" in name else f"{name}_l0"): value
            for name, value in one.state_dict().items()
        }
    )
    x, state, outputs = torch.randn(8, 2, 3, dtype=torch.float64), None, []
    for x_t in x:
        state = one(x_t, state)
        outputs.append(state[0] if cell is ARUNCell else state)
    output = network(x)[0]
    assert_close("h", torch.stack(outputs), output, "sequence")
    if train:
        torch.stack(outputs).square().sum().backward()
        output.square().sum().backward()
        gradients = (
            module.parametrizations[name].original.grad for module, name in ((one, "leak"), (network, "leak_l0"))
        )
        assert_close("leak", *gradients, "sequence")


@LAYERS
@pytest.mark.parametrize("train", [False, True], ids=["fixed", "trained"])
def test_state_dicts_and_copies(layer, train):
    first, second = (layer(3, 4, leak=leak, train_leak=train) for leak in (0.3, 0.6))
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second.load_state_dict(torch.load(buffer))
    assert torch.equal(first.leak_l0, second.leak_l0)
    x = torch.randn(5, 2, 3)
    assert torch.equal(first(x)[0], copy.deepcopy(first)(x)[0])
    second.reset_parameters()
    assert_close("leak", second.leak_l0, torch.full((4,), 0.6), "element")


@LAYERS
def test_a_trained_leak_learns_and_stays_between_0_and_1(layer):
    torch.manual_seed(0)
    network = layer(3, 4, leak=0.5, train_leak=True)
    optimizer = torch.optim.Adam(parameter_groups(network, 0.5))
    original = network.parametrizations.leak_l0.original
    (group,) = (g for g in optimizer.param_groups if any(p is original for p in g["params"]))
    assert (group["lr"], group["weight_decay"]) == (0.5, 0)
    for _ in range(20):
        optimizer.zero_grad()
        network(torch.randn(6, 2, 3))[0].square().mean().backward()
        optimizer.step()
    assert ((network.leak_l0 > 0) & (network.leak_l0 < 1)).all()
    assert (network.leak_l0 != 0.5).all()
    parametrize.remove_parametrizations(network, "leak_l0")
    assert isinstance(network.leak_l0, torch.nn.Parameter)
    network(torch.randn(6, 2, 3))


@LAYERS
def test_without_a_leak_nothing_is_registered(layer):
    assert not [name for name in layer(3, 4).state_dict() if "leak" in name]
    assert layer(3, 4, leak=1).leak_l0.tolist() == [1] * 4


@needs_cpu_kernels
@LAYERS
def test_compiled(layer):
    torch.manual_seed(0)
    network = layer(3, 4, leak=0.3, train_leak=True)
    x, results = torch.randn(6, 2, 3), []
    for module in (network, torch.compile(network, fullgraph=True, backend="aot_eager")):
        network.zero_grad()
        module(x)[0].square().sum().backward()
        results.append(network.parametrizations.leak_l0.original.grad.clone())
    assert_close("leak", *results, "sequence")


@needs_cpu_kernels
@LAYERS
def test_exported(layer):
    network = layer(3, 4, leak=0.3)
    x = torch.randn(6, 2, 3)
    program = torch.export.export(network, (x,))
    assert torch.equal(program.module()(x)[0], network(x)[0])


@LAYERS
def test_to_empty_and_reset(layer):
    network = layer(3, 4, leak=0.3, device="meta").to_empty(device="cpu")
    network.reset_parameters()
    assert torch.equal(network.leak_l0, torch.full((4,), 0.3))


@pytest.mark.parametrize("kind", [ARUN, GammaRNN, ARUNCell, GammaRNNCell])
@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"leak": 0}, ValueError, r"^leak is 0\.0, expected a number above 0 and at most 1\.$"),
        ({"leak": 1.5}, ValueError, r"^leak is 1\.5, expected a number above 0 and at most 1\.$"),
        ({"leak": "x"}, TypeError, r"^leak must be a number or a torch\.Tensor, got 'x' of type str\.$"),
        ({"leak": torch.ones(3)}, ValueError, r"^leak has shape \(3,\), expected \(hidden_size,\) = \(5,\)\.$"),
        ({"leak": torch.zeros(5)}, ValueError, r"^leak is 0\.0, expected a number above 0 and at most 1\.$"),
        (
            {"leak": torch.full((5,), torch.nan)},
            ValueError,
            r"^leak is nan, expected a number above 0 and at most 1\.$",
        ),
        ({"leak": torch.ones(5, device="meta")}, ValueError, r"^leak is on meta, expected a tensor with values\.$"),
        (
            {"train_leak": True},
            ValueError,
            r"^train_leak is True without a leak, expected its initial value as leak\.$",
        ),
        ({"train_leak": 1}, TypeError, r"^train_leak must be a bool, got 1 of type int\.$"),
        ({"leak": 1, "train_leak": True}, ValueError, r"^leak is 1\.0, expected a number above 0 and below 1 because"),
        (
            {"leak": 0.9999, "train_leak": True, "dtype": torch.float16},
            ValueError,
            r"^leak is 1\.0, expected a number above 0 and below 1 because",
        ),
    ],
    ids=str,
)
def test_bad_arguments(kind, options, error, sentence):
    with pytest.raises(error, match=sentence):
        kind(3, 5, **options)


@pytest.mark.parametrize("kind", SEQUENCES)
@pytest.mark.parametrize(
    ("leak", "error", "sentence"),
    [
        (torch.ones(3), ValueError, r"^leak has shape \(3,\), expected \(H,\) = \(5,\)\.$"),
        (torch.ones(5, dtype=torch.float64), TypeError, r"^leak has dtype torch\.float64, expected torch\.float32"),
        (torch.ones(5, device="meta"), ValueError, r"^leak is on meta, expected cpu"),
        (0.5, TypeError, r"^leak must be a torch\.Tensor, got float\.$"),
    ],
    ids=["shape", "dtype", "device", "type"],
)
def test_bad_leak_of_an_operation(kind, leak, error, sentence):
    *plain, _ = arguments_of(kind, 2, 2, 5, 3, torch.float32)
    with pytest.raises(error, match=sentence):
        SEQUENCES[kind](*plain, leak=leak)


@LAYERS
def test_an_exchanged_leak_is_checked(layer):
    network = layer(3, 4, leak=0.5)
    network.leak_l0 = torch.ones(3)
    with pytest.raises(ValueError, match=r"^leak_l0 has shape \(3,\), expected \(4,\)\.$"):
        network(torch.randn(2, 1, 3))


@pytest.mark.parametrize(("make", "name"), [(ARUN, "weight_ih_l0"), (GammaRNNCell, "weight_ih")])
def test_a_leak_on_another_device_is_told(make, name):
    """A buffer stays where it is when functional_call exchanges the parameters."""
    module = make(3, 4, leak=0.5)
    parameters = {name: parameter.to("meta") for name, parameter in module.named_parameters()}
    leak = name.replace("weight_ih", "leak")
    with pytest.raises(ValueError, match=f"^{leak} is on cpu, expected meta, the device of {name}\\.$"):
        torch.func.functional_call(module, parameters, (torch.empty(2, 3, device="meta"),))


@pytest.mark.parametrize("train", [False, True])
@LAYERS
def test_made_without_memory(layer, train):
    with torch.device("meta"):
        module = layer(3, 4, leak=0.5, train_leak=train)
    assert module.leak_l0.is_meta
    made = module.to_empty(device="cpu")
    made.reset_parameters()
    assert torch.equal(made.leak_l0, torch.full((4,), 0.5))
