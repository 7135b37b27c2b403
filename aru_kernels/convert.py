"""Models of other code as layers of this package."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from aru_kernels import _checks as check
from aru_kernels.modules import ARUN, GammaRNN

__all__ = ["from_nonlinmod", "from_rnn"]

_NONLINMOD_KEYS = (
    *("Uxh.weight", "Uxh.bias", "Whh.weight", "Whh.bias", "Uag.weight", "Uag.bias", "Wgg.weight", "Wgg.bias"),
    *("Wgn.weight", "Wgn.bias", "Wgs.weight", "Wgs.bias"),
)


def from_nonlinmod(state_dict: Mapping[str, Tensor]) -> ARUN:
    """Makes an `ARUN` of a checkpoint that the paper authors' code wrote.

    Their code has two biases where their sum acts; the sum is taken.  It also replaces softplus(z) by z above z = 20,
    where values agree to about 1e-10.  For n < 0 and n x > 20 it returns -x where the function is x; that error is not
    reproduced.

    Args:
        state_dict: the state dict of their model.  Keys may carry the prefix "rnn.".  Other keys, such as those of a
            read-out, are ignored.

    Returns:
        An `ARUN` of one layer, with the dtype and device of the weights.

    Raises:
        KeyError: if weights are missing, whose names it gives.
        TypeError: if `state_dict` is not a mapping, or a value in it not a floating-point tensor.
        ValueError: if the shape of a weight does not fit the others.

    Source: https://github.com/vgeadah/NonlinMod

    Examples:
        >>> shapes = {"Uxh.weight": (8, 1), "Uxh.bias": (8,), "Whh.weight": (8, 8), "Whh.bias": (8,)}
        >>> shapes |= {"Uag.weight": (4, 1), "Uag.bias": (4,), "Wgg.weight": (4, 4), "Wgg.bias": (4,)}
        >>> shapes |= {"Wgn.weight": (1, 4), "Wgn.bias": (1,), "Wgs.weight": (1, 4), "Wgs.bias": (1,)}
        >>> from_nonlinmod({f"rnn.{name}": torch.randn(shape) for name, shape in shapes.items()})
        ARUN(1, 8, controller_size=4)
    """
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"state_dict must be a mapping of names to tensors, got {type(state_dict).__name__}.")
    weights = {key.removeprefix("rnn."): value for key, value in state_dict.items()}
    missing = [key for key in _NONLINMOD_KEYS if key not in weights]
    if missing:
        raise KeyError(f"state_dict lacks {', '.join(missing)}; it has {', '.join(state_dict) or 'no entries'}.")
    w = {key: check.tensor(f"state_dict[{key!r}]", weights[key]).detach() for key in _NONLINMOD_KEYS}
    check.rank("Uxh.weight", w["Uxh.weight"], "(H, I)", 2)
    check.rank("Uag.weight", w["Uag.weight"], "(G, 1)", 2)
    (H, I), G = w["Uxh.weight"].shape, w["Uag.weight"].shape[0]  # noqa: E741
    expected = dict(
        zip(_NONLINMOD_KEYS, ((H, I), (H,), (H, H), (H,), (G, 1), (G,), (G, G), (G,)) + ((1, G), (1,)) * 2, strict=True)
    )
    for key, sizes in expected.items():
        check.shape(key, w[key], f"with H = {H}, I = {I}, G = {G}", sizes)
    layer = ARUN(I, H, controller_size=G, device=w["Uxh.weight"].device, dtype=w["Uxh.weight"].dtype)
    layer.load_state_dict(
        {
            "weight_ih_l0": w["Uxh.weight"],
            "weight_hh_l0": w["Whh.weight"],
            "bias_l0": w["Uxh.bias"] + w["Whh.bias"],
            "weight_ag_l0": w["Uag.weight"][:, 0],
            "weight_gg_l0": w["Wgg.weight"],
            "bias_g_l0": w["Uag.bias"] + w["Wgg.bias"],
            "weight_gc_l0": torch.cat([w["Wgn.weight"], w["Wgs.weight"]]),
            "bias_c_l0": torch.cat([w["Wgn.bias"], w["Wgs.bias"]]),
        }
    )
    return layer


@torch.no_grad()
def from_rnn(rnn: nn.RNN) -> GammaRNN:
    r"""Makes a `GammaRNN` that computes what a `torch.nn.RNN` with tanh computes.

    With n = 2 and s = 1, γ is

    .. math::
        \gamma(x) = \sigma(2 x) = \frac{1 + \tanh x}{2}

    so that states and outputs are mapped to (1 + h) / 2: if `output, h_n = from_rnn(rnn)(x, (h_0 + 1) / 2)`, then
    `rnn(x, h_0)` is `(2 * output - 1, 2 * h_n - 1)`.  The default h_0 of the `torch.nn.RNN`, zeros, is 0.5 here.

    Args:
        rnn: the network, with nonlinearity="tanh" and without dropout, whose zeros the map would move.

    Returns:
        A `GammaRNN` with one pair (n, s) in each layer, and the sizes, options, dtype and device of `rnn`.

    Raises:
        TypeError: if `rnn` is not a `torch.nn.RNN`.
        ValueError: if `rnn` has another nonlinearity or dropout.

    Examples:
        >>> rnn, x = nn.RNN(3, 8), torch.randn(6, 2, 3)
        >>> output, h_n = from_rnn(rnn)(x, torch.full((1, 2, 8), 0.5))
        >>> torch.allclose(2 * output - 1, rnn(x)[0], atol=1e-5)
        True
    """
    if not isinstance(rnn, nn.RNN):
        raise TypeError(f"rnn must be a torch.nn.RNN, got {type(rnn).__name__}.")
    if rnn.nonlinearity != "tanh" or rnn.dropout:
        raise ValueError(
            f"rnn has nonlinearity {rnn.nonlinearity!r} and dropout {rnn.dropout}, expected 'tanh' without dropout."
        )
    first = rnn.weight_ih_l0
    layer = GammaRNN(
        rnn.input_size,
        rnn.hidden_size,
        heterogeneous=False,
        num_layers=rnn.num_layers,
        batch_first=rnn.batch_first,
        bidirectional=rnn.bidirectional,
        device=first.device,
        dtype=first.dtype,
    )
    state = layer.state_dict()
    for name in [name for name in state if name.startswith("weight_ih")]:
        suffix = name.removeprefix("weight_ih")
        weight_ih, weight_hh = getattr(rnn, f"weight_ih{suffix}"), getattr(rnn, f"weight_hh{suffix}")
        bias = -weight_hh.sum(1)
        if rnn.bias:
            bias = bias + getattr(rnn, f"bias_ih{suffix}") + getattr(rnn, f"bias_hh{suffix}")
        if not suffix.startswith("_l0"):  # its input is the mapped output of the layer below
            bias = bias - weight_ih.sum(1)
            weight_ih = 2 * weight_ih
        state[f"weight_ih{suffix}"], state[f"weight_hh{suffix}"], state[f"bias{suffix}"] = (
            weight_ih,
            2 * weight_hh,
            bias,
        )
        state[f"gain{suffix}"].fill_(2)
        state[f"saturation{suffix}"].fill_(1)
    layer.load_state_dict(state)
    return layer
