"""Gradient norms by position against autograd of truncated sequences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aru_kernels import ARUN, GammaRNN
from aru_lab.analysis.gradients import gradient_norms, gradient_terms
from aru_lab.errors import ConfigError

T, B, H = 9, 4, 5
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "arun": lambda: ARUN(2, H, controller_size=3, dtype=torch.float64),
    "gamma": lambda: GammaRNN(2, H, dtype=torch.float64),
    "relu": lambda: nn.RNN(2, H, nonlinearity="relu", dtype=torch.float64),
    "tanh": lambda: nn.RNN(2, H, dtype=torch.float64),
}


def loss(h: Tensor) -> Tensor:
    return (h[-1] * torch.linspace(-1, 2, H, dtype=h.dtype)).square().sum()


@pytest.mark.parametrize("name", NETWORKS)
def test_accumulated_gradient_is_that_of_the_truncated_sequence(name: str) -> None:
    network = NETWORKS[name]()
    x = torch.randn(T, B, 2, dtype=torch.float64)
    found = gradient_norms(network, x, loss)
    for position in (0, 1, 5, T - 1):
        state = None
        if position:
            with torch.no_grad():
                _, state = network(x[:position])
        value = loss(network(x[position:], state)[0])
        (gradient,) = torch.autograd.grad(value, network.weight_hh_l0)
        assert found.accumulated[position] == pytest.approx(gradient.norm().item(), rel=1e-10)
        assert found.loss == pytest.approx(value.item(), rel=1e-12)
    assert found.each[T - 1] == pytest.approx(found.accumulated[T - 1], rel=1e-12)


def test_terms_of_a_linear_chain() -> None:
    # One tanh neuron near 0 is linear: h_t = w h_{t-1} + x_t, loss h_T, so da_t = w^(T-1-t).
    network = nn.RNN(1, 1, dtype=torch.float64)
    with torch.no_grad():
        network.weight_hh_l0.fill_(0.5)
        network.weight_ih_l0.fill_(1.0)
        network.bias_ih_l0.zero_()
        network.bias_hh_l0.zero_()
    x = torch.zeros(6, 1, 1, dtype=torch.float64)
    x[0] = 1e-6
    found = gradient_norms(network, x, lambda h: h[-1].sum())
    np.testing.assert_allclose(found.state, 0.5 ** np.arange(5, -1, -1), rtol=1e-9)
    h_before = np.array([0, *(1e-6 * 0.5 ** np.arange(5))])
    np.testing.assert_allclose(found.each, found.state * h_before, rtol=1e-9)
    np.testing.assert_allclose(found.accumulated, np.cumsum((found.state * h_before)[::-1])[::-1], rtol=1e-9)


def test_terms_of_parts_add_to_those_of_all() -> None:
    network = NETWORKS["gamma"]()
    x = torch.randn(T, B, 2, dtype=torch.float64)

    def mean_loss(h: Tensor) -> Tensor:
        return h[-1].square().sum(1).mean()

    parts = gradient_terms(network, x[:, :1], mean_loss) + gradient_terms(network, x[:, 1:], mean_loss)
    found, expected = parts.norms(), gradient_norms(network, x, mean_loss)
    assert parts.n == B
    assert found.loss == pytest.approx(expected.loss)
    for name in ("accumulated", "each", "state"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-12)


def test_parameters_get_no_gradient() -> None:
    network = NETWORKS["arun"]()
    gradient_norms(network, torch.randn(T, B, 2), loss)
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("network", "arguments", "sentence"),
    [
        (nn.LSTM(2, H), {}, "network: got an LSTM, expected an ARUN or a GammaRNN"),
        (nn.RNN(2, H, num_layers=2), {}, "network: got more than one layer or direction"),
        (GammaRNN(2, H, batch_first=True), {}, "network: got batch_first=True"),
        (GammaRNN(2, H), {"x": torch.zeros(T, B, 3)}, r"x: got shape \(9, 4, 3\), expected \(T, B, 2\)"),
        (GammaRNN(2, H), {"x": torch.zeros(T, 2)}, r"x: got shape \(9, 2\), expected \(T, B, 2\)"),
        (GammaRNN(2, H), {"loss": lambda h: torch.zeros(())}, "loss: got a value that does not depend on the states"),
    ],
    ids=["lstm", "layers", "batch-first", "features", "unbatched", "loss"],
)
def test_refusals(network: nn.Module, arguments: dict, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        gradient_norms(network, **({"x": torch.zeros(T, B, 2), "loss": loss} | arguments))
