"""γ's Triton kernels against the reference: every broadcasting, strides, extremes; and the elementary functions."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

import aru_kernels.functional as F
from aru_kernels import reference, use_backend
from aru_kernels.triton import gamma as launchers
from aru_kernels.triton.kernels import math
from benchmarks import gamma_tiles
from support.tolerances import assert_all_close, assert_close, ulp_error

NAMES = ("y", "dx", "dn", "ds")


def run(gamma, x: Tensor, n: Tensor, s: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
    """The value and the gradients of <dy, γ> for x, n and s."""
    leaves = [t.detach().requires_grad_() for t in (x, n, s)]  # detach() keeps strides
    y = gamma(*leaves)
    return (y.detach(), *torch.autograd.grad(y, leaves, dy))


def run_triton(*args: Tensor, n_floor: float = 1e-3) -> tuple[Tensor, ...]:
    with use_backend("triton"):
        return run(lambda x, n, s: F.gamma(x, n, s, n_floor), *args)


def check_against_reference(*args: Tensor) -> None:
    """In the dtype at hand, against the reference in float64."""
    expected = run(reference.gamma, *(t.double() for t in args))
    for name, actual, exact in zip(NAMES, run_triton(*args), expected, strict=True):
        assert actual.dtype == args[0].dtype
        assert_close(name, actual, exact, "element" if name == "y" else "sum")


SHAPES = [
    ((), (), ()),
    ((0,), (), (1,)),
    ((3, 0, 2), (2,), (0, 1)),
    ((1300,), (), (1300,)),  # one dimension, more than one row of blocks
    ((7, 513), (513,), (7, 1)),
    ((3, 5, 33), (33,), (33,)),
    ((3, 5, 33), (5, 1), (3, 1, 1)),
    ((2, 3, 4, 5), (3, 1, 5), (2, 1, 4, 1)),
    ((2, 3, 2, 3, 4, 3), (2, 1, 2, 1, 4, 1), (3, 1, 3, 1, 3)),  # more dimensions than the kernels walk
    ((5, 4), (3, 5, 4), (5, 4)),  # the parameter is larger than x
    ((1, 70), (70,), (1, 1)),
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("shape", "n_shape", "s_shape"), SHAPES, ids=str)
def test_shapes(shape, n_shape, s_shape, dtype):
    full = torch.broadcast_shapes(shape, n_shape, s_shape)
    # without cancellation in the sums, where float32 has no digits to spare
    x, n, s, dy = (torch.rand(sizes).to(dtype) for sizes in (shape, n_shape, s_shape, full))
    check_against_reference(4 * x - 2, n + 3, s / 4, dy)


@st.composite
def laid_out(draw: st.DrawFn, shape: tuple[int, ...]) -> Tensor:
    """Random numbers of this shape: contiguous, permuted, every second element, offset or of stride 0."""
    how = draw(st.sampled_from(["contiguous", "permuted", "sliced", "offset", "expanded"]))
    if how == "permuted":
        order = draw(st.permutations(range(len(shape))))
        stored = torch.randn([shape[d] for d in order], dtype=torch.float64)
        return stored.permute([order.index(d) for d in range(len(shape))])
    if how == "sliced" and shape:
        return torch.randn(*shape[:-1], 2 * shape[-1] + 1, dtype=torch.float64)[..., 1::2]
    if how == "offset":
        return torch.randn(torch.Size(shape).numel() + 1, dtype=torch.float64)[1:].view(shape)
    if how == "expanded":
        return torch.randn([draw(st.sampled_from([size, 1])) for size in shape], dtype=torch.float64).expand(shape)
    return torch.randn(shape, dtype=torch.float64)


@st.composite
def operands(draw: st.DrawFn) -> tuple[Tensor, ...]:
    torch.manual_seed(draw(st.integers(0, 2**16)))
    shape = tuple(draw(st.lists(st.sampled_from([0, 1, 2, 3, 5, 8]), max_size=5)))
    x, dy = 3 * draw(laid_out(shape)), draw(laid_out(shape))

    def parameter() -> Tensor:
        kept = shape[draw(st.integers(0, len(shape))) :]
        return draw(laid_out(tuple(draw(st.sampled_from([size, 1])) for size in kept)))

    return x, parameter(), parameter(), dy


@settings(max_examples=30)
@given(operands())
def test_any_shape_broadcast_and_stride(args):
    check_against_reference(*args)


@pytest.mark.parametrize(("n_shape", "s_shape"), [((), (40,)), ((40,), (101, 1)), ((101, 1), (101, 40))], ids=str)
def test_several_blocks_a_program(n_shape, s_shape, monkeypatch):
    """The sums of a program that walks down the rows, block by block; the last blocks lie beyond the last row."""
    monkeypatch.setattr(launchers, "_BWD_BLOCK", 128)
    monkeypatch.setattr(launchers, "_BUSY", 8)
    seen = []
    true = launchers.gamma_bwd_kernel.run
    monkeypatch.setattr(launchers.gamma_bwd_kernel, "run", lambda *a, **k: seen.append(k["TILES"]) or true(*a, **k))
    x, n, s, dy = (torch.randn(sizes, dtype=torch.float64) for sizes in ((101, 40), n_shape, s_shape, (101, 40)))
    check_against_reference(x, n + 3, s, dy)
    assert seen == [8]


@pytest.mark.parametrize(
    ("n_shape", "s_shape", "launches"),
    [
        ((), (), 1),
        ((40,), (40,), 1),
        ((), (40,), 2),
        ((70, 1), (70, 1), 1),
        ((40,), (70, 40), 1),
        ((70, 40), (70, 40), 0),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_partial_sums_of_n_and_s(n_shape, s_shape, launches, dtype, monkeypatch):
    """Added up together where they are as many, by blocks that the parts fill several times."""
    monkeypatch.setattr(launchers, "_BWD_BLOCK", 64)
    monkeypatch.setattr(launchers, "_SUMS_BLOCK", 32)
    true, seen = launchers.gamma_sums_kernel.run, []
    monkeypatch.setattr(launchers.gamma_sums_kernel, "run", lambda *a, **k: seen.append(k["grid"]) or true(*a, **k))
    x, dy = torch.randn(70, 40), torch.randn(70, 40)
    n, s = (torch.rand(shape) + 1 for shape in (n_shape, s_shape))
    rounded = [t.to(dtype) for t in (x, n, s, dy)]
    actual = run_triton(*rounded)
    assert len(seen) == launches
    expected = run(reference.gamma, *(t.double() for t in rounded))
    for name, value, exact in zip(NAMES[2:], actual[2:], expected[2:], strict=True):
        assert value.dtype == dtype
        assert_close(name, value, exact, "element" if dtype == torch.bfloat16 else "sum")


def test_sums_of_many_terms():
    """2^16 + 1 terms of equal size: one float32 accumulator would be off by 1e-5 and more."""
    x, dy = torch.full((2**16 + 1,), 0.3), torch.ones(2**16 + 1)
    n, s = torch.tensor(2.0), torch.tensor(0.4)
    _, _, dn, ds = run_triton(x, n, s, dy)
    one = run(reference.gamma, *(t.double() for t in (x[0], n, s, dy[0])))
    assert_close("dn", dn, one[2] * len(x), "element")
    assert_close("ds", ds, one[3] * len(x), "element")


def test_gradcheck():
    x = torch.tensor([[0.0, 0.7, -1.3], [4.0, -5.0, 0.0]], dtype=torch.float64, requires_grad=True)
    n = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64, requires_grad=True)
    s = torch.tensor([[0.3], [1.7]], dtype=torch.float64, requires_grad=True)
    with use_backend("triton"):
        assert gradcheck(F.gamma, (x, n, s))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy says that n x overflows
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_extreme_values(dtype):
    v = torch.tensor([0.0, -0.0, 1e30, -1e30, 1.0, -1.0, 1e-30, 88.0, -88.0, 710.0, -710.0], dtype=dtype)
    x, n, s = torch.cartesian_prod(v, v, torch.tensor([0.0, 0.5, 1.0, -2.0], dtype=dtype)).unbind(1)
    actual = run_triton(x, n, s, torch.ones_like(x))
    expected = run(reference.gamma, *(t.double() for t in (x, n, s, torch.ones_like(x))))
    for name, a, e in zip(NAMES, actual, expected, strict=True):
        small = e.abs() < 1e25
        assert_close(name, a[small], e[small], "element")
        assert_close(f"{name} where large", a, e, "element")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_infinite_x():
    x = torch.tensor([float("inf"), float("-inf")])
    with use_backend("triton"):
        assert F.gamma(x, torch.tensor(2.0), torch.tensor(0.5)).tolist() == [float("inf"), 0.0]


def test_n_floor():
    x, s, dy = torch.randn(3, 50, dtype=torch.float64)
    n = torch.linspace(-0.2, 0.2, 50, dtype=torch.float64)
    n[:2] = torch.tensor([0.0, -0.0])
    actual = run_triton(x, n, s, dy, n_floor=0.1)
    expected = run(lambda x, n, s: reference.gamma(x, n, s, 0.1), x, n, s, dy)
    assert_all_close(NAMES, actual, expected, "element")
    assert not torch.equal(actual[0], run_triton(x, n, s, dy)[0])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("which", [0, 1, 2, 3])
def test_a_bad_element_touches_no_other(bad, which):
    """x, n, s or dy of one neuron at fault: all others have the same bits as before."""
    neurons, broken = 37, 18
    args = list(torch.randn(4, 5, neurons).unbind(0))
    args[1], args[2] = args[1][0], args[2][0]
    before = run_triton(*args)
    args[which] = args[which].clone()
    args[which][..., broken] = bad
    after = run_triton(*args)
    others = torch.arange(neurons) != broken
    for name, b, a in zip(NAMES, before, after, strict=True):
        assert torch.equal(b[..., others], a[..., others]), name
    if bad != bad:
        assert any(a[..., broken].isnan().all() for a in after)


@pytest.mark.parametrize("dtype", [torch.float16], ids=str)  # the interpreter cannot compute with bfloat16
def test_narrow_tensors_go_to_the_kernel_as_they_are(dtype, monkeypatch):
    """Computed in float32, rounded once, without a copy in float32."""
    seen = []
    true = launchers.gamma_fwd_kernel.run
    monkeypatch.setattr(launchers.gamma_fwd_kernel, "run", lambda *a, **k: seen.append(a[0].dtype) or true(*a, **k))
    args = [torch.randn(sizes).to(dtype) for sizes in ((30, 40), (40,), (), (30, 40))]
    actual, exact = run_triton(*args), run_triton(*(t.float() for t in args))
    assert seen == [dtype, torch.float32]
    for name, a, e in zip(NAMES, actual, exact, strict=True):
        assert a.dtype == dtype
        assert torch.equal(a, e.to(dtype)), name


@triton.jit
def _elementary_kernel(x_ptr, tanh_ptr, log1p_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(x_ptr + i)
    tl.store(tanh_ptr + i, math.tanh(x))
    tl.store(log1p_ptr + i, math._log1p_unit(tl.minimum(tl.abs(x), 1)))


def elementary(x: Tensor) -> tuple[Tensor, Tensor]:
    """tanh(x) and log1p(min(|x|, 1)) by the kernels' functions."""
    padded = torch.zeros(triton.next_power_of_2(len(x)), dtype=x.dtype)
    padded[: len(x)] = x
    results = torch.empty_like(padded), torch.empty_like(padded)
    _elementary_kernel[(1,)](padded, *results, len(padded))
    return tuple(r[: len(x)] for r in results)


def test_error_of_tanh_and_log1p():
    x = torch.cat([torch.linspace(-100, 100, 40_000), torch.linspace(-1, 1, 20_000), torch.logspace(-30, 0, 4000)])
    tanh, log1p = elementary(x)
    exact = x.double()
    assert ulp_error(tanh, exact.tanh()) < 2.5
    assert ulp_error(log1p, exact.abs().clamp(max=1).log1p()) < 4
    wide_tanh, wide_log1p = elementary(exact)
    assert_close("tanh", wide_tanh, exact.tanh(), "element")
    assert_close("log1p", wide_log1p, exact.abs().clamp(max=1).log1p(), "element")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_tanh_saturates_to_one(dtype):
    """Exactly, so that a saturated unit passes no gradient; and what is not a number stays so."""
    limit = 9.02 if dtype == torch.float32 else 19.1
    x = torch.cat([torch.linspace(limit, 50, 500), torch.tensor([1e4, 1e30, float("inf")])]).to(dtype)
    assert (elementary(x)[0] == 1).all()
    assert (elementary(-x)[0] == -1).all()
    assert elementary(torch.tensor([float("nan")], dtype=dtype))[0].isnan().all()


def test_the_times_of_other_blocks_can_be_taken(capsys):
    """benchmarks/gamma_tiles.py, which checks every choice before it times it."""
    gamma_tiles.main("cpu", rows=9, columns=7, seconds=0.0)
    printed = capsys.readouterr().out
    assert printed.count(", backward") == printed.count(", forward") == 3
    assert printed.count(" stages ") == 27
