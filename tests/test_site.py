"""The documentation site: Sphinx builds it without a warning, and what it makes from the program is complete."""

from __future__ import annotations

import html
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import aru_kernels
from aru_lab.cli import main
from aru_lab.cli.commands import COMMANDS
from support.helpers import ROOT

NEEDED = ("sphinx", "furo", "myst_nb", "sphinx_copybutton")
missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
needs_sphinx = pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)} (extra `docs`)")


def words(page: Path) -> str:
    """The page's text without its marks."""
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text()))


@pytest.mark.slow
@pytest.mark.timeout(900)
@needs_sphinx
def test_site(tmp_path, capsys):
    """Built without executing notebooks and without a network; one test, so that one process builds the pages."""
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-t", "offline", "-d", tmp_path / "doctrees"]
    done = subprocess.run([*command, ROOT / "docs", tmp_path], capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr
    pages = {path.with_suffix("").name for path in (ROOT / "docs").glob("*.md")}
    assert pages <= {path.with_suffix("").name for path in tmp_path.glob("*.html")}
    check_commands(words(tmp_path / "commands.html"), capsys)
    check_public_names(words(tmp_path / "api.html"))
    check_links(tmp_path)


def check_commands(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command is there, with every option that its help has."""
    for name in COMMANDS:
        assert main([name, "--help"]) == 0
        options = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out)) - {"--help"}
        assert f"aru {name}" in text
        assert not [option for option in options if option not in text], name


def check_public_names(text: str) -> None:
    """The API reference has every public name."""
    public = {name: getattr(aru_kernels, name) for name in aru_kernels.__all__ if name != "__version__"}
    modules = [value for value in public.values() if isinstance(value, ModuleType)]
    names = [*public, *(name for module in modules for name in module.__all__)]
    assert not [name for name in names if name not in text]


def check_links(site: Path) -> None:
    """Links within the site lead to a file of it."""
    for page in site.rglob("*.html"):
        for target in re.findall(r'href="([^"#?]+)', page.read_text()):
            if not re.match(r"\w+:", target):
                path = (page.parent / target).resolve()
                assert path.is_relative_to(site.resolve()), f"{page.name}: {target}"
                assert path.exists(), f"{page.name}: {target}"


def pieces(heading: str) -> list[str]:
    """What a heading of docs/troubleshooting.md has between its "...", in words."""
    return [piece.strip(" ;,.:") for piece in heading.split("...") if len(piece.split()) > 1]


def test_troubleshooting_quotes_messages():
    """Every heading of the third level is part of a message: its pieces stand in one file's strings."""
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    headings = re.findall(r"^### (.*)", text, re.MULTILINE)
    assert len(headings) > 20
    files = [path.read_text() for folder in ("aru_kernels", "python/aru_lab") for path in (ROOT / folder).rglob("*.py")]
    # adjacent strings of one message are joined
    joined = [re.sub(r"[\"']\s*\n?\s*f?[\"']", "", source) for source in files]
    for heading in headings:
        assert pieces(heading), heading
        assert any(all(piece in source for piece in pieces(heading)) for source in joined), heading
