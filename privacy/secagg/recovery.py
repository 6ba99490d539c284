"""Taking masks off: shares checked one by one, secrets interpolated all at once.

Guarantees: a share is used only if its dealer committed to it, so a client that reveals
rubbish is out by itself; a reconstructed key is used only if it is the advertised one. What
t honest shares don't determine isn't guessed: the session fails.
It doesn't help against a dealer whose own shares don't lie on one polynomial: the session fails
and names it if it was the key of a client that dropped, and else the sum is noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    pair_mask,
    self_mask,
)
from tacit.privacy.secagg.words import Array, Words

Words32 = NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which pieces are revealed, of which peers.

    Attributes:
        survivors: whose self-mask, and noise that is surplus, is to be known.
        kinds: of pieces: of the dropped, of the survivors.
    """

    survivors: frozenset[int]
    kinds: tuple[list[int], list[int]]

    def of(self, peer: int) -> list[int]:
        """The kinds of one peer's pieces."""
        return self.kinds[peer in self.survivors]


@dataclass
class Pieces:
    """What one client revealed.

    Attributes:
        session: of the round.
        holder: who revealed it.
        of: for each dealer, the words of its pieces, one after the other.
    """

    session: str
    holder: int
    of: dict[int, Words32]

    @classmethod
    def parse(
        cls, answer: Revealed, cohort: Cohort, wanted: Wanted, peers: Sequence[int]
    ) -> Pieces:
        """Reads an answer that has one share for each of ``peers``.

        Raises:
            MessageError: it is too short or too long, or a share is out of range.
        """
        data = np.frombuffer(answer.shares, dtype=np.uint8)
        counts = [cohort.count(kinds) for kinds in wanted.kinds]
        sizes = np.array(
            [1 + shamir.packed_size(counts[k in wanted.survivors]) for k in peers], dtype=int
        )
        if sizes.sum() != data.size:
            raise MessageError("revealed shares should be one for each neighbour")
        starts, of = np.cumsum(sizes) - sizes, {}
        for survived, count in enumerate(counts):
            alike = [i for i, k in enumerate(peers) if (k in wanted.survivors) == survived]
            rows = data[starts[alike][:, None] + np.arange(1 + shamir.packed_size(count))]
            shares, valid = shamir.unpack_all(rows[:, 1:], count)
            for i, mark, blank, fine, share in zip(
                alike, rows[:, 0], ~rows.any(axis=1), valid, shares, strict=True
            ):
                if not (blank or (mark == 1 and fine)):
                    raise MessageError("a revealed share is malformed")
                if mark:
                    of[peers[i]] = share
        return cls(answer.session, answer.client, of)

    def verify(self, cohort: Cohort, wanted: Wanted, shares: Mapping[int, Shares]) -> int:
        """Drops the shares that their dealers didn't commit to; returns how many those are."""
        spans = [cohort.spans(kinds) for kinds in wanted.kinds]
        wrong = []
        for dealer, share in self.of.items():
            place, said = cohort.place(self.holder, dealer), shares[dealer].commitments
            first = place * len(cohort.pieces) * COMMITMENT_BYTES
            at = {kind: first + kind * COMMITMENT_BYTES for kind in wanted.of(dealer)}
            due = {kind: said[start : start + COMMITMENT_BYTES] for kind, start in at.items()}
            pieces = spans[dealer in wanted.survivors]
            if commitments(self.session, dealer, self.holder, share, pieces) != due:
                wrong.append(dealer)
        for dealer in wrong:
            del self.of[dealer]
        return len(wrong)


def recovered(
    session: str,
    cohort: Cohort,
    clients: tuple[list[int], Wanted],
    pieces: Sequence[Pieces],
    total: Array,
    words: Words,
) -> list[bytes]:
    """Takes the masks off ``total``, in place.

    Args:
        session: of the round.
        cohort: its roster.
        clients: the members, and what was wanted of them.
        pieces: what was revealed.
        total: the sum of the survivors' masked vectors.
        words: of the vectors.

    Returns:
        Each survivor's seed of the first surplus layer; empty where none is surplus.

    Raises:
        RoundError: fewer than the threshold know a secret, or it isn't what it should be.
    """
    members, wanted = clients
    present = wanted.survivors
    survivors = sorted(present)
    dropped = [k for k in members if k not in present]
    secrets = _interpolated(cohort, members, wanted, pieces)
    added: list[bytes] = []
    subtracted = [self_mask(secrets[client][0], session) for client in survivors]
    packed = pack_members(members)
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
    cohort: Cohort, members: Sequence[int], wanted: Wanted, pieces: Sequence[Pieces]
) -> dict[int, list[bytes]]:
    """Each member's revealed secrets, from the first t shares of it."""
    needed = cohort.threshold
    spans = [cohort.spans(kinds) for kinds in wanted.kinds]
    alike: dict[tuple[int, ...], list[tuple[int, Words32]]] = {}
    for dealer in members:
        held = [p for p in pieces if dealer in p.of][:needed]
        if len(held) < needed:
            raise RoundError(
                f"{len(held)} shares of client {dealer} were revealed; {needed} have to",
                "too many clients dropped; resume for another attempt",
            )
        points = tuple(cohort.point(p.holder) for p in held)
        rows = np.stack([p.of[dealer] for p in held])
        alike.setdefault(points, []).append((dealer, rows))
    found: dict[int, list[bytes]] = {}
    for points, group in alike.items():
        weights = shamir.weights(np.array(points))
        whole = shamir.combine(weights, np.concatenate([rows for _, rows in group], axis=1))
        ends = np.cumsum([rows.shape[1] for _, rows in group])[:-1]
        for (dealer, _), words in zip(group, np.split(whole, ends), strict=True):
            own = spans[dealer in wanted.survivors].values()
            try:
                found[dealer] = [shamir.to_bytes(words[at]) for at in own]
            except MessageError as error:
                raise _inconsistent(dealer) from error
    return found


def _inconsistent(client: int) -> RoundError:
    return RoundError(
        f"client {client} dealt shares that don't belong together",
        "leave it out of the population; the round can be attempted again",
    )
