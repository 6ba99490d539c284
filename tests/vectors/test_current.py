"""The golden vectors are what the code says today."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
# make.py is run as a script too, beside what it imports.
sys.path.insert(0, str(HERE))

import make  # noqa: E402


def difference(due: Any, found: Any, path: str = "$") -> str:
    """Where two values differ; floats may by a relative 1e-5, which is a rotation's round-off."""
    if isinstance(due, dict) and isinstance(found, dict) and due.keys() == found.keys():
        pairs = [(due[key], found[key], f"{path}.{key}") for key in due]
    elif isinstance(due, list) and isinstance(found, list) and len(due) == len(found):
        pairs = [(a, b, f"{path}[{i}]") for i, (a, b) in enumerate(zip(due, found, strict=True))]
    elif isinstance(due, float) and isinstance(found, float):
        return "" if math.isclose(due, found, rel_tol=1e-5, abs_tol=1e-9) else path
    else:
        return "" if due == found else path
    return next((where for where in (difference(*pair) for pair in pairs) if where), "")


@pytest.mark.parametrize("name", make.FILES)
def test_file_is_current(name: str) -> None:
    """After a change that means it: ``python tests/vectors/make.py``, and a new version."""
    made = json.loads(json.dumps(make.FILES[name]()))
    assert difference(json.loads((HERE / name).read_text()), made) == ""


def test_every_file_is_made() -> None:
    assert {path.name for path in HERE.glob("*.json")} == set(make.FILES)


def test_a_difference_is_found() -> None:
    assert difference({"a": [1, {"b": "x"}]}, {"a": [1, {"b": "y"}]}) == "$.a[1].b"
    assert difference({"a": 1.0}, {"a": 1.1}) == "$.a"
    assert difference([1], [1, 2]) == "$"
