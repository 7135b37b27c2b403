"""How much the analyses of a run take. Nothing heavy is imported: the options of `aru analyse` are made from it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from aru_lab.arguments import FLOAT32_MAX, check_choice, check_whole
from aru_lab.errors import ConfigError

PROTOCOLS = ("standard", "figure-4", "figures-10-12")
NOISE_INTO = ("network", "isolated")
INPUTS = ("exponential", "amplitudes")
SIGMA = ("one", "measured")


@dataclass(frozen=True)
class Settings:
    """Sizes, options and seed of the analyses; every finished part is saved with those that it depends on.

    Raises:
        ConfigError: a value out of its range.
    """

    amplitudes: tuple[float, ...] = (0.0, 0.5, 1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0)
    """Drives ξ, rising from 0: amplitudes of steps, standard deviations of noise."""

    repeats: int = 10
    """Repeats of every response, each with its own noise."""

    sequences: int = 100
    """Test examples that the networks read for adaptation and heterogeneity."""

    examples: int = 1000
    """Training examples that the networks read for gradients."""

    starts: int = 10
    """Test examples whose states Lyapunov exponents start from."""

    steps: int = 1000
    """Steps that Lyapunov exponents are averaged over."""

    transient: int = 200
    """Steps of Lyapunov exponents discarded before these."""

    exponents: int = 1
    """How many Lyapunov exponents, the largest."""

    descent: int = 3000
    """Steps of the gradient descent to fixed points."""

    input_step: int | None = None
    """Step whose mean input over test sequences is held constant at fixed points. None: on trials that are drawn the
    end of the delay, or the step before the response; on other data the mean over all steps."""

    joint: bool = False
    """Whether to compute Lyapunov exponents of an ARUN's joint state (h, g), too."""

    grid: int = 20
    """Points of n at which the Jacobian's norm is taken; s has half as many, at least 2."""

    fractional: str = "standard"
    """Protocol of the fractional order: standard, or one of the authors' code: figure-4, figures-10-12."""

    noise_into: str = "network"
    """Where the noise of gain scaling enters: the network as a drive, or isolated neurons as their pre-activation."""

    inputs: str = "exponential"
    """Constant inputs of the controller: exponential (e^-2 to e^2) or the amplitudes above 0."""

    carried: bool = False
    """Whether the controller's state is carried from one constant input to the next, as in the authors' code."""

    sigma: str = "one"
    """Proposition 1's deviation of the noise: one, or the measured deviation of the pre-activation."""

    seed: int = 0
    """Seed of noise and initial conditions."""

    def __post_init__(self) -> None:
        lowest = {"repeats": 1, "sequences": 2, "examples": 2, "starts": 1, "steps": 10, "transient": 0, "exponents": 1}
        for name, least in (lowest | {"descent": 1, "grid": 2, "seed": 0}).items():
            check_whole(name, getattr(self, name), least)
        check_whole("input_step", self.input_step, 0, optional=True)
        choices = {"fractional": PROTOCOLS, "noise_into": NOISE_INTO, "inputs": INPUTS, "sigma": SIGMA}
        for name, permitted in choices.items():
            check_choice(name, getattr(self, name), permitted)
        xi = self.amplitudes
        rising = all(a < b for a, b in pairwise(xi))
        if len(xi) < 5 or not all(abs(x) <= FLOAT32_MAX for x in xi) or xi[0] != 0 or not rising:
            came = " ".join(f"{x:g}" for x in xi) or "none"
            raise ConfigError(f"amplitudes: got {came}, expected at least 5 rising numbers from 0 on, within float32.")
