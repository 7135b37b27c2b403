"""The sizes at which the paper's results are repeated."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from aru_lab.analysis.settings import Settings
from aru_lab.experiments.transfer import Retraining
from aru_lab.networks.names import MODELS
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.sensitivity import Strengths


@dataclass(frozen=True)
class Scale:
    """One size: what the ARUN is trained with (the others get as many parameters), seeds, tests, and a sentence on it.

    All parameters learn at one rate, as in the paper, and what the scales have made stays reproducible.

    `tasks` are those of table 1; the other results use the first of them. A scale that is not `conclusive` judges no
    claim.
    """

    description: str
    training: TrainConfig
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    strengths: Strengths = field(default_factory=Strengths)
    retraining: Retraining = field(default_factory=Retraining)
    analysis: Settings = field(default_factory=Settings)
    models: tuple[str, ...] = MODELS
    conclusive: bool = True

    def base(self, task: str) -> TrainConfig:
        """The configuration of the ARUN on a task; pixels are grouped only in tasks without an encoder."""
        pixels = 1 if task == "scifar10-conv" else self.training.pixels_per_step
        return dataclasses.replace(self.training, task=task, pixels_per_step=pixels)


SCALES: dict[str, Scale] = {
    "tiny": Scale(
        description="8x8 digits, a few epochs, two seeds: shows that everything runs; it does not test the paper.",
        training=TrainConfig(
            hidden_size=64,
            controller_size=16,
            pixels_per_step=4,
            epochs=2,
            learning_rate=2e-3,
            learning_rate_scaling="none",
            subset=300,
            threads=1,
        ),
        tasks=("psdigits",),
        seeds=(0, 1),
        strengths=Strengths(
            step_amplitudes=(-1.0, 0.0, 1.0),
            step_lengths=(0.0, 0.5),
            noise_deviations=(0.0, 1.0),
            contrast_amplitudes=(0.0, 0.5),
            contrast_phases=(0.0, 1.0),
            test_subset=100,
        ),
        retraining=Retraining(epochs=2),
        analysis=Settings((0.0, 0.5, 1.0, 5.0, 10.0), repeats=2, sequences=20, steps=30, exponents=1, grid=6),
        conclusive=False,
    ),
    "small": Scale(
        description=(
            "psMNIST with 7 pixels a step (T = 112), 10,000 training images, H = 64 and G = 16 for the ARUN, 10 epochs "
            "of Adam with a cosine schedule, three seeds."
        ),
        training=TrainConfig(
            hidden_size=64,
            controller_size=16,
            pixels_per_step=7,
            epochs=10,
            batch_size=50,
            learning_rate=2e-3,
            learning_rate_scaling="none",
            subset=10_000,
            validation_subset=2_000,
        ),
        tasks=("psmnist",),
        seeds=(0, 1, 2),
        strengths=Strengths(test_subset=1_000),
        retraining=Retraining(epochs=15),
        analysis=Settings(repeats=5, steps=400, exponents=1),
    ),
    "paper": Scale(
        description="The paper's size: H = 400, G = 50, one pixel a step, 100 epochs of Adam at 1e-4, batch 100.",
        training=TrainConfig(
            hidden_size=400,
            controller_size=50,
            epochs=100,
            batch_size=100,
            learning_rate=1e-4,
            learning_rate_scaling="none",
            schedule="plateau",
        ),
        tasks=("psmnist", "scifar10", "scifar10-conv"),
        seeds=(0, 1, 2),
        retraining=Retraining(epochs=100),
    ),
}
