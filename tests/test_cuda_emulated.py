"""The persistent CUDA kernels in the host emulation, against the reference: values, gradients, bits, tilings."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from aru_kernels import cuda, ops, reference
from support.cuda_checks import (
    PRECISIONS,
    RANGES,
    adaptive_arguments,
    check_adaptive,
    check_mixed,
    complete,
    gradients,
    in_force,
    one_signed_arguments,
    run_adaptive,
    static_arguments,
)
from support.cuda_emulation import DEVICES, SCHEDULES, Emulation, built, needs_compiler
from support.problems import ADAPTIVE, STATIC, double
from support.tolerances import assert_all_close

pytestmark = needs_compiler


@pytest.fixture(scope="session")
def _emulation() -> Emulation:
    return Emulation(built() / "_cuda_emulated.so")


def in_place_of_a_gpu(emulation: Emulation) -> Iterator[Emulation]:
    before = torch.get_float32_matmul_precision()
    with emulation.in_place_of_a_gpu():
        yield emulation
    torch.set_float32_matmul_precision(before)


@pytest.fixture
def emulation(_emulation):
    yield from in_place_of_a_gpu(_emulation)


@pytest.fixture
def without_groups():
    """The kernels at "medium" as a GPU runs them that has no groups of warps."""
    yield from in_place_of_a_gpu(Emulation(built() / "without_groups" / "_cuda_emulated.so"))


@pytest.fixture
def tilings(monkeypatch):
    """tilings(forward, backward): the kernels are cut so, whatever the plan would say."""

    def use(*both: tuple[int, ...], together: int = 4) -> None:
        def plan(index: int, form: int, backward: bool, B: int, H: int, G: int) -> tuple[int, ...]:
            return complete(both[backward], [*cuda.FORMS, "mixed"][form], together if G else 1)

        monkeypatch.setattr(cuda, "_plan", plan)

    yield use
    monkeypatch.undo()


# (T, B, H, G), the tilings (cluster, blocks, slice, batch, warps, groups) forward and backward, segment, schedule.
# G is chosen for the column tiles that TILES has emulated.
CASES = {
    "one block": ((4, 3, 9, 5), (1, 1, 12, 3, 2, 1), (1, 1, 12, 3, 2, 1), 1, "in order"),
    "cluster of 2": ((6, 5, 32, 16), (1, 2, 16, 3, 2, 2), (1, 2, 16, 2, 2, 3), 1, "random, late stores"),
    "cluster of 3, odd sizes": ((7, 5, 31, 13), (1, 3, 12, 4, 2, 1), (1, 3, 12, 5, 2, 1), 3, "starving, late stores"),
    "cluster of 16": ((3, 2, 64, 16), (1, 16, 4, 2, 1, 1), (1, 16, 4, 1, 2, 2), 1, "reversed"),
    "batch tiles after another": (
        (4, 11, 16, 16),
        (1, 2, 8, 3, 1, 2),
        (1, 2, 8, 2, 2, 2),
        2,
        "random, late stores",
    ),
    "device memory": ((6, 5, 32, 16), (0, 4, 8, 5, 2, 1), (0, 2, 16, 3, 2, 1), 1, "starving in order"),
    "device memory, odd sizes": ((5, 7, 29, 11), (0, 5, 8, 4, 1, 2), (0, 3, 12, 4, 2, 1), 2, "reversed"),
    "all pairs full": ((4, 8, 40, 16), (1, 2, 20, 8, 5, 1), (1, 2, 20, 8, 5, 1), 4, "random, late stores"),
    "k split": ((3, 2, 40, 3), (1, 1, 40, 2, 3, 1), (1, 1, 40, 2, 7, 1), 3, "in order"),
    "one step": ((1, 2, 8, 16), (1, 2, 4, 2, 1, 1), (0, 2, 4, 2, 2, 1), 1, "in order"),
    "a segment of all steps": ((5, 2, 8, 16), (1, 2, 4, 2, 3, 1), (1, 2, 4, 2, 2, 1), 5, "starving, late stores"),
    "twenty steps": ((20, 3, 16, 8), (1, 4, 4, 3, 4, 1), (1, 4, 4, 3, 5, 1), 6, "random, late stores"),
}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", CASES)
def test_adaptive_matches_reference(emulation, tilings, case, precision):
    shape, forward, backward, segment, schedule = CASES[case]
    tilings(forward, backward)
    emulation.schedule(schedule)
    check_adaptive(adaptive_arguments(*shape), precision, segment)


@pytest.mark.parametrize("case", CASES)
def test_mixed_products_match_reference(emulation, tilings, case):
    shape, forward, backward, _, schedule = CASES[case]
    emulation.schedule(schedule)
    for tiling in {forward, backward}:
        tilings(tiling, tiling)
        check_mixed(adaptive_arguments(*shape))


# As CASES; at least four warps share the sums.
WITHOUT_GROUPS = {
    "cluster": ((6, 5, 31, 13), (1, 3, 12, 4, 2, 2), (1, 3, 12, 5, 5, 1), 1, "random, late stores"),
    "batch tiles after another": ((4, 11, 16, 16), (1, 2, 8, 3, 1, 2), (1, 2, 8, 2, 4, 2), 2, "starving, late stores"),
    "device memory": ((5, 9, 40, 50), (0, 2, 20, 8, 5, 1), (0, 2, 20, 8, 8, 1), 3, "reversed"),
    "a segment of all steps": ((5, 2, 8, 51), (1, 2, 4, 2, 3, 1), (1, 2, 4, 2, 4, 1), 5, "in order"),
}


@pytest.mark.parametrize("case", WITHOUT_GROUPS)
def test_without_groups_of_warps(without_groups, tilings, case):
    shape, forward, backward, segment, schedule = WITHOUT_GROUPS[case]
    tilings(forward, backward, together=1)
    without_groups.schedule(schedule)
    check_adaptive(adaptive_arguments(*shape), "medium", segment)


@pytest.mark.parametrize("G", [1, 2, 3, 4, 15, 17, 19, 20, 30, 32, 33, 38, 48, 50, 51, 52, 54, 55, 59, 64])
def test_every_number_of_column_tiles(emulation, tilings, G):
    tilings((1, 2, 8, 4, 1, 1), (1, 2, 8, 4, 5, 1))
    check_adaptive(adaptive_arguments(3, 3, 13, G), "medium", 2, trace=False)
    check_mixed(adaptive_arguments(3, 3, 13, G))


def test_many_rows_of_a_large_controller(emulation, tilings):
    """Five warps share the sums of the same rows."""
    tilings((1, 2, 40, 8, 12, 1), (1, 2, 40, 8, 12, 1))
    check_adaptive(adaptive_arguments(2, 9, 77, 64), "medium", 2, trace=False)


@pytest.mark.parametrize(("precision", "G"), [("high", 50), ("highest", 64)])
def test_large_controllers_in_the_other_precisions(emulation, tilings, precision, G):
    tilings((1, 2, 8, 4, 1, 1), (1, 2, 8, 4, 5, 1))
    check_adaptive(adaptive_arguments(3, 3, 13, G), precision, 1)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("shape", "forward", "backward"),
    [
        pytest.param((6, 5, 31), (1, 3, 12, 3, 2, 2), (1, 3, 12, 2, 1, 2), id="cluster"),
        pytest.param((5, 9, 40), (0, 4, 12, 8, 3, 1), (0, 4, 12, 8, 4, 1), id="device memory"),
    ],
)
def test_static_matches_reference(emulation, tilings, shape, forward, backward, precision):
    torch.set_float32_matmul_precision(precision)
    tilings(forward, backward)
    emulation.schedule("random, late stores")
    arguments = static_arguments(*shape)
    outputs = ops.call("cuda", "gamma_rnn_sequence", *arguments, 1e-3, in_force(), True)
    exact = double(arguments)
    h, trace = reference.gamma_rnn_sequence(*exact, 1e-3, True)
    kind = f"{precision} products"
    expected = [h, h[-1], trace.a]
    assert_all_close(("h", "h_last", "a"), outputs, tuple(expected), kind)
    for used in (slice(None), slice(1, 2)):
        actual = gradients(list(outputs[used]), arguments, retain_graph=True)
        assert_all_close(STATIC, tuple(actual), tuple(gradients(expected[used], exact, retain_graph=True)), kind)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_bits_do_not_depend_on_who_runs_when(emulation, tilings, precision):
    torch.set_float32_matmul_precision(precision)
    arguments = adaptive_arguments(5, 7, 24, 10)
    tilings((1, 3, 8, 3, 1, 2), (0, 2, 12, 4, 2, 1))
    results = []
    for schedule in SCHEDULES:
        emulation.schedule(schedule)
        outputs, actual = run_adaptive(arguments, 2)
        results.append([*outputs, *actual])
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_checkpoints_give_the_bits_of_all_state(emulation, tilings, precision):
    """The state is kept as the next step takes it: computed again, it is the same."""
    torch.set_float32_matmul_precision(precision)
    arguments = adaptive_arguments(7, 3, 16, 10)
    tilings((1, 2, 8, 3, 1, 1), (1, 2, 8, 3, 2, 1))
    results = [run_adaptive(arguments, segment)[1] for segment in (1, 2, 3, 7)]
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_all_outputs_are_written(emulation, tilings, precision):
    """Padding, too: torch.compile's checks compare outputs bit for bit."""
    tilings((1, 2, 8, 3, 1, 1), (1, 2, 8, 3, 2, 1))
    arguments = [x.detach() for x in adaptive_arguments(5, 3, 13, 10)]
    torch.use_deterministic_algorithms(True)  # memory that is not written is NaN
    try:
        for segment in (1, 2):
            outputs = ops.call("cuda", "aru_sequence", *arguments, 1e-3, precision, segment, True)
            assert all(x.isfinite().all() for x in outputs)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(("precision", "form"), cuda.FORMS.items())
def test_both_languages_agree_on_the_kept_state(emulation, precision, form):
    for B, H, G in ((100, 400, 50), (3, 13, 10), (1, 1, 1), (5, 33, 64)):
        elements = cuda.kept_elements(7, B, H, G, torch.float32, precision, 1)
        assert 4 * elements == 8 * emulation.module.kept_slot_bytes(form, (7, B, H, G))


def test_both_languages_agree_on_the_columns_of_the_units(emulation):
    for G in range(1, 65):
        columns = torch.arange(8 * -(-G // 8))
        units = cuda._of_units(columns, 0, G)
        assert [emulation.module.unit_of(column, G) for column in units.tolist()] == list(range(G))
        others = set(columns.tolist()) - set(units.tolist())
        assert all(emulation.module.unit_of(column, G) >= G for column in others)


def test_precision_switched_between_the_passes(emulation, tilings):
    """The kept state stays what the forward pass made of it."""
    tilings((1, 2, 8, 3, 1, 1), (1, 2, 8, 3, 2, 1))
    arguments = adaptive_arguments(5, 3, 16, 10)
    exact = double(arguments)
    expected = gradients([reference.aru_sequence(*exact)[0]], exact)
    for first, second in (("medium", "highest"), ("highest", "medium")):
        for segment in (1, 2):
            torch.set_float32_matmul_precision(first)
            h = ops.call("cuda", "aru_sequence", *arguments, 1e-3, in_force(), segment, False)[0]
            torch.set_float32_matmul_precision(second)
            assert_all_close(ADAPTIVE, tuple(gradients([h], arguments)), tuple(expected), "medium products")


def test_one_bad_sequence_does_not_touch_the_others(emulation, tilings):
    torch.set_float32_matmul_precision("highest")
    tilings((1, 2, 8, 4, 1, 2), (1, 2, 8, 4, 2, 2))
    arguments = adaptive_arguments(4, 5, 13, 6)
    clean_h, _, clean_g, *_ = ops.call("cuda", "aru_sequence", *arguments, 1e-3, in_force(), 0, False)
    for bad in (float("nan"), float("inf")):
        with torch.no_grad():
            arguments[0][1, 3, 1] = bad
        h, _, g, *_ = ops.call("cuda", "aru_sequence", *arguments, 1e-3, in_force(), 0, False)
        others = [0, 1, 2, 4]
        assert torch.equal(h[:, others], clean_h[:, others])
        assert torch.equal(g[others], clean_g[others])
        assert not h[1:, 3].isfinite().all()


def test_saturated_controllers_have_no_gradient(emulation, tilings):
    """tanh rounds to 1 and 1 - g² to 0, in every precision."""
    tilings((1, 2, 4, 2, 1, 1), (1, 2, 4, 2, 2, 1))
    arguments = adaptive_arguments(4, 2, 8, 5)
    with torch.no_grad():
        arguments[6] += 40.0  # bias_g
    for precision in PRECISIONS:
        torch.set_float32_matmul_precision(precision)
        (g, *_), actual = run_adaptive(arguments, 1)
        assert (g == 1).all()
        assert (actual[4] == 0).all()
        assert (actual[5] == 0).all()


def test_empty_batch(emulation):
    arguments = adaptive_arguments(3, 0, 4, 2)
    outputs, actual = run_adaptive(arguments, 1, trace=False)
    assert [x.shape for x in outputs] == [(0, 4, 2), (0, 4)]
    assert all((x == 0).all() for x in actual)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_sequence_continues_where_it_stopped(emulation, precision):
    """Bit for bit: the state that is returned is the one that the next step takes."""
    arguments = [x.detach() for x in adaptive_arguments(6, 3, 12, 5)]
    whole = ops.call("cuda", "aru_sequence", *arguments, 1e-3, precision, 0, False)
    xp, h, g, *weights = arguments
    parts = []
    for part in xp.split(2):
        part, h, g, *_ = ops.call("cuda", "aru_sequence", part, h, g, *weights, 1e-3, precision, 0, False)
        parts.append(part)
    for own, expected in zip((torch.cat(parts), h, g), whole[:3], strict=True):
        assert torch.equal(own, expected)


def test_large_weights_and_states_stay_finite_in_16_bits(emulation):
    """Beyond the range of float16 they count as its largest numbers: infinite ones would make NaN."""
    arguments = [x.detach() for x in adaptive_arguments(4, 2, 8, 6)]
    arguments[2] = arguments[2] * 1e6
    arguments[5] = arguments[5] * 1e6
    torch.set_float32_matmul_precision("medium")
    outputs, actual = run_adaptive([x.requires_grad_() for x in arguments], 1)
    assert all(x.isfinite().all() for x in (*outputs, *actual))


@pytest.mark.parametrize("factors", RANGES.values(), ids=RANGES)
def test_mixed_products_have_the_range_of_float32(emulation, factors):
    check_mixed(one_signed_arguments(6, 3, 24, 13, factors))


def test_mixed_products_with_weights_of_every_size(emulation):
    """One power of two serves all weights of a matrix; the largest leaves the others their bits."""
    arguments = [x.detach() for x in adaptive_arguments(6, 3, 24, 13)]
    g0, weight_ag, weight_gg, bias_g, weight_gc = arguments[2], *arguments[4:8]
    for x in (g0, weight_ag, weight_gg, bias_g):  # unit 0 is 0 at every step
        x.select(-1 if x is g0 else 0, 0).zero_()
    weight_gg[1:, 0] = 60000
    weight_gc[:, 0] = 60000
    check_mixed(arguments)
    weight_gg[1:, 0] = float("inf")
    arguments[2] = 1e6 * g0
    outputs = mixed_outputs(arguments)
    assert all(x.isfinite().all() for x in outputs)


def mixed_outputs(arguments: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """All outputs of a forward pass at "high" with ARU_CUDA_HIGH=mixed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARU_CUDA_HIGH", "mixed")
        return ops.call("cuda", "aru_sequence", *arguments, 1e-3, "high", 0, True)[:-1]


def test_mixed_products_have_the_same_bits_however_threads_run(emulation, tilings):
    arguments = [x.detach() for x in adaptive_arguments(5, 7, 24, 10)]
    tilings((1, 3, 8, 3, 1, 2), (1, 3, 8, 3, 1, 2))
    results = []
    for schedule in SCHEDULES:
        emulation.schedule(schedule)
        results.append(mixed_outputs(arguments))
    assert all(torch.equal(x, y) for other in results[1:] for x, y in zip(results[0], other, strict=True))


def test_mixed_products_serve_what_they_can(emulation, monkeypatch):
    """Forward passes that keep no state, on a GPU with groups of warps; TF32 serves the rest."""
    sizes = (4, 3, 16, 6)

    def form(precision: str = "high", segment: int = 0, sizes: tuple[int, int, int, int] = sizes) -> int:
        return cuda.forward_form(0, precision, segment, sizes)

    assert form() == cuda.FORMS["high"]
    monkeypatch.setenv("ARU_CUDA_HIGH", "mixed")
    assert form() == cuda.MIXED
    assert form(segment=1) == form(sizes=(4, 3, 16, 0)) == cuda.FORMS["high"]
    assert [form(name) for name in ("medium", "highest")] == [cuda.FORMS["medium"], cuda.FORMS["highest"]]
    check_adaptive(adaptive_arguments(*sizes), "high", 1)
    arguments = [x.detach() for x in adaptive_arguments(*sizes)]
    monkeypatch.delenv("ARU_CUDA_HIGH")
    tf32 = ops.call("cuda", "aru_sequence", *arguments, 1e-3, "high", 0, True)
    assert not torch.equal(mixed_outputs(arguments)[2], tf32[2])
    monkeypatch.setenv("ARU_CUDA_HIGH", "mixed")
    emulation.device(*DEVICES["A100"])
    assert form() == cuda.FORMS["high"]
    assert cuda._plan(0, cuda.MIXED, False, 3, 16, 6) == (
        "its `mixed` kernels serve the forward pass of the adaptive network on GPUs with groups of warps (sm_90a), "
        "got emulated device"
    )


def test_a_wrong_form_is_refused(emulation, monkeypatch):
    monkeypatch.setenv("ARU_CUDA_HIGH", "fast")
    arguments = [x.detach() for x in adaptive_arguments(2, 3, 8, 4)]
    sentence = "the environment variable ARU_CUDA_HIGH is 'fast', expected 'tf32' or 'mixed'."
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        ops.call("cuda", "aru_sequence", *arguments, 1e-3, "high", 0, False)


# Precisions in which the shared memory does not hold the largest sizes.
SERVES_IN_PART = {"A100": ("highest",), "RTX 4090": ("high", "highest")}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("device", DEVICES)
def test_plans_fit_the_device(emulation, device, precision):
    """...and what is promised is served: H to 1024 and G to 64."""
    multiprocessors, shared_bytes, clusters = DEVICES[device]
    emulation.device(*DEVICES[device])
    torch.set_float32_matmul_precision(precision)
    form = cuda.FORMS[precision]
    for B, H, G in ((100, 400, 50), (32, 64, 16), (1, 1, 1), (128, 512, 64), (7, 1023, 0), (100, 1024, 64)):
        for backward in (False, True):
            plan = cuda._plan(0, form, backward, B, H, G)
            if isinstance(plan, str):
                assert precision in SERVES_IN_PART.get(device, ()), plan
                assert H >= 512
                assert plan.startswith(f"the recurrent weights of H = {H} neurons do not fit the shared memory of ")
                continue
            cluster, blocks, slice_, batch, warps, groups, together = plan
            assert blocks * slice_ >= H > (blocks - 1) * slice_
            assert slice_ % 4 == 0
            assert batch <= min(8, B)
            assert groups * batch < B + batch
            assert groups * blocks <= multiprocessors
            assert blocks <= clusters or not cluster
            assert emulation.module.shared_bytes(form, backward, (1, B, H, G), plan) <= shared_bytes
            if not backward:
                assert warps * 32 >= slice_ * batch
            assert together == (4 if precision == "medium" and G and clusters else 1)
            assert together == 1 or warps >= complete(plan[:6], precision)[4]


def test_refusals(emulation):
    assert cuda.refuses(400, 50) is None
    assert cuda.refuses(400, 65) == "its kernels take at most 64 controller units, got G = 65"
    emulation.device(8, 101376, 0)
    assert cuda.refuses(2000, 50).startswith(
        "the recurrent weights of H = 2000 neurons do not fit the shared memory of emulated device (8 multiprocessors"
    )
    with pytest.raises(RuntimeError, match=r"^backend 'cuda' cannot run the sequence: the recurrent weights of H = "):
        ops.call("cuda", "aru_sequence", *adaptive_arguments(1, 1, 2000, 4), 1e-3, "highest", 0, False)


def test_the_planned_tilings_run(emulation):
    for shape in ((2, 9, 70, 16), (2, 3, 33, 7)):
        check_adaptive(adaptive_arguments(*shape), "high", 1)
    emulation.device(8, 101376, 0)
    check_adaptive(adaptive_arguments(3, 9, 70, 16), "highest", 2)


def test_segments(emulation, monkeypatch):
    monkeypatch.delenv("ARU_STATE_BUDGET", raising=False)
    assert cuda.choose_segment(64, 32, 64, 16, torch.float32, "medium") == 1
    assert cuda.choose_segment(784, 100, 400, 50, torch.float32, "medium") == cuda.SEGMENT_HALF
    assert cuda.choose_segment(784, 100, 400, 50, torch.float32, "highest") == cuda.SEGMENT
    everything = 4 * cuda.kept_elements(784, 100, 400, 50, torch.float32, "medium", 1)
    assert everything == 785 * 100 * 400 * 56 * 2  # float16, in column tiles
    monkeypatch.setenv("ARU_STATE_BUDGET", "100G")
    assert cuda.choose_segment(784, 100, 400, 50, torch.float32, "medium") == 1
    monkeypatch.setenv("ARU_STATE_BUDGET", "256M")
    segment = cuda.choose_segment(784, 100, 400, 50, torch.float32, "medium")
    assert segment > cuda.SEGMENT
    assert 4 * cuda.kept_elements(784, 100, 400, 50, torch.float32, "medium", segment) <= 256 * 2**20


def test_a_launch_that_fails_says_why(emulation):
    """The emulation has no kernel of this form for so many units."""
    with pytest.raises(RuntimeError, match=r"^emulation: no kernel for so many column tiles"):
        ops.call("cuda", "aru_sequence", *adaptive_arguments(2, 8, 16, 20), 1e-3, "high", 0, False)


@pytest.mark.parametrize(("precision", "warps", "fewest"), [("highest", 1, 2), ("medium", 3, 4)])
def test_too_few_warps_are_refused(emulation, monkeypatch, precision, warps, fewest):
    monkeypatch.setattr(cuda, "_plan", lambda *arguments: (1, 2, 8, 8, warps, 1, 4 if precision == "medium" else 1))
    with pytest.raises(ValueError, match=rf"^warps: got {warps}, expected at least {fewest} for this tiling\.$"):
        ops.call("cuda", "aru_sequence", *adaptive_arguments(2, 8, 16, 4), 1e-3, precision, 0, False)
