"""Constructors: torch.nn.LSTM's order, what is refused and in which words, names and shapes of the parameters."""

from __future__ import annotations

import inspect
import re

import pytest
import torch
from torch import nn

from aru_kernels import ARUN, AdaptiveGamma, ARUNCell, Gamma, GammaRNN, GammaRNNCell

I, H, G = 3, 5, 4  # noqa: E741
CONTROLLER = {"weight_ag": (G,), "weight_gg": (G, G), "bias_g": (G,), "weight_gc": (2, G), "bias_c": (2,)}

# (id, call, exception, sentence); the sentence is the whole of it, unless it ends in "..."
CASES = [
    ("sizes", lambda: ARUN(0, H), ValueError, "input_size is 0, expected an integer of at least 1."),
    ("sizes", lambda: ARUN(I, -5), ValueError, "hidden_size is -5, expected an integer of at least 1."),
    ("sizes", lambda: ARUN(I, 5.0), TypeError, "hidden_size must be an integer, got 5.0 of type float."),
    (
        "sizes",
        lambda: ARUN(I, H, controller_size=float("nan")),
        TypeError,
        "controller_size must be an integer, got nan of type float.",
    ),
    (
        "sizes",
        lambda: ARUN(I, H, controller_size=G, num_layers=0),
        ValueError,
        "num_layers is 0, expected an integer of at least 1.",
    ),
    (
        "sizes",
        lambda: ARUN(I, H, controller_size=G, num_layers=True),
        TypeError,
        "num_layers must be an integer, got True of type bool.",
    ),
    ("flags", lambda: GammaRNN(I, H, heterogeneous=2), TypeError, "heterogeneous must be a bool, got 2 of type int."),
    (
        "flags",
        lambda: ARUN(I, H, controller_size=G, batch_first=1),
        TypeError,
        "batch_first must be a bool, got 1 of type int.",
    ),
    (
        "flags",
        lambda: ARUN(I, H, controller_size=G, bidirectional=None),
        TypeError,
        "bidirectional must be a bool, got None of type ...",
    ),
    (
        "dropout",
        lambda: ARUN(I, H, 2, dropout=1.5),
        ValueError,
        "dropout is 1.5, expected a finite number of at least 0 and of at most 1.",
    ),
    ("dropout", lambda: GammaRNN(I, H, dropout="a"), TypeError, "dropout must be a number, got 'a' of type str."),
    (
        "n_floor",
        lambda: ARUN(I, H, controller_size=G, n_floor=0.0),
        ValueError,
        "n_floor is 0.0, expected a number above 0.",
    ),
    ("n_floor", lambda: Gamma(n_floor=-1), ValueError, "n_floor is -1.0, expected a number above 0."),
    (
        "n_floor",
        lambda: AdaptiveGamma(G, n_floor=float("inf")),
        ValueError,
        "n_floor is inf, expected a finite number.",
    ),
    (
        "n_floor",
        lambda: ARUNCell(I, H, n_floor=None),
        TypeError,
        "n_floor must be a number, got None of type NoneType.",
    ),
    (
        "cell",
        lambda: ARUNCell(I, H, controller_size=0),
        ValueError,
        "controller_size is 0, expected an integer of at least 1.",
    ),
    ("cell", lambda: GammaRNNCell(I, "5"), TypeError, "hidden_size must be an integer, got '5' of type str."),
    (
        "cell",
        lambda: GammaRNNCell(I, H, heterogeneous=1),
        TypeError,
        "heterogeneous must be a bool, got 1 of type int.",
    ),
    ("Gamma", lambda: Gamma(0), ValueError, "num_parameters is 0, expected an integer of at least 1."),
    ("Gamma", lambda: Gamma(gain="5"), TypeError, "gain must be a number, got '5' of type str."),
    ("Gamma", lambda: Gamma(saturation=float("nan")), ValueError, "saturation is nan, expected a finite number."),
    ("Gamma", lambda: Gamma(3, dim=1.0), TypeError, "dim must be an integer, got 1.0 of type float."),
    (
        "AdaptiveGamma",
        lambda: AdaptiveGamma(-1),
        ValueError,
        "controller_size is -1, expected an integer of at least 1.",
    ),
    # ---- the order of the arguments
    (
        "order",
        lambda: ARUN(1, 64, 16),
        ValueError,
        "num_layers is 16 by position, expected at most 8: write controller_size=16 for the controller, or "
        "num_layers=16 for as many layers.",
    ),
    ("order", lambda: ARUN(1, 64, 9, False), ValueError, "num_layers is 9 by position, expected at most 8: ..."),
    ("order", lambda: ARUN(1, 64, True), TypeError, "num_layers must be an integer, got True of type bool."),
    ("order", lambda: GammaRNN(I, H, False), TypeError, "num_layers must be an integer, got False of type bool."),
    (
        "order",
        lambda: GammaRNN(I, H, 1, "tanh"),
        TypeError,
        "GammaRNN has no argument nonlinearity, got 'tanh' by position, expected input_size, hidden_size, "
        "num_layers, bias, batch_first, dropout, bidirectional, proj_size.",
    ),
    (
        "order",
        lambda: ARUN(I, H, 1, "relu"),
        TypeError,
        "ARUN has no argument nonlinearity, got 'relu' by position, ...",
    ),
    ("order", lambda: GammaRNN(I, H, 1, 2), TypeError, "bias must be a bool, got 2 of type int."),
    ("order", lambda: GammaRNN(I, H, bias="relu"), TypeError, "bias must be a bool, got 'relu' of type str."),
    ("order", lambda: ARUN(I, H, 1, True, 0.5), TypeError, "batch_first must be a bool, got 0.5 of type float."),
    (
        "order",
        lambda: ARUNCell(I, H, 16),
        TypeError,
        "bias must be a bool, got 16: write controller_size=16 for the controller.",
    ),
    ("order", lambda: ARUNCell(I, H, 1), TypeError, "bias must be a bool, got 1: write controller_size=1 for the ..."),
    ("order", lambda: ARUNCell(I, H, None), TypeError, "bias must be a bool, got None of type NoneType."),
    (
        "order",
        lambda: GammaRNNCell(I, H, True, "relu"),
        TypeError,
        "GammaRNNCell has no argument nonlinearity, got 'relu' by position, expected input_size, hidden_size, bias.",
    ),
    ("order", lambda: GammaRNNCell(I, H, 1), TypeError, "bias must be a bool, got 1 of type int."),
    ("proj_size", lambda: ARUN(I, H, proj_size=2), ValueError, "proj_size is 2, expected 0: ARUN does not project ..."),
    (
        "proj_size",
        lambda: GammaRNN(I, H, 1, True, False, 0.0, False, -1),
        ValueError,
        "proj_size is -1, expected 0: ...",
    ),
    (
        "dtype",
        lambda: ARUN(I, H, dtype="float32"),
        TypeError,
        "dtype must be a torch.dtype, got 'float32' of type str.",
    ),
    (
        "dtype",
        lambda: GammaRNNCell(I, H, dtype=torch.int64),
        TypeError,
        "dtype is torch.int64, expected a floating-...",
    ),
    ("dtype", lambda: Gamma(3, dtype=torch.complex64), TypeError, "dtype is torch.complex64, expected a floating-..."),
    ("proj_size", lambda: ARUN(I, H, proj_size="2"), TypeError, "proj_size must be an integer, got '2' of type str."),
]


@pytest.mark.parametrize(
    ("call", "error", "sentence"), [case[1:] for case in CASES], ids=[f"{case[0]}{i}" for i, case in enumerate(CASES)]
)
def test_sentence(call, error, sentence):
    pattern = re.escape(sentence.removesuffix("...")) + ("" if sentence.endswith("...") else "$")
    with pytest.raises(error, match="^" + pattern) as caught:
        call()
    assert caught.type is error


def test_signatures():
    """The public interface, as README.md lists it."""
    lstm = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False, "proj_size": 0}
    tail = {"n_floor": 1e-3, "device": None, "dtype": None}
    recurrent = tail | {"init": "paper", "leak": None, "train_leak": False}
    expected = {
        ARUN: lstm | {"controller_size": 16} | recurrent,
        ARUNCell: {"bias": True, "controller_size": 16} | recurrent,
        GammaRNN: lstm | {"heterogeneous": True} | recurrent,
        GammaRNNCell: {"bias": True, "heterogeneous": True} | recurrent,
        Gamma: {"num_parameters": 1, "gain": 5.0, "saturation": 0.0, "dim": -1} | tail,
        AdaptiveGamma: {"controller_size": 16} | tail,
    }
    for cls, peer in ((ARUN, nn.LSTM), (ARUNCell, nn.LSTMCell), (GammaRNN, nn.LSTM), (GammaRNNCell, nn.LSTMCell)):
        parameters = inspect.signature(cls).parameters.values()
        positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        # torch.nn.LSTM itself is declared as (*args, **kwargs)
        theirs = inspect.getfullargspec(nn.LSTMCell.__init__).args[1:4]
        assert positional == (theirs if peer is nn.LSTMCell else ["input_size", "hidden_size", *lstm]), cls
    for cls, defaults in expected.items():
        parameters = inspect.signature(cls).parameters.values()
        assert {p.name: p.default for p in parameters if p.default is not p.empty} == defaults, cls
        required = [p.name for p in parameters if p.default is p.empty]
        assert required == ([] if cls in (Gamma, AdaptiveGamma) else ["input_size", "hidden_size"]), cls
    for cls in (ARUN, GammaRNN):
        assert list(inspect.signature(cls.forward).parameters) == ["self", "input", "hx", "drive", "return_trace"]
    for cls in (ARUNCell, GammaRNNCell):
        assert list(inspect.signature(cls.forward).parameters) == ["self", "input", "hx", "drive"]


def test_state_dict_names_and_shapes():
    """docs/maths.md, section 3; layers and directions as in torch.nn.RNN, in its order."""

    def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
        return {name: tuple(value.shape) for name, value in module.state_dict().items()}

    main = {"weight_ih": (H, I), "weight_hh": (H, H), "bias": (H,)}
    assert shapes(ARUNCell(I, H, controller_size=G)) == main | CONTROLLER
    assert shapes(AdaptiveGamma(G)) == CONTROLLER
    assert shapes(GammaRNNCell(I, H)) == main | {"gain": (H,), "saturation": (H,)}
    assert shapes(GammaRNNCell(I, H, heterogeneous=False)) == main | {"gain": (1,), "saturation": (1,)}
    assert shapes(Gamma(7)) == {"gain": (7,), "saturation": (7,)}

    expected = {}
    for suffix, inputs in (("_l0", I), ("_l0_reverse", I), ("_l1", 2 * H), ("_l1_reverse", 2 * H)):
        expected |= {name + suffix: size for name, size in (main | {"weight_ih": (H, inputs)} | CONTROLLER).items()}
    actual = shapes(ARUN(I, H, controller_size=G, num_layers=2, bidirectional=True))
    assert actual == expected
    assert list(actual) == list(expected)
    assert "gain_l1" in shapes(GammaRNN(I, H, num_layers=2))


def test_parameter_count_of_the_paper():
    layer = ARUN(1, 400, controller_size=50)
    assert sum(p.numel() for p in layer.parameters()) == 400 + 400**2 + 400 + (50 + 50**2 + 50 + 2 * 50 + 2)


def test_repr_names_what_differs_from_the_defaults():
    assert repr(ARUN(3, 5, controller_size=4, num_layers=2, batch_first=True)) == (
        "ARUN(3, 5, num_layers=2, batch_first=True, controller_size=4)"
    )
    assert repr(GammaRNN(3, 5)) == "GammaRNN(3, 5, heterogeneous=True)"
    assert repr(ARUNCell(3, 5, controller_size=4)) == "ARUNCell(3, 5, controller_size=4)"
    assert repr(GammaRNNCell(3, 5)) == "GammaRNNCell(3, 5, heterogeneous=True)"
    assert repr(Gamma(3)) == "Gamma(num_parameters=3)"
    assert repr(AdaptiveGamma(3)) == "AdaptiveGamma(controller_size=3)"
