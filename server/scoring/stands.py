"""How aliases stand: which version answers for each, loaded, and which one it falls back to.

Guarantees: an alias's stand is swapped whole, after what it names is loaded and checked; whoever
holds the stand before goes on with it. If what an alias names can't be loaded, the newest version
that it could be rolled back to answers in its place, and the stand, the log and every answer say
so. What an alias was rolled back from, and what was retired, never answers for it once that move is
followed.

Versions are loaded beside: while one takes long, as its graph is made, its alias stands as before,
and the moves of all others are followed. The version that an alias could be rolled back to is
loaded with it, so that going back waits for none; a rollback to an older one does.

What stands is as new as the last look at the ledger, `Settings.look` ago: an answer's receipt
names the move that it knew of.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from tacit.privacy.errors import MissingError, StorageError, TacitError
from tacit.privacy.log.lifecycle import NEVER
from tacit.server import log as logs
from tacit.server import tables as t
from tacit.server.lifecycle import CHAMPION, Lifecycle
from tacit.server.registry import ModelRegistry
from tacit.server.scoring.model import Loader, Served
from tacit.server.store import Row, Store

log = logging.getLogger("tacit.scoring")

SHADOW, CHALLENGER = "shadow", "challenger"
# Seconds after which a version that couldn't be loaded is tried again.
_AGAIN = 30.0
# Seconds that a version's loading is waited for; what is longer goes on beside.
_SOON = 2.0

Name = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Stand:
    """How an alias of a model stands.

    Attributes:
        leaf: the move in force.
        number: that it names.
        serving: what answers; None if nothing can.
        before: the last good version, for when ``serving`` fails or is late; None if there is
            none.
        problem: why the version that is named doesn't answer; "" if it does.
    """

    leaf: int
    number: int
    serving: Served | None
    before: Served | None
    problem: str = ""


class _NotYetError(Exception):
    """A version that is still being loaded."""


class Stands:
    """The stands of a home's aliases, kept by one thread.

    Args:
        store: of the home.
        registry: its versions.
        lifecycle: its aliases.
        loader: of versions.
        look: seconds between two looks at the ledger.
    """

    def __init__(
        self,
        store: Store,
        registry: ModelRegistry,
        lifecycle: Lifecycle,
        loader: Loader,
        look: float,
    ) -> None:
        self._store, self._registry = store, registry
        self._lifecycle, self._loader, self._look = lifecycle, loader, look
        # Replaced, never changed.
        self._stands: dict[Name, Stand] = {}
        self._wanted: dict[str, set[str]] = {}
        self._loads: dict[tuple[str, int], Future[Served]] = {}
        # Loads that are waited for, and aliases that wait for one; loads that the last look needed;
        # who asked for what isn't there yet.
        self._pending: set[tuple[str, int]] = set()
        self._awaited: set[Name] = set()
        self._used: set[tuple[str, int]] = set()
        self._held: list[tuple[Name, Future[Stand]]] = []
        self._makers = ThreadPoolExecutor(2, "tacit-loader")
        self._asked: queue.SimpleQueue[tuple[Name, Future[Stand]] | None] = queue.SimpleQueue()
        self._seen: tuple[Any, ...] = ()
        self._tried = 0.0
        # Why nothing may be answered any more; "" if it may.
        self.ended = ""
        self._thread = threading.Thread(target=self._run, name="tacit-stands", daemon=True)
        self._thread.start()

    def now(self, model: str, alias: str) -> Stand | None:
        """How an alias stands, if it was asked for before."""
        return self._stands.get((model, alias))

    def of(self, model: str) -> dict[str, Stand]:
        """How a model's aliases stand, of those that are looked after."""
        return {alias: stand for (name, alias), stand in self._stands.items() if name == model}

    def ask(self, model: str, alias: str) -> Future[Stand]:
        """Has an alias looked after from now on; fails with `MissingError` if it names nothing."""
        future: Future[Stand] = Future()
        self._asked.put(((model, alias), future))
        return future

    def stop(self) -> None:
        """Ends the thread."""
        self._asked.put(None)
        self._thread.join()
        self._makers.shutdown(cancel_futures=True)

    def _run(self) -> None:
        while True:
            try:
                asked = self._asked.get(timeout=self._look)
                if asked is None:
                    return
                self._answer(*asked)
            except queue.Empty:
                pass
            try:
                self._refresh()
            except (TacitError, sa.exc.SQLAlchemyError) as error:
                log.warning("the ledger can't be looked at: %s", error)

    def _answer(self, name: Name, future: Future[Stand]) -> None:
        try:
            if name not in self._stands:
                self._stand_up(*name)
            found = self._stands.get(name)
            if found is None and name in self._awaited:
                self._held.append((name, future))
                return
            if found is None:
                raise MissingError(f"{name[0]}@{name[1]} names no version")
        except (TacitError, sa.exc.SQLAlchemyError) as error:
            if not future.cancelled():
                future.set_exception(error)
            return
        if future.set_running_or_notify_cancel():
            future.set_result(found)

    def _release(self) -> None:
        """Answers those who asked for what was loaded meanwhile."""
        held, self._held = self._held, []
        for name, future in held:
            if name in self._awaited and name not in self._stands:
                self._held.append((name, future))
            else:
                self._answer(name, future)

    def _stand_up(self, model: str, alias: str) -> None:
        aliases = {alias, *((SHADOW, CHALLENGER) if alias == CHAMPION else ())}
        stands = self._stood(model, aliases)
        if (model, alias) in stands or (model, alias) in self._awaited:
            self._wanted.setdefault(model, set()).update(aliases)
            self._stands = {**self._stands, **stands}

    def _refresh(self) -> None:
        """Looks whether anything moved; loads what is new, then swaps."""
        with self._store.database.reading() as c:
            newest = [c.execute(sa.select(sa.func.max(of))).scalar() for of in _WATCHED]
            key = logs.newest_key(c)
        if key != str(self._store.signer.verifier) and not self.ended:
            self.ended = "the ledger's key was changed: the operator has to start scoring again"
            log.error(self.ended)
        again = time.monotonic() - self._tried > _AGAIN
        if tuple(newest) != self._seen or (
            again and any(stand.problem for stand in self._stands.values())
        ):
            self._tried = time.monotonic()
            failed = [k for k, load in self._loads.items() if load.done() and load.exception()]
            for place in failed:
                del self._loads[place]
        elif not any(self._loads[key].done() for key in self._pending):
            return
        stands: dict[Name, Stand] = {}
        # Until this look is whole there has been none.
        self._seen = ()
        self._pending, self._used, self._awaited = set(), set(), set()
        for model, aliases in self._wanted.items():
            stands |= self._stood(model, aliases)
        self._stands, self._seen = stands, tuple(newest)
        self._loads = {k: load for k, load in self._loads.items() if k in self._used}
        self._release()

    def _stood(self, model: str, aliases: set[str]) -> dict[Name, Stand]:
        """How aliases stand, by the ledger as it is now."""
        trails = dict.fromkeys(aliases, NEVER)
        retired = set()
        for row in self._lifecycle.history(model):
            body = row["body"]
            if body["kind"] == "RETIRE":
                retired.add(body["number"])
            elif body["kind"] != "GATE" and body["alias"] in trails:
                trail = trails[body["alias"]]
                trails[body["alias"]] = trail.follow(row["index"], body["kind"], body["number"])
        found = {}
        for alias, trail in trails.items():
            if trail.number is not None:
                past = [number for number in trail.past[::-1] if number not in retired]
                known = self._stands.get((model, alias))
                try:
                    found[model, alias] = self._loaded(model, alias, trail.leaf, trail.number, past)
                except _NotYetError:
                    self._awaited.add((model, alias))
                    if known is not None:
                        found[model, alias] = known
        return found

    def _loaded(self, model: str, alias: str, leaf: int, number: int, past: Sequence[int]) -> Stand:
        known = self._stands.get((model, alias))
        serving, problem = self._load(model, number)
        before = None
        try:
            before = self._first(model, [n for n in past if n != number])
        except _NotYetError:
            if serving is None:
                raise
        if serving is not None:
            return Stand(leaf, number, serving, before)
        stand = Stand(leaf, number, before, None, problem)
        if known is None or known.problem != problem:
            instead = f"{model}@{before.number} goes on" if before else "NOTHING answers"
            log.error(
                "%s@%s names version %s, which can't be served: %s; %s",
                *(model, alias, number, problem, instead),
            )
        return stand

    def _first(self, model: str, numbers: Sequence[int]) -> Served | None:
        """The first of some versions that can be loaded."""
        for number in numbers:
            found, problem = self._load(model, number)
            if found is not None:
                return found
            log.warning("%s@%s can't be fallen back to: %s", model, number, problem)
        return None

    def _load(self, model: str, number: int) -> tuple[Served | None, str]:
        key = (model, number)
        self._used.add(key)
        load = self._loads.get(key)
        if load is None:
            load = self._loads[key] = self._makers.submit(self._made, model, number)
            wait([load], timeout=_SOON)
        if not load.done():
            self._pending.add(key)
            raise _NotYetError
        error = load.exception()
        if error is None:
            return load.result(), ""
        said = error.message if isinstance(error, StorageError) else str(error)
        if "/" in said or not isinstance(error, TacitError):
            # Callers are told; what it is called on this machine is for the log.
            log.error("%s@%s: %s", model, number, said)
            said = "its files are corrupted or can't be used; the operator's log says how"
        return None, said

    def _made(self, model: str, number: int) -> Served:
        row: Row = self._registry.find(f"{model}@{number}")
        return self._loader.load(row)


_WATCHED = (t.moves.c.leaf, t.retirements.c.leaf)
