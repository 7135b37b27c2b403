"""Checks of arguments, and the examples in the docstrings of the laboratory."""

from __future__ import annotations

import doctest
import importlib

import pytest

from aru_lab.arguments import MOST, check_finite, check_positive, check_whole
from aru_lab.errors import ConfigError
from support.imports import module_graph

from .conftest import ROOT

LAB = ROOT / "python" / "aru_lab"
WITH_EXAMPLES = [
    module
    for module in sorted(module_graph(LAB))
    if (source := LAB.parent / f"{module.replace('.', '/')}.py").exists() and ">>> " in source.read_text()
]


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples_in_docstrings(module: str) -> None:
    found = doctest.testmod(importlib.import_module(module))
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.parametrize(
    ("value", "limits", "expected"),
    [
        (0, (1,), "got 0, expected a whole number of at least 1."),
        (1.0, (1,), "got 1.0, expected a whole number of at least 1."),
        (True, (1,), "got True, expected a whole number of at least 1."),
        (0, (1, MOST), "got 0, expected a whole number of at least 1."),
        (MOST + 1, (1, MOST), f"got {MOST + 1}, expected a whole number from 1 to {MOST}."),
        (0, (1, 8), "got 0, expected a whole number from 1 to 8."),
        (None, (1,), "got None, expected a whole number of at least 1."),
        (-(10**31), (1,), "got a number of more than 30 digits, expected a whole number of at least 1."),
    ],
)
def test_whole_numbers(value: object, limits: tuple[int, ...], expected: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_whole("n", value, *limits)
    assert str(refused.value) == f"n: {expected}"


def test_numbers_that_are_permitted() -> None:
    check_whole("n", 10**40, 1)
    check_whole("n", None, 1, optional=True)
    check_positive("x", 0.0, or_zero=True)
    check_positive("x", None, optional=True)
    check_finite("x", -1.5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e39, -1.0, 0, "1", True])
def test_positive_numbers(value: object) -> None:
    with pytest.raises(
        ConfigError, match=r"^x: got .*, expected a finite number above 0 and within float32 or None\.$"
    ):
        check_positive("x", value, optional=True)


@pytest.mark.parametrize("value", [float("nan"), -float("inf"), 10**400, "1", True])
def test_finite_numbers(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^x: got .*, expected a finite number within float32\.$"):
        check_finite("x", value)
