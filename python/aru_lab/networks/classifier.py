"""The network around every recurrent one: an optional encoder, a recurrent part, and a linear read-out of h_T.

B sequences, T steps, I input features, H neurons, G controller units. A model is one entry of BUILDERS, named in
names.MODELS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from aru_kernels import ARUN, GammaRNN, constraints
from aru_kernels.init import henaff_orthogonal_
from aru_lab.arguments import check_choice
from aru_lab.errors import ConfigError
from aru_lab.networks.encoders import ConvEncoder
from aru_lab.networks.initial import NORMAL, SHARED, values_of
from aru_lab.networks.names import ADAPTABLE, MODELS, PARTS

# Parameters that determine n and s: n and s themselves in the gamma networks, the controller in the ARUN.
STATIC = ("gain_l0", "saturation_l0")
CONTROLLER = ("weight_ag_l0", "weight_gg_l0", "bias_g_l0", "weight_gc_l0", "bias_c_l0")


class SequenceClassifier(nn.Module):
    """logits = W h_T + b, where h_T is the last state of the recurrent part.

    Args:
        recurrent: a time-major ARUN, GammaRNN, torch.nn.RNN, LSTM or GRU of one layer and one direction.
        n_classes: number of logits.
        encoder: makes the recurrent part's sequences out of the input; None: they are the input.
    """

    def __init__(
        self,
        recurrent: nn.Module,
        n_classes: int,
        encoder: ConvEncoder | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.recurrent = recurrent
        self.readout = nn.Linear(recurrent.hidden_size, n_classes, device=device, dtype=dtype)

    @property
    def trial_shape(self) -> tuple[int, int]:
        """The smallest shape (T, I) of an input that the classifier can read."""
        return (1, self.recurrent.input_size) if self.encoder is None else self.encoder.trial_shape

    def n_steps(self, length: int) -> int:
        """T of the recurrent part for inputs of so many steps."""
        return length if self.encoder is None else self.encoder.n_steps(length)

    def forward(
        self,
        x: Tensor,
        drive: float | Tensor | None = None,
        contrast: Tensor | None = None,
        centre: Tensor | None = None,
        lengths: Tensor | None = None,
        every_step: bool = False,
        return_states: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The logits (B, n_classes) of the inputs x.

        Args:
            x: input, (B, T, I); with an encoder, what that reads. T below is what the recurrent part reads.
            drive: ξ, added to the pre-activation of every neuron: a number, a tensor (T,), or a 3-D tensor that
                broadcasts to (T, B, H), time first. For an LSTM or a GRU it is added to the pre-activation of the
                candidate (the tanh) and not to those of the gates.
            contrast: factor of what the recurrent part reads, where that is above 0: (T,) or (T, B).
            centre: for inputs that may be negative, (I,): the factor then multiplies the deviation of every input from
                this value; inputs whose centre is NaN stay as they are. None: it multiplies inputs above 0.
            lengths: steps of each sequence, int64 of shape (B,) on the CPU, without an encoder: the read-out is of its
                last real step, and later steps do not matter. None: all have T.
            every_step: whether to read out every step: the logits are then (B, T, n_classes), and need no lengths.
            return_states: whether to return the states (T, B, H) of the recurrent part after the logits.
        """
        if self.encoder is not None:
            x = self.encoder(x)
        x = x.transpose(0, 1)
        if contrast is not None:
            factor = contrast.to(x).reshape(len(x), -1, 1)
            if centre is None:
                x = torch.where(x > 0, x * factor, x)
            else:
                x = torch.where(centre.isnan(), x, centre + (x - centre) * factor)
        if every_step or return_states:
            states = self._states(x, drive)
            if every_step:
                outputs = self.readout(states).transpose(0, 1)
            else:
                outputs = self.readout(states[-1] if lengths is None else _at(states, lengths - 1))
            return (outputs, states) if return_states else outputs
        if lengths is not None:
            return self.readout(self._states_at(x, drive, lengths - 1))
        if isinstance(self.recurrent, nn.RNNBase):
            return self.readout(driven_rnn(self.recurrent, x, drive)[-1])
        # not the output's last step, whose gradient would be that of all steps
        _, last = self.recurrent(x, drive=drive)
        h_n = last[0] if isinstance(last, tuple) else last
        return self.readout(h_n[-1])

    def _states(self, x: Tensor, drive: float | Tensor | None) -> Tensor:
        """All states (T, B, H) of the recurrent part for its inputs (T, B, I)."""
        if isinstance(self.recurrent, nn.RNNBase):
            return driven_rnn(self.recurrent, x, drive)
        return self.recurrent(x, drive=drive)[0]

    def _states_at(self, x: Tensor, drive: float | Tensor | None, steps: Tensor) -> Tensor:
        """The states (B, H) at one step of each sequence, (B,); nothing is computed after the last of these."""
        n_steps = int(steps.max()) + 1
        if isinstance(drive, Tensor) and drive.dim() and len(drive) > 1:
            drive = drive[:n_steps]
        return _at(self._states(x[:n_steps], drive), steps)


def _at(states: Tensor, steps: Tensor) -> Tensor:
    """Of states (T, B, H) those at one step of each sequence, (B,): a tensor (B, H)."""
    return states[steps.to(states.device), torch.arange(states.shape[1], device=states.device)]


def driven_rnn(rnn: nn.RNN | nn.LSTM | nn.GRU, x: Tensor, drive: float | Tensor | None) -> Tensor:
    """All states (T, B, H) of torch's own RNN, LSTM or GRU under an external drive, from a zero initial state.

    torch's networks have no input for a drive. It is fed as further input channels with weight one: [x_t, ξ_t] times
    [W_ih, 1] is W_ih x_t + ξ_t. A drive of one value for all neurons takes one channel and a column of ones; one value
    a neuron takes H channels and the identity. In the stacked weights of LSTM (i, f, g, o) and GRU (r, z, n) the
    columns are zero except for the candidate, the third block in both.

    Args:
        rnn: one layer, one direction, time-major.
        x: input, (T, B, I).
        drive: None, a number, (T,), or 3-D and broadcastable to (T, B, H).
    """
    constrained = parametrize.is_parametrized(rnn, "weight_hh_l0")  # rnn itself would read V and not W
    if drive is None and not constrained:
        return rnn(x)[0]
    drive = 0.0 if drive is None else drive
    n_steps, batch, _ = x.shape
    drive = torch.as_tensor(drive, dtype=x.dtype, device=x.device)
    if drive.dim() < 2:
        drive = drive.reshape(-1, 1, 1)
    channels = drive.expand(n_steps, batch, drive.shape[-1])
    size = rnn.hidden_size
    column = x.new_ones(size, 1) if channels.shape[-1] == 1 else torch.eye(size, dtype=x.dtype, device=x.device)
    if not isinstance(rnn, nn.RNN):
        gates = rnn.weight_ih_l0.shape[0] // size
        column = torch.cat([column if gate == 2 else torch.zeros_like(column) for gate in range(gates)])
    weights = [torch.cat([rnn.weight_ih_l0, column], dim=1), rnn.weight_hh_l0, rnn.bias_ih_l0, rnn.bias_hh_l0]
    state = x.new_zeros(1, batch, size)
    kinds = {"RNN_TANH": torch.rnn_tanh, "RNN_RELU": torch.rnn_relu, "LSTM": torch.lstm, "GRU": torch.gru}
    return kinds[rnn.mode](
        torch.cat([x, channels], dim=2),
        (state, state) if rnn.mode == "LSTM" else state,
        weights,
        has_biases=True,
        num_layers=1,
        dropout=0.0,
        train=rnn.training,
        bidirectional=False,
        batch_first=False,
    )[0]


def _arun(input_size: int, hidden_size: int, controller_size: int, **factory: Any) -> nn.Module:
    return ARUN(input_size, hidden_size, controller_size=controller_size, **factory)


def _gamma_homogeneous(input_size: int, hidden_size: int, controller_size: int, **factory: Any) -> nn.Module:
    return GammaRNN(input_size, hidden_size, heterogeneous=False, **factory)


def _gamma_heterogeneous(input_size: int, hidden_size: int, controller_size: int, **factory: Any) -> nn.Module:
    return GammaRNN(input_size, hidden_size, heterogeneous=True, **factory)


def _relu(input_size: int, hidden_size: int, controller_size: int, **factory: Any) -> nn.Module:
    # Initialised like the main network of the ARUN (docs/maths.md, section 3), which the paper compares it with.
    rnn = nn.RNN(input_size, hidden_size, nonlinearity="relu", **factory)
    nn.init.kaiming_normal_(rnn.weight_ih_l0)
    henaff_orthogonal_(rnn.weight_hh_l0)
    nn.init.zeros_(rnn.bias_ih_l0)
    nn.init.zeros_(rnn.bias_hh_l0)
    return rnn


def _lstm(input_size: int, hidden_size: int, controller_size: int, **factory: Any) -> nn.Module:
    return nn.LSTM(input_size, hidden_size, **factory)


def _gru(input_size: int, hidden_size: int, controller_size: int, **factory: Any) -> nn.Module:
    return nn.GRU(input_size, hidden_size, **factory)


BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "arun": _arun,
    "gamma-homogeneous": _gamma_homogeneous,
    "gamma-heterogeneous": _gamma_heterogeneous,
    "relu": _relu,
    "lstm": _lstm,
    "gru": _gru,
}


def build_classifier(
    model: str,
    hidden_size: int,
    controller_size: int = 50,
    input_size: int = 1,
    n_classes: int = 10,
    encoder: str = "linear",
    device: Any = None,
    dtype: torch.dtype | None = None,
    leak: float | None = None,
) -> SequenceClassifier:
    """A freshly initialised classifier with the recurrent network named `model`, one of names.MODELS.

    Args:
        model: name of the recurrent network.
        hidden_size: H.
        controller_size: G; only the ARUN has a controller.
        input_size: I.
        n_classes: number of logits.
        encoder: "linear" or "conv"; for "conv", I must be 256.
        device: where the parameters live.
        dtype: their floating-point type.
        leak: α of an ARUN or a gamma network; other networks have none.

    Raises:
        ConfigError: an unknown name.
    """
    check_choice("model", model, MODELS)
    options = {"leak": leak} if model in ADAPTABLE else {}
    recurrent = BUILDERS[model](input_size, hidden_size, controller_size, device=device, dtype=dtype, **options)
    front = ConvEncoder(device=device, dtype=dtype) if encoder == "conv" else None
    return SequenceClassifier(recurrent, n_classes, front, device=device, dtype=dtype)


@torch.no_grad()
def set_gamma(classifier: SequenceClassifier, gain: str, saturation: str) -> None:
    """Give n and s of a gamma network their initial values; other networks stay as they are.

    Args:
        classifier: freshly initialised, so that its n are those of `initial.NORMAL`.
        gain, saturation: see `initial.check_initial`.

    Raises:
        ConfigError: the number of values is neither 1 nor that of the network's gains.
    """
    recurrent = classifier.recurrent
    if not isinstance(recurrent, GammaRNN):
        return
    for name, text, into in zip(
        ("initial_gain", "initial_saturation"), (gain, saturation), map(recurrent.get_parameter, STATIC), strict=True
    ):
        if text == SHARED:
            into.fill_(torch.empty((), dtype=into.dtype, device=into.device).uniform_(5, 7))
        elif text != NORMAL:
            values = values_of(text)
            if len(values) not in (1, len(into)):
                raise ConfigError(
                    f"{name}: got {len(values)} values, expected 1 or {len(into)}, as many as the network has."
                )
            into.copy_(torch.tensor(values, dtype=into.dtype, device=into.device).expand_as(into))


@torch.no_grad()
def draw_biases(classifier: SequenceClassifier) -> None:
    """Draw the biases of an RNN+ReLU or a gamma network as the two linear layers of the authors' code draw theirs."""
    recurrent = classifier.recurrent
    bounds = (recurrent.input_size**-0.5, recurrent.hidden_size**-0.5)
    if isinstance(recurrent, GammaRNN):
        draws = [torch.empty_like(recurrent.bias_l0).uniform_(-bound, bound) for bound in bounds]
        recurrent.bias_l0.copy_(sum(draws))
    elif isinstance(recurrent, nn.RNN):
        for bias, bound in zip((recurrent.bias_ih_l0, recurrent.bias_hh_l0), bounds, strict=True):
            bias.uniform_(-bound, bound)


@torch.no_grad()
def draw_lstm_weights(classifier: SequenceClassifier) -> None:
    """Draw the matrix (H, I+H) of each gate of an LSTM from Xavier's normal distribution; others stay as they are."""
    recurrent = classifier.recurrent
    if isinstance(recurrent, nn.LSTM):
        size = recurrent.hidden_size
        deviation = (2 / (recurrent.input_size + 2 * size)) ** 0.5
        for weight in (recurrent.weight_ih_l0, recurrent.weight_hh_l0):
            weight.normal_(0, deviation)


def constrain(classifier: SequenceClassifier, excitatory: float | None, sparsity: float) -> None:
    """Constrain W_hh: to a share of the connections, and to neurons that only excite or only inhibit.

    Args:
        classifier: freshly initialised, with a single matrix W_hh.
        excitatory: fraction of excitatory neurons, which are the first ones; None: weights of both signs. The matrix is
            drawn again, balanced, as `aru_kernels.constraints.dale` does.
        sparsity: fraction of the connections that do not exist.
    """
    if sparsity > 0:
        # the mask comes from torch's generator on the CPU, so that every device has the same
        constraints.sparse(classifier.recurrent, 1 - sparsity)
    if excitatory is not None:
        constraints.dale(classifier.recurrent, excitatory)


def parts(classifier: SequenceClassifier) -> dict[str, list[nn.Parameter]]:
    """The parameters by part, one list for each of names.PARTS; it is empty where the classifier lacks the part."""
    named = dict(classifier.recurrent.named_parameters())
    of_activation = set(named) & {*STATIC, *CONTROLLER}
    return {
        "activation": [named[name] for name in named if name in of_activation],
        "recurrent": [named[name] for name in named if name not in of_activation],
        "readout": list(classifier.readout.parameters()),
        "encoder": [] if classifier.encoder is None else list(classifier.encoder.parameters()),
    }


def freeze(classifier: SequenceClassifier, frozen: tuple[str, ...]) -> None:
    """Keep the parameters of the named parts (names.PARTS) as they are; batch normalisation still learns its averages.

    Raises:
        ConfigError: the classifier has no such part, or nothing is left to train.
    """
    of_part = parts(classifier)
    for part in frozen:
        if not of_part[part]:
            have = ", ".join(name for name in PARTS if of_part[name])
            raise ConfigError(f"freeze: got {part}, which this model does not have; expected parts of {have}.")
        for parameter in of_part[part]:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in classifier.parameters()):
        raise ConfigError(f"freeze: got {' '.join(frozen)}, expected to leave something to train.")


def count_parameters(module: nn.Module) -> int:
    """Number of trainable numbers in the module."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def match_hidden_size(
    model: str,
    n_parameters: int,
    controller_size: int = 50,
    input_size: int = 1,
    n_classes: int = 10,
    tolerance: float = 0.02,
) -> int:
    """The hidden size H whose classifier (read-out included, no encoder) has as nearly as possible `n_parameters`.

    Raises:
        ConfigError: an unknown model, or no H comes within `tolerance` (a fraction) of `n_parameters`.
    """

    def count(hidden_size: int) -> int:
        # The meta device gives shapes without memory or random numbers.
        return count_parameters(
            build_classifier(model, hidden_size, controller_size, input_size, n_classes, device="meta")
        )

    high = 1
    while count(high) < n_parameters:
        high *= 2
    low = max(1, high // 2)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) < n_parameters else (low, middle)
    best = min((low, high), key=lambda size: abs(count(size) - n_parameters))
    if abs(count(best) - n_parameters) > tolerance * n_parameters:
        raise ConfigError(
            f"n_parameters: got {n_parameters}, and the nearest that {model} can have is {count(best)} with a hidden "
            f"size of {best}, which is off by more than {tolerance:.0%}; expected a larger number of parameters."
        )
    return best
