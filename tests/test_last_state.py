"""The last state of a sequence, which is a result of its own: its gradient is not that of all steps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import aru_kernels
from aru_kernels import ARUN, GammaRNN, _dispatch
from helpers import needs_cpu_kernels
from test_sequence import ADAPTIVE, STATIC, adaptive_arguments, double, static_arguments, weights_like
from tolerances import assert_all_close

# what a loss is made of, by position in (h, last h, last g)
USES = {"the last h": (1,), "the last state": (1, 2), "h and the last state": (0, 1, 2)}

each_use = pytest.mark.parametrize("used", USES.values(), ids=USES)

Sequence = Callable[..., tuple[Tensor, tuple[Tensor, ...], object]]


def gradients(backend: str, sequence: Sequence, arguments: list[Tensor], used: tuple[int, ...]) -> list[Tensor]:
    with aru_kernels.use_backend(backend):
        h, last, _ = sequence(*arguments, n_floor=1e-3, return_trace=False)
    assert torch.equal(h[-1], last[0])
    results = [x for i, x in enumerate((h, *last)) if i in used]
    loss = sum((w * x).sum() for w, x in zip(weights_like(*results), results, strict=True))
    return list(torch.autograd.grad(loss, arguments, allow_unused=True))


def check_adaptive(backend: str, arguments: list[Tensor], used: tuple[int, ...]) -> None:
    expected = gradients("reference", _dispatch.aru_sequence, double(arguments), used)
    actual = gradients(backend, _dispatch.aru_sequence, arguments, used)
    assert_all_close(ADAPTIVE, actual, expected, "sequence")


def check_static(backend: str, arguments: list[Tensor], used: tuple[int, ...]) -> None:
    expected = gradients("reference", _dispatch.gamma_rnn_sequence, double(arguments), used)
    actual = gradients(backend, _dispatch.gamma_rnn_sequence, arguments, used)
    assert_all_close(STATIC, actual, expected, "sequence")


@needs_cpu_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@each_use
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 3, 5, 4), (19, 9, 21, 6)], ids=str)
@pytest.mark.parametrize("budget", ["1T", "1"], ids=["all kept", "checkpoints"])
def test_adaptive(shape, used, dtype, budget, monkeypatch):
    monkeypatch.setenv("ARU_STATE_BUDGET", budget)
    check_adaptive("cpu", adaptive_arguments(*shape, dtype=dtype), used)


@needs_cpu_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@each_use
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 3, 5), (19, 9, 21)], ids=str)
def test_static(shape, used, dtype):
    check_static("cpu", static_arguments(*shape, (1,), dtype=dtype), used)


def layers() -> list[torch.nn.Module]:
    return [
        ARUN(2, 4, controller_size=3),
        GammaRNN(2, 4),
        ARUN(2, 4, controller_size=3, num_layers=2, bidirectional=True),
    ]


@needs_cpu_kernels
@pytest.mark.parametrize("index", range(3), ids=["ARUN", "GammaRNN", "ARUN of two layers and directions"])
def test_a_layers_last_state_needs_no_gradient_of_all_steps(index):
    layer = layers()[index]
    x = torch.randn(5, 3, 2)
    output, last = layer(x)
    h_n = last[0] if isinstance(last, tuple) else last
    assert torch.equal(h_n[-1 - layer.bidirectional], output[-1, :, :4])
    nodes, names = [h_n.grad_fn], set()
    while nodes:
        node = nodes.pop()
        names.add(node.name())
        if "Eager" not in node.name():
            nodes += [n for n, _ in node.next_functions if n is not None]
    assert not {n for n in names if n.startswith(("Select", "Slice"))}
