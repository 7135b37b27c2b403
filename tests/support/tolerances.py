"""Comparisons of tensors by the tolerances of `benchmarks/tolerances.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.tolerances import TOLERANCES, relative_error


def assert_close(name: str, actual: Tensor, expected: Tensor, kind: str, dtype: torch.dtype | None = None) -> None:
    """Fails, naming the tensor, if shapes differ, a value is NaN or infinite, or the error passes the tolerance.

    kind: a row of TOLERANCES; dtype: of the computation, if it is not that of `actual`.
    """
    assert actual.shape == expected.shape, f"{name}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    assert expected.isfinite().all(), f"{name}: the expected values are not finite"
    bad = (~actual.isfinite()).sum().item()
    assert not bad, f"{name}: {bad} of {actual.numel()} values are not finite"
    tolerance = TOLERANCES[kind][dtype or actual.dtype]
    error = relative_error(actual, expected)
    assert error <= tolerance, f"{name}: relative error {error:.3g}, at most {tolerance:.3g} allowed ({kind})"


def assert_all_close(
    names: tuple[str, ...], actual: tuple, expected: tuple, kind: str, dtype: torch.dtype | None = None
) -> None:
    """`assert_close` for tensors that come together, such as gradients."""
    for name, a, e in zip(names, actual, expected, strict=True):
        assert_close(name, a, e, kind, dtype)


def ulp_error(actual: Tensor, exact: Tensor) -> float:
    """The largest error of a float32 tensor against float64, in units of the last place of the exact value."""
    assert (actual.dtype, exact.dtype) == (torch.float32, torch.float64)
    _, exponent = torch.frexp(exact)
    ulp = torch.ldexp(torch.ones_like(exact), exponent.clamp(min=-125) - 24)
    return ((actual.double() - exact).abs() / ulp).max().item()
