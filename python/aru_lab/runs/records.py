"""Files of a run in training: checkpoints, metrics, and logs for TensorBoard."""

from __future__ import annotations

from typing import Any

import torch

from aru_lab.runs.config import TrainConfig
from aru_lab.runs.distributed import World
from aru_lab.runs.folder import RunFolder, save_checkpoint
from aru_lab.runs.logs import Logs, summary_writer
from aru_lab.runs.state import run_of


class Records:
    """The files of one run. The first process writes; if writing fails, all processes raise its error.

    Args:
        config: configuration of the run.
        folder: folder of the run.
        world: processes of the run.

    Attributes:
        environment: versions and machine of the run; checkpoints keep a part of it.

    Raises:
        ConfigError: TensorBoard is asked for and not installed.
    """

    def __init__(self, config: TrainConfig, folder: RunFolder, world: World) -> None:
        self.folder = folder
        self.environment: dict[str, Any] = {}
        self._config, self._world = config, world
        self._writer = summary_writer() if config.tensorboard and world.is_first else None
        self._logs: Logs | None = None

    def open(self, epoch: int) -> None:
        """Begin the logs; `epoch` is the first epoch to come, from 1."""
        with self._world.together():
            if self._writer is not None:
                self._logs = Logs(self._writer, self.folder.path / "tensorboard", epoch)

    def save_last(self, content: dict[str, Any]) -> None:
        """Write last.pt."""
        with self._world.together():
            if self._world.is_first:
                save_checkpoint({**content, "run": self._run()}, self.folder.last_file)

    def save_best(self, weights: dict[str, Any], entry: dict[str, Any]) -> None:
        """Write best.pt: the weights of the best epoch and its metrics."""
        with self._world.together():
            if self._world.is_first:
                content = {"model": weights, "epoch": entry["epoch"], "validation": entry, "run": self._run()}
                save_checkpoint(content, self.folder.best_file)

    def append(self, entry: dict[str, Any]) -> None:
        """Append the metrics of an epoch to metrics.jsonl and to the logs."""
        with self._world.together():
            if self._world.is_first:
                self.folder.append_metrics(entry)
            if self._logs is not None:
                self._logs.write(entry)

    def close(self) -> None:
        """End the logs."""
        with self._world.together():
            if self._logs is not None:
                self._logs.close()

    def _run(self) -> dict[str, Any]:
        return run_of(self._config, self.environment)


def random_state(device: torch.device, world: World) -> dict[str, Any]:
    """The states of the random generators of all processes, as last.pt keeps them."""
    on_gpu = device.type == "cuda"
    return {
        "rng": world.gather(torch.get_rng_state()),
        "rng_cuda": world.gather(torch.cuda.get_rng_state(device)) if on_gpu else None,
    }


def set_random_state(content: dict[str, Any], device: torch.device, world: World) -> None:
    """Restore a result of `random_state`.

    Raises:
        Exception: of many types, where the content is of other generators.
    """
    torch.set_rng_state(content["rng"][world.rank])
    if device.type == "cuda" and content["rng_cuda"] is not None:
        torch.cuda.set_rng_state(content["rng_cuda"][world.rank], device)
