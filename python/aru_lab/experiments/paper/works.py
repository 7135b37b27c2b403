"""Work for the claims beside scores and analyses of single networks: a retraining, exchanged controllers, and
computations without trained networks. What is finished is kept and not done again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from aru_lab.analysis.random_networks import exponent_grid, norm_grid, variance_ratio
from aru_lab.errors import RunError
from aru_lab.experiments.paper.evidence import Evidence
from aru_lab.experiments.paper.judges.accuracy import TRANSPLANT_TESTS
from aru_lab.experiments.paper.judges.heterogeneity import (
    GAINS,
    HETEROGENEOUS,
    RETRAINED,
    ROTATED,
    SATURATIONS,
    SPREADS,
    UPRIGHT,
    start_name,
)
from aru_lab.experiments.paper.plans import Plan, RandomNetworks
from aru_lab.experiments.paper.protocol import SWEEPS
from aru_lab.experiments.processes import Report
from aru_lab.experiments.session import Jobs
from aru_lab.experiments.transfer import folder_of, transfer_item
from aru_lab.files import Form, archive_of, check_form, is_file, read_arrays, read_lines, reading, sha256_of
from aru_lab.networks.classifier import CONTROLLER, STATIC, SequenceClassifier
from aru_lab.networks.perturbations import describe
from aru_lab.plots.paper.measured import RETRAINING
from aru_lab.runs.evaluation import Score, load_classifier, score, task_of
from aru_lab.runs.folder import RunFolder, append_result, write_result
from aru_lab.runs.runtime import run_on
from aru_lab.runs.scores import CLEAN

SWAPPED = "swapped.jsonl"
_LINE: Form = {"weights": str, "donor": str, "perturbation": str, "loss": float, "accuracy": float, "n": int}


def rotation(jobs: Jobs, plan: Plan, evidence: Evidence, _: Path) -> None:
    """Retrain n and s of the heterogeneous RNN+γ on rotated digits: accuracies and spreads over neurons."""
    folders = evidence.folders.get(("psmnist", HETEROGENEOUS), {})
    items = [(folder, plan.retraining) for folder in folders.values()]
    for k, result in jobs.map(transfer_item, items, "retraining n and s on rotated digits"):
        seed = list(folders)[k]
        found = {UPRIGHT: result.before.accuracy, ROTATED: result.rotated.accuracy}
        found |= {RETRAINED: result.retrained.accuracy}
        moments = {"trained": result.run, "retrained": folder_of(result.run, plan.retraining)}
        shapes = {when: shapes_of(folder) for when, folder in moments.items()}
        for when, (n, s) in shapes.items():
            found |= {f"{name} {when}": value for name, value in spreads(n, s).items()}
        (n, s), (n_after, s_after) = shapes.values()
        record = {"n_before": n, "s_before": s, "n_after": n_after, "s_after": s_after}
        evidence.put_record("psmnist", HETEROGENEOUS, RETRAINING, seed, record)
        for name, value in found.items():
            evidence.put_value("psmnist", HETEROGENEOUS, name, seed, value)


def shapes_of(run: Path) -> tuple[np.ndarray, np.ndarray]:
    """n and s, (H,) each, of a network with constant ones."""
    weights = load_classifier(run, "last")[0].recurrent.state_dict()
    n, s = (weights[name].double().numpy() for name in STATIC)
    return n, s


def spreads(n: np.ndarray, s: np.ndarray) -> dict[str, float]:
    """How n and s differ between neurons; see `heterogeneity.SPREADS`."""
    return dict(zip(SPREADS, (float(n.std()), float(s.std()), float(np.linalg.det(np.cov(n, s)))), strict=True))


def swapped(jobs: Jobs, _: Plan, evidence: Evidence, __: Path) -> None:
    """Test every ARUN with the trained controller of the next seed; nothing is trained."""
    folders = evidence.folders.get(("psmnist", "arun"), {})
    seeds = sorted(folders)
    items = [(folders[seed], folders[seeds[(k + 1) % len(seeds)]]) for k, seed in enumerate(seeds)]
    for k, found in jobs.map(swap_item, items if len(seeds) > 1 else [], "testing exchanged controllers"):
        for sweep, scores in found.items():
            evidence.put_scores("swapped", "arun", sweep, seeds[k], {(): scores})


def swap_item(item: tuple[Path, Path], report: Report) -> dict[str, Score]:
    """The scores of one (run, donor of the controller) on the tests of a transplant, by sweep."""
    run, donor = item
    files = {"weights": RunFolder(run).last_file, "donor": RunFolder(donor).last_file}
    checksums = {}
    for name, file in files.items():
        with reading(file, RunError, "train the network again."):
            checksums[name] = sha256_of(file)[:16]
    lines = read_lines(run / SWAPPED, lambda line: check_form(line, _LINE), RunError)
    known = {
        line["perturbation"]: Score(line["loss"], line["accuracy"], line["n"])
        for line in lines
        if all(line[name] == value for name, value in checksums.items())
    }
    model, config = load_classifier(run, "last")
    task = task_of(config)
    put_controller(model, donor)
    sequences = None
    found = {}
    for k, sweep in enumerate(TRANSPLANT_TESTS):
        (perturbation,) = SWEEPS[sweep](task.n_steps).values()
        name = CLEAN if perturbation is None else describe(perturbation)
        if name not in known:
            sequences = sequences or task.load(config.data_dir).test
            with run_on(config.backend, model, config.matmul_precision):
                known[name] = score(model, sequences, perturbation=perturbation)
            append_result(checksums | {"perturbation": name, **asdict(known[name])}, run / SWAPPED)
        found[sweep] = known[name]
        report((k + 1) / len(TRANSPLANT_TESTS))
    return found


def put_controller(model: SequenceClassifier, run: Path) -> None:
    """Give an ARUN the trained controller of a run."""
    weights = load_classifier(run, "last")[0].recurrent.state_dict()
    model.recurrent.load_state_dict({name: weights[name] for name in CONTROLLER}, strict=False)


def random_networks(sizes: RandomNetworks) -> dict[str, np.ndarray]:
    """Jacobian norm and largest Lyapunov exponent over the (n, s) grid, (networks, N, S) each.

    The norms of a network are the mean over its share of the draws.
    """
    grid = {"gains": np.linspace(1, 20, sizes.gains), "saturations": np.linspace(0, 1, sizes.saturations)}
    exponents = exponent_grid(
        sizes.size, **grid, networks=sizes.networks, steps=sizes.steps, transient=sizes.transient
    ).exponents
    share = max(2, sizes.draws // sizes.networks)
    norms = [norm_grid(sizes.size, **grid, draws=share, seed=k).norm for k in range(sizes.networks)]
    return {**grid, "jacobian_norm": np.array(norms), "exponent": np.moveaxis(exponents, 2, 0)}


def norms_of_starts(sizes: RandomNetworks) -> dict[str, np.ndarray]:
    """The Jacobian norm at every start of the initialisation grid, by its name."""
    norm = norm_grid(sizes.size, GAINS, SATURATIONS, sizes.draws).norm
    return {start_name((n, s)): norm[i, j] for i, n in enumerate(GAINS) for j, s in enumerate(SATURATIONS)}


def noise_of_one_step(sizes: RandomNetworks) -> dict[str, np.ndarray]:
    """Proposition 1: variances after one step, measured and predicted, over means μ, gains n and saturations s."""
    size = min(sizes.size, 100)
    rng = np.random.default_rng(0)
    shape = rng.uniform(-3, 3, size), rng.uniform(1, 10, size), rng.uniform(0, 1, size)
    found = variance_ratio(*shape, samples=20 * size)
    return {"measured": found.measured, "predicted": found.predicted}


ONCE: dict[str, Callable[[RandomNetworks], Mapping[str, np.ndarray]]] = {
    "random networks": random_networks,
    "jacobian norms of the starts": norms_of_starts,
    "noise of one step": noise_of_one_step,
}


def once_item(item: tuple[Path, str, RandomNetworks], report: Report) -> dict[str, np.ndarray]:
    """The arrays of one (file, name in ONCE, sizes); they are read where the file holds them for these sizes."""
    path, name, sizes = item
    key = json.dumps({"name": name, **asdict(sizes)})
    if is_file(path):
        with reading(path, RunError, "delete it, and it is made again."):
            arrays = read_arrays(path)
            if str(arrays.pop("key", "")) == key:
                return arrays
    arrays = dict(ONCE[name](sizes))
    write_result(archive_of(arrays | {"key": np.array(key)}), path)
    return arrays


def computed_once(jobs: Jobs, plan: Plan, evidence: Evidence, root: Path, names: list[str]) -> None:
    """Compute or read what belongs to no trained network."""
    items = [(root / "once" / f"{name.replace(' ', '-')}.npz", name, plan.random) for name in names]
    for k, arrays in jobs.map(once_item, items, "random networks"):
        evidence.once[names[k]] = arrays


WORKS: dict[str, Callable[[Jobs, Plan, Evidence, Path], None]] = {"rotation": rotation, "swapped": swapped}
