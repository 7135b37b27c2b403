"""The docstrings of the public modules: their examples run, and they are valid reStructuredText."""

from __future__ import annotations

import doctest
import inspect
import re
from types import ModuleType

import pytest
import torch

from aru_kernels import activations, cells, constraints, convert, init, modules, noise

MODULES = (activations, cells, constraints, convert, init, modules, noise)
PUBLIC = [(module, name) for module in MODULES for name in module.__all__ if hasattr(module, name)]


def members(module: ModuleType, name: str) -> dict[str, str]:
    """Docstrings of a public name and of the public methods that it defines."""
    value = getattr(module, name)
    found = {name: value.__doc__}
    if inspect.isclass(value):
        for member, method in vars(value).items():
            if inspect.isfunction(method) and not member.startswith("_"):
                found[f"{name}.{member}"] = method.__doc__
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_examples_run(module):
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(False)  # which fills memory, and is shown in no example
    results = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert results.failed == 0
    own = [name for name in module.__all__ if getattr(module, name).__module__ == module.__name__]
    assert results.attempted >= 2 * len(own)


@pytest.mark.parametrize(("module", "name"), PUBLIC)
def test_every_public_name_has_an_example(module, name):
    assert "    Examples:\n        >>> " in getattr(module, name).__doc__


@pytest.mark.parametrize(("module", "name"), PUBLIC)
def test_no_bars(module, name):
    """reStructuredText takes |n| for the name of a substitution."""
    for member, text in members(module, name).items():
        assert not re.findall(r"\|[^\s|]+\|", text), member
        assert text.count("`") % 2 == 0, member


@pytest.mark.parametrize(("module", "name"), PUBLIC)
def test_docstrings_are_restructured_text(module, name):
    """As Sphinx reads them, with its extension for sections such as "Args:"."""
    napoleon = pytest.importorskip("sphinx.ext.napoleon")
    core = pytest.importorskip("docutils.core")
    config = napoleon.Config(napoleon_use_ivar=True)  # its other way needs a directive of Sphinx
    for member, text in members(module, name).items():
        source = "\n".join(napoleon.GoogleDocstring(inspect.cleandoc(text), config, what="class").lines())
        settings = {"report_level": 5, "halt_level": 5, "warning_stream": False}
        document = core.publish_doctree(source, settings_overrides=settings)
        problems = [node.astext() for node in document.findall() if node.tagname == "system_message"]
        assert not problems, f"{member}: {problems}"
