"""What the agent writes about itself: one JSON object a line, without anybody's data.

Guarantees: a line holds the event, the time, and the fields below, whose values are words,
numbers, and identifiers that the coordinator chose; no record, no parameter, no key, no
client's number.
"""

from __future__ import annotations

import json
import logging
import sys
import time

_log = logging.getLogger("tacit.edge")
FIELDS = frozenset(
    {
        "accepted",
        "after_s",
        "answer_bytes",
        "cause",
        "eligible",
        "kind",
        "reason",
        "round",
        "seconds",
        "task",
        "why",
    }
)
Value = str | int | float | bool


def say(event: str, level: int = logging.INFO, **fields: Value) -> None:
    """Writes a line.

    Args:
        event: a word or two.
        level: of `logging`.
        fields: of `FIELDS`.
    """
    assert fields.keys() <= FIELDS
    _log.log(level, event, extra={"fields": fields})


class Lines(logging.Formatter):
    """Formats a line."""

    def format(self, record: logging.LogRecord) -> str:
        """One JSON object."""
        made = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            made["error"] = self.formatException(record.exc_info)
        return json.dumps(made, ensure_ascii=True)


def setup(level: int = logging.INFO) -> None:
    """Writes lines to stderr from now on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines())
    _log.handlers, _log.propagate = [handler], False
    _log.setLevel(level)
