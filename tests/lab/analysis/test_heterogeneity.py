"""n and s over neurons: read from parameters or from what an adaptive network does, summarised and compared."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from aru_kernels import ARUN, GammaRNN
from aru_lab.analysis.heterogeneity import QUANTILES, compare, neuron_shapes, summarise
from aru_lab.errors import ConfigError


@pytest.mark.parametrize("heterogeneous", [True, False])
def test_static_network_has_its_parameters(heterogeneous: bool) -> None:
    network = GammaRNN(1, 5, heterogeneous=heterogeneous)
    found = neuron_shapes(network)
    np.testing.assert_allclose(found.n, network.gain_l0.detach().double().expand(5).numpy())
    np.testing.assert_allclose(found.s, network.saturation_l0.detach().double().expand(5).numpy())
    assert not found.n_deviation.any()
    assert not found.s_deviation.any()


@pytest.mark.parametrize("batch_size", [3, 7, 100])
@pytest.mark.parametrize("batch_first", [False, True])
def test_adaptive_network_has_means_over_what_it_reads(batch_size: int, batch_first: bool) -> None:
    network = ARUN(2, 5, controller_size=4, batch_first=batch_first, dtype=torch.float64)
    x = torch.randn(11, 7, 2, dtype=torch.float64)
    _, _, trace = network(x.transpose(0, 1) if batch_first else x, return_trace=True)
    found = neuron_shapes(network, x, batch_size)
    for name in ("n", "s"):
        values = getattr(trace, name).detach().numpy()
        np.testing.assert_allclose(getattr(found, name), values.mean((0, 1)), rtol=1e-12)
        np.testing.assert_allclose(getattr(found, f"{name}_deviation"), values.std((0, 1)), rtol=1e-8)


def test_summary() -> None:
    values = np.random.RandomState(0).randn(101)
    found = summarise(values)
    assert found.quantiles[2] == np.median(values)
    assert len(found.quantiles) == len(QUANTILES)
    assert (found.mean, found.deviation) == (values.mean(), values.std())
    assert (found.lowest, found.highest) == (values.min(), values.max())


def test_equal_distributions_do_not_differ() -> None:
    values = np.random.RandomState(0).randn(50)
    same = compare(values, values)
    assert (same.distance, same.statistic, same.p_value, same.moved) == (0, 0, 1, 0)


def test_shift_is_the_distance_and_is_found_significant() -> None:
    values = np.random.RandomState(0).randn(80)
    moved = compare(values, values[::-1] + 2.0)
    assert moved.distance == pytest.approx(2)
    assert moved.p_value < 1e-6
    assert moved.moved == pytest.approx(np.abs(values[::-1] + 2 - values).mean())
    assert np.isnan(compare(values, values[:-1]).moved)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: neuron_shapes(ARUN(1, 3, controller_size=2)),
            r"x: got None, expected \(T, B, I\): the n and s of an ARUN depend",
        ),
        (
            lambda: neuron_shapes(ARUN(1, 3, controller_size=2), torch.zeros(4, 2)),
            r"x: got shape \(4, 2\), expected \(T, B, 1\)",
        ),
        (
            lambda: neuron_shapes(ARUN(1, 3, controller_size=2), torch.zeros(4, 0, 1)),
            r"x: got shape \(4, 0, 1\), .* not empty",
        ),
        (lambda: neuron_shapes(ARUN(1, 3, controller_size=2), torch.zeros(4, 2, 1), 0), "batch_size: got 0"),
        (lambda: neuron_shapes(torch.nn.RNN(1, 3)), "network: got an RNN, expected an ARUN or a GammaRNN"),
        (lambda: summarise([]), r"values: got an array of shape \(0,\), expected at least 1"),
        (lambda: compare([1.0], [np.nan]), "after: got 1 values that are not finite"),
    ],
    ids=["none", "unbatched", "empty", "batch", "kind", "values", "nan"],
)
def test_refusals(call: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        call()
