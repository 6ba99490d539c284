"""A ServerApp that is tacit's own and tells in a file what it does, for tests to watch.

Named in the app of a test's deployment instead of `tacit.server.app`; the file is ``TOLD``. A
line is each step of the coordinator, before it is taken, or ``said KIND CLIENT SESSION DIGEST``
for each reply in a session that has its client's signature, as often as it comes.
"""

from __future__ import annotations

import hashlib
import logging
import os

from flwr.app import Message

from tacit.configs import wire
from tacit.privacy.secagg import messages as m
from tacit.server.app import app as theirs

# Flower looks for an assignment.
app = theirs

ANSWERS: dict[str, type[m.Answer]] = {
    "query.advertise": m.Advertisement,
    "query.share": m.Shares,
    "train": m.Masked,
    "evaluate": m.Masked,
    "query.confirm": m.Confirmation,
    "query.reveal": m.Revealed,
}


def tell(line: str) -> None:
    """Appends a line."""
    with open(os.environ["TOLD"], "a") as file:
        file.write(line + "\n")


class Teller(logging.Handler):
    """Tells every step."""

    def emit(self, record: logging.LogRecord) -> None:
        tell(record.getMessage())


checked = wire.check


def check(message: Message, asked: tuple[bytes, str], client: int, public: bytes) -> None:
    """Tells what was signed, once it is known to be."""
    checked(message, asked, client, public)
    body = wire.body(message)
    session = ANSWERS[asked[1]].decode(body).session
    tell(f"said {asked[1]} {client} {session} {hashlib.sha256(body).hexdigest()}")


wire.check = check
logging.getLogger("tacit.round").setLevel(logging.DEBUG)
logging.getLogger("tacit.round").addHandler(Teller())
logging.getLogger("tacit.legs").addHandler(Teller())
