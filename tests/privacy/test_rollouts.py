"""Arms: what a rollout may be; and that one charge covers all arms of a round, by enumeration."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tacit.privacy.errors import ConfigError
from tacit.privacy.rollouts import CANARY, Arm, RolloutPlan, shares

A, B = "a" * 64, "b" * 64
# Sums are on the integers modulo this, with noise that has every value.
SIZE = 6
NOISE = np.array([0.4, 0.2, 0.08, 0.04, 0.08, 0.2])
Joint = NDArray[np.float64]


def arms(first: float, second: float) -> tuple[Arm, Arm]:
    return Arm(1, 3, A, first), Arm(2, 7, B, second)


def shifted(by: int) -> Joint:
    return np.roll(NOISE, by)


def joint(values: list[int], rate: float, parts: list[float], everywhere: bool = False) -> Joint:
    """The law of all arms' noised sums, over every draw and every split.

    Args:
        values: of the clients.
        rate: of the draw.
        parts: shares of the arms.
        everywhere: a client that is drawn is in every arm, which is what must not be.
    """
    law = np.zeros((SIZE,) * len(parts))
    places = [None, *range(len(parts))]
    for where in itertools.product(places, repeat=len(values)):
        chance, sums = 1.0, [0] * len(parts)
        for value, place in zip(values, where, strict=True):
            if place is None:
                chance *= 1 - rate
                continue
            chance *= rate * parts[place]
            for arm in range(len(parts)) if everywhere else [place]:
                sums[arm] += value
        law += chance * np.multiply.outer(*(shifted(s) for s in sums))
    return law


def single(value: int, rate: float) -> tuple[Joint, Joint]:
    """One sampled mechanism at a rate, with a client and with zero in its place."""
    return (1 - rate) * NOISE + rate * shifted(value), NOISE


def hockey_stick(p: Joint, q: Joint, epsilon: float) -> float:
    return float(np.maximum(p - np.exp(epsilon) * q, 0).sum())


def worst(value: int, rate: float, epsilon: float, forwards: bool) -> float:
    p, q = single(value, rate)
    return hockey_stick(p, q, epsilon) if forwards else hockey_stick(q, p, epsilon)


EPSILONS = [0.0, 0.05, 0.2, 0.5, 1.0, 1.5]


@pytest.mark.parametrize("rate", [0.2, 0.6, 1.0])
@pytest.mark.parametrize("share", [0.5, 0.1])
@pytest.mark.parametrize("others", [[], [1], [2, 1]])
@pytest.mark.parametrize("value", [1, 3])
def test_all_arms_together_are_no_worse_than_one_sampled_sum(
    rate: float, share: float, others: list[int], value: int
) -> None:
    """Neighbours differ in one client's value, which is zero in the other (zero-out)."""
    p = joint([value, *others], rate, [1 - share, share])
    q = joint([0, *others], rate, [1 - share, share])
    assert p.sum() == pytest.approx(1)
    for epsilon in EPSILONS:
        for forwards in (True, False):
            found = hockey_stick(p, q, epsilon) if forwards else hockey_stick(q, p, epsilon)
            assert found <= worst(value, rate, epsilon, forwards) + 1e-12


def test_a_client_in_every_arm_would_be_worse() -> None:
    """The test above can fail: it takes that clients are in one arm."""
    p, q = (joint([v], 0.6, [0.5, 0.5], everywhere=True) for v in (2, 0))
    assert hockey_stick(p, q, 0.2) > worst(2, 0.6, 0.2, True) * 1.1


def test_a_known_cohort_is_no_worse_than_one_sum() -> None:
    """Against who knows the draw, but not the arms; and, with one arm, who knows those too."""
    p, q = (joint([v, 1], 1.0, [0.5, 0.5]) for v in (2, 0))
    for epsilon in EPSILONS:
        assert hockey_stick(p, q, epsilon) <= worst(2, 1.0, epsilon, True) + 1e-12
        arm = [np.multiply.outer(shifted(v), NOISE) for v in (2, 0)]
        assert hockey_stick(*arm, epsilon) == pytest.approx(worst(2, 1.0, epsilon, True))


# What a rollout may be


def test_rounds_have_the_arms_of_their_mode() -> None:
    shadow = RolloutPlan("m", "shadow", "champion", arms(1.0, 1.0))
    assert [[a.number for a in shadow.due(n)] for n in (1, 2, 3)] == [[1], [2], [1]]
    assert (shadow.turns, shadow.each(5)) == (True, 2)
    canary = RolloutPlan("m", "canary", "champion", arms(0.9, 0.1))
    assert [[a.number for a in canary.due(n)] for n in (1, 2)] == [[1, 2], [1, 2]]
    assert canary.each(5) == 5
    assert RolloutPlan("m", "watch", None, arms(1.0, 1.0)[:1]).due(7)[0].number == 1


def test_a_rollout_survives_its_leaf() -> None:
    parts = [Arm(2, 7, B, 0.5, {"without": name}) for name in ("age", "income")]
    for made in (
        RolloutPlan("m", "ab", "champion", arms(0.5, 0.5)),
        RolloutPlan("m", "explain", None, tuple(parts)),
    ):
        assert RolloutPlan.from_json(made.to_json()) == made
    assert parts[0].named() == {"number": 2, "artifact": B, "ablation": {"without": "age"}}


def test_shares_are_the_modes() -> None:
    assert shares("shadow", None) == (1.0, 1.0)
    assert shares("ab", None) == (0.5, 0.5)
    assert shares("canary", None) == (1 - CANARY, CANARY)
    assert shares("canary", 0.25) == (0.75, 0.25)
    for mode, share in (("shadow", 0.5), ("ab", 1.0), ("canary", 0.0), ("watch", None)):
        with pytest.raises(ConfigError):
            shares(mode, share)


@pytest.mark.parametrize(
    ("mode", "parts", "said"),
    [
        ("ab", arms(0.5, 0.4), "add up to 1"),
        ("ab", arms(1.0, 1.0), "can't have shares"),
        ("shadow", arms(0.5, 0.5), "can't have shares"),
        ("canary", arms(0.9, 0.1)[:1], "compares two"),
        ("watch", arms(1.0, 1.0), "one version"),
        ("explain", arms(1.0, 1.0), "copies of one"),
        ("ab", (Arm(1, 3, A, 0.5), Arm(1, 3, A, 0.5)), "compares two"),
        ("watch", (Arm(1, 3, A, 1.0, "x"),), "no ablations"),
        ("other", arms(1.0, 1.0), "mode=other"),
    ],
)
def test_what_is_no_rollout_is_refused(mode: str, parts: tuple[Arm, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        RolloutPlan("m", mode, None, parts)


@pytest.mark.parametrize(
    "change",
    [
        {"number": "1"},
        {"number": True},
        {"share": 0},
        {"share": None},
        {"artifact": "xyz"},
        {"more": 1},
        {"release": -1},
    ],
)
def test_a_leaf_that_is_no_rollout_is_refused(change: dict[str, Any]) -> None:
    made = RolloutPlan("m", "ab", "champion", arms(0.5, 0.5)).to_json()
    made["arms"][0] |= change
    with pytest.raises(ConfigError):
        RolloutPlan.from_json(made)
