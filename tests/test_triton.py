"""The backend triton in a process without a GPU: importing, refusing, products, and the table of its kernels."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest
import torch

import aru_kernels.functional as F
from aru_kernels import backends, triton, use_backend

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")

WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None  # import triton raises ImportError
import torch, aru_kernels
row = next(row for row in aru_kernels.backends_info() if row.name == "triton")
assert not row.available
print(row.why_not)
aru_kernels.ARUN(1, 4, controller_size=3)(torch.randn(3, 2, 1))[0].sum().backward()
import runpy
runpy.run_module("aru_kernels", run_name="__main__")
"""

PACKAGE = Path(triton.__file__).parent
# Each may import those before it.
LAYERS = (
    "kernels.math",
    "kernels.controller",
    "kernels.gamma",
    "kernels.static",
    "kernels.persistent",
    "_mode",
    "launch",
    "gamma",
    "controller",
    "graphs",
    "networks",
    "ways",
    "persistent",
    "stepwise",
    "sequence",
)


def test_without_triton(run_python):
    """As on macOS and Windows: the package works, and says what is missing."""
    done = run_python("-W", "error", "-c", WITHOUT_TRITON)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Triton "), done.stdout


def sources() -> dict[str, ast.Module]:
    files = [*PACKAGE.glob("*.py"), *PACKAGE.glob("kernels/*.py")]
    parsed = {".".join(file.relative_to(PACKAGE).with_suffix("").parts): ast.parse(file.read_text()) for file in files}
    return {name: tree for name, tree in parsed.items() if not name.endswith("__init__")}


def test_kernels_stand_apart_from_their_launchers():
    """Modules of `kernels` hold functions under triton.jit, and constants; no other module holds such a function."""
    for name, tree in sources().items():
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        jitted = [f for f in functions if any(ast.unparse(d) == "triton.jit" for d in f.decorator_list)]
        assert jitted == (functions if name.startswith("kernels.") else []), name
        for kernel in jitted:
            text = ast.get_docstring(kernel)
            assert text, f"{name}.{kernel.name}"
            if kernel.name.endswith("_kernel"):
                assert "\nGrid: " in text, f"{name}.{kernel.name}"
                assert "\nOutput" in text, f"{name}.{kernel.name}"


def imported_modules(tree: ast.Module) -> set[str]:
    """Modules of aru_kernels.triton that a module imports, without that prefix."""
    prefix = "aru_kernels.triton."
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return {name.removeprefix(prefix) for name in names if name.startswith(prefix)} & set(LAYERS)


def test_imports_run_one_way():
    trees = sources()
    assert set(trees) == set(LAYERS)
    assert imported_modules(trees["sequence"]) >= {"persistent", "stepwise", "networks"}
    for name, tree in trees.items():
        wrong = imported_modules(tree) - set(LAYERS[: LAYERS.index(name)])
        assert not wrong, f"{name} imports {wrong}"


def test_triton_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(triton.importlib.util, "find_spec", lambda name: None)
    assert triton.unavailable().startswith("Triton is not installed")


@no_gpu
@needs_triton
def test_without_a_gpu():
    assert triton.unavailable() == "PyTorch finds no GPU"
    with (
        use_backend("triton"),
        pytest.raises(RuntimeError, match=r"^backend 'triton' cannot run gamma: it serves cuda "),
    ):
        F.gamma(torch.ones(2), 1.0, 0.0)


def test_what_the_backend_serves():
    backend = backends.BACKENDS["triton"]
    gpu = torch.device("cuda")
    assert backend.refuses("gamma", gpu, torch.float64) == "it computes in float32, got torch.float64"
    assert backend.limited
    assert triton.refuses(400, 128) is None
    assert triton.refuses(400, 129) == "its controller has at most 128 units, got 129"
    for dtype in (torch.float16, torch.bfloat16):
        assert backend.takes("gamma", dtype)
        assert backend.takes("controller_step", dtype)
        assert not backend.takes("aru_sequence", dtype)
    assert not backends.BACKENDS["cpu"].takes("gamma", torch.float16)


def test_large_controllers_need_more_than_the_shared_memory_of_7_5(monkeypatch):
    monkeypatch.setattr(triton, "_capability", lambda: (7, 5))
    assert triton.refuses(400, 64) is None
    assert triton.refuses(400, 65) == (
        "its controller has at most 64 units on a GPU of compute capability 7.5, "
        "which has 64 KiB of shared memory, got 65"
    )
    assert triton.refuses(400, 129) == "its controller has at most 128 units, got 129"
    # auto goes past it
    monkeypatch.setattr(backends, "_unavailable", lambda module: None if module.endswith("triton") else "not built")
    monkeypatch.setattr(backends, "_warn_slow", lambda op, device_type: None)
    chosen = [backends.select("aru_sequence", torch.device("cuda"), torch.float32, 400, G) for G in (64, 65)]
    assert chosen == ["triton", "reference"]
    for other in ((7, 0), (8, 6), None):
        monkeypatch.setattr(triton, "_capability", lambda other=other: other)
        assert triton.refuses(400, 128) is None


@needs_triton
def test_the_shared_memory_of_7_5():
    """What the limit there is for: the kernels of 65 units need more than it has."""
    from support import compilation as table

    with table.recorded_launches("ieee") as launches:
        table.step_calls(triton.MAX_CONTROLLER_7_5 + 1, torch.float32)
    forward = next(launch for launch in launches if launch.kernel == "controller_step_fwd_kernel")
    assert table.excess(table.compile_launch(forward, "cuda", 75), 75) == "more than 65536 B of shared memory"


@needs_triton
def test_three_products_have_no_redundant_warps():
    """No launch takes three TF32 products of 64 or more rows with more warps than 16 rows have: such code faults.

    Of all that users' calls launch where there is TF32; products' rows are those of a tile, and the units.
    """
    from aru_kernels.triton import controller
    from support import compilation as table

    def warps_for_rows(launch):
        values, options = dict(launch.constants), dict(launch.options)
        rows = {values[k] for k in ("BLOCK_R", "P") if k in values}
        return [(r, options["num_warps"]) for r in rows if r >= 64]

    launches = [x for architecture in (80, 90, 100) for x in table.launches_for("cuda", architecture, True)]
    three = [x for x in launches if dict(x.constants).get("PRODUCT") == "tf32x3"]
    kernels = {x.kernel for x in three}
    assert {"controller_step_fwd_kernel", "controller_sums_kernel"} <= kernels
    checked = [(launch, *pair) for launch in three for pair in warps_for_rows(launch)]
    assert checked
    for launch, rows, warps in checked:
        assert warps <= rows // 16, launch.describe()
    # and of every tile of the step by step kernels
    for kernel in ("forward", "states", "backward", "sums"):
        for GP in (16, 32, 64, 128):
            for R in (1, 10**5):
                tile = controller.tile(kernel, GP, "tf32x3", R)
                for rows in (tile.BLOCK_R, *([GP] if kernel == "sums" and GP <= 64 else [])):
                    assert rows < 64 or tile.threads // 32 <= rows // 16


def test_interpreted_kernels_serve_cpu_tensors_in_a_process_of_their_own(run_python):
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    code = "import aru_kernels\nprint(next(row.device for row in aru_kernels.backends_info() if row.name == 'triton'))"
    for value, expected in (("1", "CPU, in Triton's interpreter"), ("0", "")):
        assert run_python("-c", code, TRITON_INTERPRET=value).stdout.startswith(expected or "\n")


@needs_triton
def test_products():
    """Accurate to float32 by default, with no TF32 or bfloat16 asked of a GPU that has none."""
    from aru_kernels.triton.launch import product_kind_of

    for backend, architecture, expected in (
        ("cuda", 75, ["ieee", "ieee", "ieee"]),
        ("cuda", 80, ["tf32x3", "tf32", "bf16"]),
        ("cuda", 90, ["tf32x3", "tf32", "bf16"]),
        ("cuda", 100, ["tf32x3", "tf32", "bf16"]),
        ("hip", "gfx942", ["ieee", "tf32", "bf16"]),
        ("hip", "gfx1100", ["ieee", "ieee", "bf16"]),
    ):
        assert [product_kind_of(backend, architecture, name) for name in ("highest", "high", "medium")] == expected


@needs_triton
def test_the_table_sees_a_kernel_that_does_not_fit(monkeypatch):
    """A tile that is too large spills; and every limit is a limit."""
    from aru_kernels.triton import controller
    from support import compilation as table

    monkeypatch.setattr(controller, "tile", lambda *args: controller.Tile(64, 32))
    with table.recorded_launches("tf32x3") as launches:
        table.step_calls(50, torch.float32)
    forward = next(launch for launch in launches if launch.kernel == "controller_step_fwd_kernel")
    usage = table.compile_launch(forward, "cuda", 90)
    assert usage.spilled > 0
    monkeypatch.setattr(table, "OLDER_TRITON", False)
    assert table.excess(usage, 90) == "spills"
    monkeypatch.setattr(table, "OLDER_TRITON", True)
    assert table.excess(usage, 90) == ""
    monkeypatch.setattr(table, "OLDER_TRITON", False)
    assert table.excess(table.Usage(32, 0, 300_000), 90) == "more than 232448 B of shared memory"
    assert table.excess(table.Usage(255, 0, 232_448), 90) == ""


@needs_triton
def test_threads_agree_on_sums():
    """Where a thread has one element of a row; and the table sees it where they do not."""
    import triton
    import triton.language as tl

    from aru_kernels.triton.kernels import math
    from support import compilation as table

    @triton.jit
    def kernel(x_ptr, y_ptr, sum_ptr, sums: tl.constexpr):
        i, j = tl.arange(0, 16), tl.arange(0, 16)[None, :]
        x, y = tl.load(x_ptr + i[:, None] * 16 + j), tl.load(y_ptr + j)
        tl.store(sum_ptr + i, sums(x, y, 1))

    @triton.jit
    def fused(x, y, AXIS: tl.constexpr):
        return tl.sum(x * y, AXIS)

    def disagreeing(sums):
        signature = {**dict.fromkeys(("x_ptr", "y_ptr", "sum_ptr"), "*fp32"), "sums": "constexpr"}
        source = table.ASTSource(kernel, signature, {"sums": sums})
        options = {"num_warps": 8, "enable_fp_fusion": True}
        ptx = triton.compile(source, target=table.GPUTarget("cuda", 90, 32), options=options).asm["ptx"]
        return table.disagreeing(ptx)

    assert disagreeing(fused) == 1
    assert disagreeing(math.sums) == 0
    assert table.excess(table.Usage(32, 0, 0, 1), 90) == "threads disagree on sums"

    with table.recorded_launches("tf32x3") as launches:
        for H in (10, 20):
            table.sequence_calls(16, H)
            table.static_calls(H)
    whole = [x for x in launches if "H" in dict(x.constants)]
    assert len(whole) >= 8
    for launch in whole:
        assert table.compile_launch(launch, "cuda", 90).disagreeing == 0, launch.describe()
    with table.recorded_launches("tf32") as launches:
        table.sequence_calls(16, 64)
    (backward,) = [x for x in launches if x.kernel == "adaptive_steps_bwd_kernel"]
    assert table.compile_launch(backward, "cuda", 100).disagreeing == 0


@needs_triton
def test_the_table_sees_misplaced_operands():
    """What an assembler made of one descriptor, right and wrong; and whether it is in the kernel's memory."""
    from support import compilation as table
    from support import descriptors

    start = """
        /*0000*/ S2R R60, SR_TID.X ;                            /* 0x1 */
                                                                /* 0x2 */
        S2R R7, SR_CgaCtaId ;
        MOV R0, 0x400 ;
        LEA R0, R7, R0, 0x18 ;
        IMAD.SHL.U32 R5, R60, 0x10, RZ ;
        SHF.R.U32.HI R243, RZ, 0x4, R0 ;
        SGXT.U32 R243, R243, 0xe ;
        {source}
        R2UR UR38, R6 ;
        UIADD3.64 UR38, UR38, {more}, URZ ;
        HGMMA.64x32x8.F32.TF32 R40, R96, gdesc[UR36], R40 ;
    """
    right, wrong = "IADD3 R6, P1, R243, 0x2, RZ ;", "IADD3 R6, P5, R5, 0x2, RZ ;"
    for source, more, expected in (
        (right, 4, (1, 0, 0)),
        (right, 1280, (1, 0, 1)),
        (wrong, 4, (1, 0, 1)),
        ("LDS R6, [R5] ;", 4, (1, 1, 0)),
        ("@P1 " + right, 4, (1, 1, 0)),
    ):
        assert descriptors.find(start.format(source=source, more=hex(more)), 8, 20480) == expected
    assert table.excess(table.Usage(32, 0, 0, misplaced=1), 90) == "operands at wrong addresses"


@needs_triton
def test_the_table_has_every_kernel():
    from aru_kernels.triton.kernels import controller, gamma, persistent, static
    from support import compilation as table

    kernels = {
        name
        for module in (controller, gamma, persistent, static)
        for name, value in vars(module).items()
        if name.endswith("_kernel") and value.__module__ == module.__name__
    }
    elementwise = {name for name in kernels if name.startswith("gamma")}
    for backend, architecture in table.ARCHITECTURES:
        for everything in (False, True):
            found = {launch.kernel for launch in table.launches_for(backend, architecture, everything)}
            assert found | elementwise == kernels
            assert found == kernels or not (everything or architecture in (90, "gfx942"))
