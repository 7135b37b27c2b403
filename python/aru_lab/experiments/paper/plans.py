"""What `aru reproduce paper` takes at each scale: sets of networks, settings of the analyses, numbers of examples."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from aru_lab.analysis.settings import Settings
from aru_lab.experiments.scales import NETWORKS, NetworkSet
from aru_lab.experiments.transfer import PAPER_RETRAINING, Retraining

Source = tuple[str, str]  # a key of scales.NETWORKS, and the name of one of its sets


@dataclass(frozen=True)
class RandomNetworks:
    """Sizes of the computations without trained networks: H, points of n and s, networks, steps, draws of W and h."""

    size: int = 400
    gains: int = 20
    saturations: int = 10
    networks: int = 10
    steps: int = 1000
    transient: int = 200
    draws: int = 100


@dataclass(frozen=True)
class Plan:
    """One scale.

    Args:
        description: a sentence on its sizes.
        sources: by group of `evidence.GROUPS`, the set of networks.
        reduced: whether the networks are smaller than the paper's.
        conclusive: whether it judges claims.
        grid_subset: test examples of the two-dimensional grids; None takes all. All other scores take all.
        analysis: settings of the analyses.
        retraining: settings of the retraining on rotated images.
        random: sizes of the computations without trained networks.
    """

    description: str
    sources: Mapping[str, Source]
    reduced: bool = True
    conclusive: bool = True
    grid_subset: int | None = 2_000
    analysis: Settings = field(default_factory=Settings)
    retraining: Retraining = PAPER_RETRAINING
    random: RandomNetworks = field(default_factory=RandomNetworks)

    def network_set(self, group: str) -> NetworkSet | None:
        """The set of networks of a group; None where the scale has none."""
        if group not in self.sources:
            return None
        scale, name = self.sources[group]
        return next(network_set for network_set in NETWORKS[scale] if network_set.name == name)


def _of(scale: str) -> dict[str, Source]:
    """The sets of a scale of networks, as groups of the same names."""
    return {network_set.name: (scale, network_set.name) for network_set in NETWORKS[scale]}


_GRIDS = {f"grid-{name}": ("grid", name) for name in ("frozen", "trained")}

PLANS: dict[str, Plan] = {
    "tiny": Plan(
        description=(
            "8x8 digits, few epochs, two seeds, small random networks: shows that everything runs; it judges no claim."
        ),
        sources=_of("tiny")
        | {"psmnist": ("tiny", "psdigits"), "scifar10": ("tiny", "sdigits")}
        | {f"grid-{name}": ("tiny", name) for name in ("frozen", "trained")},
        conclusive=False,
        grid_subset=20,
        analysis=Settings(
            (0.0, 1.0, 2.5, 5.0, 7.5, 15.0, 20.0, 30.0),
            repeats=2,
            sequences=8,
            examples=16,
            starts=1,
            steps=20,
            transient=4,
            grid=3,
        ),
        retraining=dataclasses.replace(PAPER_RETRAINING, epochs=1),
        random=RandomNetworks(size=20, gains=4, saturations=3, networks=2, steps=100, transient=20, draws=4),
    ),
    "small": Plan(
        description=(
            "psMNIST with 7 pixels a step (T = 112), H = 64, ten seeds; sCIFAR10 and the grid of (n, s) smaller still, "
            "five seeds."
        ),
        sources=_of("small") | _of("cifar") | _GRIDS,
    ),
    "long": Plan(
        description="psMNIST with one pixel a step (T = 784), H = 64, three models, five seeds.",
        sources=_of("long"),
    ),
    "paper": Plan(
        description="The paper's size: T = 784 and 1024, H = 400, 100 epochs, five seeds.",
        sources=_of("paper") | {"scifar10-conv-long": ("paper", "scifar10-conv")},
        reduced=False,
        grid_subset=None,
    ),
}
