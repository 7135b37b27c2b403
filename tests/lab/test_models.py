"""Models: the classifier, equal numbers of parameters, and the drive of torch's own networks against a loop by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import aru_kernels
from aru_lab.errors import ConfigError
from aru_lab.networks import names
from aru_lab.networks.classifier import (
    BUILDERS,
    build_classifier,
    count_parameters,
    driven_rnn,
    freeze,
    match_hidden_size,
    parts,
)

T, B, H = 7, 3, 5


def test_every_model_of_the_configuration_can_be_built() -> None:
    assert tuple(BUILDERS) == names.MODELS


@pytest.mark.parametrize("model", names.MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_and_gradients(model: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    classifier = build_classifier(model, H, controller_size=4, input_size=2, n_classes=6, dtype=dtype)
    logits = classifier(torch.rand(B, T, 2, dtype=dtype))
    assert logits.shape == (B, 6)
    assert logits.dtype == dtype
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in classifier.parameters())


@pytest.mark.parametrize("model", names.MODELS)
def test_drive_changes_the_logits_and_zero_drive_does_not(model: str) -> None:
    torch.manual_seed(0)
    classifier = build_classifier(model, H, controller_size=4, dtype=torch.float64)
    x = torch.rand(B, T, 1, dtype=torch.float64)
    clean = classifier(x)
    for shape in [(), (T,), (T, 1, 1), (T, B, H)]:
        torch.testing.assert_close(classifier(x, drive=torch.zeros(shape, dtype=torch.float64)), clean)
        assert not torch.allclose(classifier(x, drive=torch.full(shape, 0.5, dtype=torch.float64)), clean)
    torch.testing.assert_close(classifier(x, drive=0.5), classifier(x, drive=torch.full((T,), 0.5)))


def test_read_out_takes_the_last_state() -> None:
    torch.manual_seed(0)
    classifier = build_classifier("arun", H, controller_size=4)
    x = torch.rand(B, T, 1)
    output, (h_n, _) = classifier.recurrent(x.transpose(0, 1))
    torch.testing.assert_close(classifier(x), classifier.readout(h_n[0]))
    torch.testing.assert_close(output[-1], h_n[0])


def step_by_hand(rnn: Any, x: Tensor, h: Tensor, c: Tensor, xi: Tensor) -> tuple[Tensor, Tensor]:
    """One step of torch's documented equations, ξ added to the pre-activation (of the candidate)."""
    from_input = x @ rnn.weight_ih_l0.T + rnn.bias_ih_l0
    from_state = h @ rnn.weight_hh_l0.T + rnn.bias_hh_l0
    if rnn.mode == "RNN_RELU":
        return torch.relu(from_input + from_state + xi), c
    if rnn.mode == "LSTM":
        i, f, g, o = (from_input + from_state).chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g + xi)
        return torch.sigmoid(o) * torch.tanh(c), c
    (r, z, n), (r_h, z_h, n_h) = from_input.chunk(3, dim=1), from_state.chunk(3, dim=1)
    n = torch.tanh(n + xi + torch.sigmoid(r + r_h) * n_h)
    z = torch.sigmoid(z + z_h)
    return (1 - z) * n + z * h, c


@pytest.mark.parametrize("shape", [(), (T,), (T, 1, 1), (T, B, 1), (T, 1, H), (1, 1, H), (T, B, H)])
@pytest.mark.parametrize("kind", ["relu", "lstm", "gru"])
def test_drive_of_torch_networks_equals_a_loop_by_hand(kind: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    rnn = build_classifier(kind, H, input_size=2, dtype=torch.float64).recurrent
    x = torch.randn(T, B, 2, dtype=torch.float64)
    drive = torch.randn(shape, dtype=torch.float64)
    full = (drive.reshape(-1, 1, 1) if drive.dim() < 2 else drive).expand(T, B, H)
    h = c = torch.zeros(B, H, dtype=torch.float64)
    expected = []
    for t in range(T):
        h, c = step_by_hand(rnn, x[t], h, c, full[t])
        expected.append(h)
    torch.testing.assert_close(driven_rnn(rnn, x, drive), torch.stack(expected))


def test_undriven_torch_network_is_the_module_itself() -> None:
    rnn = nn.GRU(1, H)
    x = torch.rand(T, B, 1)
    torch.testing.assert_close(driven_rnn(rnn, x, None), rnn(x)[0])


def test_relu_network_starts_orthogonal_and_without_bias() -> None:
    rnn = build_classifier("relu", 8).recurrent
    torch.testing.assert_close(rnn.weight_hh_l0 @ rnn.weight_hh_l0.T, torch.eye(8))
    assert not rnn.bias_ih_l0.any()
    assert not rnn.bias_hh_l0.any()


@pytest.mark.parametrize("model", [name for name in names.MODELS if name != "arun"])
def test_matched_sizes_agree_within_two_percent_at_the_papers_size(model: str) -> None:
    target = count_parameters(build_classifier("arun", 400, 50, device="meta"))
    size = match_hidden_size(model, target)
    matched = count_parameters(build_classifier(model, size, device="meta"))
    assert abs(matched - target) <= 0.02 * target
    for other in (size - 1, size + 1):
        count = count_parameters(build_classifier(model, other, device="meta"))
        assert abs(count - target) >= abs(matched - target)


def test_matching_what_can_not_be_matched_is_refused() -> None:
    with pytest.raises(ConfigError, match="n_parameters: got 100, and the nearest that lstm can have"):
        match_hidden_size("lstm", 100)


def test_unknown_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="model: got 'rnn', expected one of arun"):
        build_classifier("rnn", 3)


def test_matching_does_not_touch_the_random_state() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    match_hidden_size("gru", 5000)
    assert torch.equal(torch.get_rng_state(), before)


def test_adaptive_networks_run_on_the_chosen_backend() -> None:
    torch.manual_seed(0)
    classifier = build_classifier("arun", H, controller_size=4, dtype=torch.float64)
    x = torch.rand(B, T, 1, dtype=torch.float64)
    with aru_kernels.use_backend("reference"):
        reference = classifier(x, drive=0.3)
    torch.testing.assert_close(classifier(x, drive=0.3), reference)


@pytest.mark.parametrize("model", names.MODELS)
def test_parts_are_all_parameters_and_each_once(model: str) -> None:
    classifier = build_classifier(model, H, controller_size=4, input_size=256, encoder="conv")
    of_part = parts(classifier)
    assert tuple(of_part) == names.PARTS
    found = [id(parameter) for parameters in of_part.values() for parameter in parameters]
    assert sorted(found) == sorted(id(parameter) for parameter in classifier.parameters())
    expected = {"arun": 5, "gamma-homogeneous": 2, "gamma-heterogeneous": 2}
    assert len(of_part["activation"]) == expected.get(model, 0)


def test_frozen_parts_get_no_gradient() -> None:
    classifier = build_classifier("gamma-heterogeneous", H)
    freeze(classifier, ("activation", "readout"))
    classifier(torch.rand(B, T, 1)).sum().backward()
    assert {name for name, parameter in classifier.named_parameters() if parameter.grad is None} == {
        "recurrent.gain_l0",
        "recurrent.saturation_l0",
        "readout.weight",
        "readout.bias",
    }
    assert count_parameters(classifier) == H + H * H + H


@pytest.mark.parametrize(
    ("model", "frozen", "sentence"),
    [
        (
            "lstm",
            ("activation",),
            "freeze: got activation, which this model does not have; expected parts of recurrent, read",
        ),
        ("arun", ("encoder",), "freeze: got encoder, which this model does not have"),
        ("relu", ("recurrent", "readout"), "freeze: got recurrent readout, expected to leave something to train"),
    ],
)
def test_freezing_nothing_or_everything_is_refused(model: str, frozen: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        freeze(build_classifier(model, H, 4), frozen)
