"""The wings of the laboratory, and that imports between them run one way."""

from __future__ import annotations

import graphlib
import shutil
import subprocess
from pathlib import Path

import pytest

from support.imports import imported_modules, module_graph

from .conftest import ROOT

LAB = ROOT / "python" / "aru_lab"
# A layer imports from itself and from those before it.
LAYERS = (
    ("errors", "arguments", "files", "terminal"),
    ("data",),
    ("networks",),
    ("runs",),
    ("analysis",),
    ("plots",),
    ("experiments",),
    ("cli", "__main__"),
)
LEVEL = {wing: level for level, layer in enumerate(LAYERS) for wing in layer}


def wing(module: str) -> str:
    return module.split(".")[1]


def arrows(package: Path) -> dict[tuple[str, str], list[str]]:
    """By pair of wings, the imports from the first to the second."""
    found: dict[tuple[str, str], list[str]] = {}
    for module, imported in module_graph(package).items():
        for name in imported if "." in module else ():
            if "." in name and wing(name) != wing(module):
                found.setdefault((wing(module), wing(name)), []).append(f"{module} imports {name}")
    return found


def upward(package: Path) -> list[str]:
    """Imports from a wing of a later layer."""
    found = arrows(package).items()
    return [one for (source, target), imports in found for one in imports if LEVEL[source] < LEVEL[target]]


def test_every_module_is_in_a_wing() -> None:
    assert {wing(module) for module in module_graph(LAB) if "." in module} == LEVEL.keys()


def test_imports_between_wings_run_one_way() -> None:
    assert upward(LAB) == []


def test_modules_import_each_other_without_a_circle() -> None:
    graphlib.TopologicalSorter(module_graph(LAB)).prepare()


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("data/tasks.py", "from aru_lab.runs.config import TrainConfig"),
        ("networks/names.py", "from aru_lab.runs import config"),
        ("runs/scores.py", "def late():\n    from aru_lab.experiments.robustness import measure"),
        ("plots/style.py", "import aru_lab.cli.commands"),
    ],
)
def test_an_arrow_that_is_turned_round_is_found(tmp_path: Path, file: str, line: str) -> None:
    package = Path(shutil.copytree(LAB, tmp_path / "aru_lab"))
    with (package / file).open("a") as source:
        source.write(f"\n\n{line}\n")
    (found,) = upward(package)
    assert found.startswith(f"aru_lab.{file.removesuffix('.py').replace('/', '.')} imports aru_lab.")


def test_data_need_no_torch_and_files_stay_short() -> None:
    for path in LAB.rglob("*.py"):
        if path.parent.name == "data":
            assert not {name for name in imported_modules(path) if name.partition(".")[0] == "torch"}, path
        assert len(path.read_text().splitlines()) <= 400, path


def test_git_and_ruff_see_every_source() -> None:
    """A pattern of .gitignore such as `runs/` would hide the wing of that name from both."""
    sources = [str(path.relative_to(ROOT)) for path in (*LAB.rglob("*.py"), *Path(__file__).parent.rglob("*.py"))]
    command = ["git", "-C", str(ROOT), "check-ignore", "--no-index", *sources]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 128:
        pytest.skip("this is not a git repository")
    assert done.stdout == ""
