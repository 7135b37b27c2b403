"""Adaptation of n and s under steps: planted time constants and deviations are found."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from aru_kernels import ARUN, GammaRNN
from aru_lab.analysis.adaptation import analyse_adaptation, settled_steps
from aru_lab.analysis.fits import CURVES
from aru_lab.analysis.settings import Settings

SETTINGS = Settings((0.0, 0.5, 1.0, 5.0, 10.0), sequences=60)
DECAY = 0.85  # of the controller's state in a step


def linear_controller() -> ARUN:
    """Uncoupled neurons whose controller is linear for small inputs: g' = DECAY g + 1e-6 a, n = 5 - 1000 g."""
    network = ARUN(1, 3, controller_size=1, dtype=torch.float64)
    values = {"weight_hh": 0.0, "bias": 0.0, "weight_ih": 1e-3, "weight_ag": 1e-6, "weight_gg": DECAY, "bias_g": 0.0}
    with torch.no_grad():
        for name, value in values.items():
            getattr(network, f"{name}_l0").fill_(value)
        network.weight_gc_l0.copy_(torch.tensor([[-1e3], [2e3]]))
        network.bias_c_l0.copy_(torch.tensor([5.0, 0.1], dtype=torch.float64))
    return network


def run_of(network: torch.nn.Module, x: torch.Tensor) -> SimpleNamespace:
    return SimpleNamespace(network=network, sequences=lambda n: (x[:, :n], None))


def test_planted_time_constant_is_found() -> None:
    x = torch.randn(196, 80, 1, dtype=torch.float64)
    result = analyse_adaptation(run_of(linear_controller(), x), SETTINGS, lambda done, total: None)
    found = result.arrays
    assert (int(found["onset"]), int(found["end"])) == (50, 100)
    np.testing.assert_array_equal(found["settled"], settled_steps(50, 100))
    np.testing.assert_array_equal(found["fit_amplitudes"], [1, 5, 10])
    tau = -1 / np.log(DECAY)
    np.testing.assert_allclose(found["tau"], tau, rtol=1e-3)
    np.testing.assert_allclose(found["tau_of_784"], 4 * found["tau"])
    exponential = list(CURVES).index("exponential")
    assert (found["fit_r_squared"][..., exponential] > 0.9999).all()
    assert (np.argmin(found["fit_aicc"], axis=2) == exponential).all()
    for i, xi in enumerate((1.0, 5.0, 10.0)):
        rest = -1e3 * 1e-6 * xi / (1 - DECAY)
        a, b, c = found["fit_parameters"][i, 0, exponential, 0]
        assert c == pytest.approx(5 + rest, abs=2e-5)
        assert a == pytest.approx(-rest * np.exp(b) * DECAY, rel=0.02)  # n - c before the drive is -rest, at time 0
    np.testing.assert_allclose(found["jump"][:, 0], -1e-3 * found["amplitudes"], atol=2e-6)
    np.testing.assert_allclose(found["steady_shape"][:, 1] - 0.1, -2 * (found["steady_shape"][:, 0] - 5), atol=1e-9)


def test_course_and_deviation_are_those_of_the_examples() -> None:
    network = linear_controller()
    x = torch.linspace(0, 50, 40, dtype=torch.float64)[:, None, None] + torch.randn(40, 60, 1, dtype=torch.float64)
    settings = dataclasses.replace(SETTINGS, sequences=60)
    found = analyse_adaptation(run_of(network, x), settings, lambda done, total: None).arrays
    onset, end = int(found["onset"]), int(found["end"])
    drive = torch.zeros(40, 1, 1, dtype=torch.float64)
    drive[onset:end] = 10
    _, _, trace = network(x, drive=drive, return_trace=True)
    first, last = settled_steps(onset, end)
    np.testing.assert_allclose(found["n"][4], trace.n.mean((1, 2)).detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(found["s_neurons"][4], trace.s[first:last].mean((0, 1)).detach().numpy(), rtol=1e-12)
    # Over examples at each step: the course itself, which all examples share, is none of the noise.
    spread = x[first:last].var(1, correction=0).mean().sqrt().item()
    np.testing.assert_allclose(found["a_deviation"], 1e-3 * spread, rtol=1e-9)
    np.testing.assert_array_equal(found["onset_shape"][4, 0], found["n"][4, onset])


def test_static_network_does_not_adapt() -> None:
    network = GammaRNN(1, 4)
    result = analyse_adaptation(run_of(network, torch.rand(60, 5, 1)), SETTINGS, lambda done, total: None)
    assert np.isnan(result.arrays["tau"]).all()
    np.testing.assert_allclose(result.arrays["jump"], 0, atol=1e-7)
    np.testing.assert_allclose(result.arrays["n_neurons"][2], network.gain_l0.detach().numpy(), rtol=1e-6)
