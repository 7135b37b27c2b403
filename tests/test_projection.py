"""The input projection of a layer with one input, against torch.nn.functional.linear."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from aru_kernels._projection import OuterProduct, project


@pytest.fixture
def operands() -> list[torch.Tensor]:
    shapes = (5, 3, 1), (4, 1), (4,)
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"))],
)
def test_the_outer_product_is_the_linear_map(operands, device):
    operands = [x.detach().to(device).requires_grad_() for x in operands]
    results = [function(*operands) for function in (OuterProduct.apply, F.linear)]
    torch.testing.assert_close(*results)
    weights = torch.randn_like(results[0])
    gradients = [torch.autograd.grad(result, operands, weights) for result in results]
    torch.testing.assert_close(*gradients)


def test_without_a_bias(operands):
    x, weight, _ = operands
    results = [function(x, weight, None) for function in (OuterProduct.apply, F.linear)]
    torch.testing.assert_close(*results)
    weights = torch.randn_like(results[0])
    torch.testing.assert_close(*[torch.autograd.grad(result, [x, weight], weights) for result in results])
    many = torch.func.vmap(OuterProduct.apply, (0, None, None))(x, weight, None)
    torch.testing.assert_close(many, results[1])


def test_its_derivatives(operands):
    assert torch.autograd.gradcheck(OuterProduct.apply, operands)
    assert torch.autograd.gradgradcheck(OuterProduct.apply, operands)


def test_only_what_is_asked_for_is_computed(operands):
    x, weight, bias = operands
    (d_weight,) = torch.autograd.grad(OuterProduct.apply(x.detach(), weight, bias.detach()).sum(), [weight])
    torch.testing.assert_close(d_weight, x.sum().expand(4, 1))


def test_function_transforms(operands):
    x, weight, bias = operands
    many = torch.func.vmap(OuterProduct.apply, (0, None, None))(x, weight, bias)
    torch.testing.assert_close(many, F.linear(x, weight, bias))
    jacobian = torch.func.jacrev(OuterProduct.apply, 1)(x, weight, bias)
    torch.testing.assert_close(jacobian, torch.func.jacrev(F.linear, 1)(x, weight, bias))


def test_a_sequence_of_no_steps(operands):
    _, weight, bias = operands
    gradients = torch.autograd.grad(
        OuterProduct.apply(torch.zeros(0, 3, 1).double(), weight, bias).sum(), [weight, bias]
    )
    assert all((gradient == 0).all() for gradient in gradients)


def test_on_a_cpu_and_for_several_inputs_it_is_torch_s(operands):
    x, weight, bias = operands
    assert torch.equal(project(x, weight, bias), F.linear(x, weight, bias))
