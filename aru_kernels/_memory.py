"""How much memory the state kept for a backward pass may take: ARU_STATE_BUDGET, or a share of what is free."""

from __future__ import annotations

import os
import re

from aru_kernels._compile import constant_when_compiled

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def parse_bytes(text: str) -> int:
    """Bytes of "1500000", "512M", "1.5GiB", ... (powers of 1024); ValueError for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", text, re.IGNORECASE)
    if not match:
        raise ValueError(
            f"the environment variable ARU_STATE_BUDGET is {text!r}, expected a number of bytes such as 2000000000, "
            "512M or 1.5GiB."
        )
    return int(float(match[1]) * _UNITS[match[2].lower()])


def free_bytes() -> int:
    """Memory of this machine that a process can still get."""
    try:
        with open("/proc/meminfo") as lines:
            available = next(line for line in lines if line.startswith("MemAvailable"))
        return int(available.split()[1]) * 1024
    except (OSError, StopIteration):
        # Elsewhere only the total is known without another package; half of it is a cautious guess.
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


@constant_when_compiled
def wanted_budget() -> int | None:
    """ARU_STATE_BUDGET in bytes, or None where it is not set."""
    text = os.environ.get("ARU_STATE_BUDGET")
    return None if text is None else parse_bytes(text)


@constant_when_compiled
def state_budget() -> int:
    """Bytes that one call on a CPU may keep: ARU_STATE_BUDGET, else a quarter of the free memory."""
    wanted = wanted_budget()
    return free_bytes() // 4 if wanted is None else wanted
