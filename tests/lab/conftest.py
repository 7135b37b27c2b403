"""What the tests of the laboratory share."""

from __future__ import annotations

import gzip
import os
import signal
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Run on one thread, and undo what a run with its own number of threads has set."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def signals_are_those_of_a_terminal() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, and hanging up ends the process; background jobs and nohup ignore them."""
    terminal = {signal.SIGINT: signal.default_int_handler}
    if hasattr(signal, "SIGHUP"):
        terminal[signal.SIGHUP] = signal.SIG_DFL
    before = {number: signal.signal(number, handler) for number, handler in terminal.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """The folder with the real MNIST; tests that need it are skipped where it is absent."""
    named = os.environ.get("ARU_DATA_DIR")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not any(folder.glob("**/train-images-idx3-ubyte*")):
        pytest.skip(f"MNIST is not in {folder}; set ARU_DATA_DIR")
    return folder


def with_sources() -> dict[str, str]:
    """The environment for a new interpreter that sees this repository's packages, installed or not."""
    path = os.pathsep.join((str(ROOT), str(ROOT / "python")))
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def idx_bytes(array: np.ndarray) -> bytes:
    """An array of unsigned bytes in IDX format."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write an IDX file, gzipped where its name ends in .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = idx_bytes(array)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
