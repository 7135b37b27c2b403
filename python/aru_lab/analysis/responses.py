"""Neurons driven by a current: steps over a noisy background, or noise, in the network and isolated from it.

Everything runs on the fused kernels through the `drive=` and `return_trace=` of ARUN and GammaRNN. Protocol: Geadah et
al. 2024 (steps: 300 time steps, the middle third driven; noise: 200 steps of low noise, 200 of noise, 200 of low
noise).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from aru_lab.analysis import checks
from aru_lab.analysis.network import check_network, isolated
from aru_lab.analysis.parts import Part, Report
from aru_lab.analysis.protocols import BACKGROUND, BACKGROUND_OF_AN_ENCODER, STEP_PROTOCOLS
from aru_lab.analysis.settings import Settings
from aru_lab.errors import ConfigError
from aru_lab.runs.analyses import Result, Run

CONNECTIVITY = ("network", "isolated")
LOW_NOISE = 0.01  # deviation of the noise before and after that of gain scaling


@dataclass(frozen=True)
class Responses:
    """Recorded responses. A amplitudes, R repeats, T steps, H neurons.

    amplitudes (A,); onset, end: first driven step and the step after the last; activation h, current a, gain n,
    saturation s: (A, R, T, H), float32.
    """

    amplitudes: np.ndarray
    onset: int
    end: int
    h: np.ndarray
    a: np.ndarray
    n: np.ndarray
    s: np.ndarray

    @property
    def drives(self) -> np.ndarray:
        """The step of every amplitude, (A, T)."""
        time = np.arange(self.h.shape[2])
        return self.amplitudes[:, None] * ((time >= self.onset) & (time < self.end))


def step_responses(
    network: nn.Module,
    amplitudes: Any,
    repeats: int = 10,
    n_steps: int = 300,
    onset: int = 102,
    length: int = 100,
    background: float = 0.8,
    background_spread: float = 0.1,
    noise: float = 0.1,
    background_weight: Any = 1.0,
    noise_once: bool = False,
    isolate: bool = False,
    seed: int = 0,
) -> Responses:
    """Responses to a step current ξ into every neuron, over a noisy background current.

        ξ_t,i = w_i (b_i + ε_t,i) + ξ [onset <= t < onset + length],   b_i ~ N(background, background_spread²),
                                                                       ε_t,i ~ N(0, noise²)

    Every repeat draws its own background, which is the same for all amplitudes, with and without isolation.
    The network's own input is 0; states start at 0.

    Args:
        network: ARUN or GammaRNN of one layer.
        amplitudes: (A,), ξ, in units of the pre-activation.
        repeats: R.
        n_steps, onset, length: T, the first driven step (from 0), and the number of driven steps.
        background, background_spread, noise: as in the equation; the authors' values, except for the noise, which they
            vary.
        background_weight: w, a number or (H,). The authors feed the background through each neuron's own input weight:
            `network.weight_ih_l0[:, 0]`.
        noise_once: whether a repeat draws ε once, for all steps; otherwise it draws ε at every step.
        isolate: whether to leave of W_hh only its diagonal, so that neurons don't see each other.
        seed: of the background.

    Raises:
        ConfigError: a network of another kind, or an argument out of its range.
    """
    check_network(network)
    xi = checks.array("amplitudes", amplitudes, ndim=1)
    checks.whole("n_steps", n_steps)
    onset, end = checks.whole("onset", onset, 0), onset + checks.whole("length", length)
    if end > n_steps:
        raise ConfigError(f"length: got a step from {onset} to {end}, expected it to end within {n_steps} steps.")
    size = network.hidden_size
    weight = np.asarray(checks.array("background_weight", np.atleast_1d(_numpy(background_weight))))
    if weight.shape not in ((1,), (size,)):
        raise ConfigError(f"background_weight: got shape {weight.shape}, expected a number or ({size},).")
    spread = checks.number("background_spread", background_spread, 0)
    deviation = checks.number("noise", noise, 0)
    mean = checks.number("background", background)

    def drive(repeat: int) -> np.ndarray:
        rng = np.random.default_rng([checks.whole("seed", seed, 0), repeat])
        level = mean + spread * rng.standard_normal(size)
        epsilon = deviation * rng.standard_normal((1 if noise_once else n_steps, size))
        current = np.broadcast_to(weight * (level + epsilon), (n_steps, size))
        driven = np.repeat(current[:, None], len(xi), axis=1)
        driven[onset:end] += xi[:, None]
        return driven

    records = drive_network(isolated(network) if isolate else network, drive, checks.whole("repeats", repeats))
    return Responses(xi, onset, end, *records)


def noise_responses(
    network: nn.Module,
    deviations: Any,
    repeats: int = 10,
    before: int = 200,
    length: int = 200,
    after: int = 200,
    low: float = LOW_NOISE,
    isolate: bool = False,
    seed: int = 0,
) -> Responses:
    """Responses to noise of mean 0 into every neuron: low noise, noise, low noise, the protocol of gain scaling.

        ξ_t,i ~ N(0, σ²), independent over neurons and steps, for before <= t < before + length; else N(0, low²)

    The same standard normal numbers are scaled by every σ. A σ of 0 lets the low noise go on. The network's own input
    is 0; states start at 0.

    Args:
        network: ARUN or GammaRNN of one layer.
        deviations: (A,), σ >= 0, in units of the pre-activation; the result calls them amplitudes.
        repeats: R.
        before, length, after: steps before, under and after the noise.
        low: deviation before and after.
        isolate, seed: as in `step_responses`.

    Raises:
        ConfigError: a network of another kind, or an argument out of its range.
    """
    check_network(network)
    sigma = checks.array("deviations", deviations, ndim=1)
    if (sigma < 0).any():
        raise ConfigError(f"deviations: got {sigma.min():g}, expected standard deviations of at least 0.")
    onset, end = checks.whole("before", before, 0), before + checks.whole("length", length)
    n_steps = end + checks.whole("after", after, 0)
    low = checks.number("low", low, 0)

    def drive(repeat: int) -> np.ndarray:
        rng = np.random.default_rng([checks.whole("seed", seed, 0), repeat])
        driven = np.repeat(rng.standard_normal((n_steps, 1, network.hidden_size)), len(sigma), axis=1)
        driven[:onset] *= low
        driven[end:] *= low
        driven[onset:end] *= np.where(sigma > 0, sigma, low)[:, None]
        return driven

    records = drive_network(isolated(network) if isolate else network, drive, checks.whole("repeats", repeats))
    return Responses(sigma, onset, end, *records)


def drive_network(
    network: nn.Module, drive: Callable[[int], np.ndarray], repeats: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """h, a, n and s, each (A, R, T, H) in float32, of a network without input under `drive(repeat)` (T, A, H)."""
    weight = network.weight_ih_l0
    records: list[np.ndarray] = []
    for repeat in range(repeats):
        current = torch.from_numpy(drive(repeat)).to(weight)
        n_steps, batch, size = current.shape
        x = weight.new_zeros(n_steps, batch, network.input_size)
        if network.batch_first:
            x, current = x.transpose(0, 1), current.transpose(0, 1)
        with torch.no_grad():
            h, _, trace = network(x, drive=current, return_trace=True)
        for kind, values in enumerate((h, *trace)):
            values = values if network.batch_first else values.transpose(0, 1)
            if repeat == 0:
                records.append(np.empty((batch, repeats, n_steps, size), dtype=np.float32))
            records[kind][:, repeat] = values.float().cpu().numpy()
    return tuple(records)


def _numpy(value: Any) -> Any:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value


def analyse_responses(run: Run, settings: Settings, report: Report) -> Result:
    """Step responses in the network and isolated: means over repeats."""
    return protocol_responses(run.network, settings, run.model.encoder is not None, report)


def protocol_responses(
    network: nn.Module, settings: Settings, encoded: bool = False, report: Report = lambda done, total: None
) -> Result:
    """Step responses of an ARUN or GammaRNN in the network and isolated, under the protocol that `settings` names.

    Args:
        network: it needs no weights of an encoder or a read-out.
        settings: amplitudes, repeats, fractional and seed count.
        encoded: whether a convolutional encoder lies before it: the background then is that of its features.
        report: called with the parts done and all parts.

    Returns:
        What the file responses.npz holds.
    """
    protocol = STEP_PROTOCOLS[settings.fractional]
    repeats = protocol.repeats or settings.repeats
    arrays: dict[str, np.ndarray] = {"amplitudes": np.array(settings.amplitudes)}
    for done, name in enumerate(CONNECTIVITY):
        found = step_responses(
            network,
            settings.amplitudes,
            repeats,
            protocol.n_steps,
            protocol.onset,
            protocol.length,
            *(BACKGROUND_OF_AN_ENCODER if encoded else BACKGROUND),
            protocol.noise,
            1.0 if encoded else network.weight_ih_l0.sum(1),
            protocol.noise_once,
            isolate=name == "isolated",
            seed=settings.seed,
        )
        arrays |= {f"{kind}_{name}": getattr(found, kind).mean(1) for kind in ("h", "a", "n", "s")}
        arrays |= {"drives": found.drives, "onset": np.array(found.onset), "end": np.array(found.end)}
        report(done + 1, len(CONNECTIVITY))
    return Result(arrays, summary=f"{len(settings.amplitudes)} steps, {repeats} repeats")


PART = Part(analyse_responses, ("amplitudes", "repeats", "fractional", "seed"))
