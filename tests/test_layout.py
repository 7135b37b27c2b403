"""Which shapes come out for which go in: as from torch.nn.LSTM, in every combination."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from aru_kernels import ARUN, GammaRNN
from aru_kernels._layout import arrange

I, H, G, T, B = 3, 5, 4, 6, 4  # noqa: E741
FLAGS = list(itertools.product([1, 2], [False, True], [False, True]))


@pytest.mark.parametrize(("num_layers", "bidirectional", "batch_first"), FLAGS)
@pytest.mark.parametrize("form", ["batched", "unbatched", "one sequence", "empty batch", "packed", "packed, sorted"])
@pytest.mark.parametrize("given_state", [False, True])
def test_shapes_are_those_of_lstm(num_layers, bidirectional, batch_first, form, given_state):
    options = {"num_layers": num_layers, "bidirectional": bidirectional, "batch_first": batch_first}
    arun, rnn, lstm = ARUN(I, H, controller_size=G, **options), GammaRNN(I, H, **options), nn.LSTM(I, H, **options)
    batch = {"one sequence": 1, "empty batch": 0}.get(form, B)
    x = torch.randn(T, I) if form == "unbatched" else torch.randn(*((batch, T) if batch_first else (T, batch)), I)
    if form.startswith("packed"):
        ordered = form.endswith("sorted")
        lengths = [6, 4, 4, 1] if ordered else [4, 1, 6, 4]
        x = pack_padded_sequence(x, lengths, batch_first=batch_first, enforce_sorted=ordered)
    rows = num_layers * (1 + bidirectional)
    h0 = torch.randn(rows, H) if form == "unbatched" else torch.randn(rows, batch, H)
    g0 = torch.randn(*h0.shape, G)
    hx = (None, None, None) if not given_state else ((h0, g0), h0, (h0, h0))

    expected, (h_expected, _) = lstm(x, hx[2])
    output, (h, g) = arun(x, hx[0])
    static_output, static_h = rnn(x, hx[1])
    for actual in (output, static_output):
        if isinstance(expected, PackedSequence):
            assert isinstance(actual, PackedSequence)
            assert torch.equal(actual.batch_sizes, expected.batch_sizes)
            for mine, theirs in zip(actual[2:], expected[2:], strict=True):
                assert mine is theirs is None or torch.equal(mine, theirs)
            actual, theirs = actual.data, expected.data
        else:
            theirs = expected
        assert actual.shape == theirs.shape
        assert actual.dtype == theirs.dtype
    assert h.shape == static_h.shape == h_expected.shape
    assert g.shape == (*h_expected.shape, G)


def test_last_output_is_the_final_state():
    """Forward: at the last step; backward: at the first."""
    layer = ARUN(I, H, controller_size=G, bidirectional=True)
    output, (h, _) = layer(torch.randn(T, B, I))
    assert torch.equal(output[-1, :, :H], h[0])
    assert torch.equal(output[0, :, H:], h[1])


def test_backward_direction_reads_the_sequence_from_its_end():
    layer = ARUN(I, H, controller_size=G, bidirectional=True)
    alone = ARUN(I, H, controller_size=G)
    alone.load_state_dict(
        {k.removesuffix("_reverse"): v for k, v in layer.state_dict().items() if k.endswith("_reverse")}
    )
    x = torch.randn(T, B, I)
    assert torch.equal(layer(x)[0][..., H:], alone(x.flip(0))[0].flip(0))


@pytest.mark.parametrize("batch_first", [False, True])
def test_no_time_step_is_an_error_as_in_lstm(batch_first):
    x = torch.randn(B, 0, I) if batch_first else torch.randn(0, B, I)
    with pytest.raises(RuntimeError):
        nn.LSTM(I, H, batch_first=batch_first)(x)
    for layer in (ARUN(I, H, controller_size=G, batch_first=batch_first), GammaRNN(I, H, batch_first=batch_first)):
        with pytest.raises(ValueError, match=r"^input has shape \(.*\): no time step, expected at least one\.$"):
            layer(x)
    with pytest.raises(ValueError, match=r"^input has shape \(0, 3\): no time step"):
        layer(torch.randn(0, I))


def test_arrange_and_output_are_inverse():
    for batch_first, shape in (
        (False, (T, B, I)),
        (True, (B, T, I)),
        (False, (T, I)),
        (True, (T, I)),
        (False, (T, 0, I)),
    ):
        x = torch.randn(shape)
        rows, layout = arrange(x, batch_first, I)
        assert rows.shape == (T, layout.B, I)
        assert torch.equal(layout.output(rows.clone()), x)
        assert layout.T == T


def test_segments_of_a_packed_sequence():
    """Runs of steps with equally many sequences, as (first row, T, B)."""
    packed = pack_padded_sequence(torch.randn(T, B, I), [6, 4, 4, 1])
    _, layout = arrange(packed, False, I)
    assert layout.segments == ((0, 1, 4), (4, 3, 3), (13, 2, 1))
    assert (layout.T, layout.B) == (6, 4)
