"""One command on a machine with a GPU: checks every kernel, then times it beside its peers.

    python benchmarks/gpu_check.py [--backend triton] [--output FILE] [--checks-only] [--jobs 4]

From a source tree, without network: needs torch from 2.8 and Triton from 3.4 alone.  Every fused backend that serves
the GPU is checked, each check in a process of its own, and timed.  If a check fails, nothing is timed.  Results go to
benchmarks/results/ as JSON, with device, versions and commit.  --dry-run goes through all of it at toy sizes on the CPU: its times mean nothing and are
not kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# from a source tree: the package, and the laboratory that says where a result comes from
sys.path[:0] = [folder for folder in (str(ROOT), str(ROOT / "python")) if folder not in sys.path]

import torch  # noqa: E402

import aru_kernels  # noqa: E402
from benchmarks import gpu_checks, gpu_timings, machine, records  # noqa: E402
from benchmarks.gpu_problems import Place, Skip, fused_backends  # noqa: E402


def facts_of(device: torch.device) -> dict[str, object]:
    """What a figure must be read with, and what only a GPU has."""
    facts = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        **machine.describe(device),
        "cuda": torch.version.cuda or torch.version.hip or "none",
        "cudnn": torch.backends.cudnn.version(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            driver = "unknown"
        facts |= {
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_bytes": properties.total_memory,
            "driver": driver,
        }
    return facts


def outcome_of(name: str, place: Place) -> str:
    """What came of a check: "ok", "skipped: ..." or "FAILED: ..."."""
    try:
        gpu_checks.run_check(name, place)
    except Skip as reason:
        return f"skipped: {reason}"
    except Exception as error:
        traceback.print_exc()
        return f"FAILED: {type(error).__name__}: {error}"
    return "ok"


def outcome_apart(name: str, place: Place, limit: float) -> str:
    """The same from a process of its own: a kernel that faults or never ends takes that process with it, no more."""
    command = [sys.executable, __file__, "--backend", place.backend, "--one-check", name]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        output, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # and what it started
        process.communicate()
        return f"FAILED: not done after {limit:.0f} s"
    sys.stderr.write(errors)
    lines = output.splitlines()
    if process.returncode or not lines:
        return f"FAILED: its process ended with {process.returncode}: {errors[-500:].strip()}"
    return json.loads(lines[-1])


def run_checks(place: Place, jobs: int, limit: float) -> tuple[dict[str, str], bool]:
    """What came of each check, and whether none failed."""

    def run_one(name: str) -> str:
        start = time.perf_counter()
        outcome = outcome_apart(name, place, limit) if place.is_gpu else outcome_of(name, place)
        print(f"    {name:<50} {outcome}  ({time.perf_counter() - start:.1f} s)", flush=True)
        return outcome

    with ThreadPoolExecutor(jobs if place.is_gpu else 1) as pool:
        outcomes = dict(zip(gpu_checks.CHECKS, pool.map(run_one, gpu_checks.CHECKS), strict=True))
    return outcomes, not any(outcome.startswith("FAILED") for outcome in outcomes.values())


def run_timings(place: Place, budget: float) -> list[dict[str, object]]:
    """Prints and returns the limits of the device and the results of every case."""
    limits = gpu_timings.measured_limits(place, budget)
    products = ", ".join(f"{rate / 1e12:.3g} ({name})" for name, rate in limits.product.items())
    print(f"    copy {limits.copy / 1e9:.0f} GB/s, read and written; matrix product {products} TFLOP/s")
    results: list[dict[str, object]] = [{"name": "limits", **dataclasses.asdict(limits)}]
    for case in gpu_timings.all_cases(place):
        result = gpu_timings.measure(case, place, budget, limits)
        print("\n".join(f"    {line}" for line in result.lines()), flush=True)
        results.append(result.to_json())
    return results


def run_meetings() -> list[dict[str, object]] | str:
    """What blocks of a persistent kernel pay to meet (`cuda_micro.py`), or why that was not measured."""
    if shutil.which("nvcc") is None:
        return "nvcc is not found"
    done = subprocess.run([sys.executable, ROOT / "benchmarks" / "cuda_micro.py"], capture_output=True, text=True)
    if done.returncode:
        return f"failed: {(done.stderr or done.stdout).strip()[-500:]}"
    print("\nwhat blocks pay to meet\n" + done.stdout, end="")
    return [json.loads(line) for line in done.stdout.splitlines()]


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backend", action="append", help="a backend to check; all that serve the GPU by default")
    parser.add_argument("--output", type=Path, help="results file; benchmarks/results/gpu-DEVICE.json by default")
    parser.add_argument("--checks-only", action="store_true", help="do not time")
    parser.add_argument("--jobs", type=int, default=4, help="checks at a time; 4 by default")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds that a check may take; 900 by default")
    parser.add_argument("--one-check", help="run this check alone, in this process, and print its outcome as JSON")
    parser.add_argument("--seconds", type=float, default=3.0, help="to spend on a case; 3 by default")
    parser.add_argument("--dry-run", action="store_true", help="at toy sizes, on the CPU")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """0 if every check held."""
    options = parse(arguments)
    if not options.dry_run and not torch.cuda.is_available():
        print("No GPU: PyTorch finds none.  --dry-run goes through the program on the CPU.")
        return 2
    device = torch.device("cpu") if options.dry_run else torch.device("cuda", torch.cuda.current_device())
    torch.set_float32_matmul_precision("highest")
    if options.one_check:
        print(json.dumps(outcome_of(options.one_check, Place(options.backend[0], device))))
        return 0
    facts = facts_of(device)
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    names = options.backend or fused_backends(device.type)
    if not names:
        reasons = "; ".join(f"{row.name}: {row.why_not}" for row in aru_kernels.backends_info() if row.why_not)
        print(f"No fused backend serves {device.type} tensors here ({reasons}).")
        return 2
    report: dict[str, object] = {"machine": facts, "backends": {}}
    places = [Place(name, device, small=options.dry_run) for name in names]
    sound = True
    for place in places:
        print(f"\nchecks of backend {place.backend}")
        outcomes, passed = run_checks(place, options.jobs, options.limit)
        report["backends"][place.backend] = {"checks": outcomes}
        sound = sound and passed
    if not sound:
        print("\nA check failed: nothing is timed.")
        return 1
    if options.checks_only:
        return 0
    for place in places:
        print(f"\ntimes of backend {place.backend}" + (" (a dry run: they mean nothing)" if options.dry_run else ""))
        report["backends"][place.backend]["timings"] = run_timings(place, 0.0 if options.dry_run else options.seconds)
    if not options.dry_run and "cuda" in names:
        report["meetings"] = run_meetings()
    if options.dry_run and options.output is None:
        return 0
    path = options.output or records.FOLDER / f"gpu-{records.slug(str(facts['device']))}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    print(f"\nwritten to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
