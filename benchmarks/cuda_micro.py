"""Compiles and runs cuda_micro.cu on this machine's GPU: what the blocks of a persistent kernel pay to meet.

    python benchmarks/cuda_micro.py

Prints a line of JSON per measurement: microseconds of a cluster barrier, of the exchange of a vector in a cluster and
through device memory, for groups of 2 to 64 blocks of 384 threads (those whose shared memory fits), one group alone and
as many as the GPU holds.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def compile_command(target: Path, architecture: str = "native") -> list[str]:
    """nvcc's command line."""
    source = ROOT / "benchmarks" / "cuda_micro.cu"
    return ["nvcc", "-std=c++17", "-O3", f"-arch={architecture}", f"-I{ROOT / 'csrc'}", str(source), "-o", str(target)]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "cuda_micro"
        subprocess.run(compile_command(program), check=True)
        sys.exit(subprocess.run([program]).returncode)
