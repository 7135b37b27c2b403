"""The examples of docs/data.md run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from aru_lab.cli import main

from .conftest import ROOT


def test_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "data.md").read_text()
    make, load, cell = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(make, names)
    commands = re.findall(r"^    aru (.*?)(?: {2,}#.*)?$", text, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["train", "evaluate", "predict"]
    for command in commands:
        small = ["--epochs", "15", "--batch-size", "20", "--learning-rate", "1e-2", "--learning-rate-scaling", "none"]
        small += ["--hidden-size", "8", "--controller-size", "4", "--device", "cpu"]
        assert main(command.split() + small * command.startswith("train")) == 0
    printed = capsys.readouterr().out
    assert "Baseline: always answering" in printed
    assert "Confusion matrix" in printed
    exec(load, names)
    found = names["found"]
    assert (found["classes"] == names["labels"]).mean() > 0.8
    assert found["n"].shape == found["h"].shape == (300, 50, 8)
    exec(cell, names)
    x = torch.from_numpy(names["trained"].prepare(names["x"]).x)
    state = None
    for t in range(x.shape[1]):
        state = names["cell"](x[:, t], state)
        torch.testing.assert_close(state[0].detach().numpy(), found["h"][:, t], rtol=1e-4, atol=1e-5)
