"""A retraining: why, from what, with how many rounds, and that none is charged in vain."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from rolling import guarded, task, trained

from tacit.privacy.errors import BudgetError, ConfigError, MissingError
from tacit.privacy.log.notes import SignerKey
from tacit.privacy.policy import Policy, best_order
from tacit.server import check
from tacit.server.governance import Governance
from tacit.server.home import Home
from tacit.server.lifecycle import Lifecycle
from tacit.server.retrain import cause, fits, propose
from tacit.server.runs import spec_of
from tacit.server.store import Store
from tacit.simulations.retrain import retrain
from tacit.simulations.rollout import rollout
from tacit.tasks.task import plan

pytestmark = pytest.mark.usefixtures("remembered")


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("retrain") / "home"
    trained(folder, "central", champion=5)
    return folder


@pytest.fixture
def place(once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(once, tmp_path / "home"))


@pytest.fixture
def store(place: Path) -> Iterator[Store]:
    made = Store(Home(place))
    yield made
    made.close()


def capped(store: Store, epsilon: float) -> None:
    Governance(store).adopt(
        Policy(population="tiny", epsilon=epsilon, delta=1e-3, order=best_order(epsilon, 1e-3)),
        None,
    )


def room(store: Store, wanted: int) -> float:
    """An epsilon of the population with which a policy allows so many rounds of six more."""
    low, high = 1.0, 1e7
    while high / low > 1.0005:
        middle = (low * high) ** 0.5
        capped(store, middle)
        allowed = propose(store, "tiny", task=task()).allowed
        if allowed == wanted:
            return middle
        low, high = (low, middle) if allowed > wanted else (middle, high)
    raise AssertionError(f"no epsilon allows {wanted} rounds")


def test_it_goes_on_from_the_champion_with_other_draws(place: Path, store: Store) -> None:
    seen = []
    result = retrain("tiny", home=place, task=task(), overrides=["rounds=2"], proposed=seen.append)
    assert result is not None
    assert (result.status, result.rounds) == ("finished", 2)
    run = store.run(result.run)
    spec = spec_of(run)
    assert (spec.initial, spec.seed) == ("tiny@5", 4)
    assert (seen[0].allowed, seen[0].refusal, seen[0].cause) == (2, "", None)
    assert seen[0].to_json()["spec"]["initial"] == "tiny@5"
    assert check.verify(store).holds


@pytest.mark.parametrize("rounds", [1, 4])
def test_a_policy_shortens_it_to_what_it_allows(place: Path, store: Store, rounds: int) -> None:
    room(store, rounds)
    result = retrain("tiny", home=place, task=task())
    assert result is not None
    # All that was proposed is let through by the coordinator, which asks again.
    assert (result.status, result.rounds) == ("finished", rounds)
    assert propose(store, "tiny", task=task()).allowed == 0
    before = len(store.leaves())
    with pytest.raises(BudgetError, match="may not be retrained: epsilon="):
        retrain("tiny", home=place, task=task())
    assert len(store.leaves()) == before


def test_what_fits_is_what_the_coordinator_would_charge(place: Path, store: Store) -> None:
    whole = plan(task(), spec_of(store.run("last")))
    assert fits(store, "tiny", whole) == (6, "")
    capped(store, room(store, 3))
    allowed, refusal = fits(store, "tiny", whole)
    assert allowed == 3
    assert "would be exceeded" in refusal
    assert fits(store, "others", whole) == (6, "")


def test_a_review_that_is_asked_for_refuses(place: Path, store: Store) -> None:
    reviewer = SignerKey.generate("reviewer")
    terms = Policy(
        population="tiny",
        delta=1e-3,
        review_epsilon=0.1,
        reviewers=(str(reviewer.verifier),),
    )
    Governance(store).adopt(terms, None)
    with pytest.raises(BudgetError, match="asks for a review"):
        retrain("tiny", home=place, task=task())


def test_a_fallback_asks_for_it_once(place: Path, store: Store) -> None:
    assert cause(store, "tiny") is None
    assert retrain("tiny", home=place, task=task(), if_needed=True) is None
    life = Lifecycle(store)
    seen = life.current("tiny", "champion")
    assert seen is not None
    life.move("tiny", "champion", 6, expected=seen.leaf, actor="me", reason="newer")
    guarded(store, margin=None, at_least=0.75)
    given = {"home": place, "task": task(decayed=True), "mode": "watch"}
    fallen = rollout("tiny", rounds=4, **given).fallback  # type: ignore[arg-type]
    assert fallen is not None
    assert cause(store, "tiny") == fallen.leaf
    result = retrain(
        "tiny", home=place, task=task(decayed=True), overrides=["rounds=1"], if_needed=True
    )
    assert result is not None
    (leaf,) = store.leaves(result.run, ("PLAN",))
    assert leaf["body"]["cause"] == fallen.leaf
    assert json.loads(store.run(result.run)["spec"])["initial"] == "tiny@5"
    assert cause(store, "tiny") is None
    assert check.verify(store).holds


def test_without_a_champion_there_is_nothing_to_begin_with(place: Path, store: Store) -> None:
    with pytest.raises(MissingError, match="names no version"):
        propose(store, "tiny", "challenger", task=task())
    with pytest.raises(ConfigError, match="cohortt"):
        propose(store, "tiny", overrides=["cohortt=3"], task=task())
