"""The networks: γ, one step of each kind of neuron, and the state at every step of a sequence."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

ROOT = Path(__file__).resolve().parents[4]
KEPT = ROOT / "docs" / "results" / "networks" / "small" / "psmnist"

T = 112  # 7 pixels a step
ONSET, LENGTH = 29, 29  # 200 and 200 of 784 steps
AMPLITUDES = (0.0, 0.5, 1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0)

Array = np.ndarray[Any, np.dtype[np.float64]]


def softplus(z: Array) -> Array:
    return np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))


def sigmoid(z: Array) -> Array:
    return np.exp(-softplus(-z))


def gamma(x: Array, n: Array, s: Array) -> Array:
    return (1 - s) * softplus(n * x) / n + s * sigmoid(n * x)


def gamma_slope(x: Array, n: Array, s: Array) -> Array:
    """dγ/dx."""
    up, down = sigmoid(n * x), sigmoid(-n * x)
    return (1 - s) * up + s * n * up * down


@dataclass
class Network:
    """Weights of one kept network, in float64."""

    model: str  # arun, gamma or relu
    w_ih: Array
    w_hh: Array
    bias: Array
    readout: Array
    readout_bias: Array
    n: Array | None = None  # of RNN+γ
    s: Array | None = None
    w_ag: Array | None = None  # of the controller
    w_gg: Array | None = None
    b_g: Array | None = None
    w_gc: Array | None = None
    b_c: Array | None = None


def read(name: str, folder: Path = KEPT) -> Network:
    """The network in NAME.safetensors."""
    with safe_open(folder / f"{name}.safetensors", "np") as file:
        w = {key.removeprefix("recurrent."): file.get_tensor(key).astype(np.float64) for key in file.keys()}  # noqa: SIM118
    bias = w["bias_l0"] if "bias_l0" in w else w["bias_ih_l0"] + w["bias_hh_l0"]
    network = Network("relu", w["weight_ih_l0"], w["weight_hh_l0"], bias, w["readout.weight"], w["readout.bias"])
    if "gain_l0" in w:
        network.model, network.n, network.s = "gamma", w["gain_l0"], w["saturation_l0"]
    elif "weight_ag_l0" in w:
        network.model = "arun"
        network.w_ag, network.w_gg, network.b_g = w["weight_ag_l0"], w["weight_gg_l0"], w["bias_g_l0"]
        network.w_gc, network.b_c = w["weight_gc_l0"], w["bias_c_l0"]
    return network


def with_controller(network: Network, donor: Network) -> Network:
    """An ARUN with the controller of another one."""
    return replace(network, w_ag=donor.w_ag, w_gg=donor.w_gg, b_g=donor.b_g, w_gc=donor.w_gc, b_c=donor.b_c)


@dataclass
class Gated:
    """Weights of a kept LSTM or GRU, in float64."""

    model: str  # lstm or gru
    w_ih: Array
    w_hh: Array
    b_ih: Array
    b_hh: Array
    readout: Array
    readout_bias: Array


def read_gated(name: str, folder: Path = KEPT) -> Gated:
    """The network in NAME.safetensors."""
    with safe_open(folder / f"{name}.safetensors", "np") as file:
        w = {key.removeprefix("recurrent."): file.get_tensor(key).astype(np.float64) for key in file.keys()}  # noqa: SIM118
    parts = (f"{part}_l0" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    return Gated(name.partition("-")[0], *(w[part] for part in parts), w["readout.weight"], w["readout.bias"])


def run_gated(network: Gated, x: Array) -> Array:
    """Read x (B, T, I); the last state (B, H)."""
    h = c = np.zeros((len(x), network.w_hh.shape[1]))
    for t in range(x.shape[1]):
        from_input = x[:, t] @ network.w_ih.T + network.b_ih
        from_state = h @ network.w_hh.T + network.b_hh
        if network.model == "lstm":
            i, f, candidate, o = np.split(from_input + from_state, 4, axis=1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(candidate)
            h = sigmoid(o) * np.tanh(c)
        else:
            (r_x, z_x, n_x), (r_h, z_h, n_h) = np.split(from_input, 3, axis=1), np.split(from_state, 3, axis=1)
            z = sigmoid(z_x + z_h)
            h = (1 - z) * np.tanh(n_x + sigmoid(r_x + r_h) * n_h) + z * h
    return h


def controller_step(network: Network, a: Array, g: Array) -> tuple[Array, Array, Array]:
    """The controller's next state (..., G), n and s (...), from input currents a (...) and state g (..., G)."""
    g = np.tanh(a[..., None] * network.w_ag + g @ network.w_gg.T + network.b_g)
    return g, g @ network.w_gc[0] + network.b_c[0], g @ network.w_gc[1] + network.b_c[1]


@dataclass
class Trace:
    """Pre-activations, states, n and s at every step, (T, B, H)."""

    a: Array
    h: Array
    n: Array
    s: Array


def run(network: Network, x: Array, drive: Array | float = 0.0, keep: bool = True) -> tuple[Array, Trace]:
    """Read x (B, T, I) with a drive that broadcasts to (T, B, H); the last state (B, H), and all steps where kept."""
    n_sequences, n_steps, _ = x.shape
    n_neurons = len(network.bias)
    drive = np.broadcast_to(np.asarray(drive, np.float64), (n_steps, n_sequences, n_neurons))
    h = np.zeros((n_sequences, n_neurons))
    g = None if network.w_gg is None else np.zeros((n_sequences, n_neurons, len(network.b_g)))
    rows: list[tuple[Array, Array, Array, Array]] = []
    for t in range(n_steps):
        a = x[:, t] @ network.w_ih.T + h @ network.w_hh.T + network.bias + drive[t]
        n, s = network.n, network.s
        if g is not None:
            g, n, s = controller_step(network, a, g)
        h = np.maximum(a, 0) if n is None else gamma(a, n, s)
        if keep:
            rows.append((a, h, *(np.broadcast_to(np.nan if v is None else v, a.shape) for v in (n, s))))
    return h, Trace(*(np.stack(part) if rows else np.empty(0) for part in zip(*rows, strict=True))) if keep else None


def logits(network: Network | Gated, h: Array) -> Array:
    return h @ network.readout.T + network.readout_bias


def step_drive(amplitude: float, onset: int = ONSET, length: int = LENGTH) -> Array:
    """A step current into every neuron, (T, 1, 1)."""
    drive = np.zeros((T, 1, 1))
    drive[onset : onset + length] = amplitude
    return drive


def contrast(x: Array, amplitude: float, frequency: float = 1.0, phase: float = 0.0) -> Array:
    """Inputs above 0 times a sine of the step."""
    steps = np.arange(x.shape[1])[None, :, None]
    factor = 1 + amplitude * np.sin(2 * np.pi * frequency * steps / x.shape[1] + phase)
    return np.where(x > 0, x * factor, x)


def record(name: str, folder: Path = KEPT) -> dict[str, Any]:
    """The line of a network in networks.jsonl: its scores, and the metrics of every epoch."""
    for line in (folder / "networks.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry["name"] == name:
            return entry
    raise KeyError(name)
