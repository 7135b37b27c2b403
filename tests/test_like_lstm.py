"""What programs for torch.nn.LSTM read and do: attributes, pickles, changes in place, torch.fx and torch.jit."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.proxy import TraceError
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from aru_kernels import ARUN, AdaptiveGamma, ARUNCell, Gamma, GammaRNN, GammaRNNCell, use_backend
from support.helpers import needs_cpu_kernels
from support.tolerances import assert_close

DOUBLE = torch.float64
I, H, G, T, B = 3, 5, 4, 6, 4  # noqa: E741

BOTH = pytest.mark.parametrize("cls", [ARUN, GammaRNN])
CELLS = {
    "ARUNCell": lambda: ARUNCell(I, H, controller_size=G, dtype=DOUBLE),
    "GammaRNNCell": lambda: GammaRNNCell(I, H, dtype=DOUBLE),
    "AdaptiveGamma": lambda: nn.Sequential(nn.Linear(I, H, dtype=DOUBLE), AdaptiveGamma(G, dtype=DOUBLE)),
}
each_backend = pytest.mark.parametrize("backend", [pytest.param("cpu", marks=needs_cpu_kernels), "reference"])


def randn(*sizes: int) -> Tensor:
    return torch.randn(*sizes, dtype=DOUBLE)


def flat(value: Any) -> Iterator[Tensor]:
    """The tensors of nested tuples, and the data of packed sequences."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, PackedSequence):
        yield value.data
    else:
        for item in value:
            yield from flat(item)


# ---- attributes


@BOTH
@pytest.mark.parametrize("bias", [True, False])
def test_attributes(cls, bias):
    layer = cls(I, H, 2, bias, True, 0.1, True)
    peer = nn.LSTM(I, H, 2, bias, True, 0.1, True)
    for name in (
        "input_size",
        "hidden_size",
        "num_layers",
        "bias",
        "batch_first",
        "dropout",
        "bidirectional",
        "proj_size",
    ):
        assert getattr(layer, name) == getattr(peer, name), name
        assert type(getattr(layer, name)) is type(getattr(peer, name)), name
    assert layer.mode == cls.__name__
    assert len(layer.all_weights) == len(peer.all_weights) == 4
    names = list(layer.state_dict())
    weights = [weight for weights in layer.all_weights for weight in weights]
    assert [id(weight) for weight in weights] == [id(layer.get_parameter(name)) for name in names]
    assert any(name.startswith("bias_l") for name in names) == bias
    assert ("bias=False" in repr(layer)) == (not bias)


@BOTH
def test_without_a_bias(cls):
    """The same as with one of zeros; the controller keeps its own."""
    layer, zero = cls(I, H, 2, False, bidirectional=True), cls(I, H, 2, bidirectional=True)
    missing, unexpected = zero.load_state_dict(layer.state_dict(), strict=False)
    assert sorted(missing) == ["bias_l0", "bias_l0_reverse", "bias_l1", "bias_l1_reverse"]
    assert not unexpected
    assert ("bias_g_l0" in layer.state_dict()) == ("bias_c_l0" in layer.state_dict()) == (cls is ARUN)
    for name in missing:
        nn.init.zeros_(zero.get_parameter(name))
    x = torch.randn(T, B, I)
    assert torch.equal(layer(x)[0], zero(x)[0])
    layer.reset_parameters()
    assert layer(x)[0].isfinite().all()


@pytest.mark.parametrize("cls", [ARUNCell, GammaRNNCell])
def test_cell_without_a_bias(cls):
    cell, zero = cls(I, H, False), cls(I, H)
    assert cell.bias is None
    assert isinstance(zero.bias, nn.Parameter)
    assert zero.load_state_dict(cell.state_dict(), strict=False).missing_keys == ["bias"]
    nn.init.zeros_(zero.bias)
    x = torch.randn(B, I)
    for a, b in zip(flat(cell(x)), flat(zero(x)), strict=True):
        assert torch.equal(a, b)
    cell.reset_parameters()
    assert cell.bias is None
    assert "bias=False" in repr(cell)
    assert "bias" not in repr(zero)
    peer = nn.LSTMCell(I, H, False)
    assert (peer.bias is False) or peer.bias is None or not isinstance(peer.bias, nn.Parameter)


@BOTH
def test_eight_layers_by_position_and_more_by_name(cls):
    assert cls(I, H, 8).num_layers == 8
    assert cls(I, H, num_layers=9).num_layers == 9
    assert GammaRNN(I, H, 9).num_layers == 9


@BOTH
def test_a_layer_that_was_pickled_before_it_had_these_attributes(cls):
    layer = cls(I, H, num_layers=2)
    x = torch.randn(T, B, I)
    expected, text, weights = layer(x)[0], repr(layer), layer.all_weights
    for name in ("bias", "proj_size"):
        del layer.__dict__[name]
    for old in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(old(x)[0], expected)
        assert repr(old) == text
        assert (old.bias, old.proj_size, old.mode) == (True, 0, cls.__name__)
        assert [len(w) for w in old.all_weights] == [len(w) for w in weights]
        old.reset_parameters()


# ---- results that are no views

LAYOUTS: dict[str, tuple[dict[str, bool], Callable[[], Tensor | PackedSequence]]] = {
    "padded": ({}, lambda: randn(T, B, I)),
    "batch first": ({"batch_first": True}, lambda: randn(B, T, I)),
    "unbatched": ({}, lambda: randn(T, I)),
    "packed": ({}, lambda: pack_sequence([randn(n, I) for n in (2, 6, 1, 4)], enforce_sorted=False)),
    "packed and sorted": ({}, lambda: pack_sequence([randn(n, I) for n in (6, 4)])),
    "packed of one length": ({}, lambda: pack_sequence([randn(6, I) for _ in range(3)])),
}
each_layout = pytest.mark.parametrize("layout", LAYOUTS)
DEPTHS = pytest.mark.parametrize(("num_layers", "bidirectional"), [(1, False), (2, False), (1, True), (2, True)])


def make(cls: type[nn.Module], layout: str, **options: Any) -> tuple[nn.Module, Tensor | PackedSequence]:
    own, x = LAYOUTS[layout]
    options |= own | ({"controller_size": G} if cls is ARUN else {})
    return cls(I, H, dtype=DOUBLE, **options), x()


@each_backend
@BOTH
@each_layout
@DEPTHS
def test_results_are_detached_in_place(cls, layout, num_layers, bidirectional, backend):
    """torch.nn.LSTM's output is no view either: it is transposed in place."""
    layer, x = make(cls, layout, num_layers=num_layers, bidirectional=bidirectional)
    with use_backend(backend):
        results = layer(x, return_trace=True)
    for result in flat(results):
        assert result.requires_grad
        result.detach_()
        assert not result.requires_grad
    with use_backend(backend), torch.inference_mode():
        assert not any(result._is_view() for result in flat(layer(x, return_trace=True)))


def gradients(loss: Tensor, layer: nn.Module) -> list[Tensor | None]:
    return list(torch.autograd.grad(loss, list(layer.parameters()), allow_unused=True))


@each_backend
@BOTH
@each_layout
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_result_changed_in_place_has_the_right_gradient_or_an_error(cls, layout, bidirectional, backend):
    """Output, states and trace, and what a changed output does to the gradient of the states."""
    layer, x = make(cls, layout, bidirectional=bidirectional)

    def run() -> list[Tensor]:
        with use_backend(backend):
            return list(flat(layer(x, return_trace=True)))

    weights = [torch.randn_like(result) for result in run()]
    for changed, of in [(i, i) for i in range(len(weights))] + [(0, 1), (1, 0)]:
        results = run()
        expected = gradients((weights[of] * results[of] * (2 if changed == of else 1)).sum(), layer)
        results = run()
        results[changed].mul_(2)
        try:
            actual = gradients((weights[of] * results[of]).sum(), layer)
        except RuntimeError as error:
            if changed == 0 and "modified by an inplace operation" in str(error):
                continue  # kernels keep h for the backward pass
            raise
        for a, e in zip(actual, expected, strict=True):
            assert (a is None) == (e is None)
            if a is not None:
                assert_close(f"gradient of {of} with {changed} changed", a, e, "sequence")


@each_backend
@BOTH
@each_layout
def test_states_reset_by_a_mask_train(cls, layout, backend):
    """h[:, done] = 0 between the windows of a rollout: never an error, and the right gradient."""
    layer, x = make(cls, layout, num_layers=2)
    grads = []
    for in_place in (True, False):
        with use_backend(backend):
            _, state = layer(x)
            given = list(flat(state))
            mask = torch.zeros(given[0].shape[:-1], dtype=torch.bool)
            mask[..., 0] = True
            for i, s in enumerate(given):
                rows = mask.view(*mask.shape, *[1] * (s.ndim - mask.ndim))
                if in_place:
                    s.masked_fill_(rows, 0)
                else:
                    given[i] = s.masked_fill(rows, 0)
            output, _ = layer(x, tuple(given) if cls is ARUN else given[0])
        grads.append(gradients(next(flat(output)).square().sum(), layer))
    for a, b in zip(*grads, strict=True):
        assert_close("gradient", a, b, "sequence")


@each_backend
@pytest.mark.parametrize("batched", [True, False], ids=["batched", "unbatched"])
@pytest.mark.parametrize("name", CELLS)
def test_states_of_cells_are_changed_and_detached_in_place(name, batched, backend):
    cell = CELLS[name]()
    x = randn(B, I) if batched else randn(I)
    with use_backend(backend):
        for i, _ in enumerate(flat(cell(x))):
            for state in flat(cell(x)):
                assert not state._is_view()
                state.detach_()
            grads = []
            for in_place in (True, False):
                states = list(flat(cell(x)))
                if in_place:
                    states[i][0] = 0
                else:
                    keep = torch.ones_like(states[i])
                    keep[0] = 0
                    states[i] = states[i] * keep
                grads.append(gradients(sum(s.square().sum() for s in states), cell))
            for a, b in zip(*grads, strict=True):
                assert (a is None) == (b is None)
                if a is not None:
                    assert_close("gradient", a, b, "sequence")


def test_an_output_that_is_transposed_in_place_takes_no_copy():
    """The memory of the kernel's result is that of the output."""
    layer = ARUN(I, H, batch_first=True)
    output, _ = layer(torch.randn(B, T, I))
    assert output.shape == (B, T, H)
    assert output.stride() == (H, B * H, 1)


# ---- torch.fx and torch.jit


class Network(nn.Module):
    """Every module of the package, called as programs call them."""

    def __init__(self) -> None:
        super().__init__()
        self.act, self.arun = Gamma(), ARUN(I, H, batch_first=True, controller_size=G)
        self.static, self.adaptive = GammaRNN(H, H, 2, bidirectional=True), AdaptiveGamma(G)
        self.inner = nn.ModuleDict({"cell": ARUNCell(2 * H, H, controller_size=G), "static": GammaRNNCell(H, H)})
        self.register_buffer("drive", torch.linspace(0, 1, T))

    def forward(self, x: Tensor, h: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        output, (h_n, g_n) = self.arun(self.act(x), (h, g), drive=self.drive)
        output, state = self.static(output.transpose(0, 1), drive=0.5)
        h, g = self.inner["cell"](output[-1], (h_n[0], g_n[0]))
        h = self.inner["static"](h, state[-1])
        h, g = self.adaptive(h, g)
        _, _, trace = self.arun(x, return_trace=True)
        return h + trace[1][:, -1], g


def test_symbolic_trace_takes_them_for_leaves():
    """As torch.nn's own modules."""
    network = Network()
    traced = torch.fx.symbolic_trace(network)
    called = [str(node.target) for node in traced.graph.nodes if node.op == "call_module"]
    assert called == ["act", "arun", "static", "inner.cell", "inner.static", "adaptive", "arun"]
    for batch in (B, 1):
        given = torch.randn(batch, T, I), torch.randn(1, batch, H), torch.randn(1, batch, H, G)
        for a, b in zip(traced(*given), network(*given), strict=True):
            assert torch.equal(a, b)
    again = torch.fx.symbolic_trace(copy.deepcopy(traced))
    assert [node.op for node in again.graph.nodes] == [node.op for node in traced.graph.nodes]
    traced(*given)[0].sum().backward()
    assert network.arun.weight_gg_l0.grad is not None


def test_symbolic_trace_of_a_state_that_is_traced_and_an_input_that_is_not():
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = GammaRNN(I, H)
            self.register_buffer("x", torch.randn(T, B, I))

        def forward(self, h: Tensor) -> Tensor:
            return self.rnn(self.x, h)[0]

    model, h = Fixed(), torch.randn(1, B, H)
    assert torch.equal(torch.fx.symbolic_trace(model)(h), model(h))


@pytest.mark.parametrize("module", list(Network().children())[:4], ids=lambda module: type(module).__name__)
def test_symbolic_trace_of_the_module_itself(module):
    name = type(module).__name__
    with pytest.raises(TraceError, match=rf"^torch\.fx cannot trace {name} as the root, expected a module that cont"):
        torch.fx.symbolic_trace(module)


def test_symbolic_trace_of_a_module_that_is_not_installed():
    """The error of torch.nn's own modules."""

    def calls(module: nn.Module) -> Callable[[Tensor], Any]:
        return lambda x: module(x)

    for outside in (GammaRNN(I, H), nn.LSTM(I, H)):
        with pytest.raises(NameError, match="module is not installed as a submodule"):
            torch.fx.symbolic_trace(calls(outside))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", ["act", "arun", "static", "adaptive", "inner.cell", "inner.static"])
def test_script_is_refused(name):
    module = Network().get_submodule(name)
    sentence = rf"^torch\.jit\.script does not support {type(module).__name__}, use torch\.export\.export"
    for scripted in (module, nn.Sequential(nn.Identity(), module)):
        with pytest.raises(RuntimeError, match=sentence):
            torch.jit.script(scripted)
