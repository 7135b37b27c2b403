"""Networks that read examples under a step: the rescaled steps, and states against the networks' own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from aru_kernels import ARUN
from aru_lab.analysis.reading import driven_steps, read_driven
from aru_lab.errors import ConfigError


def test_driven_steps_are_rescaled() -> None:
    assert driven_steps(784) == (200, 400)
    assert driven_steps(112) == (29, 58)
    with pytest.raises(ConfigError, match="sequences: got 1 steps, expected at least 2"):
        driven_steps(1)


def test_states_are_those_of_the_driven_network() -> None:
    network = ARUN(2, 4, controller_size=3, dtype=torch.float64)
    x = torch.randn(12, 70, 2, dtype=torch.float64)
    parts = list(read_driven(network, x, 2.0))
    assert [part[0].shape[1] for part in parts] == [50, 20]
    drive = torch.zeros(12, 1, 1, dtype=torch.float64)
    drive[3:6] = 2.0
    h, _, trace = network(x, drive=drive, return_trace=True)
    for found, expected in zip(zip(*parts, strict=True), (h, *trace), strict=True):
        torch.testing.assert_close(torch.cat(found, dim=1), expected)


def test_states_of_a_torch_network() -> None:
    network = nn.RNN(2, 4, nonlinearity="relu", dtype=torch.float64)
    x = torch.randn(12, 5, 2, dtype=torch.float64)
    ((states,),) = read_driven(network, x, 1.5)
    h = torch.zeros(5, 4, dtype=torch.float64)
    for t in range(12):
        a = x[t] @ network.weight_ih_l0.T + h @ network.weight_hh_l0.T + network.bias_ih_l0 + network.bias_hh_l0
        h = (a + 1.5 * (3 <= t < 6)).relu()
        torch.testing.assert_close(states[t], h)
