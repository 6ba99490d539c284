"""Logs for machines or people, without personal data.

A line in JSON has ``time`` (UTC), ``level``, ``logger``, ``event`` (the text) and, where there
are any, ``fields``: what was given as ``extra``.

Guarantees of fields: only those of `FIELDS` are written, only plain values, and a client's
number in messages for debugging alone; what is left out is named in ``withheld``. Of texts,
other libraries' among them, addresses, clients' numbers and what looks like a secret are cut
out: a net, since nobody can tell what somebody writes into a text.

How long something took and how many took part are in there: logs are the operator's, as the
database is.
"""

from __future__ import annotations

import copy
import ipaddress
import json
import logging
import math
import re
import sys
from datetime import UTC, datetime
from typing import Any

# What may be said of any message, and of those for debugging.
FIELDS = frozenset(
    {
        "accepted",
        "adversary",
        "answered",
        "asked",
        "attempt",
        "bytes",
        "connected",
        "count",
        "delta",
        "direction",
        "epsilon",
        "kind",
        "leaf",
        "limit",
        "outcome",
        "plan",
        "population",
        "port",
        "purpose",
        "reason",
        "resent",
        "retry_seconds",
        "round",
        "run",
        "seconds",
        "size",
        "status",
        "unit",
        "version",
    }
)
DEBUG_FIELDS = FIELDS | {"client"}

_GIVEN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_LONGEST = 2000

_IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?!\w|\.\d)(?::\d{1,5})?")
_IPV6 = re.compile(r"(?<![\w:])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?:%\w+)?(?![\w:])")
_NUMBER = re.compile(r"\b(client|device|node)([ =])#?\d+", re.IGNORECASE)
_LIST = re.compile(r"\b(clients?|devices?|nodes?|members|cohort)([ =:]+)[\[({][\d, ]*[\])}]")
# Base64 of 24 bytes and more. It mixes all three; digests in hexadecimal digits and names don't.
_SECRET = re.compile(r"(?<![\w+/-])[A-Za-z0-9+/_-]{32,}={0,2}(?![\w+/-])")
_MIXED = (re.compile("[a-z]"), re.compile("[A-Z]"), re.compile("[0-9]"))
_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*KEY-----|\Z)", re.S)


def setup_logs(json: bool = False, level: int = logging.INFO) -> None:
    """Sends all logs of the process to stderr; what was set up before is undone.

    Call it after flwr was imported, which sets up a handler of its own.

    Args:
        json: one JSON object a line; else text for people.
        level: of tacit's own; other libraries' are shown from warnings on.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if json else Plain())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("tacit", "flwr"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger("tacit").setLevel(level)
    logging.getLogger("flwr").setLevel(logging.WARNING)


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "time": at.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": event(record),
        }
        fields, withheld = split(record)
        if fields:
            line["fields"] = fields
        if withheld:
            line["withheld"] = withheld
        if record.exc_info and record.exc_info[0] is not None:
            trace = self.formatException(record.exc_info)
            line["error"] = record.exc_info[0].__name__
            line["trace"] = scrubbed(trace, numbers=record.levelno <= logging.DEBUG)
        return json.dumps(line, ensure_ascii=False, allow_nan=False)


class Plain(logging.Formatter):
    """A line for people, with the fields behind it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        fields, _ = split(record)
        shown = copy.copy(record)
        shown.msg = " ".join([event(record), *(f"{k}={v}" for k, v in fields.items())])
        shown.args = None
        # Else the text that another handler cached is taken.
        shown.exc_text = None
        return super().format(shown)

    def formatException(self, ei: Any) -> str:  # noqa: N802 (logging's name)
        """A traceback, without what isn't for logs."""
        return scrubbed(super().formatException(ei))


def event(record: logging.LogRecord) -> str:
    """The text of a message, scrubbed and on one line."""
    text = record.getMessage()
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}..."
    return " ".join(scrubbed(text, numbers=record.levelno <= logging.DEBUG).split("\n"))


def split(record: logging.LogRecord) -> tuple[dict[str, Any], list[str]]:
    """What of a message's extra may be written, and the names of what may not."""
    allowed = DEBUG_FIELDS if record.levelno <= logging.DEBUG else FIELDS
    fields: dict[str, Any] = {}
    withheld = []
    for name, value in vars(record).items():
        if name in _GIVEN:
            continue
        if name not in allowed or not isinstance(value, str | int | float | None):
            withheld.append(name)
        elif isinstance(value, str):
            fields[name] = scrubbed(value[:_LONGEST])
        elif isinstance(value, float) and not math.isfinite(value):
            fields[name] = str(value)
        else:
            fields[name] = value
    return fields, sorted(withheld)


def scrubbed(text: str, numbers: bool = False) -> str:
    """A text without addresses, secrets, and clients' numbers unless ``numbers``.

    >>> scrubbed("client 7 at 10.1.2.3:443 (fe80::1) of 20, round 3, on 127.0.0.1:9464")
    'client [withheld] at [address] ([address]) of 20, round 3, on 127.0.0.1:9464'
    """
    text = _KEY.sub("[secret]", text)
    text = _IPV4.sub(_address, text)
    text = _IPV6.sub(_address, text)
    text = _SECRET.sub(_mixed, text)
    if not numbers:
        text = _NUMBER.sub(r"\1\2[withheld]", text)
        text = _LIST.sub(r"\1\2[withheld]", text)
    return text


def _mixed(found: re.Match[str]) -> str:
    return "[secret]" if all(kind.search(found[0]) for kind in _MIXED) else found[0]


def _address(found: re.Match[str]) -> str:
    """Another's address is cut out, this machine's own isn't anybody's."""
    text = found[0]
    host = text.partition(":")[0] if "." in text else text.partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return text
    return text if address.is_loopback or address.is_unspecified else "[address]"
