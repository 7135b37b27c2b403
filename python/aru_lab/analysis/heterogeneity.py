"""How different the neurons are: the distribution of n and s over them, before and after training and retraining.

A GammaRNN's n and s are parameters. An ARUN's change from step to step: a neuron's are their means over what it reads,
and their deviations say how much it adapts. Source: Geadah et al. 2024, heterogeneity.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import nn

from aru_kernels import ARUN
from aru_lab.analysis import checks
from aru_lab.analysis.network import check_network, layer_of
from aru_lab.analysis.parts import Part, Report
from aru_lab.analysis.settings import Settings
from aru_lab.errors import ConfigError
from aru_lab.runs.analyses import Result, Run, Table

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Neurons:
    """n and s of every neuron, (H,) each, and their standard deviations over time and sequences (0 if static)."""

    n: np.ndarray
    s: np.ndarray
    n_deviation: np.ndarray
    s_deviation: np.ndarray


@dataclass(frozen=True)
class Summary:
    """Distribution of one quantity over neurons: mean, standard deviation, QUANTILES and range."""

    mean: float
    deviation: float
    quantiles: tuple[float, ...]
    lowest: float
    highest: float


@dataclass(frozen=True)
class Change:
    """Two distributions compared.

    distance: Wasserstein distance, in units of the quantity; statistic, p_value: of the two-sample Kolmogorov-Smirnov
    test; moved: mean over neurons of |after - before|, NaN where the numbers of neurons differ.
    """

    distance: float
    statistic: float
    p_value: float
    moved: float


def neuron_shapes(network: nn.Module, x: Any = None, batch_size: int = 100) -> Neurons:
    """n and s of every neuron of a network.

    Args:
        network: ARUN or GammaRNN of one layer.
        x: (T, B, I), what an ARUN reads; a GammaRNN needs none.
        batch_size: sequences at once.

    Raises:
        ConfigError: another kind of network, an ARUN without x, or x of another shape.
    """
    check_network(network)
    if not isinstance(network, ARUN):
        layer = layer_of(network)
        zero = np.zeros(layer.hidden_size)
        return Neurons(layer.gain.numpy().copy(), layer.saturation.numpy().copy(), zero, zero.copy())
    if x is None:
        raise ConfigError("x: got None, expected (T, B, I): the n and s of an ARUN depend on what it reads.")
    weight = network.weight_hh_l0
    x = torch.as_tensor(x).to(weight)
    if x.dim() != 3 or x.shape[2] != network.input_size or not x.numel():
        raise ConfigError(f"x: got shape {tuple(x.shape)}, expected (T, B, {network.input_size}), not empty.")
    count, sums, squares = 0, 0.0, 0.0
    centre = None
    for part in x.split(checks.whole("batch_size", batch_size), dim=1):
        with torch.no_grad():
            _, _, trace = network(part.transpose(0, 1) if network.batch_first else part, return_trace=True)
        values = torch.stack([trace.n, trace.s]).double().flatten(1, 2)  # (2, steps, H)
        # Deviations from the first batch's mean: a sum of squares of large numbers would cancel.
        centre = values.mean(1, keepdim=True) if centre is None else centre
        count += values.shape[1]
        sums, squares = sums + (values - centre).sum(1), squares + ((values - centre) ** 2).sum(1)
    mean = sums / count
    deviation = (squares / count - mean**2).clamp(min=0).sqrt().cpu().numpy()
    mean = (centre[:, 0] + mean).cpu().numpy()
    return Neurons(mean[0], mean[1], deviation[0], deviation[1])


def summarise(values: Any) -> Summary:
    """The distribution of `values` (N,) over neurons."""
    x = checks.array("values", values, ndim=1)
    return Summary(
        float(x.mean()), float(x.std()), tuple(map(float, np.quantile(x, QUANTILES))), float(x.min()), float(x.max())
    )


def compare(before: Any, after: Any) -> Change:
    """How two distributions over neurons differ, for example n before and after training.

    Args:
        before, after: (N,) and (M,).
    """
    a, b = checks.array("before", before, ndim=1), checks.array("after", after, ndim=1)
    with warnings.catch_warnings():
        # The exact p-value of near-equal samples overflows; scipy then takes the asymptotic one.
        warnings.simplefilter("ignore", RuntimeWarning)
        test = stats.ks_2samp(a, b)
    moved = float(np.abs(a - b).mean()) if len(a) == len(b) else float("nan")
    return Change(float(stats.wasserstein_distance(a, b)), float(test.statistic), float(test.pvalue), moved)


def analyse_heterogeneity(run: Run, settings: Settings, report: Report) -> Result:
    """n and s over neurons before and after training, and after retraining."""
    moments = {}
    for done, (when, model) in enumerate((("before", run.initial_model), ("after", run.model))):
        x, _ = run.sequences(settings.sequences, model)
        moments[when] = neuron_shapes(model.recurrent, x)
        report(done + 1, 2)
    if run.retrained is not None:
        x, _ = run.retrained.sequences(settings.sequences)
        moments["retrained"] = neuron_shapes(run.retrained.network, x)
    return heterogeneity_result(moments)


def heterogeneity_result(moments: dict[str, Neurons]) -> Result:
    """Arrays and tables of n and s at some moments, the first "before" and the others compared with the one ahead."""
    arrays, rows, changes = {}, [], []
    for name in ("n", "s"):
        values = {when: getattr(neurons, name) for when, neurons in moments.items()}
        arrays |= {f"{name}_{when}": x for when, x in values.items()}
        arrays |= {f"{name}_deviation_{when}": getattr(x, f"{name}_deviation") for when, x in moments.items()}
        for when, x in values.items():
            summary = summarise(x)
            rows.append(
                (name, when, summary.mean, summary.deviation, *summary.quantiles, summary.lowest, summary.highest)
            )
        for a, b in pairwise(values):
            change = compare(values[a], values[b])
            changes.append((name, a, b, change.distance, change.statistic, change.p_value, change.moved))
    both = [np.stack([neurons.n, neurons.s]) for neurons in moments.values()]
    arrays |= {
        "deviation": np.array([values.std(1) for values in both]),
        "determinant": np.array([np.linalg.det(np.cov(values, bias=True)) for values in both]),
    }
    quantiles = tuple(f"quantile_{q:g}" for q in QUANTILES)
    spread = " and ".join(
        f"{name} {arrays[f'{name}_before'].std():.3g} to {arrays[f'{name}_after'].std():.3g}" for name in ("n", "s")
    )
    return Result(
        arrays | {"moments": np.array(list(moments))},
        {
            "heterogeneity": Table(("of", "moment", "mean", "deviation", *quantiles, "lowest", "highest"), rows),
            "heterogeneity-changes": Table(
                ("of", "from", "to", "wasserstein", "ks_statistic", "ks_p", "mean_move"), changes
            ),
        },
        f"deviation over neurons before and after training: {spread}",
    )


PART = Part(analyse_heterogeneity, ("sequences", "retrained"))
