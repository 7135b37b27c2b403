"""How the package was installed, for messages that say how to build what is missing."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import urllib.parse
import urllib.request
from collections.abc import Iterable
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
# pip keeps a wheel that it built, also one without the extension, and would install it again
_INDEX = "--no-cache-dir --no-binary aru_kernels aru_kernels"


@functools.cache
def cure(needs: str = "") -> str:
    """What builds the missing extension, as the end of a sentence.

    Args:
        needs: what has to be there first, such as "with nvcc".
    """
    return cure_for(_PACKAGE, importlib.metadata.distributions(name="aru_kernels"), needs)


def cure_for(package: Path, distributions: Iterable[importlib.metadata.Distribution], needs: str = "") -> str:
    """The same for a package folder beside these installed distributions."""
    root, distributions = package.parent, list(distributions)
    first = f"{needs}, " if needs else ""
    if not ((root / "setup.py").exists() and (root / "csrc").is_dir()):
        own = [one for one in distributions if Path(str(one.locate_file("aru_kernels"))).resolve() == package]
        source = next(filter(None, map(_sources, own)), _INDEX)
        return f"{first}run `pip install --force-reinstall --no-deps {source}` to build it"
    for distribution in distributions:
        other = Path(str(distribution.locate_file("aru_kernels"))).resolve()
        if other != package and (other / "__init__.py").exists() and not _direct(distribution)[1].get("editable"):
            return (
                f"Python was started in the source tree {root}, which hides the aru_kernels installed in "
                f"{other.parent}: start it in another folder, or run `pip install -e .` to build the source tree's"
            )
    return f"{first}run `pip install -e .` to build it"


def _sources(distribution: importlib.metadata.Distribution) -> str | None:
    """The folder or source archive that pip installed, as an argument of pip; None if it was a wheel or an index."""
    address, _ = _direct(distribution)
    parts = urllib.parse.urlsplit(address)
    if parts.scheme != "file" or parts.path.endswith(".whl"):
        return None
    path = urllib.request.url2pathname(parts.path)
    return f'"{path}"' if " " in path else path


def _direct(distribution: importlib.metadata.Distribution) -> tuple[str, dict[str, object]]:
    """The address that pip was given in place of a name, and what it knows of a folder; empty if there are none."""
    text = distribution.read_text("direct_url.json")
    try:
        found = json.loads(text) if text else {}
        folder = found.get("dir_info", {})
        return str(found.get("url", "")), folder if isinstance(folder, dict) else {}
    except (ValueError, AttributeError):
        return "", {}
