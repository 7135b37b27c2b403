"""Perturbations: each against values computed by hand, how they are written, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aru_lab.data.preparation import Preparation
from aru_lab.data.sequences import Sequences
from aru_lab.data.tasks import find_task
from aru_lab.errors import ConfigError
from aru_lab.networks.classifier import build_classifier
from aru_lab.networks.names import MODELS
from aru_lab.networks.perturbations import (
    PERTURBATIONS,
    NoisyDrive,
    RandomContrast,
    StepDrive,
    VariableContrast,
    describe,
    is_defined,
    parse,
    seeds_of,
)
from aru_lab.runs.augmentation import Augmentation
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.evaluation import perturbed, score


def test_step_is_on_during_its_length_only() -> None:
    drive = StepDrive(amplitude=-1.5, onset=3, length=4).drive(10)
    assert drive.shape == (10,)
    torch.testing.assert_close(drive, torch.tensor([0.0, 0, 0, -1.5, -1.5, -1.5, -1.5, 0, 0, 0]))


def test_defaults_drive_the_middle_half() -> None:
    assert StepDrive(1.0).bounds(64) == NoisyDrive(1.0).bounds(64) == (16, 48)
    assert PERTURBATIONS["step"](amplitude=1.0).drive(64).sum() == 32


@pytest.mark.parametrize(("onset", "length"), [(0, 0), (0, 10), (10, 0)])
def test_extremes(onset: int, length: int) -> None:
    assert StepDrive(1.0, onset, length).drive(10).sum() == length


def test_noise_is_the_seeds_own_normal_numbers_during_its_length() -> None:
    drive = NoisyDrive(deviation=2.0, mean=0.5, onset=1, length=2).drive(4, n_neurons=3, seeds=[7, 8])
    assert drive.shape == (4, 2, 3)
    assert not drive[[0, 3]].any()
    for b, seed in enumerate((7, 8)):
        normal = torch.randn(2, 3, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(drive[1:3, b], 0.5 + 2 * normal)


def test_noise_has_the_mean_and_the_deviation_asked_for() -> None:
    drive = NoisyDrive(deviation=0.7, mean=-1.2, onset=0, length=100).drive(100, 50, seeds=range(20))
    assert drive.mean().item() == pytest.approx(-1.2, abs=0.01)  # 0.7 / sqrt(100,000) = 0.0022
    assert drive.std().item() == pytest.approx(0.7, abs=0.01)
    # Independent over neurons and time: neighbours do not correlate.
    centred = (drive + 1.2) / 0.7
    assert abs((centred[1:] * centred[:-1]).mean().item()) < 0.02
    assert abs((centred[:, :, 1:] * centred[:, :, :-1]).mean().item()) < 0.02


def test_a_sequence_has_its_noise_in_any_batch() -> None:
    noise = NoisyDrive(1.0)
    torch.testing.assert_close(noise.drive(8, 3, [5, 6, 7])[:, 1:], noise.drive(8, 3, [6, 7]))
    contrast = RandomContrast()
    torch.testing.assert_close(contrast.contrast(8, [5, 6, 7])[:, 1:], contrast.contrast(8, [6, 7]))


def test_contrast_is_a_sine_about_one() -> None:
    # T = 4, f = 1, φ = 0: sin of 0, π/2, π, 3π/2; φ = π/2 begins a quarter later; f = 2 alternates at φ = π/2.
    torch.testing.assert_close(VariableContrast(0.5).contrast(4), torch.tensor([1.0, 1.5, 1.0, 0.5]))
    shifted = VariableContrast(0.5, frequency=1, phase=math.pi / 2).contrast(4)
    torch.testing.assert_close(shifted, torch.tensor([1.5, 1.0, 0.5, 1.0]))
    fast = VariableContrast(0.25, frequency=2, phase=math.pi / 2).contrast(4)
    torch.testing.assert_close(fast, torch.tensor([1.25, 0.75, 1.25, 0.75]))


def test_random_contrast_draws_the_frequency() -> None:
    factor = RandomContrast(amplitude=0.2, highest_frequency=2.0).contrast(16, seeds=[3, 4])
    assert factor.shape == (16, 2)
    for b, seed in enumerate((3, 4)):
        frequency = 2.0 * torch.rand((), generator=torch.Generator().manual_seed(seed)).item()
        torch.testing.assert_close(factor[:, b], VariableContrast(0.2, frequency).contrast(16))


def test_contrast_scales_what_is_above_zero_and_nothing_else() -> None:
    torch.manual_seed(0)
    classifier = build_classifier("gru", 5, dtype=torch.float64)
    x = torch.tensor([[-0.5, 0.0, 0.5, 1.0], [1.0, 0.2, -1.0, 0.0]], dtype=torch.float64)[:, :, None]
    factor = VariableContrast(0.5).contrast(4)
    expected = torch.tensor([[-0.5, 0.0, 0.5, 0.5], [1.0, 0.3, -1.0, 0.0]], dtype=torch.float64)[:, :, None]
    torch.testing.assert_close(classifier(x, contrast=factor), classifier(expected))
    both = torch.stack([factor, torch.ones(4)], dim=1)  # (T, B): the second sequence stays as it is
    mixed = torch.stack([expected[0], x[1]])
    torch.testing.assert_close(classifier(x, contrast=both), classifier(mixed))


def test_drives_leave_the_contrast_and_contrasts_the_drive() -> None:
    assert StepDrive(1.0).contrast(8) is None
    assert NoisyDrive(1.0).contrast(8) is None
    assert VariableContrast(1.0).drive(8) is None
    assert RandomContrast().drive(8) is None


@pytest.mark.parametrize(
    ("text", "perturbation"),
    [
        ("step:amplitude=0.5", StepDrive(0.5)),
        ("step:length=7,amplitude=-2,onset=3", StepDrive(-2.0, 3, 7)),
        ("noisy:deviation=1e-2,mean=0.5", NoisyDrive(0.01, 0.5)),
        ("contrast:amplitude=0.5,phase=3.14", VariableContrast(0.5, 1.0, 3.14)),
        ("random-contrast", RandomContrast()),
    ],
)
def test_what_is_written_is_read_and_written_again(text: str, perturbation: Any) -> None:
    assert parse(text) == perturbation
    assert parse(describe(perturbation)) == perturbation


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("wind", r"got 'wind', expected one of step:amplitude=\.\.\.,\[onset=\.\.\.\],.*\[strict=\.\.\.\], noisy:"),
        ("step", "got 'step' without amplitude, expected step:amplitude="),
        ("step:force=1", "got 'force=1' in 'step:force=1', expected step:amplitude="),
        ("step:amplitude=1,amplitude=2", "each parameter once"),
        ("step:amplitude=strong", "got 'amplitude=strong' .* expected a number"),
        ("step:amplitude=1,onset=0.5", "got 'onset=0.5' .* expected a number"),
        ("noisy:deviation=-1", "deviation: got -1.0, expected a number of at least 0"),
    ],
)
def test_what_can_not_be_read_is_told(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        parse(text)


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


def test_contrast_of_inputs_of_both_signs_is_about_their_mean(tmp_path: Path) -> None:
    rng = np.random.RandomState(0)
    x = rng.randn(60, 5, 2) + np.array([3, 0])
    x[rng.rand(60, 5, 2) < 0.1] = np.nan
    np.savez(tmp_path / "data.npz", x=x, y=np.arange(60) % 2)
    preparation = Preparation(missing="mask-channel")
    data = find_task(str(tmp_path / "data.npz"), preparation=preparation).load()
    expected = [*data.train.x[..., :2].mean(axis=(0, 1)), np.nan, np.nan]
    np.testing.assert_allclose(data.test.centre, expected, rtol=1e-5)
    torch.manual_seed(0)
    model = build_classifier("gru", 4, input_size=4, n_classes=2)
    inputs = torch.from_numpy(data.test.x)
    contrast = VariableContrast(0.5)
    found = model(inputs, **perturbed(model, inputs, contrast, range(len(inputs)), data.test.centre))
    centre = torch.tensor([*data.test.centre[:2], 0, 0])
    factor = contrast.contrast(5).reshape(1, 5, 1).expand(len(inputs), 5, 4).clone()
    factor[..., 2:] = 1
    torch.testing.assert_close(found, model(centre + (inputs - centre) * factor))
    assert score(model, data.test, perturbation=contrast) != score(model, data.test)


def test_contrast_of_positive_inputs_is_about_zero(tmp_path: Path) -> None:
    x = np.random.RandomState(0).rand(60, 5, 2)
    np.savez(tmp_path / "data.npz", x=x, y=np.arange(60) % 2)
    assert find_task(str(tmp_path / "data.npz")).load().test.centre is None
    x[3, 1, 1] = np.nan
    np.savez(tmp_path / "data.npz", x=x, y=np.arange(60) % 2)
    test = find_task(str(tmp_path / "data.npz"), preparation=Preparation(missing="mask-channel")).load().test
    np.testing.assert_array_equal(test.centre, [0, 0, np.nan, np.nan])


@pytest.mark.parametrize(("n_steps", "onset", "end"), [(784, 200, 400), (112, 29, 58), (1024, 261, 522)])
def test_presets_have_the_values_of_the_paper(n_steps: int, onset: int, end: int) -> None:
    step, noise, sine = parse("paper-step"), parse("paper-noise"), parse("sine")
    expected = torch.zeros(n_steps)
    expected[onset:end] = 1
    assert torch.equal(step.drive(n_steps), expected)
    drive = noise.drive(n_steps, 50, seeds=range(20))
    assert not drive[:onset].any()
    assert not drive[end:].any()
    assert drive[onset:end].mean().item() == pytest.approx(5, abs=0.05)
    assert drive[onset:end].std().item() == pytest.approx(math.sqrt(2), abs=0.03)
    assert torch.equal(sine.contrast(n_steps), VariableContrast(0.5, 1.0, 0.0).contrast(n_steps))


def test_presets_take_every_parameter() -> None:
    assert parse("paper-step:amplitude=30,onset=3,length=2").drive(10)[3:5].tolist() == [30, 30]
    assert parse("paper-noise:deviation=0,mean=2,length=1,onset=0").drive(4, 1, [1]).flatten().tolist() == [2, 0, 0, 0]
    assert parse("sine:amplitude=0.1,phase=1,frequency=2") == PERTURBATIONS["sine"](0.1, 2.0, 1.0)


def test_a_strict_drive_leaves_its_first_step_out() -> None:
    """199 steps, 201 to 399, in the authors' code."""
    drive = parse("paper-step:strict=true").drive(784)
    assert drive.nonzero().flatten().tolist() == list(range(201, 400))
    noise = parse("paper-noise:strict=true").drive(784, 1, [0])
    assert noise.flatten().nonzero().flatten().tolist() == list(range(201, 400))
    assert not parse("step:amplitude=1,onset=3,length=0,strict=true").drive(3).any()


def test_a_shared_draw_is_that_of_all_sequences_of_a_batch() -> None:
    assert seeds_of(NoisyDrive(1.0, shared=True), 7, 3) == [7, 7, 7]
    assert seeds_of(NoisyDrive(1.0), 7, 3) == seeds_of(None, 7, 3) == [7, 8, 9]
    noise = NoisyDrive(1.0, shared=True).drive(8, 4, seeds_of(NoisyDrive(1.0, shared=True), 7, 3))
    assert torch.equal(noise[:, 0], noise[:, 2])
    assert noise.any()
    contrast = RandomContrast(shared=True)
    factor = contrast.contrast(8, seeds_of(contrast, 7, 3))
    assert torch.equal(factor[:, 0], factor[:, 1])


def test_shared_noise_is_shared_in_scores_and_in_training() -> None:
    x, y = np.repeat(np.random.RandomState(0).rand(1, 8, 2).astype(np.float32), 6, axis=0), np.zeros(6, np.int64)
    model = build_classifier("relu", 4, input_size=2)
    for shared, distinct in ((True, 1), (False, 6)):
        kept: list[np.ndarray] = []
        score(model, Sequences(x, y), perturbation=NoisyDrive(3.0, mean=5.0, shared=shared), kept=kept)
        assert len(np.unique(np.concatenate(kept).round(4), axis=0)) == distinct
    config = TrainConfig(perturb=("random-contrast:shared=true",), perturb_share=1.0)
    assert len(set(Augmentation(config).draw(3, 5)[1])) == 1


def test_flags_are_written_only_where_they_are_set() -> None:
    """Scores are kept under these texts, also by earlier versions."""
    assert describe(StepDrive(0.5)) == "step:amplitude=0.5"
    assert describe(NoisyDrive(1.0)) == "noisy:deviation=1,mean=0"
    assert describe(RandomContrast()) == "random-contrast:amplitude=0.2,highest_frequency=2"
    assert describe(parse("noisy:deviation=1,shared=true")) == "noisy:deviation=1,mean=0,shared=true"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("step:amplitude=1,strict=1", "perturb: got 'strict=1' in .*, expected true or false"),
        ("step:amplitude=1,shared=true", "perturb: got 'shared=true' in .*, expected step:amplitude"),
    ],
)
def test_flags_that_are_refused(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        parse(text)


@pytest.mark.parametrize("kind", [StepDrive, NoisyDrive])
def test_flags_are_booleans(kind: Any) -> None:
    with pytest.raises(ConfigError, match="strict: got 1, expected True or False"):
        kind(1.0, strict=1)


def test_drives_are_not_defined_for_networks_of_several_gates() -> None:
    for model in MODELS:
        gated = model in ("lstm", "gru")
        for text in ("step:amplitude=1", "noisy:deviation=1", "paper-step", "paper-noise"):
            assert is_defined(model, parse(text)) is not gated
        for text in ("sine", "contrast:amplitude=1", "random-contrast"):
            assert is_defined(model, parse(text))
        assert is_defined(model, None)
