"""Processes for test_crash to kill: a tiny federation that dies at a named step, work for ever.

Imported once into a fork server, so that each of the many processes starts at once.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from multiprocessing.connection import Connection

# What a run would import late, once for all processes.
import alembic.command  # noqa: F401
import psycopg  # noqa: F401
import torch._dynamo  # noqa: F401
from tiny import TINY, TINY_SECURE, make_tiny

from tacit import simulate
from tacit.privacy.errors import StorageError
from tacit.server.home import Home
from tacit.server.store import Store

MORE = ["rounds=4", "evaluation=federated", "optimizer=fedadam"]
SETTINGS = {"central": [*TINY, *MORE], "secure": [*TINY_SECURE, *MORE]}


class Killer(logging.Handler):
    """Kills the process, as the kernel would, when a step's line is logged.

    Args:
        line: what the coordinator or an aggregation logs before it takes the step.
        count: at which time it is logged, from 1.
    """

    def __init__(self, line: str, count: int) -> None:
        super().__init__()
        self.line, self.left = line, count

    def emit(self, record: logging.LogRecord) -> None:
        self.left -= record.getMessage() == self.line
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def federation(
    home: str, line: str, resume: str | None = None, kind: str = "central", count: int = 1
) -> None:
    """Starts or resumes the federation, to be killed when ``line`` comes for that time."""
    logger = logging.getLogger("tacit.round")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(Killer(line, count))
    if resume is not None:
        simulate(task=make_tiny(), home=home, resume=resume)
    else:
        simulate(SETTINGS[kind], task=make_tiny(), home=home)


class Teller(logging.Handler):
    """Says every step before it is taken."""

    def __init__(self, said: Connection) -> None:
        super().__init__()
        self.said = said

    def emit(self, record: logging.LogRecord) -> None:
        self.said.send(record.getMessage())


def toil(home: str, steps: bool, said: Connection) -> None:
    """Runs one federation after another, going on with what a kill left, for ever.

    Says that it begins, its steps if they are asked for, and what the database failed with.
    """
    said.send("ready")
    if steps:
        logger = logging.getLogger("tacit.round")
        logger.setLevel(logging.DEBUG)
        logger.addHandler(Teller(said))
    try:
        while True:
            _next(home)
    except StorageError as error:
        said.send((error.message, error.hint))


def _next(home: str) -> None:
    store = Store(Home(home))
    rows = store.runs()
    store.close()
    left = [row["id"] for row in rows if row["status"] != "finished"]
    if left:
        simulate(task=make_tiny(), home=home, resume=left[-1])
    else:
        kind = "secure" if len(rows) % 3 == 1 else "central"
        simulate(SETTINGS[kind], task=make_tiny(), home=home)


def append(home: str, run: str, said: Connection) -> None:
    """Appends for ever, and says what was acknowledged: (number, index).

    A number that the database failed on isn't tried again; how it failed is said instead.
    """
    store, number = Store(Home(home)), 0
    while True:
        body = {"kind": "CHARGE", "run": run, "round": number, "attempt": 0, "purpose": "train"}
        try:
            said.send((number, store.append(body)))
        except StorageError as error:
            said.send((error.message, error.hint))
            time.sleep(0.02)
        number += 1
