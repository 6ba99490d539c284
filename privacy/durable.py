"""A client's own SQLite file: owner-only, and on disk before a write returns.

Guarantees: a `_writing` block that ends has committed durably (synchronous=EXTRA), one writer
at a time over any number of processes; one that raises has changed nothing. What goes wrong
with the file is a `StorageError` that says what wasn't done.
It doesn't encrypt the file, nor notice that an older copy was put back.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from tacit.privacy.errors import StorageError


class DurableFile:
    """Base of what a client keeps.

    Args:
        path: of the file, made with owner-only rights; None keeps all in memory.
        schema: statements that make its tables where they aren't there.
        threads: whether several threads use it, one at a time.
        erases: whether what is deleted is overwritten in the file.

    Raises:
        StorageError: it can't be opened.
    """

    # For errors: what it is, what to do, and what counts as the file's failure.
    _name: ClassVar[str] = "the client's file"
    _hint: ClassVar[str] = "nothing was sent; is there space, and is the folder this user's?"
    _failures: ClassVar[tuple[type[Exception], ...]] = (OSError, sqlite3.Error)

    def __init__(
        self, path: Path | None, schema: str, *, threads: bool = False, erases: bool = False
    ) -> None:
        self._path = path
        with self._explained():
            if path is not None:
                file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
                try:
                    os.fchmod(file, 0o600)
                finally:
                    os.close(file)
            self._db = sqlite3.connect(
                path or ":memory:", timeout=60, isolation_level=None, check_same_thread=not threads
            )
            if erases:
                self._db.execute("PRAGMA secure_delete=ON")
            if path is not None:
                self._db.execute("PRAGMA journal_mode=DELETE")
                # FULL wouldn't sync the folder: after a power cut the journal, deleted at the
                # commit, could be back and undo it.
                self._db.execute("PRAGMA synchronous=EXTRA")
            self._db.executescript(schema)

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._explained():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            finally:
                # Also where the commit failed: this connection would read what isn't on disk.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except self._failures as error:
            where = self._path or "in memory"
            raise StorageError(f"{self._name} {where} failed: {error}", self._hint) from error
