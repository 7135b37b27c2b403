"""The default learning rates."""

from __future__ import annotations

from aru_lab.arguments import MOST
from aru_lab.data.tasks import TASKS, Task
from aru_lab.networks.names import ADAPTABLE

SCALINGS = ("fan-in", "none")

# (T, learning rate): the default by fan-in for sequences of at most T steps. The slope of γ acts on h at every step, so
# what an update adds to the growth of h rises with the rate times T.
LEARNING_RATES = ((256, 1e-2), (512, 2e-3), (MOST, 1e-3))
# The default for one rate, and for an encoder in front, whose weights learn at the full rate.
ONE_LEARNING_RATE = 2e-3


def default_learning_rate(task: Task, model: str, scaling: str) -> float:
    """The default learning rate.

    Args:
        task: the task, which knows its number of steps T.
        model: name of the network.
        scaling: one of SCALINGS.

    Examples:
        >>> from aru_lab.data.tasks import find_task
        >>> [default_learning_rate(find_task(name), "arun", "fan-in") for name in ("psdigits", "psmnist", "scifar10")]
        [0.01, 0.001, 0.001]
        >>> default_learning_rate(find_task("psdigits"), "lstm", "fan-in")
        0.002
    """
    if scaling == "none" or model not in ADAPTABLE or task.encoder != "linear":
        return ONE_LEARNING_RATE
    return next(rate for most, rate in LEARNING_RATES if task.n_steps <= most or most == MOST)


def rates_help() -> str:
    """The help of `learning_rate`, with the default of every task."""
    by_rate: dict[float, list[str]] = {}
    for name, task in TASKS.items():
        by_rate.setdefault(default_learning_rate(task, "arun", "fan-in"), []).append(name)
    tasks = "; ".join(f"{rate:g} for {', '.join(names)}" for rate, names in by_rate.items())
    lengths = ", ".join(f"{rate:g} up to T = {most}" for most, rate in LEARNING_RATES[:-1])
    return (
        "The optimizer's learning rate at its highest. None takes a default. By fan-in, arun and the gamma networks "
        f"take one by the number of steps T, which --pixels-per-step divides: {lengths}, {LEARNING_RATES[-1][1]:g} for "
        f"longer sequences, {ONE_LEARNING_RATE:g} behind an encoder. With one pixel a step that is {tasks}. The other "
        f"networks, and all networks with --learning-rate-scaling none, take {ONE_LEARNING_RATE:g}."
    )
