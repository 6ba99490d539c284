"""ERASURE leaves: a case is opened once, closed once after that, and names nobody."""

from __future__ import annotations

from typing import Any

import pytest

from tacit.privacy.errors import MessageError
from tacit.privacy.log.custody import Custody

FILE = "0" * 64


def opened(case: str = "aa", **more: Any) -> dict[str, Any]:
    made = {"kind": "ERASURE", "run": "", "population": "p", "case": case, "stage": "opened"}
    return {**made, "choice": None, "file": FILE, **more}


def closed(case: str = "aa", **more: Any) -> dict[str, Any]:
    return opened(case, **{"stage": "closed", "choice": "keep", **more})


def said(*bodies: dict[str, Any]) -> list[str]:
    custody = Custody()
    return [line for i, body in enumerate(bodies) for line in custody.take(i, body)]


def test_cases_that_are_opened_and_closed_hold() -> None:
    assert said(opened(), opened("bb"), closed("bb", choice="retrain"), closed()) == []


@pytest.mark.parametrize(
    ("bodies", "problem"),
    [
        ([opened(), opened()], "opened twice"),
        ([opened(choice="keep")], "with a choice"),
        ([closed()], "wasn't opened"),
        ([closed(), opened()], "wasn't opened"),
        ([opened(), closed(population="q")], "wasn't opened"),
        ([opened(), closed(), closed()], "closed twice"),
        ([opened(), closed(choice=None)], "choice="),
        ([opened(), closed(choice="burn")], "choice="),
        ([opened(run="r")], "of none"),
    ],
)
def test_others_dont(bodies: list[dict[str, Any]], problem: str) -> None:
    assert any(problem in line for line in said(*bodies))


@pytest.mark.parametrize(
    "change",
    [
        {"case": "g"},
        {"case": ""},
        {"case": 3},
        {"file": "0" * 63},
        {"file": None},
        {"population": ""},
        {"population": 3},
        {"stage": "lost"},
        {"stage": None},
    ],
)
def test_what_isnt_of_the_shape_is_malformed(change: dict[str, Any]) -> None:
    with pytest.raises((MessageError, TypeError)):
        said(opened(**change))


@pytest.mark.parametrize("name", ["case", "population", "stage", "choice", "file"])
def test_a_field_that_is_missing_is_malformed(name: str) -> None:
    body = opened()
    del body[name]
    with pytest.raises(KeyError):
        said(body)
