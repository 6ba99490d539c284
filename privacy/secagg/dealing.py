"""A client's Shamir shares: dealt to its neighbours, and what it reveals of those it holds.

Guarantees: `deal` seals each share with a key of its own, for one neighbour and one session;
`reveal` takes of each share it holds the pieces that the agreed survivors call for, and no
other.
It doesn't decide when: `tacit.privacy.secagg.client` does.
"""

from __future__ import annotations

import os

import numpy as np

from tacit.privacy.discrete import layers
from tacit.privacy.errors import MessageError
from tacit.privacy.secagg import shamir
from tacit.privacy.secagg.cohort import Cohort
from tacit.privacy.secagg.keys import open_, seal
from tacit.privacy.secagg.messages import KEY_BYTES, unpack_members
from tacit.privacy.secagg.secrets import TAG_BYTES, Secrets, channel_key, commitments


def deal(
    cohort: Cohort, client: int, session: str, secrets: Secrets, roots: list[bytes]
) -> tuple[bytes, bytes]:
    """A share of a client's secrets for each neighbour.

    Args:
        cohort: of the session.
        client: whose secrets.
        session: its digest.
        secrets: what is shared: mask key, self-mask seed, seeds of the noise's layers.
        roots: what the keys of each neighbour's channel come from, in their order.

    Returns:
        The ciphertexts, and the commitments to each piece, as `Shares` has them.
    """
    neighbours = cohort.neighbours(client)
    points = np.array([cohort.point(k) for k in neighbours])
    chain = layers.chain(bytes.fromhex(secrets.chain), cohort.layers)
    whole = bytes.fromhex(secrets.mask) + bytes.fromhex(secrets.self_seed) + b"".join(chain)
    shares = shamir.share(shamir.to_words(whole), cohort.threshold, points, os.urandom(32))
    packed = shamir.pack_all(shares)
    ciphertexts: list[bytes] = []
    committed: list[bytes] = []
    for peer, root, own, plain in zip(neighbours, roots, shares, packed, strict=True):
        ciphertexts.append(seal(channel_key(root, client, peer), plain, b""))
        committed += commitments(session, client, peer, own, cohort.pieces).values()
    return b"".join(ciphertexts), b"".join(committed)


def reveal(cohort: Cohort, client: int, secrets: Secrets, ciphertexts: bytes) -> bytes:
    """For each neighbour among the members, the pieces of one kind, as `Revealed` has them.

    Args:
        cohort: of the session.
        client: who holds the shares.
        secrets: with the members and survivors that it agreed to.
        ciphertexts: what each neighbour sent it.

    Raises:
        MessageError: they aren't one for each neighbour.
    """
    members = unpack_members(bytes.fromhex(secrets.members))
    survived = set(unpack_members(bytes.fromhex(secrets.survivors)))
    dropped, present = len(members) - len(survived), set(members)
    size = shamir.packed_size(cohort.words) + TAG_BYTES
    roots = _cut(bytes.fromhex(secrets.roots), KEY_BYTES)
    neighbours = zip(cohort.neighbours(client), roots, strict=True)
    peers = [(k, root) for k, root in neighbours if k in present]
    if len(ciphertexts) != size * len(peers):
        raise MessageError("the ciphertexts aren't one for each neighbour")
    rows, opened = np.zeros((len(peers), size - TAG_BYTES), dtype=np.uint8), []
    for i, sealed in enumerate(_cut(ciphertexts, size)):
        peer, root = peers[i]
        try:
            plain = open_(channel_key(root, peer, client), sealed, b"")
        except MessageError:
            opened.append(False)
            continue
        rows[i] = np.frombuffer(plain, dtype=np.uint8)
        opened.append(True)
    shares, valid = shamir.unpack_all(rows, cohort.words)
    parts = [b""] * len(peers)
    for is_in in (True, False):
        kinds = cohort.revealed(is_in, dropped, len(members))
        chosen = np.concatenate([shares[:, cohort.pieces[kind]] for kind in kinds], axis=1)
        for i, packed in enumerate(shamir.pack_all(chosen)):
            if (peers[i][0] in survived) == is_in:
                # Only a mark where the peer sent this client rubbish.
                fine = opened[i] and valid[i]
                parts[i] = b"\x01" + packed if fine else bytes(1 + len(packed))
    return b"".join(parts)


def _cut(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]
