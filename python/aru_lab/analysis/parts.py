"""The parts of `aru analyse`: each computes the arrays and tables of one analysis of a run.

The module of an analysis defines its part. The files of the parts hold everything that a figure draws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aru_lab.analysis.settings import Settings
from aru_lab.runs.analyses import Result, Run

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Part:
    """One analysis of a run: its function, its settings, the parts that it reads, and the models that it suits."""

    compute: Callable[[Run, Settings, Report], Result]
    settings: tuple[str, ...]
    needs: tuple[str, ...] = ()
    suits: str = "gamma"
    """single: all but LSTM and GRU; gamma: ARUN or RNN+γ; adaptive: ARUN."""

    def refusal(self, name: str, run: Run) -> str | None:
        """The reason why the part called `name` cannot be computed for the run, in a sentence; None if it can."""
        came, model = f"{name}: {run.path} is a run of {run.config.model}, expected", run.config.model
        if self.suits == "adaptive" and not run.adaptive:
            return f"{came} one of arun: it has no controller to analyse."
        if self.suits == "gamma" and not run.has_gamma:
            return f"{came} one of arun or an RNN+γ: it has no γ to analyse."
        if self.suits == "single" and model in ("lstm", "gru"):
            return f"{came} one with a single matrix W_hh, not one for every gate."
        return None
