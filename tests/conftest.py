"""Fixtures of every test: NaN in uninitialised memory, seeds, golden vectors, subprocesses."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from torch import Tensor

from aru_kernels.triton._mode import INTERPRETED
from support.forked import Server
from support.helpers import ROOT
from support.interpreted import patch_once

# derandomize: a failure in CI is a failure at home, too.
hypothesis.settings.register_profile("aru", deadline=None, max_examples=50, derandomize=True, database=None)
hypothesis.settings.load_profile("aru")


if INTERPRETED:
    patch_once()

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic algorithms need on a GPU
# Inductor's cache does not notice changes of this package: code of an earlier version would run.
_compiled = tempfile.TemporaryDirectory(prefix="aru-inductor-")
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", _compiled.name)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--every-fault",
        action="store_true",
        help="plant every fault in the CUDA kernels, for a change of csrc/cuda; otherwise one in four",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests come first: one that starts last would keep a worker busy while the others wait."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def poison() -> Iterator[None]:
    """Fills uninitialised memory with NaN: a kernel that leaves an element of its output unwritten returns one."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """torch.set_num_threads for the length of a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def golden() -> Callable[[str], dict[str, Tensor]]:
    """golden(name): the vectors of the authors' implementation in tests/golden, as float64 tensors."""

    def load(name: str) -> dict[str, Tensor]:
        with np.load(ROOT / "tests" / "golden" / f"{name}.npz") as arrays:
            return {key: torch.from_numpy(np.array(arrays[key])) for key in arrays.files}

    return load


def _environment(**changed: str) -> dict[str, str]:
    """For a new interpreter that sees this repository's packages."""
    path = os.pathsep.join((str(ROOT), str(ROOT / "python")))
    own = {k: v for k, v in os.environ.items() if k not in ("ARU_KERNELS_BACKEND", "ARU_CPU_ISA")}
    return own | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | changed


@pytest.fixture
def run_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """run_python(*arguments, timeout=280, **environment): a new interpreter that sees this repository's packages.

    It runs in the folder of the tests, so `-m support.fault_checks` finds that module.
    """

    def run(*arguments: str, timeout: float = 280, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        settings = {"capture_output": True, "text": True, "timeout": timeout, "cwd": ROOT / "tests"}
        return subprocess.run(command, env=_environment(**environment), **settings)

    return run


@pytest.fixture(scope="session")
def _server() -> Iterator[Server | None]:
    """None on a system that has no fork."""
    server = Server(_environment(), ROOT / "tests") if hasattr(os, "fork") else None
    yield server
    if server is not None:
        server.stop()


@pytest.fixture
def run_forked(
    _server: Server | None, run_python: Callable, tmp_path: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """run_forked(*arguments, timeout=280, **environment): as `run_python`, but torch is imported already.

    It saves the seconds of that import.  Arguments begin with -c or -m.  The program runs with one thread, and a
    variable of the environment that torch reads when it is imported has no effect.  Without fork it is `run_python`.
    """
    if _server is None:
        return run_python

    def run(*arguments: str, timeout: int = 280, **environment: str) -> subprocess.CompletedProcess[str]:
        return _server.run(arguments, environment, timeout, tmp_path)

    return run
