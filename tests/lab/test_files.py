"""Writing: several writers of one file, full disks, and what a killed process leaves."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from aru_lab import files
from aru_lab.errors import LabError, MachineError, RunError, as_lab_error, failed_together
from aru_lab.files import reading, reason, replace_file
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.folder import RunFolder, append_result, write_result

from .conftest import with_sources


def write_often(k: int, path: Path, end: float, failures: Any) -> None:
    """Write a file of one's own digit again and again, and look at what is there."""
    while time.time() < end:
        try:
            write_result(str(k).encode() * 200_000, path)
            found = path.read_bytes()
        except Exception:
            failures.value += 1
        else:
            failures.value += len(found) != 200_000 or len(set(found)) != 1


def test_two_writers_of_one_file_both_succeed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    failures, end = context.Value("i", 0), time.time() + 60
    arguments = [(k, tmp_path / "x.csv", end, failures) for k in range(2)]
    writers = [context.Process(target=write_often, args=each) for each in arguments]
    for writer in writers:
        writer.start()
    while not (tmp_path / "x.csv").exists():
        time.sleep(0.01)
    time.sleep(1.5)
    for writer in writers:
        writer.terminate()
        writer.join()
    assert failures.value == 0
    left = [path.name for path in tmp_path.iterdir() if path.name != "x.csv"]
    assert len(left) <= 2  # of a writer that was ended while it wrote
    assert len(set((tmp_path / "x.csv").read_bytes())) == 1


def test_temporary_file_of_a_dead_writer_is_removed_when_it_is_old(tmp_path: Path) -> None:
    path, others = tmp_path / "x.csv", ["y.csv.0123456789abcdef.partial", "x.csv.partial", "x.csv.0123.partial"]
    young, old = (tmp_path / f"x.csv.{digits}.partial" for digits in ("0" * 16, "f" * 16))
    for other in (young, old, *(tmp_path / name for name in others)):
        other.touch()
    past = time.time() - 2 * files.FORGOTTEN_SECONDS
    for other in (old, *(tmp_path / name for name in others)):
        os.utime(other, (past, past))
    replace_file(b"new", path)
    assert {entry.name for entry in tmp_path.iterdir()} == {path.name, young.name, *others}


def test_temporary_files_of_a_killed_run_go_with_the_next_one(tmp_path: Path) -> None:
    (tmp_path / "last.pt.0123456789abcdef.partial").touch()
    with RunFolder(tmp_path).locked():
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_names_as_long_as_the_file_system_permits_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 251 + ".csv")
    write_result(b"content", path)
    assert path.read_bytes() == b"content"
    with pytest.raises(RunError, match=r"can't be written \(File name too long\)"):
        write_result(b"content", tmp_path / ("x" * 300))
    with pytest.raises(RunError, match=r"can't be written \(embedded null byte\)"):
        write_result(b"content", tmp_path / "a\0b" / "c")


def test_text_that_is_no_unicode_is_escaped(tmp_path: Path) -> None:
    write_result("ξ \udcff\n", tmp_path / "x.md")
    assert (tmp_path / "x.md").read_text(encoding="utf-8") == "ξ \\udcff\n"


SCRIPT = """
import os, resource, sys
from pathlib import Path
from aru_lab.runs.folder import RunFolder, append_result, write_result
from aru_lab.errors import RunError

folder = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
append_result({"a": "x" * 900}, folder / "scores.jsonl")
for k, action in enumerate([
    lambda: write_result(b"x" * 2000, folder / "t.csv"),
    lambda: append_result({"a": "y" * 200}, folder / "scores.jsonl"),
    lambda: RunFolder(folder).append_metrics({"a": "z" * 2000}),
]):
    try:
        action()
        sys.exit(f"action {k} succeeded")
    except RunError as error:
        print(error)
append_result({"b": 1}, folder / "scores.jsonl")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of the size of files")
def test_full_disk_leaves_whole_files_and_no_temporary_ones(tmp_path: Path) -> None:
    """A limit of the size of files stands for the disk: what fits is written before the error comes."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], env=with_sources(), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    sentences = done.stdout.splitlines()
    for sentence, name in zip(sentences, ("t.csv", "scores.jsonl", "metrics.jsonl"), strict=True):
        assert sentence.startswith(f"{tmp_path / name} can't be written (File too large); make room")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "scores.jsonl"]
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""
    lines = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert [sorted(line) for line in lines] == [["a", "checksum"], ["b", "checksum"]]


@pytest.mark.parametrize("platform", ["win32", "linux"])
def test_on_windows_a_file_that_someone_reads_is_replaced_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    """Windows refuses to replace an open file; elsewhere the refusal is final."""
    refusals = [PermissionError(13, "Permission denied")] * 2
    replace = os.replace

    def refuse_twice(source: Path, target: Path) -> None:
        if refusals:
            raise refusals.pop()
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse_twice)
    monkeypatch.setattr(sys, "platform", platform)
    if platform == "win32":
        replace_file(b"new", tmp_path / "x")
        assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"new"]
        refusals += [PermissionError(13, "Permission denied")] * 1000
        monkeypatch.setattr(files, "BUSY_SECONDS", 0.1)
    with pytest.raises(PermissionError):
        replace_file(b"newer", tmp_path / "x")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == ([b"new"] if platform == "win32" else [])


NO_PIPE = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")


@pytest.mark.parametrize("put", ["folder", pytest.param("pipe", marks=NO_PIPE)])
def test_results_are_not_appended_to_what_is_no_file(tmp_path: Path, put: str) -> None:
    path = tmp_path / "scores.jsonl"
    path.mkdir() if put == "folder" else os.mkfifo(path)
    with pytest.raises(RunError, match=r"scores\.jsonl can't be written"):
        append_result({"a": 1}, path)


def test_run_folder_that_can_not_be_locked_is_told(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with pytest.raises(RunError, match="the run folder can't be locked"), RunFolder(tmp_path).locked():
        pass
    with pytest.raises(RunError, match="can't be locked"), RunFolder(tmp_path / "nowhere").locked():
        pass


def test_whatever_fails_while_a_file_is_read_names_it() -> None:
    for error, said in (
        (ZeroDivisionError("division by zero"), "division by zero"),
        (KeyError("name"), "it has no 'name'"),
        (RecursionError("maximum"), "it is nested too deeply"),
        (MemoryError(), "there is not enough memory for what it declares"),
        (PermissionError(13, "Permission denied", "/secret"), "Permission denied"),
        (ValueError("first line.\n  second line."), "first line. second line"),
        (AssertionError(), "AssertionError"),
        (ValueError("x" * 500), "x" * 157 + "..."),
    ):
        with pytest.raises(RunError) as told, reading(Path("a/file"), RunError, "do something."):
            raise error
        assert str(told.value) == f"a/file can't be read ({said}); do something."
    with pytest.raises(KeyboardInterrupt), reading(Path("a/file"), RunError, "do something."):
        raise KeyboardInterrupt
    with pytest.raises(RunError, match=r"^own$"), reading(Path("a/file"), RunError, "do something."):
        raise RunError("own")
    assert reason(LabError("x" * 500 + ".")) == "x" * 500


def test_errors_of_the_machine_are_sentences() -> None:
    assert str(as_lab_error(OSError(5, "Input/output error", "/disk/x"))).startswith("/disk/x: Input/output error; ")
    for error in (
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate"),
    ):
        assert isinstance(as_lab_error(error), MachineError)
    assert as_lab_error(RuntimeError("shapes do not fit")) is None
    assert as_lab_error(KeyError("x")) is None


def test_failures_are_told_together() -> None:
    first, second = RunError("One."), MachineError("Two.")
    second.exit_code = 7
    assert failed_together([]) is None
    assert failed_together([first], 1) is first
    together = failed_together([first, second], 5)
    assert (type(together), str(together)) == (MachineError, "2 of 5 runs failed; the first: One.")


@pytest.mark.parametrize("name", ["threads", "processes"])
@pytest.mark.parametrize("value", ["many", 0, True, 1.5, None])
def test_environment_of_another_form_is_refused(tmp_path: Path, name: str, value: Any) -> None:
    content = {"config": TrainConfig().to_json(), "environment": {name: value}}
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(
        RunError, match=rf"config\.json can't be read \({name} is {value!r}, expected a whole number from 1"
    ):
        RunFolder(tmp_path).read_config()
