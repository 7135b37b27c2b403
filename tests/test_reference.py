"""The equations in plain PyTorch, which every other test takes as the truth."""

from __future__ import annotations

import mpmath
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, jvp, vmap

from aru_kernels import convert, reference
from support.tolerances import assert_all_close, assert_close

DOUBLE = torch.float64
CONTROLLER = ("weight_ag", "weight_gg", "bias_g", "weight_gc", "bias_c")


def randn(*sizes: int, scale: float = 1.0) -> Tensor:
    return (scale * torch.randn(*sizes, dtype=DOUBLE)).requires_grad_()


def controller_weights(G: int) -> tuple[Tensor, ...]:
    return randn(G), randn(G, G, scale=0.5), randn(G), randn(2, G, scale=0.5), torch.tensor([2.0, 0.3]).to(randn(1))


def exact_gamma(x: float, n: float, s: float, n_floor: float = 1e-3) -> tuple[float, float, float, float]:
    """γ and its derivatives for x, n, s by the textbook formulas, with 80 digits instead of care."""
    with mpmath.workdps(80):
        x, n, s = mpmath.mpf(x), mpmath.mpf(n), mpmath.mpf(s)
        if abs(n) < n_floor:
            n = -mpmath.mpf(n_floor) if n < 0 else mpmath.mpf(n_floor)
        z = n * x
        if abs(z) > 1e4:  # e^-10000 is 0 in every floating dtype, and beyond what mpmath can exponentiate
            softplus, sigma, v = (z, mpmath.mpf(1), mpmath.mpf(0)) if z > 0 else (mpmath.mpf(0),) * 3
        else:
            softplus, sigma = mpmath.log(1 + mpmath.exp(z)), 1 / (1 + mpmath.exp(-z))
            v = sigma * (1 - sigma)
        value = (1 - s) * softplus / n + s * sigma
        dx = (1 - s) * sigma + s * n * v
        dn = (1 - s) * (sigma * x / n - softplus / n**2) + s * x * v
        ds = sigma - softplus / n
        return float(value), float(dx), float(dn), float(ds)


def exact(x: Tensor, n: Tensor, s: Tensor) -> tuple[Tensor, ...]:
    rows = [exact_gamma(*point) for point in zip(x.tolist(), n.tolist(), s.tolist(), strict=True)]
    return tuple(torch.tensor(column, dtype=DOUBLE) for column in zip(*rows, strict=True))


def value_and_gradients(x: Tensor, n: Tensor, s: Tensor) -> tuple[Tensor, ...]:
    inputs = [t.detach().clone().requires_grad_() for t in (x, n, s)]
    y = reference.gamma(*inputs)
    return (y.detach(), *torch.autograd.grad(y.sum(), inputs))


GOLDEN_WEIGHTS = {
    "weight_ih": ("Uxh.weight", lambda w: w),
    "weight_hh": ("Whh.weight", lambda w: w),
    "weight_ag": ("Uag.weight", lambda w: w[:, 0]),
    "weight_gg": ("Wgg.weight", lambda w: w),
}


def gamma_of_the_authors(x: Tensor, n: Tensor, s: Tensor, n_floor: float) -> Tensor:
    """γ with the identity for softplus above n x = 20, where they fear an overflow, but softplus' derivative there."""
    z = n * x
    softplus = torch.log1p(torch.exp(z))
    softplus = softplus + (torch.where(z > 20, z, softplus) - softplus).detach()
    return (1 - s) * softplus / n + s * torch.sigmoid(z)


@pytest.mark.parametrize(
    ("name", "gamma", "kind"),
    [
        ("arun_small", None, "sequence"),
        ("arun_odd", None, "sequence"),
        ("arun_drive", None, "authors"),
        ("arun_drive", gamma_of_the_authors, "sequence"),
    ],
)
def test_arun_reproduces_the_authors(golden, monkeypatch, name, gamma, kind):
    if gamma:
        monkeypatch.setattr(reference, "gamma", gamma)
    data = golden(name)
    theirs = {k.removeprefix("weight."): v for k, v in data.items() if k.startswith("weight.")}
    layer = convert.from_nonlinmod(theirs)
    w = {k.removesuffix("_l0"): v.detach().requires_grad_() for k, v in layer.state_dict().items()}
    x, h0, g0 = (data[k].requires_grad_() for k in ("x", "h0", "g0"))
    xp = x @ w["weight_ih"].T + w["bias"] + data["drive"][:, None, None]

    h, g, trace = reference.aru_sequence(xp, h0, g0, w["weight_hh"], *(w[k] for k in CONTROLLER), return_trace=True)
    loss = (data["loss_weight"] * h).sum() + 0.1 * g.sum()
    loss.backward()

    for key, actual in {"h": h, "g_last": g, "a": trace.a, "n": trace.n, "s": trace.s, "loss": loss}.items():
        assert_close(key, actual, data[key], kind)
    for key, leaf in {"x": x, "h0": h0, "g0": g0}.items():
        assert_close(f"grad.{key}", leaf.grad, data[f"grad.{key}"], kind)
    for ours, (key, map_) in GOLDEN_WEIGHTS.items():
        assert_close(f"grad.{key}", w[ours].grad, map_(data[f"grad.{key}"]), kind)
    for ours, keys in {"bias": ("Uxh.bias", "Whh.bias"), "bias_g": ("Uag.bias", "Wgg.bias")}.items():
        for key in keys:
            assert_close(f"grad.{key}", w[ours].grad, data[f"grad.{key}"], kind)
    for row, which in enumerate(("Wgn", "Wgs")):
        assert_close(f"grad.{which}.weight", w["weight_gc"].grad[row : row + 1], data[f"grad.{which}.weight"], kind)
        assert_close(f"grad.{which}.bias", w["bias_c"].grad[row : row + 1], data[f"grad.{which}.bias"], kind)


def test_gamma_reproduces_the_authors(golden):
    data = golden("gamma_het")
    x, n, s = (data[k].requires_grad_() for k in ("x", "n", "s"))
    y = reference.gamma(x, n, s)
    (data["loss_weight"] * y).sum().backward()
    assert_close("y", y, data["y"], "authors")
    for key, leaf in {"x": x, "n": n, "s": s}.items():
        assert_close(f"grad.{key}", leaf.grad, data[f"grad.{key}"], "authors")


def test_gamma_equals_the_formula_in_80_digits():
    x, n, s = 3 * torch.randn(3, 300, dtype=DOUBLE)
    n[:40] *= 30  # saturated in both directions
    assert_all_close(("y", "dx", "dn", "ds"), value_and_gradients(x, n, s), exact(x, n, s), "element")


@pytest.mark.parametrize("s", [0.0, 0.5, 1.0, -2.0])
@pytest.mark.parametrize("z", [-740.0, -100.0, -20.0, -1e-9, 0.0, 1e-9, 20.0, 100.0, 740.0])
def test_every_element_is_accurate_at_any_saturation(z, s):
    """Point by point, so that a large element cannot hide the error of a small one."""
    n = torch.tensor([0.05, 5.0, 400.0, -0.05, -5.0, -400.0], dtype=DOUBLE)
    s = torch.full_like(n, s)
    for i, (actual, expected) in enumerate(zip(value_and_gradients(z / n, n, s), exact(z / n, n, s), strict=True)):
        for j in range(len(n)):
            if expected[j].abs() > 1e-290:  # below, float64 has no digits left
                assert_close(f"output {i}, n = {n[j]}", actual[j], expected[j], "element")


EXTREMES = (0.0, -0.0, 1e30, -1e30, 1.0, -1.0, 1e-30)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_finite_wherever_the_exact_value_is(dtype):
    grid = torch.cartesian_prod(*(torch.tensor(v, dtype=dtype) for v in (EXTREMES, EXTREMES, (0.0, 0.5, 1.0, -2.0))))
    x, n, s = grid.unbind(1)
    results, expected = value_and_gradients(x, n, s), exact(x.double(), n.double(), s.double())
    for name, actual, true in zip(("y", "dx", "dn", "ds"), results, expected, strict=True):
        representable = true.abs() < torch.finfo(dtype).max
        assert representable.sum() > 150
        bad = grid[representable & ~actual.isfinite()]
        assert not len(bad), f"{name} is not finite at (x, n, s) = {bad.tolist()[:5]}"
        small = representable & (true.abs() < 1e25)  # leaves out the 1e30s, beside which all others vanish
        assert_close(name, actual[small], true[small], "element")
        assert_close(f"{name} where large", actual[representable], true[representable], "element")


def test_float16_is_finite_wherever_the_exact_value_and_its_terms_are():
    v = torch.tensor([0.0, -0.0, 6e4, -6e4, 1.0, -1.0], dtype=torch.float16)
    x, n, s = torch.cartesian_prod(v, v, torch.tensor([0.0, 0.5, 1.0], dtype=torch.float16)).unbind(1)
    results, expected = value_and_gradients(x, n, s), exact(x.double(), n.double(), s.double())
    for name, actual, true in zip(("y", "dx", "dn", "ds"), results, expected, strict=True):
        # ∂γ/∂n has the term E/n², 7e5 at the floor: float16 ends at 65504
        fits = true.abs() < 6.1e4 if name != "dn" else n.abs() >= 1
        assert_close(name, actual[fits], true[fits], "element")


@pytest.mark.parametrize("n", [0.0, -0.0, 1e-4, -1e-4, 9.99e-4])
def test_gain_below_the_floor(n):
    """Value and gradients are those at copysign(max(|n|, n_floor), n); the gradient reaches n unchanged."""
    x, s = torch.linspace(-3, 3, 13, dtype=DOUBLE), torch.linspace(-1, 2, 13, dtype=DOUBLE)
    floored = torch.full_like(x, -1e-3 if n < 0 else 1e-3)
    actual, expected = value_and_gradients(x, torch.full_like(x, n), s), value_and_gradients(x, floored, s)
    for a, e in zip(actual, expected, strict=True):
        assert torch.equal(a, e)
    assert expected[2].abs().min() > 0.1  # the gradient that is passed through is not zero


def test_gain_at_the_floor_and_above_is_untouched():
    n = torch.tensor([1e-3, -1e-3, 0.002, 5.0], dtype=DOUBLE)
    assert torch.equal(reference.floor_gain(n, 1e-3), n)
    assert torch.equal(reference.floor_gain(n, 1.0), torch.tensor([1.0, -1.0, 1.0, 5.0], dtype=DOUBLE))


def test_negative_gain_mirrors_the_softplus():
    """γ1(x; -n) = -γ1(-x; n), also where the authors' overflow guard is wrong."""
    x, n, zero = 30 * torch.randn(100, dtype=DOUBLE), 5 + torch.rand(100, dtype=DOUBLE), torch.zeros((), dtype=DOUBLE)
    assert_close("γ", reference.gamma(x, -n, zero), -reference.gamma(-x, n, zero), "element")


def test_limits_are_relu_and_logistic():
    x = torch.linspace(-4, 4, 81, dtype=DOUBLE)
    n = torch.tensor(2.0, dtype=DOUBLE)
    assert_close("s = 1", reference.gamma(x, n, torch.ones_like(n)), (1 + torch.tanh(x)) / 2, "element")
    steep = reference.gamma(x, 1e6 * n, torch.zeros_like(n))
    assert (steep - x.relu()).abs().max() < 1e-6


def test_gamma_gradcheck():
    x = torch.tensor([0.0, 0.0, 0.7, -1.3, 4.0, -5.0], dtype=DOUBLE).requires_grad_()  # the `where` switches at 0
    n, s = randn(6), randn(6)
    assert gradcheck(reference.gamma, (x, n, s))
    assert gradgradcheck(reference.gamma, (x, n, s))


def test_controller_step_gradcheck():
    args = (randn(2, 3), randn(2, 3, 4), *controller_weights(4))
    assert gradcheck(reference.controller_step, args)
    assert gradgradcheck(reference.controller_step, args)


@pytest.mark.parametrize("zero", [False, True])
def test_aru_sequence_gradcheck(zero):
    xp, h0, g0, weight_hh = randn(3, 2, 2), randn(2, 2), randn(2, 2, 3), randn(2, 2)
    if zero:  # a = 0 exactly at every step
        xp, h0, weight_hh = (torch.zeros_like(t, requires_grad=True) for t in (xp, h0, weight_hh))
    args = (xp, h0, g0, weight_hh, *controller_weights(3))

    def outputs(*args: Tensor) -> tuple[Tensor, ...]:
        h, g, trace = reference.aru_sequence(*args, return_trace=True)
        return h, g, *trace

    assert gradcheck(outputs, args)
    assert gradgradcheck(lambda *args: reference.aru_sequence(*args)[:2], args, gen_non_contig_grad_outputs=True)


def test_gamma_rnn_sequence_gradcheck():
    args = (randn(3, 2, 2), randn(2, 2), randn(2, 2), randn(2), randn(2))
    zeros = (torch.zeros_like(args[0], requires_grad=True), torch.zeros_like(args[1], requires_grad=True), *args[2:])
    for inputs in (args, zeros):
        assert gradcheck(lambda *args: reference.gamma_rnn_sequence(*args)[0], inputs)
        assert gradgradcheck(lambda *args: reference.gamma_rnn_sequence(*args)[0], inputs)


def test_third_derivative_is_smooth_at_zero():
    """At x = 0: σ''(0) = 0 and σ'''(0) = -1/8, so γ''' = (1 - s) n² σ'' + s n³ σ''' = -s n³ / 8."""
    n, s = torch.tensor(1.7, dtype=DOUBLE), torch.tensor(0.6, dtype=DOUBLE)
    third = vmap(grad(grad(grad(lambda x: reference.gamma(x, n, s)))))
    x = torch.tensor([0.0, -0.0, 1e-9, -1e-9], dtype=DOUBLE)
    assert (third(x) - (-s * n**3 / 8)).abs().max() < 1e-8


def test_vmap_of_gradients_equals_a_loop():
    x, n, s = torch.randn(3, 20, dtype=DOUBLE)
    n[:4] = torch.tensor([0.0, -0.0, 1e-4, -1e-4])
    mapped = vmap(grad(reference.gamma, argnums=(0, 1, 2)))(x, n, s)
    assert_all_close(("dx", "dn", "ds"), mapped, value_and_gradients(x, n, s)[1:], "element")


def test_vmap_over_networks_equals_a_loop():
    xp, h0, g0 = torch.randn(5, 4, 2, 3), torch.randn(5, 2, 3), torch.randn(5, 2, 3, 4)
    weights = [torch.randn(5, *sizes) for sizes in ((3, 3), (4,), (4, 4), (4,), (2, 4), (2,))]
    args = [t.double() for t in (xp, h0, g0, *weights)]
    h, g = vmap(lambda *args: reference.aru_sequence(*args)[:2])(*args)
    for i in range(5):
        h_i, g_i, _ = reference.aru_sequence(*(t[i] for t in args))
        assert_all_close(("h", "g"), (h[i], g[i]), (h_i, g_i), "sequence")


# torch's own forward-mode decompositions
jit_is_deprecated = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


@jit_is_deprecated
def test_jvp_equals_the_gradient():
    """Also that the pass-through of the gain's gradient holds in forward mode."""
    x, n, s, dx, dn, ds = torch.randn(6, 20, dtype=DOUBLE)
    _, tangent = jvp(reference.gamma, (x, n, s), (dx, dn, ds))
    _, *gradients = value_and_gradients(x, n, s)
    assert_close("jvp", tangent, sum(g * d for g, d in zip(gradients, (dx, dn, ds), strict=True)), "element")
    n = torch.zeros_like(n)
    _, tangent = jvp(lambda n: reference.gamma(x, n, s), (n,), (dn,))
    assert_close("jvp at n = 0", tangent, value_and_gradients(x, n, s)[2] * dn, "element")


@jit_is_deprecated
def test_jvp_of_a_sequence_agrees_with_backward():
    args = [torch.randn(*sizes, dtype=DOUBLE) for sizes in ((4, 2, 3), (2, 3), (3, 3), (3,), (3,))]
    tangents = [torch.randn_like(t) for t in args]
    _, tangent = jvp(lambda *a: reference.gamma_rnn_sequence(*a)[0], tuple(args), tuple(tangents))
    leaves = [t.clone().requires_grad_() for t in args]
    weight = torch.randn_like(tangent)
    gradients = torch.autograd.grad((weight * reference.gamma_rnn_sequence(*leaves)[0]).sum(), leaves)
    expected = sum((g * t).sum() for g, t in zip(gradients, tangents, strict=True))
    assert_close("<w, J t>", (weight * tangent).sum(), expected, "sequence")


def test_trace_explains_the_output():
    args = [t.detach() for t in (randn(5, 2, 3), randn(2, 3), randn(2, 3, 4), randn(3, 3), *controller_weights(4))]
    h, g, trace = reference.aru_sequence(*args, return_trace=True)
    assert trace._fields == ("a", "n", "s")
    assert_close("h", reference.gamma(*trace), h, "element")
    without = reference.aru_sequence(*args)
    assert without[2] is None
    assert torch.equal(without[0], h)
    assert torch.equal(without[1], g)
