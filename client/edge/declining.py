"""Why a device doesn't answer a leg: a reason, and a text without what the device holds.

Guarantees: an error that isn't one of a round's reaches the coordinator as its kind alone, and
the device's own log as its type's name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

from tacit.client.ledger import Refused
from tacit.privacy.errors import DataError, MessageError, ModelError, RoundError

Reason = Literal[
    "ROUNDS",
    "EPSILON",
    "SEPARATION",
    "FLOOR",
    "PLAN",
    "UNSIGNED",
    "UNSUPPORTED",
    "PROTOCOL",
    "MALFORMED",
    "INELIGIBLE",
    "FAILED",
]
_LONGEST = 200


class Declined(RoundError):  # noqa: N818
    """A leg that this device doesn't answer.

    Args:
        reason: a name of ``Refusal.Reason`` in `tacit.edge.v1`.
        text: what the coordinator is told, cut to 200 bytes.
        cause: what the device's owner can read of it.
    """

    def __init__(self, reason: Reason, text: str, cause: str = "") -> None:
        cut = text.encode()[:_LONGEST].decode(errors="ignore")
        super().__init__(cut)
        self.reason: Reason = reason
        self.cause = cause or text


@contextlib.contextmanager
def declining(reason: Reason) -> Iterator[None]:
    """What a round's errors are to the coordinator; bytes that can't be read are malformed.

    Args:
        reason: of what isn't.
    """
    try:
        yield
    except Declined:
        raise
    except (MessageError, RoundError) as error:
        if isinstance(error, MessageError) and reason == "PROTOCOL":
            reason = "MALFORMED"
        # Of a protocol's errors some name other clients, whom the log doesn't.
        cause = error.message if reason in ("PLAN", "FLOOR") else type(error).__name__
        raise Declined(reason, error.message, cause) from error


@contextlib.contextmanager
def capped() -> Iterator[None]:
    """A cap of the owner's was reached."""
    try:
        yield
    except Refused as error:
        raise Declined(error.reason, error.message) from error
    except RoundError as error:
        raise Declined("PROTOCOL", error.message, type(error).__name__) from error


@contextlib.contextmanager
def failing() -> Iterator[None]:
    """What goes wrong on the device is told without what it holds."""
    try:
        yield
    except Declined:
        raise
    except DataError as error:
        text = "the device's records can't be read, or don't fit the task"
        raise Declined("UNSUPPORTED", text, type(error).__name__) from error
    except ModelError as error:
        text = "the graph can't be run here"
        raise Declined("UNSUPPORTED", text, type(error).__name__) from error
    except Exception as error:
        # A device goes on, whatever broke; what it was is for its own log.
        raise Declined("FAILED", "the device failed", type(error).__name__) from error
