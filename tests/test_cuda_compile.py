"""The CUDA kernels as nvcc compiled them: a table of registers, spills and shared memory, for every architecture."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from graphlib import TopologicalSorter

import pytest

from aru_kernels import cuda
from benchmarks.cuda_micro import compile_command
from support.cuda_emulation import DEVICES, Emulation, built, needs_compiler
from support.helpers import ROOT

FORMS = ("bf16", "tf32", "split", "mixed")  # in the order of Form
GROUPS_FORMS = ("bf16", "mixed")  # whose products groups of warps make, where there are any
HEADER = (ROOT / "csrc" / "cuda" / "tiling.h").read_text()

# Bytes that a kernel may store to spilled registers (direction, form of products, column tiles), and why.
SPILLS = {
    # 9 column tiles (G above 54) are 180 accumulators of weight gradients a thread, of 255 registers in all; 7 are 112,
    # beside operands of two or three words a pair.  The code of a step is there twice, for the ends of a sequence.
    ("backward", "tf32", 9): 4600,
    ("backward", "split", 9): 4200,
    ("backward", "tf32", 7): 152,
    ("backward", "split", 7): 236,
    ("backward", "split", 5): 40,
    # 12 warps: 168 registers.  What lives across a whole step, at the ends of the inner loops, such as du.
    ("backward", "bf16", 5): 16,
    ("backward", "bf16", 7): 112,
    ("backward", "bf16", 9): 168,
    # Where images of kept state are and how their quads lie, beside the state of two row tiles.
    ("forward", "bf16", 7): 76,
    ("forward", "bf16", 8): 88,
    ("forward", "tf32", 8): 4,
    # ... which as operands of three words a pair takes 192 registers of 255.
    ("forward", "split", 7): 136,
    ("forward", "split", 8): 240,
}

# The same of the kernels whose products groups of warps make, also with 168 registers: all column tiles of 16 rows at
# once are 28 or 36 sums a thread, beside as many of the weights' gradients and 28 or 36 words of du.
GROUPS_SPILLS = {("backward", "bf16", 5): 40, ("backward", "bf16", 7): 16, ("backward", "bf16", 9): 192}
WITH_GROUPS = "90a"

# Column tiles that the kernels are compiled for; 0 is the static network.
TILES = {
    direction: [0, *map(int, re.search(rf"{direction}_tiles\[\w+\] = {{(.+)}}", HEADER)[1].split(", "))]
    for direction in ("forward", "backward")
}
# The GPU of an architecture, as far as a plan depends on it.
GPUS = {"80": "A100", "90a": "H100", "100": "B200"}


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


@dataclass(frozen=True)
class Kernel:
    direction: str
    form: str
    tiles: int
    architecture: str
    registers: int
    spilled: int  # bytes stored
    shared: int  # bytes, beside what a launch asks for
    waits: int  # for products of groups of warps, put in by the compiler

    @property
    def key(self) -> tuple[str, str, int]:
        return self.direction, self.form, self.tiles

    def planned(self, emulation: Emulation) -> int | None:
        """Bytes of shared memory that a launch at the paper's size asks for; None where another kernel serves that."""
        backward, B, H, G = self.direction == "backward", 100, 400, 50
        if self.tiles == 0:
            G = 0
        elif self.tiles != min(tiles for tiles in TILES[self.direction] if 8 * tiles >= G + 2 * backward):
            return None
        if self.architecture not in GPUS:
            return None
        emulation.device(*DEVICES[GPUS[self.architecture]])
        form = FORMS.index(self.form)
        return emulation.module.shared_bytes(form, backward, (1, B, H, G), cuda._plan(0, form, backward, B, H, G))


def kernels(table: str) -> list[Kernel]:
    line = re.compile(
        r"(\w+) form=(\w+) tiles=(\d) sm_(\w+) registers=(\d+) stack=\d+ spills=(\d+)\+\d+ shared=(\d+) waits=(\d)"
    )
    found = [line.fullmatch(text) for text in table.splitlines()]
    assert all(found), table
    return [Kernel(m[1], m[2], int(m[3]), m[4], *map(int, m.groups()[4:])) for m in found]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_kernel_is_compiled_for_every_architecture(table):
    compiled: dict[str, set] = {}
    for kernel in kernels(table):
        compiled.setdefault(kernel.architecture, set()).add(kernel.key)
        assert kernel.registers <= (168 if kernel.form in GROUPS_FORMS else 255)
    everywhere = {(direction, form, tiles) for direction in TILES for form in FORMS[:3] for tiles in TILES[direction]}
    of_groups = {("forward", "mixed", tiles) for tiles in TILES["forward"] if tiles}
    assert compiled
    for architecture, keys in compiled.items():
        assert keys == (everywhere | of_groups if architecture == WITH_GROUPS else everywhere), architecture


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_products_of_groups_run_beside_other_work(table):
    """The compiler adds only one wait, for the product after the last step, which nobody takes."""
    for kernel in kernels(table):
        assert kernel.waits <= (kernel.direction == "forward" and kernel.form in GROUPS_FORMS), kernel


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_kernel_spills_that_is_not_listed(table):
    for kernel in kernels(table):
        listed = GROUPS_SPILLS if kernel.architecture == WITH_GROUPS and kernel.form == "bf16" else SPILLS
        assert kernel.spilled <= listed.get(kernel.key, 0), f"{kernel} spills"


@needs_compiler
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_shared_memory_holds_the_papers_size(table):
    """Prints the table, with what a launch at H = 400, G = 50, B = 100 asks for beside what the compiler took."""
    emulation = Emulation(built() / "_cuda_emulated.so")
    print()
    with emulation.in_place_of_a_gpu():
        for line, kernel in zip(table.splitlines(), kernels(table), strict=True):
            planned = kernel.planned(emulation)
            print(line if planned is None else f"{line}+{planned}")
            if planned is not None:
                assert kernel.shared + planned <= DEVICES[GPUS[kernel.architecture]][1]


@pytest.mark.slow
def test_the_microbenchmark_compiles(tmp_path):
    nvcc = setup_definitions()["find_nvcc"]()
    if nvcc is None:
        pytest.skip("there is no nvcc")
    _, *rest = compile_command(tmp_path / "cuda_micro", "sm_90")
    done = subprocess.run([nvcc, *rest], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_sources_include_no_test_and_no_cycle():
    """Headers of csrc are found in csrc, whatever a build of the tests adds to the include path."""
    graph = {}
    for path in (ROOT / "csrc").rglob("*.*"):
        graph[path] = set()
        for name in re.findall(r'^#include "(.+)"', path.read_text(), re.MULTILINE):
            found = [folder / name for folder in (path.parent, ROOT / "csrc") if (folder / name).is_file()]
            assert found, f"{path.relative_to(ROOT)} includes {name}, which is not in csrc"
            graph[path].add(found[0].resolve())
    assert len(graph) > 40
    TopologicalSorter(graph).prepare()  # raises CycleError


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
