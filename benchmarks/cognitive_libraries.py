"""How long an update takes in libraries for recurrent networks of neuroscience: the table of docs/cognitive-tasks.md.

python -m benchmarks.cognitive_libraries [--updates 10] [--turns 15]

The trials are those of docs/results/networks/decision. Every network has H neurons of which 80% excite, is read out
linearly at every step, and learns by Adam on all steps. Each library runs its own loop over the steps, and all take
turns. What counts is the time of the process, on one thread. Libraries that are not installed are left out, with a line
that says so; pip install nn4n, pip install neurotorch.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from aru_lab.experiments.kept import read_trials
from aru_lab.experiments.scales import NETWORKS
from aru_lab.networks.classifier import build_classifier, constrain

H, B, EXCITATORY, CHOICES = 64, 50, 0.8, 3
DT, TAU = 50.0, 100.0  # ms
FOLDER = Path(__file__).resolve().parents[1] / "docs" / "results" / "networks" / "decision" / "perceptual-decision"

# the logits (B, T, choices) of inputs (B, T, I), and the parameters
Network = tuple[Callable[[Tensor], Tensor], list[nn.Parameter]]


def of_this_package(model: str, leak: float | None) -> Callable[[int], Network]:
    """A network of the laboratory."""

    def make(inputs: int) -> Network:
        network = build_classifier(model, H, 16, inputs, CHOICES, leak=leak)
        constrain(network, EXCITATORY, 0.0)
        return lambda x: network(x, every_step=True), list(network.parameters())

    return make


def of_nn4n(inputs: int) -> Network:
    """The continuous-time RNN of nn4n: ReLU, with masks of excitation and inhibition."""
    from nn4n.model import CTRNN

    signs = torch.ones(H, H)
    signs[round(EXCITATORY * H) :] = -1  # of the neurons that send
    network = CTRNN(
        dims=[inputs, H, CHOICES], ei_masks=[None, signs, None], biases="zero", activation="relu", dt=DT, tau=TAU
    )
    return lambda x: network(x.transpose(0, 1))[0].transpose(0, 1), [p for p in network.parameters() if p.requires_grad]


def of_neurotorch(inputs: int) -> Network:
    """A Wilson-Cowan layer of NeuroTorch under Dale's law, and its leaky read-out."""
    import neurotorch as nt
    from neurotorch.modules.layers import LILayer, WilsonCowanLayer

    signs = torch.ones(H, 1)
    signs[round(EXCITATORY * H) :] = -1
    hidden = WilsonCowanLayer(
        inputs,
        H,
        dt=DT / 1000,
        tau=TAU / 1000,
        use_recurrent_connection=True,
        hh_init="zeros",
        force_dale_law=True,
        recurrent_sign=signs,
    )
    network = nt.SequentialRNN(layers=[hidden, LILayer(H, CHOICES, dt=DT / 1000)], device=torch.device("cpu")).build()

    def logits(x: Tensor) -> Tensor:
        outputs, _ = network(x)
        return next(iter(outputs.values())) if isinstance(outputs, dict) else outputs

    return logits, list(network.parameters())


LIBRARIES: dict[str, Callable[[int], Network]] = {
    "aru_lab, ARUN (G = 16)": of_this_package("arun", DT / TAU),
    "aru_lab, RNN+γ het.": of_this_package("gamma-heterogeneous", DT / TAU),
    "aru_lab, RNN+ReLU (no leak)": of_this_package("relu", None),
    "nn4n, CTRNN": of_nn4n,
    "NeuroTorch, Wilson-Cowan": of_neurotorch,
}


def trainer(network: Network, x: Tensor, y: Tensor) -> Callable[[], float]:
    """A function that makes one update on the next batch and gives its loss."""
    logits, parameters = network
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    batches = itertools.count()

    def update() -> float:
        index = (next(batches) * B + torch.arange(B)) % len(x)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(logits(x[index]).flatten(0, 1), y[index].flatten())
        loss.backward()
        optimizer.step()
        return loss.item()

    return update


def main(arguments: list[str] | None = None) -> int:
    """Time all libraries and print milliseconds of an update: the best and the median of the turns."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--updates", type=int, default=10, help="updates in a turn")
    parser.add_argument("--turns", type=int, default=15, help="turns of each library")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    trials, _ = read_trials(FOLDER, NETWORKS["decision"][0].training.task)
    x, y = torch.from_numpy(trials.x), torch.from_numpy(trials.y)
    updates: dict[str, Callable[[], float]] = {}
    first: dict[str, float] = {}
    for name, make in LIBRARIES.items():
        torch.manual_seed(0)
        try:
            network = make(x.shape[2])
        except ImportError as error:
            print(f"{name}: left out, {error}", file=sys.stderr)
            continue
        updates[name] = trainer(network, x, y)
        first[name] = updates[name]()
    seconds: dict[str, list[float]] = {name: [] for name in updates}
    last: dict[str, float] = {}
    for _ in range(options.turns):
        for name, update in updates.items():
            start = time.process_time()
            for _ in range(options.updates):
                last[name] = update()
            seconds[name].append((time.process_time() - start) / options.updates)
    print(f"H = {H}, B = {B}, T = {x.shape[1]}, {options.turns} turns of {options.updates} updates, one thread")
    for name, times in seconds.items():
        best, median = 1e3 * min(times), 1e3 * sorted(times)[len(times) // 2]
        print(f"{name}: best {best:.1f} ms, median {median:.1f} ms; loss {first[name]:.3f} -> {last[name]:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
