"""Taking masks off: shares checked one by one, secrets interpolated all at once.

Guarantees: a share is used only if its dealer committed to it, so a client that reveals
rubbish is out by itself; a reconstructed key is used only if it is the advertised one. What
t honest shares don't determine isn't guessed: the session fails.
It doesn't help against a dealer whose own shares don't lie on one polynomial: that client's
mask can't be taken off, and the error names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.privacy.errors import MessageError, RoundError
from tacit.privacy.secagg import masks, shamir
from tacit.privacy.secagg.cohort import Cohort
from tacit.privacy.secagg.keys import KeyPair
from tacit.privacy.secagg.messages import Revealed, Shares, pack_members
from tacit.privacy.secagg.secrets import (
    COMMITMENT_BYTES,
    commitments,
    packed_size,
    pair_mask,
    self_mask,
)
from tacit.privacy.secagg.words import Array, Words

Words32 = NDArray[np.uint32]


@dataclass
class Pieces:
    """What one client revealed.

    Attributes:
        session: of the round.
        holder: who revealed it.
        of: for each dealer, its pieces by their kind.
    """

    session: str
    holder: int
    of: dict[int, dict[int, Words32]]

    @classmethod
    def parse(
        cls,
        answer: Revealed,
        cohort: Cohort,
        kinds: Callable[[int], list[int]],
        peers: Sequence[int],
    ) -> Pieces:
        """Reads an answer that has one share for each of ``peers``.

        Raises:
            MessageError: it is too short or too long, or a share is out of range.
        """
        data, offset = answer.shares, 0
        of: dict[int, dict[int, Words32]] = {}
        for peer in peers:
            wanted = kinds(peer)
            spans = [cohort.pieces[kind] for kind in wanted]
            lengths = [at.stop - at.start for at in spans]
            size = 1 + packed_size(sum(lengths))
            part, offset = data[offset : offset + size], offset + size
            if len(part) != size or part[0] > 1:
                raise MessageError("revealed shares are cut short or malformed")
            if part[0] == 1:
                words = shamir.unpack_shares(part[1:], sum(lengths))
                ends = np.cumsum(lengths)[:-1]
                of[peer] = dict(zip(wanted, np.split(words, ends), strict=True))
        if offset != len(data):
            raise MessageError("revealed shares are too long")
        return cls(answer.session, answer.client, of)

    def verify(self, cohort: Cohort, shares: Mapping[int, Shares]) -> int:
        """Drops the pieces that their dealers didn't commit to; returns how many those are."""
        bad = 0
        for dealer in list(self.of):
            place = cohort.place(self.holder, dealer) * len(cohort.pieces)
            said, share = shares[dealer].commitments, self.of[dealer]
            starts = {kind: (place + kind) * COMMITMENT_BYTES for kind in share}
            due = {kind: said[at : at + COMMITMENT_BYTES] for kind, at in starts.items()}
            if self._committed(dealer) != due:
                bad += 1
                del self.of[dealer]
        return bad

    def _committed(self, dealer: int) -> dict[int, bytes]:
        """What the dealer must have said, if these are its pieces."""
        share, pieces, end = self.of[dealer], {}, 0
        for kind, words in share.items():
            pieces[kind] = slice(end, end + len(words))
            end += len(words)
        whole = np.concatenate(list(share.values()))
        return commitments(self.session, dealer, self.holder, whole, pieces)


def recovered(
    session: str,
    cohort: Cohort,
    clients: tuple[list[int], list[int]],
    pieces: Sequence[Pieces],
    total: Array,
    words: Words,
) -> list[bytes]:
    """Takes the masks off ``total``, in place.

    Args:
        session: of the round.
        cohort: its roster.
        clients: members and survivors.
        pieces: what was revealed.
        total: the sum of the survivors' masked vectors.
        words: of the vectors.

    Returns:
        Each survivor's seed of the first surplus layer; empty where none is surplus.

    Raises:
        RoundError: fewer than the threshold know a secret, or it isn't what it should be.
    """
    members, survivors = clients
    dropped = [k for k in members if k not in set(survivors)]
    secrets = _interpolated(cohort, members, pieces)
    added: list[bytes] = []
    subtracted = [self_mask(secrets[client][0], session) for client in survivors]
    present, packed = set(survivors), pack_members(members)
    for client in dropped:
        pair = KeyPair.from_bytes(secrets[client][0])
        if pair.public != cohort.entries[client].mask:
            raise _inconsistent(client)
        for peer in cohort.neighbours(client):
            if peer in present:
                other = cohort.entries[peer].mask
                key = pair_mask(pair, other, cohort.digest, packed, (client, peer))
                # What the survivor did with this mask, undone.
                (subtracted if peer < client else added).append(key)
    masks.accumulate(total, words, added, subtracted)
    return [secrets[k][1] for k in survivors if len(secrets[k]) > 1]


def _interpolated(
    cohort: Cohort, members: Sequence[int], pieces: Sequence[Pieces]
) -> dict[int, list[bytes]]:
    """Each member's revealed secrets, from the first t shares of it."""
    needed = cohort.threshold
    alike: dict[tuple[int, ...], list[tuple[int, Words32, list[int]]]] = {}
    for dealer in members:
        held = [p for p in pieces if dealer in p.of][:needed]
        if len(held) < needed:
            raise RoundError(
                f"{len(held)} shares of client {dealer} were revealed; {needed} have to",
                "too many clients dropped; resume for another attempt",
            )
        rows = np.stack([np.concatenate(list(p.of[dealer].values())) for p in held])
        lengths = [len(words) for words in held[0].of[dealer].values()]
        points = tuple(cohort.point(p.holder) for p in held)
        alike.setdefault(points, []).append((dealer, rows, lengths))
    found: dict[int, list[bytes]] = {}
    for points, group in alike.items():
        weights = shamir.weights(np.array(points))
        whole = shamir.combine(weights, np.concatenate([rows for _, rows, _ in group], axis=1))
        ends = np.cumsum([rows.shape[1] for _, rows, _ in group])[:-1]
        for (dealer, _, lengths), words in zip(group, np.split(whole, ends), strict=True):
            try:
                parts = np.split(words, np.cumsum(lengths)[:-1])
                found[dealer] = [shamir.to_bytes(part) for part in parts]
            except MessageError as error:
                raise _inconsistent(dealer) from error
    return found


def _inconsistent(client: int) -> RoundError:
    return RoundError(
        f"client {client} dealt shares that don't belong together",
        "leave it out of the population; the round can be attempted again",
    )
