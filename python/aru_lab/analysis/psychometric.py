"""Choices of a network on trials that are drawn: against the stimulus, by pair, by position, or as numbers.

The answer to a trial is the network's at the last step of the response. Shares have Wilson's 95% intervals (E. B.
Wilson, Journal of the American Statistical Association 1927).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from aru_lab.analysis.parts import Part, Report
from aru_lab.analysis.settings import Settings
from aru_lab.data.cognitive import (
    Adding,
    ContextIntegration,
    CopyMemory,
    DelayedMatchToSample,
    ParametricWorkingMemory,
)
from aru_lab.data.gym import COHERENCE, NeuroGym
from aru_lab.data.sequences import Sequences
from aru_lab.data.trials import Kind, Timed, Trials
from aru_lab.networks.classifier import SequenceClassifier
from aru_lab.runs.analyses import Result, Run, Table
from aru_lab.runs.evaluation import score, task_of
from aru_lab.runs.losses import quality_of, spread_of

QUANTILE = 1.959963984540054  # of the normal distribution, for intervals of 95%
_MOST_ITERATIONS = 100

# answers (N,) or (N, steps) with -1 where the network fixates, or numbers (N,); trials -> arrays, table, summary
Answers = np.ndarray


def wilson_interval(chosen: Any, n: Any) -> tuple[np.ndarray, np.ndarray]:
    """The 95% intervals of shares of n trials, low and high; NaN where n is 0.

    Examples:
        >>> low, high = wilson_interval(8, 10)
        >>> round(float(low), 3), round(float(high), 3)
        (0.49, 0.943)
    """
    chosen, n = np.asarray(chosen, np.float64), np.asarray(n, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        share, z2 = chosen / n, QUANTILE**2 / n
        middle = (share + z2 / 2) / (1 + z2)
        half = np.sqrt(z2 * share * (1 - share) + z2**2 / 4) / (1 + z2)
    return middle - half, middle + half


def logistic_fit(x: Any, chosen: Any, n: Any) -> tuple[float, float]:
    """Bias and slope of P(x) = 1 / (1 + exp(-slope (x - bias))), by maximum likelihood.

    Args:
        x: stimuli (L,).
        chosen, n: how many of n trials at each stimulus had this choice, (L,).

    Returns:
        The stimulus at which P is 1/2, and the slope; both NaN where the data determine none: one stimulus or choice
        only, or choices that a threshold separates without an error.

    Examples:
        >>> bias, slope = logistic_fit([-1, 1], [25, 75], [100, 100])
        >>> abs(bias) < 1e-9, round(slope, 4)
        (True, 1.0986)
    """
    x, chosen, n = (np.asarray(values, np.float64) for values in (x, chosen, n))
    yes, no = x[chosen > 0], x[chosen < n]
    if not len(yes) or not len(no) or no.max() <= yes.min() or yes.max() <= no.min():
        return np.nan, np.nan
    centre, scale = x.mean(), x.std()
    design = np.stack([np.ones_like(x), (x - centre) / scale], axis=1)
    weights = np.zeros(2)

    def likelihood(w: np.ndarray) -> float:
        u = design @ w
        return float((chosen * u - n * np.logaddexp(0, u)).sum())

    for _ in range(_MOST_ITERATIONS):
        p = 1 / (1 + np.exp(-design @ weights))
        gradient = design.T @ (chosen - n * p)
        step = np.linalg.solve((design * (n * p * (1 - p))[:, None]).T @ design, gradient)
        while likelihood(weights + step) < likelihood(weights) and abs(step).max() > 1e-14:
            step /= 2
        weights = weights + step
        if abs(step).max() < 1e-12:
            break
    slope = weights[1] / scale
    if abs(slope) * scale < 1e-9:  # P does not depend on x, and reaches 1/2 nowhere or everywhere
        return np.nan, 0.0
    return float(centre - weights[0] / slope) + 0.0, float(slope)


def _shares(chosen: np.ndarray, n: np.ndarray) -> dict[str, np.ndarray]:
    low, high = wilson_interval(chosen, n)
    with np.errstate(invalid="ignore"):
        share = chosen / n
    return {"counts": n, "chosen": chosen, "share": share, "low": low, "high": high}


def choice_curves(
    answers: Answers, stimuli: dict[str, tuple[np.ndarray, np.ndarray]], axis: str, choice: str
) -> Result:
    """The share of the second choice against a stimulus, with intervals and logistic curves.

    Args:
        answers: 0 or 1, or -1, (N,); see `answers_of`.
        stimuli: by name of a curve, the stimulus (N,) and which trials belong to the curve.
        axis: what the stimulus is.
        choice: name of the second choice.
    """
    levels = np.unique(np.concatenate([stimulus[of] for stimulus, of in stimuli.values()]))
    chosen, n = (np.zeros((len(stimuli), len(levels)), np.int64) for _ in range(2))
    for k, (stimulus, of) in enumerate(stimuli.values()):
        for i, level in enumerate(levels):
            here = answers[of & (stimulus == level) & (answers >= 0)]
            chosen[k, i], n[k, i] = here.sum(), len(here)
    fits = np.array([logistic_fit(levels, c, m) for c, m in zip(chosen, n, strict=True)])
    shares = _shares(chosen, n)
    arrays = {
        "form": np.array("curves"),
        "curves": np.array(list(stimuli)),
        "axis": np.array(axis),
        "choice": np.array(choice),
        "levels": levels,
        **shares,
        "bias": fits[:, 0],
        "slope": fits[:, 1],
    }
    rows = [
        (name, level, n[k, i], *(shares[key][k, i] for key in ("share", "low", "high")))
        for k, name in enumerate(stimuli)
        for i, level in enumerate(levels)
    ]
    header = ("curve", "stimulus", "trials", "share", "low", "high")
    summary = "; ".join(f"{name}: slope {fit[1]:.3g}" for name, fit in zip(stimuli, fits, strict=True))
    return Result(arrays, {"psychometric": Table(header, rows)}, summary)


def _context(answers: Answers, trials: Trials) -> Result:
    conditions = trials.conditions
    stimuli = {
        f"{feature}, {context} context": (conditions[feature], conditions["context"] == k)
        for k, context in enumerate(("motion", "colour"))
        for feature in ("motion", "colour")
    }
    return choice_curves(answers, stimuli, "signed coherence", "right")


def _frequencies(answers: Answers, trials: Trials) -> Result:
    everything = np.ones(len(answers), bool)
    stimuli = {"all": (trials.conditions["difference"], everything)}
    return choice_curves(answers, stimuli, "f1 - f2 (Hz)", "f1 > f2")


def _coherences(answers: Answers, trials: Trials) -> Result:
    stimuli = {"all": (trials.conditions[COHERENCE], np.ones(len(answers), bool))}
    return choice_curves(answers, stimuli, "signed coherence (%)", "choice 2")


def _pairs(answers: Answers, trials: Trials) -> Result:
    """The share of "match" for each pair of sample and test."""
    sample, test = trials.conditions["sample"], trials.conditions["test"]
    k = int(max(sample.max(), test.max())) + 1
    pairs = np.stack(np.divmod(np.arange(k * k), k), axis=1)
    decided = answers >= 0
    place = (sample * k + test)[decided]
    n = np.bincount(place, minlength=k * k)
    shares = _shares(np.bincount(place, answers[decided] == 0, k * k).astype(np.int64), n)
    rows = [(*(pair + 1), n[i], *(shares[key][i] for key in ("share", "low", "high"))) for i, pair in enumerate(pairs)]
    header = ("sample", "test", "trials", "share", "low", "high")
    right = (answers == (sample != test))[decided].mean() if decided.any() else np.nan
    arrays = {"form": np.array("pairs"), "pairs": pairs, **shares}
    return Result(arrays, {"psychometric": Table(header, rows)}, f"{right:.1%} of the choices are right")


def _positions(answers: Answers, trials: Trials) -> Result:
    """The share of right symbols at each position."""
    symbols = trials.conditions["symbols"]
    n = np.full(symbols.shape[1], len(symbols))
    shares = _shares((answers == symbols).sum(axis=0), n)
    rows = [(i + 1, n[i], *(shares[key][i] for key in ("share", "low", "high"))) for i in range(len(n))]
    header = ("position", "trials", "share", "low", "high")
    ends = f"{shares['share'][0]:.1%} of the first symbols are right, {shares['share'][-1]:.1%} of the last"
    return Result({"form": np.array("positions"), **shares}, {"psychometric": Table(header, rows)}, ends)


def _numbers(answers: Answers, trials: Trials) -> Result:
    """Predicted against true numbers."""
    true = trials.y[:, 0]
    error = float(((answers - true) ** 2).mean(dtype=np.float64))
    quality = quality_of(error, 0, len(true), spread_of(trials.y))
    arrays = {"form": np.array("numbers"), "true": true, "predicted": answers, "r_squared": np.array(quality)}
    table = Table(("true", "predicted"), list(zip(true.tolist(), answers.tolist(), strict=True)))
    return Result(arrays, {"psychometric": table}, f"R² {quality:.4f}, mean squared error {error:.4g}")


FORMS: dict[type[Any], Callable[[Answers, Trials], Result]] = {
    ContextIntegration: _context,
    ParametricWorkingMemory: _frequencies,
    DelayedMatchToSample: _pairs,
    CopyMemory: _positions,
    Adding: _numbers,
    NeuroGym: _coherences,
}


def answers_of(model: SequenceClassifier, sequences: Sequences, kind: Kind) -> Answers:
    """The answers of a network to trials.

    Args:
        model: the classifier.
        sequences: the trials as it reads them.
        kind: the task, which says what the classes are.

    Returns:
        Choices (N,) at the last step of the response, -1 where the network fixates; symbols (N, length) of
        `CopyMemory`, -1 where it answers blank; numbers (N,).
    """
    kept: list[np.ndarray] = []
    score(model, sequences, kept=kept)
    outputs = np.concatenate(kept)
    if sequences.mask is None:
        return outputs[:, 0]
    answers = outputs.argmax(axis=1)
    if isinstance(kind, CopyMemory):
        return answers.reshape(len(sequences), -1) - kind.blanks
    # the outputs are those of the responses, one trial after the other
    last = sequences.mask.sum(axis=1).cumsum() - 1
    fixates = kind.fixate if isinstance(kind, Timed) else True  # environments of NeuroGym have the action in any case
    return answers[last] - fixates


def analyse_psychometric(run: Run, settings: Settings, report: Report) -> Result:
    """The answers of a run to its test trials, by what the trials show."""
    task = task_of(run.config)
    answers = answers_of(run.model, run.test, task.kind)
    report(1, 1)
    result = FORMS[type(task.kind)](answers, task.trials("test"))
    if run.test.mask is not None and answers.ndim == 1:
        undecided = int((answers < 0).sum())
        result.arrays["undecided"] = np.array(undecided)
        return Result(result.arrays, result.tables, f"{result.summary}; {undecided} of {len(answers)} without a choice")
    return result


PART = Part(analyse_psychometric, (), suits="trials")
