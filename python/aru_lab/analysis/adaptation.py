"""How n and s adapt while a network reads its task: their jump at the onset of a step, their decay, where they settle.

Source: Geadah et al. 2024: the network reads test examples and gets a step from step 200 of 784 on, for 200 steps;
means over examples and neurons; decay c + a e^(-t/τ).
"""

from __future__ import annotations

import numpy as np
import torch

from aru_lab.analysis.fits import CURVES, Comparison, compare, compared
from aru_lab.analysis.parts import Part, Report
from aru_lab.analysis.reading import driven_steps, read_driven
from aru_lab.analysis.settings import Settings
from aru_lab.networks.perturbations import PAPER_STEPS
from aru_lab.runs.analyses import Result, Run, Table

SMALLEST = 1.0  # the smallest ξ whose course is fitted
SETTLED = 0.45  # the share of the driven steps, the last ones, that count as settled: 90 of 200


def settled_steps(onset: int, end: int) -> tuple[int, int]:
    """The last 45% of the driven steps, at least one."""
    return end - max(1, round(SETTLED * (end - onset))), end


def analyse_adaptation(run: Run, settings: Settings, report: Report) -> Result:
    """Courses of n and s under steps of every amplitude while the network reads test examples, and their fits."""
    x, _ = run.sequences(settings.sequences)
    onset, end = driven_steps(len(x))
    window = slice(*settled_steps(onset, end))
    amplitudes = np.array(settings.amplitudes)
    courses = np.empty((2, len(amplitudes), len(x)))
    neurons = np.empty((2, len(amplitudes), run.network.hidden_size))
    deviation = np.empty(len(amplitudes))
    for i, xi in enumerate(amplitudes):
        courses[:, i], neurons[:, i], deviation[i] = _read(run, x, float(xi), window)
        report(i + 1, len(amplitudes))
    fitted = amplitudes >= SMALLEST
    time = np.arange(1.0, end - onset + 1)
    comparisons: list[Comparison | None] = [
        compare(time, course[onset:end]) if len(time) >= 4 else None
        for i in np.flatnonzero(fitted)
        for course in courses[:, i]
    ]
    fits = compared(comparisons, (int(fitted.sum()), 2))
    chosen = list(CURVES).index("exponential")
    decay, r_squared = fits["fit_parameters"][:, :, chosen], fits["fit_r_squared"][:, :, chosen]
    with np.errstate(divide="ignore"):
        tau = 1 / decay[:, :, 0, 1]
    onset_shape, before = (courses[:, :, t].T for t in (onset, onset - 1))
    steady_shape = courses[:, :, window].mean(2).T
    rows = [(xi, *onset_shape[i], *steady_shape[i], deviation[i]) for i, xi in enumerate(amplitudes)]
    of_784 = tau * PAPER_STEPS / len(x)
    fit_rows = [
        (xi, name, tau[i, k], of_784[i, k], *decay[i, k].T.ravel(), r_squared[i, k])
        for i, xi in enumerate(amplitudes[fitted])
        for k, name in enumerate("ns")
    ]
    named = tuple(f"{p}{end}" for p in "abc" for end in ("", "_low", "_high"))
    return Result(
        {
            "amplitudes": amplitudes,
            "onset": np.array(onset),
            "end": np.array(end),
            "settled": np.array([window.start, window.stop]),
            "n": courses[0],
            "s": courses[1],
            "n_neurons": neurons[0],
            "s_neurons": neurons[1],
            "onset_shape": onset_shape,
            "jump": onset_shape - before,
            "steady_shape": steady_shape,
            "a_deviation": deviation,
            "fit_amplitudes": amplitudes[fitted],
            "fit_times": time,
            **fits,
            "tau": tau,
            "tau_of_784": of_784,
        },
        {
            "adaptation": Table(("amplitude", "n_onset", "s_onset", "n_steady", "s_steady", "a_deviation"), rows),
            "adaptation-decay": Table(("amplitude", "of", "tau", "tau_of_784", *named, "r_squared"), fit_rows),
        },
        f"a step of {amplitudes[-1]:g} takes n from {before[-1, 0]:.3f} to {onset_shape[-1, 0]:.3f}, and then to "
        f"{steady_shape[-1, 0]:.3f}",
    )


def _read(run: Run, x: torch.Tensor, xi: float, window: slice) -> tuple[np.ndarray, np.ndarray, float]:
    """n and s: means over examples and neurons (2, T), over examples and the window (2, H); deviation of a there.

    The deviation is over examples at each step, root mean square over the window and neurons: the input's spread.
    """
    courses, neurons, sums, squares = 0.0, 0.0, 0.0, 0.0
    centre = None
    for _, a, n, s in read_driven(run.network, x, xi):
        shapes = torch.stack([n, s]).double()  # (2, T, b, H)
        courses = courses + shapes.mean(3).sum(2)
        neurons = neurons + shapes[:, window].mean(1).sum(1)
        inside = a[window].double()
        # Deviations from the first part's mean: a sum of squares of large numbers would cancel.
        centre = inside.mean(1, keepdim=True) if centre is None else centre
        sums, squares = sums + (inside - centre).sum(1), squares + ((inside - centre) ** 2).sum(1)
    n_examples = x.shape[1]
    variance = (squares / n_examples - (sums / n_examples) ** 2).clamp(min=0)
    return (
        (courses / n_examples).cpu().numpy(),
        (neurons / n_examples).cpu().numpy(),
        variance.mean().sqrt().item(),
    )


PART = Part(analyse_adaptation, ("amplitudes", "sequences"))
