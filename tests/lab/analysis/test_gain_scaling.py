"""The steady state of made responses, and what gain scaling is for networks whose output is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aru_kernels import ARUN
from aru_lab.analysis.gain_scaling import steady_state
from aru_lab.analysis.network import held, uncoupled
from aru_lab.analysis.responses import LOW_NOISE, Responses, noise_responses
from aru_lab.errors import ConfigError


def made() -> Responses:
    rng = np.random.RandomState(0)
    n, s = rng.rand(2, 3, 2, 60, 4).astype(np.float32)
    return Responses(np.array([0.0, 1.0, 2.0]), 20, 40, n, n, n, s)


def test_steady_state_is_the_mean_of_the_settled_steps() -> None:
    responses = made()
    state = steady_state(responses, settle=0.75)
    assert state.window == (35, 40)
    for name in ("n", "s"):
        values = getattr(responses, name).astype(np.float64)
        np.testing.assert_allclose(getattr(state, name), values[:, :, 35:40].mean((2, 3)))
        np.testing.assert_allclose(getattr(state, f"{name}_neurons"), values[:, :, 35:40].mean((1, 2)))
        np.testing.assert_allclose(getattr(state, f"{name}_course"), values.mean((1, 3)))
    assert steady_state(responses).window == (31, 40)
    h = responses.h[:, :, 35:40].astype(np.float64)
    np.testing.assert_allclose(state.mean_h, h.mean((2, 3)))
    np.testing.assert_allclose(state.deviation_h, h.std((2, 3)))


def test_nothing_left_is_refused() -> None:
    with pytest.raises(ConfigError, match="settle: got 1 of 20 driven steps, which leaves none"):
        steady_state(made(), settle=1.0)


def test_output_of_isolated_neurons_is_that_of_their_activation() -> None:
    # With n = 1e4 and s = 0, γ is ReLU: of N(0, ξ²) it makes the mean ξ/√(2π) and the variance ξ² (1/2 - 1/(2π)).
    network = uncoupled(ARUN(1, 300, controller_size=2))
    static = held(network, 1e4, 0.0)
    state = steady_state(noise_responses(static, [0.0, 1.0, 5.0], repeats=2))
    xi = np.array([LOW_NOISE, 1.0, 5.0])[:, None]
    np.testing.assert_allclose(state.mean_h / xi, 1 / np.sqrt(2 * np.pi), rtol=0.02)
    np.testing.assert_allclose(state.deviation_h / xi, np.sqrt(0.5 - 0.5 / np.pi), rtol=0.02)
    assert (state.n == np.float32(1e4)).all()


def test_network_with_n_and_s_held_at_its_own_is_the_network() -> None:
    network = ARUN(1, 5, controller_size=3, dtype=torch.float64)
    with torch.no_grad():
        network.weight_gc_l0.zero_()  # n and s are constant: the controller's biases
    n, s = network.bias_c_l0.tolist()
    static = held(network, torch.full((5,), n), s)
    expected, found = (noise_responses(one, [0.0, 2.0], repeats=1).h for one in (network, static))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert not np.allclose(noise_responses(uncoupled(network), [0.0, 2.0], repeats=1).h, expected)
