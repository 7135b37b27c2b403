"""Fixed points of networks whose fixed points are known, trajectories by condition, and their figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from aru_kernels import ARUN, GammaRNN
from aru_lab.analysis.fixed_points import FixedPoints, analyse_fixed_points, find_fixed_points, maps_of
from aru_lab.analysis.lyapunov import from_map
from aru_lab.analysis.settings import Settings
from aru_lab.analysis.trajectories import analyse_trajectories, conditions_of, periods_of, states_of
from aru_lab.cli import main
from aru_lab.errors import ConfigError
from aru_lab.experiments.analyse import analyse
from aru_lab.plots.paper.draw import draw
from aru_lab.runs.analyses import AnalysisFolder, Run

from .conftest import quiet, train_tiny

SETTINGS = Settings(sequences=40, starts=3, descent=150)
TASKS = {
    "arun": "context-integration:dt=100,trials=80",
    "relu": "delayed-match-to-sample:dt=100,trials=80",
    "gamma-heterogeneous": "copy:length=2,delay=4,trials=80",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    own: dict[str, Any] = {"subset": None, "validation_subset": None, "epochs": 2}
    return {model: train_tiny(folder, model, task=task, **own) for model, task in TASKS.items()}


def points_of(found: FixedPoints) -> np.ndarray:
    """The fixed points, rising by their first coordinate."""
    states = found.states[found.fixed]
    return states[np.argsort(states[:, 0])]


def test_a_network_with_three_fixed_points() -> None:
    """h -> tanh(2 h), one neuron beside others that decay: 0 is a saddle, and ±0.9575 are stable."""
    W = torch.diag(torch.tensor([2.0, 0.5, -0.3], dtype=torch.float64))

    def step(h: torch.Tensor) -> torch.Tensor:
        return torch.tanh(h @ W.T)

    starts = np.random.default_rng(0).uniform(-1.2, 1.2, (60, 3))
    found = find_fixed_points(step, from_map(step), starts)
    root = 0.9575040240772687
    np.testing.assert_allclose(points_of(found), [[-root, 0, 0], [0, 0, 0], [root, 0, 0]], atol=1e-12)
    assert found.fixed.all()
    assert (found.q < 1e-24).all()
    assert found.counts.sum() + found.lost == 60
    for state, values, unstable in zip(found.states, found.eigenvalues, found.n_unstable, strict=True):
        slope = 1 - np.tanh(2 * state[0]) ** 2
        expected = np.array([2 * slope, 0.5, -0.3])
        expected = expected[np.argsort(-abs(expected))]
        np.testing.assert_allclose(values, expected, atol=1e-10)
        assert unstable == (abs(state[0]) < 0.1)


def test_a_rotation_has_complex_eigenvalues() -> None:
    angle, radius = 0.3, 1.1
    A = radius * torch.tensor([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], dtype=torch.float64)
    b = torch.tensor([0.2, -0.1], dtype=torch.float64)
    found = find_fixed_points(lambda z: z @ A.T + b, lambda z, v, t: (z @ A.T + b, A @ v), [[0.5, 0.5], [-0.5, 1.0]])
    np.testing.assert_allclose(found.states, [np.linalg.solve(np.eye(2) - A.numpy(), b.numpy())], atol=1e-10)
    np.testing.assert_allclose(np.sort_complex(found.eigenvalues[0]), radius * np.exp([-1j * angle, 1j * angle]))
    assert found.counts.tolist() == [2]
    assert found.n_unstable.tolist() == [2]


def test_a_slow_point_is_no_fixed_point() -> None:
    """x -> x + x² + 1e-3 has no fixed point, and is slowest at x = 0."""

    def step(x: torch.Tensor) -> torch.Tensor:
        return x + x**2 + 1e-3

    found = find_fixed_points(step, from_map(step), [[0.2], [-0.3]])
    assert not found.fixed.any()
    np.testing.assert_allclose(found.states, [[0.0]], atol=2e-3)
    assert found.q[0] == pytest.approx(0.5e-6, rel=0.05)
    assert find_fixed_points(lambda x: x + 1, lambda x, v, t: (x + 1, v), [[0.0]]).lost == 1


def test_a_line_attractor_is_followed_without_an_error() -> None:
    """Every point of the first axis is a fixed point, where Newton's matrix is singular."""
    A = torch.diag(torch.tensor([1.0, 0.5], dtype=torch.float64))
    found = find_fixed_points(lambda z: z @ A.T, lambda z, v, t: (z @ A.T, A @ v), [[0.5, 0.3], [-0.5, 0.3]])
    assert len(found.q) == 2
    assert (found.q < 1e-10).all()
    np.testing.assert_allclose(found.eigenvalues, [[1, 0.5]] * 2)


@pytest.mark.parametrize("kind", ["arun", "arun with a leak", "gamma", "gamma with a leak", "relu"])
def test_maps_are_those_of_the_layers(kind: str) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"dtype": torch.float64} | ({"leak": 0.4} if "leak" in kind else {})
    if kind == "relu":
        network: nn.Module = nn.RNN(2, 5, nonlinearity="relu", dtype=torch.float64)
    elif kind.startswith("arun"):
        network = ARUN(2, 5, controller_size=3, **options)
    else:
        network = GammaRNN(2, 5, **options)
    x = torch.randn(2, dtype=torch.float64)
    step, tangent = maps_of(network, x)
    h = torch.rand(1, 4, 5, dtype=torch.float64)
    state: Any = (h, torch.rand(1, 4, 5, 3, dtype=torch.float64)) if kind.startswith("arun") else h
    z = torch.cat([one[0].flatten(1) for one in (state if isinstance(state, tuple) else (state,))], dim=1)
    with torch.no_grad():
        _, last = network(x.expand(1, 4, 2), state)
    expected = torch.cat([one[0].flatten(1) for one in (last if isinstance(last, tuple) else (last,))], dim=1)
    torch.testing.assert_close(step(z), expected)
    vectors = torch.eye(z.shape[1], dtype=torch.float64).expand(4, -1, -1)
    following, jacobian = tangent(z, vectors, 0)
    torch.testing.assert_close(following, expected)
    torch.testing.assert_close(jacobian, from_map(step)(z, vectors, 0)[1])


def test_fixed_points_of_a_trained_network_stay_where_they_are(runs: dict[str, Path]) -> None:
    run = runs["gamma-heterogeneous"]
    assert (
        main(["analyse", str(run), "fixed-points", "--sequences", "40", "--starts", "3", "--descent", "400", "--quiet"])
        == 0
    )
    found = AnalysisFolder(run).load("fixed-points")
    assert found["input_step"] == 4  # the step before the signal: symbols at 0 and 1, blanks at 2, ..., signal at 5
    np.testing.assert_allclose(found["inputs"], [[0] * 8 + [1, 0]])
    assert found["fixed"].any()
    network = Run(run).network.double()
    for state, fixed in zip(found["states"], found["fixed"], strict=True):
        if fixed:
            h = torch.from_numpy(state).reshape(1, 1, -1)
            with torch.no_grad():
                _, last = network(torch.from_numpy(found["inputs"][0]).reshape(1, 1, -1), h)
            torch.testing.assert_close(last, h, atol=1e-7, rtol=0)


def test_contexts_have_inputs_of_their_own(runs: dict[str, Path]) -> None:
    analyse(runs["arun"], ["trajectories"], SETTINGS, console=quiet())
    run = Run(runs["arun"])
    found = analyse_fixed_points(run, SETTINGS, lambda done, total: None).arrays
    assert found["groups"].tolist() == ["colour context", "motion context"]
    for inputs, context in zip(found["inputs"], ([0, 1], [1, 0]), strict=True):
        np.testing.assert_allclose(inputs[[0, 5, 6]], [1, *context], atol=1e-6)
        assert abs(inputs[1:5]).max() < 0.1  # noise of the delay
    assert found["states"].shape[1] == 6 * (1 + 3)
    assert set(found["group"].tolist()) <= {0, 1}
    with pytest.raises(ConfigError, match="input_step: got 99, expected at most"):
        analyse_fixed_points(run, Settings(sequences=10, input_step=99), lambda done, total: None)
    with pytest.raises(ConfigError, match="descent: got 0"):
        Settings(descent=0)


def test_trajectories_are_means_of_the_conditions(runs: dict[str, Path]) -> None:
    for model, n_conditions in (("arun", 12), ("relu", 4), ("gamma-heterogeneous", 8)):
        run = Run(runs[model])
        found = analyse_trajectories(run, SETTINGS, lambda done, total: None).arrays
        x, examples = run.padded_sequences(SETTINGS.sequences)
        h = states_of(run.network, x).double().numpy()
        members = conditions_of(run, examples)
        assert len(members) <= n_conditions
        np.testing.assert_array_equal(np.sum(list(members.values()), axis=0), 1)
        for k, of in enumerate(members.values()):
            mean = h[:, of].mean(axis=1)
            np.testing.assert_allclose(found["scores"][k], (mean - found["mean"]) @ found["axes"].T, atol=1e-8)
            assert (found["counts"][k] == of.sum()).all()
        assert found["names"].tolist() == list(members)
        assert found["period_starts"][0] == 0
        assert len(found["periods"]) == len(periods_of(run, len(x))) >= 3


def test_other_data_have_classes_as_conditions(trained: dict[str, Path]) -> None:
    run = Run(trained["arun"])
    found = analyse_trajectories(run, SETTINGS, lambda done, total: None).arrays
    assert set(found["names"].tolist()) <= set("0123456789")
    assert found["periods"].tolist() == ["sequence"]
    with pytest.raises(ConfigError, match=r"trajectories: .* is a run of lstm"):
        analyse(trained["lstm"], ["trajectories"], SETTINGS, console=quiet())


def test_the_figures(runs: dict[str, Path], tmp_path: Path) -> None:
    for model, run in runs.items():
        analyse(run, ["fixed-points"], SETTINGS, console=quiet())
        for name in ("trajectories", "fixed-points"):
            png, _ = draw(name, [run], tmp_path / model)
            assert png.stat().st_size > 20_000
