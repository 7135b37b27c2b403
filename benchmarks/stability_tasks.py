"""Small sequence tasks for `benchmarks.stability`, most of them from the wheels of aeon, neurogym and statsmodels."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Sampler = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]


@dataclass
class Task:
    """Sequences x of shape (T, B, I) and their targets.

    kind: "class", with targets (B,) for the last step; "steps", with targets (T, B), where a target above 0 is a
    decision; "forecast", with real targets (B, 1) for the last step.
    """

    name: str
    kind: Literal["class", "steps", "forecast"]
    outputs: int
    batch: Sampler
    test: tuple[Tensor, Tensor]

    @property
    def steps(self) -> int:
        return self.test[0].shape[0]

    @property
    def inputs(self) -> int:
        return self.test[0].shape[2]


def _sampler(x: Tensor, target: Tensor, kind: str) -> Sampler:
    """Draws sequences with replacement."""

    def batch(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(x.shape[1], (size,), generator=generator)
        return x[:, chosen], target[:, chosen] if kind == "steps" else target[chosen]

    return batch


def evidence(steps: int) -> Task:
    """Which of two noisy channels has the larger mean during the first four fifths; decided at the last step."""

    def batch(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        target = torch.randint(2, (size,), generator=generator)
        x = torch.randn(steps, size, 2, generator=generator)
        x[:, torch.arange(size), target] += 0.5
        x[steps * 4 // 5 :] = 0
        return x, target

    return Task(f"evidence ({steps} steps)", "class", 2, batch, batch(500, torch.Generator().manual_seed(12345)))


def classification(name: str) -> Task:
    """A set of aeon; shorter sequences are padded with zeros in front."""
    from aeon.datasets import load_classification

    parts = []
    for split in ("train", "test"):
        series, labels = load_classification(name, split=split)
        longest = max(max(s.shape[1] for s in series), parts[0][0].shape[0] if parts else 0)
        x = torch.zeros(longest, len(series), series[0].shape[0])
        for k, one in enumerate(series):
            x[-one.shape[1] :, k] = torch.from_numpy(np.asarray(one, dtype=np.float32).T)
        parts.append((x, labels))
    (x, labels), (x_test, labels_test) = parts
    mean, deviation = x.mean((0, 1)), x.std((0, 1))
    classes, target = np.unique(labels, return_inverse=True)
    target_test = torch.from_numpy(np.searchsorted(classes, labels_test))
    train = _sampler((x - mean) / deviation, torch.from_numpy(target), "class")
    return Task(name, "class", len(classes), train, ((x_test - mean) / deviation, target_test))


def forecast(name: str, values: np.ndarray, steps: int, ahead: int, stride: int = 1) -> Task:
    """The value `ahead` steps after a window, both relative to its last value; the last 30% of the series are the test.

    An error of 1 is that of the best constant on the training part.
    """
    series = torch.from_numpy(np.asarray(values, dtype=np.float32))
    windows = series.unfold(0, steps + ahead, stride)
    x, target = windows[:, :steps] - windows[:, steps - 1 : steps], windows[:, -1:] - windows[:, steps - 1 : steps]
    cut = int(0.7 * len(windows))
    free = -(-(steps + ahead) // stride)  # windows after the cut that share values with those before it
    mean, deviation = target[:cut].mean(), target[:cut].std()
    scale = x[:cut].std()
    x, target = (x / scale).T[..., None], (target - mean) / deviation
    test = x[:, cut + free :], target[cut + free :]
    return Task(name, "forecast", 1, _sampler(x[:, :cut], target[:cut], "forecast"), test)


def co2() -> Task:
    """Weekly CO2 at Mauna Loa: 12 weeks ahead of two years."""
    from statsmodels.datasets import co2 as data

    return forecast("CO2", data.load_pandas().data["co2"].interpolate().to_numpy(), steps=104, ahead=12)


def sunspots() -> Task:
    """Yearly sunspots: next year, from 50."""
    from statsmodels.datasets import sunspots as data

    return forecast("sunspots", data.load_pandas().data["SUNACTIVITY"].to_numpy(), steps=50, ahead=1)


def ecg() -> Task:
    """An electrocardiogram at 72 Hz: 0.1 s ahead of 2.8 s."""
    from scipy.datasets import electrocardiogram

    return forecast("ECG", electrocardiogram().reshape(-1, 5).mean(1), steps=200, ahead=7, stride=4)


def neurogym_task(name: str) -> Task:
    """Trials of a NeuroGym environment, cut to 100 steps of 100 ms."""
    import neurogym

    def draw(count: int, seed: int) -> tuple[Tensor, Tensor]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = neurogym.Dataset(f"{name}-v0", env_kwargs={"dt": 100}, batch_size=count, seq_len=100)
            data.seed(seed)
            x, target = data()
        return torch.from_numpy(x).float(), torch.from_numpy(target).long()

    x, target = draw(800, 0)
    test = draw(200, 1)
    outputs = int(max(target.max(), test[1].max())) + 1
    return Task(name, "steps", outputs, _sampler(x, target, "steps"), test)


def psmnist() -> Task:
    """2,000 images of MNIST, a pixel a step in a fixed random order; from ARU_DATA_DIR, or downloaded."""
    from aru_lab.data.images import fixed_permutation, load_mnist

    data = load_mnist()
    order = fixed_permutation(784, 0)

    def sequences(count: int, images: np.ndarray) -> Tensor:
        return torch.from_numpy(images[:count].reshape(count, 784)[:, order]).T[..., None] / 255

    train = _sampler(sequences(2000, data.train.pixels), torch.from_numpy(data.train.labels[:2000]), "class")
    test = sequences(500, data.test.pixels), torch.from_numpy(data.test.labels[:500])
    return Task("psMNIST", "class", 10, train, test)


# name -> how to make it, and the package that carries its data
TASKS: dict[str, tuple[Callable[[], Task], str]] = {
    "evidence": (functools.partial(evidence, 100), "torch"),
    "evidence, long": (functools.partial(evidence, 250), "torch"),
    **{
        name: (functools.partial(neurogym_task, name), "neurogym")
        for name in ("PerceptualDecisionMaking", "ContextDecisionMaking", "GoNogo")
    },
    "CO2": (co2, "statsmodels"),
    "sunspots": (sunspots, "statsmodels"),
    "ECG": (ecg, "pooch"),
    **{
        name: (functools.partial(classification, name), "aeon")
        for name in (
            *("ItalyPowerDemand", "JapaneseVowels", "BasicMotions", "GunPoint", "ArrowHead", "UnitTest"),
            "PickupGestureWiimoteZ",
        )
    },
    "psMNIST": (psmnist, "aru_lab"),
}
