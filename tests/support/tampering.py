"""What somebody with the database, or even with the key, could do to a ledger."""

from __future__ import annotations

import base64
import copy
import functools
import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from tiny import make_tiny

import tacit
from tacit.privacy import ledger
from tacit.privacy.accountant import Accountant
from tacit.privacy.log import leaves, merkle
from tacit.privacy.log.notes import Checkpoint, SignerKey, sign_note
from tacit.server.home import Home
from tacit.server.store import Store

Body = dict[str, Any]
AT = "2026-01-02T00:00:00Z"
# Whose ledger it is, in tests of what its key's holder could write.
ME = SignerKey("tacit.ledger/test", bytes(range(32)))


def remember(patch: pytest.MonkeyPatch) -> None:
    """Makes accountants answer from memory: trials compose the same events."""
    figures: dict[Any, float] = {}
    checks: dict[Any, Callable[[float], float]] = {}
    compute, prepare = Accountant._pld, Accountant._check

    def figure(self: Accountant, gaussians: dict[Any, int], delta: float) -> float:
        key = (frozenset(gaussians.items()), delta)
        if key not in figures:
            figures[key] = compute(self, gaussians, delta)
        return figures[key]

    def check(self: Accountant) -> Callable[[float], float]:
        key = tuple(self._counts.items())
        if key not in checks:
            checks[key] = functools.cache(prepare(self))
        return checks[key]

    patch.setattr(Accountant, "_pld", figure)
    patch.setattr(Accountant, "_check", check)
    patch.setattr(ledger, "version", functools.cache(ledger.version))


# Logs in memory


def key_leaf(signer: SignerKey, before: SignerKey | None = None, origin: str = "") -> Body:
    """A KEY leaf, signed as it has to be."""
    at = {"at": AT}
    verifier = str(signer.verifier)
    if before is None:
        return at | leaves.key(signer.name, verifier, None, None)
    previous = str(before.verifier)
    said = before.sign(leaves.rotation(origin, verifier, previous))
    return at | leaves.key(origin, verifier, previous, base64.b64encode(said).decode())


def texts_of(bodies: Sequence[Body]) -> list[str]:
    return [leaves.leaf_bytes(body).decode() for body in bodies]


def note_of(texts: Sequence[str], signer: SignerKey, origin: str | None = None) -> str:
    """The checkpoint over these leaves."""
    root = merkle.root_of(merkle.leaf_hash(text.encode()) for text in texts)
    return sign_note(Checkpoint(origin or signer.name, len(texts), root).text(), signer)


def inserted(bodies: Sequence[Body], at: int, *new: Body) -> list[Body]:
    """Leaves put in before one, with what names later ones by number kept right."""
    found = [_renumbered(body, at, len(new)) for body in bodies]
    return [*found[:at], *copy.deepcopy(list(new)), *found[at:]]


def removed(bodies: Sequence[Body], at: int) -> list[Body]:
    """A leaf taken out, with what names later ones by number kept right."""
    found = [_renumbered(body, at + 1, -1) for body in bodies]
    return [*found[:at], *found[at + 1 :]]


def _renumbered(body: Body, start: int, by: int) -> Body:
    moved = copy.deepcopy(body)
    for name in ("charge", "parent", "lifts"):
        if isinstance(moved.get(name), int) and moved[name] >= start:
            moved[name] += by
    return moved


# Bundles


def lines_of(path: Path) -> list[bytes]:
    """A bundle's lines but the last, which is their hash."""
    return path.read_bytes().splitlines(keepends=True)[:-1]


def rehashed(path: Path, lines: Sequence[bytes]) -> Path:
    """The bundle of these lines, with the hash that they have."""
    data = b"".join(lines)
    last = rfc8785.dumps({"sha256": hashlib.sha256(data).hexdigest()})
    path.write_bytes(data + last + b"\n")
    return path


# Databases


def settled(database: Path) -> None:
    """Puts all of a SQLite database into one file."""
    with closing(sqlite3.connect(database)) as c:
        c.execute("VACUUM")
        c.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def dump(database: Path) -> Any:
    """All that anybody can read from a SQLite database; an error is content of its own."""
    try:
        with closing(sqlite3.connect(database)) as c:
            c.text_factory = lambda data: ("text", data)
            schema = c.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
            names = [name[1].decode() for kind, name, *_ in schema if kind[1] == b"table"]
            rows = {n: c.execute(f'SELECT * FROM "{n}" NOT INDEXED').fetchall() for n in names}
            # And through the indexes.
            counts = {n: c.execute(f'SELECT count(*) FROM "{n}"').fetchall() for n in names}
            return sorted(schema), rows, counts
    except (sqlite3.Error, UnicodeDecodeError) as error:
        return repr(error)


class Unguarded:
    """A SQLite database without its triggers, which come back at the end."""

    def __init__(self, database: Path) -> None:
        self._c = sqlite3.connect(database, isolation_level=None)

    def __enter__(self) -> sqlite3.Connection:
        c = self._c
        query = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
        self._triggers = c.execute(query).fetchall()
        c.execute("BEGIN")
        for name, _ in self._triggers:
            c.execute(f"DROP TRIGGER {name}")
        return c

    def __exit__(self, *_: object) -> None:
        for _, sql in self._triggers:
            self._c.execute(sql)
        self._c.execute("COMMIT")
        self._c.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._c.close()


def other(value: Any, column: str, rng: Any) -> Any:
    """A value that differs in one character, bit or unit."""
    if value is None:
        return 1 if column == "parent" else "x"
    if isinstance(value, int):
        return value + 1000
    if isinstance(value, float):
        return value + 1e-9
    if isinstance(value, bytes | memoryview):
        data = bytearray(value)
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        return bytes(data)
    place = int(rng.integers(len(value))) if value else 0
    old = value[place : place + 1]
    new = str((int(old) + 1) % 10) if old.isdigit() else "y" if old == "x" else "x"
    return value[:place] + new + value[place + 1 :]


def bodies_of(home: Path, *overrides: str) -> list[Body]:
    """The leaves of a real run in a new home."""
    tacit.simulate(overrides, task=make_tiny(), home=home)
    store = Store(Home(home))
    try:
        return [leaf["body"] for leaf in store.leaves()]
    finally:
        store.close()


def owned(bodies: Sequence[Body], signer: SignerKey) -> list[Body]:
    """The log as if this key had begun it, at one time: what its operator could have written."""
    return [key_leaf(signer), *({**copy.deepcopy(body), "at": AT} for body in bodies[1:])]
