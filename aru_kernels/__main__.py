"""`python -m aru_kernels`: what is installed, which backends can run here and why the others cannot."""

from __future__ import annotations

import importlib.metadata
import platform

import numpy
import torch

from aru_kernels import __version__, backends_info
from aru_kernels.backends import requested_backend
from aru_kernels.cpu import processor


def _version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def main() -> None:
    """Prints the table."""
    print(
        f"aru_kernels {__version__}  Python {platform.python_version()}  torch {torch.__version__}  "
        f"triton {_version_of('triton')}  numpy {numpy.__version__}"
    )
    print(f"{platform.system()} {platform.machine()}, {processor()}, {torch.get_num_threads()} torch threads")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    print(f"GPU: {', '.join(gpus) or 'none'}")
    print(f"backend asked for: {requested_backend()}\n")
    for row in backends_info():
        state = f"available: {row.device}" if row.available else f"not available: {row.why_not}"
        print(f"{row.name:<10} {', '.join(row.ops):<20} {state}")


if __name__ == "__main__":
    main()
