"""Gates of a home: set, lifted, asked within the move; on either database."""

from __future__ import annotations

import numpy as np
import pytest
from postgres import BOTH
from rolling import SETTINGS, task

from tacit import simulate
from tacit.privacy.errors import ConfigError, ConflictError, MissingError
from tacit.privacy.gates import Gate
from tacit.privacy.noise import Randomness
from tacit.privacy.rollouts import Arm
from tacit.server import check, rollouts, watch
from tacit.server.gates import Gates
from tacit.server.home import Home
from tacit.server.lifecycle import Lifecycle
from tacit.server.rollout import split
from tacit.server.store import Store
from tacit.simulations import rollout as simulations

pytestmark = pytest.mark.usefixtures("remembered")
WHO = {"actor": "ann", "reason": "because"}


@pytest.fixture
def released(home: Home, store: Store) -> Store:
    """A home with two versions, the first champion."""
    simulate([*SETTINGS["central"], "rounds=2"], task=task(), home=home.root)
    Lifecycle(store).move("tiny", "champion", 1, expected=None, **WHO)
    return store


@BOTH
def test_a_gate_guards_until_it_is_lifted(released: Store) -> None:
    gates, life = Gates(released), Lifecycle(released)
    assert gates.get("tiny", "champion") is None
    first = Gate(model="tiny", alias="champion", at_least=0.5)
    leaf = gates.set(first, **WHO)
    assert gates.get("tiny", "champion") == (leaf, first)
    assert gates.of("tiny") == {"champion": (leaf, first)}
    assert gates.verdict("tiny", "champion", 2) is None
    seen = life.current("tiny", "champion")
    assert seen is not None
    before = released.checkpoint()
    with pytest.raises(ConfigError, match="isn't the evaluations of one rollout"):
        life.move("tiny", "champion", 2, expected=seen.leaf, **WHO)
    assert released.checkpoint() == before
    # Other aliases aren't guarded, and to name nothing isn't to name a version.
    other = life.move("tiny", "staging", 2, expected=None, **WHO)
    life.move("tiny", "staging", None, expected=other.leaf, **WHO)
    gates.lift("tiny", "champion", **WHO)
    assert gates.get("tiny", "champion") is None
    life.move("tiny", "champion", 2, expected=seen.leaf, **WHO)
    assert check.verify(released).findings == []


@BOTH
def test_a_champion_falls_back_on_either_database(released: Store, home: Home) -> None:
    life = Lifecycle(released)
    seen = life.current("tiny", "champion")
    assert seen is not None
    life.move("tiny", "champion", 2, expected=seen.leaf, **WHO)
    terms = {"at_least": 0.75, "fallback_rounds": 2}
    Gates(released).set(Gate(model="tiny", alias="champion", **terms), **WHO)  # type: ignore[arg-type]
    found = simulations.rollout(
        "tiny", mode="watch", rounds=4, home=home.root, task=task(decayed=True)
    )
    assert found.fallback is not None
    assert (found.fallback.number, found.rollout["rounds"]) == (1, 2)
    assert check.verify(released).findings == []


def test_nobody_calls_a_rollback_automatic_without_evidence(released: Store) -> None:
    life = Lifecycle(released)
    seen = life.current("tiny", "champion")
    assert seen is not None
    moved = life.move("tiny", "champion", 2, expected=seen.leaf, **WHO)
    with pytest.raises(ConfigError, match="has no gate"):
        life.rollback("tiny", "champion", expected=moved.leaf, automatic=True, **WHO)
    Gates(released).set(Gate(model="tiny", alias="champion", at_least=0.9), **WHO)
    with pytest.raises(ConfigError, match="evidence that doesn't ask for it"):
        life.rollback("tiny", "champion", expected=moved.leaf, automatic=True, **WHO)


def test_a_fallback_doesnt_overrule_an_operator(
    released: Store, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who moves the alias between the evidence and the move has the last word."""
    life = Lifecycle(released)
    seen = life.current("tiny", "champion")
    assert seen is not None
    life.move("tiny", "champion", 2, expected=seen.leaf, **WHO)
    terms = {"at_least": 0.75, "fallback_rounds": 2}
    Gates(released).set(Gate(model="tiny", alias="champion", **terms), **WHO)  # type: ignore[arg-type]
    real = Lifecycle.rollback

    def beaten(self: Lifecycle, *args: object, **more: object) -> object:
        seen = life.current("tiny", "champion")
        assert seen is not None
        life.move("tiny", "champion", None, expected=seen.leaf, **WHO)
        return real(self, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(watch.Lifecycle, "rollback", beaten)
    found = simulations.rollout(
        "tiny", mode="watch", rounds=2, home=home.root, task=task(decayed=True)
    )
    assert (found.status, found.fallback) == ("finished", None)
    current = life.current("tiny", "champion")
    assert current is not None
    assert current.number is None
    assert check.verify(released).findings == []


def test_a_rollout_isnt_planned_beside_a_champion_of_before(released: Store) -> None:
    plan = rollouts.plan(released, "tiny", "ab", challenger=2)
    spec = rollouts.spec(released, plan, 3)
    life = Lifecycle(released)
    seen = life.current("tiny", "champion")
    assert seen is not None
    life.move("tiny", "champion", 2, expected=seen.leaf, **WHO)
    with pytest.raises(ConflictError, match="names 2 by now, not 1"):
        rollouts.create(spec, plan, task(), released)


def test_what_cant_be_guarded_is_refused(released: Store) -> None:
    gates, before = Gates(released), released.checkpoint()

    def gate(model: str, alias: str) -> Gate:
        return Gate(model=model, alias=alias, at_least=0.5)

    with pytest.raises(MissingError, match="isn't in this home"):
        gates.set(gate("no", "champion"), **WHO)
    with pytest.raises(ConfigError, match="alias"):
        gates.set(gate("tiny", "1"), **WHO)
    with pytest.raises(ConfigError, match="reason"):
        gates.set(gate("tiny", "a"), actor="ann", reason=" ")
    with pytest.raises(ConfigError, match="has no gate"):
        gates.lift("tiny", "a", **WHO)
    assert released.checkpoint() == before


# Who is in which arm


class Coins:
    """A source that gives what it is told."""

    name = "told"

    def __init__(self, *values: float) -> None:
        self.values = values

    def uniform(self, size: int) -> object:
        assert size == len(self.values)
        return np.array(self.values)


def test_arms_are_a_partition_of_the_cohort() -> None:
    arms = tuple(Arm(n, n, "a" * 64, share) for n, share in ((1, 0.7), (2, 0.2), (3, 0.1)))
    found = split([4, 5, 8, 9], arms, Coins(0.0, 0.69, 0.7, 0.95))  # type: ignore[arg-type]
    assert found == [[4, 5], [8], [9]]
    cohort = list(range(50_000))
    parts = split(cohort, arms, Randomness(None).source("arms"))
    assert sorted(k for part in parts for k in part) == cohort
    sizes = np.array([len(part) for part in parts])
    # Six deviations of a binomial.
    assert (abs(sizes - [35_000, 10_000, 5_000]) < 6 * np.sqrt([10_500, 8_000, 4_500])).all()
    assert split([], arms, Randomness(None).source("arms")) == [[], [], []]


def test_a_move_names_no_evidence_that_is_none(released: Store) -> None:
    life = Lifecycle(released)
    with pytest.raises(ConfigError, match="isn't evaluations of rollouts of tiny"):
        life.move("tiny", "other", 1, expected=None, evidence=[0], **WHO)
    assert life.current("tiny", "other") is None
