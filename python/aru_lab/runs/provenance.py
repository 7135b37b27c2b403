"""Origin of a result: versions, commit and machine, saved with every run."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any


def version() -> str:
    """The version of aru_kernels, to which this laboratory belongs."""
    try:
        return metadata.version("aru_kernels")
    except metadata.PackageNotFoundError:  # used from a source folder, not installed
        import aru_kernels

        return aru_kernels.__version__


def versions() -> str:
    """One line with the versions of aru_kernels and torch, which is not imported."""
    try:
        torch = metadata.version("torch")
    except metadata.PackageNotFoundError:
        torch = "without a version"
    return f"aru {version()}, torch {torch}"


def commit() -> str | None:
    """The commit of the source folder this runs from, with "-dirty" after uncommitted changes; None without one."""
    here = Path(__file__).resolve()
    try:
        # An installed copy may lie in the repository of another project: only a tracked file names our commit.
        _git(here.parent, "ls-files", "--error-unmatch", here.name)
        return _git(here.parent, "describe", "--always", "--dirty", "--exclude=*", "--abbrev=40")
    except (OSError, subprocess.SubprocessError):
        return None


def environment(device: Any) -> dict[str, Any]:
    """Versions and machine of a run on the torch device `device`, beside its configuration."""
    import numpy
    import torch

    from aru_kernels.cpu import processor

    return {
        "aru_kernels": version(),
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "platform": platform.platform(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
    }


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
