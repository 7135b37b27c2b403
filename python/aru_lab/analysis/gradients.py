"""How far back in time the loss reaches the recurrent weights: norm of W_hh's gradient against the position.

With da_t the gradient of the loss for the pre-activation at t, dW_hh = Σ_t da_t h_{t-1}^T; accumulated from position p
to the end of the sequence it is the sum over t >= p. da_t is the gradient for an external drive ξ_t of zero, so
that any backend serves. Source: Geadah et al. 2024; notation of the backward pass as in `aru_kernels`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aru_lab.analysis.network import check_network
from aru_lab.analysis.parts import Part, Report
from aru_lab.analysis.settings import Settings
from aru_lab.errors import ConfigError
from aru_lab.networks.classifier import driven_rnn
from aru_lab.runs.analyses import Result, Run, Table
from aru_lab.runs.losses import loss_of


@dataclass(frozen=True)
class GradientNorms:
    """Frobenius norms of the gradient of the loss for W_hh, by position t of the sequence.

    accumulated (T,): of the gradient summed from position t to the end; [0] is that of the whole gradient, [T-1] that
    of the last step. each (T,): of the term of position t. state (T,): of the gradient for the pre-activation at
    t, over batch and neurons. loss: the loss.
    """

    accumulated: np.ndarray
    each: np.ndarray
    state: np.ndarray
    loss: float


def gradient_norms(network: nn.Module, x: Any, loss: Callable[[Tensor], Tensor]) -> GradientNorms:
    """Norms of the gradient for W_hh, accumulated from each position to the end of the sequence.

    Args:
        network: ARUN, GammaRNN or torch.nn.RNN of one layer, time first. An LSTM or GRU has a matrix for every gate.
        x: (T, B, I), inputs.
        loss: from all states h (T, B, H) to a scalar, for example
            `lambda h: F.cross_entropy(readout(h[-1]), labels)`.

    Raises:
        ConfigError: another kind of network, x of another shape, or a loss that does not depend on the states.
    """
    plain = type(network) is nn.RNN
    if not plain:
        check_network(network)
    elif network.num_layers != 1 or network.bidirectional:
        raise ConfigError("network: got more than one layer or direction, expected one.")
    if network.batch_first:
        raise ConfigError("network: got batch_first=True, expected a network that takes (T, B, I).")
    weight = network.weight_hh_l0
    x = torch.as_tensor(x).to(weight)
    if x.dim() != 3 or x.shape[2] != network.input_size:
        raise ConfigError(f"x: got shape {tuple(x.shape)}, expected (T, B, {network.input_size}).")
    drive = x.new_zeros(*x.shape[:2], network.hidden_size, requires_grad=True)
    with torch.enable_grad():
        h = driven_rnn(network, x, drive) if plain else network(x, drive=drive)[0]
        value = loss(h)
        if not value.requires_grad:
            raise ConfigError("loss: got a value that does not depend on the states, expected one that does.")
        (da,) = torch.autograd.grad(value, drive)
    before = torch.cat([torch.zeros_like(h[:1]), h[:-1].detach()]).double()
    total = torch.zeros(weight.shape, dtype=torch.float64, device=weight.device)
    accumulated, each = np.empty(len(x)), np.empty(len(x))
    for t in reversed(range(len(x))):
        term = da[t].double().T @ before[t]
        total += term
        accumulated[t], each[t] = total.norm().item(), term.norm().item()
    return GradientNorms(accumulated, each, da.double().flatten(1).norm(dim=1).cpu().numpy(), value.item())


def analyse_gradients(run: Run, settings: Settings, report: Report) -> Result:
    """Norm of the gradient for W_hh, accumulated from each position, before and after training."""
    if run.test.lengths is not None or run.test.mask is not None:
        raise ConfigError("gradients: got several lengths or a target at every step, expected one target at step T.")
    arrays, rows = {}, []
    for done, (when, model) in enumerate((("before", run.initial_model), ("after", run.model))):
        x, y = run.sequences(settings.sequences, model)
        found = gradient_norms(model.recurrent, x, lambda h, model=model, y=y: loss_of(model.readout(h[-1]), y))
        arrays |= {f"{name}_{when}": getattr(found, name) for name in ("accumulated", "each", "state")}
        rows += [
            (when, t, *values) for t, values in enumerate(zip(found.accumulated, found.each, found.state, strict=True))
        ]
        report(done + 1, 2)
    reach = {when: arrays[f"each_{when}"] for when in ("before", "after")}
    return Result(
        arrays,
        {"gradients": Table(("training", "position", "accumulated", "each", "state"), rows)},
        f"norm of the whole gradient {arrays['accumulated_after'][0]:.3g}, of the last step's term "
        f"{reach['after'][-1]:.3g}",
    )


PART = Part(analyse_gradients, ("sequences",), suits="single")
