"""How much memory the package takes to be free: the machine's, and what control groups leave of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from aru_kernels import _memory

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
