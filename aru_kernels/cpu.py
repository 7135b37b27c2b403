"""The backend `cpu`: Python face of the C++ kernels in csrc/cpu (extension `aru_kernels._C`)."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from aru_kernels._version import __version__

_C: ModuleType | None
try:
    # After torch, so that the extension shares torch's OpenMP run time.
    from aru_kernels import _C
except ImportError as error:
    _C, _import_error = None, str(error)


def unavailable() -> str | None:
    """Why the extension cannot be used, or None."""
    if _C is None:
        outcome = Path(__file__).with_name("_build.txt")
        if outcome.exists() and (text := outcome.read_text().strip()) != "built":
            return f"the C++ extension is not built: {text}"
        return f"the C++ extension cannot be loaded ({_import_error}); run `pip install -e .` to build it"
    if _C.version != __version__:
        return f"the C++ extension is of version {_C.version}, the package of {__version__}; run `pip install -e .`"
    try:
        _C.isa()
    except ValueError as error:
        return str(error)
    return None


def device() -> str:
    """Instruction set and threads in use."""
    assert _C is not None
    others = ", ".join(_C.usable_isas())
    threads = torch.get_num_threads() if _C.openmp else 1
    return f"{_C.isa()} (of {others}), {threads} thread{'s' if threads > 1 else ''}, compiler {_C.compiler}"


def _dtype_name(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def gamma_fwd(x: Tensor, n: Tensor, s: Tensor, n_floor: float) -> Tensor:
    """γ; n and s broadcast to x's shape."""
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if x.numel():
        n, s = n.expand(x.shape), s.expand(x.shape)
        _C.gamma_fwd(
            *(_dtype_name(x), x.shape, x.data_ptr(), x.stride(), n.data_ptr(), n.stride(), s.data_ptr(), s.stride()),
            *(y.data_ptr(), n_floor, torch.get_num_threads()),
        )
    return y


def gamma_bwd(dy: Tensor, x: Tensor, n: Tensor, s: Tensor, n_floor: float) -> tuple[Tensor, Tensor, Tensor]:
    """γ's gradients for x, n and s, each of its operand's shape."""
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    dn, ds = (torch.empty(p.shape, dtype=x.dtype, device=x.device) for p in (n, s))
    if x.numel():
        n_full, s_full = n.expand(x.shape), s.expand(x.shape)
        _C.gamma_bwd(
            *(_dtype_name(x), x.shape, dy.data_ptr(), dy.stride(), x.data_ptr(), x.stride()),
            *(n_full.data_ptr(), n_full.stride(), s_full.data_ptr(), s_full.stride()),
            *(dx.data_ptr(), dn.data_ptr(), dn.expand(x.shape).stride(), dn.numel()),
            *(ds.data_ptr(), ds.expand(x.shape).stride(), ds.numel(), n_floor, torch.get_num_threads()),
        )
    else:
        dn.zero_()
        ds.zero_()
    return dx, dn, ds


KERNELS = {"gamma": (gamma_fwd, gamma_bwd)}
