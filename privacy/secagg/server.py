"""The coordinator's side of secure aggregation: a state machine that refuses what doesn't fit.

Phases: advertise -> share -> mask -> confirm -> reveal -> done. An answer that is late, of
the wrong length, out of range, unsigned, or a second one is a `MessageError` or a
`RoundError` that costs its sender its place, never the session; too few for the threshold
end the session with nothing learned.

Guarantees: `AggregatingServer.total` is the sum, modulo 2^bits, of exactly the survivors'
vectors. Memory is one vector of sums plus what each pair of neighbours exchanges in shares;
no client's vector is kept.
It doesn't guarantee that a survivor's vector was what the task asked for: nobody can look.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tacit.privacy.errors import MessageError, RoundError
from tacit.privacy.secagg import shamir
from tacit.privacy.secagg.cohort import Rules, cohort
from tacit.privacy.secagg.directory import Directory
from tacit.privacy.secagg.keys import KeyPair, verify
from tacit.privacy.secagg.messages import (
    KEY_BYTES,
    Advertisement,
    Answer,
    Confirmation,
    Entry,
    Invitation,
    Masked,
    Reveal,
    Revealed,
    Roster,
    Shares,
    Survivors,
    agreement,
    pack_members,
    pack_roster,
    pack_signed,
)
from tacit.privacy.secagg.recovery import Pieces, Wanted, recovered
from tacit.privacy.secagg.secrets import COMMITMENT_BYTES, TAG_BYTES
from tacit.privacy.secagg.words import Words

Phase = Literal["advertise", "share", "mask", "confirm", "reveal", "done"]


class AggregatingServer:
    """One session, from invitation to sum.

    Args:
        invitation: what the clients are invited to.
        rules: of the plan.
        directory: everybody's public keys.
        words: of a vector.
        length: words in a vector.
        asked: clients that may answer.
    """

    def __init__(
        self,
        invitation: Invitation,
        rules: Rules,
        directory: Directory,
        words: Words,
        length: int,
        asked: list[int],
    ) -> None:
        self.invitation, self.session = invitation, invitation.session()
        self._place = (invitation.run, invitation.round, invitation.attempt)
        self._rules, self._directory = rules, directory
        self._words, self._length, self._asked = words, length, set(asked)
        self._phase: Phase = "advertise"
        self._entries: dict[int, Entry] = {}
        self._keys: set[bytes] = set()
        self._probe = KeyPair.generate()
        self._shares: dict[int, Shares] = {}
        self._confirmed: dict[int, bytes] = {}
        self._pieces: dict[int, Pieces] = {}
        self._sum = words.zeros(length)
        self._in_sum: set[int] = set()
        self.members: list[int] = []
        self.survivors: list[int] = []

    # 1. Keys

    def advertised(self, answer: Advertisement) -> None:
        """Takes a client's keys."""
        self._expect("advertise", answer, self._entries)
        if len(answer.channel) != KEY_BYTES or len(answer.mask) != KEY_BYTES:
            raise MessageError("an advertisement's keys should have 32 bytes each")
        keys = {answer.channel, answer.mask}
        if len(keys) != 2 or self._keys & keys:
            raise MessageError(f"client {answer.client} advertises a key that is taken")
        # Any pair does: a point of low order, refused here, would stop every neighbour.
        for key in keys:
            self._probe.exchange(key)
        self._keys |= keys
        self._entries[answer.client] = Entry(
            answer.client, answer.channel, answer.mask, answer.signature
        )

    def roster(self) -> Roster:
        """Closes the roster."""
        self._in("advertise")
        self._close("done", len(self._entries), self._rules.minimum, "advertised")
        entries = pack_roster(self._entries.values())
        self.cohort, self._phase = cohort(entries, self._rules), "share"
        return Roster(*self._place, self.session, entries)

    # 2. Shares

    def shared(self, answer: Shares) -> None:
        """Takes a client's encrypted shares."""
        self._expect("share", answer, self._shares, self._entries)
        count, kinds = len(self.cohort.neighbours(answer.client)), len(self.cohort.pieces)
        if len(answer.ciphertexts) != count * self._ciphertext:
            raise MessageError("ciphertexts aren't one for each neighbour")
        if len(answer.commitments) != count * kinds * COMMITMENT_BYTES:
            raise MessageError("commitments aren't one for each piece and neighbour")
        self._shares[answer.client] = answer

    def close_shares(self) -> bytes:
        """Closes the set of members, and returns it packed, for the task."""
        self._in("share")
        self._close("mask", len(self._shares), self.cohort.fewest, "shared")
        self.members = sorted(self._shares)
        self._packed = pack_members(self.members)
        return self._packed

    @property
    def _ciphertext(self) -> int:
        return shamir.packed_size(self.cohort.words) + TAG_BYTES

    # 3. Masked vectors

    def masked(self, answer: Masked) -> None:
        """Adds a client's vector to the sum; it isn't kept."""
        self._expect("mask", answer, self._in_sum, self._shares)
        if answer.members != self._packed:
            raise MessageError(f"client {answer.client} was told of other members")
        self._words.add_into(self._sum, self._words.unpack(answer.words, self._length))
        self._in_sum.add(answer.client)

    def close_masked(self) -> Survivors:
        """Closes the sum; a vector that comes later is refused."""
        self._in("mask")
        least = self._rules.survivors(len(self.members))
        self._close("confirm", len(self._in_sum), least, "sent a vector")
        self.survivors = sorted(self._in_sum)
        dropped, count = len(self.members) - len(self.survivors), len(self.members)
        kinds = [self.cohort.revealed(is_in, dropped, count) for is_in in (False, True)]
        self._wanted = Wanted(frozenset(self._in_sum), (kinds[0], kinds[1]))
        packed = pack_members(self.survivors)
        self._agreed = agreement(self.session, self.cohort.digest, self._packed, packed)
        return Survivors(*self._place, self.session, packed)

    # 4. Survivors

    def confirmed(self, answer: Confirmation) -> None:
        """Takes a client's signature on the survivors."""
        self._expect("confirm", answer, self._confirmed, self._in_sum)
        if answer.agreed != self._agreed:
            raise MessageError(f"client {answer.client} signed another set of survivors")
        self._confirmed[answer.client] = answer.signature

    def close_confirmed(self) -> dict[int, Reveal]:
        """What to ask of each client that confirmed."""
        self._in("confirm")
        quorum = self._rules.quorum(self.cohort.size)
        self._close("reveal", len(self._confirmed), quorum, "confirmed")
        signed = pack_signed(sorted(self._confirmed.items()))
        return {
            client: Reveal(*self._place, self.session, signed, self._addressed(client))
            for client in self._confirmed
        }

    def _peers(self, client: int) -> list[int]:
        """The members whose shares a client holds."""
        return [k for k in self.cohort.neighbours(client) if k in self._shares]

    def _addressed(self, client: int) -> bytes:
        size, parts = self._ciphertext, []
        for peer in self._peers(client):
            place = self.cohort.place(client, peer) * size
            parts.append(self._shares[peer].ciphertexts[place : place + size])
        return b"".join(parts)

    # 5. Shares of secrets

    def revealed(self, answer: Revealed) -> int:
        """Takes a client's shares; returns how many of them weren't what their dealers dealt."""
        self._expect("reveal", answer, self._pieces, self._confirmed)
        pieces = Pieces.parse(answer, self.cohort, self._wanted, self._peers(answer.client))
        bad = pieces.verify(self.cohort, self._wanted, self._shares)
        self._pieces[answer.client] = pieces
        return bad

    def total(self) -> tuple[NDArray[np.int64], int, list[bytes]]:
        """Removes the masks.

        Returns:
            The sum of the survivors' vectors, representatives around zero; the first layer of
            noise that is surplus; and each survivor's seed of it, empty if none is.

        Raises:
            RoundError: too few shares for the threshold, or a client dealt shares that don't
                belong together.
        """
        self._in("reveal")
        self._close("done", len(self._pieces), self.cohort.threshold, "revealed")
        dropped = len(self.members) - len(self.survivors)
        seeds = recovered(
            self.session,
            self.cohort,
            (self.members, self._wanted),
            list(self._pieces.values()),
            self._sum,
            self._words,
        )
        self._words.reduce(self._sum)
        return self._words.centred(self._sum), dropped + 1, seeds

    # What they share

    def _expect(self, phase: Phase, answer: Answer, seen: Any, among: Any = None) -> None:
        """Refuses an answer that is late, of another session, not its sender's, or a second."""
        allowed = self._asked if among is None else among
        if self._phase != phase:
            raise RoundError(f"an answer of kind {answer.kind!r} came in phase {self._phase!r}")
        place = (answer.run, answer.round, answer.attempt, answer.session)
        if place != (*self._place, self.session):
            raise MessageError("an answer of another session")
        if answer.client not in allowed or answer.client in seen:
            raise MessageError(f"client {answer.client} has no place here, or has answered")
        public = self._directory.public(answer.client)
        if public is None or not verify(public, answer.signature, answer.statement()):
            raise MessageError(f"an answer isn't signed by client {answer.client}")

    def _in(self, phase: Phase) -> None:
        if self._phase != phase:
            raise RoundError(f"the session is in phase {self._phase!r}, not {phase!r}")

    def _close(self, after: Phase, count: int, least: int, what: str) -> None:
        if count < least:
            self._phase = "done"
            raise RoundError(
                f"{count} clients {what}; {least} have to", "nothing was learned of any vector"
            )
        self._phase = after
