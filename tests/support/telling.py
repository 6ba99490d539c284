"""A ServerApp that is tacit's own and tells each step of the coordinator in a file, before it.

Named in the app of a test's deployment instead of `tacit.server.app`; the file is ``TOLD``.
"""

from __future__ import annotations

import logging
import os

from tacit.server.app import app as theirs

# Flower looks for an assignment.
app = theirs


class Teller(logging.Handler):
    """Appends every line to a file."""

    def emit(self, record: logging.LogRecord) -> None:
        with open(os.environ["TOLD"], "a") as file:
            file.write(record.getMessage() + "\n")


logging.getLogger("tacit.round").setLevel(logging.DEBUG)
logging.getLogger("tacit.round").addHandler(Teller())
