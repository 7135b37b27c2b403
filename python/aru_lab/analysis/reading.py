"""Networks that read test examples and get the paper's step drive on the way."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from aru_lab.errors import ConfigError
from aru_lab.networks.classifier import driven_rnn
from aru_lab.networks.perturbations import PaperStep

_AT_ONCE = 50  # sequences read at once


def driven_steps(n_steps: int) -> tuple[int, int]:
    """The first driven step and the step after the last one, of `PaperStep`.

    Raises:
        ConfigError: the sequences have too few steps for a drive with a step before it.
    """
    onset, end = PaperStep().bounds(n_steps)
    if onset < 1 or end == onset:
        raise ConfigError(
            f"sequences: got {n_steps} steps, expected at least 2: the drive begins after a quarter of them."
        )
    return onset, end


def read_driven(network: nn.Module, x: Tensor, amplitude: float) -> Iterator[tuple[Tensor, ...]]:
    """What a network does that reads x while it is driven by `amplitude` during `driven_steps`.

    Args:
        network: ARUN, GammaRNN, or torch.nn.RNN; one layer, time first.
        x: (T, B, I).
        amplitude: ξ, on every neuron.

    Returns:
        Some sequences at a time, (h, a, n, s), each (T, b, H); of a torch.nn.RNN (h,).
    """
    driven_steps(len(x))
    drive = PaperStep(amplitude).drive(len(x)).to(x)
    for part in x.split(_AT_ONCE, dim=1):
        with torch.no_grad():
            if isinstance(network, nn.RNN):
                yield (driven_rnn(network, part, drive),)
            else:
                h, _, trace = network(part, drive=drive.reshape(-1, 1, 1), return_trace=True)
                yield h, trace.a, trace.n, trace.s
