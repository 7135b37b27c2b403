"""Constraints on the weights: Dale's law, masks, areas, and the balanced initialisation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from aru_kernels import ARUN, ARUNCell, GammaRNN, constraints, parameter_groups

H = 20


def trained(module: nn.Module, steps: int = 5) -> nn.Module:
    """After some steps of Adam."""
    optimizer = torch.optim.Adam(parameter_groups(module, 1e-2))
    x = torch.randn(7, 4, 3)
    for _ in range(steps):
        loss = (module(x)[0] - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return module


@pytest.mark.parametrize("make", [lambda: ARUN(3, H, 2, bidirectional=True), lambda: GammaRNN(3, H)])
def test_the_signs_hold_after_training(make: Callable[[], nn.Module]):
    layer = constraints.dale(make(), 0.75)
    before = {name: getattr(layer, name).clone() for name in layer.parametrizations}
    trained(layer)
    assert len(before) == (4 if isinstance(layer, ARUN) else 1)
    for name, weight in before.items():
        after = getattr(layer, name)
        assert (after - weight).abs().max() > 1e-4, name
        assert (after[:, :15] >= 0).all(), name
        assert (after[:, 15:] <= 0).all(), name
        assert after[:, :15].max() > 0, name
        assert after[:, 15:].min() < 0, name


@pytest.mark.parametrize(
    "given", [torch.tensor([1.0, -1.0] * (H // 2)), torch.tensor([True, False] * (H // 2)), torch.tensor([1, -1] * 10)]
)
def test_the_sign_of_each_neuron(given: torch.Tensor):
    weight = constraints.dale(GammaRNN(3, H), given, balanced=False).weight_hh_l0
    assert (weight[:, ::2] >= 0).all()
    assert (weight[:, 1::2] <= 0).all()


def test_without_balance_the_sizes_stay():
    layer = GammaRNN(3, H)
    before = layer.weight_hh_l0.detach().clone()
    after = constraints.dale(layer, balanced=False).weight_hh_l0
    assert torch.equal(after.abs(), before.abs())


def test_balance():
    generator = torch.Generator().manual_seed(0)
    layer = constraints.dale(ARUN(3, 200), 0.8, generator=generator)
    weight = layer.weight_hh_l0.detach()
    assert weight.sum(1).abs().max() < 1e-5
    radius = torch.linalg.eigvals(weight.double()).abs().max().item()
    assert abs(radius - 1) < 1e-6
    # as the constraints say, and reproducible
    again = constraints.dale(ARUN(3, 200), 0.8, generator=torch.Generator().manual_seed(0)).weight_hh_l0
    assert torch.equal(weight, again)
    # the mean of h moves no neuron, and h stays in range over 100 steps
    h, _ = layer(torch.randn(100, 4, 3))
    assert h.abs().max() < 1e3


def test_the_spectral_radius_can_be_chosen():
    layer = constraints.balance_(constraints.dale(GammaRNN(3, H)), spectral_radius=1.5)
    radius = torch.linalg.eigvals(layer.weight_hh_l0.double()).abs().max().item()
    assert abs(radius - 1.5) < 1e-5
    free = constraints.balance_(GammaRNN(3, H), spectral_radius=0.5).weight_hh_l0
    assert abs(torch.linalg.eigvals(free.double()).abs().max().item() - 0.5) < 1e-5
    assert free.min() < 0 < free.max()


def combine(layer: nn.Module, order: int) -> nn.Module:
    """Dale's law, a sparse mask and no self-connections, in this or in the opposite order."""
    steps = [
        lambda: constraints.dale(layer, 0.5, balanced=False),
        lambda: constraints.sparse(layer, 0.3, generator=torch.Generator().manual_seed(1)),
        lambda: constraints.no_self_connections(layer),
    ]
    for step in steps[::order]:
        step()
    return layer


@pytest.mark.parametrize("order", [1, -1])
def test_constraints_combine_in_any_order(order: int):
    layer = combine(GammaRNN(3, H), order)
    constraints.balance_(layer)
    for weight in (layer.weight_hh_l0.detach().clone(), trained(layer).weight_hh_l0):
        assert weight.diagonal().count_nonzero() == 0
        assert (weight.count_nonzero(1) <= round(0.3 * H)).all()
        assert weight.count_nonzero() > 0.2 * H * H
        assert (weight[:, :10] >= 0).all()
        assert (weight[:, 10:] <= 0).all()


def test_state_dicts_keep_them():
    first, second = combine(GammaRNN(3, H), 1), combine(GammaRNN(3, H), 1)
    constraints.balance_(first)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.weight_hh_l0, second.weight_hh_l0)
    x = torch.randn(5, 2, 3)
    assert torch.equal(first(x)[0], second(x)[0])


def test_torch_removes_them():
    layer = combine(GammaRNN(3, H), 1)
    x = torch.randn(5, 2, 3)
    before, weight = layer(x)[0], layer.weight_hh_l0.detach().clone()
    parametrize.remove_parametrizations(layer, "weight_hh_l0")
    assert not parametrize.is_parametrized(layer)
    assert isinstance(layer.weight_hh_l0, nn.Parameter)
    assert torch.equal(layer.weight_hh_l0, weight)
    assert torch.equal(layer(x)[0], before)


def test_the_sizes_of_areas():
    connected = torch.tensor([[1.0, 0.0], [0.5, 1.0]])
    generator = torch.Generator().manual_seed(0)
    layer = constraints.areas(constraints.balance_(GammaRNN(3, 100)), (60, 40), connected, generator=generator)
    weight = layer.weight_hh_l0.detach()
    density = (weight != 0).double()
    assert density[:60, :60].mean() == 1
    assert density[:60, 60:].mean() == 0
    assert 0.45 < density[60:, :60].mean() < 0.55
    assert density[60:, 60:].mean() == 1


def test_cells_and_input_weights():
    cell = constraints.dale(ARUNCell(4, H), 1.0, "weight_ih")
    assert (cell.weight_ih >= 0).all()
    assert not parametrize.is_parametrized(cell, "weight_hh")
    cell = constraints.mask(cell, torch.eye(H), "weight_hh")
    h, _ = cell(torch.randn(3, 4))
    assert h.shape == (3, H)
    assert torch.equal(cell.weight_hh, torch.diag(cell.weight_hh.diagonal()))


@pytest.mark.parametrize(
    ("call", "kind", "sentence"),
    [
        (lambda layer: constraints.dale(layer, 1.5), ValueError, r"^excitatory is 1\.5, expected a finite number"),
        (lambda layer: constraints.dale(layer, "half"), TypeError, r"^excitatory must be a number or a torch\.Tensor"),
        (lambda layer: constraints.dale(layer, torch.ones(3)), ValueError, r"^excitatory has shape \(3,\), expected"),
        (lambda layer: constraints.dale(layer, torch.zeros(H)), ValueError, r"^excitatory has values other than 1"),
        (lambda layer: constraints.dale(layer, name="weight"), ValueError, r"^name is 'weight', expected one of weig"),
        (lambda layer: constraints.dale(nn.Linear(2, 2)), ValueError, r"^Linear has no weight whose name begins with"),
        (lambda layer: constraints.dale(3), TypeError, r"^module must be a torch\.nn\.Module, got int"),
        (lambda layer: constraints.mask(layer, torch.ones(2, 2)), ValueError, r"^mask has shape \(2, 2\), expected"),
        (lambda layer: constraints.mask(layer, [[1]]), TypeError, r"^mask must be a torch\.Tensor, got list"),
        (lambda layer: constraints.sparse(layer, 0), ValueError, r"^density is 0, expected a number above 0"),
        (lambda layer: constraints.sparse(layer, 2.0), ValueError, r"^density is 2\.0, expected"),
        (lambda layer: constraints.areas(layer, (3,), ((1.0,),)), ValueError, r"^sizes sum to 3, expected the 20"),
        (lambda layer: constraints.areas(layer, (20,), ((2.0,),)), ValueError, r"^connected has values from 2 to 2"),
        (lambda layer: constraints.areas(layer, (20,), ((1.0, 1.0),)), ValueError, r"^connected has shape \(1, 2\)"),
        (lambda layer: constraints.areas(layer, (0, 20), torch.ones(2, 2)), ValueError, r"^sizes is 0, expected"),
        (lambda layer: constraints.no_self_connections(layer, "weight_ih_l0"), ValueError, r"^weight_ih_l0 has shape"),
        (lambda layer: constraints.balance_(layer, spectral_radius=0), ValueError, r"^spectral_radius is 0"),
    ],
)
def test_wrong_arguments(call: Callable[[nn.Module], nn.Module], kind: type[Exception], sentence: str):
    layer = GammaRNN(3, H)
    with pytest.raises(kind, match=sentence):
        call(layer)
    assert not parametrize.is_parametrized(layer)


def test_balance_of_masks_only():
    """Their weights have both signs."""
    layer = constraints.balance_(constraints.sparse(GammaRNN(3, H), 0.5))
    weight = layer.weight_hh_l0
    assert weight.min() < 0 < weight.max()
    assert (weight.count_nonzero(1) == H // 2).all()


def test_a_matrix_without_eigenvalues_cannot_be_balanced():
    layer = constraints.mask(GammaRNN(3, H), torch.ones(H, H).triu(1))
    with pytest.raises(ValueError, match=r"^weight_hh_l0 has no eigenvalue other than 0 under its constraints"):
        constraints.balance_(layer)
