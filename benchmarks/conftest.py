"""What every benchmark shares: options, and `measure`, which refuses to time a wrong result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from . import machine, records
from .cases import Variant, check_equal
from .timing import Times, interleaved


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("aru_kernels")
    group.addoption("--results", metavar="FILE", help="append results here (default: benchmarks/results/DEVICE.jsonl)")
    group.addoption("--no-results", action="store_true", help="print results, keep none")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "quick: the subset that takes seconds")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("default"))  # torch.compile warns of many things
            item.add_marker(pytest.mark.timeout(1200))


@pytest.fixture(autouse=True)
def highest_precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture(scope="session")
def device() -> torch.device:
    return machine.device()


@pytest.fixture(scope="session")
def results_file(pytestconfig: pytest.Config, device: torch.device) -> Path | None:
    if pytestconfig.getoption("--no-results"):
        return None
    chosen = pytestconfig.getoption("--results")
    return Path(chosen) if chosen else records.default_file(machine.device_name(device))


@pytest.fixture
def measure(benchmark, device: torch.device, results_file: Path | None) -> Callable[..., dict[str, Times]]:
    """measure(op, mode, shape, ours, peers, ...): checks, times interleaved, notes and keeps the figures."""

    def run(
        op: str,
        mode: str,
        shape: dict[str, int],
        ours: str,
        variants: dict[str, Variant],
        *,
        gflop: float | None = None,
        gigabytes: float | None = None,
        steps: int | None = None,
        rounds: int = 10,
        tolerance: float = 2e-4,
        dtype: str = "float32",
        baseline: str | None = None,
    ) -> dict[str, Times]:
        """ours: the name of the variant under test.  baseline: the one whose results are the standard, if not ours."""
        standard = [x.clone() for x in variants[baseline or ours].work()]
        for name, variant in variants.items():
            if variant.same_function and name != (baseline or ours):
                check_equal(name, variant.work(), standard, tolerance)
        limit_of, rate_of = None, None
        if gflop is not None:
            limit_of, rate_of = machine.product_limit(device)
        elif gigabytes is not None:
            limit_of, rate_of = "copy", machine.copy_rate
        # before and after, as the speed of a shared machine changes from minute to minute
        before = rate_of(device) if rate_of else None
        times = interleaved({name: variant.work for name, variant in variants.items()}, rounds, device)
        limit = max(before, rate_of(device)) if rate_of else None
        rows = []
        for name, variant in variants.items():
            best = times[name].best
            amount = (gflop if gflop is not None else gigabytes) if variant.same_function else None
            rate = amount / best if amount is not None else None
            rows.append(
                records.Record(
                    op=op,
                    mode=mode,
                    variant=name,
                    shape=shape,
                    dtype=dtype,
                    precision=torch.get_float32_matmul_precision(),
                    same_function=variant.same_function,
                    **vars(times[name]),
                    ratio=best / times[ours].best,
                    us_per_step=best / steps * 1e6 if steps else None,
                    gflops=rate if gflop is not None else None,
                    gbps=rate if gflop is None and gigabytes is not None else None,
                    fraction=rate / limit if rate is not None and limit else None,
                    limit=limit,
                    limit_of=limit_of,
                    machine=machine.describe(device) | machine.other_limits(device),
                    extra=variant.extra,
                )
            )
        if results_file is not None:
            records.append(results_file, rows)
        own = next(row for row in rows if row.variant == ours)
        benchmark.extra_info.update(
            ratios={row.variant: round(row.ratio, 2) for row in rows if row.variant != ours},
            **{k: round(v, 3) for k in ("gflops", "gbps", "fraction", "us_per_step") if (v := getattr(own, k))},
        )
        benchmark.pedantic(variants[ours].work, rounds=3, warmup_rounds=0)
        print(f"\n{op}, {mode}, {shape}: {ours} {own.best * 1e3:.3g} ms", end="")
        if own.fraction:
            unit = "GFLOP/s" if own.gflops else "GB/s"
            print(f", {own.gflops or own.gbps:.3g} {unit}, {own.fraction:.2f} of the limit ({limit_of})")
        for row in rows:
            if row.variant != ours:
                print(f"    {row.variant}: {row.best * 1e3:.3g} ms, {row.ratio:.2f} times ours")
        return times

    return run
