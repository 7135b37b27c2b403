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

from aru_lab.analysis.network import recurrent_weight
from aru_lab.analysis.parts import Part, Report
from aru_lab.analysis.settings import Settings
from aru_lab.data.tasks import is_data_file
from aru_lab.errors import ConfigError
from aru_lab.networks.classifier import SequenceClassifier, driven_rnn
from aru_lab.networks.perturbations import rescale
from aru_lab.runs.analyses import Result, Run, Table
from aru_lab.runs.evaluation import task_of
from aru_lab.runs.losses import loss_of

STRIDE = 28  # steps of the 784-step task between two positions at which the paper's claims are judged
_AT_ONCE = 100  # sequences read at once


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


@dataclass(frozen=True)
class GradientTerms:
    """The terms whose norms `GradientNorms` holds; terms of several groups of sequences can be added.

    terms (T, H, H): da_t h_{t-1}^T summed over sequences, of the network's dtype; state (T,): squared norms of da_t;
    loss; n: sequences that the loss is the mean over.
    """

    terms: Tensor
    state: Tensor
    loss: float
    n: int

    def __add__(self, other: GradientTerms) -> GradientTerms:
        """The terms of the mean loss over the sequences of both."""
        n = self.n + other.n
        a, b = self.n / n, other.n / n
        return GradientTerms(
            self.terms * a + other.terms * b,
            self.state * a**2 + other.state * b**2,
            self.loss * a + other.loss * b,
            n,
        )

    def norms(self) -> GradientNorms:
        """The norms by position."""
        total = torch.zeros(self.terms.shape[1:], dtype=torch.float64, device=self.terms.device)
        accumulated, each = np.empty(len(self.terms)), np.empty(len(self.terms))
        for t in reversed(range(len(self.terms))):
            term = self.terms[t].double()
            total += term
            accumulated[t], each[t] = total.norm().item(), term.norm().item()
        return GradientNorms(accumulated, each, self.state.sqrt().cpu().numpy(), self.loss)


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
    return gradient_terms(network, x, loss).norms()


def gradient_terms(network: nn.Module, x: Any, loss: Callable[[Tensor], Tensor]) -> GradientTerms:
    """The terms of the gradient for W_hh by position; arguments and errors as in `gradient_norms`."""
    recurrent_weight(network)  # one matrix, of one layer and direction
    if network.batch_first:
        raise ConfigError("network: got batch_first=True, expected a network that takes (T, B, I).")
    x = torch.as_tensor(x).to(network.weight_hh_l0)
    if x.dim() != 3 or x.shape[2] != network.input_size:
        raise ConfigError(f"x: got shape {tuple(x.shape)}, expected (T, B, {network.input_size}).")
    drive = x.new_zeros(*x.shape[:2], network.hidden_size, requires_grad=True)
    with torch.enable_grad():
        h = driven_rnn(network, x, drive) if isinstance(network, nn.RNN) else network(x, drive=drive)[0]
        value = loss(h)
        if not value.requires_grad:
            raise ConfigError("loss: got a value that does not depend on the states, expected one that does.")
        (da,) = torch.autograd.grad(value, drive)
    before = torch.cat([torch.zeros_like(h[:1]), h[:-1].detach()])
    return GradientTerms(da.mT @ before, da.double().flatten(1).square().sum(1), value.item(), x.shape[1])


def _refusal(run: Run) -> str | None:
    task = task_of(run.config)
    if task.target.every_step or (is_data_file(run.config.task) and run.test.lengths is not None):
        return "has several lengths or a target at every step, expected one target at step T."
    return None


def analyse_gradients(run: Run, settings: Settings, report: Report) -> Result:
    """Norm of the gradient for W_hh on training examples, accumulated from each position, before and after training."""
    arrays, rows = {}, []
    for done, (when, model) in enumerate((("before", run.initial_model), ("after", run.model))):
        x, y = run.sequences(settings.examples, model, "train")
        middle = (x.shape[1] + 1) // 2
        halves = [_mean_terms(model, x[:, part], y[part]) for part in (slice(middle), slice(middle, None))]
        for half in halves:
            arrays.setdefault(f"accumulated_halves_{when}", []).append(half.norms().accumulated)
        found = (halves[0] + halves[1]).norms()
        arrays |= {f"{name}_{when}": getattr(found, name) for name in ("accumulated", "each", "state")}
        arrays[f"loss_{when}"] = np.array(found.loss)
        rows += [
            (when, t, *values) for t, values in enumerate(zip(found.accumulated, found.each, found.state, strict=True))
        ]
        report(done + 1, 2)
    n_steps = len(arrays["each_after"])
    stride = max(1, rescale(STRIDE, n_steps))
    after = arrays["each_after"]
    return Result(
        {name: np.asarray(values) for name, values in arrays.items()} | {"positions": np.arange(0, n_steps, stride)},
        {"gradients": Table(("training", "position", "accumulated", "each", "state"), rows)},
        f"norm of the whole gradient {arrays['accumulated_after'][0]:.3g}, of the last step's term {after[-1]:.3g}",
    )


def _mean_terms(model: SequenceClassifier, x: Tensor, y: Tensor) -> GradientTerms:
    """The terms of the mean loss over all sequences, some at a time."""
    total: GradientTerms | None = None
    for part, target in zip(x.split(_AT_ONCE, dim=1), y.split(_AT_ONCE), strict=True):
        terms = gradient_terms(model.recurrent, part, lambda h, target=target: loss_of(model.readout(h[-1]), target))
        total = terms if total is None else total + terms
    return total


PART = Part(analyse_gradients, ("examples",), suits="single", refuses=_refusal)
