"""`make gpu-check` without a GPU: the program at toy sizes on the CPU; and that it does not time what is wrong."""

from __future__ import annotations

import dataclasses
import json
import re
import time

import pytest
import torch

import aru_kernels.functional as F
from aru_kernels import backends, cpu, reference
from benchmarks.gpu import check as gpu_check
from benchmarks.gpu import checks as gpu_checks
from benchmarks.gpu import problems as gpu_problems
from benchmarks.gpu import sanitizer as gpu_sanitizer
from benchmarks.gpu import timings as gpu_timings
from benchmarks.timing import Sample
from support.helpers import ROOT, needs_cpu_kernels

CPU = torch.device("cpu")
SMALL = gpu_problems.Place("cpu", CPU, small=True)
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
sys.argv = ["check.py", "--help"]
runpy.run_path({root!r} + "/benchmarks/gpu/check.py", run_name="__main__")
"""


def test_runs_from_a_source_tree(run_python):
    """With nothing installed but what a GPU machine has."""
    done = run_python("-c", FROM_A_SOURCE_TREE.format(root=str(ROOT)), PYTHONPATH="")
    assert done.returncode == 0, done.stderr
    assert "--checks-only" in done.stdout


def test_layers_compile_where_torch_cannot_trace_all_that_is_asked(monkeypatch):
    """As before torch 2.12, where torch.compile did not know `is_autocast_available`."""
    monkeypatch.setattr(torch.amp, "is_autocast_available", torch.compiler.disable(torch.amp.is_autocast_available))
    gpu_checks.run_check("compiled layers work", SMALL)


# torch.compile looks at .grad of h, which is no leaf, when it compiles the step
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor:UserWarning")
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_dry_run(tmp_path, capsys):
    path = tmp_path / "results.json"
    arguments = ["--dry-run", "--backend", "cpu", "--output", str(path), "--commit", "abc"]
    assert gpu_check.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "skipped: needs a GPU" in printed
    assert "ours is" in printed
    results = json.loads(path.read_text())["backends"]["cpu"]
    assert {"date", "commit", "torch", "triton", "device", "python"} <= set(results["machine"])
    assert results["machine"]["commit"] == "abc"
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
    monkeypatch.setattr(gpu_checks.ops, "_EAGER", dict(gpu_checks.ops._EAGER))
    true, function = gpu_checks.ops._EAGER["cpu", "gamma"]

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


def test_no_committed_result_has_times_beside_a_failed_check():
    paths = list((ROOT / "benchmarks" / "results").glob("gpu-*.json"))
    assert paths
    for path in paths:
        for name, results in json.loads(path.read_text(encoding="utf-8"))["backends"].items():
            failed = [check for check, outcome in results["checks"].items() if outcome.startswith("FAILED")]
            assert not (failed and results["timings"]), f"{path.name}, {name}: {failed}"


@pytest.fixture
def sequences_alone(monkeypatch):
    """The backend `cpu` as if it had only the sequences, of networks without a controller."""
    limited = dataclasses.replace(
        backends.BACKENDS["cpu"], ops=frozenset({"aru_sequence", "gamma_rnn_sequence"}), limited=True
    )
    monkeypatch.setitem(backends.BACKENDS, "cpu", limited)
    monkeypatch.setattr(cpu, "refuses", lambda H, G: f"G = {G}" if G else None, raising=False)


def test_a_backend_is_asked_for_what_it_has(sequences_alone, monkeypatch):
    """Other operations and sizes are left out, and a check of nothing else is skipped with the reason."""
    asked = []
    monkeypatch.setattr(gpu_checks, "compare", lambda place, function, *rest: asked.append(function))
    assert gpu_check.outcome_of("gamma is accurate", SMALL).startswith("skipped: it has no kernel for gamma")
    assert gpu_check.outcome_of("steps are accurate", SMALL).startswith("skipped: it has no kernel for controller_step")
    assert gpu_check.outcome_of("sequences are accurate", SMALL) == "ok"
    assert set(asked) == {F.gamma_rnn_sequence}
    for name in ("bits are the same every time", "second derivatives are refused"):
        assert gpu_check.outcome_of(name, SMALL) == "ok", name
    assert [function for function, _ in gpu_problems.one_of_each(SMALL, 5, 2, 6, 4)] == [F.gamma_rnn_sequence]
    names = [case.name for case in gpu_timings.all_cases(SMALL)]
    assert len(names) == 2
    assert all(name.startswith("GammaRNN") for name in names)


@pytest.mark.slow
def test_operators_that_a_backend_has(sequences_alone):
    assert gpu_check.outcome_of("operators are registered correctly", SMALL) == "ok"


def test_a_check_tells_all_that_is_wrong(monkeypatch):
    monkeypatch.setattr(gpu_problems, "exact_results", lambda *arguments: [x + 1 for x in run(*arguments)])
    run = lambda function, arguments, scale: gpu_problems.run("reference", function, arguments, scale)  # noqa: E731
    arguments = [torch.ones(3), torch.tensor(4.0), torch.tensor(0.5)]

    def check(place):
        for name in "ab":
            gpu_problems.compare(place, F.gamma, arguments, 1e-6, name)

    monkeypatch.setitem(gpu_checks.CHECKS, "check", check)
    first, second = gpu_check.outcome_of("check", SMALL).splitlines()
    assert first.startswith("FAILED: AssertionError: a: output 0 is off by")
    assert "gradient of n is off by" in first
    assert second.startswith("b: output 0")


@pytest.mark.parametrize("G", [1, 16])
def test_gradients_of_a_step_are_sums_that_do_not_cancel(G):
    """Else the rounding of operands to TF32 alone, 1e-3, takes a gradient beyond every tolerance."""
    for seed in range(50):
        torch.manual_seed(seed)
        a, g, w_ag, w_gg, b_g, w_gc, b_c = [x.double() for x in gpu_problems.one_signed_step(SMALL, 3, 41, G)]
        b_g = b_g.expand_as(g).clone().requires_grad_()  # an element's gradient is what it adds to the sum
        n, s, state = reference.controller_step(a, g, w_ag, w_gg, b_g, w_gc, b_c)
        outputs = [reference.gamma(a, n, s), state]
        weights = [torch.randint(1, 9, x.shape) / 8 for x in outputs]
        du, dn, ds = torch.autograd.grad(outputs, [b_g, n, s], weights)
        d_ag, d_gg = du * a[..., None], du[..., :, None] * g[..., None, :]
        d_gc = torch.stack([dn, ds], -1)[..., :, None] * state[..., None, :]
        for name, terms in {"w_ag": d_ag, "w_gg": d_gg, "w_gc": d_gc}.items():
            condition = terms.abs().sum((0, 1)).norm() / terms.sum((0, 1)).norm()
            assert condition < 2, f"{name}, seed {seed}"


def test_float16_holds_the_gradients_of_scalars():
    """Of γ over 3,000 x 401 elements."""
    torch.manual_seed(0)
    place = gpu_problems.Place("cpu", CPU)
    sums = []

    def collect(place, function, arguments, tolerance, what, exact=None, scale=1.0):
        sums.extend(x.abs().max() for x in gpu_problems.exact_results(function, arguments, scale))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu_checks, "compare", collect)
        patch.setattr(gpu_checks, "NARROW", (torch.float16,))
        gpu_checks.gamma_is_accurate(place)
    assert max(sums) < torch.finfo(torch.float16).max / 4


SANITIZER = """
========= COMPUTE-SANITIZER
========= Invalid __global__ write of size 16 bytes
=========     at controller_bwd_kernel+0x5a0 in controller.py:300
=========     by thread (1,0,0) in block (2,0,0)
=========     Access to 0x7f0 is out of bounds
=========     Saved host backtrace up to driver entry point at kernel launch time
=========         Host Frame: launch [0x1] in driver.so
=========
========= Invalid __global__ write of size 16 bytes
=========     at controller_bwd_kernel+0x5a0 in controller.py:300
=========     by thread (2,0,0) in block (2,0,0)
=========
========= Program hit cudaErrorLaunchFailure (error 719) due to "unspecified launch failure" on CUDA API call
=========         Host Frame: launch [0x1] in driver.so
========= Target application returned an error
========= ERROR SUMMARY: 3 errors
"""


def test_what_the_sanitizer_found_is_told_briefly():
    assert gpu_sanitizer.sanitizer_findings(SANITIZER) == [
        "2 x Invalid __global__ write of size 16 bytes at controller_bwd_kernel+0x5a0 in controller.py:300",
        '1 x Program hit cudaErrorLaunchFailure (error 719) due to "unspecified launch failure" on CUDA API call',
        "ERROR SUMMARY: 3 errors",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("sound", [True, False])
def test_the_sanitizer_check(monkeypatch, tmp_path, sound):
    """With a tool that runs the program and finds nothing, or an invalid write."""
    tool = tmp_path / "compute-sanitizer"
    found = "" if sound else "printf '========= Invalid write\\n=========     at kernel\\n'; exit 9"
    options = 'while [ "${1#--}" != "$1" ]; do shift 2; done'
    tool.write_text(f'#!/bin/sh\n{options}\n"$@" > {tmp_path}/$$.out || exit 1\n{found}\n')
    tool.chmod(0o755)
    monkeypatch.setattr(gpu_sanitizer.shutil, "which", lambda name: str(tool))
    monkeypatch.setattr(gpu_problems.Place, "gpu_only", lambda place: None)
    outcome = gpu_check.outcome_of("the sanitizer finds nothing", SMALL)
    reports = [path.read_text() for path in tmp_path.glob("*.out")]
    assert len(reports) == 3
    assert all(reports)
    assert len(set(reports)) == 1
    if sound:
        assert outcome == "ok"
    else:
        assert outcome.splitlines()[:2] == ["FAILED: AssertionError: memcheck: 9", "1 x Invalid write at kernel"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(capsys):
    assert gpu_check.main([]) == 2
    assert "No GPU" in capsys.readouterr().out


def test_a_variant_that_fails_is_noted():
    def broken() -> None:
        raise RuntimeError("out of memory\nand more")

    case = gpu_timings.Case("case", {"ours": lambda: None, "broken": broken, "peer": lambda: None}, steps=10)
    result = gpu_timings.measure(case, SMALL, 0.0)
    assert result.timings["broken"].failure == "RuntimeError: out of memory"
    assert set(result.ratios()) == {"peer"}
    lines = list(result.lines())
    assert len(lines) == 4
    assert lines[2].endswith("RuntimeError: out of memory")


def test_a_variant_that_fails_when_it_is_timed_is_noted():
    calls = []

    def breaks() -> None:
        calls.append(0)
        if len(calls) == 4:
            raise RuntimeError("out of memory")

    case = gpu_timings.Case("case", {"ours": lambda: None, "breaks": breaks})
    result = gpu_timings.measure(case, SMALL, 0.0)
    assert (result.timings["breaks"].failure, len(calls)) == ("RuntimeError: out of memory", 4)
    assert result.timings["ours"].rounds == 5


def test_a_slow_variant_gets_three_rounds(monkeypatch):
    monkeypatch.setattr(gpu_timings, "SLOW", 0.01)
    variants = {"ours": lambda: None, "slow": lambda: time.sleep(0.02)}
    timings = gpu_timings.measure(gpu_timings.Case("case", variants), SMALL, 0.0).timings
    assert (timings["ours"].rounds, timings["slow"].rounds) == (5, 3)


def test_cases_that_are_wanted_alone():
    names = [case.name for case in gpu_timings.all_cases(SMALL)]
    wanted = re.compile("^ARUN.*forward$|γ.*bfloat16.*scalar, backward")
    chosen = [case.name for case in gpu_timings.all_cases(SMALL, lambda name: wanted.search(name) is not None)]
    assert chosen == [name for name in names if wanted.search(name)]
    assert len(chosen) == 2


def test_results_of_a_device_are_in_one_file(tmp_path):
    """Another backend's stay, and what was timed before at the same commit; not what was timed at another."""

    def backend(commit: str, *cases: str, **checks: str) -> dict[str, object]:
        machine = {"device": "d", "torch": "t", "commit": commit}
        return {"machine": machine, "checks": checks, "timings": [{"name": name, "of": commit} for name in cases]}

    path = tmp_path / "gpu.json"
    first = {"backends": {"triton": backend("1", "a", "b", gamma="ok")}, "meetings": "none"}
    assert gpu_check.merged(first, path) == first
    path.write_text(json.dumps(first))
    same = gpu_check.merged({"backends": {"triton": backend("1", "b", "c", steps="ok")}}, path)
    assert [case["name"] for case in same["backends"]["triton"]["timings"]] == ["a", "b", "c"]
    assert same["backends"]["triton"]["checks"] == {"gamma": "ok", "steps": "ok"}
    assert same["meetings"] == "none"
    other = gpu_check.merged({"backends": {"triton": backend("2", "b"), "cuda": backend("2", "a")}}, path)
    assert [case["name"] for case in other["backends"]["triton"]["timings"]] == ["b"]
    assert set(other["backends"]) == {"triton", "cuda"}


def test_the_table_of_ratios():
    times = {"ours": gpu_timings.Timing([1e-3, 2e-3, 3e-3]), "peer": gpu_timings.Timing([1e-2, 1.5e-2, 2e-2])}
    failed = {"ours": gpu_timings.Timing(failure="out of memory"), "peer": gpu_timings.Timing([1, 1, 1])}
    results = [gpu_timings.Result(name, timings).to_json() for name, timings in (("one", times), ("other", failed))]
    assert list(gpu_check.table([{"name": "limits"}, *results])) == [
        "one          2 ms  peer 7.50",
        "other      failed  ",
    ]


def test_ratios_are_of_medians():
    timings = {"ours": gpu_timings.Timing([1, 2, 9]), "peer": gpu_timings.Timing([1, 6, 7])}
    assert gpu_timings.Result("case", timings).ratios() == {"peer": 3}


def test_fractions_of_limits(monkeypatch):
    """Of the copy; of the matrix product at the variant's precision; of the special functions; all only where known."""
    monkeypatch.setattr(gpu_timings, "sample_of", lambda *arguments: Sample(0.5, 0.1))
    variants = {"ours": lambda: None, "ours, high": lambda: None}
    work = {"moved_bytes": 100, "flop": 60.0, "special": 7, "precisions": {"ours, high": "high"}}
    limits = gpu_timings.Limits(copy=400.0, product={"highest": 240.0, "high": 480.0}, special=28.0)
    result = gpu_timings.measure(gpu_timings.Case("case", variants, **work), SMALL, 0.0, limits)
    ours, high = (result.timings[name] for name in variants)
    assert (ours.fraction_of_copy, ours.fraction_of_product, ours.fraction_of_special) == (0.5, 0.5, 0.5)
    assert high.fraction_of_product == 0.25
    assert "25% of a matrix product, 50% of the special functions" in list(result.lines())[2]
    unknown = gpu_timings.measure(gpu_timings.Case("case", variants, **work), SMALL, 0.0).timings["ours"]
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
