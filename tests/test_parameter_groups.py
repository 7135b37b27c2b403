"""Parameter groups: every parameter once, rates by fan-in, under everything that wraps a model."""

from __future__ import annotations

import copy
import doctest
import functools
import sys

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import aru_kernels
from aru_kernels import ARUN, AdaptiveGamma, ARUNCell, Gamma, GammaRNN, GammaRNNCell, parameter_groups

LR = 1e-2
I, H, G = 3, 32, 16  # noqa: E741
READ_OUT = {"weight_gc": 0.1 / G, "bias_c": 0.1}
CONTROLLER = {"weight_ag": 1, "weight_gg": 4 / G, "bias_g": 1} | READ_OUT
GAMMA = {"gain": 1, "saturation": 0.1}
MAIN = {"weight_ih": 1, "weight_hh": 4 / H, "bias": 1}
NO_DECAY = ("bias", "gain", "saturation")


def suffixed(factors: dict[str, float], suffix: str) -> dict[str, float]:
    return {name + suffix: factor for name, factor in factors.items()}


MODULES = {
    "ARUN": (lambda: ARUN(I, H, controller_size=G), suffixed(MAIN | CONTROLLER, "_l0")),
    "ARUNCell": (lambda: ARUNCell(I, H, controller_size=G), MAIN | CONTROLLER),
    "GammaRNN": (lambda: GammaRNN(I, H), suffixed(MAIN | GAMMA, "_l0")),
    "GammaRNNCell": (lambda: GammaRNNCell(I, H), MAIN | GAMMA),
    "AdaptiveGamma": (lambda: AdaptiveGamma(G), CONTROLLER),
    "Gamma": (lambda: Gamma(H), GAMMA),
    "many inputs": (lambda: GammaRNN(H, 2, bias=False), suffixed({"weight_ih": 4 / H, "weight_hh": 1} | GAMMA, "_l0")),
    "a cell without bias": (lambda: ARUNCell(I, H, False, controller_size=2), {
        "weight_ih": 1, "weight_hh": 4 / H,
        "weight_ag": 1, "weight_gg": 1, "bias_g": 1, "weight_gc": 0.05, "bias_c": 0.1,
    }),
    "layers and directions": (
        lambda: ARUN(I, H, 2, bidirectional=True, controller_size=G),
        {
            name: factor
            for suffix in ("_l0", "_l0_reverse", "_l1", "_l1_reverse")
            for name, factor in suffixed(
                MAIN | CONTROLLER | ({"weight_ih": 4 / (2 * H)} if "_l1" in suffix else {}), suffix
            ).items()
        },
    ),
}  # fmt: skip


def rates(module: nn.Module, groups: list[dict]) -> dict[str, float]:
    """The rate of every parameter by name; each has to be in one group."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    found = [(names[parameter], group["lr"]) for group in groups for parameter in group["params"]]
    assert len(found) == len(dict(found)), "a parameter is in two groups"
    return dict(found)


@pytest.mark.parametrize("name", MODULES)
def test_rates_of_every_parameter(name):
    make, factors = MODULES[name]
    module = make()
    assert set(factors) == set(dict(module.named_parameters()))
    assert rates(module, parameter_groups(module, LR)) == pytest.approx({n: LR * f for n, f in factors.items()})


def test_other_modules_learn_at_the_rate_given():
    model = nn.ModuleDict({"lstm": nn.LSTM(I, H), "rnn": ARUN(H, H), "act": Gamma(), "out": nn.Linear(H, 100)})
    model["scale"] = nn.ParameterList([nn.Parameter(torch.ones(2, 50))])
    groups = parameter_groups(model, lr=LR)
    found = rates(model, groups)
    assert set(found) == set(dict(model.named_parameters()))
    assert {rate for name, rate in found.items() if not name.startswith(("rnn", "act"))} == {LR}
    assert found["rnn.weight_hh_l0"] == LR * 4 / H
    names = [group["name"] for group in groups]
    assert names == ["lr", "lr, no decay", "lr * 0.25", "lr * 0.125", "lr * 0.1, no decay", "lr * 0.00625"]


def test_frozen_parameters_are_left_out_and_shared_ones_take_the_lowest_rate():
    model = nn.ModuleDict({"small": GammaRNN(H, 8), "large": GammaRNN(H, H), "out": nn.Linear(H, H, bias=False)})
    model["out"].weight = model["large"].weight_hh_l0
    model["small"].weight_ih_l0 = model["large"].weight_ih_l0 = nn.Parameter(torch.randn(H, H))
    model["small"].gain_l0.requires_grad_(False)
    found = rates(model, parameter_groups(model, LR))
    assert set(dict(model.named_parameters())) - set(found) == {"small.gain_l0"}
    assert found["large.weight_hh_l0"] == LR * 4 / H
    assert found["small.weight_hh_l0"] == LR * 4 / 8
    other_way_round = nn.ModuleList([model["out"], model["large"]])
    assert rates(other_way_round, parameter_groups(other_way_round, LR))["0.weight"] == LR * 4 / H


def test_weight_decay_spares_gains_and_biases_of_our_modules():
    model = nn.ModuleList([ARUN(I, H), GammaRNN(I, H), GammaRNNCell(I, H), Gamma(H), AdaptiveGamma(), nn.Linear(H, 2)])
    names = {parameter: name for name, parameter in model.named_parameters()}
    for decay, expected in ((0.1, 0.1), (0, 0), (None, 0.01)):  # 0.01: AdamW's own
        optimizer = torch.optim.AdamW(parameter_groups(model, LR, weight_decay=decay))
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                last = names[parameter].split(".")[1]
                spared = last.startswith(NO_DECAY) and not names[parameter].startswith("5")
                assert group["weight_decay"] == (0 if spared else expected), names[parameter]


WRAPPERS = {
    "compiled": functools.partial(torch.compile, backend="eager"),
    "copied": copy.deepcopy,
    "in a sequence": nn.Sequential,
    "traced by torch.fx": lambda module: torch.fx.symbolic_trace(nn.Sequential(module)),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_wrapped_modules(wrap):
    wrapped = wrap(ARUN(I, H, controller_size=G))
    expected = {"weight_hh_l0": 4 / H, "weight_gg_l0": 4 / G, "weight_gc_l0": 0.1 / G, "bias_c_l0": 0.1}
    for parameter, rate in rates(wrapped, parameter_groups(wrapped, LR)).items():
        assert rate == pytest.approx(LR * expected.get(parameter.split(".")[-1], 1)), parameter


def test_distributed_data_parallel(tmp_path):
    distributed = torch.distributed
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(ARUN(I, H, controller_size=G))
        assert rates(wrapped, parameter_groups(wrapped, LR))["module.weight_hh_l0"] == LR * 4 / H
    finally:
        distributed.destroy_process_group()


class Skew(nn.Module):
    def forward(self, x):
        return x.triu(1) - x.triu(1).T


def test_parametrizations_take_the_rate_of_the_tensor_that_they_make():
    rnn = ARUN(I, H, controller_size=G)
    parametrize.register_parametrization(rnn, "weight_gg_l0", Skew())
    parametrizations.weight_norm(rnn, "weight_hh_l0")  # two originals
    prune.random_unstructured(rnn, "weight_gc_l0", amount=0.1)
    found = rates(rnn, parameter_groups(rnn, LR))
    assert set(found) == set(dict(rnn.named_parameters()))
    assert found["parametrizations.weight_gg_l0.original"] == LR * 4 / G
    assert found["parametrizations.weight_hh_l0.original0"] == LR * 4 / H
    assert found["parametrizations.weight_hh_l0.original1"] == LR * 4 / H
    assert found["weight_gc_l0_orig"] == pytest.approx(LR * 0.1 / G)
    assert found["bias_g_l0"] == LR
    cell = ARUNCell(I, H, controller_size=G)  # where bias_g is not the magnitude of a normalised bias
    assert rates(cell, parameter_groups(cell, LR, weight_decay=1))["bias_g"] == LR


def test_parametrization_with_a_state_is_not_evaluated():
    rnn = parametrizations.spectral_norm(GammaRNN(I, H), "weight_hh_l0")
    before = {name: buffer.clone() for name, buffer in rnn.named_buffers()}
    parameter_groups(rnn, LR)
    assert before
    assert all(torch.equal(buffer, before[name]) for name, buffer in rnn.named_buffers())


@pytest.mark.parametrize(
    "make",
    [
        lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.5),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 4),
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
        lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=0),
    ],
    ids=["StepLR", "CosineAnnealingLR", "LambdaLR", "ReduceLROnPlateau"],
)
def test_schedulers_keep_the_ratios(make):
    model = nn.Sequential(ARUN(I, H), nn.Linear(H, 2))
    optimizer = torch.optim.Adam(parameter_groups(model, LR))
    before = [group["lr"] for group in optimizer.param_groups]
    scheduler = make(optimizer)
    for _ in range(2):
        optimizer.step()
        scheduler.step(*([1.0] if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau) else []))
    ratios = [group["lr"] / rate for group, rate in zip(optimizer.param_groups, before, strict=True)]
    assert ratios[0] < 1
    assert ratios == pytest.approx([ratios[0]] * len(ratios))


def test_one_cycle_takes_the_rates_as_a_list():
    optimizer = torch.optim.Adam(groups := parameter_groups(ARUN(I, H), LR))
    rates_before = [group["lr"] for group in groups]
    torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rates_before, total_steps=10, div_factor=10)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([rate / 10 for rate in rates_before])


@pytest.mark.parametrize("name", ["Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "Adagrad", "SGD", "Rprop", "Adamax"])
def test_optimizers_train_with_the_groups(name):
    rnn = ARUN(I, H, controller_size=G)
    optimizer = getattr(torch.optim, name)(parameter_groups(rnn, LR, weight_decay=0.1))
    before = copy.deepcopy(rnn.state_dict())
    rnn(torch.randn(5, 2, I))[0].square().sum().backward()
    optimizer.step()
    assert all(not torch.equal(value, before[key]) for key, value in rnn.state_dict().items())
    fresh = getattr(torch.optim, name)(parameter_groups(rnn, LR / 2))
    fresh.load_state_dict(optimizer.state_dict())
    assert [group["lr"] for group in fresh.param_groups] == [group["lr"] for group in optimizer.param_groups]


def test_learning_rate_as_a_tensor():
    groups = parameter_groups(ARUN(I, H), torch.tensor(LR))
    assert all(isinstance(group["lr"], torch.Tensor) for group in groups)
    assert len({id(group["lr"]) for group in groups}) == len(groups)
    assert groups[0]["lr"].item() == pytest.approx(LR)


def test_bad_arguments():
    rnn = ARUN(I, H)
    with pytest.raises(TypeError, match=r"module must be a torch.nn.Module, got list\."):
        parameter_groups(list(rnn.parameters()), LR)
    with pytest.raises(TypeError, match=r"lr must be a number or a torch.Tensor, got '1e-3' of type str"):
        parameter_groups(rnn, "1e-3")
    with pytest.raises(TypeError, match=r"lr must be a number or a torch.Tensor, got True"):
        parameter_groups(rnn, True)
    with pytest.raises(ValueError, match="lr is -1, expected a finite number of at least 0"):
        parameter_groups(rnn, -1)
    with pytest.raises(ValueError, match="lr is nan, expected a finite number"):
        parameter_groups(rnn, torch.tensor(float("nan")))
    with pytest.raises(ValueError, match=r"lr has shape \(2,\), expected a number or a tensor of one element"):
        parameter_groups(rnn, torch.ones(2))
    with pytest.raises(TypeError, match="weight_decay must be a number, got '0'"):
        parameter_groups(rnn, LR, weight_decay="0")
    with pytest.raises(ValueError, match=r"weight_decay is -0\.1, expected a finite number of at least 0"):
        parameter_groups(rnn, LR, weight_decay=-0.1)
    with pytest.raises(ValueError, match=r"module has no parameter that requires a gradient, got ARUN\."):
        parameter_groups(rnn.requires_grad_(False), LR)
    with pytest.raises(ValueError, match="module has no parameter"):
        parameter_groups(nn.Tanh(), LR)


def test_the_example_runs():
    module = sys.modules["aru_kernels.parameter_groups"]
    assert aru_kernels.parameter_groups is module.parameter_groups
    torch.manual_seed(0)
    results = doctest.testmod(module)
    assert results.failed == 0
    assert results.attempted >= 4
