"""A trained run as the analyses see it: its network before and after training, and what it reads."""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aru_kernels import ARUN, GammaRNN
from aru_lab.analysis.settings import Settings
from aru_lab.analysis.store import AnalysisFolder, fingerprint
from aru_lab.checkpoint import RunFolder
from aru_lab.config import TrainConfig
from aru_lab.errors import ConfigError
from aru_lab.evaluation import build_for, load_classifier, to_tensors
from aru_lab.models import SequenceClassifier
from aru_lab.runtime import resolve_device
from aru_lab.tasks import TASKS, Sequences


class Run:
    """One run folder, opened for analysis. Nothing is read before it is asked for but the configuration.

    Args:
        path: the run folder.
        checkpoint: "best" or "last".
        retrained: folder of the run that retrained this one's n and s on another task, for the heterogeneity; or None.

    Raises:
        RunError: a folder holds no run.
        ConfigError: another checkpoint.
    """

    def __init__(self, path: Path, checkpoint: str = "best", retrained: Path | None = None) -> None:
        self.folder = RunFolder(Path(path))
        self.config: TrainConfig = self.folder.read_config()[0]
        if checkpoint not in ("best", "last"):
            raise ConfigError(f"checkpoint: got {checkpoint!r}, expected best or last.")
        self.checkpoint = checkpoint
        self.files = AnalysisFolder(self.folder.path)
        self.retrained = None if retrained is None else Run(retrained, checkpoint)

    @property
    def path(self) -> Path:
        """The run folder."""
        return self.folder.path

    @cached_property
    def weights(self) -> str:
        """What identifies the weights that are analysed."""
        return fingerprint(self.folder.best_file if self.checkpoint == "best" else self.folder.last_file)

    @cached_property
    def model(self) -> SequenceClassifier:
        """The trained classifier."""
        return load_classifier(self.path, self.checkpoint)[0]

    @cached_property
    def initial_model(self) -> SequenceClassifier:
        """The classifier as it was before training: built again from the run's seed."""
        device = resolve_device(self.config.device)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(self.config.seed)
            return build_for(self.config, TASKS[self.config.task], device).eval()

    @property
    def network(self) -> nn.Module:
        """The trained recurrent network."""
        return self.model.recurrent

    @property
    def adaptive(self) -> bool:
        """Whether it is an ARUN."""
        return isinstance(self.network, ARUN)

    @property
    def has_gamma(self) -> bool:
        """Whether it is an ARUN or a GammaRNN."""
        return isinstance(self.network, (ARUN, GammaRNN))

    @cached_property
    def test(self) -> Sequences:
        """The test examples."""
        return TASKS[self.config.task].load(self.config.data_dir).test

    def sequences(self, n: int) -> tuple[Tensor, Tensor]:
        """The first n test examples, or all if there are fewer: x (T, B, I) and labels (B,)."""
        parameter = next(self.model.parameters())
        x, y = to_tensors(self.test, slice(n), parameter.device, parameter.dtype)
        return x.transpose(0, 1).contiguous(), y

    def key(self, settings: Settings, names: tuple[str, ...]) -> dict[str, Any]:
        """What a part's file depends on: the weights and the settings of these names ("retrained": that run's too)."""
        values = asdict(settings) | {"retrained": self.retrained and self.retrained.weights}
        return {"weights": self.weights} | {name: values[name] for name in names}
