"""Lifecycle beside a model of it: a list of names for each alias, whatever comes in what order."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from tiny import TINY, make_tiny

from tacit import simulate
from tacit.privacy.errors import ConflictError, StorageError
from tacit.server import check
from tacit.server.home import Home
from tacit.server.lifecycle import Lifecycle
from tacit.server.store import Store

ALIASES = st.sampled_from(["champion", "shadow"])
WHO = {"actor": "a", "reason": "r"}


class Machine(RuleBasedStateMachine):
    """Moves, rollbacks and retirements, some of them after a state that is no longer."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        simulate(TINY, task=make_tiny(), home=self.folder.name)
        self.store = Store(Home(Path(self.folder.name)))
        self.life = Lifecycle(self.store)
        # Of each alias: leaf of its newest move, what it names, what it can go back to.
        self.known: dict[str, tuple[int | None, int | None, list[int]]] = {}
        self.retired: set[int] = set()

    def place(self, alias: str) -> tuple[int | None, int | None, list[int]]:
        return self.known.get(alias, (None, None, []))

    @rule(alias=ALIASES, number=st.sampled_from([1, 2, 3, 4, None]))
    def move(self, alias: str, number: int | None) -> None:
        leaf, named, past = self.place(alias)
        possible = number in {1, 2, 3} - self.retired or (number is None and leaf is not None)
        refused = contextlib.nullcontext() if possible else pytest.raises(StorageError)
        with refused:
            made = self.life.move("tiny", alias, number, expected=leaf, **WHO)
        if possible:
            before = [*past, named] if named is not None and named != number else past
            self.known[alias] = (made.leaf, number, before)

    @rule(alias=ALIASES)
    def rollback(self, alias: str) -> None:
        leaf, _, past = self.place(alias)
        wanted = [n for n in past if n not in self.retired]
        refused = contextlib.nullcontext() if wanted else pytest.raises(StorageError)
        with refused:
            made = self.life.rollback("tiny", alias, expected=leaf, **WHO)
        if wanted:
            assert made.number == wanted[-1]
            last = len(past) - 1 - past[::-1].index(wanted[-1])
            self.known[alias] = (made.leaf, wanted[-1], past[:last])

    @rule(alias=ALIASES, off=st.integers(1, 50))
    def stale(self, alias: str, off: int) -> None:
        with pytest.raises(ConflictError) as caught:
            self.life.move("tiny", alias, 1, expected=(self.place(alias)[0] or 0) + off, **WHO)
        assert caught.value.current == self.life.current("tiny", alias)

    @rule(number=st.sampled_from([2, 3]))
    def retire(self, number: int) -> None:
        named = any(place[1] == number for place in self.known.values())
        possible = not named and number not in self.retired
        refused = contextlib.nullcontext() if possible else pytest.raises(StorageError)
        with refused:
            self.life.retire("tiny", number, **WHO)
        if possible:
            self.retired.add(number)

    @invariant()
    def same(self) -> None:
        aliases = {alias: move.number for alias, move in self.life.aliases("tiny").items()}
        assert aliases == {a: n for a, (_, n, _) in self.known.items() if n is not None}
        for number, stage in self.life.stages("tiny").items():
            named = sorted(alias for alias, n in aliases.items() if n == number)
            left = "retired" if number in self.retired else "released"
            assert stage == (", ".join(named) or left)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            assert check.verify(self.store).findings == []
            self.store.close()
            self.folder.cleanup()


@pytest.mark.usefixtures("remembered")
def test_aliases_are_what_a_list_of_names_says() -> None:
    how = settings(
        max_examples=6,
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Machine, settings=how)
