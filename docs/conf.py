"""How Sphinx builds the documentation: `make docs` writes it to build/docs, with notebooks executed.

The pages are Markdown in this folder. The tag `offline` (`sphinx-build -t offline`) asks for no inventory of another
project.
"""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "python"), str(ROOT / "docs" / "_extensions")]

from aru_kernels import __version__  # noqa: E402  # the folder is on the path only now

# Inventories of names, by which this documentation links to those of others.
INVENTORIES = {
    "torch": "https://docs.pytorch.org/docs/stable/",
    "numpy": "https://numpy.org/doc/stable/",
}


def _reachable(address: str) -> bool:
    """Whether the inventory can be fetched; Sphinx warns of one that can't, and warnings are errors here."""
    try:
        with urllib.request.urlopen(address + "objects.inv", timeout=3) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError, ValueError):
        return False


project = "aru_kernels"
author = "The aru_kernels developers"
copyright = author
release = version = __version__

extensions = [
    "aru_pages",
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
]
source_suffix = {".md": "myst-nb"}
exclude_patterns = ["_extensions", "examples"]
default_role = "py:obj"
smartquotes = False  # they would make a dash of the two hyphens of an option

myst_enable_extensions = ["deflist"]
myst_fence_as_directive = {"math"}
myst_heading_anchors = 4

# `make docs` executes notebooks; the tests build the pages without.
nb_execution_mode = "off"
nb_execution_raise_on_error = True
nb_execution_timeout = 300  # seconds for each cell; a busy machine is slow

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_use_ivar = True
napoleon_use_rtype = False

intersphinx_mapping = (
    {}
    if tags.has("offline")  # noqa: F821  # Sphinx defines it
    else {name: (address, None) for name, address in INVENTORIES.items() if _reachable(address)}
)

html_theme = "furo"
html_title = f"aru_kernels {version}"
html_static_path = ["_static"]
html_css_files = ["narrow.css"]
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
