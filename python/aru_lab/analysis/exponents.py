"""Lyapunov exponents of trained networks, from states that they reach while they read test examples under a step.

Source: Geadah et al. 2024: the map h -> γ(W_hh h; n, s) without input, bias and drive; h, n and s of a test example at
a step of the driven run, n and s held. `lyapunov` computes the exponents.
"""

from __future__ import annotations

import numpy as np
import torch

from aru_lab.analysis.lyapunov import network_exponents
from aru_lab.analysis.parts import Part, Report
from aru_lab.analysis.reading import driven_steps, read_driven
from aru_lab.analysis.settings import Settings
from aru_lab.networks.perturbations import rescale
from aru_lab.runs.analyses import Result, Run, Table

TIMES = (0, 50, 100, 150)  # steps from the onset of the drive at which states are taken, of the 784-step task
CONDITIONS = ("none", "bias", "drive")  # what acts in the map: nothing, b, or b and ξ


def analyse_exponents(run: Run, settings: Settings, report: Report) -> Result:
    """Largest Lyapunov exponents by amplitude, by condition of the map, and by time from the onset of the drive."""
    x, _ = run.sequences(settings.starts)
    onset, _ = driven_steps(len(x))
    times = np.array([rescale(t, len(x)) for t in TIMES])
    drives = np.array(settings.amplitudes)
    states = np.array([_states(run, x, xi, onset + times) for xi in drives])  # (A, 1 or 3, times, B, H)
    states = np.moveaxis(states, 1, 0)
    kinds = ("adaptive", "fixed") if run.adaptive else ("static",)
    kinds += ("joint",) * (run.adaptive and settings.joint)
    k = min(settings.exponents, states.shape[-1])
    batch, size = states.shape[-2:]
    count = len(CONDITIONS) * (len(kinds) - ("joint" in kinds)) + ("joint" in kinds)
    done = 0

    def follow(initial: np.ndarray, shapes: np.ndarray | None, condition: str) -> np.ndarray:
        """Exponents (..., k) from initial states (A, ..., D), with n and s (2, A, ..., H) held."""
        nonlocal done
        n_steps, before = settings.transient + settings.steps, done
        done += 1
        rows = initial.reshape(-1, initial.shape[-1])
        xi = np.broadcast_to(drives.reshape(-1, *[1] * (initial.ndim - 2)), initial.shape[:-1]).reshape(1, -1, 1)
        found = network_exponents(
            run.network,
            k,
            xi if condition == "drive" else 0.0,
            None if shapes is None else tuple(shape.reshape(-1, size) for shape in shapes),
            rows,
            bias=condition != "none",
            steps=settings.steps,
            transient=settings.transient,
            seed=settings.seed,
            progress=lambda step, _: report(before * n_steps + step, count * n_steps),
            strict=False,
        )
        return found.exponents.reshape(*initial.shape[:-1], k)

    values = np.full((len(kinds), len(CONDITIONS), len(drives), batch, k), np.nan)
    held = states[1:] if run.adaptive else None
    by_time = follow(states[0], held, "none")  # (A, times, B, k)
    course = by_time[..., 0]
    last = states[:, :, -1]  # (1 or 3, A, B, H)
    for i, kind in enumerate(kinds):
        if kind == "joint":
            values[i, CONDITIONS.index("drive")] = follow(_joint_starts(run, settings, last[0]), None, "drive")
            continue
        shapes = {"adaptive": last[1:], "fixed": last[1:, :1].repeat(len(drives), axis=1), "static": None}[kind]
        for j, condition in enumerate(CONDITIONS):
            values[i, j] = by_time[:, -1] if (i, j) == (0, 0) else follow(last[0], shapes, condition)
    shown = values[:, 0].copy()  # the paper's map; the joint state has only that with the drive
    if "joint" in kinds:
        shown[-1] = values[-1, -1]
    with np.errstate(invalid="ignore"):  # of infinite exponents
        deviation, course_deviation = values.std(3), course.std(2)
    rows = [
        (kind, condition, xi, index + 1, values[i, j, a, :, index].mean(), deviation[i, j, a, index])
        for i, kind in enumerate(kinds)
        for j, condition in enumerate(CONDITIONS)
        for a, xi in enumerate(drives)
        for index in range(k)
    ]
    course_rows = [
        (xi, t, course[a, j].mean(), course_deviation[a, j]) for a, xi in enumerate(drives) for j, t in enumerate(times)
    ]
    with np.errstate(invalid="ignore"):
        spread = shown.std(2)
    largest = ", ".join(f"{kind} {shown[i, 0, :, 0].mean():.4f}" for i, kind in enumerate(kinds))
    lost = np.count_nonzero(~np.isfinite(shown[..., 0]))
    return Result(
        {
            "kinds": np.array(kinds),
            "conditions": np.array(CONDITIONS),
            "amplitudes": drives,
            "exponents": shown.mean(2),
            "error": spread / np.sqrt(batch),
            "spread": spread[:, :, 0],
            "largest": values[..., 0],
            "times": times,
            "course": course,
        },
        {
            "lyapunov": Table(("kind", "condition", "amplitude", "index", "exponent", "deviation"), rows),
            "lyapunov-course": Table(("amplitude", "steps_from_onset", "exponent", "deviation"), course_rows),
        },
        f"largest exponent without drive: {largest}" + (f"; {lost} are not finite" if lost else ""),
    )


def _states(run: Run, x: torch.Tensor, xi: float, times: np.ndarray) -> np.ndarray:
    """h, and of an ARUN n and s, at these steps of the driven run: (1 or 3, times, B, H), float64."""
    kept = (0, 2, 3) if run.adaptive else (0,)
    parts = [[part[i][times] for i in kept] for part in read_driven(run.network, x, float(xi))]
    return np.stack([torch.cat(of_one, dim=1).double().cpu().numpy() for of_one in zip(*parts, strict=True)])


def _joint_starts(run: Run, settings: Settings, h: np.ndarray) -> np.ndarray:
    """States (h, g) with g ~ U(-1, 1), the same ones for each amplitude: (A, B, H + H·G) for h (A, B, H)."""
    units = h.shape[-1] * run.network.controller_size
    g = np.random.default_rng([settings.seed, 2]).uniform(-1, 1, (h.shape[1], units))
    return np.concatenate([h, np.broadcast_to(g, (len(h), *g.shape))], axis=2)


PART = Part(
    analyse_exponents, ("amplitudes", "starts", "steps", "transient", "exponents", "joint", "seed"), suits="single"
)
