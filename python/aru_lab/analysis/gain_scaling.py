"""Gain scaling: how n and s at steady state depend on the amplitude of the noise, and what it does to the output.

Source: Geadah et al. 2024: power law a ξ^-b + c for the gain, exponential a e^(-b ξ) + c for the saturation, ξ the
standard deviation of the noise into every neuron (`responses.noise_responses`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from aru_lab.analysis import checks
from aru_lab.analysis.fits import CURVES, compare, compared
from aru_lab.analysis.network import held, uncoupled
from aru_lab.analysis.parts import Part, Report
from aru_lab.analysis.responses import LOW_NOISE, Responses, noise_responses
from aru_lab.analysis.settings import Settings
from aru_lab.errors import ConfigError
from aru_lab.runs.analyses import Result, Run, Table

SMALLEST = 1.0  # the smallest ξ that the fits take, as in the authors' code
FORMS = {"n": "power", "s": "exponential"}  # what the paper claims


@dataclass(frozen=True)
class SteadyState:
    """n, s and h while the drive lasts, once settled. A amplitudes, R repeats, T steps, H neurons.

    amplitudes (A,); n, s (A, R): means over neurons and the settled steps; n_neurons, s_neurons (A, H): means over
    repeats and those steps; n_course, s_course (A, T): means over repeats and neurons; mean_h, deviation_h (A, R): mean
    and standard deviation of h over neurons and those steps; window: the settled steps.
    """

    amplitudes: np.ndarray
    n: np.ndarray
    s: np.ndarray
    n_neurons: np.ndarray
    s_neurons: np.ndarray
    n_course: np.ndarray
    s_course: np.ndarray
    mean_h: np.ndarray
    deviation_h: np.ndarray
    window: tuple[int, int]


def steady_state(responses: Responses, settle: float = 0.55) -> SteadyState:
    """n, s and h of the driven neurons once they have settled.

    Args:
        responses: of `noise_responses` or `step_responses`.
        settle: fraction of the driven steps to leave out as transient; 0.55 leaves the last 90 of 200, as the authors
            do.

    Raises:
        ConfigError: nothing is left.
    """
    length = responses.end - responses.onset
    first = responses.onset + round(length * checks.number("settle", settle, 0))
    if first >= responses.end:
        raise ConfigError(
            f"settle: got {settle:g} of {length} driven steps, which leaves none; expected a longer drive or a "
            "fraction below 1."
        )
    window = slice(first, responses.end)
    n, s = (x.astype(np.float64) for x in (responses.n, responses.s))
    h = responses.h[:, :, window].astype(np.float64)
    return SteadyState(
        responses.amplitudes,
        *(x[:, :, window].mean((2, 3)) for x in (n, s)),
        *(x[:, :, window].mean((1, 2)) for x in (n, s)),
        *(x.mean((1, 3)) for x in (n, s)),
        h.mean((2, 3)),
        h.std((2, 3)),
        (first, responses.end),
    )


def analyse_gain_scaling(run: Run, settings: Settings, report: Report) -> Result:
    """n, s and h under noise of each standard deviation, the fits, and h with n and s held at those of low noise."""
    network = run.network if settings.noise_into == "network" else uncoupled(run.network)
    found = noise_responses(network, settings.amplitudes, settings.repeats, seed=settings.seed)
    state = steady_state(found)
    report(1, 2)
    # The last steps of the low noise, as many as the steady state has under the noise.
    calm = slice(found.onset - (found.end - state.window[0]), found.onset)
    rest = [x[:, :, calm].astype(np.float64).mean((0, 1, 2)) for x in (found.n, found.s)]
    del found
    fixed = steady_state(
        noise_responses(held(network, *rest), settings.amplitudes, settings.repeats, seed=settings.seed)
    )
    report(2, 2)
    chosen = state.amplitudes >= SMALLEST
    xi = state.amplitudes[chosen]
    comparisons, remarks = {}, []
    for name, form in FORMS.items():
        if len(xi) < 4:
            remarks.append(f"no fit of {name}: {len(xi)} amplitudes are at least {SMALLEST:g}, and a fit needs 4")
            continue
        comparisons[name] = compared_here = compare(xi, getattr(state, name)[chosen].mean(1))
        which = list(CURVES).index(form)
        exponent, r_squared = compared_here.parameters[which, 0, 1], compared_here.r_squared[which]
        remarks.append(
            f"{name}: {form}, exponent {exponent:.3g}, R² {r_squared:.3f}"
            if np.isfinite(exponent)
            else f"no fit of {name} ({compared_here.remarks[0]})"
        )
    fits = compared([comparisons.get(name) for name in FORMS], (2,))
    claimed = [(i, list(CURVES).index(form)) for i, form in enumerate(FORMS.values())]
    rows = [
        (kind, name, *fits["fit_parameters"][i, k].T.ravel(), fits["fit_r_squared"][i, k], fits["fit_aicc"][i, k])
        for i, name in enumerate(FORMS)
        for k, kind in enumerate(CURVES)
    ]
    named = tuple(f"{p}{end}" for p in "abc" for end in ("", "_low", "_high"))
    deviation = np.where(state.amplitudes > 0, state.amplitudes, LOW_NOISE)[:, None]
    gains = {"effective_gain": state.deviation_h / deviation, "effective_gain_held": fixed.deviation_h / deviation}
    course = zip(state.amplitudes, state.n, state.s, *gains.values(), state.mean_h, fixed.mean_h, strict=True)
    header = ("deviation", "n", "n_over_repeats", "s", "s_over_repeats")
    return Result(
        {name: np.asarray(value) for name, value in asdict(state).items()}
        | {"mean_h_held": fixed.mean_h, "deviation_h_held": fixed.deviation_h, "rest": np.array(rest), **gains}
        | {"fit_amplitudes": xi, **fits}
        | {new: np.array([fits[f"fit_{new}"][at] for at in claimed]) for new in ("parameters", "r_squared")},
        {
            "gain-scaling": Table(
                (*header, *gains, "mean_h", "mean_h_held"),
                [(xi, n.mean(), n.std(), s.mean(), s.std(), *(x.mean() for x in rest)) for xi, n, s, *rest in course],
            ),
            "gain-scaling-fits": Table(("curve", "of", *named, "r_squared", "aicc"), rows),
        },
        "; ".join(remarks),
    )


PART = Part(analyse_gain_scaling, ("amplitudes", "repeats", "noise_into", "seed"), suits="adaptive")
