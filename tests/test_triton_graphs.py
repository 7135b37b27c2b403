"""CUDA graphs of time steps, with fakes for the GPU: what a graph reads and writes back, and what the cache keeps."""

from __future__ import annotations

import threading
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from aru_kernels import triton
from aru_kernels.triton import graphs, ways


class Network:
    """One weight."""

    def __init__(self, weight: float, key: str = "network") -> None:
        self.weight, self.key = torch.tensor(weight), key

    def copied(self) -> Network:
        return Network(self.weight.item(), self.key)

    def assign(self, other: Network) -> None:
        self.weight.copy_(other.weight)


class Arguments(NamedTuple):
    """x and, where there is one, y are read; total is read and written; out is written."""

    out: Tensor
    x: Tensor
    total: Tensor
    y: Tensor | None = None

    @property
    def written(self) -> tuple[str, ...]:
        return "out", "total"

    @property
    def updated(self) -> tuple[str, ...]:
        return ("total",)

    @property
    def length(self) -> int:
        return len(self.x)


def launch(network: Network, arguments: Arguments) -> None:
    x = arguments.x if arguments.y is None else arguments.x + arguments.y
    arguments.out.copy_(network.weight * x)
    arguments.total.add_(arguments.out.sum())


def arguments(*x: float, total: float = 0.0, y: Tensor | None = None) -> Arguments:
    """Memory that nobody wrote is NaN."""
    return Arguments(torch.full((len(x),), torch.nan), torch.tensor(x), torch.tensor(total), y)


@pytest.fixture
def events(monkeypatch) -> list[str]:
    """Copies and replays in their order; a graph runs what was recorded."""
    happened: list[str] = []
    true = graphs._copy

    class FakeGraph:
        def __init__(self, work) -> None:
            happened.append("capture")
            self.work = work

        def replay(self) -> None:
            happened.append("replay")
            self.work()

    def copy(to: Tensor, value: Tensor) -> None:
        happened.append("copy" if to.data_ptr() != value.data_ptr() else "the same memory")
        true(to, value)

    monkeypatch.setattr(graphs, "capture", FakeGraph)
    monkeypatch.setattr(graphs, "usable", lambda device: True)
    monkeypatch.setattr(graphs, "_copy", copy)
    return happened


@pytest.fixture
def cache(events, monkeypatch) -> graphs.Graphs:
    monkeypatch.setattr(ways, "GRAPHS", graphs.Graphs())
    return ways.GRAPHS


def test_a_graph_reads_then_replays_then_writes_back(events, monkeypatch):
    recorded = graphs.Recorded(Network(2.0), launch, arguments(1.0, 1.0))
    names = {getattr(recorded.buffers, name).data_ptr(): f"buffer {name}" for name in ("out", "x", "total")}
    given = arguments(3.0, 4.0, total=10.0)
    names |= {getattr(given, name).data_ptr(): name for name in ("out", "x", "total")}
    true = graphs._copy

    def copy(to: Tensor, value: Tensor) -> None:
        true(to, value)
        events[-1] = f"{names[to.data_ptr()]} <- {names[value.data_ptr()]}"

    monkeypatch.setattr(graphs, "_copy", copy)
    events.clear()
    recorded(given)
    read = ["buffer x <- x", "buffer total <- total"]
    assert events == [*read, "replay", "out <- buffer out", "total <- buffer total"]
    assert given.out.tolist() == [6.0, 8.0]
    assert given.total.item() == 24.0
    assert given.x.tolist() == [3.0, 4.0]


def test_a_graph_has_buffers_of_its_own(events):
    """Contiguous, of the example's sizes and dtypes, zero before the kernels are compiled; absent arguments stay so."""
    seen: list[tuple[list[float], list[float]]] = []

    def first_launch(network: Network, x: Arguments) -> None:
        assert x.x.is_contiguous()
        seen.append((x.x.tolist(), x.total.tolist()))

    example = Arguments(torch.ones(2), torch.ones(2, 3).t()[1], torch.ones(3, dtype=torch.float64))
    recorded = graphs.Recorded(Network(2.0), first_launch, example)
    assert seen == [([0.0, 0.0], [0.0, 0.0, 0.0])]
    assert events == ["capture"]
    assert recorded.buffers.total.dtype == torch.float64
    assert recorded.buffers.y is None
    assert not {x.data_ptr() for x in example[:3]} & {x.data_ptr() for x in recorded.buffers[:3]}


def test_a_graphs_own_buffer_is_not_copied(events):
    recorded = graphs.Recorded(Network(2.0), launch, arguments(1.0))
    events.clear()
    recorded.buffers.total.fill_(1.0)
    recorded(arguments(3.0)._replace(total=recorded.buffers.total))
    assert events == ["copy", "the same memory", "replay", "copy", "the same memory"]
    assert recorded.buffers.total.item() == 7.0


def test_a_graph_serves_chunks_like_its_example(events):
    recorded = graphs.Recorded(Network(2.0), launch, arguments(1.0, 1.0))
    assert recorded.serves(arguments(3.0, 4.0))
    assert not recorded.serves(arguments(3.0))
    assert not recorded.serves(arguments(3.0, 4.0, y=torch.ones(2)))
    with_y = graphs.Recorded(Network(2.0), launch, arguments(1.0, 1.0, y=torch.ones(2)))
    assert with_y.serves(arguments(3.0, 4.0, y=torch.ones(2)))
    assert not with_y.serves(arguments(3.0, 4.0))


def test_chunks_that_the_graph_does_not_serve_are_launched(cache, events):
    """From the second call on; with the weights of each call."""
    for call, weight in enumerate((2.0, 3.0, 4.0)):
        events.clear()
        way = ways.StepByStep(Network(weight))
        with way.running(launch, arguments(1.0, 1.0)) as run:
            total = run.buffer("total").zero_()
            for x in ((1.0, 2.0), (3.0, 4.0), (5.0,)):
                now = arguments(*x)._replace(total=total)
                run(now)
                assert now.out.tolist() == [weight * value for value in x]
            result = run.result(total)
            assert (result is total) == (call == 0)
        assert result.item() == 15 * weight
        assert events.count("replay") == (0 if call == 0 else 2)
        assert events.count("capture") == (call == 1)


def test_one_launch_has_no_graph(cache, events):
    way = ways.AtOnce(Network(2.0))
    for _ in range(3):
        with way.running(launch, arguments(1.0, 1.0)) as run:
            now = arguments(1.0, 2.0)
            run(now)
            assert now.out.tolist() == [2.0, 4.0]
            assert run.buffer("x").shape == (2,)
    assert not events
    assert len(cache) == 0


def test_chunks(monkeypatch):
    monkeypatch.setattr(ways, "CHUNK", 4)
    at_once, step_by_step = ways.AtOnce(Network(1.0)), ways.StepByStep(Network(1.0))
    for segment in (0, 1):  # nothing kept, everything kept
        assert at_once.chunks(10, segment) == [slice(0, 10)]
        assert step_by_step.chunks(10, segment) == [slice(0, 4), slice(4, 8), slice(8, 10)]
    for way in (at_once, step_by_step):
        assert way.chunks(7, 3) == [slice(0, 3), slice(3, 6), slice(6, 7)]
        assert way.chunks(1, 3) == [slice(0, 1)]


def test_what_a_graph_depends_on(cache):
    """The launcher, the network's key, sizes, dtypes and absent arguments; not the weights."""

    def other(network: Network, x: Arguments) -> None:
        launch(network, x)

    def use(function, network: Network, example: Arguments) -> None:
        with ways.StepByStep(network).running(function, example):
            pass

    cases = [
        (launch, Network(1.0), arguments(1.0)),
        (other, Network(1.0), arguments(1.0)),
        (launch, Network(1.0, "another"), arguments(1.0)),
        (launch, Network(1.0), arguments(1.0, 2.0)),
        (launch, Network(1.0), arguments(1.0, y=torch.ones(1))),
        (launch, Network(1.0), Arguments(*(x.double() for x in arguments(1.0)[:3]))),
    ]
    for case in cases * 2:
        use(*case)
    assert len(cache) == len(cases)
    use(launch, Network(5.0), arguments(7.0))
    assert len(cache) == len(cases)
    cache.clear()
    assert len(cache) == 0


def test_the_least_recently_used_graph_goes(cache, events):
    def use(length: int) -> None:
        with ways.StepByStep(Network(1.0)).running(launch, arguments(*[1.0] * length)):
            pass

    lengths = list(range(1, graphs.MAX_GRAPHS + 1))
    for length in lengths * 2:
        use(length)
    assert len(cache) == graphs.MAX_GRAPHS
    use(1)  # used again: 2 is now the oldest
    use(graphs.MAX_GRAPHS + 1)
    events.clear()
    use(1)
    assert not events
    use(2)
    use(2)
    assert events == ["capture"]


def test_graphs_are_released(events, monkeypatch):
    monkeypatch.setattr(graphs, "GRAPHS", graphs.Graphs())
    for _ in range(2):
        with graphs.GRAPHS.use(Network(1.0), launch, arguments(1.0)):
            pass
    assert len(graphs.GRAPHS) == 1
    triton.release_graphs()
    assert len(graphs.GRAPHS) == 0


def test_no_graph_where_none_is_usable(cache, events, monkeypatch):
    monkeypatch.setattr(graphs, "usable", lambda device: False)
    for _ in range(3):
        with ways.StepByStep(Network(2.0)).running(launch, arguments(1.0)) as run:
            now = arguments(3.0)
            run(now)
            assert now.out.tolist() == [6.0]
    assert not events


def test_one_caller_at_a_time(cache):
    """A second caller waits, because the graph's buffers carry state from chunk to chunk."""
    example, order = arguments(1.0), []
    for _ in range(2):
        with cache.use(Network(1.0), launch, example):
            pass

    def second() -> None:
        with cache.use(Network(2.0), launch, example) as recorded:
            order.append(recorded.network.weight.item())

    with cache.use(Network(1.0), launch, example) as recorded:
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        order.append(recorded.network.weight.item())
    thread.join()
    assert order == [1.0, 2.0]
