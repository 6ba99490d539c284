"""The client's side of secure aggregation: a state machine that gives each answer once.

Phases: advertised -> shared -> masked -> confirmed -> revealed, each written to the client's
vault, with its answer, before the answer leaves. A client that was killed in between gives the
same answer to the same request (`MaskingClient.answered`), or a first one if nothing was
written yet.

Guarantees, against a coordinator and up to ``Rules.collusion`` clients that deviate as they
like (Bonawitz et al. 2017, section 6.2, Theorem 6.5; the threshold counts the corrupted):

* a session is one run, round, attempt, purpose, plan and task, isn't entered twice, and keeps
  the rules under which it was entered;
* every peer is in the directory pinned on this client, once, with keys it signed for this
  very session; threshold, degree and layers are computed here, from the plan;
* for each peer a share of its self-mask or of its mask key leaves, never of both, and only
  after more than two thirds of the roster signed one and the same set of survivors;
* of the noise only layers that the survivors' number makes surplus can be taken off.

It doesn't guarantee that the sum is right: a coordinator or a client can spoil it, and then
it is noise. Nor does it hide who takes part, or when.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import astuple, replace
from typing import Any, TypeVar

from numpy.typing import NDArray

from tacit.privacy.errors import RoundError
from tacit.privacy.messages import Message, Request
from tacit.privacy.noise import Source
from tacit.privacy.secagg import dealing, masks
from tacit.privacy.secagg.cohort import Cohort, Rules, cohort, missing
from tacit.privacy.secagg.directory import Directory
from tacit.privacy.secagg.keys import Identity, KeyPair, verify
from tacit.privacy.secagg.messages import (
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
    advertised,
    agreement,
    unpack_members,
    unpack_signed,
)
from tacit.privacy.secagg.secrets import Noise, Secrets, channel_root, pair_mask, self_mask
from tacit.privacy.secagg.vault import Said, Vault
from tacit.privacy.secagg.words import Words

A = TypeVar("A", bound=Answer)


class MaskingClient:
    """One client's part in the sessions of a run.

    Args:
        client: its number.
        identity: its signing key.
        directory: everybody's public keys, as this client has them.
        rules: of the plan this client agreed to.
        vault: where it keeps its sessions.

    Raises:
        RoundError: from every method, when the coordinator asks for what it may not have.
        MessageError: from every method, when bytes aren't what they should be.
    """

    def __init__(
        self, client: int, identity: Identity, directory: Directory, rules: Rules, vault: Vault
    ) -> None:
        self.client = client
        self._identity, self._directory = identity, directory
        self._rules, self._vault = rules, vault

    def answered(self, session: str, kind: str, request: bytes) -> bytes | None:
        """The answer that this client gave to this very request, to be given again.

        Callers ask before they do any work. Who has no vault on disk gets None.

        Args:
            session: which the request belongs to.
            kind: of the request: "query.advertise", "query.share", "train", "evaluate",
                "query.confirm" or "query.reveal".
            request: the whole of it, in bytes.

        Returns:
            The answer in bytes; None if there is none, if the request was another, or if the
            session has gone on since.
        """
        if not self._vault.keeps:
            return None
        return self._vault.said(self.client, session, kind, hashlib.sha256(request).digest())

    # 1. Keys

    def advertise(self, invitation: Invitation) -> Advertisement:
        """Begins a session with fresh keys."""
        if invitation.purpose not in ("train", "evaluate"):
            raise RoundError(f"purpose={invitation.purpose!r} is neither train nor evaluate")
        channel, mask = KeyPair.generate(), KeyPair.generate()
        place = (invitation.run, invitation.purpose, invitation.round, invitation.attempt)
        session = invitation.session()
        said = {f: getattr(invitation, f) for f in ("run", "round", "attempt", "purpose")}
        said["rules"] = list(astuple(self._rules))
        drawn = (channel.private.hex(), mask.private.hex(), os.urandom(32).hex())
        secrets = Secrets(said, session, *drawn)
        keys = (channel.public, mask.public)
        answer = self._signed(Advertisement(*secrets.place, session, self.client, b"", *keys))
        kept = self._said("query.advertise", invitation, answer)
        self._vault.open(self.client, place, session, secrets.body(), kept)
        return answer

    def labels(self, session: str) -> tuple[str, int]:
        """Purpose and round of a session that this client is in."""
        said = self._load(session)[1].invitation
        return said["purpose"], said["round"]

    # 2. Shares

    def share(self, roster: Roster, source: Source) -> Shares:
        """Checks everybody's keys; splits this client's secrets among its neighbours.

        Args:
            roster: everybody's advertisement.
            source: of this client's noise.
        """
        secrets = self._read(roster.session, "advertised")
        cohort = self._cohort(roster.entries)
        self._check_roster(cohort, roster.session, secrets)
        drawn = Noise.drawn(cohort.size, cohort.layers, source)
        secrets = replace(
            secrets, base=drawn.base.hex(), chain=drawn.chain.hex(), roster=roster.entries.hex()
        )
        pair, peers = secrets.channel_pair, cohort.neighbours(self.client)
        roots = [
            channel_root(pair, cohort.entries[k].channel, roster.session, cohort.digest)
            for k in peers
        ]
        # The roots open what the channel key would, and only in this session.
        secrets = replace(secrets, roots=b"".join(roots).hex(), channel="")
        dealt = dealing.deal(cohort, self.client, roster.session, secrets, roots)
        place = (*secrets.place, roster.session, self.client)
        answer = self._signed(Shares(*place, b"", *dealt))
        kept = self._said("query.share", roster, answer)
        self._advance(roster.session, "advertised", "shared", secrets, kept)
        return answer

    def _check_roster(self, cohort: Cohort, session: str, secrets: Secrets) -> None:
        own = cohort.entries.get(self.client)
        mine = (secrets.channel_pair.public, secrets.mask_pair.public)
        if own is None or (own.channel, own.mask) != mine:
            raise RoundError(f"the roster doesn't have client {self.client} with its own keys")
        keys = [key for e in cohort.entries.values() for key in (e.channel, e.mask)]
        if len(set(keys)) != len(keys):
            raise RoundError("the roster has one key twice")
        for entry in cohort.entries.values():
            self._check_entry(entry, session)

    def _check_entry(self, entry: Entry, session: str) -> None:
        public = self._directory.public(entry.client)
        if public is None:
            raise RoundError(f"the roster has client {entry.client}, who isn't in the directory")
        statement = advertised(session, entry.client, entry.channel, entry.mask)
        if not verify(public, entry.signature, statement):
            raise RoundError(
                f"the keys of client {entry.client} aren't signed by it for this session",
                "a stale roster, a substituted key, or another task for that client",
            )

    # 3. The masked vector

    def join(self, session: str, members: bytes) -> Noise:
        """What this client needs to know before it makes its vector.

        Args:
            session: which the task it was sent belongs to (`Invitation.session`).
            members: who will send vectors, packed.
        """
        secrets, _, known = self._joined(session, members)
        count = self._rules.layers(len(known))
        return Noise(len(known), count, bytes.fromhex(secrets.base), bytes.fromhex(secrets.chain))

    def mask(
        self,
        session: str,
        members: bytes,
        vector: NDArray[Any],
        words: Words,
        request: Request | None = None,
    ) -> Masked:
        """Masks a vector; the masks of all members cancel in their sum.

        One vector leaves: the masked one is computed first and counts once it is written.

        Args:
            session: see `join`.
            members: see `join`.
            vector: words, shape [length]; overwritten with the masked vector.
            words: of how many bits.
            request: what the vector answers; without it, it can't be asked for again.
        """
        secrets, cohort, known = self._joined(session, members)
        present = set(known)
        pair = secrets.mask_pair
        added = [self_mask(bytes.fromhex(secrets.self_seed), session)]
        subtracted: list[bytes] = []
        for peer in cohort.neighbours(self.client):
            if peer in present:
                other = cohort.entries[peer].mask
                key = pair_mask(pair, other, cohort.digest, members, (self.client, peer))
                (added if self.client < peer else subtracted).append(key)
        masks.accumulate(vector, words, added, subtracted)
        words.reduce(vector)
        packed = words.pack(vector)
        answer = self._signed(Masked(*secrets.place, session, self.client, b"", members, packed))
        # What the vector was masked with isn't needed again: off the disk.
        left = replace(secrets, members=members.hex(), mask="", self_seed="", base="", chain="")
        kept = self._said(secrets.invitation["purpose"], request, answer)
        self._advance(session, "shared", "masked", left, kept)
        return answer

    def _joined(self, session: str, members: bytes) -> tuple[Secrets, Cohort, list[int]]:
        secrets = self._read(session, "shared")
        cohort = self._cohort(bytes.fromhex(secrets.roster))
        known = unpack_members(members)
        if missing(known, cohort.clients) or self.client not in known:
            raise RoundError("the members aren't this roster's, or this client isn't among them")
        if len(known) < cohort.fewest:
            raise RoundError(f"{len(known)} members are too few; {cohort.fewest} have to be there")
        return secrets, cohort, known

    # 4. Survivors

    def confirm(self, survivors: Survivors) -> Confirmation:
        """Signs whose vectors are in the sum: one set in a session, and no other."""
        phase, secrets = self._load(survivors.session)
        if phase == "masked":
            self._check_survivors(secrets, survivors.members)
        elif phase not in ("confirmed", "revealed"):
            raise RoundError(f"survivors were asked for in phase {phase!r}")
        elif survivors.members.hex() != secrets.survivors:
            raise RoundError("a second set of survivors in one session")
        cohort = self._cohort(bytes.fromhex(secrets.roster))
        statement = agreement(
            survivors.session, cohort.digest, bytes.fromhex(secrets.members), survivors.members
        )
        place = (*secrets.place, survivors.session, self.client)
        answer = self._signed(Confirmation(*place, b"", statement))
        if phase == "masked":
            left = replace(secrets, survivors=survivors.members.hex())
            kept = self._said("query.confirm", survivors, answer)
            self._advance(survivors.session, "masked", "confirmed", left, kept)
        return answer

    def _check_survivors(self, secrets: Secrets, packed: bytes) -> None:
        members = unpack_members(bytes.fromhex(secrets.members))
        survived = unpack_members(packed)
        if missing(survived, members) or self.client not in survived:
            raise RoundError("the survivors aren't members, or this client isn't among them")
        fewest = self._rules.survivors(len(members))
        if len(survived) < fewest:
            raise RoundError(
                f"{len(survived)} survivors of {len(members)} carry less noise than planned",
                f"at least {fewest} are needed",
            )
        cohort = self._cohort(bytes.fromhex(secrets.roster))
        if not cohort.enough_around(self.client, survived):
            raise RoundError("too few of this client's neighbours survive to keep sums whole")

    # 5. Shares of the peers' secrets

    def reveal(self, request: Reveal) -> Revealed:
        """For each neighbour, a share of its self-mask, or of its key if it dropped."""
        phase, secrets = self._load(request.session)
        if phase not in ("confirmed", "revealed"):
            raise RoundError(f"shares were asked for in phase {phase!r}")
        cohort = self._cohort(bytes.fromhex(secrets.roster))
        self._check_quorum(request, cohort, secrets)
        shares = dealing.reveal(cohort, self.client, secrets, request.ciphertexts)
        place = (*secrets.place, request.session, self.client)
        answer = self._signed(Revealed(*place, b"", shares))
        if phase == "confirmed":
            kept = self._said("query.reveal", request, answer)
            self._advance(request.session, "confirmed", "revealed", secrets, kept)
        return answer

    def _check_quorum(self, request: Reveal, cohort: Cohort, secrets: Secrets) -> None:
        statement = agreement(
            request.session,
            cohort.digest,
            bytes.fromhex(secrets.members),
            bytes.fromhex(secrets.survivors),
        )
        survived = set(unpack_members(bytes.fromhex(secrets.survivors)))
        agreed = []
        for client, signature in unpack_signed(request.confirmations):
            public = self._directory.public(client) if client in survived else None
            if public is None or not verify(public, signature, statement):
                raise RoundError(f"client {client} didn't sign this set of survivors")
            agreed.append(client)
        needed = self._rules.quorum(cohort.size)
        if len(agreed) < needed:
            raise RoundError(f"{len(agreed)} clients signed the survivors; {needed} have to")
        if not cohort.enough_around(self.client, agreed):
            # Clients that refuse to confirm could be all that links two parts of the circle.
            raise RoundError("too few of this client's neighbours signed the survivors")

    # What they share

    def _cohort(self, entries: bytes) -> Cohort:
        return cohort(entries, self._rules)

    def _load(self, session: str) -> tuple[str, Secrets]:
        phase, body = self._vault.read(self.client, session)
        secrets = Secrets(**json.loads(body))
        # Else a later leg could be asked for as if under a plan with a lower threshold.
        if secrets.invitation.get("rules") != list(astuple(self._rules)):
            raise RoundError(f"session={session[:12]} was entered under other rules")
        return phase, secrets

    def _read(self, session: str, phase: str) -> Secrets:
        found, secrets = self._load(session)
        if found != phase:
            raise RoundError(f"session={session[:12]} is in phase {found!r}, not {phase!r}")
        return secrets

    def _said(self, kind: str, request: Message | None, answer: Answer) -> Said | None:
        """What the vault keeps of an answer."""
        if request is None or not self._vault.keeps:
            return None
        return Said(kind, request.digest(), answer.encode())

    def _advance(
        self, session: str, before: str, after: str, secrets: Secrets, kept: Said | None
    ) -> None:
        self._vault.advance(self.client, session, before, after, secrets.body(), kept)

    def _signed(self, answer: A) -> A:
        return replace(answer, signature=self._identity.sign(answer.statement()))
