"""Perturbations of the training, drawn for every step."""

from __future__ import annotations

import torch

from aru_lab.networks.perturbations import Perturbation, parse, seeds_of
from aru_lab.runs.config import TrainConfig


class Augmentation:
    """The perturbations of a run. The perturbation of a step depends only on the run's seed and the step.

    Args:
        config: configuration of the run.

    Raises:
        ConfigError: a perturbation can't be parsed.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.perturbations = [parse(text) for text in config.perturb]
        self._seed, self._share = config.seed, config.perturb_share

    def check(self, n_steps: int) -> None:
        """Raise ConfigError where a drive does not end within `n_steps` steps of the recurrent network."""
        for perturbation in self.perturbations:
            perturbation.drive(n_steps)

    def draw(self, step: int, n: int) -> tuple[Perturbation | None, list[int]]:
        """The perturbation of the batch of a step, or None, and a seed for each of its n examples."""
        if not self.perturbations:
            return None, [0] * n
        generator = torch.Generator().manual_seed((self._seed * 1_000_003 + step) % 2**63)
        share, which = torch.rand(2, generator=generator).tolist()
        first = int(torch.randint(2**62, (), generator=generator))
        chosen = self.perturbations[int(which * len(self.perturbations))] if share < self._share else None
        return chosen, seeds_of(chosen, first, n)
