"""What a user would otherwise run: the same network by other means, and other networks of the same size.

Every peer of the first kind takes its weights from the layer under test and is checked equal before it is timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import aru_kernels
from aru_kernels import reference
from aru_kernels._arguments import Controller


class AuthorsNetwork(nn.Module):
    """The algorithm as the paper's authors wrote it: a Python loop over linear modules, one call a map and a step."""

    def __init__(self, layer: aru_kernels.ARUN) -> None:
        super().__init__()
        H, G, I = layer.hidden_size, layer.controller_size, layer.input_size  # noqa: E741
        device = layer.weight_hh_l0.device
        maps = {"Uxh": (I, H), "Whh": (H, H), "Uag": (1, G), "Wgg": (G, G), "Wgn": (G, 1), "Wgs": (G, 1)}
        for name, (inputs, outputs) in maps.items():
            self.add_module(name, nn.Linear(inputs, outputs, device=device))
        with torch.no_grad():
            self.Uxh.weight.copy_(layer.weight_ih_l0)
            self.Uxh.bias.copy_(layer.bias_l0)
            self.Whh.weight.copy_(layer.weight_hh_l0)
            self.Whh.bias.zero_()
            self.Uag.weight.copy_(layer.weight_ag_l0[:, None])
            self.Uag.bias.copy_(layer.bias_g_l0)
            self.Wgg.weight.copy_(layer.weight_gg_l0)
            self.Wgg.bias.zero_()
            for index, read_out in enumerate((self.Wgn, self.Wgs)):
                read_out.weight.copy_(layer.weight_gc_l0[index : index + 1])
                read_out.bias.copy_(layer.bias_c_l0[index : index + 1])
        self.sizes = H, G

    def forward(self, x: Tensor) -> Tensor:
        """x (T, B, I) -> h (T, B, H)."""
        H, G = self.sizes
        h, g = x.new_zeros(x.shape[1], H), x.new_zeros(x.shape[1], H, G)
        outputs = []
        for x_t in x:
            a = self.Uxh(x_t) + self.Whh(h)
            g = torch.tanh(self.Uag(a.unsqueeze(-1)) + self.Wgg(g))
            n, s = self.Wgn(g).squeeze(-1), self.Wgs(g).squeeze(-1)
            z = n * a
            h = (1 - s) * F.softplus(z) / n + s * torch.sigmoid(z)
            outputs.append(h)
        return torch.stack(outputs)


def step(a: Tensor, h: Tensor, g: Tensor, weight_hh: Tensor, *controller: Tensor) -> tuple[Tensor, Tensor]:
    a = a + h @ weight_hh.T
    n, s, g = reference.controller_step(a, g, *controller)
    return reference.gamma(a, n, s, 1e-3), g


class SteppedNetwork(nn.Module):
    """A Python loop over a step function, such as a compiled one; the layer's own parameters."""

    def __init__(self, layer: aru_kernels.ARUN, step: Callable[..., tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.layer, self.step = layer, step

    def forward(self, x: Tensor) -> Tensor:
        """x (T, B, I) -> h (T, B, H)."""
        layer = self.layer
        controller = [getattr(layer, f"{name}_l0") for name in Controller._fields]
        xp = F.linear(x, layer.weight_ih_l0, layer.bias_l0)
        h = x.new_zeros(x.shape[1], layer.hidden_size)
        g = x.new_zeros(*h.shape, layer.controller_size)
        outputs = []
        for xp_t in xp.unbind(0):
            h, g = self.step(xp_t, h, g, layer.weight_hh_l0, *controller)
            outputs.append(h)
        return torch.stack(outputs)


def compiled_step(layer: aru_kernels.ARUN, x: Tensor, backward: bool) -> tuple[SteppedNetwork, float]:
    """torch.compile of the step, in a loop over time, and the seconds that compiling took."""
    torch._dynamo.reset()
    network = SteppedNetwork(layer, torch.compile(step, fullgraph=True))
    start = time.perf_counter()
    # the first step has states without gradient, the later ones have not: three steps compile all there is
    with torch.set_grad_enabled(backward):
        output = network(x[:3])
        if backward:
            output.sum().backward()
    return network, time.perf_counter() - start


class GraphedWork:
    """`work`, such as an eager pass over a sequence, as a CUDA graph, recorded at the first call: no launch costs."""

    def __init__(self, work: Callable[[], list[Tensor]]) -> None:
        self.work, self.graph = work, None

    def __call__(self) -> list[Tensor]:
        """Replays the graph; its results are overwritten by the next call."""
        if self.graph is None:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                self.work()
            torch.cuda.current_stream().wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.results = self.work()
        self.graph.replay()
        return self.results


def other_networks(layer: nn.Module, input_size: int, device: torch.device) -> dict[str, nn.Module]:
    """torch's own networks at the layer's H, and at its number of parameters: not the same function."""
    from aru_lab.networks.classifier import count_parameters, match_hidden_size  # needs what the laboratory needs

    H, parameters = layer.hidden_size, count_parameters(layer)
    # match_hidden_size counts a read-out too: one class keeps it small on both sides
    networks: dict[str, nn.Module] = {}
    for name, kind in (("relu", nn.RNN), ("lstm", nn.LSTM), ("gru", nn.GRU)):
        options = {"nonlinearity": "relu"} if name == "relu" else {}
        equal = match_hidden_size(name, parameters + H + 1, input_size=input_size, n_classes=1, tolerance=0.1)
        label = {"relu": "nn.RNN(relu)", "lstm": "nn.LSTM", "gru": "nn.GRU"}[name]
        networks[f"{label}, equal H"] = kind(input_size, H, device=device, **options)
        networks[f"{label}, equal parameters"] = kind(input_size, equal, device=device, **options)
    return networks
