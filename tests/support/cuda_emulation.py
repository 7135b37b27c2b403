"""The CUDA kernels compiled by g++, every CUDA thread a fiber: built once for all test processes, instead of a GPU.

`tests/csrc/emulated_machine.h` says what the emulation is strict about, `docs/cuda.md` what it cannot see.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

from aru_kernels import __version__, cuda
from aru_kernels.backends import BACKENDS
from support.helpers import ROOT

fcntl = pytest.importorskip("fcntl", reason="the emulation needs Linux")
CXX = os.environ.get("CXX", "g++")
FLAGS = ["-std=c++17", "-g0", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-fPIC", "-fvisibility=hidden"]
FLAGS += ['-DARU_PRIMITIVES="prim_emulated.h"']  # instead of the GPU's instructions (csrc/cuda/prim.cuh)

needs_compiler = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which(CXX) is None or importlib.util.find_spec("pybind11") is None,
    reason="the emulation needs Linux, a C++ compiler and pybind11",
)

# Order of Schedule in emulated_machine.h: order (0 in order, 1 reversed, 2 random), starve, deferred, seed.
SCHEDULES = {
    "in order": (0, 0, 0, 0),
    "reversed": (1, 0, 0, 0),
    "random, late stores": (2, 0, 1, 1),
    "starving, late stores": (2, 1, 1, 2),
    "starving in order": (0, 1, 0, 0),
}


# Multiprocessors, bytes of shared memory of a block, largest cluster.
DEVICES = {"H100": (132, 232448, 16), "B200": (148, 232448, 16), "A100": (108, 166912, 0), "RTX 4090": (128, 101376, 0)}


@dataclass(frozen=True)
class Fault:
    """One replacement in the text of a file of csrc/cuda; and the matmul precision whose kernels it is planted in,
    those of a GPU with groups of warps or without."""

    file: str
    right: str
    wrong: str
    precision: str = "high"
    groups: bool = True


# Kernels' forms of products (csrc/cuda/forms.h), by torch's matmul precision; "mixed" is the second one of "high".
FORMS = {"high": "tf32", "highest": "split", "medium": "bf16", "mixed": "mixed"}


def plant(folder: Path, fault: Fault | None) -> Path:
    """A copy of the CUDA sources in `folder`, with the fault -> its csrc."""
    shutil.copytree(ROOT / "csrc" / "cuda", folder / "csrc" / "cuda")
    shutil.copy(ROOT / "csrc" / "aru_math.h", folder / "csrc")
    if fault is not None:
        path = folder / "csrc" / "cuda" / fault.file
        text = path.read_text()
        assert text.count(fault.right) == 1, f"{fault.file} has {text.count(fault.right)} of {fault.right!r}"
        path.write_text(text.replace(fault.right, fault.wrong))
    return folder / "csrc"


def compile_object(source: Path, target: Path, include: Path, *flags: str) -> Path:
    """An object of a file of the emulation."""
    command = [
        CXX,
        *FLAGS,
        f"-I{include}",
        f"-I{ROOT / 'tests' / 'csrc'}",
        *flags,
        "-c",
        str(source),
        "-o",
        str(target),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


WITHOUT_GROUPS = "-DARU_EMULATED_GROUPS=0"  # the kernels of a GPU that has no groups of warps

# Column tiles that are emulated in each form of products, a bit for each choice in csrc/cuda/tiling.h.
TILES = {"bf16": 0b1111, "tf32": 0b0101, "split": 0b1001, "mixed": 0b1111}
TILES_WITHOUT_GROUPS = 0b0101  # of bf16


def build_kernels(target: Path, include: Path, form: str, tiles: int, *flags: str) -> Path:
    """The object of the kernels of one form of products, with the sources in `include`."""
    macros = [f"-DARU_FORM={form}", f"-DARU_TILES={tiles}"]
    if form == "mixed":  # which has only the forward pass of the adaptive network
        macros += ["-DARU_PASSES=1", "-DARU_STATIC=0"]
    source = ROOT / "tests" / "csrc" / "emulated_kernels.cpp"
    return compile_object(source, target, include, "-O1", *macros, *flags)


PASSES = {"forward": 1, "backward": 2}  # bits of ARU_PASSES


def included(file: str) -> set[str]:
    """The headers of csrc/cuda that one of them includes, itself among them."""
    found, left = set(), [file]
    while left:
        name = left.pop()
        if name not in found and (path := ROOT / "csrc" / "cuda" / name).exists():
            found.add(name)
            left += re.findall(r'^#include "(.+)"', path.read_text(), re.MULTILINE)
    return found


def build_passes(
    folder: Path, precision: str, groups: bool, fault: Fault | None, *flags: str, sound: dict[str, Path] | None = None
) -> dict[str, Path]:
    """The objects of both passes, for small controllers only.

    sound: the objects without a fault, which serve the pass that does not include the faulty file.  Two passes
    compile faster together.
    """
    include = plant(folder, fault)
    flags = flags if groups else (*flags, WITHOUT_GROUPS)

    def build(name: str, passes: int) -> Path:
        macros = [] if precision == "mixed" else [f"-DARU_PASSES={passes}"]
        return build_kernels(folder / f"{name}.o", include, FORMS[precision], 0b1, *macros, *flags)

    wanted = {"forward": 1} if precision == "mixed" else PASSES
    if sound is None:
        return {name: build(name, bit) for name, bit in wanted.items()}
    faulty = [name for name in wanted if fault.file in included(f"{name}.cuh")]
    if len(faulty) == len(PASSES):
        return {"both": build("both", sum(PASSES.values()))}
    return sound | {name: build(name, PASSES[name]) for name in faulty}


def _build_launch(folder: Path) -> Path:
    return compile_object(ROOT / "tests" / "csrc" / "emulated_launch.cpp", folder / "launch.o", ROOT / "csrc", "-O1")


def _build_bindings(folder: Path) -> Path:
    import pybind11

    flags = ["-O1", f"-I{pybind11.get_include()}", f"-I{sysconfig.get_paths()['include']}"]
    flags += [f'-DARU_VERSION="{__version__}"', '-DARU_CUDA_ARCHITECTURES="none, emulated"']
    flags += ["-DARU_CUDA_MODULE=_cuda_emulated"]
    return compile_object(ROOT / "csrc" / "bindings_cuda.cpp", folder / "bindings.o", ROOT / "csrc", *flags)


def link(objects: list[Path], target: Path) -> None:
    """A module of the objects."""
    subprocess.run([CXX, "-shared", *map(str, objects), "-o", str(target)], check=True)


def built() -> Path:
    """The folder with the module, bindings.o, launch.o and, in without_groups, the module of kernels without groups of
    warps; compiled by the first process that asks.
    """
    sources = [
        *(ROOT / "csrc" / "cuda").glob("*.*h"),
        ROOT / "csrc" / "aru_math.h",
        ROOT / "csrc" / "bindings_cuda.cpp",
    ]
    sources += [*(ROOT / "tests" / "csrc").glob("*emulated*"), Path(__file__)]
    digest = hashlib.sha256(b"".join(p.read_bytes() for p in sorted(sources)) + sys.version.encode()).hexdigest()
    folder = ROOT / "build" / "emulation" / digest[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        module, twin = folder / "_cuda_emulated.so", folder / "without_groups"
        if not module.exists():
            twin.mkdir(exist_ok=True)
            include = ROOT / "csrc"
            jobs = [
                partial(build_kernels, folder / f"kernels_{form}.o", include, form, tiles)
                for form, tiles in TILES.items()
            ]
            target = twin / "kernels_bf16.o"
            jobs.append(partial(build_kernels, target, include, "bf16", TILES_WITHOUT_GROUPS, WITHOUT_GROUPS))
            jobs += [lambda: _build_launch(folder), lambda: _build_bindings(folder)]
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                *kernels, kernels_without, launch, bindings = pool.map(lambda job: job(), jobs)
            link([kernels_without, launch, bindings], twin / module.name)
            link([*kernels, launch, bindings], folder / "unfinished")
            (folder / "unfinished").rename(module)
    return folder


class Emulation:
    """A module of emulated kernels, and who runs when."""

    def __init__(self, path: Path) -> None:
        # pybind11 has one module of a name.
        spec = importlib.util.spec_from_file_location(f"{path.parent.name}._cuda_emulated", path)
        self.module: ModuleType = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)
        self._library = ctypes.CDLL(str(path))

    def schedule(self, name: str) -> None:
        """One of SCHEDULES, for the launches to come."""
        self._library.aru_emulation_schedule(*SCHEDULES[name])

    def device(self, multiprocessors: int, shared_bytes: int, clusters: int) -> None:
        """What the device has."""
        self._library.aru_emulation_device(multiprocessors, shared_bytes, clusters)
        cuda._plan.cache_clear()

    @contextmanager
    def in_place_of_a_gpu(self) -> Iterator[None]:
        """aru_kernels.cuda runs on CPU tensors, by these kernels."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cuda, "_C", self.module)
            patch.setattr(cuda, "_stream", lambda x: 0)
            patch.setitem(vars(BACKENDS["cuda"]), "devices", frozenset({"cpu"}))  # a frozen dataclass
            self.device(*DEVICES["H100"])
            self.schedule("in order")
            yield
        cuda._plan.cache_clear()
