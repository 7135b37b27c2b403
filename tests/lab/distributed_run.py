"""Run under torchrun: trains on all processes together. Arguments: a configuration as JSON and a file for gradients.

The first process saves the gradients of the first step; then all train the whole run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from rich.console import Console

from aru_lab.runs import distributed, training
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.folder import RunFolder
from aru_lab.runs.schedules import epoch_order


def first_gradients(config: TrainConfig, world: distributed.World) -> dict[str, torch.Tensor]:
    """The gradients of the first batch and of one that is smaller than the world, averaged over the processes."""
    trainer = training._Trainer(config, RunFolder(config.run_folder), Console(quiet=True), world)
    learner = trainer.learner
    learner.connect()
    order = epoch_order(len(trainer.data.train), config.seed, 0)
    found = {}
    for n in (config.batch_size, 1):
        counts = learner.gradients(trainer.data.train, trainer.batch(order[:n]))
        counts.send()
        loss, n_correct, _ = counts.result(world)
        found |= {f"{name} {n}": p.grad.clone() for name, p in learner.model.named_parameters()}
        found[f"loss {n}"] = torch.tensor([loss, n_correct], dtype=torch.float64)
    return found


def main() -> None:
    """Save the gradients, then train."""
    torch.set_num_threads(1)
    config = TrainConfig.from_json(json.loads(sys.argv[1]))
    with distributed.joined(torch.device("cpu")) as world:
        gradients = first_gradients(config, world)
        if world.is_first:
            torch.save(gradients, Path(sys.argv[2]))
        training.train(config, Console(quiet=True))


if __name__ == "__main__":
    main()
