"""A trained run as the analyses see it: its network before and after training, and what it reads."""

from __future__ import annotations

import os
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aru_kernels import ARUN, GammaRNN
from aru_lab.analysis.settings import Settings
from aru_lab.analysis.store import AnalysisFolder
from aru_lab.checkpoint import RunFolder
from aru_lab.config import TrainConfig
from aru_lab.data.sequences import Sequences
from aru_lab.errors import ConfigError, RunError
from aru_lab.evaluation import build_for, load_classifier, take_initial_weights, task_of, to_tensors
from aru_lab.files import reading, sha256_of
from aru_lab.networks.classifier import SequenceClassifier
from aru_lab.runtime import resolve_device
from aru_lab.state import DAMAGED, check_sources, without_best


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
        self.config: TrainConfig
        self.config, self._environment = self.folder.read_config()
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
        """What identifies the weights that are analysed.

        Raises:
            RunError: their file can't be read.
        """
        best = self.checkpoint == "best"
        file = self.folder.best_file if best else self.folder.last_file
        if best and not os.path.lexists(file):
            raise RunError(without_best(self.folder))
        with reading(file, RunError, DAMAGED):
            return sha256_of(file)

    @cached_property
    def model(self) -> SequenceClassifier:
        """The trained classifier."""
        return load_classifier(self.path, self.checkpoint)[0]

    @cached_property
    def initial_model(self) -> SequenceClassifier:
        """The classifier as it was before training: built again from the run's seed and the runs it began from.

        Raises:
            RunError: a run that it took weights from is gone, or its weights no longer fit.
        """
        config, device = self.config, resolve_device(self.config.device)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(config.seed)
            model = build_for(config, task_of(config), device).eval()
        try:
            check_sources(config, self._environment)
            take_initial_weights(model, config, device)
        except RunError as error:
            sources = " and ".join(str(path) for path in (config.initial_from, config.controller_from) if path)
            raise RunError(
                f"{self.path}: it began with weights of {sources}, which can't be had as they were ({error}); put that "
                "run back to compare with the weights before training."
            ) from error
        return model

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
        return task_of(self.config).load(self.config.data_dir).test

    def sequences(self, n: int, model: SequenceClassifier | None = None) -> tuple[Tensor, Tensor]:
        """What a classifier's recurrent network reads of the first n test examples, or of all if there are fewer.

        Args:
            n: number of examples.
            model: `model` or `initial_model`, whose encoder, if it has one, makes x; None takes the trained one.

        Returns:
            x (T, B, I) and labels (B,).
        """
        model = model or self.model
        parameter = next(model.parameters())
        x, y = to_tensors(self.test, slice(n), parameter.device, parameter.dtype)
        if model.encoder is not None:
            with torch.no_grad():
                x = model.encoder(x)
        return x.transpose(0, 1).contiguous(), y

    def key(self, settings: Settings, names: tuple[str, ...]) -> dict[str, Any]:
        """What a part's file depends on: the weights and the settings of these names ("retrained": that run's too)."""
        values = asdict(settings) | {"retrained": self.retrained and self.retrained.weights}
        return {"weights": self.weights} | {name: values[name] for name in names}
