"""Packed sequences whose fields do not fit each other are refused before a kernel reads past its tensors."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

from aru_kernels import ARUN, GammaRNN
from support.tolerances import assert_close

I, H = 3, 5  # noqa: E741
INT, META = torch.int64, torch.device("meta")


def packed(**fields: Any) -> PackedSequence:
    """Sequences of 4, 2 and 1 steps in another order, with some fields exchanged."""
    sequences = [torch.randn(n, I) for n in (2, 4, 1)]
    return pack_sequence(sequences, enforce_sorted=False)._replace(**fields)


def sizes(*values: int) -> Tensor:
    return torch.tensor(values, dtype=INT)


def freed(*values: int) -> Tensor:
    indices = sizes(*values)
    indices.untyped_storage().resize_(0)
    return indices


# (exchanged fields, error, sentence)
WRONG = [
    ({"batch_sizes": freed(3, 2, 1, 1)}, ValueError, "batch_sizes has shape (4,), but its storage has only 0 bytes."),
    ({"batch_sizes": sizes(3, 2, 1, 1).to_sparse()}, TypeError, "batch_sizes has layout torch.sparse_coo, ..."),
    (
        {"sorted_indices": freed(0, 1, 2)},
        ValueError,
        "sorted_indices has shape (3,), but its storage has only 0 bytes.",
    ),
    ({"unsorted_indices": freed(0, 1, 2)}, ValueError, "unsorted_indices has shape (3,), but its storage has only ..."),
    ({"batch_sizes": [3, 2, 1, 1]}, TypeError, "batch_sizes must be a torch.Tensor, got list."),
    ({"batch_sizes": sizes(3, 2, 1, 1).int()}, ValueError, "batch_sizes has dtype torch.int32, expected torch.int64."),
    ({"batch_sizes": sizes(3, 2, 1, 1).float()}, ValueError, "batch_sizes has dtype torch.float32, expected ..."),
    ({"batch_sizes": sizes(3, 2, 1, 1).to(META)}, ValueError, "batch_sizes has device meta, expected cpu."),
    ({"batch_sizes": sizes(3, 2, 1, 1)[None]}, ValueError, "batch_sizes has ndim 2, expected 1."),
    ({"batch_sizes": torch.tensor(7)}, ValueError, "batch_sizes has ndim 0, expected 1."),
    ({"batch_sizes": sizes()}, ValueError, "batch_sizes has shape (0,): no time step, expected at least one."),
    (
        {"batch_sizes": sizes(1, 6)},
        ValueError,
        "batch_sizes grows from 1 to 6 at step 1, expected sizes that never grow.",
    ),
    ({"batch_sizes": sizes(3, 1, 1, 2)}, ValueError, "batch_sizes grows from 1 to 2 at step 3, ..."),
    ({"batch_sizes": sizes(0, 7)}, ValueError, "batch_sizes has 0 at step 0, expected sizes of at least 1."),
    ({"batch_sizes": sizes(4, 4, -1)}, ValueError, "batch_sizes has -1 at step 2, expected sizes of at least 1."),
    (
        {"batch_sizes": sizes(3, 3, 3)},
        ValueError,
        "batch_sizes has the sum 9, expected 7, the number of rows of input.data.",
    ),
    ({"batch_sizes": sizes(3, 2, 1)}, ValueError, "batch_sizes has the sum 6, expected 7, ..."),
    ({"sorted_indices": [0, 1, 2]}, TypeError, "sorted_indices must be a torch.Tensor, got list."),
    ({"sorted_indices": sizes(0, 1)}, ValueError, "sorted_indices has shape (2,), expected (B,) = (3,)."),
    ({"unsorted_indices": sizes(0, 1, 2, 3)}, ValueError, "unsorted_indices has shape (4,), expected (B,) = (3,)."),
    ({"sorted_indices": torch.zeros(3)}, ValueError, "sorted_indices has dtype torch.float32, expected torch.int64."),
    ({"unsorted_indices": sizes(0, 1, 2).to(META)}, ValueError, "unsorted_indices is on meta, expected cpu, ..."),
    ({"sorted_indices": sizes(1, 0, 3)}, ValueError, "sorted_indices is not a permutation of 0, ..., B - 1 = 2."),
    ({"sorted_indices": sizes(1, 0, -1)}, ValueError, "sorted_indices is not a permutation of 0, ..., B - 1 = 2."),
    ({"unsorted_indices": sizes(1, 1, 2)}, ValueError, "unsorted_indices is not a permutation of 0, ..., B - 1 = 2."),
    ({"unsorted_indices": sizes(2, 1, 0)}, ValueError, "unsorted_indices is not the inverse of sorted_indices."),
    ({"unsorted_indices": None}, ValueError, "unsorted_indices is None, expected the inverse of sorted_indices."),
    ({"sorted_indices": None}, ValueError, "sorted_indices is None, expected the inverse of unsorted_indices."),
    ({"data": torch.randn(8, I)}, ValueError, "batch_sizes has the sum 7, expected 8, ..."),
    ({"data": None}, TypeError, "input.data must be a torch.Tensor, got NoneType."),
]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cls", [ARUN, GammaRNN])
@pytest.mark.parametrize(("fields", "error", "sentence"), WRONG, ids=[sentence for *_, sentence in WRONG])
def test_fields_that_do_not_fit(cls, bidirectional, fields, error, sentence):
    pattern = re.escape(sentence.removesuffix("...")) + ("" if sentence.endswith("...") else "$")
    with pytest.raises(error, match="^" + pattern):
        cls(I, H, bidirectional=bidirectional)(packed(**fields))


@pytest.mark.parametrize("cls", [ARUN, GammaRNN])
def test_fields_that_fit(cls):
    """Of every kind that torch.nn.utils.rnn makes, and indices of int32."""
    layer = cls(I, H)
    expected, last = layer(packed_ := packed())
    narrow = packed_._replace(
        sorted_indices=packed_.sorted_indices.int(), unsorted_indices=packed_.unsorted_indices.int()
    )
    output, last_of_narrow = layer(narrow)
    assert torch.equal(output.data, expected.data)
    for a, b in zip(flat(last_of_narrow), flat(last), strict=True):
        assert torch.equal(a, b)
    for given in (pack_sequence([torch.randn(4, I), torch.randn(2, I)]), pack_sequence([torch.randn(1, I)])):
        assert layer(given)[0].data.shape == (len(given.data), H)


def flat(state: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


class Padding(nn.Module):
    """Packs, runs a layer and pads, as programs do."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        output, state = self.layer(pack_padded_sequence(x, lengths, enforce_sorted=False))
        return pad_packed_sequence(output)[0], flat(state)[0]


# the compiler's own
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore:The .grad attribute:UserWarning")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "dynamic"),
    [
        (lambda: ARUN(I, H, bidirectional=True), None),
        (lambda: GammaRNN(I, H), None),
        (lambda: GammaRNN(I, H), True),
        (lambda: GammaRNN(I, H), False),
    ],
)
def test_compiled_layer_takes_any_lengths(make: Callable[[], nn.Module], dynamic: bool | None):
    """In parts, as the lengths are read; and it refuses the same."""
    torch.compiler.reset()
    model = Padding(make())
    compiled = torch.compile(model, dynamic=dynamic, backend="aot_eager")
    for lengths in ((4, 6), (6, 3), (1, 9, 4)):
        x, given = torch.randn(max(lengths), len(lengths), I), torch.tensor(lengths)
        results = []
        for call in (compiled, model):
            output, state = call(x, given)
            gradients = torch.autograd.grad(output.square().sum(), list(model.parameters()))
            results.append((output, state, *gradients))
        for i, (a, b) in enumerate(zip(*results, strict=True)):
            assert_close(f"result {i}", a, b, "sequence")
    with pytest.raises(ValueError, match=r"^batch_sizes grows from 1 to 6 at step 1"):
        torch.compile(model.layer, dynamic=dynamic, backend="aot_eager")(packed(batch_sizes=sizes(1, 6)))
    torch.compiler.reset()
