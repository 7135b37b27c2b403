"""Claims on responses to a step: the jump of n and s and their decay, and the fractional order of neurons.

α > 0 integrates the step, α < 0 differentiates it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from aru_lab.experiments.paper import rules
from aru_lab.experiments.paper.claim import Analysis, Collection
from aru_lab.experiments.paper.evidence import BySeed, Evidence, Lacking, by_group, listed, minus
from aru_lab.experiments.paper.rules import GOOD_FIT, Outcome

COLLECTION = Collection()
claim = COLLECTION.claim

NETWORK, ISOLATED = 0, 1  # the first axis of the arrays
OF_THE_FIGURES = 20.0  # the amplitude of figures 4b and 4c
SMALLEST = 1.0  # the smallest amplitude of the claims on every ξ
SHARP = 0.5  # error at the minimum as a share of that at α ± 0.2
LEAST_DEVIATION = 0.1
LEAST_CLASS = 0.05

FRACTIONAL = Analysis("fractional", ("arun",))
CONVOLUTIONAL = "scifar10-conv-long"
OF_CONVOLUTIONAL = Analysis("fractional", ("arun",), CONVOLUTIONAL)

Arrays = Mapping[str, np.ndarray]


def at(arrays: Arrays, amplitude: float) -> int:
    """The place of an amplitude.

    Raises:
        Lacking: it was not measured.
    """
    (found,) = np.nonzero(np.isclose(arrays["amplitudes"], amplitude))
    if not len(found):
        raise Lacking(f"needs the amplitude {amplitude:g}, got {', '.join(f'{x:g}' for x in arrays['amplitudes'])}")
    return int(found[0])


def _of(evidence: Evidence, value: Callable[[Arrays], float], group: str = "psmnist") -> BySeed:
    return {seed: float(value(arrays)) for seed, arrays in evidence.arrays("fractional", group, "arun").items()}


def _at_20(evidence: Evidence, name: str, where: int) -> BySeed:
    return _of(evidence, lambda arrays: arrays[name][where, at(arrays, OF_THE_FIGURES)])


def _median(arrays: Arrays, name: str) -> float:
    """The median over ξ >= 1 of a quantity of the mean response of isolated neurons."""
    return float(np.median(arrays[name][ISOLATED, arrays["amplitudes"] >= SMALLEST]))


@claim(
    "C26",
    "2.3, C.1",
    "the filtered response restores the step",
    "R² of the filtered mean response of isolated neurons on the drive >= 0.9 (median over ξ >= 1)",
    "EX by seed",
    "R",
    FRACTIONAL,
)
def _(evidence: Evidence) -> list[Outcome]:
    found = listed(_of(evidence, lambda arrays: _median(arrays, "restored_r_squared")))
    return [rules.by_seed("R²", [r >= GOOD_FIT for r in found], note=f"mean {np.mean(found):.3f}")]


@claim(
    "C27",
    "2.3, C.1",
    "the minimum over α is sharp, in all seeds and both tasks",
    "error at α* below half of that at α* ± 0.2 (isolated, mean response, median over ξ >= 1)",
    "EX by seed",
    "R, P",
    FRACTIONAL,
    OF_CONVOLUTIONAL,
)
def _(evidence: Evidence) -> list[Outcome]:
    def sharp(group: str) -> list[Outcome]:
        found = listed(_of(evidence, lambda arrays: _median(arrays, "sharpness_of_mean"), group))
        note = f"mean share {np.mean(found):.2g}"
        return [rules.by_seed("sharp", [share < SHARP for share in found], note=note)]

    return by_group(("psmnist", CONVOLUTIONAL), sharp)


@claim(
    "C28",
    "2.3, 4b",
    "the fractional order differs between neurons",
    "sd of α over neurons in the network, ξ = 20, minus 0.1 > 0",
    "PT",
    "R",
    FRACTIONAL,
)
def _(evidence: Evidence) -> list[Outcome]:
    found = [deviation - LEAST_DEVIATION for deviation in listed(_at_20(evidence, "deviation", NETWORK))]
    return [rules.paired_t("sd of α - 0.1", found)]


@claim(
    "C29",
    "2.3, 4b",
    "in the network most neurons integrate",
    "share of neurons with α > 0, ξ = 20",
    "SH(.5)",
    "R",
    FRACTIONAL,
)
def _(evidence: Evidence) -> list[Outcome]:
    shares = listed(_at_20(evidence, "fraction_above_0", NETWORK))
    return [rules.share_above("share of α > 0", shares, 0.5)]


@claim(
    "C30",
    "2.3, 4c",
    "isolated, the distribution moves to α < 0",
    "mean α over neurons, ξ = 20, network minus isolated > 0",
    "PT",
    "R",
    FRACTIONAL,
)
def _(evidence: Evidence) -> list[Outcome]:
    orders = (_at_20(evidence, "mean_order", where) for where in (NETWORK, ISOLATED))
    return [rules.paired_t("mean α, network - isolated", listed(minus(*orders)))]


@claim(
    "C31",
    "2.3, 4c",
    "isolated, more than half of the neurons differentiate and the rest integrate",
    "share of isolated neurons with α < 0, ξ = 20; both classes at least 5%",
    "SH(.5); EX by seed",
    "R",
    FRACTIONAL,
)
def _(evidence: Evidence) -> list[Outcome]:
    below, above = (_at_20(evidence, f"fraction_{side}_0", ISOLATED) for side in ("below", "above"))
    both = [min(below[seed], above[seed]) >= LEAST_CLASS for seed in sorted(below)]
    return [rules.share_above("share of α < 0", listed(below), 0.5), rules.by_seed("both classes >= 5%", both)]


def _order(evidence: Evidence, amplitude: float, group: str = "psmnist") -> BySeed:
    """α of the mean response of isolated neurons."""
    return _of(evidence, lambda arrays: arrays["order_of_mean"][ISOLATED, at(arrays, amplitude)], group)


@claim(
    "C32",
    "2.3, 4d",
    "α depends on the task, at each ξ >= 1",
    "α of isolated neurons' mean response, psMNIST against sCIFAR10 with the convolutional encoder",
    "WT each",
    "P",
    FRACTIONAL,
    OF_CONVOLUTIONAL,
)
def _(evidence: Evidence) -> list[Outcome]:
    (first, *_), (second, *_) = (
        evidence.arrays("fractional", group, "arun").values() for group in ("psmnist", CONVOLUTIONAL)
    )
    shared = [xi for xi in first["amplitudes"] if xi >= SMALLEST and np.isclose(second["amplitudes"], xi).any()]
    return [
        rules.between_tasks(
            f"α at ξ = {xi:g}", *(listed(_order(evidence, xi, group)) for group in ("psmnist", CONVOLUTIONAL))
        )
        for xi in shared
    ]


@claim(
    "C33",
    "2.3, 4d",
    "α rises with low ξ to a plateau",
    "α of isolated neurons' mean response: α(30) - α(1) > 0; (α(15) - α(1)) - (α(30) - α(15)) > 0",
    "PT both (the paper's paired t is the first, two-sided)",
    "R",
    FRACTIONAL,
)
def _(evidence: Evidence) -> list[Outcome]:
    low, middle, high = (_order(evidence, xi) for xi in (1.0, 15.0, 30.0))
    plateau = minus(minus(middle, low), minus(high, middle))
    return [
        rules.paired_t("α(30) - α(1)", listed(minus(high, low))),
        rules.paired_t("rise to 15 - rise from 15", listed(plateau)),
    ]
