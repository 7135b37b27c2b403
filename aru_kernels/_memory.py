"""How much memory the state kept for a backward pass may take: ARU_STATE_BUDGET, or a share of what is free."""

from __future__ import annotations

import ctypes
import functools
import os
import re
import reprlib
from pathlib import Path
from typing import NamedTuple

from aru_kernels._compile import constant_when_compiled

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]  # a module, or None

# Pages that this process has mapped, first of the numbers.
STATM = Path("/proc/self/statm")
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def parse_bytes(text: str) -> int:
    """Bytes of "1500000", "512M", "1.5GiB", ... (powers of 1024); ValueError for anything else."""
    match = re.fullmatch(r"\s*([0-9]{1,19}(?:\.[0-9]{1,19})?)\s*([kmgt]?)(?:i?b)?\s*", text, re.IGNORECASE)
    if not match:
        raise ValueError(
            f"the environment variable ARU_STATE_BUDGET is {reprlib.repr(text)}, expected a number of bytes of at most "
            "19 digits such as 2000000000, 512M or 1.5GiB."
        )
    return int(float(match[1]) * _UNITS[match[2].lower()])


class Group(NamedTuple):
    """Files of a control group, by which containers and batch systems limit memory."""

    limit: Path
    used: Path
    statistics: Path
    reclaimable: str  # what of the memory in use is a cache of files, in the statistics

    def free(self) -> int | None:
        """Bytes that its processes can still get, or None where it has no limit or does not tell."""
        try:
            limit = int(self.limit.read_text())
            cache = re.search(rf"^{self.reclaimable} (\d+)$", self.statistics.read_text(), re.MULTILINE)
            return max(0, limit - int(self.used.read_text()) + (int(cache[1]) if cache else 0))
        except (OSError, ValueError):  # there is no such file; "max"
            return None


@functools.lru_cache(1)
def groups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> tuple[Group, ...]:
    """This process's control groups, and those around them, in version 2 and 1 of Linux's interface."""
    found = []
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return ()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, names = root, ("memory.max", "memory.current", "memory.stat", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat", "total_inactive_file")
            base = root / "memory"
        else:
            continue
        # a container may see its own group as the root, whatever the path says
        for folder in (base / path.strip("/"), *(base / path.strip("/")).parents):
            if folder.is_relative_to(base) and (folder / names[0]).exists():
                limit, used, statistics, cache = names
                found.append(Group(folder / limit, folder / used, folder / statistics, cache))
    return tuple(found)


def address_space() -> int | None:
    """Bytes that this process can still map, or None where no limit is set (RLIMIT_AS, `ulimit -v`)."""
    if resource is None:
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        mapped = int(STATM.read_text().split()[0]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):  # no such file: a cautious guess
        mapped = limit // 2
    return max(0, limit - mapped)


class _MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX of Windows."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        ("total", ctypes.c_uint64),
        ("others", ctypes.c_uint64 * 6),
    )


def total_bytes() -> int:
    """Memory of the machine."""
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    if not ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):  # type: ignore[attr-defined]
        raise OSError("Windows does not tell how much memory the machine has")
    return int(status.total)


def free_bytes() -> int:
    """Memory that this process can still get: of the machine, its control groups and its own limit."""
    try:
        with open("/proc/meminfo") as lines:
            available = next(line for line in lines if line.startswith("MemAvailable"))
        machine = int(available.split()[1]) * 1024
    except (OSError, StopIteration):
        # Elsewhere only the total is known without another package; half of it is a cautious guess.
        machine = total_bytes() // 2
    limits = [machine, address_space(), *(group.free() for group in groups())]
    return min(limit for limit in limits if limit is not None)


@constant_when_compiled
def wanted_budget() -> int | None:
    """ARU_STATE_BUDGET in bytes, or None where it is not set."""
    text = os.environ.get("ARU_STATE_BUDGET")
    return parse_bytes(text) if text else None


@constant_when_compiled
def state_budget() -> int:
    """Bytes that one call on a CPU may keep: ARU_STATE_BUDGET, else a quarter of the free memory."""
    wanted = wanted_budget()
    return free_bytes() // 4 if wanted is None else wanted
