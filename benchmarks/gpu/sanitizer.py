"""compute-sanitizer over every kernel: the program that runs under it, and a summary of its report."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from benchmarks.gpu.problems import ROOT, Place, Skip
from benchmarks.tolerances import PRODUCTS

SANITIZED = """
import sys, torch
sys.path[:0] = [{root!r}]
from benchmarks.gpu import problems
place = problems.Place({backend!r}, torch.device({device!r}))
torch.manual_seed(0)

def run_all(*sizes):
    for function, arguments in problems.one_of_each(place, *sizes):
        print(*(x.double().norm().item() for x in problems.run({backend!r}, function, arguments)))

for precision in {precisions!r}:
    with problems.precision(precision):
        run_all(5, 3, 33, 50)
        run_all(5, 3, 33, 16)
        run_all(5, 18, 70, 16)
if {backend!r} == "cuda":
    for sizes in ((5, 3, 33, 50), (5, 3, 33, 16), (5, 18, 70, 16)):
        with problems.environment(ARU_CUDA_HIGH="mixed"), problems.precision("high"):
            outputs = problems.run_forward("cuda", problems.F.aru_sequence, problems.adaptive(place, *sizes))
            print(*(x.double().norm().item() for x in outputs))
"""


def sanitizer_findings(report: str) -> list[str]:
    """What compute-sanitizer found: kind and place, with their numbers; its summaries; without frames of the host."""
    lines = [line.removeprefix("=========").strip() for line in report.splitlines() if line.startswith("=========")]
    found: Counter[str] = Counter()
    summaries = []
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        if "SUMMARY" in line:
            summaries.append(line)
        elif re.match(r"(Invalid|Misaligned|Error|Warning|Barrier|Divergent|Program hit|Uninitialized|Leaked)", line):
            found[f"{line} {after}" if after.startswith(("at ", "and ")) else line] += 1
    return [f"{count} x {line}" for line, count in found.most_common(20)] + summaries


def the_sanitizer_finds_nothing(place: Place) -> None:
    """compute-sanitizer's memcheck, racecheck and synccheck over every kernel, side by side."""
    place.gpu_only()
    tool = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if tool is None:
        raise Skip("compute-sanitizer is not installed")
    # every precision has kernels of its own; those that are compiled at run time take long
    precisions = ["highest"] if place.backend == "triton" else list(PRODUCTS)
    source = SANITIZED.format(root=str(ROOT), backend=place.backend, device=str(place.device), precisions=precisions)
    program = [sys.executable, "-c", source]
    # compiles what is compiled at run time, once for all three, which then tell why it failed if it does
    subprocess.run(program, capture_output=True, timeout=300)
    # PyTorch's cache would hide accesses beyond a tensor; graphs cannot be recorded without it
    strict = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "ARU_TRITON_GRAPHS": "0"}

    def outcome(name: str) -> str:
        # every block of a cluster has two barriers, and the tool's own number is soon reached
        barriers = ["--num-cuda-barriers", "100000"] if name == "synccheck" else []
        command = [tool, "--tool", name, *barriers, "--error-exitcode", "9", *program]
        settings = os.environ | (strict if name == "memcheck" else {})
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=settings)
        if done.returncode == 0:
            return ""
        findings = "\n".join([f"{name}: {done.returncode}", *sanitizer_findings(done.stdout), done.stderr[-500:]])
        if name == "racecheck" and "(0 errors," in findings:  # warnings: races within a warp, as the tool sees it
            print(findings, file=sys.stderr)
            return ""
        return findings

    names = ("memcheck", "racecheck", "synccheck")
    with ThreadPoolExecutor(len(names)) as callers:
        outcomes = list(callers.map(outcome, names))
    assert not any(outcomes), "\n".join(filter(None, outcomes))
