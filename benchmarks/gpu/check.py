"""One command on a machine with a GPU: checks every kernel, then times it beside its peers.

    python benchmarks/gpu/check.py [--backend triton] [--output FILE] [--checks-only] [--jobs 4] [--commit HASH]

It runs from a source tree, without a network; it needs only torch (2.8 or later) and Triton (3.4 or later).  Every
fused backend that serves the GPU is checked, each check in a process of its own, and timed.  If a check fails, nothing
is timed.  Results go to a JSON file for each device in benchmarks/results/, with versions and commit.  A run keeps
what the file has of other backends, and the cases of the same commit that it does not time again.  --dry-run runs all
of it at toy sizes on the CPU; its times mean nothing and are not kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# a source tree: the package, and the laboratory, which finds the commit
sys.path[:0] = [folder for folder in (str(ROOT), str(ROOT / "python")) if folder not in sys.path]

import torch  # noqa: E402

import aru_kernels  # noqa: E402
from benchmarks import machine, records  # noqa: E402
from benchmarks.gpu import checks, timings  # noqa: E402
from benchmarks.gpu.problems import Place, Skip, fused_backends  # noqa: E402


def facts_of(device: torch.device, commit: str | None = None) -> dict[str, object]:
    """What a figure must be read with, and what only a GPU has; commit: where the tree itself cannot tell."""
    facts = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        **machine.describe(device),
        "cuda": torch.version.cuda or torch.version.hip or "none",
        "cudnn": torch.backends.cudnn.version(),
    } | ({"commit": commit} if commit else {})
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
        checks.run_check(name, place)
    except Skip as reason:
        return f"skipped: {reason}"
    except AssertionError as error:
        return f"FAILED: AssertionError: {error}"
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
    lines = output.splitlines()
    if process.returncode or not lines:
        return f"FAILED: its process ended with {process.returncode}: {errors[-500:].strip()}"
    outcome = json.loads(lines[-1])
    if outcome.startswith("FAILED"):
        sys.stderr.write(errors)
    return outcome


def run_checks(place: Place, jobs: int, limit: float, wanted: re.Pattern[str]) -> tuple[dict[str, str], bool]:
    """What came of each wanted check, and whether none failed."""

    def run_one(name: str) -> str:
        start = time.perf_counter()
        outcome = outcome_apart(name, place, limit) if place.is_gpu else outcome_of(name, place)
        print(f"    {name:<50} {outcome}  ({time.perf_counter() - start:.1f} s)", flush=True)
        return outcome

    names = list(filter(wanted.search, checks.CHECKS))
    with ThreadPoolExecutor(jobs if place.is_gpu else 1) as pool:
        outcomes = dict(zip(names, pool.map(run_one, names), strict=True))
    return outcomes, not any(outcome.startswith("FAILED") for outcome in outcomes.values())


def run_timings(
    place: Place, budget: float, wanted: re.Pattern[str], variants: re.Pattern[str]
) -> Iterator[dict[str, object]]:
    """Prints and returns the limits of the device and the results of every wanted case, as they come."""
    limits = timings.measured_limits(place, budget)
    products = ", ".join(f"{rate / 1e12:.3g} ({name})" for name, rate in limits.product.items())
    print(f"    copy {limits.copy / 1e9:.0f} GB/s, read and written; matrix product {products} TFLOP/s")
    yield {"name": "limits", **dataclasses.asdict(limits)}
    for case in timings.all_cases(place, lambda name: wanted.search(name) is not None):
        case.variants = {k: v for k, v in case.variants.items() if k == place.backend or variants.search(k)}
        result = timings.measure(case, place, budget, limits)
        del case  # its memory, before the next one takes its own
        print("\n".join(f"    {line}" for line in result.lines()), flush=True)
        yield result.to_json()


def table(results: list[dict[str, object]]) -> Iterator[str]:
    """A line for each case: our median time, and how many times as long every other variant takes."""
    cases = [case for case in results if case["name"] != "limits"]
    width = max((len(case["name"]) for case in cases), default=0)
    for case in cases:
        ours = next(iter(case["timings"].values()))
        time_taken = "failed" if ours["failure"] else f"{1e3 * ours['quantiles'][1]:.4g} ms"
        others = "; ".join(f"{name} {ratio:.2f}" for name, ratio in case["ratios"].items())
        yield f"{case['name']:<{width}}  {time_taken:>10}  {others}"


def merged(report: dict[str, object], path: Path) -> dict[str, object]:
    """`report`, with what the file at `path` has and it has not.

    Backends; and of a backend that it has, at the same commit and with the same torch, outcomes of checks and timings.
    """
    if not path.exists():
        return report
    before = json.loads(path.read_text(encoding="utf-8"))
    backends = dict(before["backends"])
    for name, new in report["backends"].items():
        old = backends.get(name)
        if old and all(old["machine"][key] == new["machine"][key] for key in ("device", "commit", "torch")):
            timed = {case["name"]: case for case in (*old["timings"], *new["timings"])}
            new = new | {"checks": old["checks"] | new["checks"], "timings": list(timed.values())}
        backends[name] = new
    return before | report | {"backends": backends}


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
    parser.add_argument("--one-check", help="run only this check, in this process, and print its outcome as JSON")
    parser.add_argument("--checks", type=re.compile, default="", metavar="REGEX", help="run only these checks")
    parser.add_argument("--cases", type=re.compile, default="", metavar="REGEX", help="time only these cases")
    parser.add_argument(
        "--variants", type=re.compile, default="", metavar="REGEX", help="besides ours, time only these"
    )
    parser.add_argument("--commit", default=os.environ.get("ARU_COMMIT"), help="of this tree, where git does not tell")
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
    facts = facts_of(device, options.commit)
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    names = options.backend or fused_backends(device.type)
    if not names:
        reasons = "; ".join(f"{row.name}: {row.why_not}" for row in aru_kernels.backends_info() if row.why_not)
        print(f"No fused backend serves {device.type} tensors here ({reasons}).")
        return 2
    report: dict[str, object] = {"backends": {}}
    path = options.output or records.FOLDER / f"gpu-{records.slug(str(facts['device']))}.json"

    def save() -> None:
        if not options.dry_run or options.output:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(merged(report, path), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    places = [Place(name, device, small=options.dry_run) for name in names]
    sound = True
    for place in places:
        print(f"\nchecks of backend {place.backend}")
        outcomes, passed = run_checks(place, options.jobs, options.limit, options.checks)
        report["backends"][place.backend] = {"machine": facts, "checks": outcomes, "timings": []}
        sound = sound and passed
    if not sound:
        print("\nA check failed: nothing is timed.")
        return 1
    if options.checks_only:
        return 0
    for place in places:
        print(f"\ntimes of backend {place.backend}" + (" (a dry run: they mean nothing)" if options.dry_run else ""))
        for result in run_timings(place, 0.0 if options.dry_run else options.seconds, options.cases, options.variants):
            report["backends"][place.backend]["timings"].append(result)
            save()  # what has been timed is kept, whatever becomes of the rest
    if not options.dry_run and "cuda" in names and not options.cases.pattern:
        report["meetings"] = run_meetings()
        save()
    for name, results in report["backends"].items():
        print(f"\ntimes of backend {name}, and how many times as long the others take")
        print("\n".join(table(results["timings"])))
    if not options.dry_run or options.output:
        print(f"\nwritten to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
