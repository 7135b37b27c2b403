"""The package as it is shipped: one version, its files, its imports, its docstrings."""

from __future__ import annotations

import importlib.metadata
import inspect
import pkgutil
import re

import pytest

import aru_kernels
from aru_kernels import cpu
from support.helpers import ROOT, needs_cpu_kernels
from support.imports import imported_modules

PACKAGE = ROOT / "aru_kernels"


def test_one_version_number():
    version = aru_kernels.__version__
    assert version == aru_kernels._version.__version__
    assert version.count(".") == 2
    try:
        assert importlib.metadata.version("aru_kernels") == version
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("aru_kernels is not installed, only on the path")


@needs_cpu_kernels
def test_the_extension_has_the_version_of_the_package():
    assert cpu._C.version == aru_kernels.__version__


def test_files():
    assert (PACKAGE / "py.typed").exists()
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
    citation = (ROOT / "CITATION.cff").read_text()
    assert "Geadah" in citation
    assert f"version: {aru_kernels.__version__}" not in citation  # one place only


def test_public_names():
    """The public interface, as README.md lists it."""
    expected = {"ARUN", "ARUNCell", "GammaRNN", "GammaRNNCell", "Gamma", "AdaptiveGamma", "Trace", "__version__"}
    expected |= {"backends_info", "use_backend", "constraints", "convert", "functional", "init", "noise"}
    expected |= {"parameter_groups"}
    assert set(aru_kernels.__all__) == expected
    for name in expected:
        assert hasattr(aru_kernels, name)


def public_objects():
    public = ("backends", "constraints", "convert", "functional", "init", "noise")
    for module in (aru_kernels, *(getattr(aru_kernels, name) for name in public)):
        for name, value in vars(module).items():
            here = getattr(value, "__module__", "").startswith("aru_kernels")
            if not name.startswith("_") and here and (inspect.isclass(value) or inspect.isfunction(value)):
                yield f"{module.__name__}.{name}", value
                if inspect.isclass(value):
                    for member, method in vars(value).items():
                        if not member.startswith("_") and inspect.isfunction(method):
                            yield f"{module.__name__}.{name}.{member}", method


def test_public_names_have_docstrings():
    names = dict(public_objects())
    assert len(names) > 30
    missing = [name for name, value in names.items() if not (value.__doc__ or "").strip()]
    assert not missing


def test_every_argument_of_a_public_class_or_function_is_documented():
    """By name, in its docstring, or by reference to another ("see `...`", "as in `...`")."""
    missing = []
    for name, value in public_objects():
        text = value.__doc__
        if "see `" in text or "as in `" in text:
            continue
        missing += [
            f"{name}({argument})"
            for argument in inspect.signature(value).parameters
            if argument != "self" and argument not in text
        ]
    assert not [name for name in missing if ".backends.Backend" not in name]  # their fields are not arguments


# What each module may not import: aru_lab -> modules -> functional -> ops, backends -> reference, cpu
FORBIDDEN = {
    "reference": {"functional", "ops", "backends", "modules", "cpu", "_checks", "_layout", "_recurrent", "convert"},
    "cpu": {"functional", "ops", "backends", "modules", "reference", "convert"},
    "backends": {"functional", "ops", "modules", "convert"},
    "ops": {"functional", "modules", "convert"},
    "functional": {"modules", "convert", "_recurrent", "_layout"},
    "init": {"functional", "modules", "convert"},
    "constraints": {"functional", "modules", "convert", "_recurrent", "_dispatch", "ops", "backends", "cpu"},
    "noise": {"functional", "modules", "convert", "_recurrent", "_dispatch", "ops", "backends", "cpu"},
    "_leak": {"_layout", "_recurrent", "_dispatch", "ops", "backends", "cpu"},
    "_module": {"_layout", "_recurrent", "_dispatch", "ops", "backends", "cpu"},
    "_layout": {"_recurrent", "_dispatch", "ops", "backends", "cpu"},
    "cells": {"modules", "convert", "_recurrent", "ops", "backends", "cpu"},
    "activations": {"modules", "cells", "convert", "_recurrent", "ops", "backends", "cpu"},
    "modules": {"convert", "ops", "backends", "cpu"},
    "parameter_groups": {"functional", "convert", "_dispatch", "ops", "backends", "cpu"},
}


def test_imports_run_one_way():
    modules = [info.name for info in pkgutil.iter_modules([str(PACKAGE)]) if (PACKAGE / f"{info.name}.py").exists()]
    assert set(FORBIDDEN) <= set(modules)
    for name in modules:
        imported = imported_modules(PACKAGE / f"{name}.py")
        assert not {m for m in imported if m.startswith("aru_lab")}, name
        wrong = {m for m in FORBIDDEN.get(name, ()) if f"aru_kernels.{m}" in imported}
        assert not wrong, f"{name} imports {wrong}"


def test_tests_import_no_test():
    """What tests share is in tests/support."""
    paths = list((ROOT / "tests").rglob("*.py"))
    tests = {path.stem for path in paths if path.stem.startswith("test_")}
    assert len(tests) > 50
    for path in paths:
        wrong = {name for name in imported_modules(path, relative=True) if tests & set(name.split("."))}
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_benchmarks_import_no_test():
    """They run where the tests are not."""
    for path in (ROOT / "benchmarks").rglob("*.py"):
        found = re.findall(r"^\s*(?:from|import) (?:tests|support)\b.*", path.read_text(), re.MULTILINE)
        assert not found, f"{path.relative_to(ROOT)}: {found}"


def test_import_is_light(run_python):
    """No plotting, no scikit-learn, no laboratory; and no warning."""
    code = (
        "import sys, aru_kernels\n"
        "heavy = ('matplotlib', 'sklearn', 'scipy', 'rich', 'pydantic', 'aru_lab', 'torch._inductor', 'triton')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    result = run_python("-W", "error", "-c", code)
    assert result.stdout == "[]\n", result.stdout + result.stderr
