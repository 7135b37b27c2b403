"""The programs in docs/tutorials run, where the packages and the data that they need are there."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from support.helpers import ROOT

FOLDER = ROOT / "docs" / "tutorials"
NEEDED = {"neurogym": "neurogym", "japanese-vowels": "aeon", "long-recording": "pooch"}


def test_all_tutorials_are_tested():
    assert {path.stem for path in FOLDER.glob("*.md")} == set(NEEDED)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(NEEDED))
def test_the_program_runs(
    name: str, tmp_path: Path, run_python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    if importlib.util.find_spec(NEEDED[name]) is None:
        pytest.skip(f"{NEEDED[name]} is not installed")
    text = (FOLDER / f"{name}.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    program = tmp_path / "program.py"
    program.write_text(f"import os\nos.chdir({str(tmp_path)!r})\n{code}")
    done = run_python(str(program))
    if name == "long-recording" and "ConnectionError" in done.stderr:
        pytest.skip("the recording cannot be downloaded")
    assert done.returncode == 0, done.stdout + done.stderr
