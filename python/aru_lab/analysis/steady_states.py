"""Proposition 1 at what n and s do under steps: boundaries, the path along them, and how near the steady states lie.

Source: Geadah et al. 2024, Proposition 1 and its figure. The steps are those of `adaptation`; the Jacobian's norm
beside them is that of random networks of the same size.
"""

from __future__ import annotations

import numpy as np

from aru_lab.analysis.parts import Part, Report
from aru_lab.analysis.random_networks import norm_grid
from aru_lab.analysis.settings import Settings
from aru_lab.analysis.stability import MARGIN, noise_decays, predicted_path, slope_at, stability_boundary
from aru_lab.runs.analyses import Result, Run, Table

LOWEST_GAIN = 0.1  # a path needs n of one sign
# Drives and gains of the authors' figure of the boundaries.
PAPER_DRIVES = np.array([0.9, 1.1, 1.5, 2.0, 3.0, 5.0, 30.0])
PAPER_GAINS = np.linspace(2, 5, 100)


def _refusal(run: Run) -> str | None:
    if run.config.leak is None:
        return None
    return f"has the leak {run.config.leak:g}, expected none: Proposition 1 is about networks without a leak."


def analyse_stability(run: Run, settings: Settings, report: Report) -> Result:
    """Norm of the Jacobian over (n, s), boundary and path of Proposition 1, and n and s under steps."""
    saved = run.files.load("adaptation")
    drives, onset, steady = (saved[name] for name in ("amplitudes", "onset_shape", "steady_shape"))
    norms = norm_grid(
        run.network.hidden_size,
        np.linspace(1, 20, settings.grid),
        np.linspace(0, 1, max(2, settings.grid // 2)),
        seed=settings.seed,
        progress=report,
    )
    # The measured deviation may be 0, as that of a neuron that reads nothing; the proposition then says nothing.
    sigma = saved["a_deviation"] if settings.sigma == "measured" else np.ones(len(drives))
    sigma = np.maximum(sigma, np.finfo(np.float32).tiny)
    # Around what the network visits, so that the boundary and the path can be drawn together.
    visited = np.concatenate([onset, steady])
    low, high = visited[:, 0].min(), visited[:, 0].max()
    gains = np.linspace(max(0.05, low - 1 - (high - low)), max(high, 1) + 1 + (high - low), 200)
    edges = np.array([stability_boundary(xi, gains, k, MARGIN) for xi, k in zip(drives, sigma, strict=True)])
    start = (float(steady[0, 0]), float(steady[0, 1]))
    path = np.full((len(drives), 2), np.nan)
    if start[0] > LOWEST_GAIN:
        path = np.concatenate(
            [predicted_path([xi], start, k, margin=MARGIN) for xi, k in zip(drives, sigma, strict=True)]
        )
    slopes = {name: slope_at(drives, *shape.T) for name, shape in (("onset", onset), ("steady", steady))}
    distance = np.abs(slopes["steady"] * sigma + MARGIN - 1)
    stable = [noise_decays(xi, *steady[i], sigma[i], MARGIN).item() for i, xi in enumerate(drives)]
    rows = [
        (xi, *onset[i], *steady[i], *path[i], slopes["onset"][i], slopes["steady"][i], distance[i], int(stable[i]))
        for i, xi in enumerate(drives)
    ]
    header = ("amplitude", "n_onset", "s_onset", "n_steady", "s_steady", "n_predicted", "s_predicted")
    return Result(
        {
            "gains": norms.gains,
            "saturations": norms.saturations,
            "norm": norms.norm,
            "norm_error": norms.error,
            "sigma": sigma,
            "margin": np.array(MARGIN),
            "amplitudes": drives,
            "boundary_gains": gains,
            "boundary": edges,
            "paper_drives": PAPER_DRIVES,
            "paper_gains": PAPER_GAINS,
            "paper_boundary": np.array([stability_boundary(xi, PAPER_GAINS, 1.0, MARGIN) for xi in PAPER_DRIVES]),
            "path": path,
            "onset_shape": onset,
            "steady_shape": steady,
            "slope_onset": slopes["onset"],
            "slope_steady": slopes["steady"],
            "distance": distance,
            "stable": np.array(stable),
        },
        {"stability": Table((*header, "slope_onset", "slope_steady", "distance", "stable"), rows)},
        f"distance from the boundary at ξ = {drives[-1]:g}: {distance[-1]:.2g}",
    )


PART = Part(
    analyse_stability,
    ("amplitudes", "sequences", "sigma", "grid", "seed"),
    needs=("adaptation",),
    refuses=_refusal,
)
