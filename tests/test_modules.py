"""The layers, cells and activations: against torch.nn.RNN and against each other."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_packed_sequence

import aru_kernels
from aru_kernels import ARUN, ARUNCell, GammaRNN, GammaRNNCell, convert, reference
from support.tolerances import assert_close

DOUBLE = torch.float64
I, H, G = 3, 5, 4  # noqa: E741


def arun(*args, **kwargs) -> ARUN:
    return ARUN(I, H, *args, controller_size=G, dtype=DOUBLE, **kwargs)


def gamma_rnn(*args, **kwargs) -> GammaRNN:
    return GammaRNN(I, H, *args, dtype=DOUBLE, **kwargs)


def randn(*sizes: int) -> Tensor:
    return torch.randn(*sizes, dtype=DOUBLE)


def states_of(layer: nn.Module, hx: Tensor | tuple) -> tuple[Tensor, ...]:
    """(h, g) or (h,)."""
    return hx if isinstance(layer, (ARUN, ARUNCell)) else (hx,)


def random_state(layer: nn.Module, *batch: int) -> Tensor | tuple[Tensor, Tensor]:
    rows = layer.num_layers * (1 + layer.bidirectional)
    h = randn(rows, *batch, H)
    return (h, randn(rows, *batch, H, G)) if isinstance(layer, ARUN) else h


def at(layer: nn.Module, hx: Tensor | tuple, index) -> Tensor | tuple:
    """The state with every tensor indexed."""
    return tuple(s[index] for s in hx) if isinstance(layer, ARUN) else hx[index]


BOTH = pytest.mark.parametrize("make", [arun, gamma_rnn])


def compare_with_rnn(rnn: nn.RNN, x: Tensor | PackedSequence, h0: Tensor | None, data: Tensor) -> None:
    """Outputs, final state and the gradients of the inputs; `data` is the leaf that x is made of."""
    layer = convert.from_rnn(rnn)
    expected, expected_n = rnn(x, h0)
    mapped_h0 = torch.full_like(expected_n, 0.5) if h0 is None else (h0 + 1) / 2
    output, h_n = layer(x, mapped_h0)
    if isinstance(x, PackedSequence):
        assert torch.equal(output.batch_sizes, expected.batch_sizes)
        assert torch.equal(output.unsorted_indices, expected.unsorted_indices)
        output, expected = output.data, expected.data
    assert_close("output", 2 * output - 1, expected, "sequence")
    assert_close("h_n", 2 * h_n - 1, expected_n, "sequence")
    weight, weight_n = torch.randn_like(expected), torch.randn_like(expected_n)
    leaves = [data] if h0 is None else [data, h0]
    loss = (weight * expected).sum() + (weight_n * expected_n).sum()
    theirs = torch.autograd.grad(loss, leaves, retain_graph=True)  # the graph of packing serves both
    ours = torch.autograd.grad((weight * (2 * output - 1)).sum() + (weight_n * (2 * h_n - 1)).sum(), leaves)
    for name, a, e in zip(("grad input", "grad h_0"), ours, theirs, strict=False):
        assert_close(name, a, e, "sequence")


RNN_SHAPES = pytest.mark.parametrize(("num_layers", "bidirectional"), [(1, False), (1, True), (3, False), (2, True)])


@RNN_SHAPES
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("given_state", [False, True])
def test_equals_torch_rnn(num_layers, bidirectional, batch_first, batched, given_state):
    rnn = nn.RNN(I, H, num_layers, batch_first=batch_first, bidirectional=bidirectional, dtype=DOUBLE)
    x = (randn(4, 6, I) if batched else randn(6, I)).requires_grad_()
    batch = (4 if batch_first else 6,) if batched else ()
    h0 = randn(num_layers * (1 + bidirectional), *batch, H).requires_grad_() if given_state else None
    compare_with_rnn(rnn, x, h0, x)


@RNN_SHAPES
@pytest.mark.parametrize("lengths", [(6, 4, 4, 1), (2, 5, 5, 1, 3), (3, 3)])
@pytest.mark.parametrize("given_state", [False, True])
def test_equals_torch_rnn_on_packed_sequences(num_layers, bidirectional, lengths, given_state):
    rnn = nn.RNN(I, H, num_layers, bidirectional=bidirectional, dtype=DOUBLE)
    data = randn(sum(lengths), I).requires_grad_()
    x = pack_sequence(list(data.split(lengths)), enforce_sorted=False)
    h0 = randn(num_layers * (1 + bidirectional), len(lengths), H).requires_grad_() if given_state else None
    compare_with_rnn(rnn, x, h0, data)


def test_equals_torch_rnn_on_a_sorted_packed_sequence():
    """enforce_sorted=True leaves no indices behind."""
    rnn, data = nn.RNN(I, H, dtype=DOUBLE), randn(7, I)
    x = pack_sequence(list(data.split((4, 2, 1))))
    assert x.sorted_indices is None
    layer = convert.from_rnn(rnn)
    output, h_n = layer(x, torch.full((1, 3, H), 0.5, dtype=DOUBLE))
    assert_close("output", 2 * output.data - 1, rnn(x)[0].data, "sequence")
    assert_close("h_n", 2 * h_n - 1, rnn(x)[1], "sequence")


def test_parameter_gradients_equal_those_of_torch_rnn():
    """h' = (1 + h) / 2: weight_hh' = 2 W, bias' = b - W 1, so dL/dW = 2 dL/dW' - dL/db' 1^T."""
    rnn, x = nn.RNN(I, H, dtype=DOUBLE), randn(6, 4, I)
    layer = convert.from_rnn(rnn)
    weight = randn(6, 4, H)
    (weight * rnn(x)[0]).sum().backward()
    (weight * (2 * layer(x, torch.full((1, 4, H), 0.5, dtype=DOUBLE))[0] - 1)).sum().backward()
    assert_close("weight_ih", layer.weight_ih_l0.grad, rnn.weight_ih_l0.grad, "sequence")
    assert_close("bias", layer.bias_l0.grad, rnn.bias_ih_l0.grad, "sequence")
    recurrent = 2 * layer.weight_hh_l0.grad - layer.bias_l0.grad[:, None]
    assert_close("weight_hh", recurrent, rnn.weight_hh_l0.grad, "sequence")


SIZES = st.tuples(st.integers(1, 9), st.integers(0, 5), st.sampled_from([1, 3, 7, 16, 33]), st.sampled_from([1, 2, 9]))


@given(SIZES, st.integers(0, 2**16), st.booleans())
def test_whole_sequence_equals_pieces_equals_repeated_cell(sizes, seed, adaptive):
    torch.manual_seed(seed)
    T, B, hidden, units = sizes
    if adaptive:
        layer, cell = (
            ARUN(I, hidden, controller_size=units, dtype=DOUBLE),
            ARUNCell(I, hidden, controller_size=units, dtype=DOUBLE),
        )
        state = (randn(1, B, hidden), randn(1, B, hidden, units))
    else:
        layer, cell = GammaRNN(I, hidden, dtype=DOUBLE), GammaRNNCell(I, hidden, dtype=DOUBLE)
        state = randn(1, B, hidden)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in layer.state_dict().items()})
    x, drive = randn(T, B, I), randn(T, B, hidden)
    cut = T // 2

    whole, last = layer(x, state, drive=drive)
    pieces, carried = [], state
    for part in (slice(0, cut), slice(cut, T)):
        if part.start < part.stop:
            piece, carried = layer(x[part], carried, drive=drive[part])
            pieces.append(piece)
    assert_close("pieces", torch.cat(pieces), whole, "sequence")
    for name, a, b in zip("hg", states_of(layer, carried), states_of(layer, last), strict=False):
        assert_close(f"last {name}", a, b, "sequence")

    hx, steps = at(layer, state, 0), []
    for t in range(T):
        hx = cell(x[t], hx, drive=drive[t])
        steps.append(states_of(cell, hx)[0])
    assert_close("cell", torch.stack(steps), whole, "sequence")
    for name, a, b in zip("hg", states_of(cell, hx), states_of(layer, last), strict=False):
        assert_close(f"cell {name}", a, b[0], "sequence")


@BOTH
def test_batch_rows_are_independent(make):
    """Row by row alone, and with a NaN in another row, the results are the same."""
    layer = make(num_layers=2, bidirectional=True)
    x, state = randn(5, 4, I), random_state(layer, 4)
    output, last = layer(x, state)
    for b in range(4):
        alone, alone_last = layer(x[:, b : b + 1], at(layer, state, (slice(None), slice(b, b + 1))))
        assert_close(f"row {b}", alone, output[:, b : b + 1], "sequence")
        for a, s in zip(states_of(layer, alone_last), states_of(layer, last), strict=True):
            assert_close(f"state of row {b}", a, s[:, b : b + 1], "sequence")
    x[2, 1, 0] = float("nan")
    spoilt, _ = layer(x, state)
    others = [0, 2, 3]
    assert_close("other rows", spoilt[:, others], output[:, others], "sequence")
    assert spoilt[:, 1].isnan().all()  # both directions


@BOTH
def test_neurons_do_not_mix_without_recurrent_weights(make):
    """weight_hh = 0: one neuron's input reaches no other neuron's output, so controllers share only weights."""
    layer = make()
    nn.init.zeros_(layer.weight_hh_l0)
    x = randn(4, 2, I)
    before, _ = layer(x)
    with torch.no_grad():
        layer.bias_l0[2] += 1
    after, _ = layer(x)
    changed = (before != after).any(0).any(0)
    assert changed.tolist() == [neuron == 2 for neuron in range(H)]


@BOTH
def test_strided_input_and_state(make):
    layer = make()
    base, wide = randn(9, 8, 2 * I), randn(1, 4, 2 * H)
    x = base[1::2, ::2, 1::2]
    state = tuple(s.transpose(1, 2).contiguous().transpose(1, 2) for s in states_of(layer, random_state(layer, 4)))
    state = (wide[..., ::2], *state[1:])
    hx = state if isinstance(layer, ARUN) else state[0]
    dense = tuple(s.contiguous() for s in state)
    expected, _ = layer(x.contiguous(), dense if isinstance(layer, ARUN) else dense[0])
    assert_close("output", layer(x, hx)[0], expected, "sequence")
    expanded = randn(1, 1, I).expand(4, 3, I)
    assert_close("expanded", layer(expanded)[0], layer(expanded.contiguous())[0], "sequence")


@BOTH
def test_last_state_is_no_view_of_the_output(make):
    """It would keep all steps of the output alive, and change when the output is changed in place."""
    layer = make()
    output, last = layer(randn(6, 2, I))
    before = [s.clone() for s in states_of(layer, last)]
    output.detach().zero_()
    for s, expected in zip(states_of(layer, last), before, strict=True):
        assert torch.equal(s, expected)
        assert s.untyped_storage().nbytes() == s.nbytes


@BOTH
def test_empty_batch(make):
    """As torch.nn.LSTM: shapes are kept and gradients are zero."""
    layer = make(num_layers=2, bidirectional=True)
    output, last, trace = layer(randn(6, 0, I), return_trace=True)
    assert output.shape == (6, 0, 2 * H)
    assert trace.a.shape == (6, 0, 4 * H)
    for s in states_of(layer, last):
        assert s.shape[:3] == (4, 0, H)
    output.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in layer.parameters())


@BOTH
@pytest.mark.parametrize("bidirectional", [False, True])
def test_packed_equals_each_sequence_alone(make, bidirectional):
    """Output, trace, final states and gradients, with initial states and a drive over the padded shape."""
    layer = make(num_layers=2, bidirectional=bidirectional)
    lengths = (2, 5, 1, 5)
    sequences = [randn(length, I).requires_grad_() for length in lengths]
    state, drive = random_state(layer, 4), randn(5, 4, H)
    packed = pack_sequence(sequences, enforce_sorted=False)

    output, last, trace = layer(packed, state, drive=drive, return_trace=True)
    padded, out_lengths = pad_packed_sequence(output)
    assert out_lengths.tolist() == list(lengths)
    weight = torch.randn_like(padded)
    gradients = torch.autograd.grad((weight * padded).sum(), sequences)
    a, _ = pad_packed_sequence(trace.a)
    for b, length in enumerate(lengths):
        alone = sequences[b].detach().requires_grad_()
        rows = (slice(None), b)
        expected, expected_last, expected_trace = layer(
            alone, at(layer, state, rows), drive=drive[:length, b], return_trace=True
        )
        assert_close(f"output {b}", padded[:length, b], expected, "sequence")
        assert_close(f"trace {b}", a[:length, b], expected_trace.a, "sequence")
        for s, e in zip(states_of(layer, last), states_of(layer, expected_last), strict=True):
            assert_close(f"state {b}", s[:, b], e, "sequence")
        (gradient,) = torch.autograd.grad((weight[:length, b] * expected).sum(), alone)
        assert_close(f"gradient {b}", gradients[b], gradient, "sequence")
        assert not padded[length:, b].any()


@BOTH
def test_drive_adds_to_the_bias(make):
    """A constant drive is a bias of every layer."""
    layer = make(num_layers=2, bidirectional=True)
    x = randn(4, 2, I)
    driven, _ = layer(x, drive=0.7)
    with torch.no_grad():
        for name, p in layer.named_parameters():
            if name.startswith("bias_l"):
                p += 0.7
    assert_close("output", driven, layer(x)[0], "sequence")


@BOTH
@pytest.mark.parametrize("batch_first", [False, True])
def test_forms_of_drive(make, batch_first):
    T, B = 4, 3
    layer = make(num_layers=2, batch_first=batch_first)
    x = randn(B, T, I) if batch_first else randn(T, B, I)

    def full(drive: Tensor) -> Tensor:
        drive = drive.expand(T, B, H)
        return drive.transpose(0, 1) if batch_first else drive

    steps, every = randn(T), randn(T, B, H)
    forms = [
        (0.3, torch.full((T, B, H), 0.3, dtype=DOUBLE)),
        (torch.tensor(0.3, dtype=DOUBLE), torch.full((T, B, H), 0.3, dtype=DOUBLE)),
        (steps, steps[:, None, None]),
        (steps.float(), steps.float().double()[:, None, None]),
        (full(steps[:, None, None])[..., :1], steps[:, None, None]),
        (full(every), every),
        (every[:1, :1], every[:1, :1]),
    ]
    undriven, _ = layer(x)
    for drive, expected in forms:
        output, _ = layer(x, drive=drive)
        assert_close("output", output, layer(x, drive=full(expected).contiguous())[0], "sequence")
        assert not torch.equal(output, undriven)


@BOTH
def test_drive_of_unbatched_input_and_of_a_number_on_packed_input(make):
    layer, x, drive = make(), randn(4, I), randn(4, H)
    assert_close("full", layer(x, drive=drive)[0], layer(x[:, None], drive=drive[:, None])[0][:, 0], "sequence")
    assert_close("steps", layer(x, drive=drive[:, 0])[0], layer(x, drive=drive[:, :1])[0], "sequence")
    packed = pack_sequence([x, x[:2]])
    for value in (0.5, torch.full((4,), 0.5, dtype=DOUBLE), torch.full((4, 1, 1), 0.5, dtype=DOUBLE)):
        output, _ = pad_packed_sequence(layer(packed, drive=value)[0])
        assert_close("packed", output[:, 0], layer(x, drive=0.5)[0], "sequence")


@BOTH
def test_gradient_of_the_drive_is_that_of_the_preactivation(make):
    layer, x = make(), randn(4, 2, I)
    full, steps = randn(4, 2, H).requires_grad_(), randn(4).requires_grad_()
    (d_full,) = torch.autograd.grad(layer(x, drive=full + steps[:, None, None])[0].sum(), full)
    (d_steps,) = torch.autograd.grad(layer(x, drive=full.detach() + steps[:, None, None])[0].sum(), steps)
    assert_close("steps", d_steps, d_full.sum((1, 2)), "sequence")
    assert d_full.abs().min() > 0


@BOTH
def test_trace(make):
    layer = make(num_layers=2, bidirectional=True, batch_first=True)
    x = randn(3, 6, I)
    output, _, trace = layer(x, return_trace=True)
    assert isinstance(trace, aru_kernels.Trace)
    assert all(t.shape == (3, 6, 4 * H) for t in trace)
    assert_close("last layer", reference.gamma(*(t[..., 2 * H :] for t in trace)), output, "sequence")
    assert torch.equal(layer(x)[0], output)
    assert layer(x[0], return_trace=True)[2].n.shape == (6, 4 * H)
    if make is gamma_rnn:
        assert torch.equal(trace.n[1, 2, :H], layer.gain_l0)


@BOTH
def test_dropout_acts_between_layers_in_training_only(make):
    layer = make(num_layers=2, dropout=0.5)
    plain = make(num_layers=2)
    plain.load_state_dict(layer.state_dict())
    x = randn(5, 3, I)
    assert not torch.equal(layer(x)[0], layer(x)[0])
    assert torch.equal(layer.eval()(x)[0], plain(x)[0])
    layer.train().dropout = 1.0
    output, last = layer(x)
    first, last_plain = (states_of(layer, s)[0][0] for s in (last, plain(x)[1]))
    assert torch.equal(first, last_plain)  # the first layer is as without dropout
    top = make()
    top.weight_ih_l0 = nn.Parameter(torch.zeros(H, I, dtype=DOUBLE))
    for name, p in top.named_parameters():
        if name != "weight_ih_l0":
            p.data = layer.get_parameter(name.replace("_l0", "_l1")).data
    assert_close("second layer sees zeros", output, top(x)[0], "sequence")


@BOTH
def test_dropout_with_one_layer_warns(make):
    with pytest.warns(
        UserWarning, match=r"^dropout = 0\.5 acts between layers and has no effect with num_layers = 1\.$"
    ):
        make(dropout=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(num_layers=2, dropout=0.5)


@pytest.mark.parametrize("cls", [ARUNCell, GammaRNNCell])
def test_cell_without_a_batch_or_a_state(cls):
    cell = cls(I, H, dtype=DOUBLE)
    x = randn(2, I)
    batched = states_of(cell, cell(x))
    for a, b in zip(states_of(cell, cell(x[1])), batched, strict=True):
        assert_close("unbatched", a, b[1], "sequence")
    zeros = tuple(torch.zeros_like(s) for s in batched)
    for a, b in zip(states_of(cell, cell(x, zeros if cls is ARUNCell else zeros[0])), batched, strict=True):
        assert torch.equal(a, b)
    for drive in (0.4, torch.tensor(0.4), torch.full((H,), 0.4), torch.full((2, 1), 0.4)):
        driven = states_of(cell, cell(x, drive=drive))[0]
        assert_close("drive", driven, states_of(cell, cell(x, drive=0.4))[0], "sequence", torch.float32)
        assert not torch.equal(driven, batched[0])


def test_homogeneous_rnn_equals_a_heterogeneous_one_with_equal_neurons():
    one, many = GammaRNN(I, H, heterogeneous=False, dtype=DOUBLE), GammaRNN(I, H, dtype=DOUBLE)
    many.load_state_dict(
        {k: v.expand(H) if k.startswith(("gain", "saturation")) else v for k, v in one.state_dict().items()}
    )
    x = randn(5, 2, I)
    one(x)[0].sum().backward()
    many(x)[0].sum().backward()
    assert_close("output", one(x)[0], many(x)[0], "sequence")
    assert_close("gain", one.gain_l0.grad, many.gain_l0.grad.sum(0, keepdim=True), "sequence")


def test_n_floor_reaches_the_activation():
    layers = [GammaRNN(I, H, n_floor=floor, dtype=DOUBLE) for floor in (1e-3, 1.0)]
    layers[1].load_state_dict(layers[0].state_dict())
    for layer in layers:
        nn.init.constant_(layer.gain_l0, 0.5)
    x = randn(3, 2, I)
    assert not torch.equal(layers[0](x)[0], layers[1](x)[0])
    nn.init.constant_(layers[0].gain_l0, 1.0)
    assert torch.equal(layers[0](x)[0], layers[1](x)[0])
