"""Figure 18: norm of the gradient for W_hh against the length of the sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from aru_lab.errors import ConfigError
from aru_lab.plots.paper.measured import MAIN, Measured, by_model, needed
from aru_lab.plots.style import COLUMN, LOOKS, MODELS, bars_apart, letter, new_figure, plain_log

_MARKS = 8  # of a curve


def gradients(measured: Measured) -> Any:
    """Norms accumulated over the last steps (a) and of the term of each position (b), after training."""
    files = {
        model: found
        for model in by_model(measured.runs.get(MAIN, ()))
        if model not in ("lstm", "gru") and (found := measured.files("gradients", model))
    }
    if not files:
        raise needed("18", "run with this analysis", "gradients")
    figure = new_figure(4.4, COLUMN)
    whole, each = figure.subplots(2, 1)
    for place, (model, found) in enumerate(files.items()):
        name, colour, marker = MODELS[model]
        look = {"color": colour, "linestyle": LOOKS[model][2], "marker": marker, "label": name}
        accumulated = _equally_long([of["accumulated_after"] for of in found])
        terms = _equally_long([of["each_after"] for of in found])
        n_steps = accumulated.shape[1]
        _log_curve(whole, n_steps - np.arange(n_steps), accumulated, place, len(files), look)
        _log_curve(each, np.arange(n_steps), terms, place, len(files), look)
    whole.set(xlabel="length T - p from position p to the end", ylabel="norm over T - p steps")
    each.set(xlabel="position in the sequence", ylabel="norm of its term")
    for panel, text in ((whole, "a"), (each, "b")):
        panel.set_yscale("log")
        low, high = panel.get_ylim()
        if high < 100 * low:  # too narrow for powers of ten
            plain_log(panel.yaxis)
        letter(panel, text)
    figure.legend(*whole.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _log_curve(axes: Any, x: np.ndarray, curves: np.ndarray, place: int, count: int, look: dict[str, Any]) -> None:
    """The geometric mean over seeds, with bars of one deviation of the logarithm at some places."""
    logs = np.log(np.where(curves > 0, curves, np.nan))  # 0 has no place on a log axis
    mean = np.exp(logs.mean(0))
    positive = np.flatnonzero(np.isfinite(mean))
    if not len(positive):
        return
    chosen = positive[np.unique(np.linspace(0, len(positive) - 1, min(_MARKS, len(positive))).round().astype(int))]
    axes.plot(x, mean, look["linestyle"], color=look["color"])
    spread = None
    if len(curves) > 1:
        factor = np.exp(logs.std(0, ddof=1))[chosen]
        spread = np.stack([mean[chosen] * (1 - 1 / factor), mean[chosen] * (factor - 1)])
    bars_apart(axes, x[chosen], mean[chosen], spread, place, count, **look | {"linestyle": ""})


def _equally_long(curves: Sequence[np.ndarray]) -> np.ndarray:
    if len({len(curve) for curve in curves}) > 1:
        raise ConfigError("runs: got runs of one model on sequences of different lengths, expected one task.")
    return np.stack(list(curves))
