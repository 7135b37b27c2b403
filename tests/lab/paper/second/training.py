"""Quantities of training: gradient norms over epochs (C50), and n and s retrained on rotated images (C20)."""

from __future__ import annotations

import numpy as np
import torch

from lab.paper.second.model import Array, Network


def unsteadiness(metrics: list[dict[str, float]]) -> float:
    """Standard deviation over epochs of log10 of an epoch's mean gradient norm."""
    logs = [np.log10(epoch["gradient_norm"]) for epoch in metrics]
    mean = sum(logs) / len(logs)
    return float(np.sqrt(sum((value - mean) ** 2 for value in logs) / (len(logs) - 1)))


def rotated(images: Array, degrees: float = 45.0) -> Array:
    """Images (N, R, C) turned counter-clockwise about their middle, bilinear, zeros outside."""
    _, rows, columns = images.shape
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    result = np.zeros_like(images)
    for row in range(rows):
        for column in range(columns):
            # With the y axis up, the point (u, v) shows what was at its rotation by -degrees.
            u, v = column - (columns - 1) / 2, (rows - 1) / 2 - row
            from_u, from_v = cos * u + sin * v, -sin * u + cos * v
            r, c = (rows - 1) / 2 - from_v + 1, from_u + (columns - 1) / 2 + 1
            r0, c0 = int(np.floor(r)), int(np.floor(c))
            if not (0 <= r0 <= rows and 0 <= c0 <= columns):
                continue
            fr, fc = r - r0, c - c0
            result[:, row, column] = (1 - fr) * ((1 - fc) * padded[:, r0, c0] + fc * padded[:, r0, c0 + 1]) + fr * (
                (1 - fc) * padded[:, r0 + 1, c0] + fc * padded[:, r0 + 1, c0 + 1]
            )
    return result


def retrain(
    network: Network, x: Array, y: Array, epochs: int, rng: np.random.Generator, rate: float = 1e-4, batch: int = 100
) -> tuple[Array, Array]:
    """n and s of an RNN+γ after epochs of Adam on sequences x (N, T, I) with classes y; all else is held."""
    w_ih, w_hh, bias, readout, readout_bias = (
        torch.from_numpy(w) for w in (network.w_ih, network.w_hh, network.bias, network.readout, network.readout_bias)
    )
    values = [torch.from_numpy(v.copy()).requires_grad_() for v in (network.n, network.s)]
    mean = [torch.zeros_like(v) for v in values]
    square = [torch.zeros_like(v) for v in values]
    step = 0
    for _ in range(epochs):
        order = rng.permutation(len(x))
        for i in range(0, len(x), batch):
            chosen = order[i : i + batch]
            inputs, h = torch.from_numpy(x[chosen]), torch.zeros(len(chosen), len(network.bias), dtype=torch.float64)
            n, s = values
            for t in range(x.shape[1]):
                z = n * (inputs[:, t] @ w_ih.T + h @ w_hh.T + bias)
                h = (1 - s) * torch.logaddexp(z, torch.zeros_like(z)) / n + s * torch.sigmoid(z)
            scores = h @ readout.T + readout_bias
            loss = torch.nn.functional.cross_entropy(scores, torch.from_numpy(y[chosen]))
            step += 1
            for k, gradient in enumerate(torch.autograd.grad(loss, values)):
                mean[k] = 0.9 * mean[k] + 0.1 * gradient
                square[k] = 0.999 * square[k] + 0.001 * gradient**2
                with torch.no_grad():
                    corrected = (square[k] / (1 - 0.999**step)).sqrt() + 1e-8
                    values[k] -= rate * mean[k] / (1 - 0.9**step) / corrected
    return values[0].detach().numpy(), values[1].detach().numpy()


def recovered(upright: float, rotated_accuracy: float, retrained: float) -> float:
    """Share of what the rotation cost that retraining wins back."""
    return (retrained - rotated_accuracy) / (upright - rotated_accuracy)
