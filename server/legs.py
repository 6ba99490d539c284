"""One leg of a round: the same kind of request to some clients, their replies as they come.

A leg knows nothing of what it carries, so a protocol of several legs is several calls.
Works on any Flower `Grid`. Replies are matched by the id of the message they answer, never
by the sender's word.

Guarantees, with a directory: what is yielded as a client's reply was signed by that client for
this very request, whoever brought it; anything else is counted, logged, and waited past. One
reply is yielded for each client, and none after the deadline, which is the leg's own and not
Flower's. With ``resend`` a request is sent again, its nonce the same, to who hasn't answered:
messages are lost with the node that pulled them. Clients give one answer however often they are
asked (`tacit.client.member`), so the first one is as good as any. A refusal ends the wait for its
client only if that client signed it; any other error is one of the way there, and while there is
time the request is sent again. An authenticated node that gets hold of another's request can
thus delay that client, and no more.
Where nothing is sent again (behind the gateway, in a process) an error ends the wait, since
nothing else will come.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from flwr.app import Message as FlowerMessage
from flwr.app import RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from tacit.configs import wire
from tacit.privacy.errors import MessageError
from tacit.privacy.messages import Message
from tacit.privacy.secagg.directory import Directory
from tacit.protocol.statements import NONCE_BYTES
from tacit.server import telemetry
from tacit.server.census import Census
from tacit.server.census import census as census
from tacit.server.grids import pushed

log = logging.getLogger("tacit.legs")

# What Flower says when a message or its reply was lost on the way, or its process ended: the
# client hasn't refused. The first come up to a minute late, and not from the client's node.
_LOST = frozenset(
    {
        ErrorCode.MESSAGE_UNAVAILABLE,
        ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
        ErrorCode.NODE_UNAVAILABLE,
        ErrorCode.CLIENT_APP_CRASHED,
    }
)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back from one client.

    Attributes:
        client: the client's number.
        message: the reply, or None.
        problem: why there is none: "error", which may be the client's own refusal, "refused"
            (it wasn't the client's), or "no reply" after the deadline.
        detail: of an error, for the operator's eyes.
    """

    client: int
    message: FlowerMessage | None
    problem: str = ""
    detail: str = ""


class Legs:
    """Talks to clients by their numbers.

    Args:
        grid: Flower's.
        nodes: each client's node id; clients that have none are looked for where there are
            both a directory and ``resend``.
        deadline: seconds after which a leg is over; None waits for all.
        poll: seconds between two looks when nothing has come.
        directory: the clients' keys; where it is given, replies have to be signed.
        resend: seconds after which an unanswered request is sent again, and then after twice
            as many each time: a client that is at work will have to look at every copy. None
            never does.
    """

    def __init__(
        self,
        grid: Grid,
        nodes: Mapping[int, int],
        deadline: float | None = None,
        poll: float = 0.1,
        directory: Directory | None = None,
        resend: float | None = None,
    ) -> None:
        self._grid, self._nodes = grid, nodes
        self._deadline, self._poll = deadline, poll
        self._directory, self._resend = directory, resend
        looking = directory is not None and resend is not None
        self._census = Census(grid, directory) if looking else None

    def exchange(
        self,
        kind: str,
        requests: Mapping[int, Message],
    ) -> Iterator[Reply]:
        """Sends each client its request and yields one `Reply` for each client.

        Args:
            kind: Flower's type of the messages: train, evaluate, query, or one of these with
                a name, as ``query.share``.
            requests: what each client is sent.
        """
        began, answered = time.monotonic(), 0
        leg = _Leg(kind, requests, self._directory is not None)
        end = None if self._deadline is None else began + self._deadline
        for reply in self._run(leg, end):
            answered += reply.message is not None
            outcome = "answered" if reply.message is not None else reply.problem.replace(" ", "_")
            telemetry.reply(kind, outcome)
            yield reply
        telemetry.leg(kind, time.monotonic() - began, len(requests), answered)

    def _run(self, leg: _Leg, end: float | None) -> Iterator[Reply]:
        self._push(leg, list(leg.waiting))
        yield from self._lost(leg)
        while leg.waiting:
            came = False
            for message in self._grid.pull_messages([*leg.ids, *self._questions()]):
                if self._census is not None and self._census.take([message]):
                    continue
                client = leg.ids.get(message.metadata.reply_to_message_id)
                if client is None:
                    continue
                came = True
                reply = self._judged(leg, client, message)
                if reply is not None:
                    leg.done(client)
                    yield reply
            yield from self._lost(leg)
            if end is not None and time.monotonic() > end:
                break
            self._send_again(leg)
            if not came and leg.waiting:
                time.sleep(self._poll)
        for client, asked in list(leg.waiting.items()):
            problem = "refused" if asked.forged else "no reply"
            yield Reply(client, None, problem, asked.forged or asked.detail)

    # The way there

    def _push(self, leg: _Leg, clients: list[int]) -> None:
        """Sends their requests to those of the clients whose node is known."""
        now, messages, to = time.monotonic(), [], []
        for client in clients:
            leg.waiting[client].sent(now, self._resend or 0.0)
            node = self._node(client)
            if node is None:
                leg.waiting[client].lost("it isn't connected")
                continue
            to.append(client)
            messages.append(
                FlowerMessage(
                    leg.content(client),
                    dst_node_id=node,
                    message_type=leg.kind,
                    group_id=leg.group,
                    # Flower's clocks are those of two machines; ours is the one that ends a leg.
                    ttl=self._deadline,
                )
            )
        for client, identifier in zip(to, pushed(self._grid, messages), strict=True):
            if identifier:
                leg.ids[identifier] = client
                leg.waiting[client].ids.add(identifier)
            else:
                leg.waiting[client].lost("not accepted for sending")

    def _send_again(self, leg: _Leg) -> None:
        if self._resend is None:
            return
        now = time.monotonic()
        due = [client for client, asked in leg.waiting.items() if asked.due <= now]
        if not due:
            return
        if self._census is not None:
            self._census.look({*self._nodes.values(), *self._census.nodes.values()})
        log.info("%s: %d requests are sent again", leg.kind, len(due))
        telemetry.resent(leg.kind, len(due))
        self._push(leg, due)

    def _node(self, client: int) -> int | None:
        """Where a client is; a node that it was found at later counts more."""
        found = self._census.nodes.get(client) if self._census is not None else None
        return self._nodes.get(client) if found is None else found

    def _questions(self) -> list[str]:
        return list(self._census.waiting) if self._census is not None else []

    # The way back

    def _judged(self, leg: _Leg, client: int, message: FlowerMessage) -> Reply | None:
        """What a message means for its client; None if it is waited for further."""
        asked, identifier = leg.waiting[client], message.metadata.reply_to_message_id
        if message.has_error():
            reason = message.error.reason or ""
            # With a directory a client signs its refusals, so this is none.
            on_the_way = self._directory is not None or message.error.code in _LOST
            if not on_the_way or (self._resend is None and not asked.forged):
                return Reply(client, None, "error", reason)
            leg.drop(client, identifier)
            asked.lost(reason)
            return None
        if self._directory is None or asked.nonce is None:
            return Reply(client, message)
        try:
            return self._verified((asked.nonce, leg.kind), client, message, self._directory)
        except MessageError as error:
            asked.forged = error.message
            telemetry.reply(leg.kind, "forged")
            log.warning("%s: a reply was refused: %s", leg.kind, error.message)
            if self._deadline is None:
                # Nothing would end the wait for another reply to the same message.
                leg.drop(client, identifier)
            return None

    @staticmethod
    def _verified(
        asked: tuple[bytes, str], client: int, message: FlowerMessage, directory: Directory
    ) -> Reply:
        """What a client said under its signature: an answer, or that it refuses."""
        public = directory.public(client)
        if public is None:
            raise MessageError("a client that isn't in the directory")
        refusal = wire.refusal(message, asked, client, public)
        if refusal is not None:
            log.warning("%s: a client refused: %s", asked[1], refusal)
            telemetry.refusal(refusal.name)
            return Reply(client, None, "error", str(refusal))
        wire.check(message, asked, client, public)
        return Reply(client, message)

    def _lost(self, leg: _Leg) -> Iterator[Reply]:
        """Gives up those for whom nothing is under way and nothing will be sent again."""
        if self._resend is not None:
            return
        for client, asked in list(leg.waiting.items()):
            if not asked.ids:
                leg.done(client)
                problem = "refused" if asked.forged else "error"
                yield Reply(client, None, problem, asked.forged or asked.detail)


@dataclass(slots=True)
class _Asked:
    """A client that hasn't answered.

    Attributes:
        nonce: of its request, however often it is sent.
        due: when it is sent again.
        soon: when that is at the earliest.
        tries: how often it was sent.
        ids: of the messages that may be answered yet.
        forged: why a reply was refused.
        detail: of the last message that was lost.
    """

    nonce: bytes | None
    due: float = 0.0
    soon: float = 0.0
    tries: int = 0
    ids: set[str] = field(default_factory=set)
    forged: str = ""
    detail: str = ""

    def sent(self, now: float, resend: float) -> None:
        """Notes that the request is sent."""
        self.soon, self.due = now + resend, now + resend * 2**self.tries
        self.tries += 1

    def lost(self, why: str) -> None:
        """Notes that a message is known to be lost, so that nobody works on it."""
        self.due, self.tries, self.detail = self.soon, 0, why


class _Leg:
    """The clients of one leg that are waited for, and the messages to them.

    Args:
        kind: of the messages.
        requests: what each client is sent.
        signed: whether replies have to be.
    """

    def __init__(self, kind: str, requests: Mapping[int, Message], signed: bool) -> None:
        self.kind, self._requests = kind, requests
        self.group = next((str(r.round) for r in requests.values()), "")
        # Requests are mostly one and the same.
        distinct = {id(r): r for r in requests.values()}
        self._contents = {key: wire.pack(request) for key, request in distinct.items()}
        self.waiting = {k: _Asked(os.urandom(NONCE_BYTES) if signed else None) for k in requests}
        self.ids: dict[str, int] = {}

    def content(self, client: int) -> RecordDict:
        """What a client is sent."""
        nonce, common = self.waiting[client].nonce, self._contents[id(self._requests[client])]
        return common if nonce is None else wire.with_nonce(common, nonce)

    def done(self, client: int) -> None:
        """Stops waiting for a client; what else comes from it is dropped."""
        for identifier in self.waiting.pop(client).ids:
            del self.ids[identifier]

    def drop(self, client: int, identifier: str) -> None:
        """Stops waiting for one of the messages to a client."""
        self.waiting[client].ids.discard(identifier)
        self.ids.pop(identifier, None)
