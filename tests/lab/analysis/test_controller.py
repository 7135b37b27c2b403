"""The controller alone: trajectories, fixed points, principal components, nearness to one dimension."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aru_kernels import ARUN, GammaRNN, reference
from aru_lab.analysis.controller import Trajectories, one_dimensional, principal_components, trajectories
from aru_lab.errors import ConfigError

INPUTS = np.linspace(-2, 2, 7)


def adaptive(scale: float = 1.0) -> ARUN:
    network = ARUN(1, 3, controller_size=6, dtype=torch.float64)
    with torch.no_grad():
        network.weight_gg_l0 *= scale
    return network


def test_trajectories_are_those_of_the_network_without_recurrence() -> None:
    network = adaptive()
    paths = trajectories(network, INPUTS, n_steps=9, before=4, repeats=2)
    assert paths.g.shape == (7, 2, 13, 6)
    # An ARUN of one neuron whose only input is the drive, started at the same g.
    one = ARUN(1, 1, controller_size=6, dtype=torch.float64)
    with torch.no_grad():
        for name, parameter in one.named_parameters():
            shared = name.startswith(("weight_ag", "weight_gg", "bias_g", "weight_gc", "bias_c"))
            parameter.copy_(getattr(network, name) if shared else torch.zeros_like(parameter))
    g0 = np.random.default_rng(0).standard_normal((7, 2, 6))
    for i, a in enumerate(INPUTS):
        for repeat in range(2):
            drive = torch.zeros(13, 1, 1, dtype=torch.float64)
            drive[4:] = a
            state = torch.zeros(1, 1, 1).double(), torch.from_numpy(g0[i, repeat]).view(1, 1, 1, 6)
            _, (_, g), trace = one(torch.zeros(13, 1, 1).double(), state, drive=drive, return_trace=True)
            np.testing.assert_allclose(paths.g[i, repeat, -1], g.detach().flatten(), rtol=1e-11)
            np.testing.assert_allclose(paths.n[i, repeat], trace.n.detach().flatten(), rtol=1e-11)
            np.testing.assert_allclose(paths.s[i, repeat], trace.s.detach().flatten(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(paths.onset_shape[:, 0], paths.n[:, :, 4].mean(1))
    np.testing.assert_allclose(paths.steady_shape[:, 1], paths.s[:, :, 11:].mean((1, 2)))
    np.testing.assert_array_equal(paths.steady_state, paths.g[:, :, 12])


def test_contracting_controller_comes_to_rest_at_its_fixed_point() -> None:
    network = adaptive(scale=0.5)
    paths = trajectories(network, INPUTS, repeats=3)
    assert paths.speed.max() < 1e-12
    np.testing.assert_allclose(paths.steady_state[:, 0], paths.steady_state[:, 2], atol=1e-12)
    g = torch.from_numpy(paths.steady_state[:, 0])
    a = torch.from_numpy(INPUTS)[:, None]
    weight_ag, weight_gg, bias_g = (getattr(network, f"{name}_l0") for name in ("weight_ag", "weight_gg", "bias_g"))
    torch.testing.assert_close(torch.tanh(a * weight_ag + g @ weight_gg.T + bias_g), g, rtol=0, atol=1e-12)
    assert trajectories(network, INPUTS, n_steps=2, before=0, repeats=3).speed.min() > 1e-3


def test_carried_state_goes_from_the_end_of_an_input_to_the_next() -> None:
    network = adaptive()
    paths = trajectories(network, INPUTS[:3], n_steps=5, before=4, repeats=2, carried=True)
    weights = [getattr(network, f"{name}_l0") for name in ("weight_ag", "weight_gg", "bias_g", "weight_gc", "bias_c")]
    g = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 2, 6))[0])
    for i, a in enumerate(INPUTS[:3]):
        for t in range(9):
            current = torch.full((2,), a if t >= 4 else 0.0, dtype=torch.float64)
            n, _, g = reference.controller_step(current, g, *weights)
            np.testing.assert_allclose(paths.g[i, :, t], g.detach().numpy(), rtol=1e-12)
            np.testing.assert_allclose(paths.n[i, :, t], n.detach().numpy(), rtol=1e-12)


def test_defaults_are_those_of_the_authors_code() -> None:
    paths = trajectories(adaptive())
    assert paths.g.shape == (10, 10, 400, 6)
    assert paths.onset == 201
    np.testing.assert_allclose(paths.inputs[[0, -1]], [0.1353, 7.389], rtol=1e-3)
    assert principal_components(paths, 2).scores.shape == (10, 400, 2)


def test_principal_components_are_those_of_the_covariance() -> None:
    paths = trajectories(adaptive(), INPUTS, n_steps=20, before=10, repeats=2)
    found = principal_components(paths, 3)
    states = paths.g.mean(1).reshape(-1, 6)
    values, vectors = np.linalg.eigh(np.cov(states.T))
    np.testing.assert_allclose(found.explained, values[:-4:-1] / values.sum(), rtol=1e-10)
    np.testing.assert_allclose(np.abs(np.sum(found.axes * vectors.T[:-4:-1], axis=1)), 1, rtol=1e-8)
    assert found.scores.shape == (7, 30, 3)
    np.testing.assert_allclose(
        found.scores.reshape(-1, 3) @ found.axes, (states - found.mean) @ found.axes.T @ found.axes
    )


def test_points_on_a_curve_are_one_dimensional() -> None:
    t = np.linspace(-1, 1, 30)
    bent = np.stack([t, t**2, 0.3 * t**3], axis=1) @ np.random.RandomState(0).randn(3, 8)
    on_curve = one_dimensional(bent)
    assert on_curve.line < 0.99
    assert on_curve.explained > on_curve.line + 0.005
    straight = one_dimensional(np.outer(t, np.ones(4)) + 7)
    assert straight.explained == pytest.approx(1)
    assert straight.line == pytest.approx(1)


def test_scattered_points_are_not() -> None:
    points = np.random.RandomState(1).randn(200, 6)
    assert one_dimensional(points).explained < 0.3


def test_left_out_points_are_predicted_from_the_others() -> None:
    rng = np.random.RandomState(2)
    points = np.stack([np.linspace(-2, 2, 12), np.linspace(-1, 1, 12) ** 2], axis=1) + 0.05 * rng.randn(12, 2)
    centred = points - points.mean(0)
    axis = np.linalg.svd(centred)[2][0]
    t = centred @ axis
    missed = 0.0
    for k in range(12):
        others = np.arange(12) != k
        fits = [np.polynomial.Polynomial.fit(t[others], points[others, d], 3) for d in range(2)]
        missed += sum((fit(t[k]) - points[k, d]) ** 2 for d, fit in enumerate(fits))
    found = one_dimensional(points)
    assert found.explained == pytest.approx(1 - missed / np.sum(centred**2), abs=1e-9)
    assert np.argmax(np.abs(np.diff(found.points @ axis) < 0)) == 0
    same = one_dimensional(points, axis=-3 * axis)
    assert same.explained == pytest.approx(found.explained, abs=1e-9)


def test_axis_of_the_curve_can_be_given() -> None:
    # A parabola is a curve over its own axis, and none over the other one, where two points have each score.
    t = np.linspace(-1, 1, 21)
    points = np.stack([t, 1.2 * t**2], axis=1)
    assert one_dimensional(points, axis=[1.0, 0.0]).explained == pytest.approx(1, abs=1e-9)
    assert one_dimensional(points, axis=[0.0, 1.0]).explained < 0.6


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: trajectories(GammaRNN(1, 3), INPUTS),
            "got a GammaRNN, expected an ARUN: only an adaptive network has a",
        ),
        (lambda: trajectories(torch.nn.GRU(1, 3), INPUTS), "got a GRU, expected an ARUN"),
        (lambda: trajectories(adaptive(), [[1.0]]), r"inputs: got an array of shape \(1, 1\), expected 1 dimension\."),
        (lambda: trajectories(adaptive(), INPUTS, n_steps=1), "n_steps: got 1, expected a whole number of at least 2"),
        (lambda: trajectories(adaptive(), INPUTS, repeats=0), "repeats: got 0"),
        (lambda: principal_components(trajectories(adaptive(), INPUTS), 7), "n_components: got 7, expected at most 6"),
        (lambda: one_dimensional(np.eye(4)), "points: got 4, expected at least 5 for a curve of degree 3"),
        (lambda: one_dimensional(np.ones((9, 2))), "points: got 9 equal points"),
        (lambda: one_dimensional(np.eye(6), axis=[1.0]), "axis: got 1 values, expected 6"),
        (lambda: one_dimensional(np.eye(6), axis=np.zeros(6)), "axis: got one on which all points have the same score"),
    ],
    ids=["gamma", "gru", "inputs", "steps", "repeats", "components", "few", "equal", "axis", "zero-axis"],
)
def test_refusals(call: object, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        call()


def test_onset_is_the_first_step_with_the_input() -> None:
    g = np.arange(2 * 3 * 4).reshape(1, 2, 3, 4).astype(float)
    paths = Trajectories(np.zeros(1), g, g[..., 0], g[..., 1], onset=1)
    np.testing.assert_array_equal(paths.onset_shape, [[10.0, 11.0]])
    np.testing.assert_array_equal(paths.speed, [[8.0, 8.0]])
