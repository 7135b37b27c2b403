"""Results of the Triton kernels that programs change and detach in place, in the interpreter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from aru_kernels import ARUN, ARUNCell, GammaRNN, GammaRNNCell, use_backend
from support.tolerances import assert_close

I, H, G, T, B = 3, 5, 4, 3, 2  # noqa: E741
INPUTS = {
    "padded": ({}, lambda: torch.randn(T, B, I)),
    "batch first": ({"batch_first": True}, lambda: torch.randn(B, T, I)),
    "unbatched": ({}, lambda: torch.randn(T, I)),
    "packed": ({}, lambda: pack_sequence([torch.randn(n, I) for n in (2, 3)], enforce_sorted=False)),
}


def flat(value: object) -> list[Tensor]:
    if isinstance(value, (Tensor, PackedSequence)):
        return [value.data if isinstance(value, PackedSequence) else value]
    return [tensor for item in value for tensor in flat(item)]


@pytest.mark.parametrize("cls", [ARUN, GammaRNN])
@pytest.mark.parametrize("layout", INPUTS)
def test_results_of_layers(cls, layout):
    options, make = INPUTS[layout]
    layer, x = cls(I, H, **options, **({"controller_size": G} if cls is ARUN else {})), make()
    with use_backend("triton"):
        output, *others = flat(layer(x, return_trace=True))
        (expected,) = torch.autograd.grad(2 * output.sum(), layer.weight_ih_l0)
        output, *others = flat(layer(x, return_trace=True))
    output.mul_(2)
    try:
        (gradient,) = torch.autograd.grad(output.sum(), layer.weight_ih_l0)
    except RuntimeError as error:  # the kernels keep h for the backward pass
        if "modified by an inplace operation" not in str(error):
            raise
    else:
        assert_close("gradient", gradient, expected, "sequence")
    for result in (output, *others):
        assert result.detach_().grad_fn is None


@pytest.mark.parametrize("cls", [ARUNCell, GammaRNNCell])
def test_states_of_cells(cls):
    cell = cls(I, H)
    with use_backend("triton"):
        for i, _ in enumerate(flat(cell(torch.randn(B, I)))):
            state = flat(cell(torch.randn(B, I)))[i]
            state[0] = 0
            state.sum().backward()
            assert state.detach_().grad_fn is None
