"""The paper's claims that the figures show. Each has a number measured on the runs, and a verdict.

Claims are worded after the paper's abstract and the description of its analyses. Seeds are the unit of every test,
because neurons of one network are not independent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from aru_kernels.functional import gamma
from aru_lab.analysis.heterogeneity import compare
from aru_lab.errors import RunError
from aru_lab.experiments.tables import spread
from aru_lab.experiments.verdicts import ALPHA, GOOD_FIT, UNTESTED, by_p, exactly, in_every_seed, p_value
from aru_lab.plots.style import MODELS
from aru_lab.runs.analyses import AnalysisFolder
from aru_lab.runs.sensitivity import LABELS, kept_sweeps

Runs = Mapping[str, Sequence[Path]]


@dataclass(frozen=True)
class Finding:
    """One claim of the paper in words, the number measured here, the test with its p-value, and the verdict.

    p is None where the claim has no test, or the seeds do not permit it. `exact` claims do not depend on training.
    """

    claim: str
    number: str
    verdict: str
    test: str = ""
    p: float | None = None
    exact: bool = False


def findings(number: str, runs: Runs) -> list[Finding]:
    """The claims of a figure.

    Args:
        number: of the figure, 1 to 6 or appendix.
        runs: by model, the folders of its analysed runs, one a seed.

    Returns:
        One or more findings; what the files do not permit is "not tested", with the reason as its number.
    """
    found: list[Finding] = []
    for claim, judge in CLAIMS[number]:
        try:
            found += judge(claim, runs)
        except RunError as error:
            found.append(Finding(claim, str(error), UNTESTED))
    return found


def _tested(claim: str, number: str, test: str, p: float | None, *, right: bool = True, sided: bool = True) -> Finding:
    return Finding(claim, number, by_p(p, right, sided), test, p)


def _load(runs: Runs, model: str, part: str) -> list[dict[str, np.ndarray]]:
    if not runs.get(model):
        raise RunError(f"There is no run of {model}.")
    return [AnalysisFolder(path).load(part) for path in runs[model]]


def _activation(claim: str, _: Runs) -> list[Finding]:
    x = torch.linspace(-5, 5, 1001, dtype=torch.float64)
    softplus = (gamma(x, 5.0, 0.0) - torch.logaddexp(5 * x, torch.zeros_like(x)) / 5).abs().max().item()
    sigmoid = (gamma(x, 5.0, 1.0) - torch.sigmoid(5 * x)).abs().max().item()
    steps = [(gamma(x, n, 0.0) - x.relu()).abs().max().item() for n in (5.0, 50.0, 500.0)]
    holds = max(softplus, sigmoid) < 1e-12 and steps[0] > steps[1] > steps[2]
    number = (
        f"largest deviation from the softplus {softplus:.1g}, from the sigmoid {sigmoid:.1g}; from ReLU "
        f"{steps[0]:.2g}, {steps[1]:.2g}, {steps[2]:.2g} at n = 5, 50, 500"
    )
    return [Finding(claim, number, exactly(holds), exact=True)]


def _robust(claim: str, runs: Runs) -> list[Finding]:
    means: dict[str, dict[str, list[float]]] = {}
    for model in ("relu", "gamma-heterogeneous", "arun"):
        for path in runs.get(model, ()):
            for sweep, kept in kept_sweeps(path).items():
                accuracy = np.mean([score.accuracy for score in kept.scores.values()])
                means.setdefault(model, {}).setdefault(sweep, []).append(100 * float(accuracy))
    found = []
    for sweep in LABELS:
        for model in ("gamma-heterogeneous", "arun"):
            ours, baseline = means.get(model, {}).get(sweep, []), means.get("relu", {}).get(sweep, [])
            named = f"{MODELS[model][0]}, {sweep.replace('-', ' ')}: {claim}"
            if not (ours and baseline):
                found.append(Finding(named, "not measured", UNTESTED))
                continue
            p = p_value(stats.ttest_ind, ours, baseline, equal_var=False, alternative="greater")
            number = f"mean accuracy {spread(ours, unit='%')} against {spread(baseline, unit='%')}"
            found.append(_tested(named, number, "Welch's t, one-sided", p))
    return found


def _fractional(claim: str, runs: Runs) -> list[Finding]:
    files = _load(runs, "arun", "fractional")
    found = []
    for c, name in enumerate(("in the network", "isolated")):
        orders = [float(content["order_of_mean"][c, -1]) for content in files]
        p = p_value(stats.ttest_1samp, orders, popmean=0.0)
        number = f"order α of the mean response at ξ = {files[0]['amplitudes'][-1]:g}: {spread(orders)}"
        inside = False
        if p is not None:
            low, high = stats.t.interval(1 - ALPHA, len(orders) - 1, np.mean(orders), stats.sem(orders))
            number += f", {1 - ALPHA:.0%} interval [{low:.3g}, {high:.3g}]"
            inside = 0 < low <= high < 1 or -1 < low <= high < 0
        test = "t of α = 0; the interval must lie within ±1"
        found.append(_tested(f"ARUN {name}: {claim}", number, test, p, right=inside, sided=False))
    return found


def _adapts(claim: str, runs: Runs) -> list[Finding]:
    ours, static = (
        [abs(float(content["order_of_mean"][1, -1])) for content in _load(runs, model, "fractional")]
        for model in ("arun", "gamma-heterogeneous")
    )
    p = p_value(stats.ttest_ind, ours, static, equal_var=False, alternative="greater")
    number = f"|α| of isolated neurons: ARUN {spread(ours)}, RNN+γ het. {spread(static)}"
    return [_tested(claim, number, "Welch's t, one-sided", p)]


def _gain_falls(claim: str, runs: Runs) -> list[Finding]:
    files = _load(runs, "arun", "gain-scaling")
    slopes = [stats.spearmanr(f["amplitudes"][1:], f["n"][1:].mean(1)).statistic for f in files]
    p = p_value(stats.ttest_1samp, slopes, popmean=0.0, alternative="less")
    if p is None and len(slopes) > 1 and np.ptp(slopes) == 0:  # all seeds have the same extreme rank correlation
        tests = [stats.spearmanr(f["amplitudes"][1:], f["n"][1:].mean(1), alternative="less").pvalue for f in files]
        p = float(stats.combine_pvalues(tests).pvalue)
        test = "Spearman's ρ, one-sided, combined over seeds after Fisher"
    else:
        test = "t of ρ over seeds, one-sided"
    return [_tested(claim, f"rank correlation of n with the deviation of the noise ρ = {spread(slopes)}", test, p)]


def _fits(claim: str, runs: Runs) -> list[Finding]:
    files = _load(runs, "arun", "gain-scaling")
    found = []
    for i, named in enumerate(("n follows a σ^-b + c", "s follows a e^(-bσ) + c")):
        r_squared = [float(content["r_squared"][i]) for content in files]
        exponents = [
            f"{content['parameters'][i, 0, 1]:.2g} [{content['parameters'][i, 1, 1]:.2g}, "
            f"{content['parameters'][i, 2, 1]:.2g}]"
            for content in files
        ]
        number = f"R² {', '.join(f'{x:.3f}' for x in r_squared)}; b {', '.join(exponents)} (95% intervals)"
        low, high = (np.array([content["parameters"][i, end, 1] for content in files]) for end in (1, 2))
        verdict = in_every_seed((np.array(r_squared) >= GOOD_FIT) & (low * high > 0))  # false where there is no fit
        found.append(Finding(f"{claim}: {named}", number, verdict, "goodness of fit and sign of b, every seed"))
    return found


def _one_dimensional(claim: str, runs: Runs) -> list[Finding]:
    files = _load(runs, "arun", "controller")
    curve, line = ([float(content[f"{name}_explained"]) for content in files] for name in ("curve", "line"))
    number = (
        f"a curve explains {', '.join(f'{x:.1%}' for x in curve)} of the variance of the steady states, a line "
        f"{', '.join(f'{x:.1%}' for x in line)}"
    )
    verdict = in_every_seed([share >= GOOD_FIT for share in curve])
    return [Finding(claim, number, verdict, "variance explained, every seed")]


def _proposition(claim: str, runs: Runs) -> list[Finding]:
    shares = [float(np.mean(content["stable"])) for content in _load(runs, "arun", "stability")]
    verdict = in_every_seed([share == 1 for share in shares])
    number = f"share of the drives at which |γ'(ξ; n, s)| σ < 1 - ε: {', '.join(f'{x:.0%}' for x in shares)}"
    return [Finding(claim, number, verdict, "all drives, every seed")]


def _nearer_to_the_edge(claim: str, runs: Runs) -> list[Finding]:
    distances: dict[str, list[float]] = {"adaptive": [], "fixed": []}
    drives = 0
    for content in _load(runs, "arun", "lyapunov"):
        kinds = content["kinds"].tolist()
        both = np.abs(content["exponents"][[kinds.index(kind) for kind in distances], :, 0])
        both = both[:, (content["amplitudes"] > 0) & np.isfinite(both).all(0)]
        if not both.size:
            raise RunError("No drive has finite Lyapunov exponents with n and s both adapted and at rest.")
        drives = both.shape[1]
        for kind, values in zip(distances, both.mean(1), strict=True):
            distances[kind].append(float(values))
    p = p_value(stats.ttest_rel, distances["adaptive"], distances["fixed"], alternative="less")
    number = (
        f"|λ| averaged over {drives} drives: {spread(distances['adaptive'])} with n and s as driven, "
        f"{spread(distances['fixed'])} with n and s at rest (nats a step)"
    )
    return [_tested(claim, number, "paired t over seeds, one-sided", p)]


def _gradients(claim: str, runs: Runs) -> list[Finding]:
    reach = {
        model: [float(np.log10(f["state_after"][0] / f["state_after"][-1])) for f in _load(runs, model, "gradients")]
        for model in ("arun", "relu")
    }
    away = {model: np.abs(values).tolist() for model, values in reach.items()}
    p = p_value(stats.ttest_ind, away["arun"], away["relu"], equal_var=False, alternative="less")
    number = (
        "log10 of the norm of the gradient for the pre-activation at the first over that at the last step (0: of equal "
        f"size): ARUN {spread(reach['arun'])}, RNN+ReLU {spread(reach['relu'])}"
    )
    return [_tested(claim, number, "Welch's t of the distance from 0, one-sided", p)]


def _heterogeneous(claim: str, runs: Runs) -> list[Finding]:
    files = _load(runs, "gamma-heterogeneous", "heterogeneity")
    found = []
    for name in ("n", "s"):
        before, after = ([float(f[f"{name}_{when}"].std()) for f in files] for when in ("before", "after"))
        p = p_value(stats.ttest_rel, after, before, alternative="greater")
        number = f"deviation of {name} over neurons: {spread(before)} before, {spread(after)} after training"
        found.append(_tested(f"RNN+γ het., {name}: {claim}", number, "paired t over seeds, one-sided", p))
    return found


def _retrained(claim: str, runs: Runs) -> list[Finding]:
    files = _load(runs, "gamma-heterogeneous", "heterogeneity")
    if any("n_retrained" not in content for content in files):
        raise RunError("Not all seeds were retrained.")
    found = []
    for name in ("n", "s"):
        changes = [compare(f[f"{name}_after"], f[f"{name}_retrained"]) for f in files]
        p = float(stats.combine_pvalues([change.p_value for change in changes]).pvalue) if len(files) > 1 else None
        number = f"Kolmogorov-Smirnov distance of {name}: {spread([change.statistic for change in changes])}"
        test = "Kolmogorov-Smirnov over neurons, seeds combined (Fisher)"
        found.append(_tested(f"RNN+γ het., {name}: {claim}", number, test, p, sided=False))
    return found


Judge = Callable[[str, Runs], list[Finding]]

CLAIMS: dict[str, list[tuple[str, Judge]]] = {
    "1": [("two parameters take γ from the softplus (s = 0; ReLU as n grows) to the sigmoid (s = 1)", _activation)],
    "2": [("adaptive networks are far more robust than RNN+ReLU", _robust)],
    "3": [
        ("neurons respond to a step as fractional-order filters do (differentiation or integration)", _fractional),
        ("adaptation makes the order: it is farther from 0 in the ARUN than in a static network", _adapts),
    ],
    "4": [
        ("gain scaling: the gain falls as the fluctuations of the input grow", _gain_falls),
        ("the scaling is a power law of n and an exponential of s", _fits),
    ],
    "5": [("the steady states of the controller lie near one curve", _one_dimensional)],
    "6": [
        ("adaptation keeps the network near the edge of stability under drive", _nearer_to_the_edge),
        ("adapted n and s lie where Proposition 1 says that noise decays", _proposition),
    ],
    "appendix": [
        ("adaptation carries gradients across time: they keep their size better than in RNN+ReLU", _gradients),
        ("training makes the neurons different from each other", _heterogeneous),
        ("retraining on rotated images changes the distribution over neurons", _retrained),
    ],
}
