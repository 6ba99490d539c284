"""What a client remembers between two messages, durably: its promises and its secrets.

Guarantees: `Vault.open` accepts a session only if it is newer than every earlier one of its
run and purpose; `Vault.advance` moves a session forward by one phase, once, with what was
decided in it, and is on disk before it returns (SQLite, synchronous=EXTRA). A client that is
killed and started again has given each answer or not given it; it can't give another. A file
also keeps the answer itself, written in the same transaction, until the session's next one:
who asks the same again is told the same again (`Vault.said`).
Secrets of a session are deleted when the next one of its run and purpose begins.
It doesn't encrypt the file: its rights are the owner's only, and who reads it is the client.
What was deleted is overwritten in the file, but not where the file system kept its journals.
Nor does it notice that an older copy of the file was put back, or that it is gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tacit.privacy.durable import DurableFile
from tacit.privacy.errors import RoundError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS latest (
    client INTEGER, run TEXT, purpose TEXT, round INTEGER NOT NULL, attempt INTEGER NOT NULL,
    session TEXT NOT NULL, PRIMARY KEY (client, run, purpose)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sessions (
    client INTEGER, session TEXT, phase TEXT NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (client, session)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS answers (
    client INTEGER, session TEXT, kind TEXT NOT NULL, request BLOB NOT NULL, answer BLOB NOT NULL,
    UNIQUE (client, session)
);
"""


@dataclass(frozen=True, slots=True)
class Said:
    """An answer, and what it answers.

    Attributes:
        kind: of the request, such as "query.share".
        request: SHA-256 of its bytes.
        answer: in bytes. It is meant to leave, so it is no secret; a masked vector that never
            left is what a late one is, and its own mask protects it.
    """

    kind: str
    request: bytes
    answer: bytes


class Vault(DurableFile):
    """A file of one or several clients' sessions.

    Args:
        path: of the file, made with owner-only rights; None keeps all in memory, and one
            round at a time and without answers, which is for simulations: a client in one
            process that ends has nothing to come back to.

    Attributes:
        keeps: whether answers are kept.

    Raises:
        StorageError: it can't be opened.
    """

    _name = "the client's vault"

    def __init__(self, path: Path | None) -> None:
        super().__init__(path, _SCHEMA, erases=True)
        self.keeps = path is not None
        self._place: tuple[str, str, int, int] | None = None

    def open(
        self,
        client: int,
        place: tuple[str, str, int, int],
        session: str,
        body: bytes,
        said: Said | None = None,
    ) -> None:
        """Begins a session, in phase "advertised".

        Args:
            client: whose.
            place: run, purpose, round, attempt.
            session: its digest.
            body: what to remember.
            said: what is about to be answered.

        Raises:
            RoundError: this or a later session of the run and purpose was begun before.
        """
        run, purpose, round_, attempt = place
        key = (client, run, purpose)
        with self._writing() as db:
            row = db.execute(
                "SELECT round, attempt, session FROM latest"
                " WHERE client = ? AND run = ? AND purpose = ?",
                key,
            ).fetchone()
            if row is not None and (row[0], row[1]) >= (round_, attempt):
                raise RoundError(
                    f"round={round_} attempt={attempt} ({purpose}) was seen before",
                    "a client takes part in each session once",
                )
            if row is not None:
                db.execute(
                    "DELETE FROM sessions WHERE client = ? AND session = ?", (client, row[2])
                )
                self._say(client, row[2], None)
            if self._path is None and place != self._place:
                # Its clients are all in one round at a time; memory stays the cohort's.
                db.execute("DELETE FROM sessions")
                self._place = place
            db.execute(
                "INSERT OR REPLACE INTO latest VALUES (?, ?, ?, ?, ?, ?)",
                (*key, round_, attempt, session),
            )
            db.execute(
                "INSERT INTO sessions VALUES (?, ?, 'advertised', ?)", (client, session, body)
            )
            self._say(client, session, said)

    def read(self, client: int, session: str) -> tuple[str, bytes]:
        """Phase and body of a session.

        Raises:
            RoundError: there is no such session, or it is over.
        """
        with self._explained():
            row = self._db.execute(
                "SELECT phase, body FROM sessions WHERE client = ? AND session = ?",
                (client, session),
            ).fetchone()
        if row is None:
            raise RoundError(
                f"session={session[:12]} isn't one that client {client} is in",
                "was it asked in another round, or is its vault lost?",
            )
        return str(row[0]), bytes(row[1])

    def advance(
        self,
        client: int,
        session: str,
        before: str,
        after: str,
        body: bytes,
        said: Said | None = None,
    ) -> None:
        """Moves a session from one phase to the next, durably, before anything is said.

        Args:
            client: whose.
            session: its digest.
            before: the phase it is in.
            after: the next one.
            body: what to remember.
            said: what is about to be answered; the answer before it is forgotten.

        Raises:
            RoundError: it isn't in phase ``before``.
        """
        with self._writing() as db:
            done = db.execute(
                "UPDATE sessions SET phase = ?, body = ?"
                " WHERE client = ? AND session = ? AND phase = ?",
                (after, body, client, session, before),
            )
            if done.rowcount != 1:
                raise RoundError(f"session={session[:12]} isn't in the phase {before!r}")
            self._say(client, session, said)

    def said(self, client: int, session: str, kind: str, request: bytes) -> bytes | None:
        """A session's last answer, if it was to this very request; else None.

        Args:
            client: whose.
            session: its digest.
            kind: of the request.
            request: SHA-256 of its bytes.
        """
        if not self.keeps:
            return None
        with self._explained():
            row = self._db.execute(
                "SELECT answer FROM answers"
                " WHERE client = ? AND session = ? AND kind = ? AND request = ?",
                (client, session, kind, request),
            ).fetchone()
        return None if row is None else bytes(row[0])

    def _say(self, client: int, session: str, said: Said | None) -> None:
        """Keeps an answer in place of the session's last one; part of a transaction."""
        if not self.keeps:
            return
        place = (client, session)
        self._db.execute("DELETE FROM answers WHERE client = ? AND session = ?", place)
        if said is not None:
            row = (*place, said.kind, said.request, said.answer)
            self._db.execute("INSERT INTO answers VALUES (?, ?, ?, ?, ?)", row)
