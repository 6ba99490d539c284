"""How a client refuses: in words that its coordinator may read, under its own signature.

Guarantees: a refusal has a reason of `tacit.edge.v1` and at most 200 bytes of text. A round's
errors say what they say, which is settings, never data; of a failure of any other kind nothing
is told but that there was one, since its text may quote what it failed on: that is for the
client's own log. Nobody else can refuse for a client whose key they don't have.

A request without a nonce (a simulation's), or to a node that has no key, isn't answered so: its
error is Flower's to carry, as it is.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

from flwr.app import Context, Message

from tacit.client.node import number, party_of
from tacit.client.party import Party
from tacit.configs import wire
from tacit.privacy.errors import DataError, MessageError, RoundError, TacitError
from tacit.privacy.secagg.keys import Identity
from tacit.protocol import edge_pb2 as pb

log = logging.getLogger("tacit.client")


class Declined(RoundError):  # noqa: N818
    """A round's error whose reason is known.

    Args:
        reason: a name of ``Refusal.Reason`` in `tacit.edge.v1`.
        message, hint: as of any `TacitError`.
    """

    def __init__(self, reason: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.reason = reason


@contextlib.contextmanager
def because(reason: str) -> Iterator[None]:
    """Within the block a round's error is for this reason."""
    try:
        yield
    except RoundError as error:
        if hasattr(error, "reason"):
            raise
        raise Declined(reason, error.message, error.hint) from error


def answered(
    message: Message, context: Context, party: Party | None, work: Callable[[], Message]
) -> Message:
    """What work answers to a message, or the client's signed refusal.

    Args:
        message: the request.
        context: of the node.
        party: see `tacit.client.app.make_app`.
        work: makes the answer.

    Raises:
        Exception: what work raised, if the refusal can't be signed.
    """
    try:
        return work()
    except Exception as error:
        signer = _signer(message, context, party)
        if signer is None:
            raise
        client, identity = signer
        said = refusal(error)
        if isinstance(error, RoundError | MessageError):
            log.warning("%s was refused: %s", message.metadata.message_type, error)
        else:
            log.exception("%s failed", message.metadata.message_type)
        content = wire.refuse(said, message, client, identity)
        if content is None:
            raise
        return Message(content, reply_to=message)


def refusal(error: Exception) -> wire.Refusal:
    """What a coordinator is told of an error."""
    if isinstance(error, MessageError):
        return _refusal("MALFORMED", error.message)
    if isinstance(error, RoundError):
        return _refusal(getattr(error, "reason", "PROTOCOL"), error.message)
    if isinstance(error, DataError):
        return _refusal("UNSUPPORTED", "the client's records can't be read, or don't fit the task")
    return _refusal("FAILED", "the client failed; its own log says why")


def _refusal(reason: str, text: str) -> wire.Refusal:
    cut = text.encode()[: wire.MAX_TEXT].decode(errors="ignore")
    return wire.Refusal(int(pb.Refusal.Reason.Value(reason)), cut)


def _signer(message: Message, context: Context, given: Party | None) -> tuple[int, Identity] | None:
    """Who signs a refusal, if it can be signed."""
    try:
        if wire.nonce(message) is None:
            return None
        client, party = number(context), party_of(context, given)
        return None if party is None else (client, party.identity(client))
    except TacitError:
        # What is wrong with the node, or with the nonce, is the error that is raised already.
        return None
