"""The parts of `aru analyse`: each computes the arrays and tables of one analysis of a run.

A part is one entry of PARTS. What a figure needs is in these files; figures compute nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np
import torch.nn.functional as F

from aru_lab.analysis import controller, gain_scaling, heterogeneity, lyapunov, stability
from aru_lab.analysis.checks import AnalysisError
from aru_lab.analysis.fractional import ORDERS, fractional_order
from aru_lab.analysis.gradients import gradient_norms
from aru_lab.analysis.responses import drive_network, noise_responses, step_responses
from aru_lab.analysis.settings import Settings
from aru_lab.runs.analyses import Result, Run, Table

Report = Callable[[int, int], None]
CONNECTIVITY = ("network", "isolated")
STARTS = 4  # initial conditions of the Lyapunov exponents at every drive


@dataclass(frozen=True)
class Part:
    """One analysis: what computes it, the settings it depends on, the parts whose files it reads, whom it suits."""

    compute: Callable[[Run, Settings, Report], Result]
    settings: tuple[str, ...]
    needs: tuple[str, ...] = ()
    suits: str = "gamma"
    """single: all but LSTM and GRU; gamma: ARUN or RNN+γ; adaptive: ARUN."""


def refusal(part: str, run: Run) -> str | None:
    """Why the part cannot be computed for the run, in a sentence; None if it can."""
    suits, model = PARTS[part].suits, run.config.model
    if suits == "adaptive" and not run.adaptive:
        return f"{part}: {run.path} is a run of {model}, expected one of arun: it has no controller to analyse."
    if suits == "gamma" and not run.has_gamma:
        return f"{part}: {run.path} is a run of {model}, expected one of arun or an RNN+γ: it has no γ to analyse."
    if suits == "single" and model in ("lstm", "gru"):
        return (
            f"{part}: {run.path} is a run of {model}, expected one with a single matrix W_hh, not one for every gate."
        )
    return None


def _responses(run: Run, settings: Settings, report: Report) -> Result:
    """Step responses in the network and isolated: means over repeats."""
    weight = run.network.weight_ih_l0
    arrays: dict[str, np.ndarray] = {"amplitudes": np.array(settings.amplitudes)}
    for done, name in enumerate(CONNECTIVITY):
        found = step_responses(
            run.network,
            settings.amplitudes,
            settings.repeats,
            background_weight=weight[:, 0] if weight.shape[1] == 1 else 1.0,
            isolate=name == "isolated",
            seed=settings.seed,
        )
        arrays |= {f"{kind}_{name}": getattr(found, kind).mean(1) for kind in ("h", "a", "n", "s")}
        arrays |= {"drives": found.drives, "onset": np.array(found.onset), "end": np.array(found.end)}
        report(done + 1, len(CONNECTIVITY))
    return Result(arrays, summary=f"{len(settings.amplitudes)} steps, {settings.repeats} repeats")


def _fractional(run: Run, settings: Settings, report: Report) -> Result:
    """Fractional order of every neuron's response, and of the mean response, at every amplitude but 0."""
    saved = run.files.load("responses")
    amplitudes = saved["amplitudes"][1:]
    neurons, means, curves, edges = [], [], [], []
    for c, name in enumerate(CONNECTIVITY):
        h = saved[f"h_{name}"][1:].astype(np.float64)  # (A, T, H)
        each, mean = [], []
        for i, drive in enumerate(saved["drives"][1:]):
            each.append(fractional_order(h[i].T, drive))
            mean.append(fractional_order(h[i].mean(1), drive))
            report(c * len(amplitudes) + i + 1, len(CONNECTIVITY) * len(amplitudes))
        neurons.append([found.order for found in each])
        edges.append([found.at_edge for found in each])
        means.append([found.order for found in mean])
        curves.append([found.errors for found in mean])
    order, mean = np.array(neurons), np.array(means)  # (2, A, H), (2, A)
    rows = [
        (name, xi, mean[c, i], order[c, i].mean(), order[c, i].std(), np.mean(order[c, i] > 0), np.mean(edges[c][i]))
        for c, name in enumerate(CONNECTIVITY)
        for i, xi in enumerate(amplitudes)
    ]
    header = (
        "connectivity", "amplitude", "order_of_mean", "mean_order", "deviation", "fraction_above_0", "fraction_at_edge",
    )  # fmt: skip
    return Result(
        {
            "amplitudes": amplitudes,
            "order": order,
            "at_edge": np.array(edges),
            "order_of_mean": mean,
            "orders": ORDERS,
            "errors_of_mean": np.array(curves),
        },
        {"fractional": Table(header, rows)},
        f"order of the mean response at ξ = {amplitudes[-1]:g}: {mean[0, -1]:.2f} in the network, {mean[1, -1]:.2f} "
        "isolated",
    )


def _gain_scaling(run: Run, settings: Settings, report: Report) -> Result:
    """n and s under noise of each standard deviation (200/200/200 steps), and the two fits."""
    state = gain_scaling.steady_state(
        noise_responses(run.network, settings.amplitudes, settings.repeats, seed=settings.seed)
    )
    report(1, 1)
    sigma = state.amplitudes[1:]
    parameters = np.full((2, 3, 3), np.nan)  # curve; estimate, low, high; a, b, c
    r_squared, remarks = np.full(2, np.nan), []
    for i, (kind, name) in enumerate((("power", "n"), ("exponential", "s"))):
        try:
            found = gain_scaling.fit(kind, sigma, getattr(state, name)[1:].mean(1))
        except AnalysisError as error:
            remarks.append(f"no fit of {name} ({error})")
            continue
        parameters[i] = found.parameters, found.low, found.high
        r_squared[i] = found.r_squared
        remarks.append(f"{name}: {kind}, exponent {found.parameters[1]:.3g}, R² {found.r_squared:.3f}")
    fits = [
        (kind, name, *parameters[i].T.ravel(), r_squared[i])
        for i, (kind, name) in enumerate((("power", "n"), ("exponential", "s")))
    ]
    named = tuple(f"{p}{end}" for p in "abc" for end in ("", "_low", "_high"))
    rows = [
        (xi, n.mean(), n.std(), s.mean(), s.std()) for xi, n, s in zip(state.amplitudes, state.n, state.s, strict=True)
    ]
    return Result(
        {name: np.asarray(value) for name, value in asdict(state).items()}
        | {"parameters": parameters, "r_squared": r_squared},
        {
            "gain-scaling": Table(("deviation", "n", "n_over_repeats", "s", "s_over_repeats"), rows),
            "gain-scaling-fits": Table(("curve", "of", *named, "r_squared"), fits),
        },
        "; ".join(remarks),
    )


def _controller(run: Run, settings: Settings, report: Report) -> Result:
    """The controller under constant input: components, onset and steady state, nearness to one dimension."""
    positive = [xi for xi in settings.amplitudes if xi > 0]
    inputs = np.array([*(-xi for xi in reversed(positive)), 0.0, *positive])
    paths = controller.trajectories(run.network, inputs, repeats=settings.repeats, seed=settings.seed)
    components = controller.principal_components(paths, min(3, paths.g.shape[-1]))
    curve = controller.one_dimensional(paths.steady_state.reshape(-1, paths.g.shape[-1]))
    report(1, 1)
    shapes = np.concatenate([paths.onset_shape, paths.steady_shape], axis=1)
    rows = [(a, *shape, speed) for a, shape, speed in zip(inputs, shapes, paths.speed.max(1), strict=True)]
    return Result(
        {
            "inputs": inputs,
            "scores": components.scores.mean(1).astype(np.float32),
            "steady_scores": components.scores[:, :, slice(paths.settled.start - paths.onset, None)].mean((1, 2)),
            "explained": components.explained,
            "axes": components.axes,
            "n": paths.n.mean(1),
            "s": paths.s.mean(1),
            "onset": np.array(paths.onset),
            "onset_shape": paths.onset_shape,
            "steady_shape": paths.steady_shape,
            "speed": paths.speed,
            "curve_explained": np.array(curve.explained),
            "line_explained": np.array(curve.line),
        },
        {"controller": Table(("input", "n_onset", "s_onset", "n_steady", "s_steady", "last_speed"), rows)},
        f"a curve explains {curve.explained:.1%} of the steady states' variance, a line {curve.line:.1%}",
    )


def _stability(run: Run, settings: Settings, report: Report) -> Result:
    """Jacobian norm over (n, s), Proposition 1's boundary and path, and where the steps lead n and s."""
    saved = run.files.load("responses")
    weight, bias = run.network.weight_hh_l0, run.network.bias_l0
    onset, end = int(saved["onset"]), int(saved["end"])
    settled = slice(end - (end - onset) // 2, end)
    before, during, first = (
        np.stack([saved[f"{name}_network"][:, steps].mean((1, 2)) for name in "ns"], axis=1)
        for steps in (slice(onset // 2, onset), settled, slice(onset, onset + 1))
    )
    grid_n, grid_s = np.linspace(1, 20, settings.grid), np.linspace(0, 1, settings.grid)
    norms = stability.jacobian_norms(
        weight, grid_n, grid_s, bias.detach().cpu(), settings.repeats * 2, seed=settings.seed, progress=report
    )
    sigma, largest = stability.mean_stretch(run.network), stability.spectral_norm(run.network)
    drives = saved["amplitudes"]
    # Around what the network visits, so that the boundary and the path can be drawn together.
    visited = np.concatenate([before, during, first])
    low, high = visited[:, 0].min(), visited[:, 0].max()
    gains = np.linspace(max(0.05, low - 1 - (high - low)), max(high, 1) + 1 + (high - low), 200)
    edges = np.array([stability.stability_boundary(xi, gains, sigma) for xi in drives])
    start = before[0]
    path = (
        stability.predicted_path(drives, (start[0], start[1]), sigma)
        if start[0] > 0.1
        else np.full((len(drives), 2), np.nan)
    )
    stable = [stability.noise_decays(xi, *during[i], sigma) for i, xi in enumerate(drives)]
    rows = [(xi, *first[i], *during[i], *path[i], int(stable[i])) for i, xi in enumerate(drives)]
    header = ("amplitude", "n_onset", "s_onset", "n_steady", "s_steady", "n_predicted", "s_predicted", "stable")
    return Result(
        {
            "gains": norms.gains,
            "saturations": norms.saturations,
            "norm": norms.norm,
            "norm_error": norms.error,
            "sigma": np.array(sigma),
            "spectral_norm": np.array(largest),
            "amplitudes": drives,
            "boundary_gains": gains,
            "boundary": edges,
            "path": path,
            "onset_shape": first,
            "steady_shape": during,
            "rest_shape": start,
            "course": np.stack([saved[f"{name}_network"].mean(2) for name in "ns"], axis=-1),
            "onset": np.array(onset),
            "end": np.array(end),
        },
        {"stability": Table(header, rows)},
        f"W_hh stretches noise by {sigma:.3f} on average, by {largest:.3f} at most",
    )


def _lyapunov(run: Run, settings: Settings, report: Report) -> Result:
    """Largest Lyapunov exponents against a constant drive: see KINDS in docs/analysis.md."""
    network, drives = run.network, settings.amplitudes
    size = network.hidden_size
    kinds = ("adaptive", "fixed", "joint") if run.adaptive else ("static",)
    k = min(settings.exponents, size)
    values, errors = np.full((2, len(kinds), len(drives), k), np.nan)
    spread = np.full((len(kinds), len(drives)), np.nan)
    remarks = []
    shapes = _steady_shapes(run, settings) if run.adaptive else None
    starts = np.random.default_rng([settings.seed, 1]).uniform(size=(STARTS, size))
    if "joint" in kinds:
        units = run.network.controller_size
        g = np.random.default_rng([settings.seed, 2]).uniform(-1, 1, (STARTS, size * units))
    n_steps = settings.steps + max(1, settings.steps // 5)

    def follow(i: int, chosen: list[int]) -> None:
        """The exponents of one kind at the drives of these indices, all in one batch."""
        kind = kinds[i]
        held = None
        if kind in ("adaptive", "fixed"):
            held = shapes[:, chosen if kind == "adaptive" else [0] * len(chosen)].repeat(STARTS, axis=1)
        initial = np.concatenate([starts, g], axis=1) if kind == "joint" else starts
        found = lyapunov.network_exponents(
            network,
            k,
            np.array([drives[j] for j in chosen]).repeat(STARTS)[None, :, None],
            held,
            np.tile(initial, (len(chosen), 1)),
            steps=settings.steps,
            transient=n_steps - settings.steps,
            seed=settings.seed,
            progress=lambda done, _: report(i * n_steps + done, len(kinds) * n_steps),
        )
        by_drive = found.exponents.reshape(len(chosen), STARTS, k)
        values[i, chosen] = by_drive.mean(1)
        errors[i, chosen] = found.error.reshape(by_drive.shape).mean(1) / np.sqrt(STARTS)
        spread[i, chosen] = by_drive[:, :, 0].std(1)

    for i, kind in enumerate(kinds):
        try:
            follow(i, list(range(len(drives))))
        except AnalysisError:  # of some drive: the others stand
            for j, xi in enumerate(drives):
                try:
                    follow(i, [j])
                except AnalysisError as error:
                    remarks.append(f"{kind} at ξ = {xi:g}: {error}")
    rows = [
        (kind, xi, index + 1, values[i, j, index], errors[i, j, index])
        for i, kind in enumerate(kinds)
        for j, xi in enumerate(drives)
        for index in range(k)
    ]
    largest = ", ".join(f"{kind} {values[i, 0, 0]:.4f}" for i, kind in enumerate(kinds))
    return Result(
        {
            "kinds": np.array(kinds),
            "amplitudes": np.array(drives),
            "exponents": values,
            "error": errors,
            "spread": spread,
        },
        {"lyapunov": Table(("kind", "amplitude", "index", "exponent", "error"), rows)},
        "; ".join([f"largest exponent without drive: {largest}", *remarks[:1]]),
    )


def _steady_shapes(run: Run, settings: Settings) -> np.ndarray:
    """The n and s of every neuron, settled under each constant drive from the zero state: (2, A, H)."""
    steps = 300
    current = np.array(settings.amplitudes)[None, :, None].repeat(steps, 0).repeat(run.network.hidden_size, 2)
    _, _, n, s = drive_network(run.network, lambda _: current, repeats=1)
    return np.stack([x[:, 0, steps // 2 :].astype(np.float64).mean(1) for x in (n, s)])


def _spectrum(run: Run, settings: Settings, report: Report) -> Result:
    """Eigenvalues of W_hh before and after training."""
    before, after = (stability.spectrum(model.recurrent) for model in (run.initial_model, run.model))
    report(1, 1)
    rows = [
        (when, value.real, value.imag) for when, values in (("before", before), ("after", after)) for value in values
    ]
    return Result(
        {"before": before, "after": after},
        {"spectrum": Table(("training", "real", "imaginary"), rows)},
        f"spectral radius {abs(before[0]):.3f} before training, {abs(after[0]):.3f} after",
    )


def _gradients(run: Run, settings: Settings, report: Report) -> Result:
    """Norm of W_hh's gradient against the position from which it is accumulated, before and after training."""
    arrays, rows = {}, []
    for done, (when, model) in enumerate((("before", run.initial_model), ("after", run.model))):
        x, y = run.sequences(settings.sequences, model)
        found = gradient_norms(model.recurrent, x, lambda h, model=model, y=y: F.cross_entropy(model.readout(h[-1]), y))
        arrays |= {f"{name}_{when}": getattr(found, name) for name in ("accumulated", "each", "state")}
        rows += [
            (when, t, *values) for t, values in enumerate(zip(found.accumulated, found.each, found.state, strict=True))
        ]
        report(done + 1, 2)
    reach = {when: arrays[f"each_{when}"] for when in ("before", "after")}
    return Result(
        arrays,
        {"gradients": Table(("training", "position", "accumulated", "each", "state"), rows)},
        f"norm of the whole gradient {arrays['accumulated_after'][0]:.3g}, of the last step's term "
        f"{reach['after'][-1]:.3g}",
    )


def _heterogeneity(run: Run, settings: Settings, report: Report) -> Result:
    """n and s over neurons before and after training, and after retraining."""
    moments = {}
    for done, (when, model) in enumerate((("before", run.initial_model), ("after", run.model))):
        x, _ = run.sequences(settings.sequences, model)
        moments[when] = heterogeneity.neuron_shapes(model.recurrent, x)
        report(done + 1, 2)
    if run.retrained is not None:
        x, _ = run.retrained.sequences(settings.sequences)
        moments["retrained"] = heterogeneity.neuron_shapes(run.retrained.network, x)
    return heterogeneity_result(moments)


def heterogeneity_result(moments: dict[str, heterogeneity.Neurons]) -> Result:
    """Arrays and tables of n and s at some moments, the first "before" and the others compared with the one ahead."""
    arrays, rows, changes = {}, [], []
    for name in ("n", "s"):
        values = {when: getattr(neurons, name) for when, neurons in moments.items()}
        arrays |= {f"{name}_{when}": x for when, x in values.items()}
        arrays |= {f"{name}_deviation_{when}": getattr(x, f"{name}_deviation") for when, x in moments.items()}
        for when, x in values.items():
            summary = heterogeneity.summarise(x)
            rows.append(
                (name, when, summary.mean, summary.deviation, *summary.quantiles, summary.lowest, summary.highest)
            )
        for a, b in pairwise(values):
            change = heterogeneity.compare(values[a], values[b])
            changes.append((name, a, b, change.distance, change.statistic, change.p_value, change.moved))
    quantiles = tuple(f"quantile_{q:g}" for q in heterogeneity.QUANTILES)
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


PARTS: dict[str, Part] = {
    "responses": Part(_responses, ("amplitudes", "repeats", "seed")),
    "fractional": Part(_fractional, ("amplitudes", "repeats", "seed"), ("responses",)),
    "gain-scaling": Part(_gain_scaling, ("amplitudes", "repeats", "seed"), suits="adaptive"),
    "controller": Part(_controller, ("amplitudes", "repeats", "seed"), suits="adaptive"),
    "stability": Part(_stability, ("amplitudes", "repeats", "seed", "grid"), ("responses",)),
    "lyapunov": Part(_lyapunov, ("amplitudes", "steps", "exponents", "seed")),
    "spectrum": Part(_spectrum, (), suits="single"),
    "gradients": Part(_gradients, ("sequences",), suits="single"),
    "heterogeneity": Part(_heterogeneity, ("sequences", "retrained")),
}
