"""Networks that read test examples and get a step drive on the way: steps of the paper's 784-step task, rescaled."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from aru_lab.errors import ConfigError
from aru_lab.networks.classifier import driven_rnn

FULL = 784  # steps of the task that the paper's protocols are written for
ONSET = LENGTH = 200
_AT_ONCE = 50  # sequences read at once


def rescale(steps: float, n_steps: int) -> int:
    """A step or a number of steps of the 784-step task for sequences of `n_steps`: round(steps * n_steps / 784).

    Examples:
        >>> rescale(200, 784), rescale(200, 112)
        (200, 29)
    """
    return round(steps * n_steps / FULL)


def driven_steps(n_steps: int) -> tuple[int, int]:
    """The first driven step and the step after the last one: step 200 for 200 steps, rescaled.

    Raises:
        ConfigError: the sequences have too few steps for a drive with a step before it.
    """
    onset, length = rescale(ONSET, n_steps), rescale(LENGTH, n_steps)
    if onset < 1 or length < 1:
        raise ConfigError(
            f"sequences: got {n_steps} steps, expected at least 2: the drive begins after a quarter of them."
        )
    return onset, onset + length


def read_driven(network: nn.Module, x: Tensor, amplitude: float) -> Iterator[tuple[Tensor, ...]]:
    """What a network does that reads x while it is driven by `amplitude` during `driven_steps`.

    Args:
        network: ARUN, GammaRNN, or torch.nn.RNN; one layer, time first.
        x: (T, B, I).
        amplitude: ξ, on every neuron.

    Returns:
        Some sequences at a time, (h, a, n, s), each (T, b, H); of a torch.nn.RNN (h,).
    """
    drive = x.new_zeros(len(x))
    drive[slice(*driven_steps(len(x)))] = amplitude
    for part in x.split(_AT_ONCE, dim=1):
        with torch.no_grad():
            if type(network) is nn.RNN:
                yield (driven_rnn(network, part, drive),)
            else:
                h, _, trace = network(part, drive=drive.reshape(-1, 1, 1), return_trace=True)
                yield h, trace.a, trace.n, trace.s
