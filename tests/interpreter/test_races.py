"""What `races` finds, and what it lets pass."""

from __future__ import annotations

import inspect
import linecache
import re

import pytest
import torch
import triton
import triton.language as tl

import aru_kernels.functional as F
from aru_kernels import use_backend
from aru_kernels._module import controller_shapes
from aru_kernels.triton import persistent as launchers
from aru_kernels.triton.controller import Controller
from aru_kernels.triton.kernels import controller, gamma, persistent, static
from support.problems import adaptive_arguments, leaky, static_arguments, with_leak
from support.races import _Launch, races


@triton.jit
def doubled_in_place(x_ptr, ORDERED: tl.constexpr):
    i = tl.arange(0, 8)
    x = tl.load(x_ptr + i)
    if ORDERED:
        tl.debug_barrier()
    tl.store(x_ptr + i, 2 * x)


@triton.jit
def stored_and_read(x_ptr, y_ptr, ORDERED: tl.constexpr):
    i = tl.arange(0, 8)
    tl.store(x_ptr + i, i.to(tl.float32))
    if ORDERED:
        tl.debug_barrier()
    tl.store(y_ptr + i, tl.load(x_ptr + 7 - i))


@triton.jit
def stored_twice(x_ptr, ORDERED: tl.constexpr):
    i = tl.arange(0, 8)
    tl.store(x_ptr + i, 1.0)
    if ORDERED:
        tl.debug_barrier()
    tl.store(x_ptr + 7 - i, 2.0)


def found_in(kernel, grid: int, *arguments: object) -> set[str]:
    with races() as found:
        kernel[(grid,)](*arguments)
    return found


@pytest.mark.parametrize(
    ("kernel", "tensors", "accesses"),
    [(doubled_in_place, 1, "stores loads"), (stored_and_read, 2, "loads stores"), (stored_twice, 1, "stores stores")],
)
def test_threads_of_a_program(kernel, tensors, accesses, races_found):
    arguments = [torch.zeros(8) for _ in range(tensors)]
    assert not found_in(kernel, 1, *arguments, True)
    (race,) = found_in(kernel, 1, *arguments, False)
    named = re.findall(rf"{kernel.__name__}, line (\d+) (\w+)", race)
    assert " ".join(access for _, access in named) == accesses
    for line, access in named:
        assert f"tl.{access.removesuffix('s')}(" in linecache.getline(__file__, int(line))
    races_found.clear()


@triton.jit
def all_at_one_place(x_ptr):
    tl.store(x_ptr + tl.arange(0, 4) // 2, tl.arange(0, 4).to(tl.float32))


@triton.jit
def blocks(x_ptr, y_ptr, SHIFT: tl.constexpr):
    i = tl.program_id(0) * 4 + tl.arange(0, 4)
    x = tl.load(x_ptr + i, i < 10, 0.0)
    tl.debug_barrier()
    tl.store(y_ptr + i + SHIFT * tl.program_id(0), x, i < 10)


def test_elements_of_a_store(races_found):
    (race,) = found_in(all_at_one_place, 1, torch.zeros(4))
    assert "stores two elements in one place" in race
    races_found.clear()


def test_programs(races_found):
    """Masked elements are not accessed; tensors may be the same or overlap."""
    x, y = torch.zeros(10), torch.zeros(10)
    assert not found_in(blocks, 3, x, y, 0)
    assert not found_in(blocks, 3, x, x, 0)
    (race,) = found_in(blocks, 3, x, y, -1)
    assert race.startswith("blocks: ")
    assert "stores where blocks" in race
    x = torch.zeros(12)
    (race,) = found_in(blocks, 3, x[:10], x[2:], 0)
    assert "stores where" in race or "loads where" in race
    races_found.clear()


def test_what_several_programs_load_nobody_stores(races_found):
    @triton.jit
    def kernel(x_ptr, y_ptr):
        y = tl.load(x_ptr)
        if tl.program_id(0) == 2:
            tl.store(x_ptr, 1.0)
        tl.store(y_ptr + tl.program_id(0), y)

    assert found_in(kernel, 3, torch.zeros(1), torch.zeros(3))
    assert not found_in(kernel, 2, torch.zeros(1), torch.zeros(3))
    races_found.clear()


@triton.jit
def summed_by_all(x_ptr, sum_ptr):
    i = tl.program_id(0) * 4 + tl.arange(0, 4)
    tl.atomic_add(sum_ptr, tl.sum(tl.load(x_ptr + i), 0))


@triton.jit
def first_to_come(owner_ptr):
    tl.atomic_cas(owner_ptr, 0, 1)


def test_atomic_operations_are_found(races_found):
    """Their order, and so the bits of a float's sum, would differ between runs; no kernel here has any."""
    (race,) = found_in(summed_by_all, 3, torch.zeros(12), torch.zeros(1))
    assert re.fullmatch(r"summed_by_all: summed_by_all, line \d+ makes an atomic operation", race)
    (race,) = found_in(first_to_come, 2, torch.zeros(1, dtype=torch.int32))
    assert race.endswith("makes an atomic operation")
    races_found.clear()


def test_a_sum_in_place_is_found(races_found):
    """The fault that an H200 showed: threads store x + a where others have yet to load a."""
    B, H, G = 2, 5, 3
    with torch.no_grad():
        weights = [torch.randn(shape) for shape in controller_shapes(G).values()]
        launched = Controller(weights, 1e-3, "highest")
        x, a, h, total = (torch.randn(B, H) for _ in range(4))
        g = torch.randn(B, H, G)
        others = {"x": x, "a": a, "g": g, "h": h, "g_next": torch.empty_like(g), "n": None, "s": None}
        launched.step(total=total, **others)
        assert not races_found
        launched.step(total=a, **others)
    (race,) = races_found
    assert race.startswith(controller.controller_step_fwd_kernel.__name__)
    races_found.clear()


def test_every_barrier_of_the_kernels_is_needed(races_found, monkeypatch):
    """Without barriers, the detector reports exactly the kernels that have one."""
    modules = (controller, gamma, persistent, static)
    members = {name: value for module in modules for name, value in vars(module).items() if name.endswith("_kernel")}
    with_barrier = {name for name, kernel in members.items() if "tl.debug_barrier()" in inspect.getsource(kernel.fn)}
    assert len(with_barrier) == 7
    monkeypatch.setattr(_Launch, "barrier", lambda launch, program: None)
    for largest in (0, 1024):  # step by step, and in one launch
        monkeypatch.setattr(launchers, "MAX_BATCH", largest)
        with use_backend("triton"):
            adaptive, fixed = adaptive_arguments(3, 2, 5, 3), static_arguments(3, 2, 5, (5,))
            # the step backward has a barrier because of the leak
            for function, arguments in (
                (F.aru_sequence, adaptive),
                (F.gamma_rnn_sequence, fixed),
                (leaky(F.aru_sequence), with_leak(adaptive)),
            ):
                torch.autograd.grad(function(*arguments)[0].sum(), arguments)
                with torch.no_grad():  # the controller's state is updated in place
                    function(*arguments)
    assert {race.partition(":")[0] for race in races_found} == with_barrier
    races_found.clear()
