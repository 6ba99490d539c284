"""The champion answers, others run beside it, and what fails or is late is passed over."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from scoring import MODEL

from tacit.privacy.errors import ConfigError, ConflictError, MissingError, ModelError
from tacit.server import keys
from tacit.server import tables as t
from tacit.server.access.records import Recorder
from tacit.server.lifecycle import Lifecycle
from tacit.server.registry import ModelRegistry
from tacit.server.scoring import stands
from tacit.server.scoring.errors import BusyError
from tacit.server.scoring.model import Loader, Served
from tacit.server.scoring.router import Answer, Router
from tacit.server.scoring.settings import Settings
from tacit.server.store import Store

WHO = {"actor": "ann", "reason": "because"}
ROW = [[0.5, -1.0, 2.0, 0.25]]
Make = Callable[..., Router]


class Odd(Loader):
    """Some versions behave otherwise."""

    odd: dict[int, Callable[[np.ndarray], np.ndarray]]

    def load(self, row: Any) -> Served:
        served = super().load(row)
        change = self.odd.get(row["number"])
        if change is None:
            return served

        class Changed(Served):
            def run(self, inputs: Any, options: Any = None) -> np.ndarray:
                return change(super().run(inputs, options))

        return Changed(**{f.name: getattr(served, f.name) for f in fields(served)})


@pytest.fixture
def make(store: Store) -> Iterator[Make]:
    """Makes a router; ``odd`` has what comes of a version's outputs."""
    made: list[Router] = []

    def router(odd: dict[int, Any] | None = None, **settings: Any) -> Router:
        registry = ModelRegistry(store.home, store)
        loader = Odd(store, registry)
        loader.odd = odd or {}
        # A budget that every machine keeps, unless it is what is tried.
        chosen = Settings(**{"budget": 30.0, "look": 0.01, **settings})
        life, recorder = Lifecycle(store), Recorder(store)
        found = Router(store, registry, life, recorder, chosen, loader)
        made.append(found)
        return found

    yield router
    for each in made:
        each.close()


def move(store: Store, alias: str, number: int | None, **more: Any) -> int:
    life = Lifecycle(store)
    before = life.current(MODEL, alias)
    leaf = before.leaf if before else None
    return life.move(MODEL, alias, number, expected=leaf, **{**WHO, **more}).leaf


def ask(router: Router, count: int = 1, given: Any = ROW, alias: str = "champion") -> list[Answer]:
    async def all_() -> list[Answer]:
        return [await router.score("ann", MODEL, alias, given) for _ in range(count)]

    return asyncio.run(all_())


def seen(router: Router, leaf: int, alias: str = "champion") -> None:
    """Waits until the router knows of a move."""
    for _ in range(1000):
        stand = router.stands.now(MODEL, alias)
        if stand is not None and stand.leaf == leaf:
            return
        time.sleep(0.01)
    raise AssertionError("the move was never seen")


def slow(outputs: np.ndarray) -> np.ndarray:
    time.sleep(1.0)
    return outputs


def broken(outputs: np.ndarray) -> np.ndarray:
    raise ModelError("it broke")


def infinite(outputs: np.ndarray) -> np.ndarray:
    return outputs * np.float32(np.inf)


def test_a_champion_that_is_late_or_fails_is_passed_over_for_the_last_good(
    store: Store, make: Make
) -> None:
    leaf = move(store, "champion", 2)
    for change in (broken, infinite):
        answer = ask(make({2: change}))[0]
        assert (answer.served.number, answer.place.role) == (1, "fallback")
        assert answer.receipt["leaf"] == leaf
    router = make({2: slow}, budget=30.0)
    ask(router)
    late = make({2: slow}, budget=1.0)
    # The first request may be too late for the loading.
    for _ in range(100):
        try:
            answer = ask(late)[0]
            break
        except BusyError:
            time.sleep(0.1)
    assert (answer.served.number, answer.place.role) == (1, "fallback")
    assert late.state(MODEL)["traffic"]["champion"]["requests"]["fallback"] == 1


def test_what_no_version_can_score_is_the_callers_to_mend(store: Store, make: Make) -> None:
    move(store, "champion", 2)
    router = make({1: broken, 2: broken})
    with pytest.raises(ModelError, match="can't score these records"):
        ask(router)
    with pytest.raises(ConfigError, match="must be"):
        ask(router, given=[[1.0]])
    assert router.state(MODEL)["traffic"]["champion"]["requests"]["refused"] == 2


def test_what_was_rolled_back_from_or_retired_isnt_fallen_back_to(store: Store, make: Make) -> None:
    move(store, "champion", 2)
    move(store, "champion", 3)
    life = Lifecycle(store)
    now = life.current(MODEL, "champion")
    assert now is not None
    back = life.rollback(MODEL, "champion", expected=now.leaf, **WHO)
    assert back.number == 2
    router = make()
    ask(router)
    stand = router.stands.now(MODEL, "champion")
    assert stand is not None
    assert stand.before is not None
    assert (stand.number, stand.before.number) == (2, 1)
    life.retire(MODEL, 1, **WHO)
    for _ in range(1000):
        stand = router.stands.now(MODEL, "champion")
        assert stand is not None
        if stand.before is None:
            break
        time.sleep(0.01)
    assert stand.before is None


def test_a_canary_answers_its_share_and_its_failure_is_nobodys(store: Store, make: Make) -> None:
    leaf = move(store, "challenger", 2)
    router = make(canary=0.5)
    ask(router)
    seen(router, leaf, "challenger")
    answers = ask(router, 60)
    roles = Counter((a.place.role, a.served.number) for a in answers)
    assert set(roles) == {("champion", 1), ("canary", 2)}
    assert {a.receipt["leaf"] for a in answers if a.place.role == "canary"} == {leaf}
    failing = make({2: broken}, canary=1.0)
    ask(failing)
    answer = ask(failing)[0]
    assert (answer.place.role, answer.served.number) == ("champion", 1)


def test_those_beside_get_the_same_records_and_are_never_used(store: Store, make: Make) -> None:
    move(store, "shadow", 2)
    router = make({2: lambda outputs: -outputs})
    answers = ask(router, 30, given=[*ROW, *ROW])
    assert {a.served.number for a in answers} == {1}
    for _ in range(1000):
        found = router.state(MODEL)["beside"]["shadow"]
        if found["agreed"] + found["differed"] + found["dropped"] * 2 == 60:
            break
        time.sleep(0.01)
    assert found["differed"] > 0
    assert found["failed"] == 0


def test_an_alias_of_your_own_is_served_and_one_that_names_nothing_isnt(
    store: Store, make: Make
) -> None:
    router = make()
    with pytest.raises(MissingError):
        ask(router, alias="nightly")
    leaf = move(store, "nightly", 3)
    answer = ask(router, alias="nightly")[0]
    assert (answer.served.number, answer.place.role, answer.receipt["leaf"]) == (3, "nightly", leaf)
    move(store, "nightly", None)
    for _ in range(1000):
        if router.stands.now(MODEL, "nightly") is None:
            break
        time.sleep(0.01)
    with pytest.raises(MissingError):
        ask(router, alias="nightly")


def test_more_than_there_is_room_for_is_refused_at_once(make: Make) -> None:
    router = make({1: slow}, pending=2)

    async def crowd() -> list[Any]:
        asked = [router.score("ann", MODEL, "champion", ROW) for _ in range(6)]
        return await asyncio.gather(*asked, return_exceptions=True)

    found = asyncio.run(crowd())
    assert sum(isinstance(each, Answer) for each in found) == 2
    busy = [each for each in found if isinstance(each, BusyError)]
    assert len(busy) == 4
    assert all(each.seconds >= 1 for each in busy)
    # Nobody holds a place for ever.
    assert len(ask(router)) == 1


def test_a_request_id_is_used_once_and_a_bad_one_takes_no_other_with_it(make: Make) -> None:
    router = make()

    async def all_() -> list[Any]:
        names = ["request-1", "request-1", "no!", None, "request-2"]
        asked = [router.score("ann", MODEL, "champion", ROW, name) for name in names]
        return await asyncio.gather(*asked, return_exceptions=True)

    ask(router)
    found = asyncio.run(all_())
    kinds = Counter(type(each) for each in found)
    assert kinds == {Answer: 3, ConflictError: 1, ConfigError: 1}


def test_after_a_new_key_nothing_is_signed_with_the_old_one(store: Store, make: Make) -> None:
    router = make()
    ask(router)
    other = Store(store.home)
    keys.rotate(other.home, other.database, other.signer)
    other.close()
    for _ in range(1000):
        if router.stands.ended:
            break
        time.sleep(0.01)
    with pytest.raises(BusyError, match="key was changed"):
        ask(router)


def test_nothing_of_a_record_is_stored(store: Store, make: Make) -> None:
    marked = [[123.4375, -77.125, 9.015625, 3.0625]]
    answer = ask(make(), given=marked)[0]
    with store.database.reading() as c:
        body = c.execute(
            sa.select(t.accesses.c.body).where(t.accesses.c.request == answer.receipt["request"])
        ).scalar_one()
    for text in ("123.4375", "77.125", answer.key.hex(), str(answer.outputs.tolist()[0][0])):
        assert text not in body
    data = np.array(marked, dtype=np.float32).tobytes()
    assert data not in (store.home.root / "tacit.db").read_bytes()


def test_a_version_that_loads_slowly_holds_up_no_other_move(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is promoted meanwhile, and back, is followed while another's graph is made."""
    monkeypatch.setattr(stands, "_SOON", 0.05)
    monkeypatch.setattr(stands, "_AGAIN", 3600.0)
    go, slow = threading.Event(), threading.Event()

    class Slow(Loader):
        def load(self, row: Any) -> Served:
            if row["number"] == 3:
                slow.set()
                assert go.wait(60)
            return super().load(row)

    registry, life = ModelRegistry(store.home, store), Lifecycle(store)
    found = stands.Stands(store, registry, life, Slow(store, registry), 0.01)

    def until(alias: str, leaf: int, number: int) -> None:
        for _ in range(1000):
            stand = found.now(MODEL, alias)
            if stand is not None and stand.leaf == leaf:
                assert stand.serving is not None
                assert stand.serving.number == number
                return
            time.sleep(0.01)
        raise AssertionError(f"{alias} never stood by leaf {leaf}")

    try:
        assert found.ask(MODEL, "champion").result(30).number == 1
        late = move(store, "challenger", 3)
        assert slow.wait(30)
        until("champion", move(store, "champion", 2), 2)
        until("champion", move(store, "champion", 1), 1)
        # Of the champion itself: it stands as before, and goes back at once.
        asked = move(store, "shadow", 3)
        move(store, "champion", 3)
        until("champion", move(store, "champion", 2), 2)
        first = found.ask(MODEL, "shadow")
        assert found.now(MODEL, "challenger") is None
        go.set()
        assert first.result(30).number == 3
        until("challenger", late, 3)
        until("shadow", asked, 3)
    finally:
        go.set()
        found.stop()
