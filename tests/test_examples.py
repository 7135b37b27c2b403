"""The programs of docs/examples run as they stand there, and do what they say."""

from __future__ import annotations

import importlib.util
import re

import pytest

from support.helpers import ROOT

FOLDER = ROOT / "docs" / "examples"


def printed_by(name: str, run_forked) -> str:
    """What the program prints, its warnings being errors."""
    start = f"import runpy, warnings; warnings.simplefilter('error'); runpy.run_path({str(FOLDER / name)!r}, "
    done = run_forked("-c", start + "None, '__main__')")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_program_has_a_test():
    own = (ROOT / "tests" / "test_examples.py").read_text()
    assert not [path.name for path in FOLDER.glob("*.py") if own.count(f'"{path.name}"') != 1]


def test_drop_in_training(run_forked):
    found = re.search(r"accuracy ([\d.]+)%", printed_by("drop_in_training.py", run_forked))
    assert float(found[1]) > 80


def test_compile_and_export(run_forked):
    lines = printed_by("compile_and_export.py", run_forked).splitlines()
    for line in lines[:2]:
        assert float(line.split()[-1]) < 1e-6, line
    assert lines[2].endswith("(2, 1)")


def test_own_cell(run_forked):
    losses = [float(number) for number in re.findall(r"loss ([\d.]+)", printed_by("own_cell.py", run_forked))]
    assert losses[-1] < 0.3 * losses[0]


def test_distributed(run_python):
    done = run_python(
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"), str(FOLDER / "distributed.py")
    )
    assert done.returncode == 0, done.stderr
    assert "2 processes, the same weights in each" in done.stdout


def test_lightning(run_python):
    """Warnings of Lightning are about the machine, and no errors here."""
    done = run_python(str(FOLDER / "lightning_module.py"))
    assert done.returncode == 0, done.stderr
    if importlib.util.find_spec("lightning") is None:
        assert "Lightning is not installed" in done.stdout
        pytest.skip("Lightning is not installed; the program said so")
    assert float(re.search(r"accuracy ([\d.]+)%", done.stdout)[1]) > 80
