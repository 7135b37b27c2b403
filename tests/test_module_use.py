"""The layers, cells and activations as any torch module is used: copied, moved, trained, mapped over."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from aru_kernels import ARUN, AdaptiveGamma, ARUNCell, Gamma, GammaRNN, GammaRNNCell, Trace, use_backend
from support.tolerances import assert_close

DOUBLE = torch.float64
I, H, G = 3, 5, 4  # noqa: E741


def randn(*sizes: int) -> Tensor:
    return torch.randn(*sizes, dtype=DOUBLE)


ALL = {
    "ARUN": lambda: ARUN(I, H, controller_size=G, num_layers=2, bidirectional=True),
    "GammaRNN": lambda: GammaRNN(I, H, num_layers=2),
    "ARUNCell": lambda: ARUNCell(I, H, controller_size=G),
    "GammaRNNCell": lambda: GammaRNNCell(I, H),
    "Gamma": lambda: Gamma(I),
    "AdaptiveGamma": lambda: AdaptiveGamma(G),
}


def first_output(module: nn.Module, x: Tensor) -> Tensor:
    out = module(x)
    return out[0] if isinstance(out, tuple) else out


@pytest.mark.parametrize("name", ALL)
def test_copies_compute_the_same(name, tmp_path):
    module = ALL[name]()
    x = torch.randn(4, I)
    expected = first_output(module, x)
    fresh = ALL[name]()
    if name != "Gamma":  # whose initialisation is not random
        assert not torch.equal(first_output(fresh, x), expected)
    fresh.load_state_dict(module.state_dict())
    torch.save(module.state_dict(), tmp_path / "state.pt")
    loaded = ALL[name]()
    loaded.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for copy_ in (fresh, loaded, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(first_output(copy_, x), expected)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("cls", [ARUN, GammaRNN])
def test_a_saved_trace_is_loaded_by_default(cls, packed, tmp_path):
    """torch.load builds what it knows to be safe, without weights_only=False."""
    x = pack_sequence([torch.randn(n, I) for n in (2, 4)], enforce_sorted=False) if packed else torch.randn(4, 2, I)
    _, _, trace = cls(I, H)(x, return_trace=True)
    torch.save(trace, tmp_path / "trace.pt")
    loaded = torch.load(tmp_path / "trace.pt")
    assert type(loaded) is Trace
    for name in ("a", "n", "s"):
        mine, saved = getattr(loaded, name), getattr(trace, name)
        assert type(mine) is type(saved)
        assert torch.equal(mine.data, saved.data)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes(name, dtype):
    module = ALL[name]().to(dtype)
    x = torch.randn(4, I, dtype=dtype)
    output = first_output(module, x)
    assert output.dtype == dtype
    exact = first_output(copy.deepcopy(module).double(), x.double())
    assert_close("output", output, exact, "sequence")
    output.sum().backward()
    assert all(p.grad.dtype == dtype and p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", ALL)
def test_meta_device_and_to_empty(name):
    """Modules can be made without memory, as large models are."""
    with torch.device("meta"):
        module = ALL[name]()
    assert all(p.is_meta for p in module.parameters())
    assert first_output(module, torch.empty(4, I, device="meta")).is_meta
    module = module.to_empty(device="cpu")
    module.reset_parameters()
    assert all(p.isfinite().all() for p in module.parameters())


def train(layer: nn.Module, steps: int = 5) -> list[float]:
    """Losses of a layer that learns to report the sign of the sum of what it has seen."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(8, 16, I, generator=generator)
    target = (x.sum((0, 2)) > 0).float()
    read_out = nn.Linear(20, 1)
    nn.init.constant_(read_out.weight, 0.05)
    nn.init.zeros_(read_out.bias)
    optimizer = torch.optim.Adam([*layer.parameters(), *read_out.parameters()], lr=1e-2)
    losses = []
    for _ in range(steps + 1):
        loss = nn.functional.binary_cross_entropy_with_logits(read_out(layer(x)[0][-1])[:, 0], target)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(
    "make",
    [
        lambda: ARUN(I, 20, controller_size=6),
        lambda: GammaRNN(I, 20),
        lambda: ARUN(I, 20, controller_size=6, num_layers=2),
    ],
)
def test_five_steps_of_training_lower_the_loss_and_do_not_depend_on_the_backend(make):
    layer = make()
    start = copy.deepcopy(layer)
    losses = train(layer)
    assert losses[-1] < 0.95 * losses[0]
    with use_backend("reference"):
        assert_close("losses", torch.tensor(losses), torch.tensor(train(start)), "sequence")


@pytest.mark.parametrize(
    "make", [lambda: ARUN(I, H, controller_size=G, dtype=DOUBLE), lambda: GammaRNN(I, H, dtype=DOUBLE)]
)
def test_vmap_over_an_ensemble(make):
    """torch.func.functional_call under vmap, one set of parameters per member."""
    members = [make() for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(members)
    x = randn(4, 2, I)
    outputs = torch.func.vmap(lambda p: torch.func.functional_call(members[0], (p, buffers), (x,))[0])(parameters)
    for i, member in enumerate(members):
        assert_close(f"member {i}", outputs[i], member(x)[0], "sequence")


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(
    "make", [lambda n: ARUN(I, H, controller_size=G, num_layers=n), lambda n: GammaRNN(I, H, num_layers=n)]
)
def test_a_long_sequence_in_parts_as_with_an_lstm(make, layers):
    """Truncated back-propagation, as programs for torch.nn.LSTM do it."""
    layer, state = make(layers), None
    layer.flatten_parameters()
    for x in torch.randn(6, 3, I).split(2):
        output, state = layer(x, state)
        output.sum().backward()
        for tensor in state if isinstance(state, tuple) else (state,):
            tensor.detach_()
            assert tensor.grad_fn is None
