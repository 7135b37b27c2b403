"""γ, its derivatives, tanh and the products: the only copy of the paper's mathematics in Triton.

The functions use tl.exp and no other special function, so that the same code runs on every GPU and in Triton's
interpreter.  They compute in the dtype of their arguments: float32, and float64 in the interpreter.
"""

from __future__ import annotations

import triton
import triton.language as tl

VERSION = tuple(int(part) for part in triton.__version__.split(".")[:2])

# A bound for |z|: beyond it e^-|z| is 0, and the product |z| e^-|z| must be 0, where an infinite |z| would give NaN.
_LARGE = tl.constexpr(1e30)

# Only the interpreter passes float64 to tl.dot, which takes it from Triton 3.5 on.
_DOT_TAKES_FLOAT64 = tl.constexpr(VERSION >= (3, 5))


@triton.jit
def tanh(x):
    """tanh(x), with an error of at most 2.5 ulp of float32 (measured: 2.0), and exactly ±1 where tanh rounds to it.

    Training needs the exact ±1: 1 - tanh² of a saturated unit must be 0 where its gradient is large.  The GPU's
    tanh.approx has a relative error of up to 2^-11, far too large there, and is used at no precision.
    The polynomials are those of Cephes' tanhf and tanh.
    """
    magnitude = tl.abs(x)
    # this form loses digits to cancellation for small |x|
    large = 1 - 2 / (1 + tl.exp(2 * tl.where(magnitude > 40, 40, magnitude)))
    square = x * x
    if x.dtype == tl.float64:
        above = (-9.64399179425052238628e-1 * square - 9.92877231001918586564e1) * square - 1.61468768441708447952e3
        below = ((square + 1.12811678491632931402e2) * square + 2.23548839060100448583e3) * square
        small = x + x * square * above / (below + 4.84406305325125486048e3)
    else:
        p = -5.70498872745e-3 * square + 2.06390887954e-2
        p = p * square - 5.37397155531e-2
        p = p * square + 1.33314422036e-1
        p = p * square - 3.33332819422e-1
        small = x + x * square * p
    return tl.where(magnitude < 0.625, small, tl.where(x < 0, -large, large))


@triton.jit
def _log1p_unit(e):
    """log1p(e) for 0 <= e <= 1, because the GPU's logarithm is inaccurate near 1.

    float32: a minimax polynomial, within 1.6e-7 of the exact value.  float64: the series of 2 atanh(e / (2 + e)).
    """
    if e.dtype == tl.float64:
        t = e / (e + 2)
        square = t * t
        p = tl.full(e.shape, 1.0 / 33, e.dtype)
        for i in tl.static_range(16):
            p = p * square + 1.0 / (31 - 2 * i)
        result = 2 * t * p
    else:
        p = -0.00324402121 * e + 0.0198514443
        p = p * e - 0.0569594987
        p = p * e + 0.106036514
        p = p * e - 0.153055906
        p = p * e + 0.196759388
        p = p * e - 0.249541342
        p = p * e + 0.333299637
        p = p * e - 0.499999017
        result = (p * e + 1) * e
    return result


@triton.jit
def floor_gain(n, N_FLOOR: tl.constexpr):
    """copysign(max(|n|, n_floor), n) with copysign(., ±0) = +; NaN stays NaN."""
    # a tensor of n's dtype, because tl.where of two literals is float32
    floor = tl.full(n.shape, N_FLOOR, n.dtype)
    return tl.where(tl.abs(n) < floor, tl.where(n < 0, -floor, floor), n)


@triton.jit
def _sigmoid_parts(x, n, over_n):
    """softplus(z) / n, σ(z), σ'(z) and the entropy softplus(z) - z σ(z) for z = n x, given over_n = 1 / n."""
    z = n * x
    magnitude = tl.abs(z)
    magnitude = tl.where(magnitude > _LARGE, _LARGE, magnitude)
    e = tl.exp(-magnitude)
    r = 1 / (1 + e)
    log1p = _log1p_unit(e)
    positive = z >= 0
    # softplus(z) / n as x + log1p / n, because n x may overflow where x does not
    softplus_over_n = tl.where(positive, x, 0) + log1p * over_n
    return softplus_over_n, tl.where(positive, r, e * r), e * r * r, log1p + magnitude * e * r


@triton.jit
def gamma(x, n, s, N_FLOOR: tl.constexpr):
    """γ(x; n, s) = (1 - s) softplus(n x) / n + s σ(n x)."""
    n = floor_gain(n, N_FLOOR)
    # 1 / n has the elements of n, so a broadcast n is inverted once
    softplus_over_n, sigmoid, _, _ = _sigmoid_parts(x, n, 1 / n)
    return (1 - s) * softplus_over_n + s * sigmoid


@triton.jit
def gamma_derivatives(x, n, s, N_FLOOR: tl.constexpr):
    """∂γ/∂x, ∂γ/∂n and ∂γ/∂s."""
    n = floor_gain(n, N_FLOOR)
    over_n = 1 / n
    softplus_over_n, sigmoid, slope, entropy = _sigmoid_parts(x, n, over_n)
    # n² may overflow where n does not
    by_n = s * x * slope - (1 - s) * over_n * (entropy * over_n)
    return (1 - s) * sigmoid + s * n * slope, by_n, sigmoid - softplus_over_n


@triton.jit
def leaky(h, y, leak):
    """h_t of neurons with a leak, from h_{t-1} and y = γ_t."""
    return (1 - leak) * h + leak * y


@triton.jit
def through_leak(d_h, h, y, leak):
    """Back through the leak, given the gradient of h_t, h_{t-1} and y = γ_t: gradients of h_{t-1}, y and the leak."""
    return (1 - leak) * d_h, leak * d_h, d_h * (y - h)


@triton.jit
def product(x, y, PRODUCT: tl.constexpr):
    """The matrix product x y, accumulated in the dtype of x; PRODUCT: an input_precision of tl.dot, or "bf16" operands.

    "tf32x3" with 64 or more rows of x allows at most one warp for every 16 rows.  With 64 rows and 8 warps a kernel
    faulted on an H100, because the assembler of Triton 3.6 computed wrong addresses; see tests/support/descriptors.py.
    """
    if PRODUCT == "bf16":
        result = tl.dot(x.to(tl.bfloat16), y.to(tl.bfloat16))
    elif x.dtype == tl.float64 and not _DOT_TAKES_FLOAT64:
        result = tl.sum(x[:, :, None] * y[None, :, :], 1)
    else:
        result = tl.dot(x, y, input_precision=PRODUCT, out_dtype=x.dtype)
    return result


@triton.jit
def sums(x, y, AXIS: tl.constexpr):
    """tl.sum(x * y, AXIS) for y that broadcasts to x; all threads that hold a sum have the same bits.

    Where a thread has one element of a sum, the compiler fuses its product with the first addition of a butterfly: the
    thread adds its own unrounded product to the rounded product of another thread, which does the reverse, so the two
    sums differ (https://github.com/triton-lang/triton/issues/7264).  If both threads then write to one word of shared
    memory, either value may remain, which compute-sanitizer's racecheck reports.  Products are therefore rounded first
    in tiles that leave few elements to a thread, and in sums over rows.  In other sums a thread adds several of its own
    products before it exchanges.
    """
    FEW: tl.constexpr = AXIS == 0 or x.shape[0] * x.shape[1] <= 1024
    return tl.sum(tl.fma(x, y, 0.0) if FEW else x * y, AXIS)
