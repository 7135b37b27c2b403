"""Claims on gain scaling: n, s and the output of the ARUN at steady state under noise."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from aru_lab.experiments.paper import rules
from aru_lab.experiments.paper.claim import Analysis, Collection
from aru_lab.experiments.paper.evidence import Evidence, listed, minus
from aru_lab.experiments.paper.rules import Outcome

COLLECTION = Collection()
claim = COLLECTION.claim

GAIN_SCALING = Analysis("gain-scaling", ("arun",))


def form_is_favoured(arrays: Mapping[str, np.ndarray], at: tuple[int, ...], form: str, other: str) -> bool:
    """The condition of FIT for one fitted course, from the arrays of `fits.compared`."""
    kinds = arrays["fit_curves"].tolist()
    k = kinds.index(form)
    low, high = arrays["fit_parameters"][at][k, 1:, 1]
    criteria = arrays["fit_aicc"][at]
    others = [criteria[kinds.index(kind)] for kind in ("line", other)]
    return rules.fit_is_good(arrays["fit_r_squared"][at][k], (low, high), criteria[k], others)


def _fit(evidence: Evidence, row: int, name: str, form: str, other: str) -> list[Outcome]:
    files = evidence.arrays("gain-scaling", "psmnist", "arun")
    met = [form_is_favoured(files[seed], (row,), form, other) for seed in sorted(files)]
    k = files[min(files)]["fit_curves"].tolist().index(form)
    exponents = ", ".join(f"{files[seed]['fit_parameters'][row, k, 0, 1]:.2g}" for seed in sorted(files))
    return [rules.by_seed(f"{name}(ξ): {form}", met, "FIT", f"exponents {exponents}")]


@claim(
    "C21",
    "2.3, 3b",
    "the steady-state gain n(ξ) is a power law of the noise's deviation ξ",
    "fit of a ξ^-b + c to n over ξ >= 1, against a line and an exponential",
    "FIT",
    "R",
    GAIN_SCALING,
)
def _(evidence: Evidence) -> list[Outcome]:
    return _fit(evidence, 0, "n", "power", "exponential")


@claim(
    "C22",
    "2.3, 3b",
    "the steady-state saturation s(ξ) is an exponential",
    "fit of a e^(-bξ) + c to s over ξ >= 1, against a line and a power law",
    "FIT",
    "R",
    GAIN_SCALING,
)
def _(evidence: Evidence) -> list[Outcome]:
    return _fit(evidence, 1, "s", "exponential", "power")


def slope(arrays: Mapping[str, np.ndarray], name: str) -> float:
    """The slope of log(mean over repeats) against log ξ, for ξ >= 1; NaN where a mean is not above 0."""
    chosen = arrays["amplitudes"] >= 1
    y = arrays[name][chosen].mean(1)
    if chosen.sum() < 2 or not (y > 0).all():
        return np.nan
    return float(np.polyfit(np.log(arrays["amplitudes"][chosen]), np.log(y), 1)[0])


@claim(
    "C23",
    "2.3, 3b",
    "the range of γ is allocated in proportion to the spread of the input",
    "slope of log sd(h)/ξ against log ξ, ξ >= 1, below 0 (-1: in proportion); also dE[h]/dξ",
    "PT",
    "R",
    GAIN_SCALING,
)
def _(evidence: Evidence) -> list[Outcome]:
    files = evidence.arrays("gain-scaling", "psmnist", "arun")
    slopes = {seed: -slope(of, "effective_gain") for seed, of in files.items()}
    means = [np.polyfit(of["amplitudes"], of["mean_h"].mean(1), 1)[0] for of in files.values()]
    outcome = rules.paired_t("-slope of sd(h)/ξ", listed(slopes))
    return [rules.noted(outcome, f"dE[h]/dξ {np.mean(means):.2g}")]


@claim(
    "C24",
    "2.3",
    "adaptation lessens the variation of the output distribution",
    "slope of log sd(h) against log ξ, ξ >= 1: n and s held at those of low noise, minus adaptive > 0",
    "PT",
    "R",
    GAIN_SCALING,
)
def _(evidence: Evidence) -> list[Outcome]:
    files = evidence.arrays("gain-scaling", "psmnist", "arun")
    held, adaptive = (
        {seed: slope(of, name) for seed, of in files.items()} for name in ("deviation_h_held", "deviation_h")
    )
    return [rules.paired_t("slope of sd(h), held - adaptive", listed(minus(held, adaptive)))]
