"""Lyapunov exponents that are known: linear maps, the Hénon map, orthogonal networks, fixed points; tangent maps."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from aru_kernels import ARUN, GammaRNN, reference
from aru_lab.analysis.checks import AnalysisError
from aru_lab.analysis.lyapunov import (
    _positive_qr,
    from_jacobian,
    from_map,
    joint_step,
    joint_tangent,
    lyapunov_exponents,
    network_exponents,
    relu_tangent,
    static_tangent,
)
from aru_lab.analysis.network import layer_of
from aru_lab.errors import ConfigError


def henon(x: Tensor) -> Tensor:
    return torch.stack([1 - 1.4 * x[:, 0] ** 2 + x[:, 1], 0.3 * x[:, 0]], dim=1)


def henon_jacobian(x: Tensor) -> Tensor:
    jacobian = x.new_zeros(len(x), 2, 2)
    jacobian[:, 0, 0], jacobian[:, 0, 1], jacobian[:, 1, 0] = -2.8 * x[:, 0], 1, 0.3
    return jacobian


def linear(matrix: Tensor) -> Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]:
    return lambda state, vectors, _: (state @ matrix.T, matrix @ vectors)


def random_matrix(*sizes: int) -> Tensor:
    return torch.randn(*sizes, dtype=torch.float64)


def test_henon_map() -> None:
    tangent = from_jacobian(henon, henon_jacobian)
    found = lyapunov_exponents(tangent, [[0.1, 0.1], [0.0, 0.0]], None, steps=6000, transient=100)
    assert found.exponents.shape == found.error.shape == (2, 2)
    assert found.blocks.shape == (10, 2, 2)
    np.testing.assert_allclose(found.exponents, [[0.4192, -1.6229]] * 2, atol=0.012)
    # |det J| = b everywhere.
    np.testing.assert_allclose(found.exponents.sum(1), math.log(0.3), rtol=1e-12)
    assert (found.error > 1e-4).all()
    assert (np.abs(found.exponents - [0.4192, -1.6229]) < 4 * found.error).all()
    largest = lyapunov_exponents(tangent, [0.1, 0.1], 1, steps=6000, transient=100)
    np.testing.assert_allclose(largest.exponents[0, 0], found.exponents[0, 0], atol=1e-3)


def test_automatic_differentiation_of_a_map_is_its_jacobian() -> None:
    state, vectors = random_matrix(4, 2), random_matrix(4, 2, 3)
    for actual, expected in zip(
        from_map(henon)(state, vectors, 0), from_jacobian(henon, henon_jacobian)(state, vectors, 0), strict=True
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-13, atol=1e-13)


def test_linear_map_has_the_logarithms_of_its_eigenvalues() -> None:
    basis = random_matrix(4, 4)
    eigenvalues = torch.tensor([1.5, -0.9, 0.5, 0.1], dtype=torch.float64)
    matrix = basis @ torch.diag(eigenvalues) @ torch.linalg.inv(basis)
    found = lyapunov_exponents(linear(matrix), random_matrix(2, 4), None, steps=200, transient=300)
    np.testing.assert_allclose(found.exponents, np.log(np.abs(eigenvalues.numpy()))[None].repeat(2, 0), atol=1e-10)
    assert found.error.max() < 1e-10
    two = lyapunov_exponents(linear(matrix), random_matrix(2, 4), 2, steps=200, transient=300)
    np.testing.assert_allclose(two.exponents, found.exponents[:, :2], atol=1e-10)


def test_orthogonal_linear_network_has_zeros() -> None:
    q, _ = torch.linalg.qr(random_matrix(6, 6))
    found = lyapunov_exponents(linear(q), random_matrix(3, 6), None, steps=50, transient=0)
    np.testing.assert_allclose(found.exponents, 0, atol=1e-13)


def test_transient_is_left_out() -> None:
    def tangent(state: Tensor, vectors: Tensor, step: int) -> tuple[Tensor, Tensor]:
        return state, vectors * (math.e if step < 30 else 1.0)

    assert lyapunov_exponents(tangent, [1.0], steps=70, transient=30).exponents[0, 0] == pytest.approx(0, abs=1e-14)
    assert lyapunov_exponents(tangent, [1.0], steps=70, transient=0).exponents[0, 0] == pytest.approx(30 / 70)


def test_error_bar_is_the_spread_of_the_mean() -> None:
    noise = torch.from_numpy(np.random.RandomState(0).randn(4000, 60))

    def tangent(state: Tensor, vectors: Tensor, step: int) -> tuple[Tensor, Tensor]:
        return state, vectors * (0.3 * noise[step, :, None, None]).exp()

    found = lyapunov_exponents(tangent, np.ones((60, 1)), steps=4000, transient=0, blocks=20)
    expected = 0.3 / math.sqrt(4000)
    assert found.exponents.std() == pytest.approx(expected, rel=0.3)
    assert found.error.mean() == pytest.approx(expected, rel=0.15)
    np.testing.assert_allclose(found.blocks.mean(0), found.exponents, atol=1e-12)
    np.testing.assert_allclose(found.error, found.blocks.std(0, ddof=1) / math.sqrt(20))


def test_factor_has_a_positive_diagonal() -> None:
    z = random_matrix(5, 4, 3)
    q, diagonal = _positive_qr(z)
    r = q.mT @ z
    torch.testing.assert_close(q @ r, z)
    assert (diagonal > 0).all()
    torch.testing.assert_close(r.diagonal(dim1=1, dim2=2), diagonal)
    torch.testing.assert_close(r.tril(-1), torch.zeros_like(r), rtol=0, atol=1e-12)


def test_initial_conditions_are_independent() -> None:
    tangent = from_jacobian(henon, henon_jacobian)
    starts = np.array([[0.1, 0.1], [0.3, -0.1]])
    both = lyapunov_exponents(tangent, starts, None, steps=40, transient=5)
    one = lyapunov_exponents(tangent, starts[0], None, steps=40, transient=5)
    np.testing.assert_allclose(both.exponents[0], one.exponents[0], rtol=1e-9)
    other = lyapunov_exponents(tangent, starts[::-1], None, steps=40, transient=5)
    np.testing.assert_allclose(both.exponents, other.exponents[::-1], rtol=1e-9)
    np.testing.assert_allclose(both.final_state[0], one.final_state[0], rtol=1e-6)


def static_network() -> GammaRNN:
    network = GammaRNN(1, 4, dtype=torch.float64)
    with torch.no_grad():
        network.saturation_l0.uniform_(0, 0.6)
        network.bias_l0.normal_()
    return network


def adaptive_network() -> ARUN:
    network = ARUN(1, 3, controller_size=4, dtype=torch.float64)
    with torch.no_grad():
        network.weight_gc_l0.normal_(0, 0.4)
        network.bias_l0.normal_()
    return network


def test_static_tangent_is_the_jacobian_of_the_map() -> None:
    layer = layer_of(static_network())
    current = layer.bias + random_matrix(3, 1)
    h, vectors = random_matrix(5, 4), random_matrix(5, 4, 2)
    for step in (0, 2, 7):
        following, pushed = static_tangent(layer, layer.gain, layer.saturation, current)(h, vectors, step)

        def state_map(h: Tensor, step: int = step) -> Tensor:
            a = h @ layer.weight_hh.T + current[min(step, 2)]
            return reference.gamma(a, layer.gain, layer.saturation)

        torch.testing.assert_close(following, state_map(h), rtol=1e-13, atol=1e-13)
        jacobian = torch.stack([torch.autograd.functional.jacobian(state_map, row) for row in h])
        torch.testing.assert_close(pushed, jacobian @ vectors, rtol=1e-12, atol=1e-13)


def test_joint_tangent_is_the_jacobian_of_the_map() -> None:
    layer = layer_of(adaptive_network())
    current = layer.bias + 0.3
    state, vectors = random_matrix(2, 15), random_matrix(2, 15, 3)
    following, pushed = joint_tangent(layer, current[None])(state, vectors, 0)
    torch.testing.assert_close(following, joint_step(layer, state, current), rtol=0, atol=0)
    jacobian = torch.stack(
        [torch.autograd.functional.jacobian(lambda x: joint_step(layer, x[None], current)[0], row) for row in state]
    )
    torch.testing.assert_close(pushed, jacobian @ vectors, rtol=1e-12, atol=1e-13)


def test_joint_step_is_that_of_the_network() -> None:
    network = adaptive_network()
    state = random_matrix(2, 15)
    following = joint_step(layer_of(network), state, layer_of(network).bias + 0.7)
    x = torch.zeros(1, 2, 1, dtype=torch.float64)
    _, (h, g) = network(x, (state[None, :, :3].contiguous(), state[None, :, 3:].unflatten(2, (3, 4))), drive=0.7)
    torch.testing.assert_close(following, torch.cat([h[0], g[0].flatten(1)], dim=1), rtol=1e-12, atol=1e-13)


def test_network_at_a_fixed_point_has_the_logarithms_of_its_jacobians_eigenvalues() -> None:
    network = adaptive_network()
    with torch.no_grad():
        network.weight_hh_l0 *= 0.5
        network.weight_gg_l0 *= 0.6
    found = network_exponents(network, None, drive=0.5, steps=400, transient=400, n_initial=2)
    layer = layer_of(network)
    rest = torch.from_numpy(found.final_state[0])
    torch.testing.assert_close(joint_step(layer, rest[None], layer.bias + 0.5)[0], rest, rtol=1e-10, atol=1e-12)
    jacobian = torch.autograd.functional.jacobian(lambda x: joint_step(layer, x[None], layer.bias + 0.5)[0], rest)
    expected = np.sort(np.log(np.abs(np.linalg.eigvals(jacobian.numpy()))))[::-1]
    np.testing.assert_allclose(np.sort(found.exponents[0])[::-1], expected, atol=0.02)
    np.testing.assert_allclose(found.exponents.sum(1), expected.sum(), atol=1e-8)


def test_held_network_is_the_static_network() -> None:
    static = static_network()
    adaptive = ARUN(1, 4, controller_size=3, dtype=torch.float64)
    adaptive.load_state_dict({k: v for k, v in static.state_dict().items() if k in adaptive.state_dict()}, strict=False)
    n, s = (getattr(static, f"{name}_l0").detach().numpy() for name in ("gain", "saturation"))
    options = {"steps": 60, "transient": 20, "drive": np.linspace(0, 1, 30)}
    expected = network_exponents(static, 3, **options).exponents
    np.testing.assert_allclose(network_exponents(adaptive, 3, held=(n, s), **options).exponents, expected, rtol=1e-12)
    per_start = network_exponents(adaptive, 3, held=(np.tile(n, (4, 1)), np.tile(s, (4, 1))), **options).exponents
    np.testing.assert_allclose(per_start, expected, rtol=1e-12)
    drive = np.stack([options.pop("drive")] * 4, axis=1)[:, :, None] + [[0.0], [0.0], [0.3], [0.0]]
    driven = network_exponents(static, 3, drive=drive, **options).exponents
    np.testing.assert_allclose(np.delete(driven, 2, 0), np.delete(expected, 2, 0), rtol=1e-12)
    assert np.abs(driven[2] - expected[2]).max() > 1e-3
    other = network_exponents(adaptive, 3, held=(n + 1, s), **options).exponents
    assert np.abs(other - expected).max() > 1e-3


def test_linear_regime_of_an_orthogonal_network_is_neutral() -> None:
    # Far on the positive side γ' = 1 - s: with s = 0 the network is linear, and Henaff's W_hh is orthogonal.
    network = GammaRNN(1, 6, heterogeneous=False, dtype=torch.float64)
    with torch.no_grad():
        network.gain_l0.fill_(20.0)
        network.bias_l0.copy_(100 * (torch.eye(6) - network.weight_hh_l0).sum(1))
    start = np.full((2, 6), 100.0) + np.random.RandomState(0).rand(2, 6)
    found = network_exponents(network, None, initial=start, steps=50, transient=0)
    np.testing.assert_allclose(found.exponents, 0, atol=1e-10)


IDENTITY = linear(torch.eye(2, dtype=torch.float64))
BAD_ARGUMENTS = {
    "k: got 3, expected at most 2": {"k": 3},
    "k: got 0, expected a whole number": {"k": 0},
    "steps: got 5, expected at least 10": {"steps": 5},
    "blocks: got 1, expected a whole number of at least 2": {"blocks": 1},
    "transient: got -1": {"transient": -1},
    "initial: got 1 values that are not finite": {"initial": [np.nan, 0.0]},
    r"initial: got shape \(1, 1, 2\)": {"initial": np.zeros((1, 1, 2))},
}


@pytest.mark.parametrize("sentence", BAD_ARGUMENTS)
def test_bad_argument(sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        lyapunov_exponents(IDENTITY, **({"initial": [1.0, 1.0]} | BAD_ARGUMENTS[sentence]))


def test_singular_jacobian_names_the_step_and_the_direction() -> None:
    ones = linear(torch.ones(2, 2, dtype=torch.float64))
    sentence = "The Jacobian at step 0 is singular: it maps direction 2 of 2 to zero, .* ask for k = 1 or fewer"
    with pytest.raises(AnalysisError, match=sentence):
        lyapunov_exponents(ones, [1.0, 1.0], None)
    assert lyapunov_exponents(ones, [0.0, 0.0], 1).exponents[0, 0] == pytest.approx(math.log(2))
    with pytest.raises(AnalysisError, match="The Jacobian at step 0 is singular: it maps direction 1 of 1"):
        lyapunov_exponents(linear(torch.zeros(2, 2, dtype=torch.float64)), [1.0, 1.0])


def test_runaway_is_told_from_a_singular_jacobian() -> None:
    with pytest.raises(AnalysisError, match=r"no longer finite at step \d+: the map runs away"):
        lyapunov_exponents(from_jacobian(henon, henon_jacobian), [5.0, 5.0])


def test_failures_of_some_initial_conditions_leave_the_others() -> None:
    tangent = from_jacobian(henon, henon_jacobian)
    starts = [[5.0, 5.0], [0.1, 0.1]]
    found = lyapunov_exponents(tangent, starts, 1, steps=400, transient=50, strict=False)
    assert np.isnan(found.exponents[0]).all()
    expected = lyapunov_exponents(tangent, starts[1:], 1, steps=400, transient=50)
    assert found.exponents[1, 0] == pytest.approx(expected.exponents[0, 0], abs=0.02)


def test_singular_directions_are_minus_infinity_on_request() -> None:
    matrix = torch.diag(torch.tensor([2.0, 0.5, 0.0], dtype=torch.float64))
    found = lyapunov_exponents(linear(matrix), np.ones((2, 3)), None, steps=60, transient=40, strict=False)
    np.testing.assert_allclose(found.exponents, [[math.log(2), math.log(0.5), -math.inf]] * 2, atol=1e-9)
    only = lyapunov_exponents(linear(0 * matrix), [1.0, 1.0, 1.0], 1, steps=10, strict=False)
    assert only.exponents.tolist() == [[-math.inf]]


def relu_network(weight: np.ndarray) -> torch.nn.RNN:
    network = torch.nn.RNN(1, len(weight), nonlinearity="relu", dtype=torch.float64)
    with torch.no_grad():
        network.weight_hh_l0.copy_(torch.from_numpy(weight))
    return network


def test_relu_network_with_positive_weights_is_linear() -> None:
    weight = np.random.RandomState(0).rand(4, 4)
    network = relu_network(weight)
    found = network_exponents(network, 1, steps=300, transient=100, bias=False)
    assert found.exponents[:, 0] == pytest.approx(math.log(np.abs(np.linalg.eigvals(weight)).max()), abs=1e-10)
    silent = network_exponents(relu_network(-weight), 1, steps=20, bias=False, strict=False)
    assert (silent.exponents == -math.inf).all()


def test_relu_tangent_is_the_jacobian_of_the_map() -> None:
    weight, current = random_matrix(4, 4), random_matrix(2, 4)
    h, vectors = random_matrix(5, 4), random_matrix(5, 4, 2)
    following, pushed = relu_tangent(weight, current)(h, vectors, 1)
    torch.testing.assert_close(following, (h @ weight.T + current[1]).relu())
    jacobian = torch.stack(
        [torch.autograd.functional.jacobian(lambda x: (weight @ x + current[1]).relu(), row) for row in h]
    )
    torch.testing.assert_close(pushed, jacobian @ vectors)


def test_arrays_that_cannot_be_written_are_read() -> None:
    """Such as those of numpy.broadcast_to: torch.from_numpy warns of them."""
    static, options = GammaRNN(1, 4), {"steps": 20, "transient": 2, "n_initial": 3}
    drive = np.broadcast_to(0.5, (1, 3, 1))
    found = network_exponents(static, 2, drive=drive, **options).exponents
    np.testing.assert_array_equal(found, network_exponents(static, 2, drive=0.5, **options).exponents)
    network = ARUN(1, 4, controller_size=2)
    held = np.broadcast_to(2.0, 4), np.broadcast_to(0.1, 4)
    found = network_exponents(network, 2, held=held, **options).exponents
    np.testing.assert_array_equal(found, network_exponents(network, 2, held=(2.0, 0.1), **options).exponents)


def test_bias_and_drive_act_as_asked() -> None:
    network = static_network()
    options = {"steps": 40, "transient": 10}
    plain = network_exponents(network, 2, bias=False, **options).exponents
    assert np.abs(plain - network_exponents(network, 2, **options).exponents).max() > 1e-3
    instead = network.bias_l0.detach().numpy()[None]
    np.testing.assert_allclose(
        network_exponents(network, 2, drive=instead, bias=False, **options).exponents,
        network_exponents(network, 2, **options).exponents,
        rtol=1e-12,
    )


@pytest.mark.parametrize(
    ("network", "arguments", "sentence"),
    [
        (static_network, {"held": (1.0, 0.0)}, "held: got n and s, expected None: only an ARUN's are held"),
        (adaptive_network, {"held": ([1.0, 2.0], 0.0)}, r"held n: got shape \(2,\), expected a number, \(3,\)"),
        (static_network, {"drive": np.zeros((5, 3))}, r"drive: got shape \(5, 3\), expected a number, \(T',\)"),
        (adaptive_network, {"initial": np.zeros((2, 3))}, "initial: got states of dimension 3, expected 15"),
        (lambda: torch.nn.RNN(1, 3), {}, "network: got an RNN with tanh, expected one with relu"),
        (lambda: torch.nn.LSTM(1, 3), {}, "network: got an LSTM, expected an ARUN or a GammaRNN"),
    ],
    ids=["held", "held-shape", "drive", "initial", "tanh", "kind"],
)
def test_arguments_that_do_not_fit_the_network(network: Callable, arguments: dict, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        network_exponents(network(), **arguments)
