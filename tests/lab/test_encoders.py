"""The convolutional encoder in front of a recurrent network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from aru_lab.networks.classifier import build_classifier, count_parameters
from aru_lab.networks.encoders import ConvEncoder
from aru_lab.networks.perturbations import StepDrive, VariableContrast
from aru_lab.runs.evaluation import perturbed


def test_image_becomes_64_steps_of_256_features() -> None:
    encoder = ConvEncoder()
    assert encoder(torch.rand(2, 1024, 3)).shape == (2, 64, 256)
    assert encoder.n_steps(1024) == 64
    layers = [type(layer).__name__ for layer in encoder.layers]
    block = ["BatchNorm2d", "ReLU", "Conv2d"]
    assert layers == [*block, *block, "MaxPool2d", *block, *block, "MaxPool2d"]
    assert count_parameters(encoder) == 9 * (3 * 32 + 32 * 64 + 64 * 128 + 128 * 256) + 2 * (3 + 32 + 64 + 128)


def test_steps_are_the_places_of_the_image_row_by_row() -> None:
    torch.manual_seed(0)
    encoder = ConvEncoder(dtype=torch.float64).eval()
    image = torch.rand(1, 3, 32, 32, dtype=torch.float64)
    whole = encoder.layers(image)  # (1, 256, 8, 8)
    steps = encoder(image.permute(0, 2, 3, 1).reshape(1, 1024, 3))
    for row, column in ((0, 0), (0, 7), (3, 2), (7, 7)):
        torch.testing.assert_close(steps[0, 8 * row + column], whole[0, :, row, column])


def test_whole_is_trained_end_to_end() -> None:
    torch.manual_seed(0)
    classifier = build_classifier("arun", 6, 4, input_size=256, encoder="conv")
    assert classifier.trial_shape == (16, 3)
    logits = classifier(torch.rand(3, 1024, 3))
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in classifier.parameters())


@pytest.mark.parametrize("perturbation", [StepDrive(0.5), VariableContrast(0.5)], ids=["step", "contrast"])
def test_perturbations_act_on_the_steps_of_the_recurrent_network(perturbation: StepDrive | VariableContrast) -> None:
    torch.manual_seed(0)
    classifier = build_classifier("gru", 6, input_size=256, encoder="conv", dtype=torch.float64).eval()
    x = torch.rand(2, 1024, 3, dtype=torch.float64)
    logits = classifier(x, **perturbed(classifier, x, perturbation, [0, 1]))
    plain = build_classifier("gru", 6, input_size=256, dtype=torch.float64)
    plain.recurrent, plain.readout = classifier.recurrent, classifier.readout
    features = classifier.encoder(x)
    torch.testing.assert_close(logits, plain(features, **perturbed(plain, features, perturbation, [0, 1])))
    assert not torch.allclose(logits, classifier(x))
