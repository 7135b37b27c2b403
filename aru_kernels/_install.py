"""How the package was installed, for messages that say how to build what is missing."""

from __future__ import annotations

import functools
import importlib.metadata
import json
from collections.abc import Iterable
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


@functools.cache
def cure() -> str:
    """What builds the missing extension, as the end of a sentence."""
    return cure_for(_PACKAGE, importlib.metadata.distributions(name="aru_kernels"))


def cure_for(package: Path, distributions: Iterable[importlib.metadata.Distribution]) -> str:
    """The same for a package folder beside these installed distributions."""
    root = package.parent
    if not ((root / "setup.py").exists() and (root / "csrc").is_dir()):
        return (
            "install a C++ compiler and run `pip install --force-reinstall --no-deps --no-binary aru_kernels "
            "aru_kernels` to build it"
        )
    for distribution in distributions:
        other = Path(str(distribution.locate_file("aru_kernels"))).resolve()
        if other != package and (other / "__init__.py").exists() and not _editable(distribution):
            return (
                f"Python was started in the source tree {root}, which hides the aru_kernels installed in "
                f"{other.parent}: start it in another folder, or run `pip install -e .` to build the source tree's"
            )
    return "run `pip install -e .` to build it"


def _editable(distribution: importlib.metadata.Distribution) -> bool:
    text = distribution.read_text("direct_url.json")
    try:
        return bool(text and json.loads(text)["dir_info"].get("editable"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
