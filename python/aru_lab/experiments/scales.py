"""The sizes at which the paper's results are repeated."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from aru_lab.analysis.settings import Settings
from aru_lab.data.tasks import TASKS
from aru_lab.experiments.kept import ALL, NOTHING
from aru_lab.experiments.transfer import PAPER_RETRAINING, Retraining
from aru_lab.networks.initial import SHARED
from aru_lab.networks.names import MODELS
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.sensitivity import Strengths


@dataclass(frozen=True)
class Scale:
    """One size: what the ARUN is trained with (the others get as many parameters), seeds, tests, and a sentence on it.

    All parameters learn at one rate, as in the paper, and what the scales have made stays reproducible.

    `tasks` are those of table 1; the other results use the first of them.
    """

    description: str
    training: TrainConfig
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    strengths: Strengths = field(default_factory=Strengths)
    retraining: Retraining = field(default_factory=Retraining)
    analysis: Settings = field(default_factory=Settings)
    models: tuple[str, ...] = MODELS

    def base(self, task: str) -> TrainConfig:
        """The configuration of the ARUN on a task; pixels are grouped only in tasks without an encoder."""
        pixels = 1 if TASKS[task].encoder == "conv" else self.training.pixels_per_step
        return dataclasses.replace(self.training, task=task, pixels_per_step=pixels)


# What all networks of the paper's protocol have in common; the sizes are those of `small`.
PROTOCOL = TrainConfig(
    hidden_size=64,
    controller_size=16,
    batch_size=50,
    learning_rate=1e-3,
    learning_rate_scaling="none",
    schedule="plateau-paper",
    clip=None,
    permutation_seed=None,
    lstm_weights="xavier",
)
_PAPER_SIZE = dataclasses.replace(
    PROTOCOL, hidden_size=400, controller_size=50, epochs=100, batch_size=100, learning_rate=1e-4
)

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
        training=_PAPER_SIZE,
        tasks=("psmnist", "scifar10", "scifar10-conv"),
        seeds=(0, 1, 2, 3, 4),
        retraining=PAPER_RETRAINING,
    ),
}


@dataclass(frozen=True)
class NetworkSet:
    """Networks of one task that are trained alike but for model, seed and starting point.

    Args:
        name: of the set; its networks are kept in a folder of this name.
        training: configuration of the ARUN; the others have as many parameters within 2%.
        seeds: each trains every model.
        models: of names.MODELS.
        learning_rates: candidates; each model takes the best one on the validation examples of the first seed. With
            none, all take that of `training`; where that is None, each its default.
        rates_of: name of an earlier set whose choice of learning rates holds here, too.
        match: models whose hidden size is solved; the others have that of `training`. None: all but the ARUN.
        starts: initial n and s; each pair trains a network of its own. None: those of `training`.
        controllers_of: name of an earlier set; each network takes the frozen controller of the ARUN of the next seed.
        kept: which weights are kept, a key of kept.PARTS.
        trials: whether the test trials are kept, too; for tasks that another package draws.
    """

    name: str
    training: TrainConfig
    seeds: tuple[int, ...]
    models: tuple[str, ...] = MODELS
    learning_rates: tuple[float, ...] = ()
    rates_of: str | None = None
    match: tuple[str, ...] | None = None
    starts: tuple[tuple[str, str], ...] | None = None
    controllers_of: str | None = None
    kept: str = ALL
    trials: bool = False


_RATES = (2e-3, 1e-3, 5e-4)
_SMALL = dataclasses.replace(PROTOCOL, task="psmnist", pixels_per_step=7, epochs=20)
_LONG = dataclasses.replace(_SMALL, pixels_per_step=1)
_CIFAR = dataclasses.replace(PROTOCOL, task="scifar10", pixels_per_step=4, epochs=10, subset=10_000)
_CONV = dataclasses.replace(PROTOCOL, task="scifar10-conv", epochs=5, subset=5_000)
# n of 5.3 in the paper, and its s; one pair a network of the grid.
_GRID_GAINS = (1.0, *(1.25 * k for k in range(1, 17)))
_GRID = dataclasses.replace(
    PROTOCOL, task="psmnist", pixels_per_step=28, hidden_size=32, epochs=5, subset=10_000, learning_rate=2e-3
)
_STARTS = tuple((f"{n:g}", f"{s:g}") for n in _GRID_GAINS for s in (0.0, 0.25, 0.5, 0.75, 1.0))
_RNNS = ("arun", "gamma-heterogeneous", "relu")
_TINY = dataclasses.replace(PROTOCOL, pixels_per_step=4, epochs=2, subset=300, learning_rate=2e-3, threads=1)
_CORNERS = (("1", "0"), ("1", "1"), ("5", "0.5"), ("20", "0"))
_FEW = tuple(range(5))
_MANY = tuple(range(10))
# Not the paper's: a decision of NeuroGym under Dale's law, with the laboratory's own way to train. None has a
# leak, because RNN+ReLU has none.
_DECISION = TrainConfig(
    task="neurogym:PerceptualDecisionMaking-v0:dt=50",
    hidden_size=64,
    controller_size=16,
    epochs=20,
    dale=0.8,
    threads=1,
)

# The networks of each size, in the order in which they are trained.
NETWORKS: dict[str, tuple[NetworkSet, ...]] = {
    "tiny": (
        NetworkSet("psdigits", _TINY, seeds=(0, 1)),
        NetworkSet(
            "homogeneous-start",
            dataclasses.replace(_TINY, initial_gain=SHARED),
            seeds=(0, 1),
            models=("gamma-heterogeneous",),
        ),
        NetworkSet(
            "transplant",
            dataclasses.replace(_TINY, freeze=("activation",), initial_checkpoint="last"),
            seeds=(0, 1),
            models=("arun",),
            controllers_of="psdigits",
        ),
        NetworkSet(
            "rmsprop",
            dataclasses.replace(_TINY, optimizer="rmsprop"),
            seeds=(0, 1),
            models=("gamma-heterogeneous", "relu"),
        ),
        NetworkSet("sdigits", dataclasses.replace(_TINY, task="sdigits"), seeds=(0, 1)),
        *(
            NetworkSet(
                name,
                dataclasses.replace(_TINY, hidden_size=16, epochs=1, freeze=freeze),
                seeds=(0, 1),
                models=("gamma-homogeneous",),
                match=(),
                starts=_CORNERS,
                kept=NOTHING,
            )
            for name, freeze in (("frozen", ("activation",)), ("trained", ()))
        ),
    ),
    "small": (
        NetworkSet("psmnist", _SMALL, seeds=_MANY, learning_rates=_RATES),
        NetworkSet(
            "homogeneous-start",
            dataclasses.replace(_SMALL, initial_gain=SHARED),
            seeds=_MANY,
            models=("gamma-heterogeneous",),
            rates_of="psmnist",
        ),
        NetworkSet(
            "transplant",
            dataclasses.replace(_SMALL, freeze=("activation",), initial_checkpoint="last"),
            seeds=_MANY,
            models=("arun",),
            rates_of="psmnist",
            controllers_of="psmnist",
        ),
        NetworkSet(
            "rmsprop",
            dataclasses.replace(_SMALL, optimizer="rmsprop"),
            seeds=_MANY,
            models=("gamma-heterogeneous", "relu"),
            rates_of="psmnist",
            kept=NOTHING,
        ),
    ),
    "grid": tuple(
        NetworkSet(
            name,
            dataclasses.replace(_GRID, freeze=freeze),
            seeds=_FEW,
            models=("gamma-homogeneous",),
            match=(),
            starts=_STARTS,
            kept=NOTHING,
        )
        for name, freeze in (("frozen", ("activation",)), ("trained", ()))
    ),
    "cifar": (
        NetworkSet("scifar10", _CIFAR, seeds=_FEW, learning_rates=_RATES),
        NetworkSet("scifar10-conv", _CONV, seeds=_FEW, learning_rates=_RATES),
        NetworkSet(
            "scifar10-conv-long",
            dataclasses.replace(_CONV, epochs=20),
            seeds=_FEW,
            models=("arun",),
            rates_of="scifar10-conv",
        ),
    ),
    "long": (NetworkSet("psmnist", _LONG, seeds=_FEW, models=_RNNS, learning_rates=(1e-3, 5e-4, 2e-4)),),
    "paper": tuple(
        NetworkSet(
            task,
            dataclasses.replace(_PAPER_SIZE, task=task, subset=None if task == "psmnist" else 40_000),
            seeds=_FEW,
            match=("lstm", "gru"),
        )
        for task in ("psmnist", "scifar10", "scifar10-conv")
    ),
    "decision": (
        NetworkSet(
            "perceptual-decision",
            _DECISION,
            seeds=_FEW,
            models=_RNNS,
            trials=True,
        ),
    ),
}
