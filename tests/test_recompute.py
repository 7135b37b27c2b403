"""Programs that run a call again in their backward pass: torch.utils.checkpoint decides again as it did before."""

from __future__ import annotations

import contextlib
import weakref

import pytest
import torch
from torch.utils.checkpoint import CheckpointError, checkpoint

from aru_kernels import ARUN, ARUNCell, GammaRNN, _memory, _recall, use_backend
from support.helpers import needs_cpu_kernels

pytestmark = needs_cpu_kernels

LAYERS = {
    "ARUN": lambda: (ARUN(5, 32, controller_size=16), torch.randn(1500, 8, 5)),
    "ARUN two layers": lambda: (ARUN(5, 32, 2, controller_size=16), torch.randn(1500, 8, 5)),
    "GammaRNN": lambda: (GammaRNN(5, 32), torch.randn(40, 8, 5)),
    "ARUNCell": lambda: (ARUNCell(5, 32), torch.randn(8, 5)),
}
each_layer = pytest.mark.parametrize("layer", LAYERS)


def gradients(module, x, before, after, **options) -> list[torch.Tensor]:
    """Of a checkpointed call: `before` is entered for the forward pass, `after` for the backward pass."""
    x = x.clone().requires_grad_()
    module.zero_grad()
    with before:
        y = checkpoint(lambda x: module(x)[0], x, **options)
    with after:
        y.square().sum().backward()
    return [x.grad.clone(), *(p.grad.clone() for p in module.parameters())]


@contextlib.contextmanager
def free(monkeypatch, amount: int):
    with monkeypatch.context() as patch:
        patch.setattr(_memory, "free_bytes", lambda: amount)
        yield


@contextlib.contextmanager
def precision(name: str):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    yield
    torch.set_float32_matmul_precision(before)


@each_layer
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("amounts", [(2**40, 2**24), (2**24, 2**40)], ids=["less", "more"])
def test_another_amount_of_free_memory(layer, reentrant, amounts, monkeypatch):
    module, x = LAYERS[layer]()
    expected = gradients(module, x, free(monkeypatch, 2**40), free(monkeypatch, 2**40), use_reentrant=reentrant)
    before, after = (free(monkeypatch, amount) for amount in amounts)
    actual = gradients(module, x, before, after, use_reentrant=reentrant)
    assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))


@each_layer
@pytest.mark.parametrize("first", ["reference", "cpu"])
def test_another_backend(layer, first):
    """The backend of the forward pass computes the gradient too."""
    module, x = LAYERS[layer]()
    x = x[:30]
    expected = gradients(module, x, use_backend(first), use_backend(first), use_reentrant=False)
    second = {"reference": "cpu", "cpu": "reference"}[first]
    actual = gradients(module, x, use_backend(first), use_backend(second), use_reentrant=False)
    assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))


@each_layer
@pytest.mark.parametrize(("first", "second"), [("highest", "medium"), ("medium", "highest")])
def test_another_precision(layer, first, second):
    module, x = LAYERS[layer]()
    x = x[:30]
    expected = gradients(module, x, precision(first), precision(first), use_reentrant=False)
    actual = gradients(module, x, precision(first), precision(second), use_reentrant=False)
    # products of torch's own, with weight_ih and after the kernel, follow the setting of the moment
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=2e-2, atol=2e-2 * e.abs().max().item())


def test_a_call_is_known_by_inputs_that_are_rounded_otherwise(monkeypatch):
    """Another precision changes the products before it; what differs by more is another call."""
    x = torch.tensor([1.0, -0.5, 0.25])
    made = [_recall.decision("gamma", (k * x,), lambda k=k: ("cpu", x.dtype, k)) for k in (1.0, 1.5)]
    monkeypatch.setattr(torch._C, "_current_graph_task_id", lambda: 0)  # inside a backward pass

    def found(inputs: torch.Tensor) -> _recall.Decision:
        return _recall.decision("gamma", (inputs,), lambda: ("reference", x.dtype, None))

    assert found(x) is made[0]
    assert found(1.005 * x) is made[0]
    assert found(1.495 * x) is made[1]
    assert found(1.2 * x) not in made
    assert found(x[:2]) not in made


def test_calls_of_equal_sizes_are_told_apart(monkeypatch):
    """A long sequence in checkpointed pieces, between which the free memory falls."""
    module = ARUN(5, 32, controller_size=16)
    pieces = torch.randn(4, 1500, 8, 5)
    amounts = iter([2**40, 2**27, 2**26, 2**25] + [2**24] * 4)
    seen = []

    def fewer() -> int:
        seen.append(next(amounts))
        return seen[-1]

    def run(checkpointed: bool) -> list[torch.Tensor]:
        module.zero_grad()
        state, outputs = None, []
        for piece in pieces:
            if checkpointed:
                output, state = checkpoint(module, piece, state, use_reentrant=False)
            else:
                output, state = module(piece, state)
            outputs.append(output)
        torch.stack(outputs).square().sum().backward()
        return [p.grad.clone() for p in module.parameters()]

    expected = run(False)
    monkeypatch.setattr(_memory, "free_bytes", fewer)
    assert all(torch.equal(a, e) for a, e in zip(run(True), expected, strict=True))
    assert len(seen) == 4, "the second run decided nothing"


@pytest.fixture
def alive(monkeypatch):
    """The decisions of this test's graphs only."""
    decisions = weakref.WeakValueDictionary()
    monkeypatch.setattr(_recall, "_ALIVE", decisions)
    return decisions


def test_decisions_go_with_their_graph(alive):
    module, x = ARUN(5, 32), torch.randn(30, 8, 5, requires_grad=True)
    y = checkpoint(lambda x: module(x)[0], x, use_reentrant=False)
    assert len(alive) == 1
    y.sum().backward()
    del y
    assert not alive


def test_without_a_checkpoint_nothing_is_remembered(alive):
    y = ARUN(5, 8)(torch.randn(3, 2, 5))[0]
    assert y.requires_grad
    assert not alive


def test_a_program_that_differs_is_still_noticed():
    """What is recalled hides nothing: another number of steps is torch's own error."""
    module, steps = ARUN(5, 8), iter([10, 7])
    x = torch.randn(10, 2, 5, requires_grad=True)
    y = checkpoint(lambda x: module(x[: next(steps)])[0].sum(), x, use_reentrant=False)
    with pytest.raises(CheckpointError):
        y.backward()
