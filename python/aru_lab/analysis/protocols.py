"""How responses to steps are recorded for the fractional order: the standard protocol and two of the authors' code.

Source: Geadah et al. 2024, and github.com/vgeadah/NonlinMod, where the two differ in almost all numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


def _orders() -> np.ndarray:
    return np.linspace(-1.0, 1.0, 201)


@dataclass(frozen=True)
class StepProtocol:
    """One protocol. Steps count from 0; ranges hold their first step and not their last.

    n_steps, onset, length: of the response and of the step drive; baseline: step whose filtered response is taken away;
    window: steps that are compared; target: steps at which the target is ξ above its low value; offset_of_mean,
    offset_of_neurons: the low value for the mean response and for neurons; orders_of_mean, orders_of_neurons: grids of
    α; refine: whether to search between their points; repeats: None takes those of the settings; noise: deviation of ε;
    noise_once: whether a repeat draws ε once for all steps.
    """

    n_steps: int = 300
    onset: int = 102
    length: int = 100
    baseline: int = 25
    window: tuple[int, int] = (80, 220)
    target: tuple[int, int] = (102, 202)
    offset_of_mean: float = 0.0
    offset_of_neurons: float = 0.0
    orders_of_mean: np.ndarray = field(default_factory=_orders)
    orders_of_neurons: np.ndarray = field(default_factory=_orders)
    refine: bool = True
    repeats: int | None = None
    noise: float = 0.1
    noise_once: bool = False

    def high(self, amplitude: float) -> np.ndarray:
        """The target without its low value, (n_steps,): ξ at the steps of `target`, and 0."""
        steps = np.arange(self.n_steps)
        return amplitude * ((steps >= self.target[0]) & (steps < self.target[1]))


STEP_PROTOCOLS = {
    "standard": StepProtocol(),
    "figure-4": StepProtocol(
        target=(101, 200),
        offset_of_neurons=0.8,
        orders_of_mean=np.linspace(0, 1, 100),
        orders_of_neurons=np.linspace(-1, 1, 100),
        refine=False,
        repeats=5,
        noise=5.0,
    ),
    "figures-10-12": StepProtocol(
        n_steps=150,
        onset=51,
        length=50,
        window=(40, 110),
        target=(51, 101),
        offset_of_mean=0.8,
        offset_of_neurons=0.8,
        orders_of_mean=np.linspace(0, 1, 1001),
        orders_of_neurons=np.linspace(-1, 1, 100),
        refine=False,
        repeats=20,
        noise_once=True,
    ),
}
BACKGROUND = (0.8, 0.1)  # mean and deviation of x_i, which enters through a neuron's input weight
BACKGROUND_OF_AN_ENCODER = (0.05, 0.4)  # the same after a convolutional encoder, with a weight of 1
