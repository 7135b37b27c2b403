"""How much memory the package takes to be free: the machine's, and what control groups leave of it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from aru_kernels import _memory
from support.helpers import needs_cpu_kernels

VERSION_2 = "0::/job/step\n"
VERSION_1 = "9:cpu,cpuacct:/other\n4:memory:/job/step\n"


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Sets up control groups -> nothing; {folder: (limit, used, cache)} below the root of a version."""

    original = _memory.groups.__wrapped__

    def make(own: str, limits: dict[str, tuple[object, int, int]]) -> None:
        version_2 = own.startswith("0::")
        root = tmp_path if version_2 else tmp_path / "memory"
        names = (
            ("memory.max", "memory.current", "inactive_file")
            if version_2
            else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        )
        for folder, (limit, used, cache) in limits.items():
            place = root / folder
            place.mkdir(parents=True, exist_ok=True)
            (place / names[0]).write_text(f"{limit}\n")
            (place / names[1]).write_text(f"{used}\n")
            (place / "memory.stat").write_text(f"anon 1\n{names[2]} {cache}\nactive_file 7\n")
        (tmp_path / "own").write_text(own)
        found = original(tmp_path, tmp_path / "own")
        monkeypatch.setattr(_memory, "groups", lambda: found)

    return make


@pytest.mark.parametrize("own", [VERSION_2, VERSION_1], ids=["version 2", "version 1"])
def test_the_tightest_group_counts(own, groups):
    groups(own, {"job/step": (10**9, 0, 0), "job": (1000, 700, 200), "another": (1, 1, 0)})
    assert _memory.free_bytes() == 500
    assert _memory.state_budget() == 125


def test_a_container_that_sees_its_group_as_the_root(groups):
    groups("0::/docker/4711\n", {"": (600, 100, 0)})
    assert _memory.free_bytes() == 500


def test_no_more_than_the_limit_is_in_use(groups):
    groups(VERSION_2, {"job": (100, 300, 50)})
    assert _memory.free_bytes() == 0


@pytest.mark.parametrize("limit", ["max", 2**63 - 4096])
def test_groups_without_a_limit(limit, groups):
    groups(VERSION_2, {})
    machine = _memory.free_bytes()
    groups(VERSION_2, {"job": (limit, 10**6, 0)})
    assert 0.5 < _memory.free_bytes() / machine < 2


def test_a_system_without_groups(tmp_path):
    assert _memory.groups.__wrapped__(tmp_path, tmp_path / "missing") == ()


def test_here():
    assert 0 < _memory.free_bytes() < 2**50
    assert all(isinstance(group.limit, Path) for group in _memory.groups())


@pytest.mark.parametrize(("limit", "mapped", "free"), [(1000, 1, 0), (5 * 4096, 2, 3 * 4096), (None, 1, None)])
def test_the_limit_of_the_address_space(limit, mapped, free, monkeypatch, tmp_path):
    resource = _memory.resource
    own = resource.RLIM_INFINITY if limit is None else limit
    monkeypatch.setattr(resource, "getrlimit", lambda which: (own, own))
    monkeypatch.setattr(resource, "getpagesize", lambda: 4096)
    statm = tmp_path / "statm"
    statm.write_text(f"{mapped} 1 1 1 0 1 0\n")
    monkeypatch.setattr(_memory, "STATM", statm)
    assert _memory.address_space() == free
    if free is not None:
        assert _memory.free_bytes() == free


def test_a_system_without_limits(monkeypatch):
    monkeypatch.setattr(_memory, "resource", None)
    assert _memory.address_space() is None
    assert _memory.free_bytes() > 0


# Leaves a number of MiB beyond what the process has mapped already.
LIMITED = """
import gc, resource, sys, torch
from aru_kernels import ARUN, _memory, cpu
torch.set_num_threads(1)
m = ARUN(8, 64, controller_size=32)
def run(T):
    y = m(torch.zeros(T, 64, 8))[0]
    y.sum().backward()
def limit(MiB):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (MiB << 20),) * 2)
"""


@needs_cpu_kernels
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_AS limits the address space on Linux only")
class TestShortMemory:
    def test_what_fitted_before_still_fits(self, run_python):
        """Idle buffers of other sizes are given back."""
        code = LIMITED + (
            "run(200)\nlimit(100)\noutcomes = []\n"
            "for T in (200, 400, 800, 1600, 3200, 200):\n"
            "    try: run(T); outcomes.append('ok')\n"
            "    except (MemoryError, RuntimeError) as error: outcomes.append(str(error))\n"
            "    gc.collect()\n"
            "print(*outcomes, sep='\\n')"
        )
        result = run_python("-c", code)
        outcomes = result.stdout.splitlines()
        assert len(outcomes) == 6, result.stderr
        assert outcomes[0] == outcomes[-1] == "ok", outcomes
        assert "ok" not in outcomes[4], outcomes
        # PyTorch's own operators, as the projection of the input, say the second
        said = re.compile("ARU_STATE_BUDGET|DefaultCPUAllocator: can't allocate memory")
        assert all(said.search(outcome) for outcome in outcomes if outcome != "ok"), outcomes

    def test_the_error_says_how_much_was_asked_for(self, run_python):
        code = LIMITED + (
            "import os\nos.environ['ARU_STATE_BUDGET'] = '100G'\nlimit(200)\n"
            "try: run(3000)\nexcept MemoryError as error: print(error)"
        )
        result = run_python("-c", code)
        asked = re.match(
            r"the CPU kernels asked for (\d+) bytes of memory and got none\. With a smaller ", result.stdout
        )
        assert asked, result.stdout + result.stderr
        assert int(asked[1]) > 10 << 20
        assert "ARU_STATE_BUDGET" in result.stdout

    def test_the_budget_follows_the_limit(self, run_python):
        code = LIMITED + "limit(64)\nprint(_memory.free_bytes() >> 20, _memory.state_budget() >> 20)"
        free, budget = map(int, run_python("-c", code).stdout.split())
        assert 32 <= free <= 64
        assert budget == free // 4

    def test_idle_buffers_make_room_for_new_tensors(self, run_python):
        """Also where PyTorch itself makes the tensor, in a call of ours."""
        code = LIMITED + (
            "run(2000)\ngc.collect()\nidle = cpu._C.idle_bytes()\nassert idle > 100 << 20, idle\n"
            "limit(70)\nx = torch.zeros(1500, 64, 64)\n"
            "import aru_kernels.functional as F\n"
            "ys = [F.gamma(x, 5.0, 0.0) for _ in range(6)]\nprint(cpu._C.idle_bytes() < idle, len(ys))"
        )
        result = run_python("-c", code)
        assert result.stdout == "True 6\n", result.stdout + result.stderr
