"""exp, log1p and tanh of csrc/aru_math.h, compiled here on their own: the errors that the header states."""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess

import mpmath
import numpy as np
import pytest

from aru_kernels import cpu
from support.helpers import ROOT

COMPILER = shutil.which("g++") or shutil.which("clang++")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")

SOURCE = """
#define ARU_ISA tested
#ifdef ARU_VECTOR_BYTES
#include "cpu/simd.h"
using namespace aru::tested;
// As the kernels use it: four vectors side by side for tanh, a vector for the others; what is left over by itself.
template <class T, int N, class F> void each(const T* x, T* y, long n, F f) {
  constexpr int width = N * lanes<T>;
  for (long i = 0; i < n; i += width) {
    T in[width] = {}, out[width];
    for (long k = 0; k < width && i + k < n; ++k) in[k] = x[i + k];
    f(in, out);
    for (long k = 0; k < width && i + k < n; ++k) y[i + k] = out[k];
  }
}
#define LOOP(name, T, f) \\
  extern "C" void name(const T* x, T* y, long n) { \\
    each<T, 1>(x, y, n, [](const T* in, T* out) { store(out, f(load(in))); }); \\
  }
#define TANH(name, T) \\
  extern "C" void name(const T* x, T* y, long n) { \\
    each<T, 4>(x, y, n, [](const T* in, T* out) { \\
      using P = Pack<vec<T>, 4>; \\
      const P v = P::of([&](int i) { return load(in + i * lanes<T>) * constants<T>::tanh_scale; }); \\
      const P result = tanh_of_scaled(v); \\
      for (int i = 0; i < 4; ++i) store(out + i * lanes<T>, result.v[i]); \\
    }); \\
  }
#else
#include "aru_math.h"
using namespace aru::tested;
#define LOOP(name, T, f) \\
  extern "C" void name(const T* x, T* y, long n) { for (long i = 0; i < n; ++i) y[i] = f(x[i]); }
#define TANH(name, T) LOOP(name, T, aru::tested::tanh<T>)
#endif
LOOP(exp_negative_float, float, exp_negative)
LOOP(exp_negative_double, double, exp_negative)
LOOP(log1p_unit_float, float, log1p_unit)
LOOP(log1p_unit_double, double, log1p_unit)
TANH(tanh_float, float)
TANH(tanh_double, double)
"""

TYPES = {"float": np.float32, "double": np.float64}
X86 = platform.machine() == "x86_64"
AVX2 = ["-mavx2", "-mfma"]
AVX512 = ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma", "-mprefer-vector-width=512", "-w"]
# scalars without and with fused products, and the vectors of every instruction set that this machine has
BUILDS = {"scalar": []}
if X86:
    BUILDS["scalar, fma"] = AVX2
if cpu.unavailable() is None:
    flags = {"avx512": [*AVX512, "-DARU_VECTOR_BYTES=64"], "avx2": [*AVX2, "-DARU_VECTOR_BYTES=32"]}
    flags["generic"] = ["-DARU_VECTOR_BYTES=16"]
    BUILDS |= {isa: flags[isa] for isa in cpu._C.usable_isas() if isa in flags}


@pytest.fixture(scope="module", params=BUILDS.values(), ids=BUILDS)
def evaluate(request, tmp_path_factory):
    """evaluate("tanh", array): the C++ function at every element."""
    folder = tmp_path_factory.mktemp("elementary")
    (folder / "functions.cpp").write_text(SOURCE)
    library = folder / "functions.so"
    command = [
        COMPILER,
        "-std=c++17",
        "-O2",
        "-ffp-contract=fast",
        "-fno-trapping-math",
        "-Wno-psabi",
        *request.param,
        f"-I{ROOT / 'csrc'}",
        "-shared",
        "-fPIC",
    ]
    subprocess.run([*command, str(folder / "functions.cpp"), "-o", str(library)], check=True)
    functions = ctypes.CDLL(str(library))

    def call(name: str, x: np.ndarray) -> np.ndarray:
        kind = "float" if x.dtype == np.float32 else "double"
        y = np.full_like(x, np.nan)
        getattr(functions, f"{name}_{kind}")(
            x.ctypes.data_as(ctypes.c_void_p), y.ctypes.data_as(ctypes.c_void_p), ctypes.c_long(len(x))
        )
        return y

    return call


def ulps(y: np.ndarray, x: np.ndarray, exact) -> float:
    """The largest error in units of the last place; float32 against float64, float64 against 40 digits."""
    if y.dtype == np.float32:
        true = exact(np, x.astype(np.float64))
        return float((np.abs(y - true) / np.spacing(np.abs(true).astype(np.float32)).astype(np.float64)).max())
    with mpmath.workdps(40):
        errors = []
        for a, b in zip(y.tolist(), x.tolist(), strict=True):
            true = exact(mpmath, mpmath.mpf(b))
            errors.append(abs(a - true) / float(np.spacing(abs(float(true)))))
        return float(max(errors))


def grid(kind: str, low: float, high: float) -> np.ndarray:
    """Evenly and logarithmically spaced points of one sign."""
    count = 200_000 if kind == "float" else 1500
    sign, top = (1, high) if high > 0 else (-1, -low)
    tiny = 1e-30 if kind == "float" else 1e-290
    points = np.concatenate([np.linspace(low, high, count), sign * np.geomspace(tiny, top, count)])
    return points[points != 0].astype(TYPES[kind])


# function -> exact, domain per type, most ulp per type (measured: exp 1.0 and 0.9, log1p 2.6 and 2.3, tanh 2.3)
FUNCTIONS = {
    "exp_negative": (lambda m, x: m.exp(x), {"float": (-87, 0), "double": (-708, 0)}, {"float": 2, "double": 2}),
    "log1p_unit": (lambda m, x: m.log1p(x), {"float": (0, 1), "double": (0, 1)}, {"float": 3, "double": 3}),
    "tanh": (lambda m, x: m.tanh(x), {"double": (0, 40)}, {"double": 3}),
}


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, row in FUNCTIONS.items() for kind in row[2]])
def test_error_in_ulp(evaluate, name, kind):
    exact, domain, most = FUNCTIONS[name]
    x = grid(kind, *domain[kind])
    error = ulps(evaluate(name, x), x, exact)
    assert error <= most[kind], f"{error:.2f} ulp"


@pytest.mark.parametrize("kind", TYPES)
def test_special_values(evaluate, kind):
    def at(name: str, *values: float) -> list[float]:
        return evaluate(name, np.array(values, dtype=TYPES[kind])).tolist()

    inf, nan = float("inf"), float("nan")
    assert at("exp_negative", 0.0, -0.0, -1e30, -inf) == [1.0, 1.0, 0.0, 0.0]
    assert at("log1p_unit", 0.0) == [0.0]
    assert at("tanh", 0.0, 1e30, -1e30, inf, -inf) == [0.0, 1.0, -1.0, 1.0, -1.0]
    for name in FUNCTIONS:
        (result,) = at(name, nan)
        assert result != result, name


def test_float_tanh_is_as_good_as_its_use_needs(evaluate):
    """A controller's state is a term of sums: its absolute error counts, and 1 - g² of a saturated unit must be 0."""
    x = np.concatenate([grid("float", 0, 20), grid("float", -20, 0)])
    y = evaluate("tanh", x)
    exact = np.tanh(x.astype(np.float64))
    error = np.abs(y - exact).max()
    assert error < 2.4e-7, error
    assert (np.abs(y) <= 1).all()
    assert (y[np.abs(x) > 9.1] == np.sign(x[np.abs(x) > 9.1])).all()
    # towards saturation it is three units in the last place (measured: 1.8e-7)
    saturating = np.abs(exact) > 0.99
    error = np.abs(y - exact)[saturating].max()
    assert error < 2e-7, error


def test_double_tanh_is_odd_and_bounded(evaluate):
    x = np.sort(grid("double", 0, 40))
    y = evaluate("tanh", x)
    assert np.array_equal(evaluate("tanh", -x), -y)
    assert y.max() <= 1
