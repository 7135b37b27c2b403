"""The parts of `aru analyse`: each computes the arrays and tables of one analysis of a run.

The module of an analysis defines its part. The files of the parts hold everything that a figure draws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aru_lab.analysis.settings import Settings
from aru_lab.data.cognitive import KINDS
from aru_lab.data.gym import COHERENCE
from aru_lab.data.trials import TrialTask
from aru_lab.runs.analyses import Result, Run
from aru_lab.runs.evaluation import task_of

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Part:
    """One analysis of a run: its function, its settings, the parts that it reads, and the models that it suits."""

    compute: Callable[[Run, Settings, Report], Result]
    settings: tuple[str, ...]
    needs: tuple[str, ...] = ()
    suits: str = "gamma"
    """single: all but LSTM and GRU; gamma: ARUN or RNN+γ; adaptive: ARUN; trials: all, on the tasks of KINDS and on
    those of NeuroGym with a coherence and two choices."""
    on_request: bool = False
    """Whether it is computed only where it is named."""
    refuses: Callable[[Run], str | None] | None = None
    """Gives the end of the sentence that says what else a run has to be, or None."""

    def refusal(self, name: str, run: Run) -> str | None:
        """The reason why the part called `name` cannot be computed for the run, in a sentence; None if it can."""
        if self.suits == "trials":
            task = task_of(run.config)
            if isinstance(task, TrialTask) and (task.base in KINDS or COHERENCE in task.trials("test").conditions):
                return None
            return (
                f"{name}: {run.path} is a run of {run.config.task}, expected one of {', '.join(KINDS)}, or a task of "
                "NeuroGym with a coherence and two choices."
            )
        came, model = f"{name}: {run.path} is a run of {run.config.model}, expected", run.config.model
        if self.suits == "adaptive" and not run.adaptive:
            return f"{came} one of arun: it has no controller to analyse."
        if self.suits == "gamma" and not run.has_gamma:
            return f"{came} one of arun or an RNN+γ: it has no γ to analyse."
        if self.suits == "single" and model in ("lstm", "gru"):
            return f"{came} one with a single matrix W_hh, not one for every gate."
        if self.refuses is not None and (reason := self.refuses(run)) is not None:
            return f"{name}: {run.path} {reason}"
        return None
