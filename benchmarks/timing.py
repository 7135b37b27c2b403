"""Interleaved timing: variants take turns, so that a slow moment of the machine hits them all."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

Work = Callable[[], object]


@dataclass(frozen=True)
class Times:
    """Seconds of one variant over the rounds."""

    best: float
    p20: float
    p50: float
    p80: float
    rounds: int

    @staticmethod
    def of(seconds: list[float]) -> Times:
        ordered = sorted(seconds)
        at = [ordered[round(q * (len(ordered) - 1))] for q in (0.2, 0.5, 0.8)]
        return Times(ordered[0], *at, len(ordered))


@dataclass(frozen=True)
class Sample:
    """Seconds of one call on its device, and seconds until the call came back: on a GPU, the time of enqueuing."""

    device: float
    host: float


def sample_of(work: Work, device: torch.device, head_start: int = 0) -> Sample:
    """One call: by the clock on a CPU, by events of the current stream on a GPU.

    head_start: clocks for which the GPU is kept busy before.  Kernels that are shorter than their launch are all
    enqueued when the first begins, and what the events tell is the GPU's time, not the host's.
    """
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        if head_start:
            torch.cuda._sleep(head_start)
        start.record()
        begin = time.perf_counter()
        work()
        host = time.perf_counter() - begin
        end.record()
        end.synchronize()
        return Sample(start.elapsed_time(end) / 1e3, host)
    begin = time.perf_counter()
    work()
    seconds = time.perf_counter() - begin
    return Sample(seconds, seconds)


def seconds_of(work: Work, device: torch.device) -> float:
    """Of one call on its device."""
    return sample_of(work, device).device


# Seconds below which the turn of a variant begins with calls that do not count: the variant before it has emptied the
# caches and the C library's heap, which a loop over one network, as training is, would find full.
SHORT = 0.05


def interleaved(variants: dict[str, Work], rounds: int, device: torch.device, budget: float = 20.0) -> dict[str, Times]:
    """Times of each variant after a warm-up round.

    budget: seconds after which no further round begins, once there have been three.
    """
    warm_up = {name: seconds_of(work, device) for name, work in variants.items()}
    taken: dict[str, list[float]] = {name: [] for name in variants}
    start = time.perf_counter()
    for done in range(rounds):
        if done >= 3 and time.perf_counter() - start > budget:
            break
        for name, work in variants.items():
            for _ in range(2 if warm_up[name] < SHORT else 0):
                work()
            taken[name].append(seconds_of(work, device))
    return {name: Times.of(seconds) for name, seconds in taken.items()}
