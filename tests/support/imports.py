"""What the modules of a package import, read from their sources."""

from __future__ import annotations

import ast
from pathlib import Path


def imported_modules(path: Path, relative: bool = False) -> set[str]:
    """Names of everything that a file imports, anywhere in it: modules, and what it takes from them.

    relative: allows relative imports, whose names lack the package's.
    """
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert relative or node.level == 0, f"{path.name} imports relatively"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def module_graph(package: Path) -> dict[str, set[str]]:
    """By dotted name, the modules of a package and which of its modules each one imports.

    An __init__.py is a module under the name of its folder.
    """
    paths = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package.parent).with_suffix("").parts
        paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    graph = {}
    for name, path in paths.items():
        found = {imported for imported in imported_modules(path) if imported in paths}
        # `from package.wing import module` is an import of the module, not of the wing.
        graph[name] = {m for m in found if not any(other.startswith(f"{m}.") for other in found)} - {name}
    return graph
