"""h(t), n(t) and s(t) of the neurons while the network reads test sequences, without a drive."""

from __future__ import annotations

import numpy as np
import torch

from aru_lab.analysis.parts import Part, Report
from aru_lab.analysis.settings import Settings
from aru_lab.runs.analyses import Result, Run, Table
from aru_lab.runs.evaluation import task_of

STATES = ("h", "n", "s")
_AT_ONCE = 50  # sequences read at once
_NEURONS = 6  # shown of one sequence


def analyse_states(run: Run, settings: Settings, report: Report) -> Result:
    """Means of h, n and s at every step, over sequences and neurons, of all sequences and of each class.

    Padding is left out: a step counts in the sequences that have it, and is NaN where none has.
    """
    x, examples = run.padded_sequences(settings.sequences)
    T, N = x.shape[:2]
    lengths = np.full(N, T) if examples.lengths is None else examples.lengths
    present = np.arange(T)[:, None] < lengths  # (T, N)
    labels, members = _classes(run, examples.y)
    names = ["all", *labels]
    sums = np.zeros((len(STATES), len(names), T, run.network.hidden_size))
    example = np.full((len(STATES), T, run.network.hidden_size), np.nan)
    for start in range(0, N, _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        with torch.no_grad():
            h, *_, trace = run.network(x[:, part], return_trace=True)
        values = torch.stack([h, trace.n.expand_as(h), trace.s.expand_as(h)]).double().cpu().numpy()
        values = np.where(present[:, part, None], values, 0.0)
        for k, of in enumerate(members):
            sums[:, k] += values[:, :, of[part]].sum(2)
        if start == 0:
            example[:, : lengths[0]] = values[:, : lengths[0], 0]
        report(min(N, start + _AT_ONCE), N)
    counts = np.stack([present[:, of].sum(1) for of in members])  # (K, T)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sums / counts[:, :, None]  # (3, K, T, H)
    gains = example[1, : lengths[0]]
    chosen = np.sort(np.argsort(-gains.std(0), kind="stable")[:_NEURONS])
    arrays = {"names": np.array(names), "counts": counts, "neurons": chosen}
    for i, name in enumerate(STATES):
        arrays |= {
            name: means[i].mean(2),
            f"{name}_deviation": means[i].std(2),
            f"{name}_example": example[i][:, chosen],
        }
    header = ("step", "class", "sequences", *(f"{name}{end}" for name in STATES for end in ("", "_deviation")))
    rows = [
        (t, label, counts[k, t], *(arrays[f"{name}{end}"][k, t] for name in STATES for end in ("", "_deviation")))
        for k, label in enumerate(names)
        for t in range(T)
        if counts[k, t]
    ]
    n = arrays["n"][0][counts[0] > 0]
    summary = f"the mean n goes from {n[0]:.3f} at the first step to {n[-1]:.3f} at the last"
    return Result(arrays, {"states": Table(header, rows)}, summary)


def _classes(run: Run, y: np.ndarray) -> tuple[list[str], list[np.ndarray]]:
    """The names of the classes, and which sequences belong to all classes and to each; none where y is no class."""
    everything = np.ones(len(y), bool)
    target = task_of(run.config).target
    if target.every_step or target.names is None:
        return [], [everything]
    names = target.names
    present = np.unique(y)
    return [names[k] for k in present], [everything, *(y == k for k in present)]


PART = Part(analyse_states, ("sequences",))
