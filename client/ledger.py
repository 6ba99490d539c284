"""What one client took part in and what that cost it: its own record, whatever others claim.

Guarantees: `ClientLedger.charge` is on disk before it returns (SQLite, synchronous=EXTRA), so
a vector that left was charged, and `ClientLedger.project` and `ClientLedger.charge` refuse
what would exceed the client's `Caps`, one writer at a time. Rows are only appended: each names
run, round, attempt, purpose, session, plan, time, and whether it was charged or why refused;
each plan's JSON and the privacy events that it claimed are kept beside them, and epsilon is
computed from those events alone (`tacit.client.spend`). A charge is never taken back: one whose
vector didn't leave over-counts.

What counts as what:

- A *participation* is one session's vector. A session's other legs, and the same session asked
  again, are none: whoever answers a session again has to give the same bytes
  (`MaskingClient.answered`), or call it another session.
- Training and evaluation of one round are two participations, and so is each attempt of a
  round: each releases something.
- The separation holds between participations of different rounds, those of other runs
  included. Within a round it doesn't, or no round could be evaluated or attempted again; what
  a coordinator gains by many attempts is bounded by ``rounds`` and ``epsilon``.
- A clock that goes backwards lengthens a separation and never shortens it: rows never get
  earlier, and while the clock is behind them the time since is negative.

It doesn't protect against whoever can write the file, put an older one back, or set the clock
forward: that is the client itself.
"""

from __future__ import annotations

import json
import math
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import rfc8785

from tacit.client import spend
from tacit.client.caps import UNITS, Spent, UnitSpent
from tacit.client.caps import Caps as Caps
from tacit.privacy import events, validate
from tacit.privacy.durable import DurableFile
from tacit.privacy.errors import RoundError
from tacit.privacy.events import Event
from tacit.privacy.plan import PrivacyPlan
from tacit.privacy.units import Unit

Reason = Literal["ROUNDS", "EPSILON", "SEPARATION"]

# Whoever sends invitations in vain can't fill a disk.
MOST_REFUSALS = 10_000

_SCHEMA = """
CREATE TABLE IF NOT EXISTS plans (digest TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS costs (
    plan TEXT, purpose TEXT, unit TEXT, event TEXT, PRIMARY KEY (plan, purpose, unit)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS entries (
    number INTEGER PRIMARY KEY, time REAL NOT NULL, run TEXT NOT NULL, round INTEGER NOT NULL,
    attempt INTEGER NOT NULL, purpose TEXT NOT NULL, session TEXT NOT NULL, plan TEXT NOT NULL,
    outcome TEXT NOT NULL, UNIQUE (session, purpose, outcome)
);
CREATE TRIGGER IF NOT EXISTS entries_stay BEFORE DELETE ON entries
    BEGIN SELECT RAISE(ABORT, 'entries are never deleted'); END;
CREATE TRIGGER IF NOT EXISTS entries_keep BEFORE UPDATE ON entries
    BEGIN SELECT RAISE(ABORT, 'entries are never changed'); END;
CREATE TRIGGER IF NOT EXISTS costs_stay BEFORE DELETE ON costs
    BEGIN SELECT RAISE(ABORT, 'costs are never deleted'); END;
CREATE TRIGGER IF NOT EXISTS costs_keep BEFORE UPDATE ON costs
    BEGIN SELECT RAISE(ABORT, 'costs are never changed'); END;
"""


class Refused(RoundError):  # noqa: N818
    """Taking part would exceed one of this client's own limits.

    Args:
        reason: which kind of limit, a name of ``Refusal.Reason`` in `tacit.edge.v1`.
        message: names the limit, never what the client did before.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message, "the limit is this client's own")
        self.reason: Reason = reason


@dataclass(frozen=True, slots=True)
class Participation:
    """What is asked of a client.

    Attributes:
        run: whose.
        round: number, from 1.
        attempt: at the round.
        purpose: "train" or "evaluate".
        plan: under which.
        session: its digest; the same one is charged once.
    """

    run: str
    round: int
    attempt: int
    purpose: str
    plan: PrivacyPlan
    session: str


class ClientLedger(DurableFile):
    """One client's ledger; safe between threads and processes.

    Args:
        path: of the file, made with owner-only rights; None keeps it in memory, which is for
            simulations.
        caps: the client's limits; they may change from one opening to the next.
        clock: gives Unix seconds.

    Raises:
        StorageError: the file can't be opened.
    """

    _name = "the client's ledger"
    # A row that can't be read is a failure of the file, too.
    _failures = (OSError, ValueError, sqlite3.Error)

    def __init__(
        self, path: Path | None, caps: Caps, clock: Callable[[], float] = time.time
    ) -> None:
        self.caps = caps
        self._clock, self._lock = clock, threading.Lock()
        super().__init__(path, _SCHEMA, threads=True)

    def project(self, entry: Participation) -> None:
        """Whether a session may be entered; nothing is charged, a refusal is written down.

        Raises:
            Refused: `charge` would refuse it now.
            StorageError: the ledger can't be read or written.
        """
        self._settle(entry, False)

    def charge(self, entry: Participation) -> None:
        """Charges a participation, durably, before its vector is made.

        The same session again is no second charge, and never refused.

        Raises:
            Refused: it would exceed a limit; that is written down, nothing is charged.
            RoundError: the session was charged as something else.
            StorageError: the ledger can't be read or written.
        """
        self._settle(entry, True)

    def spent(self) -> Spent:
        """What has been charged so far, and refused."""
        with self._lock, self._explained():
            rows = self._db.execute("SELECT outcome, count(*) FROM entries GROUP BY outcome")
            outcomes = {str(outcome): int(count) for outcome, count in rows}
            rounds, last = self._db.execute(
                "SELECT count(DISTINCT run || '/' || round), max(time) FROM entries"
                " WHERE outcome = 'charged'"
            ).fetchone()
            views = {unit: self._unit(unit) for unit in UNITS}
        taken = outcomes.pop("charged", 0)
        return Spent(taken, rounds, outcomes, last, views["client"], views["record"], self.caps)

    def _settle(self, entry: Participation, charging: bool) -> None:
        """Checks an entry and appends what came of it, in one transaction."""
        validate.one_of("purpose", entry.purpose, spend.PURPOSES)
        with self._lock, self._writing() as db:
            if self._charged(db, entry):
                return
            refused = self._check(db, entry)
            if refused is not None and self._new(db, entry, refused):
                self._append(db, entry, refused.reason)
            if refused is None and charging:
                self._append(db, entry, "charged")
        if refused is not None:
            raise refused

    def _charged(self, db: sqlite3.Connection, entry: Participation) -> bool:
        row = db.execute(
            "SELECT run, round, attempt, purpose, plan FROM entries"
            " WHERE session = ? AND outcome = 'charged'",
            (entry.session,),
        ).fetchone()
        if row is None:
            return False
        said = (entry.run, entry.round, entry.attempt, entry.purpose, entry.plan.digest())
        if tuple(row) != said:
            raise RoundError(f"session={entry.session[:12]} was charged as another participation")
        return True

    def _check(self, db: sqlite3.Connection, entry: Participation) -> Refused | None:
        """Which limit the entry would exceed."""
        caps = self.caps
        (taken,) = db.execute("SELECT count(*) FROM entries WHERE outcome = 'charged'").fetchone()
        if caps.rounds is not None and taken >= caps.rounds:
            return Refused("ROUNDS", f"rounds={caps.rounds} have been taken part in")
        if caps.separation > 0:
            (last,) = db.execute(
                "SELECT max(time) FROM entries"
                " WHERE outcome = 'charged' AND (run != ? OR round != ?)",
                (entry.run, entry.round),
            ).fetchone()
            # Written so that a clock that gives NaN is refused too.
            if last is not None and not self._clock() - last >= caps.separation:
                text = f"separation={caps.separation:g} seconds between rounds haven't passed"
                return Refused("SEPARATION", text)
        for unit in UNITS:
            cap, delta = caps.of(unit)
            if cap is not None and delta is not None:
                refused = self._check_epsilon(db, entry, unit, cap, delta)
                if refused is not None:
                    return refused
        return None

    def _check_epsilon(
        self, db: sqlite3.Connection, entry: Participation, unit: Unit, cap: float, delta: float
    ) -> Refused | None:
        event = spend.cost(entry.plan, entry.purpose, unit)
        if event is None:
            text = f"the plan claims nothing for the {unit}, whose epsilon={cap:g} is limited"
            return Refused("EPSILON", text)
        composed = _composed(db, unit)
        if composed is not None:
            composed[event] += 1
        if composed is None or not spend.epsilon(composed, delta) <= cap:
            text = f"epsilon={cap:g} at delta={delta:g} for the {unit} would be exceeded"
            return Refused("EPSILON", text)
        return None

    def _append(self, db: sqlite3.Connection, entry: Participation, outcome: str) -> None:
        digest, plan = entry.plan.digest(), rfc8785.dumps(entry.plan.to_json()).decode()
        if outcome == "charged":
            db.execute("INSERT OR IGNORE INTO plans VALUES (?, ?)", (digest, plan))
            for unit in UNITS:
                event = spend.cost(entry.plan, entry.purpose, unit)
                body = json.dumps(event.to_json()) if event is not None else None
                place = (digest, entry.purpose, unit)
                db.execute("INSERT OR IGNORE INTO costs VALUES (?, ?, ?, ?)", (*place, body))
        (latest,) = db.execute("SELECT max(time) FROM entries").fetchone()
        now = self._clock()
        if not math.isfinite(now):
            raise RoundError(f"this client's clock says {now}")
        db.execute(
            "INSERT INTO entries"
            " (time, run, round, attempt, purpose, session, plan, outcome)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                now if latest is None else max(now, latest),
                entry.run,
                entry.round,
                entry.attempt,
                entry.purpose,
                entry.session,
                digest,
                outcome,
            ),
        )

    def _new(self, db: sqlite3.Connection, entry: Participation, refused: Refused) -> bool:
        """Whether a refusal is still to be written down: once a session, up to a limit."""
        known, same = db.execute(
            "SELECT count(*), coalesce(sum(session = ? AND purpose = ? AND outcome = ?), 0)"
            " FROM entries WHERE outcome != 'charged'",
            (entry.session, entry.purpose, refused.reason),
        ).fetchone()
        return bool(same == 0 and known < MOST_REFUSALS)

    def _unit(self, unit: Unit) -> UnitSpent:
        cap, delta = self.caps.of(unit)
        if delta is None:
            rows = self._db.execute("SELECT body FROM plans")
            delta = min((json.loads(body)[f"{unit}_delta"] for (body,) in rows), default=None)
        if delta is None:
            return UnitSpent(None, None, cap)
        composed = _composed(self._db, unit)
        epsilon = math.inf if composed is None else spend.epsilon(composed, delta)
        return UnitSpent(epsilon, delta, cap)


def _composed(db: sqlite3.Connection, unit: Unit) -> Counter[Event] | None:
    """What charges have spent of a unit; None if one of them claimed nothing for it."""
    rows = db.execute(
        "SELECT costs.event, count(*) FROM entries JOIN costs"
        " ON costs.plan = entries.plan AND costs.purpose = entries.purpose AND costs.unit = ?"
        " WHERE entries.outcome = 'charged' GROUP BY entries.plan, entries.purpose",
        (unit,),
    ).fetchall()
    found: Counter[Event] = Counter()
    for body, count in rows:
        if body is None:
            return None
        found[events.from_json(json.loads(body))] += count
    return found
