"""The step drive."""

from __future__ import annotations

import pytest
import torch

from aru_lab.errors import ConfigError
from aru_lab.perturbations import PERTURBATIONS, StepDrive


def test_step_is_on_during_its_length_only() -> None:
    drive = StepDrive(amplitude=-1.5, onset=3, length=4).drive(10)
    assert drive.shape == (10,)
    torch.testing.assert_close(drive, torch.tensor([0.0, 0, 0, -1.5, -1.5, -1.5, -1.5, 0, 0, 0]))


def test_defaults_drive_the_middle_half() -> None:
    assert StepDrive(1.0).bounds(64) == (16, 48)
    assert PERTURBATIONS["step"](amplitude=1.0).drive(64).sum() == 32


@pytest.mark.parametrize(("onset", "length"), [(0, 0), (0, 10), (10, 0)])
def test_extremes(onset: int, length: int) -> None:
    assert StepDrive(1.0, onset, length).drive(10).sum() == length


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"amplitude": float("inf")}, "amplitude: got inf"),
        ({"amplitude": 1.0, "onset": -1}, "onset: got -1"),
        ({"amplitude": 1.0, "length": -2}, "length: got -2"),
    ],
)
def test_refusals(arguments: dict[str, float], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        StepDrive(**arguments)


def test_step_beyond_the_end_is_refused() -> None:
    with pytest.raises(ConfigError, match="from step 8 of length 3, expected it to end within the sequence of 10"):
        StepDrive(1.0, 8, 3).drive(10)
