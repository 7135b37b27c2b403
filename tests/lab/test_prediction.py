"""Predictions of a trained run for new sequences, in Python and with `aru predict`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

import aru_lab
from aru_lab.cli import main
from aru_lab.data.tasks import find_task
from aru_lab.errors import ConfigError, DataError, RunError
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.training import train

SIZES: dict[str, Any] = {"hidden_size": 5, "controller_size": 3, "epochs": 1, "batch_size": 10, "device": "cpu"}
RNG = np.random.RandomState(0)
X = RNG.randn(60, 8, 2) * 20 + 5
LENGTHS = RNG.randint(1, 9, 60)
LABELS = np.array(["left", "right", "up"] * 20)


def trained(folder: Path, model: str = "arun", y: np.ndarray = LABELS, **options: Any) -> TrainConfig:
    np.savez(folder / "data.npz", x=X, y=y, lengths=LENGTHS)
    config = TrainConfig(str(folder / "data.npz"), model, **SIZES, **options, output=folder / "run")
    train(config, Console(quiet=True))
    return config


def test_predictions_are_the_networks_for_its_own_test_examples(tmp_path: Path) -> None:
    config = trained(tmp_path, standardise=True, average_steps=2, missing="mask-channel")
    test = find_task(config.task, preparation=config.preparation).load().test
    (tmp_path / "data.npz").unlink()
    found = aru_lab.load(tmp_path / "run")
    result = found.predict(X, LENGTHS, batch_size=7)
    assert result["names"].tolist() == ["left", "right", "up"]
    np.testing.assert_allclose(result["probabilities"].sum(1), 1)
    assert result["classes"].tolist() == result["names"][result["probabilities"].argmax(1)].tolist()
    with torch.no_grad():
        logits = found.network(torch.from_numpy(test.x), lengths=torch.from_numpy(test.lengths))
    prepared = found.prepare(X, LENGTHS)
    for x, row in zip(test.x, logits.double().softmax(1).numpy(), strict=True):
        (k,) = np.flatnonzero((prepared.x == x).all(axis=(1, 2)))
        np.testing.assert_allclose(result["probabilities"][k], row, atol=1e-6)


def test_numbers_are_in_the_units_of_the_file(tmp_path: Path) -> None:
    y = RNG.randn(60) * 30 + 500
    trained(tmp_path, "gru", y, standardise=True)
    found = aru_lab.load(str(tmp_path / "run"), checkpoint="last").predict(X, LENGTHS)
    assert found.keys() == {"numbers"}
    assert found["numbers"].shape == (60, 1)
    assert abs(found["numbers"].mean() - 500) < 60


@pytest.mark.parametrize("model", ["arun", "gamma-homogeneous", "gamma-heterogeneous", "lstm"])
def test_states(tmp_path: Path, model: str) -> None:
    trained(tmp_path, model)
    network = aru_lab.load(tmp_path / "run")
    found = network.predict(X, LENGTHS, states=True)
    assert found.keys() == {"classes", "probabilities", "names", "h"} | (set() if model == "lstm" else {"a", "n", "s"})
    for name in found.keys() & {"h", "a", "n", "s"}:
        assert found[name].shape == (60, 8, 5)
        assert (np.isnan(found[name][..., 0]) == (np.arange(8) >= LENGTHS[:, None])).all()
    last = torch.from_numpy(found["h"][np.arange(60), LENGTHS - 1])
    logits = network.network.readout(last).double().softmax(1).detach().numpy()
    np.testing.assert_allclose(logits, found["probabilities"], atol=1e-6)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(tmp_path)
    new, output = tmp_path / "new.npz", tmp_path / "results" / "out.npz"
    np.savez(new, x=X[:4, :5])
    assert main(["predict", str(tmp_path / "run"), str(new), "--output", str(output), "--states"]) == 0
    assert "Predictions of 4 sequences" in capsys.readouterr().out
    with np.load(output) as found:
        assert set(found) == {"classes", "probabilities", "names", "h", "a", "n", "s"}
        assert found["h"].shape == (4, 5, 5)
        expected = aru_lab.load(tmp_path / "run").predict(X[:4, :5])
        assert found["classes"].tolist() == expected["classes"].tolist()
    assert main(["predict", str(tmp_path / "run"), str(new), "--output", str(tmp_path / "out.txt")]) == 2
    assert "output: got" in capsys.readouterr().err
    np.savez(new, x=X[:4, :, :1])
    assert main(["predict", str(tmp_path / "run"), str(new), "--output", str(output)]) == 2
    assert "x has the shape (4, 8, 1), expected (N, T, 2)" in capsys.readouterr().err


def test_refusals(tmp_path: Path) -> None:
    trained(tmp_path)
    network = aru_lab.load(tmp_path / "run")
    for arguments, sentence in (
        ({"x": X[0]}, r"input: x has the shape \(8, 2\)"),
        ({"x": X[..., :1]}, r"x: got the shape \(60, 8, 1\), expected \(N, T, 2\)"),
        ({"x": X, "lengths": LENGTHS + 5}, "lengths holds 13, expected numbers of steps from 1 to T = 8"),
        ({"x": np.where(X > 0, X, np.nan)}, "input: x holds numbers that are not finite .NaN.; .* --missing"),
    ):
        with pytest.raises(DataError, match=sentence):
            network.predict(**arguments)
    with pytest.raises(ConfigError, match="batch_size: got 0"):
        network.predict(X, batch_size=0)
    with pytest.raises(RunError, match="holds no run"):
        aru_lab.load(tmp_path)
    path = tmp_path / "run" / "config.json"
    content = json.loads(path.read_text())
    for damage in ({}, 3, content["environment"]["data"] | {"target": {"n_outputs": 3, "names": ["a"]}}):
        content["environment"]["data"] = damage
        path.write_text(json.dumps(content))
        with pytest.raises(RunError, match=r"config\.json can't be read"):
            aru_lab.load(tmp_path / "run")


def test_run_of_a_data_set_and_of_an_earlier_version(tmp_path: Path) -> None:
    config = TrainConfig("sdigits", "relu", **SIZES, subset=40, validation_subset=20, output=tmp_path / "digits")
    train(config, Console(quiet=True))
    found = aru_lab.load(tmp_path / "digits").predict(RNG.rand(3, 64, 1))
    assert found["names"].tolist() == [str(k) for k in range(10)]
    trained(tmp_path)
    expected = aru_lab.load(tmp_path / "run").predict(X)["probabilities"]
    path = tmp_path / "run" / "config.json"
    content = json.loads(path.read_text())
    del content["environment"]["data"]
    path.write_text(json.dumps(content))
    np.testing.assert_array_equal(aru_lab.load(tmp_path / "run").predict(X)["probabilities"], expected)
