"""Faults on the way between coordinator and clients, so that dropouts can be studied.

`FaultyGrid` stands between a coordinator and any other Grid. At each leg, to each client:

* drop: the request is lost, and all others to this client until the round is over;
* late: the answer is made, and comes when its leg is over, ahead of the next leg's;
* duplicate: the request comes twice; both answers come back, each as one to the request;
* corrupt: one bit of the answer is flipped;
* equivocate: the client is told another thing than the others. An invitation is to another
  task, a roster and a set of survivors lack one client, a model has another parameter. What
  is asked of a client in "reveal" is its own, so there is nothing to differ.

Guarantees: a fault depends on the run's seed, its kind, leg, purpose, round, attempt and
client, and on nothing else: another fault's probability doesn't move it, and no other stream
of the run is touched. Another attempt meets other faults.
It doesn't guarantee that somebody notices. Without secure aggregation nothing is signed, so
that a corrupt update of the right shape counts, within its clip where the coordinator
clips, and a client can't know that others were sent another model.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from tacit.configs import wire
from tacit.configs.faults import KINDS, FaultsSpec
from tacit.privacy.messages import Message as Body
from tacit.privacy.messages import Request
from tacit.privacy.noise import Randomness
from tacit.privacy.secagg.messages import (
    LEGS,
    Invitation,
    Roster,
    Survivors,
    pack_members,
    pack_roster,
    unpack_members,
    unpack_roster,
)
from tacit.server.grids import WrappingGrid

log = logging.getLogger("tacit.faults")

_LOST = "lost-"


@dataclass(frozen=True, slots=True)
class Fate:
    """What happens to one request and its answer; the kinds of fault are the module's.

    Attributes:
        place: in [0, 1), which bit is flipped.
        other: in [0, 1), what differs in the request.
    """

    drop: bool
    late: bool
    duplicate: bool
    corrupt: bool
    equivocate: bool
    place: float
    other: float


@dataclass(frozen=True, slots=True)
class _Sent:
    """A request that is under way, and what will become of its answer."""

    request: Message
    fate: Fate
    note: Callable[[str], None]


class FaultyGrid(WrappingGrid):
    """Another Grid, with faults in the exchanges that `tacit.server.legs.Legs` makes.

    A request that is dropped is never answered, so `Legs` needs a deadline. Other messages
    than tacit's requests pass untouched.

    Args:
        grid: the other one.
        nodes: each client's node id there.
        faults: how often, and where.
        randomness: of the run.

    Attributes:
        counts: how often each kind of fault happened.
    """

    def __init__(
        self, grid: Grid, nodes: Mapping[int, int], faults: FaultsSpec, randomness: Randomness
    ) -> None:
        super().__init__(grid)
        self._faults, self._randomness = faults, randomness
        self._clients = {node: client for client, node in nodes.items()}
        self.counts: Counter[str] = Counter()
        self._ids = itertools.count(1)
        self._sent: dict[str, _Sent] = {}
        self._gone: set[int] = set()
        self._begun: tuple[str, int, int] | None = None
        self._purpose = "train"
        self._late: list[Message] = []
        self._due: list[Message] = []

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Begins a leg: what was late in the one before is due now."""
        self._due, self._late = self._due + self._late, []
        return [self._push(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Yields answers that are due from earlier legs, and then this one's, one by one."""
        due, self._due = self._due, []
        yield from due
        for identifier in message_ids:
            if not identifier.startswith(_LOST):
                for reply in self._grid.pull_messages([identifier]):
                    yield from self._arrived(identifier, reply)

    # The way there

    def _push(self, message: Message) -> str:
        kind = message.metadata.message_type
        client = self._clients.get(message.metadata.dst_node_id)
        if kind not in LEGS or client is None:
            return self._forward(message)
        body = wire.unpack(LEGS[kind], message)
        self._follow(kind, body)
        leg = kind.removeprefix("query.")
        fate = self.fate(leg, body, client)

        def note(what: str) -> None:
            self.counts[what] += 1
            place = (body.round, body.attempt, self._purpose, leg)
            log.info("round %d attempt %d (%s), %s: %s, client %d", *place, what, client)

        if fate.drop and client not in self._gone:
            note("drop")
            self._gone.add(client)
        if client in self._gone:
            return f"{_LOST}{next(self._ids)}"
        if fate.equivocate and leg in _LIES:
            note("equivocate")
            lie = _LIES[leg](body, client, fate.other)
            message = _again(message, wire.pack(lie, wire.nonce(message)))
        identifier = self._forward(message)
        self._sent[identifier] = _Sent(message, fate, note)
        return identifier

    def _forward(self, message: Message) -> str:
        (identifier,) = self._grid.push_messages([message])
        return identifier

    def _follow(self, kind: str, body: Body) -> None:
        """Keeps track of purpose and round: who is gone comes back when training begins."""
        if isinstance(body, Invitation):
            self._purpose = body.purpose
        elif kind in ("train", "evaluate"):
            self._purpose = kind
        place = (body.run, body.round, body.attempt)
        if self._purpose == "train" and place != self._begun:
            self._begun = place
            self._gone.clear()

    def fate(self, leg: str, body: Body, client: int) -> Fate:
        """What becomes of a request to a client at this leg, and of the answer.

        Args:
            leg: as `tacit.configs.faults.LEGS` names it.
            body: what the client is to be sent.
            client: its number.
        """
        labels = ("faults", leg, self._purpose, body.round, body.attempt, client)
        drawn = self._randomness.source(*labels).uniform(len(KINDS) + 2)
        here, chances = self._faults.at(leg), self._faults.chances
        hit = [here and bool(u < p) for u, p in zip(drawn, chances, strict=False)]
        return Fate(*hit, *(float(u) for u in drawn[len(KINDS) :]))

    # The way back

    def _arrived(self, identifier: str, reply: Message) -> Iterator[Message]:
        sent = self._sent.pop(identifier, None)
        if sent is None:
            yield reply
            return
        if sent.fate.corrupt and not reply.has_error():
            sent.note("corrupt")
            reply = _damaged(reply, sent)
        if sent.fate.late:
            sent.note("late")
        yield from self._delivered(reply, sent)
        if sent.fate.duplicate:
            sent.note("duplicate")
            again = self._forward(_again(sent.request, sent.request.content))
            for second in self._grid.pull_messages([again]):
                yield from self._delivered(_answering(second, sent), sent)

    def _delivered(self, reply: Message, sent: _Sent) -> Iterator[Message]:
        if sent.fate.late:
            self._late.append(reply)
        else:
            yield reply


def _again(message: Message, content: RecordDict) -> Message:
    """A message to the same client, of the same type."""
    known = message.metadata
    return Message(
        content, known.dst_node_id, known.message_type, ttl=known.ttl, group_id=known.group_id
    )


def _answering(reply: Message, sent: _Sent) -> Message:
    """The reply to a second copy, as one to the first."""
    if reply.has_error():
        return Message(reply.error, reply_to=sent.request)
    return Message(reply.content, reply_to=sent.request)


def _damaged(reply: Message, sent: _Sent) -> Message:
    """The reply with one bit flipped."""
    data = bytearray(wire.body(reply))
    bit = int(sent.fate.place * 8 * len(data))
    data[bit // 8] ^= 1 << bit % 8
    content = RecordDict(dict(reply.content))
    for name, record in reply.content.config_records.items():
        content[name] = ConfigRecord({**record, "body": bytes(data)})
    return Message(content, reply_to=sent.request)


# What a client is told where the others are told the truth


def _other_task(body: Invitation, client: int, other: float) -> Body:
    task = hashlib.sha256(f"{body.task} but for client {client}".encode()).hexdigest()
    return dataclasses.replace(body, task=task)


def _shorter_roster(body: Roster, client: int, other: float) -> Body:
    entries = unpack_roster(body.entries)
    left_out = _one_of([e.client for e in entries], client, other)
    return dataclasses.replace(
        body, entries=pack_roster(e for e in entries if e.client != left_out)
    )


def _other_model(body: Request, client: int, other: float) -> Body:
    parameters = body.parameters.copy()
    parameters[int(other * parameters.size)] += 1
    return dataclasses.replace(body, parameters=parameters)


def _fewer_survivors(body: Survivors, client: int, other: float) -> Body:
    members = unpack_members(body.members)
    left_out = _one_of(members, client, other)
    return dataclasses.replace(body, members=pack_members(k for k in members if k != left_out))


def _one_of(clients: list[int], but: int, other: float) -> int:
    """One of the clients that aren't ``but``; there are at least `cohort.SMALLEST`."""
    left = [k for k in clients if k != but]
    return left[int(other * len(left))]


_LIES: dict[str, Callable[[Any, int, float], Body]] = {
    "advertise": _other_task,
    "share": _shorter_roster,
    "train": _other_model,
    "evaluate": _other_model,
    "confirm": _fewer_survivors,
}
