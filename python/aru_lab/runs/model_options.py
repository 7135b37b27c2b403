"""Which fields of a configuration are read by some models only."""

from __future__ import annotations

from collections.abc import Iterable

from aru_lab.errors import ConfigError
from aru_lab.networks.names import ADAPTABLE, DRIVABLE, GAMMA
from aru_lab.runs.config import TrainConfig

# Other models ignore these fields.
OF_MODELS = {
    "controller_size": ("arun",),
    "initial_gain": GAMMA,
    "initial_saturation": GAMMA,
    "biases": (*GAMMA, "relu"),
    "lstm_weights": ("lstm",),
    "backend": ADAPTABLE,
    "leak": ADAPTABLE,
    "dale": DRIVABLE,
    "sparsity": DRIVABLE,
}


def check_used(
    config: TrainConfig, models: Iterable[str], also: Iterable[str] = (), defaults: TrainConfig | None = None
) -> None:
    """Refuse a value other than the default in a field that none of the models reads.

    A configuration may hold such a value, as those of a sweep over several models do; the options of a user may not.

    Args:
        config: the configuration that a user asks for.
        models: of names.MODELS.
        also: fields that are read for another purpose.
        defaults: values that the user did not ask for; None takes the defaults of `TrainConfig`.

    Raises:
        ConfigError: a field is set that none of the models reads.
    """
    models, defaults = tuple(models), defaults or TrainConfig()
    for name, readers in OF_MODELS.items():
        if name in also or getattr(config, name) == getattr(defaults, name) or set(models) & set(readers):
            continue
        came = f"the model {models[0]}" if len(models) == 1 else f"the models {', '.join(models)}"
        one = "the model" if len(readers) == 1 else "one of the models"
        raise ConfigError(
            f"{name}: got {getattr(config, name)!r} with {came}, expected {one} {', '.join(readers)}: only "
            f"{'it has' if len(readers) == 1 else 'they have'} this option."
        )
