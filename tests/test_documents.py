"""The documents: the files and functions that they name exist, and their links lead somewhere."""

from __future__ import annotations

import functools
import re
import warnings
from pathlib import Path

import pytest
import tyro

from aru_lab.cli.commands import COMMANDS
from support.helpers import ROOT

PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
# of which every name in code is checked
DETAILED = ["CONTRIBUTING.md", "docs/architecture.md"]

FOLDERS = ("aru_kernels", "csrc", "python", "tests", "benchmarks", "docs")
SUFFIXES = r"(?:py|h|cuh|cpp|cu|toml)"
# `csrc/cuda/` or `aru_kernels/ops.py`, from the root of the repository; `ops.py`, in any folder
PATH = re.compile(rf"(?:{'|'.join(FOLDERS)})/[\w/.-]*|(?:[\w-]+/)*[\w-]+\.{SUFFIXES}")
NAME = re.compile(r"[A-Za-z_][\w.]*")
# names of other packages, of shells and of these documents' examples
FOREIGN = ("torch", "opcheck", "gradcheck", "pytest", "make", "git", "pip", "nn", "rnn")


@functools.cache
def text(page: str) -> str:
    return (ROOT / page).read_text()


def sentences(page: str) -> str:
    """The page without its blocks of code."""
    return re.sub(r"```.*?```", "", text(page), flags=re.DOTALL)


def codes(page: str) -> list[str]:
    """What the page sets as code within its sentences."""
    return re.findall(r"`([^`\n]+)`", sentences(page))


@functools.cache
def files() -> list[Path]:
    """All sources."""
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.*")]
    return [path for path in [*found, *ROOT.glob("*.*")] if re.fullmatch(rf"\.{SUFFIXES}", path.suffix)]


def exists(name: str) -> bool:
    """Whether there is such a file; `kernels/math.py` may stand in any folder."""
    return (ROOT / name).exists() or any(path.as_posix().endswith(f"/{name}") for path in files())


@functools.cache
def sources() -> set[str]:
    """All words of the sources."""
    others = (path.read_text() for path in files() if path.name != Path(__file__).name)
    return {word for content in (*others, text("Makefile")) for word in re.findall(r"\w+", content)}


@pytest.mark.parametrize("page", PAGES)
def test_files_exist(page):
    named = [code for code in codes(page) if PATH.fullmatch(code)]
    assert not [name for name in named if not exists(name)]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)]+)\)", re.sub(r"`[^`\n]+`", "", sentences(page))):
        if link.startswith("http"):
            continue
        name, _, heading = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.resolve().is_relative_to(ROOT), link
        assert target.exists(), link
        if heading:
            titles = re.findall(r"^#+ (.*)", target.read_text(), re.MULTILINE)
            anchors = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
            assert heading in anchors, link


@pytest.mark.parametrize("page", DETAILED)
def test_names_exist(page):
    names = [code for code in codes(page) if NAME.fullmatch(code) and not PATH.fullmatch(code)]
    assert names
    parts = [(name, name.split(".")) for name in names if name.split(".")[0] not in FOREIGN]
    assert not [name for name, words in parts if not set(words) <= sources()]


def test_the_readme_is_short():
    assert len(text("README.md").split()) <= 1500


# pages whose blocks of Python make one program, from the first to the last
PROGRAMS = ("README.md", *(f"docs/{name}.md" for name in ("quickstart", "layers", "cells", "export", "training")))


@pytest.mark.parametrize("page", PROGRAMS)
def test_examples_run(page, run_forked):
    blocks = re.findall(r"```python\n(.*?)```", text(page), re.DOTALL)
    assert blocks
    done = run_forked("-c", "\n".join(blocks))
    assert done.returncode == 0, done.stderr
    if page == "README.md":  # the loop in plain PyTorch agrees, though states of an untrained network may grow
        assert 0 < float(done.stdout.split()[-1]) < 1e-4, done.stdout


def command_lines(page: str) -> list[str]:
    """Commands in indented blocks and in code within sentences, without comments."""
    lines = re.sub(r"\\\n *", "", text(page)).splitlines()
    indented = [line.split(" # ")[0].strip() for line in lines if line.startswith("    ")]
    return [line for line in [*indented, *codes(page)] if re.match(r"(aru|make) [a-z]", line)]


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist(page):
    """`make` has the target; `aru` has the command, and the command the options."""
    targets = re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE)
    for line in command_lines(page):
        program, name, *arguments = line.replace(",", " ").split()
        if program == "make":
            assert name in targets, line
            continue
        assert name in COMMANDS, line
        used = {argument for argument in arguments if re.fullmatch(r"--[a-z-]+", argument)}
        assert used <= {"--help", *options_of(name)}, line


@functools.cache
def options_of(command: str) -> set[str]:
    """The options of a command of `aru`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        parser = tyro.extras.get_parser(COMMANDS[command])
    return {name for action in parser._actions for name in action.option_strings}


def test_functions_stand_in_the_files_beside_them():
    """Rows "| what | functions | files |": each function is a word of one of the files, and each file has one."""
    rows = [line.strip("|").split("|") for line in text("docs/architecture.md").splitlines() if line.startswith("| ")]
    rows = [row for row in rows if len(row) == 3 and re.fullmatch(r" (`[\w/]+\.\w+`(, )?)+ ", row[2])]
    assert len(rows) > 40
    for _, functions, files in rows:
        words = {path: set(re.findall(r"\w+", text(path))) for path in re.findall(r"`([^`]+)`", files)}
        names = [set(name.split(".")) for name in re.findall(r"`([^`]+)`", functions)]
        assert names, files
        for name in names:
            assert any(name <= own for own in words.values()), f"{name} is not in {files}"
        for path, own in words.items():
            assert any(name <= own for name in names), f"{path} has none of {functions}"


def test_imports_point_down_the_table_of_layers():
    table = text("docs/architecture.md").split("| layer | modules")[1].split("\n\n")[0].splitlines()[2:]
    layers = {name: i for i, row in enumerate(table) for name in re.findall(r"`(\w+)(?:\.py|/)`", row.split("|")[2])}
    modules = {path.stem: path for path in (ROOT / "aru_kernels").glob("*.py")}
    assert set(modules) - set(layers) == {"__init__", "__main__", "_version"}
    for name, path in modules.items():
        imported = re.findall(r"^from aru_kernels(?:\.(\w+)| import (.+))", path.read_text(), re.MULTILINE)
        names = {word for one, several in imported for word in re.findall(r"\w+", one or several)}
        up = [other for other in names & set(layers) if name in layers and layers[other] < layers[name]]
        assert not up, f"{name} imports {up}"
