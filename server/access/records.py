"""Records of reads and receipts of scores: rows first, then a leaf over many of them.

Guarantees: `Recorder.read` and `Recorder.score` return once the rows are durable, so what is
handed over afterwards was recorded, whatever crashes. Ids have no gaps. `Recorder.seal` appends an
ACCESS leaf with the RFC 9162 root over the rows that no leaf covers yet, in one transaction with
its row in ``batches``; from then on no row under it can be changed, removed or put elsewhere
without `tacit ledger verify` seeing it. Rows name who read what; leaves say how many.

Rows that no leaf covers yet can be altered by whoever can write the database: that is what
`Sealer`'s interval is for. A record says that something was asked for, not that it arrived.
"""

from __future__ import annotations

import logging
import re
import secrets
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import rfc8785
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tacit.privacy.errors import ConfigError, MissingError, StorageError, TacitError
from tacit.privacy.log import leaves, merkle
from tacit.privacy.log.verify import parsed
from tacit.server import tables as t
from tacit.server.store import Row, Store

log = logging.getLogger("tacit.access")

READ, SCORE = "read", "score"
_REQUEST = re.compile(r"[A-Za-z0-9_-]{8,64}")
_LONGEST = 500


class Recorder:
    """Writes and seals the accesses of one home; any number of processes may.

    Args:
        store: of the home.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._turn, self._guard = threading.Lock(), threading.Lock()
        self._waiting: list[_Group] = []
        # Rows of this process that no seal took yet; when there are many, `due` is told.
        self._unsealed = 0
        self._due: tuple[int, threading.Event] | None = None

    def read(
        self, actor: str, action: str, subject: str, request: str | None = None, via: str = ""
    ) -> str:
        """Records that somebody asks for something, durably; hand it over afterwards.

        Args:
            actor: who, as they are known.
            action: what is done, such as "read" or "export".
            subject: to what, such as "model digits@3".
            request: an id of the caller's choice, used once; None makes one.
            via: what it came by: the id of a token, or "cli".

        Returns:
            The request's id.

        Raises:
            ConfigError: a text that a record can't have.
            StorageError: it couldn't be written; then hand nothing over.
        """
        request = request or secrets.token_hex(16)
        body = {"actor": actor, "action": action, "subject": subject, "via": via}
        for name, text in body.items():
            if len(text) > _LONGEST or not text.isprintable() or not (text or name == "via"):
                raise ConfigError(
                    f"{name}={text[:40]!r} must be 1 to {_LONGEST} printable characters"
                )
        self._write([_row(READ, {**body, "request": request, "at": _now()})])
        return request

    def score(self, receipts: Sequence[Mapping[str, Any]]) -> None:
        """Records receipts, durably and in one commit, with whatever else waits for one.

        Args:
            receipts: JSON, each with a ``request`` of its own.

        Raises:
            ConfigError: a receipt has none, or isn't JSON.
            StorageError: they couldn't be written, or a request was recorded before; none is.
        """
        self._write([_row(SCORE, receipt) for receipt in receipts])

    def find(self, request: str) -> Row | None:
        """The row of a request: id, kind, request, body, and the leaf that covers it, if any."""
        with self._store.database.reading() as c:
            found = c.execute(sa.select(t.accesses).where(t.accesses.c.request == request)).first()
            if found is None:
                return None
            row = dict(found._mapping)
            batch = _batch(c, row["id"])
        leaf = batch.leaf if batch is not None else None
        return {**row, "body": parsed(row["body"]), "leaf": leaf}

    def reads(self, subject: str | None = None, limit: int = 100) -> list[Row]:
        """Reads, newest first: id and body.

        Args:
            subject: only of this one; that of a model is that of its versions and aliases too.
            limit: at most this many.
        """
        a, found = t.accesses.c, list[Row]()
        query = sa.select(a.id, a.body).where(a.kind == READ).order_by(a.id.desc())
        if subject is not None:
            # What the database can tell by itself; rows are canonical.
            begins = rfc8785.dumps(subject).decode()[:-1]
            query = query.where(a.body.contains(f'"subject":{begins}', autoescape=True))
        with self._store.database.reading() as c:
            for identifier, text in c.execute(query.execution_options(yield_per=500)):
                body = parsed(text)
                if subject is None or subject in (
                    body["subject"],
                    body["subject"].partition("@")[0],
                ):
                    found.append({"id": identifier, "body": body})
                if len(found) == limit:
                    break
        return found

    def seal(self) -> int | None:
        """Appends an ACCESS leaf over the rows that none covers yet; None if there are none."""
        with self._store.appending() as (c, ledger):
            first = _sealed(c) + 1
            query = sa.select(t.accesses.c.body).where(t.accesses.c.id >= first)
            query = query.order_by(t.accesses.c.id).execution_options(yield_per=1000)
            rows = c.execute(query)
            count = 0

            def hashes() -> Any:
                nonlocal count
                for (body,) in rows:
                    count += 1
                    yield merkle.leaf_hash(body.encode())

            root = merkle.root_of(hashes())
            if count == 0:
                return None
            last = first + count - 1
            body = {"kind": "ACCESS", "run": "", "first": first, "last": last, "count": count}
            leaf = ledger.append({**body, "root": root.hex()})
            c.execute(t.batches.insert().values(leaf=leaf, first=first, last=last))
        with self._guard:
            self._unsealed = 0
        return leaf

    def unsealed(self) -> int:
        """How many rows no leaf covers yet."""
        with self._store.database.reading() as c:
            return int(c.execute(sa.select(sa.func.max(t.accesses.c.id))).scalar() or 0) - _sealed(
                c
            )

    def inclusion(self, request: str) -> dict[str, Any]:
        """Proof that a row is under its ACCESS leaf; `tacit.privacy.log.custody` checks it.

        Raises:
            MissingError: there is no such row, or no leaf covers it yet.
        """
        with self._store.database.reading() as c:
            a = t.accesses.c
            row = c.execute(sa.select(a.id, a.body).where(a.request == request)).first()
            batch = _batch(c, row.id) if row is not None else None
            if row is None or batch is None:
                problem = "isn't here" if row is None else "is under no leaf yet"
                raise MissingError(f"request={request[:80]!r} {problem}")
            within = (a.id >= batch.first, a.id <= batch.last)
            tree = merkle.Tree()
            for (body,) in c.execute(sa.select(a.body).where(*within).order_by(a.id)):
                tree.append(merkle.leaf_hash(body.encode()))
        index = row.id - batch.first
        proof = merkle.inclusion_proof(index, tree.size, tree.node)
        return {
            "row": row.body,
            "leaf": batch.leaf,
            "index": index,
            "size": tree.size,
            "root": tree.root().hex(),
            "proof": [node.hex() for node in proof],
        }

    def tell(self, rows: int, due: threading.Event) -> None:
        """Has an event set when this process has written as many rows since the last seal."""
        self._due = (rows, due)

    # Commits are shared: whoever has the turn writes what all others wait for.

    def _write(self, rows: list[Row]) -> None:
        group = _Group(rows)
        with self._guard:
            self._waiting.append(group)
        with self._turn:
            if not group.done:
                with self._guard:
                    taken, self._waiting = self._waiting, []
                self._commit(taken)
        if group.error is not None:
            raise group.error

    def _commit(self, groups: list[_Group]) -> None:
        try:
            self._insert([row for group in groups for row in group.rows])
        except TacitError as error:
            if len(groups) > 1:
                # One that can't be written mustn't take the others with it.
                for group in groups:
                    self._commit([group])
                return
            groups[0].error = error
        except BaseException as error:
            # Whoever shares the commit waits in another thread, and mustn't take it for written.
            for group in groups:
                group.error = error
            raise
        else:
            for group in groups:
                group.error = None
        finally:
            for group in groups:
                group.done = True

    def _insert(self, rows: list[Row]) -> None:
        if not rows:
            return
        with self._store.database.writing() as c:
            last = c.execute(sa.select(sa.func.max(t.accesses.c.id))).scalar() or 0
            numbered = [{"id": last + i, **row} for i, row in enumerate(rows, 1)]
            c.execute(t.accesses.insert(), numbered)
        with self._guard:
            self._unsealed += len(rows)
            if self._due is not None and self._unsealed >= self._due[0]:
                self._due[1].set()


class _Group:
    """Rows of one caller, who waits for them."""

    __slots__ = ("done", "error", "rows")

    def __init__(self, rows: list[Row]) -> None:
        self.rows, self.done = rows, False
        # Until it is written: nobody may take it for that because whoever had the turn fell.
        self.error: BaseException | None = StorageError("the access couldn't be recorded")


class Sealer:
    """A thread that seals now and then, at the beginning what others left, and at the end.

    Args:
        recorder: whose rows.
        seconds: between two looks.
        rows: of this process, after which it doesn't wait.
    """

    def __init__(self, recorder: Recorder, seconds: float = 60.0, rows: int = 1000) -> None:
        self._recorder, self._seconds = recorder, seconds
        self._due, self._stopped = threading.Event(), False
        recorder.tell(rows, self._due)
        self._thread = threading.Thread(target=self._run, name="tacit-sealer", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Seals what is left and ends; stopping again is nothing."""
        self._stopped = True
        self._due.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            stopped = self._stopped
            self._due.clear()
            try:
                self._recorder.seal()
            except (TacitError, sa.exc.SQLAlchemyError, OSError) as error:
                # The rows are there, and the next try takes them.
                log.warning("accesses couldn't be sealed: %s", error)
            if stopped:
                return
            if not self._stopped:
                self._due.wait(self._seconds)


def _row(kind: str, body: Mapping[str, Any]) -> Row:
    request = body.get("request")
    if not isinstance(request, str) or not _REQUEST.fullmatch(request):
        raise ConfigError(f"request={request!r:.80} must be 8 to 64 of a-z, A-Z, 0-9, - and _")
    try:
        text = leaves.leaf_bytes({**body, "kind": kind}).decode()
    except (rfc8785.CanonicalizationError, UnicodeEncodeError, RecursionError) as error:
        raise ConfigError(f"the record of request={request} isn't JSON: {error}") from error
    return {"kind": kind, "request": request, "body": text}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _sealed(c: Connection) -> int:
    """The last id that a leaf covers."""
    return int(c.execute(sa.select(sa.func.max(t.batches.c.last))).scalar() or 0)


def _batch(c: Connection, identifier: int) -> sa.Row[Any] | None:
    """The batch that covers a row."""
    query = sa.select(t.batches).where(t.batches.c.last >= identifier)
    return c.execute(query.order_by(t.batches.c.last).limit(1)).first()
