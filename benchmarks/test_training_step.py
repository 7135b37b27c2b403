"""A whole training step of a classifier: forward, loss, backward, Adam; and inference of one long sequence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import aru_kernels
from aru_lab.networks.classifier import build_classifier, count_parameters, match_hidden_size

from . import work
from .cases import Variant, fused_backends, on, pass_over


def trainer(model: str, H: int, G: int, x: Tensor, y: Tensor) -> tuple:
    torch.manual_seed(0)
    network = build_classifier(model, H, G, device=x.device)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)

    def step() -> list[Tensor]:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(x), y)
        loss.backward()
        optimizer.step()
        return [loss.detach()]

    return network, step


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(work.QUICK, marks=pytest.mark.quick, id=str(work.QUICK)),
        pytest.param(work.PAPER, id=f"paper, {work.PAPER}"),
    ],
)
def test_training_step(measure, device, shape):
    B, T, H, G = shape
    torch.manual_seed(1)
    x, y = torch.rand(B, T, 1, device=device), torch.randint(10, (B,), device=device)
    variants = {}
    parameters = count_parameters(build_classifier("arun", H, G, device="meta"))
    for name in fused_backends("aru_sequence", device):
        # the first loss of networks of the same seed is the same; later ones drift apart by round-off
        variants[name] = Variant(on(name, trainer("arun", H, G, x, y)[1]))
    if shape != work.PAPER or device.type == "cuda":
        variants["reference"] = Variant(on("reference", trainer("arun", H, G, x, y)[1]))
    for model in ("relu", "lstm", "gru"):
        for label, size in (("equal H", H), ("equal parameters", match_hidden_size(model, parameters, tolerance=0.1))):
            if shape == work.PAPER and label == "equal parameters" and device.type == "cpu":
                continue  # a step takes seconds there
            network, step = trainer(model, size, G, x, y)
            extra = {"parameters": count_parameters(network), "hidden_size": size}
            variants[f"{model}, {label}"] = Variant(step, same_function=False, extra=extra)
    measure(
        "training step",
        "forward+backward+Adam",
        shape._asdict(),
        next(iter(variants)),
        variants,
        gflop=shape.gflop(True),
        steps=T,
        rounds=15 if shape == work.QUICK else 3,
        tolerance=1e-3,
    )


@pytest.mark.quick
def test_one_long_sequence(measure, device):
    """An interactive simulation: B = 1, no gradient."""
    shape = work.Shape(1, 1000, 64, 16)
    torch.manual_seed(0)
    layer = aru_kernels.ARUN(1, shape.H, controller_size=shape.G, device=device)
    x = torch.rand(shape.T, 1, 1, device=device)
    names = (*fused_backends("aru_sequence", device), "reference")
    variants = {name: Variant(on(name, lambda: pass_over(layer, x, False))) for name in names}
    measure(
        "one long sequence",
        "forward",
        shape._asdict(),
        names[0],
        variants,
        gflop=shape.gflop(False),
        steps=shape.T,
        rounds=8,
        tolerance=5e-3,
    )
