"""Driven neurons: currents as asked for, responses as the equations have them, isolation, the noise protocol."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

import aru_kernels
from aru_kernels import ARUN, GammaRNN
from aru_lab.analysis.network import isolated
from aru_lab.analysis.responses import noise_responses, step_responses
from aru_lab.errors import ConfigError
from support.helpers import needs_cpu_kernels

MODELS: dict[str, Callable[[], nn.Module]] = {
    "arun": lambda: ARUN(1, 5, controller_size=3, dtype=torch.float64),
    "gamma": lambda: GammaRNN(1, 5, dtype=torch.float64),
}
every_model = pytest.mark.parametrize("model", MODELS)


def silent(size: int = 6) -> GammaRNN:
    """A network whose pre-activation is the current alone."""
    network = GammaRNN(1, size, dtype=torch.float64)
    with torch.no_grad():
        network.weight_hh_l0.zero_()
        network.bias_l0.zero_()
    return network


@every_model
def test_response_is_that_of_the_network_under_the_same_drive(model: str) -> None:
    network = MODELS[model]()
    weight = torch.arange(1.0, 6.0)
    responses = step_responses(
        network, [0.0, 2.0], 2, 12, 4, 5, background=0.5, background_spread=0, noise=0, background_weight=weight
    )
    assert responses.h.shape == (2, 2, 12, 5)
    drive = 0.5 * weight.double().expand(12, 1, 5).clone()
    drive[4:9] += 2.0
    h, _, trace = network(torch.zeros(12, 1, 1, dtype=torch.float64), drive=drive, return_trace=True)
    for repeat in range(2):
        for name, expected in (("h", h), ("a", trace.a), ("n", trace.n), ("s", trace.s)):
            values = getattr(responses, name)[1, repeat]
            np.testing.assert_allclose(values, expected[:, 0].detach().numpy(), rtol=1e-6, atol=1e-7, err_msg=name)
    np.testing.assert_array_equal(responses.drives, [np.zeros(12), [0, 0, 0, 0, 2, 2, 2, 2, 2, 0, 0, 0]])


@every_model
def test_background_is_common_to_amplitudes_and_differs_between_repeats_and_seeds(model: str) -> None:
    network = MODELS[model]()
    responses = step_responses(network, [1.0, 4.0], 3, 20, 10, 5)
    np.testing.assert_array_equal(responses.a[0, :, :10], responses.a[1, :, :10])
    assert (responses.a[0, :, 10] != responses.a[1, :, 10]).all()
    assert (responses.a[0, 0, :10] != responses.a[0, 1, :10]).all()
    again, other = (step_responses(network, [1.0, 4.0], 3, 20, 10, 5, seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(again.h, responses.h)
    assert (other.a != responses.a).all()


def test_background_has_its_mean_and_deviations() -> None:
    a = step_responses(silent(200), [3.0], 5, 100, 40, 40, 0.8, 0.3, 0.1, background_weight=2.0).a[0].astype(float)
    quiet = a[:, :40]
    assert quiet.mean() == pytest.approx(1.6, abs=0.08)
    assert quiet.mean(1).std() == pytest.approx(0.6, rel=0.1)
    assert (quiet - quiet.mean(1, keepdims=True)).std() == pytest.approx(0.2, rel=0.05)
    assert (a[:, 40:80].mean() - quiet.mean()) == pytest.approx(3.0, abs=0.02)
    assert a[:, 80:].mean() == pytest.approx(quiet.mean(), abs=0.02)


def test_noise_of_a_repeat_can_be_drawn_once() -> None:
    a = step_responses(silent(200), [0.0, 3.0], 2, 20, 10, 5, 0.8, 0.0, 0.4, noise_once=True).a.astype(float)
    np.testing.assert_array_equal(a[0], a[0, :, :1].repeat(20, 1))
    assert a[0, :, 0].std() == pytest.approx(0.4, rel=0.15)
    assert (a[0, 0] != a[0, 1]).all()


@every_model
def test_isolated_neuron_is_a_network_of_one(model: str) -> None:
    network = MODELS[model]()
    options = {"background": 0.7, "background_spread": 0.0, "noise": 0.0}
    before = network.weight_hh_l0.clone()
    responses = step_responses(network, [2.0], 1, 15, 5, 5, isolate=True, **options)
    torch.testing.assert_close(network.weight_hh_l0, before, rtol=0, atol=0)
    one = type(network)(1, 1, **({"controller_size": 3} if model == "arun" else {}), dtype=torch.float64)
    for i in range(5):
        state = network.state_dict()
        for name in state:
            if name in ("weight_ih_l0", "bias_l0", "gain_l0", "saturation_l0"):
                state[name] = state[name][i : i + 1]
        state["weight_hh_l0"] = network.weight_hh_l0[i : i + 1, i : i + 1]
        one.load_state_dict(state)
        alone = step_responses(one, [2.0], 1, 15, 5, 5, **options)
        np.testing.assert_allclose(responses.h[0, 0, :, i], alone.h[0, 0, :, 0], rtol=1e-6)
    assert not np.allclose(responses.h, step_responses(network, [2.0], 1, 15, 5, 5, **options).h)


def test_isolated_keeps_only_the_diagonal() -> None:
    network = GammaRNN(1, 4)
    alone = isolated(network).weight_hh_l0
    torch.testing.assert_close(alone, torch.diag(torch.diag(network.weight_hh_l0)), rtol=0, atol=0)


def test_noise_protocol() -> None:
    responses = noise_responses(silent(300), [0.0, 1.0, 3.0], repeats=2)
    a = responses.a.astype(float)
    assert a.shape == (3, 2, 600, 300)
    assert (responses.onset, responses.end) == (200, 400)
    low = np.delete(a[0], slice(200, 400), axis=1)
    np.testing.assert_array_equal(np.delete(a[2], slice(200, 400), axis=1), low)
    assert low.std() == pytest.approx(0.01, rel=0.01)
    noise = a[1, :, 200:400]
    np.testing.assert_allclose(a[0, :, 200:400], 0.01 * noise, rtol=1e-6)  # a deviation of 0: the low noise goes on
    np.testing.assert_allclose(a[2, :, 200:400], 3 * noise, rtol=1e-6)
    assert noise.mean() == pytest.approx(0, abs=0.01)
    assert noise.std() == pytest.approx(1, abs=0.01)
    # Independent over neurons and steps: means over either have the variance of 1/N.
    assert noise.mean(2).std() == pytest.approx(300**-0.5, rel=0.1)
    assert noise.mean(1).std() == pytest.approx(200**-0.5, rel=0.1)
    assert (noise[0] != noise[1]).all()


@every_model
def test_layout_of_the_network_does_not_matter(model: str) -> None:
    network = MODELS[model]()
    expected = step_responses(network, [1.0], 2, 20, 10, 5).h
    network.batch_first = True
    np.testing.assert_array_equal(step_responses(network, [1.0], 2, 20, 10, 5).h, expected)


@needs_cpu_kernels
@every_model
def test_runs_on_the_kernels(model: str) -> None:
    network = MODELS[model]()
    results = []
    for backend in ("reference", "cpu"):
        with aru_kernels.use_backend(backend):
            results.append(step_responses(network, [1.0, 5.0], 2, 30, 10, 10))
    for name in ("h", "a", "n", "s"):
        np.testing.assert_allclose(getattr(results[0], name), getattr(results[1], name), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: step_responses(nn.LSTM(1, 3), [1.0]), "network: got an LSTM, expected an ARUN or a GammaRNN"),
        (
            lambda: step_responses(ARUN(1, 3, controller_size=2, num_layers=2), [1.0]),
            "network: got 2 layers, expected one layer",
        ),
        (lambda: step_responses(silent(), [1.0], length=0), "length: got 0, expected a whole number of at least 1"),
        (lambda: step_responses(silent(), [1.0], n_steps=150), "length: got a step from 102 to 202"),
        (lambda: step_responses(silent(), 1.0), r"amplitudes: got an array of shape \(\)"),
        (lambda: step_responses(silent(), [np.inf]), "amplitudes: got 1 values that are not finite"),
        (lambda: step_responses(silent(), [1.0], repeats=0), "repeats: got 0"),
        (lambda: step_responses(silent(), [1.0], noise=-1), "noise: got -1, expected a finite number of at least 0"),
        (lambda: step_responses(silent(), [1.0], background_weight=[1.0, 2.0]), r"background_weight: got shape \(2,\)"),
        (lambda: noise_responses(silent(), [-1.0]), "deviations: got -1, expected standard deviations of at least 0"),
        (lambda: noise_responses(silent(), [1.0], length=0), "length: got 0"),
        (lambda: noise_responses(silent(), [1.0], low=-0.1), "low: got -0.1, expected a finite number of at least 0"),
    ],
    ids=lambda value: "-".join(re.findall("[a-z]+", value)[:4]) if isinstance(value, str) else "",
)
def test_refusals(call: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        call()
