"""h, n and s on test sequences: means by class, padding left out, and the figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import aru_lab
from aru_kernels import ARUN
from aru_lab.analysis.settings import Settings
from aru_lab.analysis.states import analyse_states
from aru_lab.plots.paper.draw import draw
from aru_lab.runs.analyses import Run
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.training import train

from .conftest import SETTINGS, quiet


@pytest.fixture(scope="module")
def padded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on sequences of 3 to 9 steps of classes with names, with NaN as padding."""
    folder = tmp_path_factory.mktemp("padded")
    generator = np.random.default_rng(0)
    lengths = generator.integers(3, 10, 80)
    labels = np.where(np.arange(80) % 2, "left", "right")
    x = generator.normal(size=(80, 9, 2)) + np.where(labels == "left", 1.0, -1.0)[:, None, None]
    x[np.arange(9) >= lengths[:, None]] = np.nan
    np.savez(folder / "data.npz", x=x, y=labels, lengths=lengths)
    config = TrainConfig(
        task=str(folder / "data.npz"), hidden_size=8, controller_size=3, epochs=2, device="cpu", output=folder / "run"
    )
    return train(config, quiet()).run


def test_means_are_those_of_the_predicted_states(padded: Path) -> None:
    run = Run(padded)
    found = analyse_states(run, Settings(sequences=1000), lambda done, total: None).arrays
    test, names = run.test, aru_lab.load(padded).target.names
    assert found["names"].tolist() == ["all", "left", "right"]
    for k, of in enumerate((np.ones(len(test), bool), test.y == 0, test.y == 1)):
        x, lengths = torch.from_numpy(test.x[of]).transpose(0, 1), test.lengths[of]
        with torch.no_grad():
            h, *_, trace = run.network(x, return_trace=True)
        there = np.arange(9)[:, None] < lengths
        for name, values in (("h", h), ("n", trace.n), ("s", trace.s)):
            for t in np.flatnonzero(there.any(1)):
                expected = values.numpy()[t, there[t]].mean(0)
                np.testing.assert_allclose(found[name][k, t], expected.mean(), rtol=1e-5, atol=1e-6)
                np.testing.assert_allclose(found[f"{name}_deviation"][k, t], expected.std(), rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(found["counts"][k], there.sum(1))
    assert names == ("left", "right")
    example = found["n_example"]
    assert example.shape == (9, 6)
    np.testing.assert_array_equal(np.isnan(example).any(1), np.arange(9) >= test.lengths[0])


def test_neurons_are_those_whose_gain_varies_most(trained: dict[str, Path]) -> None:
    run = Run(trained["arun"])
    assert isinstance(run.network, ARUN)
    found = analyse_states(run, SETTINGS, lambda done, total: None).arrays
    assert found["counts"][0].tolist() == [SETTINGS.sequences] * found["h"].shape[1]
    assert found["neurons"].tolist() == list(range(6))  # it has six
    assert found["names"][0] == "all"
    assert found["counts"][1:].sum(0).tolist() == found["counts"][0].tolist()


def test_no_analysis_reads_padding(padded: Path) -> None:
    """The others take the longer half of the sequences, cut to the median length."""
    run = Run(padded)
    lengths = run.test.lengths
    median = int(np.median(lengths))
    x, y = run.sequences(1000)
    assert 3 < median < 9
    assert x.shape == (median, (lengths >= median).sum(), 2)
    np.testing.assert_array_equal(x.transpose(0, 1).numpy(), run.test.x[lengths >= median][:, :median])
    np.testing.assert_array_equal(y.numpy(), run.test.y[lengths >= median])
    assert run.sequences(2)[0].shape[1] == 2


def test_the_figure(analysed: dict[str, Path], tmp_path: Path) -> None:
    for model in ("arun", "gamma-heterogeneous"):
        written = draw("states", [analysed[model]], tmp_path / model)
        assert [path.name for path in written] == ["figure-states.png", "figure-states.pdf"]
        assert all(path.stat().st_size > 5_000 for path in written)
