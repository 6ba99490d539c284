"""The examples in docstrings are run: a figure there is a promise too."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import tacit

MODULES = sorted(
    module.name
    for part in ("privacy", "configs", "tasks", "client", "server", "simulations")
    for module in pkgutil.walk_packages(
        importlib.import_module(f"tacit.{part}").__path__, f"tacit.{part}."
    )
    if "migrations" not in module.name
)


@pytest.mark.parametrize("name", ["tacit", *MODULES])
def test_examples_in_docstrings_hold(name: str) -> None:
    module = tacit if name == "tacit" else importlib.import_module(name)
    failed, _ = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder()
    found = [
        test
        for name in MODULES
        for test in finder.find(importlib.import_module(name))
        if test.examples
    ]
    assert len(found) >= 7
