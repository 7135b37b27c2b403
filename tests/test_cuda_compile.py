"""The CUDA kernels as nvcc compiled them: a table of registers and spills, for every architecture."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from helpers import ROOT

# Bytes that a kernel may store to spilled registers (direction, parts, column tiles), and why.
SPILLS = {
    # 9 column tiles are 180 accumulators of weight gradients a thread, of 255 registers in all: G above 54.
    **{("backward", parts, 9): 1200 for parts in (1, 2, 3)},
    # 112 accumulators (7 column tiles), or 60, beside operands in two or three parts.
    ("backward", 2, 7): 120,
    ("backward", 3, 7): 260,
    ("backward", 3, 5): 80,
    # Two words on sm_100, of 168 registers.
    ("forward", 1, 7): 16,
}


def setup_definitions() -> dict:
    definitions = (ROOT / "setup.py").read_text().split("\nsetup(")[0]
    namespace = {"__file__": str(ROOT / "setup.py"), "__name__": "setup_definitions"}
    exec(compile(definitions, "setup.py", "exec"), namespace)
    return namespace


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> str:
    """A line a kernel and architecture: what the installation left, or what nvcc says now."""
    setup = setup_definitions()
    note = ROOT / "aru_kernels" / "_build_cuda.txt"
    if note.exists():
        outcome, *rest = note.read_text().splitlines()
        if outcome == "built" and rest[0] == f"sources {setup['cuda_digest']()}":
            return "\n".join(rest[1:])
    nvcc = setup["find_nvcc"]()
    if nvcc is None:
        pytest.skip("there is no nvcc, and no table of an installation")
    architectures = setup["cuda_architectures"](nvcc)
    return setup["compile_cuda"](nvcc, architectures, tmp_path_factory.mktemp("cuda"))[1]


def rows(table: str) -> list[tuple[str, int, int, str, int, int]]:
    """direction, parts, column tiles, architecture, registers, bytes spilled"""
    line = re.compile(r"(\w+) parts=(\d) tiles=(\d) sm_(\w+) registers=(\d+) stack=\d+ spills=(\d+)\+\d+")
    found = [line.fullmatch(text) for text in table.splitlines()]
    assert all(found), table
    return [(m[1], int(m[2]), int(m[3]), m[4], int(m[5]), int(m[6])) for m in found]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_kernel_is_compiled_for_every_architecture(table):
    print(f"\n{table}")
    kernels: dict[str, set] = {}
    for direction, parts, tiles, architecture, registers, _ in rows(table):
        kernels.setdefault(architecture, set()).add((direction, parts, tiles))
        assert registers <= (168 if (direction, parts) == ("forward", 1) else 255)
    header = (ROOT / "csrc" / "cuda" / "sequence.h").read_text()
    expected = {
        (direction, parts, int(tiles))
        for direction in ("forward", "backward")
        for parts in (1, 2, 3)
        for tiles in ["0", *re.search(rf"{direction}_tiles\[\] = {{(.+)}}", header)[1].split(", ")]
    }
    assert kernels
    for architecture, compiled in kernels.items():
        assert compiled == expected, architecture


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_kernel_spills_that_is_not_listed(table):
    for direction, parts, tiles, architecture, _, spilled in rows(table):
        limit = SPILLS.get((direction, parts, tiles), 0)
        assert spilled <= limit, f"{direction} parts={parts} tiles={tiles} sm_{architecture} spills {spilled} bytes"


@pytest.mark.slow
def test_the_microbenchmark_compiles(tmp_path):
    nvcc = setup_definitions()["find_nvcc"]()
    if nvcc is None:
        pytest.skip("there is no nvcc")
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from cuda_micro import compile_command
    finally:
        sys.path.pop(0)
    _, *rest = compile_command(tmp_path / "cuda_micro", "sm_90")
    done = subprocess.run([nvcc, *rest], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_architectures(monkeypatch):
    setup = setup_definitions()
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "7.5;8.0 9.0a;10.0+PTX")
    assert setup["cuda_architectures"]("nvcc") == ["80", "90a", "100+PTX"]
    for wrong, sentence in (
        ("Hopper", "TORCH_CUDA_ARCH_LIST is 'Hopper', expected a list such as '8.0;9.0a;10.0+PTX'"),
        ("7.5", "TORCH_CUDA_ARCH_LIST is '7.5', and the kernels need 8.0 or later"),
    ):
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", wrong)
        with pytest.raises(Exception, match=re.escape(sentence)) as error:
            setup["cuda_architectures"]("nvcc")
        assert type(error.value).__name__ == "BuildError"
