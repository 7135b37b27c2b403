"""The sequences through fake CUDA graphs, in Triton's interpreter: the same bits as without them."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from torch import Tensor

import aru_kernels
import aru_kernels.functional as F
from aru_kernels.triton import graphs, stepwise, ways
from aru_kernels.triton.networks import (
    Adaptive,
    AdaptiveBackward,
    AdaptiveForward,
    Static,
    StaticBackward,
    StaticForward,
)
from support import last_state
from support.problems import adaptive_arguments, double, leaky, run, static_arguments, with_leak
from support.tolerances import assert_all_close, assert_close


class FakeGraph:
    """A graph that runs what was recorded: on the buffers of the recording, not on the caller's tensors."""

    replays = 0

    def __init__(self, work):
        self.work = work

    def replay(self):
        FakeGraph.replays += 1
        self.work()


@pytest.fixture
def fake_graphs(step_by_step, monkeypatch):
    monkeypatch.setattr(graphs, "capture", FakeGraph)
    monkeypatch.setattr(graphs, "usable", lambda device: True)
    monkeypatch.setattr(ways, "GRAPHS", graphs.Graphs())
    monkeypatch.setattr(FakeGraph, "replays", 0)
    return ways.GRAPHS


def repeat(function, make, times: int, trace: bool = False) -> list[list[Tensor]]:
    """Other numbers each time, of the same sizes."""
    results = []
    for seed in range(times):
        torch.manual_seed(seed)
        results.append(list(chain(*run("triton", function, make(), trace))))
    return results


@pytest.mark.parametrize("kind", ["adaptive", "static", "leaky adaptive", "leaky static"])
def test_graphs_compute_the_same(kind, budget, fake_graphs, monkeypatch):
    """Whole chunks are replayed, from the second call on; what remains is launched.  The same bits as without."""
    function, make = {
        "adaptive": (F.aru_sequence, lambda: adaptive_arguments(10, 2, 3, 2, torch.float32)),
        "static": (F.gamma_rnn_sequence, lambda: static_arguments(10, 2, 3, (3,), torch.float32)),
        "leaky adaptive": (leaky(F.aru_sequence), lambda: with_leak(adaptive_arguments(10, 2, 3, 2, torch.float32))),
        "leaky static": (
            leaky(F.gamma_rnn_sequence),
            lambda: with_leak(static_arguments(10, 2, 3, (3,), torch.float32)),
        ),
    }[kind]
    monkeypatch.setattr(ways, "CHUNK", 4)
    with_graphs = repeat(function, make, 3, trace=True)
    assert FakeGraph.replays == 2 * 2 * 2  # calls but the first, passes, whole chunks
    assert len(fake_graphs) == 2
    monkeypatch.setattr(graphs, "usable", lambda device: False)
    without = repeat(function, make, 3, trace=True)
    assert FakeGraph.replays == 8
    for a, b in zip(with_graphs, without, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_graph_and_a_gradient_of_the_last_state(budget, fake_graphs, monkeypatch):
    """No graph has that gradient as an input: the last chunk goes without, on the graph's own buffers."""
    monkeypatch.setattr(ways, "CHUNK", 4)
    with_graphs = repeat(F.aru_sequence, lambda: adaptive_arguments(8, 2, 3, 2, torch.float32), 3)
    assert FakeGraph.replays == 2 * (2 + 1)
    monkeypatch.setattr(graphs, "usable", lambda device: False)
    without = repeat(F.aru_sequence, lambda: adaptive_arguments(8, 2, 3, 2, torch.float32), 3)
    for a, b in zip(with_graphs, without, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_graphs_serve_other_lengths_and_are_bounded(fake_graphs, monkeypatch):
    monkeypatch.setattr(ways, "CHUNK", 2)
    for T in (4, 6, 9):
        arguments = static_arguments(T, 1, 2, (2,))
        expected = run("reference", F.gamma_rnn_sequence, arguments)
        for results, exact in zip(run("triton", F.gamma_rnn_sequence, arguments), expected, strict=True):
            assert_all_close([f"T = {T}"] * len(exact), results, exact, "sequence")
    assert len(fake_graphs) == 2
    for H in range(3, 4 + graphs.MAX_GRAPHS):
        for _ in range(2):
            run("triton", F.gamma_rnn_sequence, static_arguments(2, 1, H, (H,)))
    assert len(fake_graphs) == graphs.MAX_GRAPHS
    fake_graphs.clear()
    assert len(fake_graphs) == 0


def test_graphs_follow_the_weights_dtype_and_floor(fake_graphs, monkeypatch):
    """What a graph depends on is in its key; what it does not is copied."""
    monkeypatch.setattr(ways, "CHUNK", 2)
    for n_floor in (1e-3, 0.5):
        for dtype in (torch.float32, torch.float64):
            for _ in range(3):
                arguments = [x.detach() for x in adaptive_arguments(4, 1, 3, 2, dtype)]
                arguments[-1][0] = 0.1
                with aru_kernels.use_backend("triton"):
                    h = F.aru_sequence(*arguments, n_floor=n_floor)[0]
                with aru_kernels.use_backend("reference"):
                    assert_close("h", h, F.aru_sequence(*double(arguments), n_floor=n_floor)[0], "sequence")
    assert len(fake_graphs) == 4


@pytest.mark.parametrize("kind", ["adaptive", "static"])
def test_graphs_follow_the_leak(kind, fake_graphs, monkeypatch):
    """Its values are copied; networks without one have graphs of their own."""
    function, make = {
        "adaptive": (F.aru_sequence, lambda: adaptive_arguments(4, 1, 3, 2)),
        "static": (F.gamma_rnn_sequence, lambda: static_arguments(4, 1, 3, (3,))),
    }[kind]
    monkeypatch.setattr(ways, "CHUNK", 2)
    for _ in range(3):
        for sequence, arguments in ((function, make()), (leaky(function), with_leak(make()))):
            results, expected = (run(backend, sequence, arguments) for backend in ("triton", "reference"))
            for actual, exact in zip(results, expected, strict=True):
                assert_all_close([str(i) for i in range(len(exact))], actual, exact, "sequence")
    assert len(fake_graphs) == 4


@last_state.each_use
def test_graphs_and_a_gradient_of_the_last_h(used, fake_graphs, budget, monkeypatch):
    monkeypatch.setattr(ways, "CHUNK", 4)
    for _ in range(2):
        last_state.check_adaptive("triton", adaptive_arguments(8, 2, 3, 2), used)
        last_state.check_static("triton", static_arguments(8, 2, 3, (3,)), used)
    assert FakeGraph.replays


def random(*sizes: int) -> Tensor:
    return torch.rand(sizes, dtype=torch.float64) - 0.5


def launches_of(trace: bool, of_last: bool, leak: Tensor | None):
    """(launcher, network, arguments) of all launchers that graphs record; S = 5 steps, more than slots for the sums."""
    S, B, H, G, GS, slots = 5, 2, 3, 4, 4, 3
    *_, weight_hh, w_ag, w_gg, b_g, w_gc, b_c = (x.detach() for x in adaptive_arguments(S, B, H, G))
    adaptive = Adaptive(weight_hh, (w_ag, w_gg, b_g, w_gc, b_c), 1e-3, "highest", leak)
    static = Static(weight_hh, 4 + random(H), random(H), 1e-3, leak)
    steps = (S, B, H)
    gains = (random(*steps), random(*steps)) if trace else (None, None)
    a_slots, g_slots = (S, S) if trace else (1, 1)
    upstream = [random(*steps) if trace else None for _ in range(4)]
    states = random(S, B, H, GS)
    through_leak = () if leak is None else (random(*steps), random(B, H))
    yield (
        stepwise.adaptive_forward,
        adaptive,
        AdaptiveForward(
            *(random(*steps), random(B, H), random(B, H, GS), random(a_slots, B, H), random(*steps)),
            *(random(g_slots, B, H, GS), *gains),
        ),
    )
    yield (
        stepwise.adaptive_backward,
        adaptive,
        AdaptiveBackward(
            *(*upstream, random(B, H, GS) if of_last else None, random(*steps), states, random(*steps), random(B, H)),
            *(random(slots, B, H, GS), random(3, slots, B, H), random(*adaptive.controller.sums_shape(2 * B * H))),
            *through_leak,
        ),
    )
    yield (
        stepwise.static_forward,
        static,
        StaticForward(random(*steps), random(B, H), random(a_slots, B, H), random(*steps)),
    )
    yield (
        stepwise.static_backward,
        static,
        StaticBackward(
            *upstream[:2], *(random(*steps) for _ in range(2)), *(random(B, H) for _ in range(3)), *through_leak
        ),
    )


@pytest.mark.parametrize(("trace", "of_last"), [(True, False), (False, True)])
@pytest.mark.parametrize("leaks", [False, True])
def test_arguments_are_used_as_they_are_declared(trace, of_last, leaks):
    """What a launcher writes is among the written fields; what it writes and does not read is not among the updated."""
    leak = 0.1 + torch.rand(3, dtype=torch.float64) if leaks else None
    for launch, network, given in launches_of(trace, of_last, leak):
        first, again = (type(given)(*(None if x is None else x.clone() for x in given)) for _ in range(2))
        assert set(given.updated) <= set(given.written) <= set(given._fields)
        launch(network, first)
        for name, before, after in zip(given._fields, given, first, strict=True):
            if before is not None:
                assert torch.equal(before, after) == (name not in given.written), f"{launch.__name__}: {name}"
        for name in set(given.written) - set(given.updated):
            if (x := getattr(again, name)) is not None:
                x.fill_(torch.nan)
        launch(network, again)
        for name, x, y in zip(given._fields, first, again, strict=True):
            assert x is None or torch.equal(x, y), f"{launch.__name__}: {name}"
