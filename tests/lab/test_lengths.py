"""Sequences of different lengths: the read-out is of the last real step, whatever stands behind it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from aru_lab.data.tasks import find_task
from aru_lab.errors import DataError
from aru_lab.networks.classifier import build_classifier
from aru_lab.networks.names import MODELS
from aru_lab.networks.perturbations import NoisyDrive, StepDrive, VariableContrast
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.evaluation import evaluate, perturbed, score
from aru_lab.runs.training import train

T = 9


def file_of(folder: Path, padding: float = 0.0, n: int = 40, **arrays: Any) -> str:
    rng = np.random.RandomState(0)
    x, lengths = rng.rand(n, T, 2), rng.randint(1, T, n)
    x[np.arange(T) >= lengths[:, None]] = padding
    folder.mkdir(exist_ok=True)
    path = folder / "data.npz"
    np.savez(path, **({"x": x, "y": np.arange(n) % 2, "lengths": lengths} | arrays))
    return str(path)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("perturbation", [None, StepDrive(0.7, 1, 5), NoisyDrive(1.0), VariableContrast(0.5)])
def test_outputs_are_those_of_each_sequence_without_its_padding(model: str, perturbation: Any) -> None:
    torch.manual_seed(0)
    network = build_classifier(model, 5, 3, input_size=2, n_classes=3, dtype=torch.float64)
    x, lengths = torch.randn(6, T, 2, dtype=torch.float64), torch.tensor([3, 1, 8, 5, 8, 2])
    seeds = range(6)
    found = network(x, lengths=lengths, **perturbed(network, x, perturbation, seeds))
    for k, length in enumerate(lengths.tolist()):
        arguments = perturbed(network, x[k : k + 1], perturbation, seeds[k : k + 1])
        if arguments.get("drive") is not None:
            arguments["drive"] = arguments["drive"][:length]
        if arguments.get("contrast") is not None:
            arguments["contrast"] = arguments["contrast"][:length]
        torch.testing.assert_close(found[k : k + 1], network(x[k : k + 1, :length], **arguments))


@pytest.mark.parametrize("model", ["arun", "gru"])
def test_padding_does_not_matter_to_training_and_scores(tmp_path: Path, model: str) -> None:
    scores, weights = [], []
    for k, padding in enumerate((0.0, np.nan, 1e30)):
        config = TrainConfig(
            file_of(tmp_path / str(k), padding), model, hidden_size=5, controller_size=3, epochs=2, batch_size=8,
            device="cpu", output=tmp_path / f"run{k}",
        )  # fmt: skip
        scores.append(
            [entry["validation_loss"] for entry in train(config, Console(quiet=True)).history]
            + [result.loss for result in evaluate(config.run_folder, [StepDrive(0.5), NoisyDrive(1.0)])[1]]
        )
        weights.append(torch.load(config.run_folder / "best.pt", weights_only=True)["model"])
    assert scores[0] == scores[1] == scores[2]
    assert all(torch.equal(weights[0][name], other[name]) for other in weights[1:] for name in other)


def test_full_lengths_are_the_same_as_none(tmp_path: Path) -> None:
    data = find_task(file_of(tmp_path)).load().train
    torch.manual_seed(0)
    model = build_classifier("gamma-heterogeneous", 5, input_size=2, n_classes=2, dtype=torch.float64)
    full = dataclasses.replace(data, lengths=np.full(len(data), T))
    assert score(model, full).loss == pytest.approx(
        score(model, dataclasses.replace(data, lengths=None)).loss, rel=1e-12
    )
    assert score(model, full).loss != score(model, data).loss


@pytest.mark.parametrize(
    ("lengths", "sentence"),
    [
        (np.zeros(40, int), "lengths holds 0, expected numbers of steps from 1 to T = 9"),
        (np.full(40, 10), "lengths holds 10, expected numbers of steps from 1 to T = 9"),
        (np.full(39, 5), r"lengths has the shape \(39,\) and the type int64, expected integers of shape \(40,\)"),
        (np.full(40, 5.0), r"lengths has the shape \(40,\) and the type float64, expected integers"),
    ],
)
def test_wrong_lengths_are_told(tmp_path: Path, lengths: np.ndarray, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        find_task(file_of(tmp_path, lengths=lengths)).load()
