"""What watches a program sees the operators: flop counters, profilers, autograd's graphs, saved-tensor hooks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

import aru_kernels.functional as F
from aru_kernels import ARUN, AdaptiveGamma, ARUNCell, Gamma, GammaRNN, GammaRNNCell, ops, use_backend
from support.helpers import needs_cpu_kernels

pytestmark = needs_cpu_kernels

T, B, I, H, G = 7, 3, 5, 32, 8  # noqa: E741
MODULES = {
    "ARUN": (lambda: ARUN(I, H, controller_size=G), (T, B, I), "aru_sequence"),
    "ARUN both directions": (lambda: ARUN(I, H, 2, bidirectional=True), (T, B, I), "aru_sequence"),
    "GammaRNN": (lambda: GammaRNN(I, H), (T, B, I), "gamma_rnn_sequence"),
    "ARUN with a leak": (lambda: ARUN(I, H, controller_size=G, leak=0.3), (T, B, I), "leaky_aru_sequence"),
    "GammaRNN with a trained leak": (
        lambda: GammaRNN(I, H, leak=0.3, train_leak=True),
        (T, B, I),
        "leaky_gamma_rnn_sequence",
    ),
    "ARUNCell": (lambda: ARUNCell(I, H, controller_size=G), (B, I), "controller_step"),
    "GammaRNNCell": (lambda: GammaRNNCell(I, H), (B, I), "gamma"),
    "AdaptiveGamma": (lambda: AdaptiveGamma(G), (B, 4, H), "controller_step"),
    "Gamma": (lambda: Gamma(), (B, H), "gamma"),
}
each_module = pytest.mark.parametrize("name", MODULES)


def run(module, x) -> Tensor:
    y = module(x)
    return y[0] if isinstance(y, tuple) else y


@each_module
def test_flops_are_those_of_the_reference(name):
    """Forward and backward; the reference's element-wise products with w_ag are not counted."""
    make, shape, _ = MODULES[name]
    module, counts = make(), {}
    for backend in ("cpu", "reference"):
        with use_backend(backend), FlopCounterMode(display=False) as forward:
            y = run(module, torch.randn(shape, requires_grad=True))
        with use_backend(backend), FlopCounterMode(display=False) as backward:
            y.sum().backward()
        counts[backend] = forward.get_total_flops(), backward.get_total_flops()
    steps = 1 if len(shape) == 2 or name == "AdaptiveGamma" else T
    # at the first step the reference has no gradient for the state before it
    most = 1.3, 1.3 if steps > 1 else 2
    for own, plain, ratio in zip(counts["cpu"], counts["reference"], most, strict=True):
        assert plain <= own <= ratio * plain, counts


@pytest.mark.parametrize("leak", [None, 0.3])
def test_flops_by_the_formula(leak):
    """2 B T (H² + H G² + 3 H G) forward, as much again twice backward, beside the input projection; with a leak too."""
    module, projection = ARUN(I, H, controller_size=G), 2 * T * B * I * H
    expected = 2 * B * T * (H * H + H * G * G + 3 * H * G)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(torch.randn(T, B, I))
    assert counter.get_total_flops() == expected + projection
    with FlopCounterMode(display=False) as counter:
        module(torch.randn(T, B, I, requires_grad=True))[0].sum().backward()
    assert counter.get_total_flops() == 3 * (expected + projection)


@pytest.mark.parametrize("leak", [None, 0.3])
def test_flops_of_an_exported_program(leak):
    module, x = ARUN(I, H, controller_size=G, leak=leak), torch.randn(T, B, I)
    program = torch.export.export(module, (x,)).module()
    counts = []
    for f in (program, module):
        with FlopCounterMode(display=False) as counter:
            f(x)[0].sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]


@each_module
def test_profilers_show_the_operators(name):
    make, shape, op = MODULES[name]
    module = make()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run(module, torch.randn(shape)).sum().backward()
    seen = {event.name for event in profiler.events()}
    assert {f"aru_kernels::cpu_{op}", f"aru_kernels::cpu_{op}_backward"} <= seen
    assert not any("Eager" in event for event in seen)


@pytest.mark.parametrize(("backend", "op"), [key for key in ops._EAGER if key[0] == "cpu"])
def test_autograd_graphs_show_the_operators(backend, op):
    assert ops._EAGER[backend, op][1].__name__ == f"{backend}_{op}"


def test_the_graph_of_a_layer():
    y = ARUN(I, H)(torch.randn(T, B, I))[0]  # in torch 2.8, a node does not keep its graph
    node, names = y.grad_fn, []
    while node is not None and len(names) < 5:
        names.append(node.name())
        node = node.next_functions[0][0] if node.next_functions else None
    assert "cpu_aru_sequenceBackward" in names


def functions() -> dict[str, tuple[Callable[..., Tensor], list[Tensor]]]:
    """Every operation, with leaves: no other operation saves a tensor."""

    def leaves(*shapes: tuple[int, ...]) -> list[Tensor]:
        return [torch.randn(shape, requires_grad=True) for shape in shapes]

    controller = (G,), (G, G), (G,), (2, G), (2,)
    return {
        "gamma": (F.gamma, leaves((B, H), (H,), (B, 1))),
        "adaptive_gamma": (lambda *x: F.adaptive_gamma(*x)[0], leaves((B, H), (B, H, G), *controller)),
        "aru_sequence": (
            lambda *x: F.aru_sequence(*x)[0],
            leaves((T, B, H), (B, H), (B, H, G), (H, H), *controller),
        ),
        "gamma_rnn_sequence": (
            lambda *x: F.gamma_rnn_sequence(*x)[0],
            leaves((T, B, H), (B, H), (H, H), (H,), (H,)),
        ),
        "leaky_aru_sequence": (
            lambda *x: F.aru_sequence(*x[:-1], leak=x[-1])[0],
            leaves((T, B, H), (B, H), (B, H, G), (H, H), *controller, (H,)),
        ),
        "leaky_gamma_rnn_sequence": (
            lambda *x: F.gamma_rnn_sequence(*x[:-1], leak=x[-1])[0],
            leaves((T, B, H), (B, H), (H, H), (H,), (H,), (H,)),
        ),
    }


def without_memory(x: Tensor) -> Tensor:
    x = x.clone()
    x.untyped_storage().resize_(0)
    return x


WRONG = {
    "another dtype": lambda x: x.double(),
    "another device": lambda x: x.to("meta"),
    "a smaller size": lambda x: x[..., : x.shape[-1] // 2],
    "a larger size": lambda x: torch.cat((x, x), -1),
    "no memory": without_memory,
    "a sparse tensor": lambda x: x.to_sparse(),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", functions())
def test_hooks_that_return_another_tensor(name, wrong):
    """A sentence instead of a kernel that reads foreign memory, for each saved tensor in turn."""
    function, leaves = functions()[name]
    saved: list[Tensor] = []
    with saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        function(*leaves)
    assert len(saved) >= len(leaves)
    for index, one in enumerate(saved):
        if one.numel():
            packed = iter(range(len(saved)))
            with saved_tensors_hooks(
                lambda x, packed=packed: (next(packed), x),
                lambda pair, index=index: WRONG[wrong](pair[1]) if pair[0] == index else pair[1],
            ):
                y = function(*leaves)
            with pytest.raises((ValueError, TypeError), match=r" has | is on "):
                y.sum().backward()


@pytest.mark.parametrize("name", functions())
def test_hooks_that_return_all_tensors_of_another_dtype(name):
    function, leaves = functions()[name]
    with saved_tensors_hooks(torch.Tensor.half, lambda x: x):
        y = function(*leaves)
    with pytest.raises(TypeError, match=r"has dtype torch\.float16, expected"):
        y.sum().backward()


@each_module
def test_hooks_that_return_an_equal_tensor(name):
    make, shape, _ = MODULES[name]
    module, x, gradients = make(), torch.randn(shape), []
    copies = saved_tensors_hooks(torch.clone, torch.clone)
    negated = saved_tensors_hooks(torch.neg, torch._neg_view)  # memory holds the negative of their values
    for hooks in (contextlib.nullcontext(), save_on_cpu(), copies, negated):
        module.zero_grad()
        with hooks:
            y = run(module, x)
        y.sum().backward()
        gradients.append([p.grad.clone() for p in module.parameters() if p.grad is not None])
    assert gradients[0]
    assert all(torch.equal(a, b) for other in gradients[1:] for a, b in zip(gradients[0], other, strict=True))
