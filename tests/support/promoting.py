"""Processes that move aliases at once, or are killed at one statement of a move."""

from __future__ import annotations

import os
import signal
from multiprocessing.connection import Connection
from typing import Any

import alembic.command  # noqa: F401
import psycopg  # noqa: F401
import sqlalchemy as sa

from tacit.privacy.errors import ConflictError
from tacit.server.home import Home
from tacit.server.lifecycle import Lifecycle
from tacit.server.store import Store


def race(root: str, url: str | None, number: int, said: Connection) -> None:
    """For each leaf that it is told, promotes a version from there, and says how that went."""
    store = Store(Home(root, url))
    life = Lifecycle(store)
    said.send("ready")
    while (told := said.recv()) != "end":
        try:
            move = life.move("tiny", "champion", number, expected=told, actor="a", reason="r")
            said.send(("won", move.leaf))
        except ConflictError as error:
            said.send(("lost", error.current.leaf))  # type: ignore[attr-defined]
    store.close()


def doomed(root: str, url: str | None, number: int, step: int) -> None:
    """Promotes a version, to be killed before the statement or commit of this place, from 0.

    Ends of itself, with status 0, where there are fewer.
    """
    store = Store(Home(root, url))
    life = Lifecycle(store)
    before = life.current("tiny", "champion")
    left = step

    def counted(*_: Any) -> None:
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    sa.event.listen(store.database.engine, "before_cursor_execute", counted)
    sa.event.listen(store.database.engine, "commit", counted)
    expected = before.leaf if before else None
    life.move("tiny", "champion", number, expected=expected, actor="a", reason="r")
    counted()  # After the commit: the move is made, and nobody was told.
    os._exit(0)
