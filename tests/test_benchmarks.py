"""The benchmarks' own machinery: records, comparison of commits, report, and the refusal to time a wrong result."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from aru_kernels import cpu
from benchmarks import cognitive_libraries, comparison, machine, records, report
from benchmarks.cases import check_equal
from benchmarks.memory import peak_in_fresh_process
from benchmarks.records import Record
from benchmarks.timing import Times, interleaved
from benchmarks.work import Shape
from support.helpers import needs_resident_peak

ROOT = Path(__file__).parents[1]
MACHINE = {
    "device": "Some Processor",
    "device_type": "cpu",
    "threads": 2,
    "isa": "avx2",
    "clock_mhz": None,
    "python": "3",
    "torch": "2",
    "triton": "3",
    "aru_kernels": "0",
    "commit": "aaaa",
}


def record(variant: str, best: float, commit: str = "aaaa", spread: float = 0.02, **changes) -> Record:
    shape = changes.pop("shape", Shape(8, 16, 32, 4))
    gflops = shape.gflop(True) / best
    values = {
        "op": "aru_sequence",
        "mode": "forward+backward",
        "variant": variant,
        "shape": shape._asdict(),
        "dtype": "float32",
        "precision": "highest",
        "same_function": True,
        "best": best,
        "p20": best,
        "p50": best * (1 + spread / 2),
        "p80": best * (1 + spread),
        "rounds": 5,
        "ratio": 1.0,
        "us_per_step": best / shape.T * 1e6,
        "gflops": gflops,
        "gbps": None,
        "fraction": gflops / 100,
        "limit": 100.0,
        "machine": MACHINE | {"commit": commit},
    }
    return Record(**values | changes)


def run_of(ours: float, reference: float, commit: str, **changes) -> list[Record]:
    return [record("cpu", ours, commit, **changes), record("reference", reference, commit, **changes)]


def test_records_come_back_as_they_were(tmp_path):
    path = tmp_path / "results" / "some.jsonl"
    first, second = record("cpu", 1e-3), record("reference", 2e-3, extra={"compile_seconds": 3.5})
    records.append(path, [first])
    records.append(path, [second])
    assert records.load([path]) == [first, second]


@pytest.mark.parametrize("line", ['{"op": "gamma"}', "not json", "[1]"])
def test_a_line_that_is_no_record_is_named(tmp_path, line):
    path = tmp_path / "some.jsonl"
    records.append(path, [record("cpu", 1e-3)])
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=r"some\.jsonl, line 2 is no benchmark record"):
        records.load([path])


def test_old_records_name_their_limit(tmp_path):
    path = tmp_path / "some.jsonl"
    values = dataclasses.asdict(record("cpu", 1e-3))
    del values["limit_of"]
    path.write_text(json.dumps(values) + "\n" + json.dumps(values | {"gflops": None, "gbps": 3.0}) + "\n")
    assert [r.limit_of for r in records.load([path])] == ["matrix product", "copy"]


def test_fractions_of_different_limits_are_not_compared():
    before, after = [record("cpu", 1e-3)], [record("cpu", 1.5e-3, "bbbb", limit_of="multiply-adds")]
    assert comparison.compare(before, after) == []


@pytest.mark.skipif(cpu.unavailable() is not None, reason="needs the C++ extension")
def test_multiply_adds():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one = cpu.multiply_adds(torch.float32, "highest", 1)
        assert one / (1000 * 12 * 2) in (4, 8, 16)  # lanes of a vector
        assert cpu.multiply_adds(torch.float64, "highest", 3) == 3 * one / 2
        torch.set_num_threads(2)
        assert cpu.multiply_adds(torch.float32, "highest", 1) == 2 * one
        name, rate_of = machine.product_limit(torch.device("cpu"))
        assert name == "multiply-adds"
        assert 1 < rate_of(torch.device("cpu")) < 1e5
    finally:
        torch.set_num_threads(threads)


@pytest.mark.skipif(cpu.unavailable() is not None, reason="needs the C++ extension")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="reads instructions of x86-64")
@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump")
def test_multiply_adds_run_in_chains_of_their_own():
    """Compilers merge equal chains into one; the measured rate is then bounded by its latency."""
    from aru_kernels import _C

    listing = subprocess.run(
        ["objdump", "-dC", "--no-show-raw-insn", _C.__file__], capture_output=True, text=True, check=True
    ).stdout
    if "multiply_adds" not in listing:
        pytest.skip("the module has no symbols")
    for isa in ("avx2", "avx512"):
        functions = re.findall(rf"^\w+ <[^\n]*aru::{isa}::multiply_adds.*?(?=\n\n)", listing, re.M | re.S)
        assert functions
        registers = set(re.findall(r"vfmadd\d+ps [^\n]*(%[yz]mm\d+)\n", "\n".join(functions)))
        assert len(registers) == 12, isa


def test_latest_keeps_the_last_record_of_each_variant():
    old, new, other = record("cpu", 1e-3), record("cpu", 2e-3), record("reference", 3e-3)
    assert records.latest([old, other, new]) == [new, other]


@pytest.mark.parametrize(
    ("ours", "spread", "slower"),
    [(1.15, 0.02, True), (1.05, 0.02, False), (0.8, 0.02, False), (1.15, 0.6, False)],
    ids=["15% slower", "5% slower", "faster", "15% slower in 30% noise"],
)
def test_comparison_flags_slowdowns_beyond_the_noise(ours, spread, slower):
    # the machine itself is twice as slow the second time
    before, after = run_of(1e-3, 1e-2, "aaaa"), run_of(2e-3 * ours, 2e-2, "bbbb", spread=spread)
    (change,) = comparison.compare(before, after)
    assert change.ratio == pytest.approx(ours)
    assert change.slower is slower
    assert ("SLOWER" in comparison.as_markdown([change], "aaaa", "bbbb")) is slower


def test_comparison_takes_the_noise_from_repeated_runs():
    before = [*run_of(1.0e-3, 1e-2, "aaaa"), *run_of(1.3e-3, 1e-2, "aaaa"), *run_of(1.1e-3, 1e-2, "aaaa")]
    (change,) = comparison.compare(before, run_of(1.3e-3, 1e-2, "bbbb"))
    assert change.before == pytest.approx(0.11)
    assert change.noise == pytest.approx(0.3 / 1.1)
    assert not change.slower


def test_comparison_without_the_reference_takes_the_limit():
    before, after = [record("cpu", 1e-3)], [record("cpu", 1.5e-3, "bbbb")]
    (change,) = comparison.compare(before, after)
    assert change.ratio == pytest.approx(1.5)
    assert change.slower


def test_comparison_leaves_out_what_computes_something_else():
    peer = record("nn.LSTM, equal H", 1e-3, same_function=False)
    assert comparison.compare([peer], [dataclasses.replace(peer, best=9.0)]) == []


def test_compare_command(tmp_path, capsys):
    path = tmp_path / "some.jsonl"
    records.append(path, [*run_of(1e-3, 1e-2, "aaaa"), *run_of(2e-3, 1e-2, "bbbb")])
    assert report.main(["--results", str(path), "--compare", "aaaa", "bbbb"]) == 1
    assert "SLOWER" in capsys.readouterr().out
    assert report.main(["--results", str(path), "--compare", "bbbb", "aaaa"]) == 0
    with pytest.raises(SystemExit, match="no results of commit 'cccc'; there are results of: aaaa, bbbb"):
        report.main(["--results", str(path), "--compare", "aaaa", "cccc"])


def scaling_records(exponent: float) -> list[Record]:
    rows = []
    for T in (16, 64, 256, 1024):
        shape = Shape(8, T, 32, 4)
        rows.append(record("cpu", shape.gflop(True) / 50 * T**exponent, shape=shape, op="scaling in T"))
    return rows


@pytest.mark.parametrize(("exponent", "words"), [(0.0, "no faster than the work"), (0.5, "grows faster than the work")])
def test_page(tmp_path, exponent, words):
    rows = [*run_of(1e-3, 1e-2, "aaaa"), *scaling_records(exponent)]
    assert report.fitted_exponent(rows[2:], "T") == pytest.approx(exponent, abs=1e-6)
    (page,) = report.write_pages(rows, tmp_path)
    text = page.read_text()
    assert f"T^{exponent:+.2f}: {words}" in text
    assert "Some Processor" in text
    for figure in ("ratios", "roofline", "scaling"):
        assert f"some-processor-{figure}.png" in text
        assert (tmp_path / f"some-processor-{figure}.png").stat().st_size > 5000


def test_a_wrong_result_is_not_timed():
    right = [torch.tensor([1.0, 2.0])]
    check_equal("peer", [torch.tensor([1.0, 2.00001])], right, 1e-4)
    for wrong in ([torch.tensor([1.0, 2.1])], [torch.tensor([1.0, float("nan")])], []):
        with pytest.raises(AssertionError, match=r"peer: .*"):
            check_equal("peer", wrong, right, 1e-4)


def test_interleaved_takes_turns():
    calls = []
    times = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3, torch.device("cpu"))
    # a turn of a short variant begins with two calls that do not count
    assert calls == ["a", "b"] + 3 * ["a", "a", "a", "b", "b", "b"]
    assert times["a"].rounds == 3
    assert Times.of([5.0, 1.0, 2.0, 3.0, 4.0, 6.0]) == Times(1.0, 2.0, 3.0, 5.0, 6)


@needs_resident_peak
def test_peak_memory_is_not_that_of_the_parent():
    held = torch.ones(100 * 2**20)  # 400 MiB in this process
    peak = peak_in_fresh_process("reference", Shape(32, 64, 64, 16))
    # the loop keeps 64 states of 0.5 MB and some more of h's size
    assert 20 < peak < 200, peak
    assert held[-1] == 1


@pytest.mark.slow
def test_quick_subset_runs_and_keeps_its_results(tmp_path):
    path = tmp_path / "quick.jsonl"
    command = [sys.executable, "-m", "pytest", "benchmarks", "--benchmark-only", "-m", "quick", "-q"]
    # both passes: a forward pass on its own measures less, by the same code
    command += ["-k", "(adaptive or gamma) and backward or long_sequence"]
    # inside a worker of pytest-xdist, pytest-benchmark would believe that this run is distributed, too
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", "-p", "no:xdist", "--results", str(path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    rows = records.load([path])
    assert {"aru_sequence", "gamma", "one long sequence"} == {r.op for r in rows}
    assert all(r.best > 0 and r.machine["commit"] for r in rows)


def test_libraries_of_neuroscience_take_turns(capsys):
    threads = torch.get_num_threads()
    try:
        assert cognitive_libraries.main(["--updates", "1", "--turns", "2"]) == 0
    finally:
        torch.set_num_threads(threads)
    printed = capsys.readouterr()
    for name in cognitive_libraries.LIBRARIES:  # those that are not installed are named
        assert f"{name}: " in (printed.out if name.startswith("aru_lab") else printed.out + printed.err)
