"""Checks at construction: the borders, NaN, and a message that says name=value."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tacit.privacy import validate
from tacit.privacy.errors import ConfigError, TacitError

TINY = 5e-324
JUST_BELOW_ONE = 1.0 - 2.0**-53
CASES: list[tuple[Callable[[str, float], None], list[float], list[float]]] = [
    (validate.finite, [0.0, -1e308, 1e308], [math.nan, math.inf, -math.inf]),
    (validate.positive, [TINY, 1e308, 1], [0.0, -0.0, -TINY, math.nan, math.inf, -math.inf]),
    (validate.nonnegative, [0.0, -0.0, TINY, 1e308], [-TINY, math.nan, math.inf, -math.inf]),
    (validate.rate, [TINY, 0.5, 1.0, 1], [0.0, -0.1, 1.0 + 2.0**-52, math.nan, math.inf]),
    (validate.open_unit, [TINY, JUST_BELOW_ONE], [0.0, 1.0, -0.1, math.nan, math.inf]),
    (validate.half_open_unit, [0.0, JUST_BELOW_ONE], [1.0, -TINY, math.nan, -math.inf]),
]
GOOD = [(check, value) for check, good, _ in CASES for value in good]
BAD = [(check, value) for check, _, bad in CASES for value in bad]


def name(x: object) -> str:
    return x.__name__ if callable(x) else repr(x)


@pytest.mark.parametrize(("check", "value"), GOOD, ids=name)
def test_values_inside_pass(check: Callable[[str, float], None], value: float) -> None:
    check("some.setting", value)


@pytest.mark.parametrize(("check", "value"), BAD, ids=name)
def test_values_outside_are_refused_by_name_and_value(
    check: Callable[[str, float], None], value: float
) -> None:
    with pytest.raises(ConfigError) as refusal:
        check("some.setting", value)
    assert refusal.value.message.startswith(f"some.setting={value} must be ")


@pytest.mark.parametrize(("value", "low"), [(1, 1), (0, 0), (10**30, 1), (-2, -3)])
def test_integers_from_the_limit_up_pass(value: int, low: int) -> None:
    validate.at_least("rounds", value, low)


@pytest.mark.parametrize(("value", "low"), [(0, 1), (-1, 0), (-(10**30), 1)])
def test_integers_below_the_limit_are_refused(value: int, low: int) -> None:
    with pytest.raises(ConfigError, match=f"rounds={value} must be at least {low}"):
        validate.at_least("rounds", value, low)


@pytest.mark.parametrize(
    "value",
    [1.0, 1.5, 2.0**60, math.nan, math.inf, -math.inf, True, False, "3", None, [3], np.float64(3)],
    ids=repr,
)
@pytest.mark.parametrize("low", [-1, 0, 1])
def test_what_is_no_integer_is_refused_whatever_its_size(value: Any, low: int) -> None:
    with pytest.raises(ConfigError) as refusal:
        validate.at_least("rounds", value, low)
    assert refusal.value.message == f"rounds={value} must be a whole number"


def test_words_on_the_list_pass_and_others_are_refused_with_the_list() -> None:
    validate.one_of("mechanism", "central", ("central", "local"))
    with pytest.raises(ConfigError, match="mechanism=Central must be one of central, local"):
        validate.one_of("mechanism", "Central", ("local", "central"))
    with pytest.raises(ConfigError):
        validate.one_of("mechanism", "", ("central",))


def test_a_refusal_is_a_users_mistake_with_its_hint_in_the_text() -> None:
    assert issubclass(ConfigError, TacitError)
    assert str(ConfigError("rounds=0 must be at least 1")) == "rounds=0 must be at least 1"
    assert str(ConfigError("a=1 is wrong", "use 2")) == "a=1 is wrong (use 2)"
