"""How training fares on small sequence tasks at common learning rates: the tables of docs/training.md.

python -m benchmarks.stability [--learning-rates 2e-3 1e-2] [--seeds 3] [--updates 150] [--output FILE]

Every run appends a line of JSON to FILE; what FILE holds is not computed again.  Tasks come from the packages aeon,
neurogym and statsmodels, from scipy.datasets (which needs pooch) and from MNIST; the tasks of a package that is not
installed are left out, with a line that says so.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import aru_kernels
from aru_kernels import ARUN, GammaRNN, cpu, parameter_groups

from .stability_tasks import TASKS, Task

HIDDEN, CONTROLLER, BATCH = 64, 16, 16

# a loss of so many times that of a constant prediction is a spike
SPIKE = 10

# what names a run in the file of results
KEYS = ("task", "variant", "lr", "seed", "updates")

# name -> (maker of the layer from I and H, whether the learning rates are parameter_groups')
VARIANTS: dict[str, tuple[Callable[[int, int], nn.Module], bool]] = {
    "ARUN": (functools.partial(ARUN, controller_size=CONTROLLER), True),
    "ARUN, uniform": (functools.partial(ARUN, controller_size=CONTROLLER, init="uniform"), True),
    "ARUN, one rate": (functools.partial(ARUN, controller_size=CONTROLLER), False),
    "ARUN, uniform, one rate": (functools.partial(ARUN, controller_size=CONTROLLER, init="uniform"), False),
    "GammaRNN": (GammaRNN, True),
    "GammaRNN, uniform": (functools.partial(GammaRNN, init="uniform"), True),
    "GammaRNN, one rate": (GammaRNN, False),
    "RNN(relu)": (functools.partial(nn.RNN, nonlinearity="relu"), False),
    "LSTM": (nn.LSTM, False),
    "GRU": (nn.GRU, False),
}


class Model(nn.Module):
    """A recurrent layer and a linear read-out: of the last state, or of every step."""

    def __init__(self, recurrent: nn.Module, outputs: int, every_step: bool) -> None:
        super().__init__()
        self.recurrent = recurrent
        self.readout = nn.Linear(recurrent.hidden_size, outputs)
        self.every_step = every_step

    def forward(self, x: Tensor) -> Tensor:
        output, last = self.recurrent(x)
        if self.every_step:
            return self.readout(output)
        h_n = last[0] if isinstance(last, tuple) else last
        return self.readout(h_n[-1])


def parameter_count(make: Callable[[int, int], nn.Module], inputs: int, hidden: int) -> int:
    return sum(parameter.numel() for parameter in make(inputs, hidden).parameters())


@functools.cache
def hidden_size(variant: str, inputs: int) -> int:
    """The size at which a variant has as many parameters as the ARUN."""
    if variant.startswith("ARUN"):
        return HIDDEN
    goal = parameter_count(VARIANTS["ARUN"][0], inputs, HIDDEN)
    make, _ = VARIANTS[variant]
    return min(range(8, 2 * HIDDEN), key=lambda hidden: abs(parameter_count(make, inputs, hidden) - goal))


def loss_of(task: Task, prediction: Tensor, target: Tensor) -> Tensor:
    if task.kind == "forecast":
        return F.mse_loss(prediction, target)
    return F.cross_entropy(prediction.flatten(0, -2), target.flatten())


@torch.no_grad()
def score_of(task: Task, model: Model) -> float:
    """Accuracy in per cent, at decisions only where every step has a target; or mean squared error."""
    x, target = task.test
    prediction = torch.cat([model(part) for part in x.split(64, dim=1)], dim=1 if model.every_step else 0)
    if task.kind == "forecast":
        return F.mse_loss(prediction, target).item()
    right = prediction.argmax(-1) == target
    if task.kind == "steps":
        right = right[target > 0]
    return 100 * right.double().mean().item()


def train(task: Task, variant: str, lr: float, seed: int, updates: int) -> dict[str, object]:
    """One run: Adam, batches of 16 sequences, gradient clipped to 1.

    A step whose gradient is not finite is skipped and counted.  Losses are multiples of that of the best constant.
    """
    torch.manual_seed(seed)
    make, grouped = VARIANTS[variant]
    hidden = hidden_size(variant, task.inputs)
    model = Model(make(task.inputs, hidden), task.outputs, task.kind == "steps")
    optimizer = torch.optim.Adam(parameter_groups(model, lr) if grouped else model.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(seed)
    constant = constant_loss(task)
    losses, not_finite = [], 0
    for _ in range(updates):
        x, target = task.batch(BATCH, generator)
        loss = loss_of(task, model(x), target)
        losses.append(loss.item() / constant if loss.isfinite() else math.inf)
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if norm.isfinite():
            optimizer.step()
        else:
            not_finite += 1
    return {
        "score": score_of(task, model),
        "first_loss": losses[0],
        "worst_loss": max(losses),
        "last_loss": statistics.fmean(losses[-max(1, updates // 10) :]),
        "spikes": sum(loss > SPIKE for loss in losses),
        "not_finite": not_finite,
        "hidden_size": hidden,
    }


def constant_loss(task: Task) -> float:
    """The loss of the best prediction that does not depend on the input."""
    if task.kind == "forecast":
        return 1.0
    counts = task.test[1].flatten().bincount().double()
    return torch.distributions.Categorical(counts).entropy().item()


def exploded(line: dict[str, object]) -> bool:
    """Whether a run met a gradient that is not finite, or had a spike and ended no better than a constant."""
    return line["not_finite"] > 0 or (line["worst_loss"] > SPIKE and not line["last_loss"] < 0.95)


def measure(
    path: Path, tasks: Iterable[Task], variants: list[str], rates: list[float], seeds: int, updates: int
) -> list[dict[str, object]]:
    """The lines of all runs; those that the file lacks are computed and appended to it."""
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    known = {tuple(line[key] for key in KEYS): line for line in lines}
    machine = {
        "device": cpu.processor(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "aru_kernels": aru_kernels.__version__,
    }
    results = []
    for task in tasks:
        for seed in range(seeds):
            for lr in rates:
                for variant in variants:
                    key = (task.name, variant, lr, seed, updates)
                    if key not in known:
                        start = time.perf_counter()
                        line = dict(zip(KEYS, key, strict=True)) | train(task, variant, lr, seed, updates) | machine
                        line |= {"T": task.steps, "kind": task.kind, "seconds": round(time.perf_counter() - start, 2)}
                        with path.open("a") as file:
                            file.write(json.dumps(line) + "\n")
                        known[key] = line
                    results.append(known[key])
    return results


def tables(results: list[dict[str, object]]) -> str:
    """Markdown: for each learning rate the median score of every task and variant, the best in bold, with spikes."""
    text = []
    variants = [name for name in VARIANTS if any(line["variant"] == name for line in results)]
    for lr in sorted({line["lr"] for line in results}):
        heading = f"| task | T | {' | '.join(variants)} |"
        text += ["", f"Learning rate {lr:g}:", "", heading, "|---" * (2 + len(variants)) + "|"]
        of_rate = [line for line in results if line["lr"] == lr]
        for task in dict.fromkeys(line["task"] for line in of_rate):
            of_task = [line for line in of_rate if line["task"] == task]
            cells = _cells([[line for line in of_task if line["variant"] == variant] for variant in variants])
            text.append(f"| {task} | {of_task[0]['T']} | {' | '.join(cells)} |")
        totals = [[line for line in of_rate if line["variant"] == variant] for variant in variants]
        failed = [f"{sum(map(exploded, lines))} of {len(lines)}" for lines in totals]
        text.append(f"| runs that exploded | | {' | '.join(failed)} |")
    return "\n".join(text[1:])


def _cells(by_variant: list[list[dict[str, object]]]) -> list[str]:
    """The median scores, the worst loss if it is a spike that training made, and the number of exploded runs."""
    kind = next(lines for lines in by_variant if lines)[0]["kind"]
    digits = 2 if kind == "forecast" else 0
    medians = [round(statistics.median(line["score"] for line in lines), digits) for lines in by_variant if lines]
    best = min(medians) if kind == "forecast" else max(medians)
    texts = []
    for lines in by_variant:
        if not lines:
            texts.append("")
            continue
        median = round(statistics.median(line["score"] for line in lines), digits)
        parts = [f"**{median:.{digits}f}**" if median == best else f"{median:.{digits}f}"]
        worst = max((line["worst_loss"] for line in lines if line["worst_loss"] > 2 * line["first_loss"]), default=0)
        if worst > SPIKE:
            parts.append(f"{worst:.0e}".replace("e+0", "e").replace("e+", "e"))
        if failed := sum(map(exploded, lines)):
            parts.append(f"{failed} exploded")
        texts.append(", ".join(parts))
    return texts


def available_tasks(names: list[str]) -> Iterable[Task]:
    """The tasks of these names whose packages are installed, one after the other."""
    for name in names:
        make, package = TASKS[name]
        if importlib.util.find_spec(package) is None:
            print(f"{name} needs {package}, which is not installed.", file=sys.stderr)
        else:
            yield make()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--learning-rates", nargs="+", type=float, default=[2e-3, 1e-2])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=150)
    parser.add_argument("--output", type=Path, default=Path("stability.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    tasks = available_tasks(options.tasks)
    results = measure(options.output, tasks, options.variants, options.learning_rates, options.seeds, options.updates)
    print(tables(results))


if __name__ == "__main__":
    main()
