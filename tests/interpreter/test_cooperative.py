"""Cooperative launches in Triton's interpreter, their programs running at the same time: against the reference."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from triton.runtime.errors import InterpreterError

import aru_kernels
import aru_kernels.functional as F
import test_last_state
from aru_kernels.triton import _cooperative, cooperative, persistent
from simultaneous import simultaneous
from test_sequence import ADAPTIVE, STATIC, adaptive_arguments, double, run, static_arguments
from tolerances import assert_all_close, relative_error


@pytest.fixture(autouse=True)
def cooperative_launches(monkeypatch):
    """As on a GPU of 132 multiprocessors, and no network small enough for programs that need not meet."""
    monkeypatch.setattr(cooperative, "wanted", lambda device: True)
    monkeypatch.setattr(cooperative, "multiprocessors", lambda device: 132)
    monkeypatch.setattr(cooperative, "capability", lambda device: (9, 0))
    monkeypatch.setattr(persistent, "MAX_BATCH", 0)


@pytest.fixture(autouse=True)
def poisoned():
    """NaN in memory that nobody wrote: what is read too early is not right by chance."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def results(function, arguments: list[Tensor], trace: bool = False, **schedule: int | None) -> list[Tensor]:
    """Values and gradients of the kernels, under a schedule of `simultaneous`; two launches."""
    with simultaneous(**schedule) as launches:
        computed = list(chain(*run("triton", function, arguments, trace)))
    assert len(launches) == 2
    return computed


def check(function, arguments: list[Tensor], trace: bool = False, **schedule: int | None) -> None:
    """Values and all gradients are the reference's."""
    expected = list(chain(*run("reference", function, double(arguments), trace)))
    values = ("h", "g", "a", "n", "s") if function is F.aru_sequence else ("h", "a", "n", "s")
    gradients = ADAPTIVE if function is F.aru_sequence else STATIC
    names = [*values[: len(expected) - len(gradients)], *(f"gradient of {name}" for name in gradients)]
    assert_all_close(names, results(function, arguments, trace, **schedule), expected, "sequence")


schedules = {"seed": st.integers(0, 10**6), "starved": st.one_of(st.none(), st.integers(0, 9))}


@settings(max_examples=6)
@given(
    T=st.integers(1, 6),
    B=st.integers(1, 36),
    H=st.integers(1, 30),
    G=st.integers(1, 40),
    trace=st.booleans(),
    **schedules,
)
def test_adaptive(T, B, H, G, trace, seed, starved):
    check(F.aru_sequence, adaptive_arguments(T, B, H, G), trace, seed=seed, starved=starved)


@settings(max_examples=6)
@given(T=st.integers(1, 6), B=st.integers(1, 36), H=st.integers(1, 40), trace=st.booleans(), **schedules)
def test_static(T, B, H, trace, seed, starved):
    check(F.gamma_rnn_sequence, static_arguments(T, B, H, (H,)), trace, seed=seed, starved=starved)


@test_last_state.each_use
def test_the_last_state_has_a_gradient_of_its_own(used):
    with simultaneous(seed=0, starved=None) as launches:
        test_last_state.check_adaptive("triton", adaptive_arguments(5, 3, 10, 4), used)
        test_last_state.check_static("triton", static_arguments(5, 3, 10, (10,)), used)
    assert len(launches) == 4


@pytest.mark.parametrize("block", [8, 16])
def test_blocks_of_neurons(block, monkeypatch):
    monkeypatch.setattr(cooperative, "BLOCKS_H", (block,))
    monkeypatch.setattr(cooperative, "largest_block", lambda *_: block)
    check(F.aru_sequence, adaptive_arguments(4, 18, 70, 20, torch.float32), True)
    check(F.gamma_rnn_sequence, static_arguments(4, 18, 70, (70,), torch.float32), True)


def test_checkpoints(monkeypatch):
    """A launch for every segment, each with meetings counted from zero."""
    monkeypatch.setenv("ARU_STATE_BUDGET", "1")
    arguments = adaptive_arguments(10, 17, 9, 3, torch.float32)
    with simultaneous() as launches:
        computed = list(chain(*run("triton", F.aru_sequence, arguments)))
    assert launches == [4] * 6
    expected = list(chain(*run("reference", F.aru_sequence, double(arguments))))
    assert_all_close(("h", "g", *ADAPTIVE), computed, expected, "sequence")


def test_gradcheck():
    with aru_kernels.use_backend("triton"), simultaneous():
        assert torch.autograd.gradcheck(
            lambda *x: F.aru_sequence(*x)[:2], adaptive_arguments(3, 1, 9, 2), fast_mode=True
        )
        assert torch.autograd.gradcheck(
            lambda *x: F.gamma_rnn_sequence(*x)[0], static_arguments(3, 2, 9, (9,)), fast_mode=True
        )


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (F.aru_sequence, lambda: adaptive_arguments(5, 18, 20, 3, torch.float32)),
        (F.gamma_rnn_sequence, lambda: static_arguments(5, 18, 20, (20,), torch.float32)),
    ],
    ids=["adaptive", "static"],
)
def test_bits_do_not_depend_on_the_schedule(function, arguments):
    arguments = arguments()
    first = results(function, arguments)
    for seed in (1, 2):
        again = results(function, arguments, seed=seed, starved=seed)
        assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))


@triton.jit
def no_meeting(counter_ptr, arrivals):
    tl.atomic_add(counter_ptr, 1, sem="release")


@triton.jit
def one_is_not_waited_for(counter_ptr, arrivals):
    tl.atomic_add(counter_ptr, 1, sem="release")
    while tl.atomic_add(counter_ptr, 0, sem="acquire") < arrivals - 1:
        pass


@triton.jit
def the_count_begins_anew(counter_ptr, arrivals):
    tl.atomic_add(counter_ptr, 1, sem="release")
    while tl.atomic_add(counter_ptr, 0, sem="acquire") < tl.num_programs(0):
        pass


@triton.jit
def arrives_too_late(counter_ptr, arrivals):
    while tl.atomic_add(counter_ptr, 0, sem="acquire") < arrivals:
        pass
    tl.atomic_add(counter_ptr, 1, sem="release")


@triton.jit
def nothing_is_released(counter_ptr, arrivals):
    tl.debug_barrier()
    tl.atomic_add(counter_ptr, 1, sem="relaxed")
    while tl.atomic_add(counter_ptr, 0, sem="acquire") < arrivals:
        pass


@triton.jit
def nothing_is_acquired(counter_ptr, arrivals):
    tl.debug_barrier()
    tl.atomic_add(counter_ptr, 1, sem="release")
    while tl.atomic_add(counter_ptr, 0, sem="relaxed") < arrivals:
        pass


@triton.jit
def arrives_before_its_other_threads(counter_ptr, arrivals):
    tl.atomic_add(counter_ptr, 1, sem="release")
    while tl.atomic_add(counter_ptr, 0, sem="acquire") < arrivals:
        pass


def with_meeting(meeting, direction: str, arguments: list[Tensor], seed: int) -> list[Tensor]:
    """h of a static network and gradients, with another meeting in one direction."""
    sound = _cooperative._meet
    forward, backward = (meeting, sound) if direction == "forward" else (sound, meeting)
    with pytest.MonkeyPatch.context() as patch, aru_kernels.use_backend("triton"), simultaneous(seed):
        patch.setattr(_cooperative, "_meet", forward)
        h, *_ = F.gamma_rnn_sequence(*arguments)
        patch.setattr(_cooperative, "_meet", backward)
        return [h, *torch.autograd.grad(h.sum(), arguments)]


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("meeting", [no_meeting, one_is_not_waited_for, the_count_begins_anew])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_faults_are_found(meeting, direction, races_found):
    """What the emulation is there for: meetings planted wrong, by wrong results and as races."""
    arguments = static_arguments(4, 2, 20, (20,))
    with aru_kernels.use_backend("reference"):
        h, *_ = F.gamma_rnn_sequence(*arguments)
    exact = [h, *torch.autograd.grad(h.sum(), arguments)]
    attempts = [with_meeting(meeting, direction, arguments, seed) for seed in range(4)]
    errors = [relative_error(x, y) for actual in attempts for x, y in zip(actual, exact, strict=True)]
    assert not all(error < 1e-9 for error in errors)
    assert races_found
    races_found.clear()


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_meeting_that_waits_for_itself_is_found(direction):
    with pytest.raises(InterpreterError, match="wait for what never comes"):
        with_meeting(arrives_too_late, direction, static_arguments(4, 2, 20, (20,)), 0)


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("meeting", [nothing_is_released, nothing_is_acquired, arrives_before_its_other_threads])
def test_a_meeting_that_orders_nothing_is_found(meeting, direction, races_found):
    """Right in the interpreter, whatever the schedule."""
    with_meeting(meeting, direction, static_arguments(4, 2, 20, (20,)), 0)
    assert any("_recurrent" in race and "loads where" in race for race in races_found)
    races_found.clear()


def test_what_fits():
    """Programs of one launch: as small as fill the GPU once, and never more than run at a time."""
    device = torch.device("cpu")
    assert cooperative.tiling(32, 128, device, "tf32", 16) == (8, 16, 2)
    assert cooperative.tiling(100, 256, device, "tf32", 64) == (16, 16, 7)
    assert cooperative.tiling(100, 256, device, "tf32x3", 64) is None
    assert cooperative.tiling(32, 400, device, "tf32x3", 64) is None
    assert cooperative.tiling(32, 400, device, "tf32x3", 16) == (8, 50, 2)
    assert cooperative.tiling(100, 400, device, "tf32", 64) is None
    assert cooperative.tiling(80, 400, device, "tf32") == (16, 25, 5)
    assert cooperative.tiling(1, 512, device, "bf16").programs == 64
    assert cooperative.tiling(1, 513, device, "bf16") is None
    assert cooperative.tiling(1, 100, device, "bf16", 128) is None
