"""What the documentation's pages get when they are built: the root's documents, and the options of every command.

Three comments in a page are replaced by text:

    <!-- include: CONTRIBUTING.md -->   a document of the repository's root, with its links seen from docs/
    <!-- commands -->                   a section for every command of `aru`, from the program itself
    <!-- examples -->                   a section for every program of docs/examples

Links that leave docs/ lead to the page that includes the document, else to the public repository that pyproject.toml
names; without one they become plain text.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
# Documents outside docs/, and the pages that show them.
SHOWN = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}

REPOSITORY = re.search(r'^Repository = "(.+?)/*"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)

CODE = re.compile(r"(^```.*?^```|^ {4}[^\n]*|`[^`\n]+`)", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#\s]*)(#[^)\s]*)?\)")


def seen_from(folder: Path, text: str, source: Path) -> str:
    """`text` of a document in the folder `source`, with links for a page in `folder`."""

    def link(match: re.Match[str]) -> str:
        label, target, heading = match[1], match[2], match[3] or ""
        if not target or re.match(r"\w+:", target):
            return match[0]
        path = (source / target).resolve()
        if path.parent == ROOT and path.name in SHOWN:
            path = DOCS / SHOWN[path.name]
        if not path.is_relative_to(DOCS) or path.is_dir():
            inside = path.relative_to(ROOT).as_posix()
            return f"[{label}]({REPOSITORY[1]}/blob/HEAD/{inside}{heading})" if REPOSITORY else label
        return f"[{label}]({Path(os.path.relpath(path, folder)).as_posix()}{heading})"

    parts = CODE.split(text)  # every second one is code, in which brackets are no links
    parts[::2] = [LINK.sub(link, part) for part in parts[::2]]
    return "".join(parts)


def escaped(text: str) -> str:
    """Plain text as Markdown: what is in backticks stays code."""
    parts = re.split(r"(`[^`]+`)", " ".join(text.split()))
    return "".join(part if part.startswith("`") else re.sub(r"([\\*_{}\[\]<>|#$~])", r"\\\1", part) for part in parts)


def options(parser: argparse.ArgumentParser) -> str:
    """A definition list of a command's arguments."""
    lines = []
    for action in parser._actions:
        if action.dest == "help":
            continue
        metavar = action.metavar if isinstance(action.metavar, str) else ""
        names = [f"{name} {metavar}".strip() for name in action.option_strings] or [metavar]
        lines.append(f"{', '.join(f'`{name}`' for name in names)}\n: {escaped(action.help or '')}\n")
    return "\n".join(lines)


def commands() -> str:
    """A section for every command of `aru`."""
    import tyro

    from aru_lab.cli.commands import COMMANDS

    sections = []
    for name, command in COMMANDS.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the only public way to tyro's options
            parser = tyro.extras.get_parser(command, prog=f"aru {name}", use_underscores=False)
        paragraphs = re.split(r"\n\s*\n", parser.description or "")
        sections.append("\n\n".join([f"## aru {name}", *map(escaped, paragraphs), options(parser)]))
    return "\n\n".join(sections)


def examples() -> str:
    """A section for every program of docs/examples: its docstring, and the program."""
    sections = []
    for path in sorted((DOCS / "examples").glob("*.py")):
        text = path.read_text()
        about = ast.get_docstring(ast.parse(text)) or ""
        title, _, rest = about.partition("\n")
        program = text.split('"""\n', 1)[1].strip()
        code = f"```python\n{program}\n```"
        sections.append(f"## {title.rstrip('.')}\n\n{rest.strip()}\n\n`docs/examples/{path.name}`:\n\n{code}")
    return "\n\n".join(sections)


def read(app: Any, docname: str, source: list[str]) -> None:
    """Replaces the comments and the links of a page that Sphinx has read."""
    path = Path(app.env.doc2path(docname))
    text = seen_from(path.parent, source[0], path.parent)
    text = re.sub(
        r"<!-- include: (\S+) -->", lambda match: seen_from(path.parent, (ROOT / match[1]).read_text(), ROOT), text
    )
    for name, made in (("commands", commands), ("examples", examples)):
        if f"<!-- {name} -->" in text:
            text = text.replace(f"<!-- {name} -->", made())
    source[0] = text


def setup(app: Sphinx) -> dict[str, Any]:
    """Connects `read`."""
    app.connect("source-read", read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
