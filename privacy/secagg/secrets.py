"""A client's secrets in a session, and the keys that come from them.

Guarantees: every key and commitment is bound to its session, its direction and its parties
by a labelled hash, so that none can stand for another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.privacy.discrete import layers
from tacit.privacy.noise import Source
from tacit.privacy.secagg.keys import KeyPair, agree, derive

COMMITMENT_BYTES = 16
TAG_BYTES = 16


@dataclass(frozen=True, slots=True)
class Secrets:
    """What a client keeps of a session; bytes are hex in the vault."""

    invitation: dict[str, Any]
    session: str
    channel: str
    mask: str
    self_seed: str
    base: str = ""
    chain: str = ""
    roots: str = ""
    roster: str = ""
    members: str = ""
    survivors: str = ""

    def body(self) -> bytes:
        """As the vault keeps it."""
        return json.dumps(asdict(self)).encode()

    @property
    def place(self) -> tuple[str, int, int]:
        """Run, round and attempt."""
        said = self.invitation
        return said["run"], said["round"], said["attempt"]

    @property
    def channel_pair(self) -> KeyPair:
        """Of the keys that shares are encrypted to."""
        return KeyPair.from_bytes(bytes.fromhex(self.channel))

    @property
    def mask_pair(self) -> KeyPair:
        """Of the keys that pairwise masks come from."""
        return KeyPair.from_bytes(bytes.fromhex(self.mask))


@dataclass(frozen=True, slots=True)
class Noise:
    """The seeds of a client's noise in a session, and among how many it is shared.

    Attributes:
        clients: how many add a share.
        layers: how many of them may drop.
        base: 32 bytes, of the base share.
        chain: `tacit.privacy.discrete.layers.SEED_BYTES` bytes, of the first layer.
    """

    clients: int
    layers: int
    base: bytes
    chain: bytes

    @classmethod
    def drawn(cls, clients: int, count: int, source: Source) -> Noise:
        """Fresh seeds."""
        return cls(clients, count, source.key(), source.key()[: layers.SEED_BYTES])


def commitments(
    session: str, dealer: int, holder: int, share: NDArray[np.uint32], pieces: Mapping[int, slice]
) -> dict[int, bytes]:
    """A dealer's commitments to pieces of a share; they hide what is as hard to guess as 128 bits.

    Args:
        session: of the round.
        dealer: whose share it is.
        holder: who holds it.
        share: its words.
        pieces: where each kind of piece is among them.
    """
    place = derive("share", f"{session} {dealer} {holder}".encode())
    data = share.astype("<u4").tobytes()
    return {
        kind: hashlib.sha256(
            place + bytes([kind & 255, kind >> 8]) + data[4 * at.start : 4 * at.stop]
        ).digest()[:COMMITMENT_BYTES]
        for kind, at in pieces.items()
    }


def self_mask(seed: bytes, session: str) -> bytes:
    """The key of a client's own mask."""
    return derive("self-mask", seed, session.encode())


def pair_mask(
    own: KeyPair, other: bytes, roster: bytes, members: bytes, clients: tuple[int, int]
) -> bytes:
    """The key of the mask that two clients share; the smaller adds it."""
    low, high = sorted(clients)
    return agree(
        own,
        other,
        derive("pair-mask", roster, members, str(low).encode(), str(high).encode()),
    )


def channel_root(own: KeyPair, other: bytes, session: str, roster: bytes) -> bytes:
    """What two clients derive the keys of their two ciphertexts from.

    Args:
        own: one side's keys.
        other: the other side's public key.
        session: of the round.
        roster: its digest.
    """
    return agree(own, other, derive("channel", session.encode(), roster))


def channel_key(root: bytes, sender: int, receiver: int) -> bytes:
    """The key of the one ciphertext from a client to another."""
    return derive("direction", root, str(sender).encode(), str(receiver).encode())
