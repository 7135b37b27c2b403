"""γ's C++ kernel (backend cpu): every shape, stride and instruction set, against the reference."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

import aru_kernels.functional as F
from aru_kernels import cpu, reference, use_backend
from support.helpers import needs_cpu_kernels, needs_fork
from support.tolerances import assert_all_close, assert_close, ulp_error

pytestmark = needs_cpu_kernels

NAMES = ("y", "dx", "dn", "ds")
ISAS = cpu._C.usable_isas() if cpu._C else []


@pytest.fixture(params=ISAS)
def isa(request):
    """Every instruction set that was built and that this processor has."""
    cpu._C.select_isa(request.param)
    yield request.param
    cpu._C.select_isa("auto")


def run(gamma, x: Tensor, n: Tensor, s: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
    """The value and the gradients of <dy, γ> for x, n and s."""
    leaves = [t.detach().requires_grad_() for t in (x, n, s)]  # detach() keeps strides
    y = gamma(*leaves)
    return (y.detach(), *torch.autograd.grad(y, leaves, dy))


def run_cpu(*args: Tensor) -> tuple[Tensor, ...]:
    with use_backend("cpu"):
        return run(F.gamma, *args)


def check_against_reference(x: Tensor, n: Tensor, s: Tensor, dy: Tensor) -> None:
    """In float64 and float32, against the reference in float64."""
    for dtype in (torch.float64, torch.float32):
        args = [t if t.dtype == dtype else _cast_keeping_strides(t, dtype) for t in (x, n, s, dy)]
        expected = run(reference.gamma, *(t.double() for t in args))
        for name, actual, true in zip(NAMES, run_cpu(*args), expected, strict=True):
            assert actual.dtype == dtype
            assert_close(name, actual, true, "element" if name == "y" else "sum")


def _cast_keeping_strides(t: Tensor, dtype: torch.dtype) -> Tensor:
    storage = t.untyped_storage()
    whole = torch.empty(0, dtype=t.dtype).set_(storage, 0, (storage.nbytes() // t.element_size(),), (1,)).to(dtype)
    return whole.as_strided(t.shape, t.stride(), t.storage_offset())


@st.composite
def laid_out(draw: st.DrawFn, shape: tuple[int, ...]) -> Tensor:
    """Random numbers of this shape: contiguous, permuted, every second element, reversed in memory or of stride 0."""
    how = draw(st.sampled_from(["contiguous", "permuted", "sliced", "offset", "expanded"]))
    if how == "permuted":
        order = draw(st.permutations(range(len(shape))))
        stored = torch.randn([shape[d] for d in order], dtype=torch.float64)
        return stored.permute([order.index(d) for d in range(len(shape))])
    if how == "sliced" and shape:
        stored = torch.randn(*shape[:-1], 2 * shape[-1] + 1, dtype=torch.float64)
        return stored[..., 1::2]
    if how == "offset":  # contiguous, but not aligned to a vector
        count = torch.Size(shape).numel()
        return torch.randn(count + 1, dtype=torch.float64)[1:].view(shape)
    if how == "expanded":
        kept = [draw(st.sampled_from([size, 1])) for size in shape]
        return torch.randn(kept, dtype=torch.float64).expand(shape)
    return torch.randn(shape, dtype=torch.float64)


@st.composite
def broadcast_shape(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Leading dimensions dropped, others perhaps 1."""
    kept = shape[draw(st.integers(0, len(shape))) :]
    return tuple(draw(st.sampled_from([size, 1])) for size in kept)


@st.composite
def operands(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(draw(st.integers(0, 2**16)))
    sizes = st.sampled_from([0, 1, 1, 2, 3, 4, 5, 8, 17])
    shape = tuple(draw(st.lists(sizes, max_size=4)))
    x, dy = 3 * draw(laid_out(shape)), draw(laid_out(shape))
    n, s = (draw(broadcast_shape(shape).flatmap(laid_out)) for _ in range(2))
    return x, n, s, dy


@given(operands())
def test_any_shape_broadcast_and_stride(args):
    check_against_reference(*args)


@pytest.mark.parametrize(
    ("shape", "n_shape", "s_shape"),
    [
        ((), (), ()),
        ((0,), (), (1,)),
        ((3, 0, 2), (2,), (0, 1)),
        ((1300,), (), (1300,)),  # more than one block
        ((7, 513), (513,), (7, 1)),
        ((3, 5, 33), (33,), (33,)),
        ((3, 5, 33), (5, 1), (3, 1, 1)),
        ((2, 3, 4, 5), (3, 1, 5), (2, 1, 4, 1)),
        ((5, 4), (3, 5, 4), (5, 4)),  # the parameter is larger than x
        ((100, 1), (1, 100), ()),
        ((50_000,), (1,), (50_000,)),
        ((40, 2000), (2000,), (40, 1)),
    ],
)
def test_shapes_by_hand_on_every_isa(isa, shape, n_shape, s_shape):
    full = torch.broadcast_shapes(shape, n_shape, s_shape)
    x, n, s, dy = (torch.randn(sizes, dtype=torch.float64) for sizes in (shape, n_shape, s_shape, full))
    check_against_reference(x, n + 3, s, dy)


def test_gradient_of_a_broadcast_parameter_is_its_sum():
    x, dy = torch.randn(2, 6, 4, 3, dtype=torch.float64)
    n, s = torch.randn(2, 4, 1, dtype=torch.float64)
    full = run_cpu(x, n.expand(6, 4, 3).contiguous(), s.expand(6, 4, 3).contiguous(), dy)
    small = run_cpu(x, n, s, dy)
    assert_close("dn", small[2], full[2].sum((0, 2))[:, None], "sum")
    assert_close("ds", small[3], full[3].sum((0, 2))[:, None], "sum")


def test_sums_of_float32_are_accumulated_in_double():
    """2^22 + 1 terms of equal size: float32 accumulation would be off by 1e-3 and more."""
    x, dy = torch.full((2**22 + 1,), 0.3), torch.ones(2**22 + 1)
    n, s = torch.tensor(2.0), torch.tensor(0.4)
    _, _, dn, ds = run_cpu(x, n, s, dy)
    one = run(reference.gamma, *(t.double() for t in (x[0], n, s, dy[0])))
    assert_close("dn", dn, one[2] * len(x), "element")
    assert_close("ds", ds, one[3] * len(x), "element")


def test_gradcheck():
    x = torch.tensor([[0.0, 0.7, -1.3], [4.0, -5.0, 0.0]], dtype=torch.float64, requires_grad=True)
    n = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64, requires_grad=True)
    s = torch.tensor([[0.3], [1.7]], dtype=torch.float64, requires_grad=True)
    with use_backend("cpu"):
        assert gradcheck(F.gamma, (x, n, s))


# Against exact values in ulp of float32; z = n x is exact here, because n is a power of two.  Terms of one sign only:
# where two terms cancel, no arithmetic of this width keeps the digits.
ULP = {  # (quantity, s): at most; measured on avx2 and generic
    ("y", 0.0): 3.0,  # 2.3
    ("y", 0.5): 3.0,  # 2.4
    ("y", 1.0): 3.0,  # 2.1
    ("dx", 0.0): 3.0,  # 2.1
    ("dx", 0.5): 4.5,  # 3.6
    ("dx", 1.0): 4.5,  # 3.6
    ("dn", 0.0): 3.5,  # 2.7
    ("dn", 1.0): 5.0,  # 4.1
}


@pytest.mark.parametrize("n", [1.0, 4.0, 0.125, -2.0])
def test_error_in_ulp(isa, n):
    x = torch.cat([torch.linspace(-86, 86, 20_001), torch.logspace(-30, 1, 2000), -torch.logspace(-30, 1, 2000)]) / abs(
        n
    )
    n, dy = torch.full_like(x, n), torch.ones_like(x)
    for s in (0.0, 0.5, 1.0):
        args = [x, n, torch.full_like(x, s), dy]
        actual, exact = run_cpu(*args), run(reference.gamma, *(t.double() for t in args))
        for name, a, e in zip(NAMES, actual, exact, strict=True):
            if (name, s) not in ULP or (s == 0.5 and n[0] < 0):
                continue
            normal = e.abs() > 1e-36
            error = ulp_error(a[normal], e[normal])
            assert error <= ULP[name, s], f"{name} at s = {s}: {error:.2f} ulp"


def test_error_of_ds_against_its_terms(isa):
    """∂γ/∂s = σ - softplus/n cancels where the two meet; the error stays small against either."""
    x = torch.linspace(-43, 43, 20_001)
    n, s, dy = torch.full_like(x, 2.0), torch.zeros_like(x), torch.ones_like(x)
    ds = run_cpu(x, n, s, dy)[3]
    exact = run(reference.gamma, *(t.double() for t in (x, n, s, dy)))[3]
    term = exact.abs().maximum(torch.sigmoid(2 * x.double()))
    assert ((ds - exact).abs() / term).max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_values(isa, dtype):
    v = torch.tensor([0.0, -0.0, 1e30, -1e30, 1.0, -1.0, 1e-30, 88.0, -88.0, 710.0, -710.0], dtype=dtype)
    x, n, s = torch.cartesian_prod(v, v, torch.tensor([0.0, 0.5, 1.0, -2.0], dtype=dtype)).unbind(1)
    actual = run_cpu(x, n, s, torch.ones_like(x))
    expected = run(reference.gamma, *(t.double() for t in (x, n, s, torch.ones_like(x))))
    for name, a, e in zip(NAMES, actual, expected, strict=True):
        small = e.abs() < 1e25
        assert_close(name, a[small], e[small], "element")
        assert_close(f"{name} where large", a, e, "element")


def test_infinite_x():
    x = torch.tensor([float("inf"), float("-inf")])
    n, s = torch.tensor(2.0), torch.tensor(0.5)
    for backend in ("cpu", "reference"):
        with use_backend(backend):
            assert F.gamma(x, n, s).tolist() == [float("inf"), 0.0]


def test_n_floor_is_used(isa):
    x, s, dy = torch.randn(3, 50, dtype=torch.float64)
    n = torch.linspace(-0.2, 0.2, 50, dtype=torch.float64)
    with use_backend("cpu"):
        actual = run(lambda x, n, s: F.gamma(x, n, s, n_floor=0.1), x, n, s, dy)
    expected = run(lambda x, n, s: reference.gamma(x, n, s, 0.1), x, n, s, dy)
    assert_all_close(NAMES, actual, expected, "element")
    assert not torch.equal(actual[0], run_cpu(x, n, s, dy)[0])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("which", [0, 1, 2, 3])
def test_a_bad_element_touches_no_other(bad, which):
    """x, n, s or dy of one neuron at fault: all others have the same bits as before."""
    neurons, broken = 37, 18
    args = list(torch.randn(4, 5, neurons).unbind(0))
    args[1], args[2] = args[1][0], args[2][0]
    before = run_cpu(*args)
    args[which] = args[which].clone()
    args[which][..., broken] = bad
    after = run_cpu(*args)
    others = torch.arange(neurons) != broken
    for name, b, a in zip(NAMES, before, after, strict=True):
        assert torch.equal(b[..., others], a[..., others]), name
    if bad != bad:
        assert any(a[..., broken].isnan().all() for a in after)


def test_padding_of_the_last_vector_is_not_summed(isa):
    for length in range(1, 40):
        x, dy = torch.randn(2, length, dtype=torch.float64)
        n, s = torch.tensor([2.0, 0.3], dtype=torch.float64)
        assert_all_close(NAMES, run_cpu(x, n, s, dy), run(reference.gamma, x, n, s, dy), "sum")


BIG = (300, 1500)
PARAMETERS = {"scalar": ((), ()), "per neuron": ((1500,), (1500,)), "per row": ((300, 1), (1500,)), "full": (BIG, BIG)}


@pytest.mark.parametrize("kind", PARAMETERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bits_do_not_depend_on_threads_or_runs(set_threads, kind, dtype):
    x, dy = torch.randn(2, *BIG, dtype=dtype)
    n, s = (torch.randn(sizes, dtype=dtype) for sizes in PARAMETERS[kind])
    set_threads(1)
    first = run_cpu(x, n, s, dy)
    for threads in (2, 2, 3, 1):
        set_threads(threads)
        for name, a, b in zip(NAMES, first, run_cpu(x, n, s, dy), strict=True):
            assert torch.equal(a, b), f"{name} with {threads} threads"
    assert_all_close(NAMES, first, run(reference.gamma, *(t.double() for t in (x, n, s, dy))), "sum")


def test_two_python_threads_at_once():
    jobs = [torch.randn(4, 200, 300).unbind(0) for _ in range(8)]
    serial = [run_cpu(*job) for job in jobs]
    start = threading.Barrier(2)

    def work(part: list) -> list:
        start.wait()
        return [run_cpu(*job) for job in part]

    with ThreadPoolExecutor(2) as pool:
        halves = list(pool.map(work, (jobs[:4], jobs[4:])))
    for a, b in zip(serial, halves[0] + halves[1], strict=True):
        for name, x, y in zip(NAMES, a, b, strict=True):
            assert torch.equal(x, y), name


FORK = """
import os, sys, torch, warnings
from aru_kernels import functional as F
warnings.simplefilter("ignore")
torch.set_num_threads(2)
x = torch.randn(500, 500)
before = F.gamma(x, 2.0, 0.5)  # starts the threads of OpenMP
child = os.fork()
if child == 0:
    y = F.gamma(x, 2.0, 0.5)
    torch.set_num_threads(1)  # torch's own kernels hang in a forked child otherwise
    os._exit(0 if torch.equal(y, before) else 3)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
assert torch.equal(F.gamma(x, 2.0, 0.5), before)
sys.exit(code)
"""


@needs_fork
def test_after_fork(run_python):
    """OpenMP's threads do not live on in a forked child, such as a worker of a DataLoader."""
    result = run_python("-c", FORK, OMP_NUM_THREADS="2")
    assert result.returncode == 0, result.stderr


def test_generic_is_always_there():
    assert ISAS[-1] == "generic"
    assert cpu._C.isa() == ISAS[0]  # "auto" takes the best


def test_unknown_isa():
    with pytest.raises(ValueError, match=r"^isa is 'neon2', but this build on this processor has auto, .*generic\.$"):
        cpu._C.select_isa("neon2")
    assert cpu._C.isa() == ISAS[0]


def test_unknown_isa_in_the_environment(run_python):
    code = "import aru_kernels\nwith aru_kernels.use_backend('cpu'): aru_kernels.Gamma()(aru_kernels.Gamma().gain)"
    result = run_python("-c", code, ARU_CPU_ISA="neon2")
    assert result.returncode != 0
    assert "ARU_CPU_ISA is 'neon2', but this build on this processor has auto, " in result.stderr
    result = run_python("-c", code.replace("'cpu'", "'auto'"), ARU_CPU_ISA="neon2")
    assert result.returncode == 0
    assert result.stderr.count("The CPU kernels are not used.") == 1, result.stderr


def test_isa_in_the_environment(run_python):
    result = run_python("-c", "from aru_kernels import cpu; print(cpu._C.isa(), cpu.device())", ARU_CPU_ISA="generic")
    assert result.stdout.startswith("generic generic (of "), result.stderr
