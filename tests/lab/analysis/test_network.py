"""What is read from a network, and γ's derivatives."""

from __future__ import annotations

import pytest
import torch

from aru_kernels import ARUN, GammaRNN, reference
from aru_lab.analysis.network import gamma_derivatives, gamma_slope, layer_of
from aru_lab.errors import ConfigError


def test_layer_is_a_detached_copy_in_float64() -> None:
    network = ARUN(2, 4, controller_size=3)
    layer = layer_of(network)
    assert (layer.hidden_size, layer.controller_size) == (4, 3)
    assert layer.weight_hh.dtype == torch.float64
    with torch.no_grad():
        network.weight_hh_l0.zero_()
    assert layer.weight_hh.any()
    double = GammaRNN(1, 4, dtype=torch.float64)
    copied = layer_of(double)
    with torch.no_grad():
        double.weight_hh_l0.zero_()
    assert copied.weight_hh.any()


def test_derivatives_are_those_of_the_equations() -> None:
    a, n, s = torch.randn(6).double(), torch.tensor(3.0).double(), torch.tensor(0.4).double()
    sigma, softplus = torch.sigmoid(n * a), torch.nn.functional.softplus(n * a)
    dx, dn, ds = gamma_derivatives(a, n, s)
    bend = sigma * (1 - sigma)
    torch.testing.assert_close(dx, (1 - s) * sigma + s * n * bend)
    torch.testing.assert_close(dn, -(1 - s) * (softplus - n * a * sigma) / n**2 + s * a * bend)
    torch.testing.assert_close(ds, sigma - softplus / n)
    torch.testing.assert_close(gamma_slope(a, n, s), dx)


def test_derivatives_heed_the_floor_and_work_without_gradients() -> None:
    a = torch.ones(1, dtype=torch.float64)
    zero, floor = torch.zeros(()).double(), torch.tensor(0.1).double()
    with torch.no_grad():
        found = gamma_derivatives(a, zero, zero, n_floor=0.1)
    for actual, expected in zip(found, gamma_derivatives(a, floor, zero, n_floor=0.01), strict=True):
        torch.testing.assert_close(actual, expected)
    assert reference.gamma(a, floor, zero).isfinite()


def test_two_directions_are_refused() -> None:
    with pytest.raises(ConfigError, match="got 1 layers in two directions, expected one layer in one direction"):
        layer_of(GammaRNN(1, 3, bidirectional=True))
