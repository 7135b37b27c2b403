"""Trajectories of the population in principal components: means of h over test sequences of a condition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn

from aru_lab.analysis.parts import Part, Report
from aru_lab.analysis.settings import Settings
from aru_lab.data.cognitive import (
    ContextIntegration,
    CopyMemory,
    DelayedMatchToSample,
    ParametricWorkingMemory,
)
from aru_lab.data.gym import COHERENCE, NeuroGym
from aru_lab.data.sequences import Sequences
from aru_lab.data.trials import Timed, TrialTask
from aru_lab.networks.classifier import driven_rnn
from aru_lab.runs.analyses import Result, Run, Table
from aru_lab.runs.evaluation import task_of

N_COMPONENTS = 3
_AT_ONCE = 100  # sequences read at once
_CONTEXTS = ("motion context", "colour context")


def states_of(network: nn.Module, x: Tensor) -> Tensor:
    """All states h (T, B, H) of a recurrent network for its inputs (T, B, I), without gradients."""
    with torch.no_grad():
        parts = [
            driven_rnn(network, part, None) if isinstance(network, nn.RNNBase) else network(part)[0]
            for part in x.split(_AT_ONCE, dim=1)
        ]
    return torch.cat(parts, dim=1)


def conditions_of(run: Run, examples: Sequences) -> dict[str, np.ndarray]:
    """By name of a condition, which of a run's first test sequences belong to it, bool (N,).

    Of drawn trials: pairs of sample and test; context and relevant coherence; frequency f1; the first symbol; the
    signed coherence of a decision in NeuroGym. Of other data: the class, or all where there is none.
    """
    task, n = task_of(run.config), len(examples)
    if isinstance(task, TrialTask):
        shown = {name: values[:n] for name, values in task.trials("test").conditions.items()}
        if isinstance(task.kind, DelayedMatchToSample):
            return _groups("sample {}, test {}", shown["sample"] + 1, shown["test"] + 1)
        if isinstance(task.kind, ContextIntegration):
            contexts = np.array(_CONTEXTS)[shown["context"]]
            return _groups("{}, {:+.3g}", contexts, shown["relevant"])
        if isinstance(task.kind, ParametricWorkingMemory):
            return _groups("f1 = {} Hz", shown["f1"])
        if isinstance(task.kind, CopyMemory):
            return _groups("first symbol {}", shown["symbols"][:, 0] + 1)
        if COHERENCE in shown:
            return _groups("coherence {:+.3g}%", shown[COHERENCE])
    names = task.target.names
    if names is None or task.target.every_step:
        return {"all": np.ones(n, bool)}
    return {names[k]: examples.y == k for k in np.unique(examples.y)}


def _groups(form: str, *values: np.ndarray) -> dict[str, np.ndarray]:
    """The members of each combination of values, in their order."""
    found = sorted(set(zip(*(value.tolist() for value in values), strict=True)))
    return {
        form.format(*one): np.logical_and.reduce([value == v for value, v in zip(values, one, strict=True)])
        for one in found
    }


def periods_of(run: Run, n_steps: int) -> Mapping[str, slice]:
    """The periods of a run's trials; of other data one, the whole sequence."""
    task = task_of(run.config)
    if isinstance(task, TrialTask) and isinstance(task.kind, (Timed, NeuroGym)):
        found = {name: steps for name, steps in task.kind.periods.items() if steps.stop > steps.start}
        return found or {"sequence": slice(0, n_steps)}
    if isinstance(task, TrialTask) and isinstance(task.kind, CopyMemory):
        length, recall = task.kind.length, task.kind.length + task.kind.delay
        return {"symbols": slice(0, length), "delay": slice(length, recall), "recall": slice(recall, n_steps)}
    return {"sequence": slice(0, n_steps)}


def analyse_trajectories(run: Run, settings: Settings, report: Report) -> Result:
    """Mean trajectories of each condition on the first principal components of all these means."""
    x, examples = run.padded_sequences(max(settings.sequences, 1))
    n_steps, n = x.shape[:2]
    lengths = np.full(n, n_steps) if examples.lengths is None else examples.lengths
    there = np.arange(n_steps)[:, None] < lengths  # (T, N)
    h = states_of(run.network, x).double().cpu().numpy()
    members = conditions_of(run, examples)
    counts = np.stack([there[:, of].sum(axis=1) for of in members.values()])  # (C, T)
    sums = np.stack([np.where(there[:, of, None], h[:, of], 0).sum(axis=1) for of in members.values()])
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sums / counts[..., None]  # (C, T, H), NaN where no sequence has the step
    known = counts > 0
    k = min(N_COMPONENTS, h.shape[-1], int(known.sum()))
    pca = PCA(n_components=k, svd_solver="full").fit(means[known])
    scores = np.full((*counts.shape, k), np.nan)
    scores[known] = pca.transform(means[known])
    report(1, 1)
    periods = periods_of(run, n_steps)
    rows = [
        (name, t, counts[c, t], *scores[c, t]) for c, name in enumerate(members) for t in range(n_steps) if counts[c, t]
    ]
    header = ("condition", "step", "sequences", *(f"component_{i + 1}" for i in range(k)))
    arrays: dict[str, Any] = {
        "names": np.array(list(members)),
        "counts": counts,
        "scores": scores,
        "mean": pca.mean_,
        "axes": pca.components_,
        "explained": pca.explained_variance_ratio_,
        "periods": np.array(list(periods)),
        "period_starts": np.array([steps.start for steps in periods.values()]),
    }
    shares = ", ".join(f"{share:.1%}" for share in pca.explained_variance_ratio_)
    return Result(arrays, {"trajectories": Table(header, rows)}, f"{len(members)} conditions; components: {shares}")


PART = Part(analyse_trajectories, ("sequences",), suits="single", on_request=True)
