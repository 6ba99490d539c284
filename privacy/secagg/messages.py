"""What the parties of secure aggregation say, and what each signature covers.

Five exchanges make a session:

1. `Invitation` -> `Advertisement`: fresh X25519 keys, signed by the client's identity.
2. `Roster` -> `Shares`: everybody's keys; Shamir shares, encrypted for each neighbour.
3. the task itself, with the members -> `Masked`: a vector that looks uniform.
4. `Survivors` -> `Confirmation`: whose vectors are in the sum, signed by each of them.
5. `Reveal` -> `Revealed`: enough confirmations and the ciphertexts; one share for each peer.

Guarantees: every answer is signed over the session, and the session is a digest of run,
round, attempt, purpose, plan and task, so that an answer fits one place only. Encodings are
those of `tacit.privacy.messages`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tacit.privacy.errors import MessageError
from tacit.privacy.messages import EvaluateRequest, Message, Request, TrainRequest
from tacit.privacy.secagg.keys import derive

KEY_BYTES = 32
SIGNATURE_BYTES = 64
_MEMBER = np.dtype("<u4")
_ENTRY = np.dtype(
    [
        ("client", "<u4"),
        ("channel", "V32"),
        ("mask", "V32"),
        ("signature", "V64"),
    ]
)
_SIGNED = np.dtype([("client", "<u4"), ("signature", "V64")])


@dataclass(frozen=True, slots=True, eq=False)
class SessionMessage(Message):
    """Base of all but the invitation.

    Attributes:
        session: the session's digest, in hex (`session`).
    """

    session: str


@dataclass(frozen=True, slots=True, eq=False)
class Invitation(Message):
    """Coordinator to client: take part in a session.

    Attributes:
        purpose: "train" or "evaluate".
        plan: digest of the privacy plan.
        task: digest of the request that the third exchange will carry.
    """

    kind: ClassVar[str] = "invitation"

    purpose: str
    plan: str
    task: str

    @classmethod
    def to(cls, request: Request, purpose: str) -> Invitation:
        """The invitation that a request is the task of."""
        place = (request.run, request.round, request.attempt)
        return cls(*place, purpose, request.plan, request.task())

    def session(self) -> str:
        """Digest of all that the session is about, in hex."""
        parts = (self.run, str(self.round), str(self.attempt), self.purpose, self.plan, self.task)
        return derive("session", *(part.encode() for part in parts)).hex()


@dataclass(frozen=True, slots=True, eq=False)
class Answer(SessionMessage):
    """Base of a client's answers.

    Attributes:
        client: who says it.
        signature: Ed25519 over `statement`, by the client's identity.
    """

    client: int
    signature: bytes

    def statement(self) -> bytes:
        """What the signature covers: the whole message but itself."""
        bare = dataclasses.replace(self, signature=b"")
        return derive("answer", bare.digest())


@dataclass(frozen=True, slots=True, eq=False)
class Advertisement(Answer):
    """Client to coordinator, for all clients: keys of this session.

    Attributes:
        channel: X25519 public key that shares are encrypted to.
        mask: X25519 public key that pairwise masks come from.
    """

    kind: ClassVar[str] = "advertisement"

    channel: bytes
    mask: bytes

    def statement(self) -> bytes:
        """What the signature covers; short, since every other client verifies it."""
        return advertised(self.session, self.client, self.channel, self.mask)


@dataclass(frozen=True, slots=True, eq=False)
class Roster(SessionMessage):
    """Coordinator to client: everybody's advertisement.

    Attributes:
        entries: (client, channel, mask, signature), 132 bytes each, clients ascending.
    """

    kind: ClassVar[str] = "roster"

    entries: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Shares(Answer):
    """Client to coordinator: shares for its neighbours, in ascending order of clients.

    Attributes:
        ciphertexts: one for each neighbour, all of one length.
        commitments: 16-byte digests of each neighbour's pieces, so that a share that was
            tampered with later is known for it.
    """

    kind: ClassVar[str] = "shares"

    ciphertexts: bytes
    commitments: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Masked(Answer):
    """Client to coordinator: its masked vector.

    Attributes:
        members: with whom it shares masks, as it was told.
        words: packed (`tacit.privacy.secagg.words`).
    """

    kind: ClassVar[str] = "masked"

    members: bytes
    words: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Survivors(SessionMessage):
    """Coordinator to client: whose vectors are in the sum.

    Attributes:
        members: as `pack_members` writes them.
    """

    kind: ClassVar[str] = "survivors"

    members: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Confirmation(Answer):
    """Client to coordinator, for all clients: its signature on the survivors."""

    kind: ClassVar[str] = "confirmation"

    agreed: bytes

    def statement(self) -> bytes:
        """What the signature covers: the same for every client, which all others verify."""
        return self.agreed


@dataclass(frozen=True, slots=True, eq=False)
class Reveal(SessionMessage):
    """Coordinator to client: enough clients agree on the survivors; send your shares.

    Attributes:
        confirmations: (client, signature), 68 bytes each.
        ciphertexts: what this client's neighbours among the members encrypted for it, in
            ascending order of clients.
    """

    kind: ClassVar[str] = "reveal"

    confirmations: bytes
    ciphertexts: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Revealed(Answer):
    """Client to coordinator: for each neighbour among the members a share of one kind.

    Attributes:
        shares: in ascending order of clients; each a byte that says whether there is one,
            and then its pieces.
    """

    kind: ClassVar[str] = "revealed"

    shares: bytes


# What each leg carries to a client, by the type that the transport gives its message.
LEGS: dict[str, type[Message]] = {
    "query.advertise": Invitation,
    "query.share": Roster,
    "train": TrainRequest,
    "evaluate": EvaluateRequest,
    "query.confirm": Survivors,
    "query.reveal": Reveal,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One client in a roster."""

    client: int
    channel: bytes
    mask: bytes
    signature: bytes


def advertised(session: str, client: int, channel: bytes, mask: bytes) -> bytes:
    """The statement of an advertisement."""
    return derive("advertisement", session.encode(), str(client).encode(), channel, mask)


def agreement(session: str, roster: bytes, members: bytes, survivors: bytes) -> bytes:
    """The statement of a confirmation.

    Args:
        session: of the round.
        roster: its digest.
        members: who was in the masks, packed.
        survivors: whose vectors are in the sum, packed.
    """
    return derive("survivors", session.encode(), roster, members, survivors)


def pack_members(clients: Iterable[int]) -> bytes:
    """Clients in ascending order, four bytes each."""
    return np.array(sorted(clients), dtype=_MEMBER).tobytes()


def unpack_members(data: bytes) -> list[int]:
    """Reads what `pack_members` wrote.

    Raises:
        MessageError: a wrong length, or clients that aren't in ascending order, each once.
    """
    return _ascending(_records(data, _MEMBER))


def pack_roster(entries: Iterable[Entry]) -> bytes:
    """A roster's entries in ascending order of clients."""
    ordered = sorted(entries, key=lambda e: e.client)
    rows = [(e.client, e.channel, e.mask, e.signature) for e in ordered]
    return np.array(rows, dtype=_ENTRY).tobytes()


def unpack_roster(data: bytes) -> list[Entry]:
    """Reads what `pack_roster` wrote.

    Raises:
        MessageError: a wrong length, or clients that aren't in ascending order, each once.
    """
    rows = _records(data, _ENTRY)
    clients = _ascending(rows["client"])
    columns = (rows[name] for name in ("channel", "mask", "signature"))
    parts = zip(*(_split(np.ascontiguousarray(c)) for c in columns), strict=True)
    return [Entry(k, *fields) for k, fields in zip(clients, parts, strict=True)]


def pack_signed(signatures: Sequence[tuple[int, bytes]]) -> bytes:
    """Clients with their signatures, ascending."""
    return np.array(sorted(signatures), dtype=_SIGNED).tobytes()


def unpack_signed(data: bytes) -> list[tuple[int, bytes]]:
    """Reads what `pack_signed` wrote.

    Raises:
        MessageError: a wrong length, or clients that aren't in ascending order, each once.
    """
    rows = _records(data, _SIGNED)
    found = _split(np.ascontiguousarray(rows["signature"]))
    return list(zip(_ascending(rows["client"]), found, strict=True))


def _records(data: bytes, kind: np.dtype) -> np.ndarray:
    if len(data) % kind.itemsize:
        raise MessageError(f"a list of {len(data)} bytes isn't of {kind.itemsize} bytes each")
    return np.frombuffer(data, dtype=kind)


def _ascending(clients: np.ndarray) -> list[int]:
    found = [int(k) for k in clients]
    if any(a >= b for a, b in itertools.pairwise(found)):
        raise MessageError("clients should be in ascending order, each once")
    return found


def _split(column: np.ndarray) -> list[bytes]:
    size, data = column.dtype.itemsize, column.tobytes()
    return [data[i : i + size] for i in range(0, len(data), size)]
