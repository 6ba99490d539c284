"""The tasks that are out: what each device is to answer, and what was answered.

Between the coordinator's thread, which lays tasks down and picks replies up, and the event
loop, whose streams deliver the one and bring the other. Every method may be called from any
thread.

Guarantees: a task is answered once, by the device it is for, before it expires; a body is kept
once however many tasks refer to it, and no longer than one does; a device may fetch what an
open task of its own refers to and nothing else. What nobody picks up is dropped.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.common.constant import ErrorCode

from tacit.configs import wire
from tacit.privacy.errors import MessageError
from tacit.server import outside
from tacit.server.gateway.settings import Limits

log = logging.getLogger("tacit.gateway")
_RECORD, _BODY, _SIGNATURE = "tacit", "body", "signature"


@dataclass(frozen=True, slots=True)
class Document:
    """What devices need to know of a run before its first task.

    Attributes:
        data: the run document, signed.
        blobs: graphs that it refers to.
    """

    data: bytes
    blobs: tuple[bytes, ...] = ()


@dataclass(slots=True, eq=False)
class Assignment:
    """One task of one device.

    Attributes:
        id: unique.
        client: whose.
        kind: the message's type.
        nonce: of the request.
        body: of the request, if it is short.
        digest: SHA-256 of a body that isn't.
        size: of the body.
        document: SHA-256 of the run document, if there is one, and its size.
        expires: seconds of the desk's clock.
        refers: what the device may download for it.
    """

    id: str
    client: int
    kind: str
    nonce: bytes
    body: bytes | None
    digest: bytes | None
    size: int
    document: tuple[bytes, int] | None
    expires: float
    refers: tuple[bytes, ...]
    message: Message | None = field(repr=False)


@dataclass(slots=True)
class _Reply:
    message: Message
    until: float
    held: int


class Desk:
    """Tasks and replies.

    Args:
        limits: of the gateway.
        clock: seconds.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self._lock = threading.Lock()
        self._open: dict[int, dict[str, Assignment]] = {}
        # Who answered what, until it would have expired: a device may not have heard.
        self._done: dict[str, tuple[int, float]] = {}
        self._replies: dict[str, _Reply] = {}
        self._blobs: dict[bytes, bytes] = {}
        self._references: Counter[bytes] = Counter()
        self._document: tuple[Document, tuple[bytes, ...]] | None = None

    # The coordinator's side

    def attach(self, document: Document | None) -> None:
        """The run document that tasks refer to from now on."""
        if document is None:
            self._document = None
            return
        parts = (document.data, *document.blobs)
        self._document = document, tuple(hashlib.sha256(p).digest() for p in parts)

    def lay(self, messages: Sequence[tuple[int, Message]]) -> list[str]:
        """Lays down tasks.

        Args:
            messages: clients, and what to ask each.

        Returns:
            Their ids; empty for those of a client with too many open, or that ask nothing.
        """
        # A cohort's requests share their bytes, which are hashed once.
        digests: dict[int, bytes] = {}
        made: list[str] = []
        for client, message in messages:
            asked = request(message)
            if asked is None:
                made.append("")
                continue
            body, nonce = asked
            digest = None
            if len(body) > self._limits.inline:
                if id(body) not in digests:
                    digests[id(body)] = hashlib.sha256(body).digest()
                digest = digests[id(body)]
            with self._lock:
                made.append(self._lay(client, message, body, nonce, digest))
        return made

    def _lay(
        self, client: int, message: Message, body: bytes, nonce: bytes, digest: bytes | None
    ) -> str:
        mine = self._open.get(client, {})
        for known in mine.values():
            if known.nonce == nonce and known.kind == message.metadata.message_type:
                # Sent again. It waits for its device here, or is with it.
                known.expires = max(known.expires, self._clock() + message.metadata.ttl)
                outside.name(message, known.id)
                return known.id
        if len(mine) >= self._limits.tasks:
            return ""
        blobs = [] if digest is None else [(digest, body)]
        document = None
        if self._document is not None:
            found, names = self._document
            document = names[0], len(found.data)
            blobs += zip(names, (found.data, *found.blobs), strict=True)
        for name, data in blobs:
            self._blobs.setdefault(name, data)
            self._references[name] += 1
        identifier = secrets.token_hex(8)
        outside.name(message, identifier)
        self._open.setdefault(client, mine)[identifier] = Assignment(
            id=identifier,
            client=client,
            kind=message.metadata.message_type,
            nonce=nonce,
            body=body if digest is None else None,
            digest=digest,
            size=len(body),
            document=document,
            expires=self._clock() + message.metadata.ttl,
            refers=tuple(name for name, _ in blobs),
            message=message,
        )
        return identifier

    def ready(self, identifiers: Sequence[str]) -> list[str]:
        """Those of some tasks that have a reply."""
        with self._lock:
            return [k for k in identifiers if k in self._replies]

    def pick(self, identifiers: Sequence[str]) -> tuple[list[Message], int]:
        """The replies that have come to some tasks, and the bytes that they held."""
        found, held = [], 0
        with self._lock:
            for identifier in identifiers:
                reply = self._replies.pop(identifier, None)
                if reply is not None:
                    found.append(reply.message)
                    held += reply.held
        return found, held

    def put(self, identifier: str, message: Message) -> None:
        """A reply that the gateway gives itself."""
        with self._lock:
            self._reply(identifier, message, 0)

    # The devices' side

    def tasks(self, client: int) -> list[Assignment]:
        """A device's open tasks, oldest first."""
        with self._lock:
            now = self._clock()
            return [a for a in self._open.get(client, {}).values() if a.expires > now]

    def task(self, client: int, identifier: str) -> Assignment | None:
        """One of a device's open tasks."""
        with self._lock:
            found = self._open.get(client, {}).get(identifier)
            return found if found is not None and found.expires > self._clock() else None

    def done(self, client: int, identifier: str) -> bool:
        """Whether this device has answered this task before."""
        with self._lock:
            found = self._done.get(identifier)
            return found is not None and found[0] == client

    def left(self, task: Assignment) -> int:
        """Milliseconds until a task expires."""
        return max(0, int((task.expires - self._clock()) * 1000))

    def blob(self, client: int, digest: bytes) -> bytes | None:
        """What an open task of this device refers to."""
        with self._lock:
            now = self._clock()
            mine = self._open.get(client, {}).values()
            if any(digest in a.refers and a.expires > now for a in mine):
                return self._blobs[digest]
        return None

    def answer(self, task: Assignment, body: bytes, signature: bytes) -> bool:
        """Takes a device's answer; False if it comes too late or a second time."""
        content = RecordDict({_RECORD: ConfigRecord({_BODY: body, _SIGNATURE: signature})})
        return self._close(task, content, len(body))

    def refuse(self, task: Assignment, said: wire.Refusal, signature: bytes) -> bool:
        """Takes a device's refusal; see `answer`."""
        return self._close(task, wire.refused(said, signature), 0)

    def _close(self, task: Assignment, content: RecordDict | Error, held: int) -> bool:
        with self._lock:
            known = self._open.get(task.client, {}).get(task.id)
            if known is None or known.expires <= self._clock():
                return False
            message = task.message
            assert message is not None
            self._remove(task)
            self._done[task.id] = (task.client, task.expires)
            self._reply(task.id, _replying(content, message), held)
            return True

    def _reply(self, identifier: str, message: Message, held: int) -> None:
        self._replies[identifier] = _Reply(message, self._clock() + self._limits.hold, held)

    def _remove(self, task: Assignment) -> None:
        mine = self._open[task.client]
        del mine[task.id]
        if not mine:
            del self._open[task.client]
        task.message = None
        for name in task.refers:
            self._references[name] -= 1
            if not self._references[name]:
                del self._references[name], self._blobs[name]

    # Time

    def sweep(self) -> tuple[list[Assignment], int]:
        """Ends what is over: tasks without an answer become replies that say so.

        Returns:
            The tasks, and the bytes of answers that nobody picked up in time.
        """
        now, held = self._clock(), 0
        with self._lock:
            late = [a for mine in self._open.values() for a in mine.values() if a.expires <= now]
            for task in late:
                assert task.message is not None
                error = Error(code=ErrorCode.REPLY_MESSAGE_UNAVAILABLE, reason="no answer in time")
                self._reply(task.id, _replying(error, task.message), 0)
                self._remove(task)
            for identifier in [k for k, (_, until) in self._done.items() if until <= now]:
                del self._done[identifier]
            for identifier in [k for k, r in self._replies.items() if r.until <= now]:
                held += self._replies.pop(identifier).held
        return late, held

    def idle(self, client: int) -> bool:
        """Whether a device has nothing to do."""
        with self._lock:
            return client not in self._open

    @property
    def size(self) -> tuple[int, int, int]:
        """Open tasks, replies that wait, and bytes of bodies that are kept once."""
        with self._lock:
            tasks = sum(len(mine) for mine in self._open.values())
            return tasks, len(self._replies), sum(len(b) for b in self._blobs.values())


def request(message: Message) -> tuple[bytes, bytes] | None:
    """Body and nonce of a coordinator's request, or None if it has none."""
    try:
        body, nonce = wire.body(message), wire.nonce(message)
    except MessageError:
        return None
    return None if nonce is None else (body, nonce)


def _replying(content: RecordDict | Error, message: Message) -> Message:
    if isinstance(content, Error):
        return Message(content, reply_to=message)
    return Message(content, reply_to=message)
