"""The verifier finds moves that don't follow, or name what wasn't released as it says."""

from __future__ import annotations

from typing import Any

import pytest

from tacit.privacy.log.lifecycle import Life

ARTIFACT = {1: "a" * 64, 2: "b" * 64}


def life() -> Life:
    """Two versions, of which the alias names the first."""
    made = Life()
    for number, artifact in ARTIFACT.items():
        body = {"name": "m", "number": number, "artifact": artifact, "run": "r"}
        made.released(number, body)
    assert list(made.take(3, move())) == []
    return made


def move(number: int | None = 1, previous: int | None = None, **changed: Any) -> dict[str, Any]:
    named = {"run": "r", "release": number, "artifact": ARTIFACT.get(number or 0, "c" * 64)}
    if number is None:
        named = {"run": "", "release": None, "artifact": None}
    body = {"kind": "DEPLOY", "model": "m", "alias": "champion", "number": number}
    more = {"previous": previous, "actor": "a", "reason": "r", "evidence": [], "forced": False}
    return body | named | more | changed


def retire(number: int = 2) -> dict[str, Any]:
    return move(number) | {"kind": "RETIRE"}


def test_what_follows_is_let_pass() -> None:
    made = life()
    assert list(made.take(4, move(2, 3))) == []
    assert list(made.take(5, move(1, 4, kind="ROLLBACK"))) == []
    assert list(made.take(6, retire())) == []
    assert list(made.take(7, move(None, 5))) == []


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (move(2, None), "the move before it is 3"),
        (move(2, 2), "the move before it is 3"),
        (move(9, 3), "which wasn't released"),
        (move(2, 3, model="n"), "which wasn't released"),
        (move(2, 3, artifact="c" * 64), "isn't the artifact that leaf 2 released"),
        (move(2, 3, release=1), "isn't the artifact that leaf 2 released"),
        (move(2, 3, run="q"), "isn't of run=q"),
        (move(2, 3, kind="ROLLBACK"), "which it didn't name before"),
        (move(None, 3, kind="ROLLBACK"), "rolled back to nothing"),
        (move(None, 3, artifact="c" * 64), "names nothing, and a release"),
        (retire(1), "is retired while champion names it"),
        (retire(9), "which wasn't released"),
    ],
)
def test_what_doesnt_is_found(body: dict[str, Any], words: str) -> None:
    assert any(words in problem for problem in life().take(4, body))


def test_a_move_to_a_retired_version_is_found() -> None:
    made = life()
    assert list(made.take(4, retire())) == []
    assert any("was retired by leaf 4" in p for p in made.take(5, move(2, 3)))
    assert any("was retired by leaf 4" in p for p in made.take(6, retire()))
