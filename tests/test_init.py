"""Initialisations: exact properties of the orthogonal one, statistics of the others."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch

from aru_kernels import ARUN, ARUNCell, GammaRNN, GammaRNNCell, init
from support.tolerances import assert_close

DOUBLE = torch.float64


@pytest.mark.parametrize("size", [1, 2, 3, 10, 33])
def test_henaff_is_the_exponential_of_a_skew_symmetric_matrix(size):
    w = torch.empty(size, size, dtype=DOUBLE)
    assert init.henaff_orthogonal_(w) is w
    assert_close("W W^T", w @ w.T, torch.eye(size, dtype=DOUBLE), "element")
    skew = torch.zeros_like(w)
    for k in range(0, size - 1, 2):
        theta = torch.atan2(w[k, k + 1], w[k, k])
        assert -math.pi <= theta <= 0
        skew[k, k + 1], skew[k + 1, k] = theta, -theta
    assert_close("exp", w, torch.matrix_exp(skew), "sequence")


def test_henaff_angles_are_uniform_and_come_from_the_generator():
    w = init.henaff_orthogonal_(torch.empty(2000, 2000), torch.Generator().manual_seed(3))
    again = init.henaff_orthogonal_(torch.empty(2000, 2000), torch.Generator().manual_seed(3))
    assert torch.equal(w, again)
    theta = (torch.atan2(w.diagonal(1)[::2], w.diagonal()[::2]).double() / -math.pi).sort().values
    uniform = torch.linspace(0, 1, 1000, dtype=DOUBLE)
    assert (theta - uniform).abs().max() < 0.06  # Kolmogorov-Smirnov: exceeded by chance once in 1000
    assert theta[0] < 0.01
    assert theta[-1] > 0.99


def test_henaff_takes_narrow_dtypes():
    w = init.henaff_orthogonal_(torch.empty(6, 6, dtype=torch.bfloat16))
    assert_close("W W^T", (w @ w.T).float(), torch.eye(6), "element", torch.bfloat16)


def sample_std(values: torch.Tensor, expected: float) -> None:
    """Within five standard errors of a normal sample's deviation."""
    assert abs(values.std().item() / expected - 1) < 5 / math.sqrt(2 * values.numel())
    assert abs(values.mean().item()) < 5 * expected / math.sqrt(values.numel())


def test_adaptive_layer():
    """docs/maths.md, section 3."""
    layers = [ARUN(30, 40, controller_size=50) for _ in range(100)]

    def gather(name: str) -> torch.Tensor:
        return torch.stack([layer.get_parameter(name).detach() for layer in layers])

    sample_std(gather("weight_ih_l0"), math.sqrt(2 / 30))  # Kaiming, fan-in I
    sample_std(gather("weight_ag_l0"), math.sqrt(2))  # Kaiming of (G, 1): fan-in 1
    sample_std(gather("weight_gc_l0")[:, 0], 0.1 * math.sqrt(2 / 51))  # Xavier of (1, G)
    sample_std(gather("weight_gc_l0")[:, 1], 0.01 * math.sqrt(2 / 51))
    for name in ("weight_hh_l0", "weight_gg_l0"):
        for w in gather(name):
            assert_close(name, w @ w.T, torch.eye(len(w)), "element")
    assert not gather("bias_l0").any()
    assert not gather("bias_g_l0").any()
    gains, saturations = gather("bias_c_l0").unbind(1)
    assert not saturations.any()
    assert gains.min() >= 5
    assert gains.max() < 7
    assert gains.max() - gains.min() > 1.5


@pytest.mark.parametrize("make", [lambda: GammaRNN(3, 4000), lambda: GammaRNNCell(3, 4000)])
def test_static_layer(make):
    """docs/maths.md, section 2."""
    state = make().state_dict()
    gain = next(value for name, value in state.items() if name.startswith("gain"))
    sample_std(gain - 5, 2.0)
    assert not next(value for name, value in state.items() if name.startswith("saturation")).any()


def test_reset_parameters_draws_anew_and_the_seed_decides():
    layer = ARUN(3, 5, controller_size=4, num_layers=2)
    before = {name: p.detach().clone() for name, p in layer.named_parameters()}
    torch.manual_seed(1)
    layer.reset_parameters()
    drawn = ("weight_ih", "weight_hh", "weight_ag", "weight_gg", "weight_gc", "bias_c")
    for name, p in layer.named_parameters():
        assert torch.equal(p, before[name]) != name.startswith(drawn), name
    torch.manual_seed(1)
    again = ARUN(3, 5, controller_size=4, num_layers=2)
    assert not torch.equal(again.weight_hh_l0, again.weight_hh_l1)
    assert all(torch.equal(a, b) for a, b in zip(layer.parameters(), again.parameters(), strict=True))


RECURRENT = {
    "ARUN": lambda **options: ARUN(7, 400, 2, bidirectional=True, **options),
    "GammaRNN": lambda **options: GammaRNN(7, 400, **options),
    "ARUNCell": lambda **options: ARUNCell(7, 400, **options),
    "GammaRNNCell": lambda **options: GammaRNNCell(7, 400, **options),
}
MAIN = ("weight_ih", "weight_hh", "bias")


def is_main(name: str) -> bool:
    return name.startswith(MAIN) and not name.startswith(("bias_g", "bias_c"))


@pytest.mark.parametrize("make", RECURRENT.values(), ids=RECURRENT)
def test_uniform_draws_the_main_network_as_torch_does(make):
    """torch.nn.RNN: U(-1/sqrt(H), 1/sqrt(H)); the activation's parameters stay the paper's."""
    torch.manual_seed(0)
    layer, bound = make(init="uniform"), 400**-0.5
    found = 0
    for name, p in layer.named_parameters():
        p = p.detach()
        if is_main(name):
            found += 1
            assert p.abs().max() <= bound, name
            sample_std(p, bound / math.sqrt(3))
        elif name.startswith(("weight_gg", "gain", "saturation", "bias_g")):
            if name.startswith("weight_gg"):
                assert_close(name, p @ p.T, torch.eye(len(p)), "element")
            elif name.startswith("gain"):
                sample_std(p - 5, 2.0)
            else:
                assert not p.any(), name
    assert found == (12 if isinstance(layer, ARUN) else 3)


@pytest.mark.parametrize("make", RECURRENT.values(), ids=RECURRENT)
def test_paper_is_the_default_and_the_choice_outlives_a_reset(make):
    torch.manual_seed(0)
    default = make()
    torch.manual_seed(0)
    named = make(init="paper")
    assert all(torch.equal(a, b) for a, b in zip(default.parameters(), named.parameters(), strict=True))
    assert "init" not in repr(default)
    uniform = make(init="uniform")
    assert "init='uniform'" in repr(uniform)
    for layer in (uniform, copy.deepcopy(uniform), pickle.loads(pickle.dumps(uniform))):
        layer.reset_parameters()
        assert all(p.abs().max() <= 400**-0.5 for name, p in layer.named_parameters() if is_main(name))
    old = make()
    del old.init  # as layers were pickled that did not know it
    old.reset_parameters()
    assert not any(p.any() for name, p in old.named_parameters() if name.startswith("bias") and is_main(name))


def test_uniform_without_bias():
    for layer in (ARUN(3, 8, bias=False, init="uniform"), GammaRNNCell(3, 8, bias=False, init="uniform")):
        assert not any(name.startswith("bias") and is_main(name) for name, _ in layer.named_parameters())


@pytest.mark.parametrize("make", RECURRENT.values(), ids=RECURRENT)
def test_unknown_initialisations(make):
    with pytest.raises(ValueError, match=r"init is 'kaiming', expected 'paper' or 'uniform'\."):
        make(init="kaiming")
    with pytest.raises(TypeError, match=r"init must be a string, got None of type NoneType\."):
        make(init=None)
