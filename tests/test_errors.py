"""Bad input: which exception, and the sentence that names the argument, what came and what was expected."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

import aru_kernels.functional as F
from aru_kernels import ARUN, AdaptiveGamma, ARUNCell, Gamma, GammaRNN, GammaRNNCell, convert, init, use_backend

I, H, G, T, B = 3, 5, 4, 6, 2  # noqa: E741
META = torch.device("meta")


def zeros(*sizes: int, **kwargs) -> torch.Tensor:
    return torch.zeros(sizes, **kwargs)


def arun(*args, **options):
    return ARUN(I, H, controller_size=G, **options)(*args)


def controller(**changed) -> dict[str, torch.Tensor]:
    good = {
        "weight_ag": zeros(G),
        "weight_gg": zeros(G, G),
        "bias_g": zeros(G),
        "weight_gc": zeros(2, G),
        "bias_c": zeros(2),
    }
    return good | changed


def step(**changed):
    return F.controller_step(**({"a": zeros(B, H), "g": zeros(B, H, G)} | controller() | changed))


def sequence(**changed):
    good = {"xp": zeros(T, B, H), "h0": zeros(B, H), "g0": zeros(B, H, G), "weight_hh": zeros(H, H)}
    return F.aru_sequence(**(good | controller() | changed))


def static(**changed):
    good = {"xp": zeros(T, B, H), "h0": zeros(B, H), "weight_hh": zeros(H, H), "n": zeros(H), "s": zeros(1)}
    return F.gamma_rnn_sequence(**(good | changed))


def checkpoint(**changed) -> dict[str, torch.Tensor]:
    pairs = {"Uxh": (H, I), "Whh": (H, H), "Uag": (G, 1), "Wgg": (G, G), "Wgn": (1, G), "Wgs": (1, G)}
    good = {f"{k}.weight": zeros(*size) for k, size in pairs.items()}
    good |= {f"{k}.bias": zeros(size[0]) for k, size in pairs.items()}
    return good | {k.replace("_", "."): v for k, v in changed.items()}


TRACE = "return_trace must be a bool, got 'yes' of type str."
X, HX = zeros(T, B, I), (zeros(1, B, H), zeros(1, B, H, G))
DOUBLE = torch.float64

# (id, call, exception, sentence); the sentence is the whole of it, unless it ends in "..."
CASES = [
    # ---- input of the layers
    ("input", lambda: arun([1.0]), TypeError, "input must be a torch.Tensor, got list."),
    ("input", lambda: arun(X.long()), TypeError, "input has dtype torch.int64, expected a floating-point dtype."),
    ("input", lambda: arun(X.cfloat()), TypeError, "input has dtype torch.complex64, expected a floating-point dtype."),
    (
        "input",
        lambda: arun(X.double()),
        TypeError,
        "input has dtype torch.float64, expected torch.float32, the dtype of ...",
    ),
    ("input", lambda: arun(X.to_sparse()), TypeError, "input has layout torch.sparse_coo, expected torch.strided."),
    (
        "input",
        lambda: arun(torch.nested.nested_tensor([X[0], X[1]], layout=torch.jagged)),
        TypeError,
        "input is a nested tensor, expected a padded tensor or, in a layer, a PackedSequence.",
    ),
    ("input", lambda: arun(X.to(META)), ValueError, "input is on meta, expected cpu, the device of the parameters."),
    (
        "input",
        lambda: arun(X[0, 0]),
        ValueError,
        "input has shape (3,), expected (T, B, I), or (T, I) without a batch.",
    ),
    (
        "input",
        lambda: arun(zeros(1, 1, 1, I), batch_first=True),
        ValueError,
        "input has shape (1, 1, 1, 3), expected (B, T, I), or (T, I) without a batch.",
    ),
    (
        "input",
        lambda: arun(zeros(T, B, 4)),
        ValueError,
        "input has shape (6, 2, 4): 4 features, expected input_size = 3.",
    ),
    (
        "input",
        lambda: arun(zeros(0, B, I)),
        ValueError,
        "input has shape (0, 2, 3): no time step, expected at least one.",
    ),
    (
        "packed",
        lambda: arun(pack_sequence([zeros(2, 4)])),
        ValueError,
        "input.data has 4 features, expected input_size = 3.",
    ),
    (
        "packed",
        lambda: arun(pack_sequence([zeros(2, 1, I)])),
        ValueError,
        "input.data has shape (2, 1, 3), expected (rows, I), of sequences (T, I).",
    ),
    (
        "packed",
        lambda: arun(pack_sequence([zeros(2, I).int()])),
        TypeError,
        "input.data has dtype torch.int32, expected ...",
    ),
    # ---- states of the layers
    ("state", lambda: arun(X, zeros(1, B, H)), TypeError, "hx must be a tuple (h_0, g_0) of tensors, got Tensor."),
    ("state", lambda: arun(X, HX[:1]), TypeError, "hx must be a tuple (h_0, g_0) of tensors, got a tuple of 1."),
    ("state", lambda: arun(X, (HX[0], None)), TypeError, "g_0 must be a torch.Tensor, got NoneType."),
    (
        "state",
        lambda: arun(X, (zeros(1, 3, H), HX[1])),
        ValueError,
        "h_0 has shape (1, 3, 5), expected (D·L, B, H) = (1, 2, 5).",
    ),
    (
        "state",
        lambda: arun(X, (HX[0], zeros(1, B, H))),
        ValueError,
        "g_0 has shape (1, 2, 5), expected (D·L, B, H, G) = (1, 2, 5, 4).",
    ),
    (
        "state",
        lambda: arun(X[:, 0], (HX[0], HX[1])),
        ValueError,
        "h_0 has shape (1, 2, 5), expected (D·L, H) = (1, 5).",
    ),
    (
        "state",
        lambda: arun(X, HX, num_layers=2, bidirectional=True),
        ValueError,
        "h_0 has shape (1, 2, 5), expected (D·L, B, H) = (4, 2, 5).",
    ),
    (
        "state",
        lambda: arun(X, (HX[0].double(), HX[1])),
        TypeError,
        "h_0 has dtype torch.float64, expected torch.float32, ...",
    ),
    ("state", lambda: arun(X, (HX[0], HX[1].to(META))), ValueError, "g_0 is on meta, expected cpu, the device of ..."),
    ("state", lambda: GammaRNN(I, H)(X, HX), TypeError, "h_0 must be a torch.Tensor, got tuple."),
    # ---- the trace
    ("return_trace", lambda: arun(X, None, None, "yes"), TypeError, TRACE),
    ("return_trace", lambda: GammaRNN(I, H)(X, return_trace="yes"), TypeError, TRACE),
    ("return_trace", lambda: sequence(return_trace="yes"), TypeError, TRACE),
    ("return_trace", lambda: static(return_trace="yes"), TypeError, TRACE),
    # ---- drive of the layers
    (
        "drive",
        lambda: arun(X, None, np.zeros(784)),
        TypeError,
        "drive must be a number or a torch.Tensor, got array(...",
    ),
    ("drive", lambda: arun(X, None, "1"), TypeError, "drive must be a number or a torch.Tensor, got '1' of type str."),
    ("drive", lambda: arun(X, None, float("inf")), ValueError, "drive is inf, expected a finite number."),
    (
        "drive",
        lambda: arun(X, None, zeros(T).int()),
        TypeError,
        "drive has dtype torch.int32, expected a floating-point dtype.",
    ),
    (
        "drive",
        lambda: arun(X, None, zeros(T, device=META)),
        ValueError,
        "drive is on meta, expected cpu, the device of input.",
    ),
    (
        "drive",
        lambda: arun(X, None, zeros(B)),
        ValueError,
        "drive has shape (2,), expected a number, (T,) = (6,) or a shape that broadcasts to (T, B, H) = (6, 2, 5).",
    ),
    (
        "drive",
        lambda: arun(X.transpose(0, 1), None, zeros(T, B, H), batch_first=True),
        ValueError,
        "drive has shape (6, 2, 5), expected a number, (T,) = (6,) or a shape that broadcasts to (B, T, H) = "
        "(2, 6, 5).",
    ),
    (
        "drive",
        lambda: arun(X[:, 0], None, zeros(T, 1, H)),
        ValueError,
        "drive has shape (6, 1, 5), expected a number, (T,) = (6,) or a shape that broadcasts to (T, H) = (6, 5).",
    ),
    # ---- cells
    (
        "cell",
        lambda: ARUNCell(I, H, controller_size=G)(X),
        ValueError,
        "input has shape (6, 2, 3), expected (B, I), or (I,) without a batch.",
    ),
    (
        "cell",
        lambda: ARUNCell(I, H, controller_size=G)(zeros(B, 4)),
        ValueError,
        "input has shape (2, 4), expected (..., I) = (2, 3).",
    ),
    (
        "cell",
        lambda: GammaRNNCell(I, H)(X[0].double()),
        TypeError,
        "input has dtype torch.float64, expected torch.float32, ...",
    ),
    (
        "cell",
        lambda: ARUNCell(I, H, controller_size=G)(X[0], zeros(B, H)),
        TypeError,
        "hx must be a tuple (h, g) of tensors, got Tensor.",
    ),
    (
        "cell",
        lambda: ARUNCell(I, H, controller_size=G)(X[0], (zeros(B, H), zeros(B, H))),
        ValueError,
        "g has shape (2, 5), expected (B, H, G) = (2, 5, 4).",
    ),
    (
        "cell",
        lambda: GammaRNNCell(I, H)(X[0], zeros(1, B, H)),
        ValueError,
        "hx has shape (1, 2, 5), expected (B, H) = (2, 5).",
    ),
    (
        "cell",
        lambda: GammaRNNCell(I, H)(X[0, 0], zeros(B, H)),
        ValueError,
        "hx has shape (2, 5), expected (H,) = (5,).",
    ),
    (
        "cell",
        lambda: GammaRNNCell(I, H)(X[0], None, "a"),
        TypeError,
        "drive must be a number or a torch.Tensor, got 'a' of type str.",
    ),
    (
        "cell",
        lambda: GammaRNNCell(I, H)(X[0], None, zeros(4)),
        ValueError,
        "drive has shape (4,), expected a number or a shape that broadcasts to (2, 5).",
    ),
    (
        "cell",
        lambda: GammaRNNCell(I, H)(X[0], None, zeros(H, device=META)),
        ValueError,
        "drive is on meta, expected cpu, the device of input.",
    ),
    *(
        (
            "drive",
            lambda make=make: make(),
            ValueError,
            "drive is 1e+39, expected a number within torch.float32, from -3.40282e+38 to 3.40282e+38.",
        )
        for make in (lambda: arun(X, None, 1e39), lambda: GammaRNNCell(I, H)(X[0], None, 1e39))
    ),
    # ---- activations
    ("Gamma", lambda: Gamma()(3.0), TypeError, "input must be a torch.Tensor, got float."),
    (
        "Gamma",
        lambda: Gamma(4)(zeros(2, 3)),
        ValueError,
        "input has shape (2, 3), expected 4 (num_parameters) in dimension -1.",
    ),
    (
        "Gamma",
        lambda: Gamma(4, dim=2)(zeros(2, 4)),
        ValueError,
        "input has shape (2, 4), expected 4 (num_parameters) in ...",
    ),
    (
        "Gamma",
        lambda: Gamma()(zeros(2).double()),
        TypeError,
        "n has dtype torch.float32, expected torch.float64, the dtype of x.",
    ),
    ("AdaptiveGamma", lambda: AdaptiveGamma(G)(None), TypeError, "a must be a torch.Tensor, got NoneType."),
    (
        "AdaptiveGamma",
        lambda: AdaptiveGamma(G)(zeros(B, H), zeros(B, H)),
        ValueError,
        "g has shape (2, 5), expected (..., H, G), where a is (..., H), = (2, 5, 4).",
    ),
    # ---- functional
    ("F.gamma", lambda: F.gamma(1.0, 2.0, 0.0), TypeError, "x must be a torch.Tensor, got float."),
    ("F.gamma", lambda: F.gamma(X, "2", 0.0), TypeError, "n must be a number or a torch.Tensor, got '2' of type str."),
    ("F.gamma", lambda: F.gamma(X, 2.0, float("nan")), ValueError, "s is nan, expected a finite number."),
    (
        "F.gamma",
        lambda: F.gamma(X, zeros(I).int(), 0.0),
        TypeError,
        "n has dtype torch.int32, expected a floating-point dtype.",
    ),
    (
        "F.gamma",
        lambda: F.gamma(X, 1.0, zeros(I).half()),
        TypeError,
        "s has dtype torch.float16, expected torch.float32, ...",
    ),
    (
        "F.gamma",
        lambda: F.gamma(X, zeros(I, device=META), 0.0),
        ValueError,
        "n is on meta, expected cpu, the device of x.",
    ),
    (
        "F.gamma",
        lambda: F.gamma(X, zeros(4), zeros(I)),
        ValueError,
        "n and s have shapes (4,) and (3,), which do not broadcast with (6, 2, 3), the shape of x.",
    ),
    ("F.gamma", lambda: F.gamma(X, 1.0, 0.0, n_floor=0), ValueError, "n_floor is 0.0, expected a number above 0."),
    (
        "F.gamma",
        lambda: F.gamma(X, 1.0, 0.0, n_floor=10**400),
        ValueError,
        "n_floor is a number of more than 30 digits, expected a finite number.",
    ),
    *(
        (
            "F.gamma",
            lambda floor=floor: F.gamma(X, 1.0, 0.0, n_floor=floor),
            ValueError,
            f"n_floor is {floor}, expected a number from 1.2e-38 to 3.4e+38, ...",
        )
        for floor in (1e-40, 1e39)
    ),
    (
        "F.gamma",
        lambda: F.gamma(X, 1e39, 0.0),
        ValueError,
        "n is 1e+39, expected a number within torch.float32, from -3.40282e+38 to 3.40282e+38.",
    ),
    (
        "F.gamma",
        lambda: F.gamma(X.half(), 2.0, 1e5),
        ValueError,
        "s is 100000.0, expected a number within torch.float16, from -65504 to 65504.",
    ),
    ("step", lambda: step(a=None), TypeError, "a must be a torch.Tensor, got NoneType."),
    ("step", lambda: step(a=zeros()), ValueError, "a has shape (), expected (..., H)."),
    (
        "step",
        lambda: step(g=zeros(B, H)),
        ValueError,
        "g has shape (2, 5), expected (..., H, G), where a is (..., H), = ...",
    ),
    ("step", lambda: step(weight_ag=zeros(G, 1)), ValueError, "weight_ag has shape (4, 1), expected (G,)."),
    ("step", lambda: step(weight_gg=zeros(G, 5)), ValueError, "weight_gg has shape (4, 5), expected (G, G) = (4, 4)."),
    ("step", lambda: step(bias_g=zeros(1)), ValueError, "bias_g has shape (1,), expected (G,) = (4,)."),
    ("step", lambda: step(weight_gc=zeros(1, G)), ValueError, "weight_gc has shape (1, 4), expected (2, G) = (2, 4)."),
    ("step", lambda: step(bias_c=zeros(3)), ValueError, "bias_c has shape (3,), expected (2,) = (2,)."),
    (
        "step",
        lambda: step(bias_c=zeros(2).double()),
        TypeError,
        "bias_c has dtype torch.float64, expected torch.float32, ...",
    ),
    (
        "adaptive",
        lambda: F.adaptive_gamma(zeros(B, H), None, **controller()),
        TypeError,
        "g must be a torch.Tensor, got ...",
    ),
    ("sequence", lambda: sequence(xp=zeros(T, H)), ValueError, "xp has shape (6, 5), expected (T, B, H)."),
    (
        "sequence",
        lambda: sequence(xp=zeros(0, B, H)),
        ValueError,
        "xp has shape (0, 2, 5): no time step, expected at least ...",
    ),
    ("sequence", lambda: sequence(h0=zeros(H)), ValueError, "h0 has shape (5,), expected (B, H) = (2, 5)."),
    (
        "sequence",
        lambda: sequence(g0=zeros(B, H, 3)),
        ValueError,
        "g0 has shape (2, 5, 3), expected (B, H, G) = (2, 5, 4).",
    ),
    (
        "sequence",
        lambda: sequence(weight_hh=zeros(H, I)),
        ValueError,
        "weight_hh has shape (5, 3), expected (H, H) = (5, 5).",
    ),
    (
        "sequence",
        lambda: sequence(h0=zeros(B, H, dtype=DOUBLE)),
        TypeError,
        "h0 has dtype torch.float64, expected torch.float32, ...",
    ),
    (
        "sequence",
        lambda: sequence(g0=zeros(B, H, G, device=META)),
        ValueError,
        "g0 is on meta, expected cpu, the device of xp.",
    ),
    ("sequence", lambda: sequence(n_floor=-1.0), ValueError, "n_floor is -1.0, expected a number above 0."),
    ("static", lambda: static(n=zeros(2)), ValueError, "n has shape (2,), expected (), (1,) or (H,) = (5,)."),
    ("static", lambda: static(s=zeros(B, H)), ValueError, "s has shape (2, 5), expected (), (1,) or (H,) = (5,)."),
    ("static", lambda: static(n=5.0), TypeError, "n must be a torch.Tensor, got float."),
    ("static", lambda: static(weight_hh=None), TypeError, "weight_hh must be a torch.Tensor, got NoneType."),
    # ---- convert, init
    (
        "convert",
        lambda: convert.from_nonlinmod({"rnn.Uxh.weight": zeros(H, I)}),
        KeyError,
        "state_dict lacks Uxh.bias, Whh.weight, Whh.bias, Uag.weight, Uag.bias, Wgg.weight, Wgg.bias, Wgn.weight, "
        "Wgn.bias, Wgs.weight, Wgs.bias; it has rnn.Uxh.weight.",
    ),
    (
        "convert",
        lambda: convert.from_nonlinmod("model.pt"),
        TypeError,
        "state_dict must be a mapping of names to tensors, got str.",
    ),
    ("convert", lambda: convert.from_nonlinmod({}), KeyError, "state_dict lacks Uxh.weight, ..."),
    (
        "convert",
        lambda: convert.from_nonlinmod(checkpoint(Whh_weight=zeros(H, 4))),
        ValueError,
        "Whh.weight has shape (5, 4), expected with H = 5, I = 3, G = 4 = (5, 5).",
    ),
    (
        "convert",
        lambda: convert.from_nonlinmod(checkpoint(Uag_weight=zeros(G))),
        ValueError,
        "Uag.weight has shape (4,), ...",
    ),
    (
        "convert",
        lambda: convert.from_nonlinmod(checkpoint(Wgn_bias=3)),
        TypeError,
        "state_dict['Wgn.bias'] must be a torch.Tensor, ...",
    ),
    ("convert", lambda: convert.from_rnn(nn.GRU(I, H)), TypeError, "rnn must be a torch.nn.RNN, got GRU."),
    (
        "convert",
        lambda: convert.from_rnn(nn.RNN(I, H, nonlinearity="relu")),
        ValueError,
        "rnn has nonlinearity 'relu' and dropout 0.0, expected 'tanh' without dropout.",
    ),
    (
        "convert",
        lambda: convert.from_rnn(nn.RNN(I, H, 2, dropout=0.1)),
        ValueError,
        "rnn has nonlinearity 'tanh' and dropout 0.1, ...",
    ),
    (
        "init",
        lambda: init.henaff_orthogonal_(zeros(2, 3)),
        ValueError,
        "tensor must be a square matrix, got shape (2, 3).",
    ),
]


@pytest.mark.parametrize(
    ("call", "error", "sentence"), [case[1:] for case in CASES], ids=[f"{case[0]}{i}" for i, case in enumerate(CASES)]
)
def test_sentence(call, error, sentence):
    pattern = re.escape(sentence.removesuffix("...")) + ("" if sentence.endswith("...") else "$")
    quote = "^['\"]" if error is KeyError else "^"  # str(KeyError(text)) is quoted
    if error is KeyError:
        pattern = pattern.removesuffix("$")
    with pytest.raises(error, match=quote + pattern) as caught:
        call()
    assert caught.type is error


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ARUN(I, 10**400), "hidden_size is a number of more than 30 digits, expected an integer below 2**63."),
        (lambda: ARUN(I, 2**63), f"hidden_size is {2**63}, expected an integer below 2**63."),
        (lambda: ARUN(I, H, init="x" * 10**6), f"init is '{'x' * 96}..., expected 'paper' or 'uniform'."),
        (lambda: use_backend("x" * 10**6).__enter__(), f"backend is '{'x' * 96}..., expected one of auto, "),
    ],
)
def test_sentences_are_short(make, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
        make()


def test_state_dict_of_another_size_is_refused_by_torch():
    with pytest.raises(RuntimeError, match="size mismatch for weight_hh_l0"):
        ARUN(I, H, controller_size=G).load_state_dict(ARUN(I, 6, controller_size=G).state_dict())
