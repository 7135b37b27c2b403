"""`make gpu-check` without a GPU: the program at toy sizes on the CPU; and that it does not time what is wrong."""

from __future__ import annotations

import json

import pytest
import torch

from aru_kernels import cpu
from benchmarks import gpu_check, gpu_checks, gpu_problems, gpu_timings
from helpers import ROOT, needs_cpu_kernels

CPU = torch.device("cpu")
# torch.compile's own
pytestmark = [needs_cpu_kernels, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture(autouse=True)
def keep_settings():
    yield
    torch.set_float32_matmul_precision("highest")
    torch.compiler.reset()


FROM_A_SOURCE_TREE = """
import runpy, sys
# an editable installation's finders, and what a machine with torch and Triton alone lacks
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "")]
sys.path = [folder for folder in sys.path if folder not in ({root!r}, {root!r} + "/python")]
for absent in ("matplotlib", "rich", "tyro", "pooch", "scipy", "sklearn", "psutil", "tensorboard", "hypothesis"):
    sys.modules[absent] = None
sys.argv = ["gpu_check.py", "--help"]
runpy.run_path({root!r} + "/benchmarks/gpu_check.py", run_name="__main__")
"""


def test_runs_from_a_source_tree(run_python):
    """With nothing installed but what a GPU machine has."""
    done = run_python("-c", FROM_A_SOURCE_TREE.format(root=str(ROOT)), PYTHONPATH="")
    assert done.returncode == 0, done.stderr
    assert "--checks-only" in done.stdout


def test_layers_compile_where_torch_cannot_trace_all_that_is_asked(monkeypatch):
    """As before torch 2.12, where torch.compile did not know `is_autocast_available`."""
    monkeypatch.setattr(torch.amp, "is_autocast_available", torch.compiler.disable(torch.amp.is_autocast_available))
    gpu_checks.run_check("compiled layers work", gpu_problems.Place("cpu", CPU, small=True))


# torch.compile looks at .grad of h, which is no leaf, when it compiles the step
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor:UserWarning")
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_dry_run(tmp_path, capsys):
    path = tmp_path / "results.json"
    assert gpu_check.main(["--dry-run", "--backend", "cpu", "--output", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "skipped: needs a GPU" in printed
    assert "ours is" in printed
    report = json.loads(path.read_text())
    assert {"date", "commit", "torch", "triton", "device", "python"} <= set(report["machine"])
    results = report["backends"]["cpu"]
    assert list(results["checks"]) == list(gpu_checks.CHECKS)
    assert not [outcome for outcome in results["checks"].values() if outcome.startswith("FAILED")]
    names = [case["name"] for case in results["timings"]]
    for part in ("limits", "γ, ", "controller step", "ARUN", "GammaRNN"):
        assert any(name.startswith(part) for name in names), part
    for case in results["timings"][1:]:
        for name, timing in case["timings"].items():
            assert not timing["failure"], f"{case['name']}, {name}: {timing['failure']}"
            low, median, high = timing["quantiles"]
            assert 0 < low <= median <= high
        assert set(case["ratios"]) == set(case["timings"]) - {"cpu"}
        if case["name"].startswith("ARUN"):
            assert all(timing["us_per_step"] > 0 for timing in case["timings"].values())


def test_nothing_is_timed_when_a_check_fails(monkeypatch, capsys, tmp_path):
    """A kernel that is off by 1e-4: the checks say which, no time is taken and no file is written."""
    true = cpu.gamma_fwd
    monkeypatch.setattr(gpu_checks.ops, "_EAGER", dict(gpu_checks.ops._EAGER))
    _, function = gpu_checks.ops._EAGER["cpu", "gamma"]

    class Wrong(function):
        @staticmethod
        def forward(ctx, *arguments):
            return function.forward(ctx, *arguments) * 1.0001

    monkeypatch.setitem(gpu_checks.ops._EAGER, ("cpu", "gamma"), (true, Wrong))
    monkeypatch.setattr(gpu_checks, "CHECKS", {"gamma is accurate": gpu_checks.gamma_is_accurate})
    monkeypatch.setattr(gpu_timings, "measure", lambda *args: pytest.fail("timed"))
    path = tmp_path / "results.json"
    assert gpu_check.main(["--dry-run", "--backend", "cpu", "--output", str(path)]) == 1
    printed = capsys.readouterr().out
    assert "FAILED: AssertionError: γ, torch.float32" in printed
    assert "A check failed: nothing is timed." in printed
    assert not path.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(capsys):
    assert gpu_check.main([]) == 2
    assert "No GPU" in capsys.readouterr().out


def test_a_variant_that_fails_is_noted():
    def broken() -> None:
        raise RuntimeError("out of memory\nand more")

    case = gpu_timings.Case("case", {"ours": lambda: None, "broken": broken, "peer": lambda: None}, steps=10)
    result = gpu_timings.measure(case, gpu_problems.Place("cpu", CPU, small=True), 0.0)
    assert result.timings["broken"].failure == "RuntimeError: out of memory"
    assert set(result.ratios()) == {"peer"}
    lines = list(result.lines())
    assert len(lines) == 4
    assert lines[2].endswith("RuntimeError: out of memory")


def test_ratios_are_of_medians():
    timings = {"ours": gpu_timings.Timing([1, 2, 9]), "peer": gpu_timings.Timing([1, 6, 7])}
    assert gpu_timings.Result("case", timings).ratios() == {"peer": 3}


def test_fractions_of_limits(monkeypatch):
    """Of the copy; of the matrix product at the variant's precision; of the special functions; all only where known."""
    monkeypatch.setattr(gpu_timings, "seconds_of", lambda work, device: 0.5)
    variants = {"ours": lambda: None, "ours, high": lambda: None}
    work = {"moved_bytes": 100, "flop": 60.0, "special": 7, "precisions": {"ours, high": "high"}}
    place = gpu_problems.Place("cpu", CPU, small=True)
    limits = gpu_timings.Limits(copy=400.0, product={"highest": 240.0, "high": 480.0}, special=28.0)
    result = gpu_timings.measure(gpu_timings.Case("case", variants, **work), place, 0.0, limits)
    ours, high = (result.timings[name] for name in variants)
    assert (ours.fraction_of_copy, ours.fraction_of_product, ours.fraction_of_special) == (0.5, 0.5, 0.5)
    assert high.fraction_of_product == 0.25
    assert "25% of a matrix product, 50% of the special functions" in list(result.lines())[2]
    unknown = gpu_timings.measure(gpu_timings.Case("case", variants, **work), place, 0.0).timings["ours"]
    assert unknown.fraction_of_copy is unknown.fraction_of_product is unknown.fraction_of_special is None


def test_meetings_of_blocks_are_measured(monkeypatch, capsys):
    """By nvcc and the program that it makes; where either is missing, the report says so."""
    monkeypatch.setattr(gpu_check.shutil, "which", lambda name: None)
    assert gpu_check.run_meetings() == "nvcc is not found"
    monkeypatch.setattr(gpu_check.shutil, "which", lambda name: name)
    done = gpu_check.subprocess.CompletedProcess([], 0, '{"what": "cluster barrier", "microseconds": 1.5}\n', "")
    monkeypatch.setattr(gpu_check.subprocess, "run", lambda *arguments, **keywords: done)
    assert gpu_check.run_meetings() == [{"what": "cluster barrier", "microseconds": 1.5}]
    done.returncode, done.stderr = 1, "no kernel image"
    assert gpu_check.run_meetings() == "failed: no kernel image"
