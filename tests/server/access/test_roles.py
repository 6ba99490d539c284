"""Every action of every role, and what a glob lets somebody know of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.privacy.errors import ConfigError
from tacit.server.access.roles import ACTIONS, ROLES, Caller, check_globs, may

MATRIX = {
    #           viewer reviewer operator admin
    "read": "y y y y",
    "score": "y y y y",
    "review": "n y y y",
    "operate": "n n y y",
    "erase": "n n y y",
    "administer": "n n n y",
}


@pytest.mark.parametrize("action", ACTIONS)
def test_the_matrix(action: str) -> None:
    found = ["y" if may(role, action) else "n" for role in ROLES]
    assert found == MATRIX[action].split()


def test_the_matrix_is_whole() -> None:
    assert set(MATRIX) == set(ACTIONS)
    assert ROLES == ("viewer", "reviewer", "operator", "admin")


@pytest.mark.parametrize(("role", "action"), [("root", "read"), ("admin", "own"), ("", "")])
def test_what_isnt_a_role_or_an_action_is_no_yes(role: str, action: str) -> None:
    with pytest.raises(ConfigError):
        may(role, action)


def caller(*globs: str) -> Caller:
    return Caller("a", "ann", "viewer", globs, "id")


def test_globs_fit_as_written() -> None:
    some = caller("digits", "census-*")
    assert [some.sees(n) for n in ("digits", "Digits", "digits2", "census-x", "xcensus-")] == [
        *(True, False, False, True, False)
    ]
    assert not caller().sees("digits")


@pytest.mark.parametrize(
    ("mine", "theirs", "covered"),
    [
        (["*"], ["*", "x?"], True),
        (["census-*"], ["census-*"], True),
        (["census-*"], ["census-a"], True),
        (["census-*"], ["census-a*"], False),
        (["census-*"], ["*"], False),
        (["census-*"], ["digits"], False),
        (["a[bc]"], ["a[bc]"], True),
        (["digits"], [], True),
    ],
)
def test_what_a_caller_can_pass_on(mine: list[str], theirs: list[str], covered: bool) -> None:
    assert caller(*mine).covers(theirs) is covered


@given(
    st.lists(st.text("ab*?[]", min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.text("ab*?[]", min_size=1, max_size=4), min_size=1, max_size=3),
    st.text("ab", max_size=4),
)
def test_whoever_is_covered_sees_no_more(mine: list[str], theirs: list[str], model: str) -> None:
    if caller(*mine).covers(theirs) and caller(*theirs).sees(model):
        assert caller(*mine).sees(model)


@pytest.mark.parametrize("globs", [[], [""], ["x" * 201], ["a\n"], ["\x00"], ["a"] * 65])
def test_globs_that_no_token_has(globs: list[str]) -> None:
    with pytest.raises(ConfigError, match="models="):
        check_globs(globs)
