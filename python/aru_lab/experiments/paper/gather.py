"""Do what the chosen claims need, and gather it: networks, scores, analyses, and other work.

Everything is kept as it is finished, so that a stopped command goes on where it was.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aru_lab.errors import Interrupted, LabError, number_of
from aru_lab.experiments.figures import analyse_item
from aru_lab.experiments.kept import ALL, RECURRENT, Kept, read_kept
from aru_lab.experiments.networks import networks
from aru_lab.experiments.paper.claim import Analysis, Claim, Scores, Work
from aru_lab.experiments.paper.evidence import GROUPS, Evidence
from aru_lab.experiments.paper.judges.gradients import SD_OF_NORMS
from aru_lab.experiments.paper.judges.heterogeneity import VALIDATION, start_name
from aru_lab.experiments.paper.plans import PLANS, Plan
from aru_lab.experiments.paper.protocol import GRIDS, SWEEPS, Point, sweeps_of
from aru_lab.experiments.paper.works import ONCE, WORKS, computed_once
from aru_lab.experiments.processes import Report, threads_each
from aru_lab.experiments.scales import NETWORKS
from aru_lab.experiments.session import Jobs
from aru_lab.experiments.slurm import Slurm
from aru_lab.files import is_file
from aru_lab.plots.paper.measured import COURSE
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.evaluation import Score, build_for, task_of
from aru_lab.runs.folder import RunFolder
from aru_lab.runs.scores import known_scores
from aru_lab.terminal import say

Variant = tuple[str, str]  # group and variant
GRID = "grid-"
CHANCE = 0.1  # the accuracy of guesses among ten classes


@dataclass
class Wanted:
    """What a choice of claims needs, in the order of the claims: variants by group, sweeps and parts by variant."""

    variants: dict[str, dict[str, None]] = field(default_factory=dict)
    sweeps: dict[Variant, dict[str, None]] = field(default_factory=dict)
    parts: dict[Variant, dict[str, None]] = field(default_factory=dict)
    works: dict[str, None] = field(default_factory=dict)

    @classmethod
    def by(cls, claims: Sequence[Claim]) -> Wanted:
        """The needs of all claims together."""
        wanted = cls()
        for need in (need for claim in claims for need in claim.needs):
            if need.group:
                wanted.variants.setdefault(need.group, {}).update(dict.fromkeys(need.variants))
            for variant in need.variants:
                match need:
                    case Scores(group, _, sweeps):
                        defined = dict.fromkeys(sweeps_of(variant, sweeps))
                        wanted.sweeps.setdefault((group, variant), {}).update(defined)
                    case Analysis(part, _, group):
                        wanted.parts.setdefault((group, variant), {})[part] = None
            if isinstance(need, Work):
                wanted.works[need.name] = None
        return wanted


@dataclass
class Gathering(Jobs):
    """One gathering: the scale, the folder of everything that is made, and where networks are kept.

    Args:
        scale: a key of PLANS.
        root: folder of runs, restored networks and results.
        kept: folder of kept networks, KEPT/SCALE/SET; without `trains` it is only read.
        trains: whether networks that are not kept are trained.
        own: fields of the configurations that do not define the experiment, such as data_dir and device.
    """

    scale: str
    root: Path
    kept: Path
    trains: bool
    own: dict[str, Any]
    without_encoder: set[Path] = field(default_factory=set, init=False)

    @property
    def plan(self) -> Plan:
        """What the scale takes."""
        return PLANS[self.scale]

    @property
    def threads(self) -> int | None:
        """Threads of each of several processes; None leaves torch's choice."""
        return threads_each(self.jobs)

    def gather(self, claims: Sequence[Claim]) -> Evidence:
        """Make what the claims need, as far as the scale has it; failures are added to `failures`."""
        wanted = Wanted.by(claims)
        evidence = Evidence(self.plan.reduced, self.plan.conclusive)
        stages = [
            (f"networks of {len(wanted.variants)} groups", lambda: self.take_networks(wanted, evidence)),
            ("test scores", lambda: self.score(wanted, evidence)),
            ("analyses", lambda: self.analyse(wanted, evidence)),
            ("further work", lambda: self.work(wanted, evidence)),
        ]
        for k, (name, stage) in enumerate(stages, start=1):
            say(self.console, f"{k} of {len(stages)}: {name}")
            stage()
        return evidence

    def take_networks(self, wanted: Wanted, evidence: Evidence) -> None:
        """Train or read the networks of every group."""
        for group in (group for group in GROUPS if group in wanted.variants):
            network_set = self.plan.network_set(group)
            if network_set is None:
                continue
            scale, name = self.plan.sources[group]
            variants = wanted.variants[group]
            models = tuple(model for model in network_set.models if network_set.starts or model in variants)
            if self.trains:
                try:
                    self.train(scale, name, models)
                except Interrupted:
                    raise
                except LabError as error:  # as where the data of one task is missing: the other groups go on
                    self.failures.append((GROUPS[group], error))
            found = [kept for kept in read_kept(self.kept / scale / name) if variant_of(group, kept.config) in variants]
            for kept in found:
                self.take(group, kept, evidence)
            there = Counter(variant_of(group, kept.config) for kept in found)
            starts = [start_name((float(n), float(s))) for n, s in network_set.starts or ()]
            for variant in starts or models:
                if there[variant] < len(network_set.seeds):
                    evidence.waiting[group, variant] = there[variant], len(network_set.seeds)
            if found:
                evidence.sizes[group] = size_of([kept.config for kept in found])

    def train(self, scale: str, name: str, models: tuple[str, ...]) -> None:
        """Train those models of a set that are not kept, and what they take from other sets before."""
        network_set = next(network_set for network_set in NETWORKS[scale] if network_set.name == name)
        runs = self.root / "training" / scale
        slurm = self.jobs if isinstance(self.jobs, Slurm) else None
        if network_set.rates_of is not None:
            networks(
                scale, self.kept / scale, runs, None, (network_set.rates_of,), self.console, models, slurm, **self.own
            )
        networks(scale, self.kept / scale, runs, None, (name,), self.console, models, slurm, **self.own)

    def take(self, group: str, kept: Kept, evidence: Evidence) -> None:
        """Add one kept network: its clean score, what its log says, and a run folder with its last weights."""
        variant, seed = variant_of(group, kept.config), kept.config.seed
        if kept.failure is not None and group.startswith(GRID):
            # Where a start makes training diverge is a result of the grid.
            evidence.put_scores(group, variant, "clean", seed, {(): Score(math.inf, CHANCE, 0)})
            evidence.put_value(group, variant, VALIDATION, seed, CHANCE)
            return
        if kept.failure is not None or kept.clean is None:
            self.failures.append((f"{group} {kept.name}", LabError(kept.failure or "it has no test score")))
            return
        evidence.put_scores(group, variant, "clean", seed, {(): kept.clean})
        for name, value in values_of_log(kept.history).items():
            evidence.put_value(group, variant, name, seed, value)
        if group.startswith(GRID) and all("gain_mean" in entry for entry in kept.history):
            # Of a homogeneous network the mean over neurons is n, and s, itself.
            shape = [(entry["gain_mean"], entry["saturation_mean"]) for entry in kept.history]
            evidence.put_record(group, variant, COURSE, seed, {"shape": np.array(shape)})
        folder = self.folder_of(group, kept)
        if folder is None and kept.weights is not None:
            self.failures.append((f"{group} {kept.name}", LabError(f"its weights are not in {kept.folder}")))
        if folder is not None:
            evidence.folders.setdefault((group, variant), {})[seed] = folder

    def folder_of(self, group: str, kept: Kept) -> Path | None:
        """A run folder with the last weights of a kept network; None where its weights are not at hand."""
        scale, name = self.plan.sources[group]
        here = dataclasses.replace(kept, config=dataclasses.replace(kept.config, **self.own))
        trained = self.root / "training" / scale / name / f"{kept.name}-lr{kept.config.learning_rate:g}"
        is_here = is_file(kept.file)  # weights of large networks need not be where their scores are
        if kept.kept == ALL and is_here:
            return here.restore(self.root / "networks" / scale / name)
        if RunFolder(trained).holds_run():
            return trained
        if kept.kept == RECURRENT and is_here:
            completed = WithFreshEncoder(**vars(here) | {"kept": ALL})
            folder = completed.restore(self.root / "networks-without-encoder" / scale / name)
            self.without_encoder.add(folder)
            return folder
        return None

    def score(self, wanted: Wanted, evidence: Evidence) -> None:
        """Test every network on its sweeps; the clean score is known."""
        wanted_here = []
        for (group, variant), sweeps in wanted.sweeps.items():
            for seed, folder in evidence.folders.get((group, variant), {}).items():
                perturbed = tuple(sweep for sweep in sweeps if sweep != "clean")
                if perturbed and folder not in self.without_encoder:
                    wanted_here.append((group, seed, variant, folder, perturbed))
        wanted_here.sort(key=lambda item: item[:2])  # networks of one seed read the same examples
        items = [(folder, perturbed, self.plan.grid_subset, self.threads) for *_, folder, perturbed in wanted_here]
        keys = [(group, variant, seed) for group, seed, variant, *_ in wanted_here]
        for k, found in self.map(score_item, items, "testing"):
            group, variant, seed = keys[k]
            for sweep, scores in found.items():
                evidence.put_scores(group, variant, sweep, seed, scores)

    def analyse(self, wanted: Wanted, evidence: Evidence) -> None:
        """Analyse every network; what is not possible is a remark."""
        items = [
            (folder, tuple(parts), self.plan.analysis, "last", None, self.threads)
            for variant, parts in wanted.parts.items()
            for folder in evidence.folders.get(variant, {}).values()
        ]
        for k, remark in self.map(analyse_item, items, "analysing"):
            if remark:
                self.failures.append((items[k][0].name, LabError(remark)))

    def work(self, wanted: Wanted, evidence: Evidence) -> None:
        """Do the rest."""
        computed_once(self, self.plan, evidence, self.root, [name for name in ONCE if name in wanted.works])
        for name, work in WORKS.items():
            if name in wanted.works:
                work(self, self.plan, evidence, self.root)


class WithFreshEncoder(Kept):
    """A network without the weights of its encoder, with a fresh encoder: its recurrent network can be analysed."""

    def read_weights(self) -> dict[str, Tensor]:
        """The kept weights, and those of a fresh encoder."""
        with torch.random.fork_rng([]):
            torch.manual_seed(self.config.seed)
            fresh = build_for(self.config, task_of(self.config), torch.device("cpu"))
        return fresh.state_dict() | super().read_weights()


def variant_of(group: str, config: TrainConfig) -> str:
    """The variant of a network: its model, or its start in the groups of the grid."""
    if not group.startswith(GRID):
        return config.model
    return start_name((float(config.initial_gain), float(config.initial_saturation)))


def size_of(configs: Sequence[TrainConfig]) -> str:
    """The length of the sequences, the hidden size of the ARUN or of the first network, and the number of seeds."""
    first = next((config for config in configs if config.model == "arun"), configs[0])
    n_seeds = len({config.seed for config in configs})
    return f"T = {task_of(first).n_steps}, H = {first.hidden_size}, {number_of(n_seeds, 'seed')}"


def values_of_log(history: Sequence[dict[str, Any]]) -> dict[str, float]:
    """What the claims read of a training log: last validation accuracy, and the spread of the gradient's norm."""
    found = {VALIDATION: history[-1]["validation_accuracy"]}
    norms = [entry["gradient_norm"] for entry in history if entry.get("gradient_norm", 0) > 0]
    if len(norms) > 1:
        found[SD_OF_NORMS] = float(np.std([math.log10(norm) for norm in norms], ddof=1))
    return found


def score_item(
    item: tuple[Path, tuple[str, ...], int | None, int | None], report: Report
) -> dict[str, dict[Point, Score]]:
    """The scores of one (run, sweeps, examples of grids, threads) by sweep and point."""
    run, sweeps, grid_subset, threads = item
    if threads is not None:
        torch.set_num_threads(threads)
    config, _ = RunFolder(run).read_config()
    n_steps = task_of(config).n_steps
    found = {}
    for k, sweep in enumerate(sweeps):
        points = SWEEPS[sweep](n_steps)
        subset = grid_subset if sweep in GRIDS else None
        scores = known_scores(
            run,
            list(points.values()),
            subset,
            report=lambda done, k=k: report((k + done) / len(sweeps)),
            which="last",
        )
        found[sweep] = dict(zip(points, scores, strict=True))
    return found
