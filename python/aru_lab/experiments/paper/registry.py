"""The registry of the paper's claims, C1 to C53.

Paper: Geadah, Horoi, Kerg, Wolf, Lajoie, bioRxiv 2022.04.29.489963 v3. The claims have the paper's meaning in our
words; what the project adds is marked in their quantity.
"""

from __future__ import annotations

from collections.abc import Sequence

from aru_lab.errors import ConfigError
from aru_lab.experiments.paper.claim import Claim
from aru_lab.experiments.paper.judges import accuracy, fractional, gain, gradients, heterogeneity, robustness, stability

TOPICS = {
    "Accuracy, transplanted controllers": accuracy,
    "Robustness": robustness,
    "Diversity, the shape of γ": heterogeneity,
    "Gain scaling": gain,
    "Fractional order": fractional,
    "Adaptation, stability": stability,
    "Gradients": gradients,
}
CLAIMS: tuple[Claim, ...] = tuple(
    sorted((claim for module in TOPICS.values() for claim in module.COLLECTION.claims), key=lambda claim: claim.number)
)


def topic_of(claim: Claim) -> str:
    """The topic of a claim of the registry."""
    return next(topic for topic, module in TOPICS.items() if claim in module.COLLECTION.claims)


def chosen(names: Sequence[str] = ()) -> list[Claim]:
    """The claims of these names, in the order of the registry; none names all.

    Raises:
        ConfigError: an unknown name.
    """
    known = {claim.name: claim for claim in CLAIMS}
    wanted = [name.upper() for name in names]
    if unknown := [name for name, key in zip(names, wanted, strict=True) if key not in known]:
        raise ConfigError(f"claims: got {unknown[0]!r}, expected names from {CLAIMS[0].name} to {CLAIMS[-1].name}.")
    return [claim for claim in CLAIMS if not wanted or claim.name in wanted]
