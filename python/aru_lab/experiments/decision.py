"""Are networks with adaptive neurons more robust on a decision task under Dale's law, too?

The claims here are the project's own, on the networks of the scale `decision` (scales.NETWORKS). The perturbations and
the rules of the verdicts are those of the paper's claims.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aru_lab.data.gym import COHERENCE
from aru_lab.data.sequences import Sequences
from aru_lab.data.tasks import find_task
from aru_lab.data.trials import Kind, TrialTask
from aru_lab.errors import RunError
from aru_lab.experiments.kept import Kept, read_kept, read_trials
from aru_lab.experiments.paper.claim import Claim, Collection, Scores
from aru_lab.experiments.paper.evidence import DECISION, Evidence
from aru_lab.experiments.paper.findings import Finding, judge
from aru_lab.experiments.paper.judges.robustness import smaller_fall
from aru_lab.experiments.paper.protocol import SWEEPS
from aru_lab.experiments.paper.rules import Outcome
from aru_lab.experiments.scales import NETWORKS
from aru_lab.networks.classifier import SequenceClassifier
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.evaluation import load_network, score
from aru_lab.runs.runtime import run_on

(NETWORK_SET,) = NETWORKS["decision"]
OTHERS = tuple(model for model in NETWORK_SET.models if model != "arun")
COLLECTION = Collection()


def _claim(name: str, sweep: str, under: str) -> None:
    """Add the claim that the accuracy of the ARUN falls less over a sweep than that of each other model."""

    @COLLECTION.claim(
        name,
        "",
        f"{under}: the accuracy of the ARUN falls least",
        "fall from the clean accuracy, each other model minus ARUN > 0",
        "PT each",
        "R",
        Scores(DECISION, NETWORK_SET.models, ("clean", sweep)),
    )
    def _(evidence: Evidence) -> list[Outcome]:
        return [smaller_fall(evidence, DECISION, "arun", other, sweep) for other in OTHERS]


for _name, _sweep, _under in (
    ("D1", "noisy drive", "noisy drive of mean 5 and deviation √2"),
    ("D2", "step drive", "step drive of ξ = 1"),
    ("D3", "sine", "contrast that oscillates with A = 0.5"),
    ("D4", "step sweep", "mean over steps of ξ from 0.5 to 30"),
    ("D5", "contrast sweep", "mean over contrasts of A from 0.1 to 1"),
):
    _claim(_name, _sweep, _under)
CLAIMS: tuple[Claim, ...] = tuple(COLLECTION.claims)


@dataclass(frozen=True)
class Decisions:
    """Trained networks, and the trials on which they are tested.

    Args:
        networks: what is kept of each, by name.
        models: the networks themselves, by name.
        trials: all test trials.
        coherences: their signed coherences in percent, (N,).
        kind: the task.
    """

    networks: dict[str, Kept]
    models: dict[str, SequenceClassifier]
    trials: Sequences
    coherences: np.ndarray
    kind: Kind

    @property
    def with_evidence(self) -> Sequences:
        """The trials whose coherence is not 0: of the others, no network can be right in more than half."""
        return self.trials.take(np.flatnonzero(self.coherences))

    def seeds_of(self, model: str) -> list[str]:
        """The names of the networks of a model."""
        return [name for name, network in self.networks.items() if network.config.model == model]


def read_decisions(folder: Path, runs: Path) -> Decisions:
    """The networks that `aru networks --scale decision` keeps in OUTPUT/perceptual-decision; NeuroGym is not needed.

    Args:
        folder: of the networks.
        runs: folder where they become runs again.

    Raises:
        RunError: the folder keeps no network of the scale, or a file is damaged.
    """
    found = {network.name: network for network in read_kept(folder) if network.failure is None}
    if not found:
        raise RunError(f"{folder} keeps no networks; train them with `aru networks --scale decision`.")
    task = next(iter(found.values())).config.task
    trials, conditions = read_trials(folder, task)
    if COHERENCE not in conditions:
        raise RunError(f"{folder}: its trials have no {COHERENCE}; keep those of a decision with two choices.")
    models = {name: load_network(network.restore(runs), "last")[0] for name, network in found.items()}
    drawn = find_task(task)
    assert isinstance(drawn, TrialTask)
    return Decisions(found, models, trials, conditions[COHERENCE], drawn.kind)


def measure(
    decisions: Decisions,
    sweeps: Sequence[str] = ("noisy drive", "step drive", "sine"),
    report: Callable[[float], None] = lambda fraction: None,
) -> Evidence:
    """Score all networks on the trials with evidence, clean and over sweeps.

    Args:
        decisions: networks and trials.
        sweeps: names of protocol.SWEEPS.
        report: called with the fraction that is done.

    Raises:
        ConfigError: a perturbation does not fit the trials.
    """
    evidence = Evidence(reduced=False)
    sequences = decisions.with_evidence
    there = Counter(network.config.model for network in decisions.networks.values())
    planned = len(NETWORK_SET.seeds)
    evidence.waiting |= {(DECISION, m): (there[m], planned) for m in NETWORK_SET.models if there[m] < planned}
    for k, (name, model) in enumerate(decisions.models.items()):
        config: TrainConfig = decisions.networks[name].config
        with run_on(config.backend, model, config.matmul_precision):
            for sweep in ("clean", *sweeps):
                points = SWEEPS[sweep](sequences.x.shape[1])
                scores = {point: score(model, sequences, perturbation=one) for point, one in points.items()}
                evidence.put_scores(DECISION, config.model, sweep, config.seed, scores)
        report((k + 1) / len(decisions.models))
    return evidence


def findings(evidence: Evidence) -> list[Finding]:
    """The verdicts on the claims whose sweeps were measured, with p-values after Holm's correction for these."""
    measured = {sweep for _, _, sweep in evidence.scores}
    claims = [
        claim
        for claim in CLAIMS
        if all(set(need.sweeps) <= measured for need in claim.needs if isinstance(need, Scores))
    ]
    return judge(claims, evidence)
