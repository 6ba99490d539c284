"""What a device answers to one leg of a round, whatever brought it.

`Member.answer` takes a leg's kind, its bytes and the run document, and gives an answer in bytes
or a refusal with its reason.

Guarantees:

* nothing is answered without a run document that the pinned coordinator key signed, for this
  population and this run; a run keeps the plan with which this device first met it;
* the plan is within the owner's floors and caps: projected at the first leg, charged durably
  before a vector is made;
* the very same leg gets the very same bytes, over restarts; one session gives one vector; for
  each peer a share of one kind leaves, never both (`tacit.privacy.secagg.client`);
* a refusal names settings, never data: before the charge records are looked at for types and
  shapes alone, and after it whatever fails gives what no records give, noised as always.

It doesn't hide that the device was asked and when it answered.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.client import terms, update
from tacit.client.delivery import Delivery
from tacit.client.edge import steps
from tacit.client.edge.declining import Declined, capped, declining, failing
from tacit.client.edge.journal import say
from tacit.client.edge.peers import Entry, Peers
from tacit.client.edge.steps import Trainer
from tacit.client.floors import Floors
from tacit.client.ledger import ClientLedger, Participation
from tacit.privacy.messages import (
    EvaluateReply,
    Message,
    Request,
    TrainReply,
    TrainRequest,
    Vector,
)
from tacit.privacy.noise import Randomness, SystemSource
from tacit.privacy.secagg.client import MaskingClient
from tacit.privacy.secagg.keys import Identity
from tacit.privacy.secagg.messages import (
    LEGS,
    Invitation,
    Reveal,
    Roster,
    SessionMessage,
    Survivors,
    unpack_roster,
)
from tacit.privacy.secagg.vault import Said, Vault
from tacit.privacy.units import Evaluation
from tacit.protocol.document import RunDocument, decode

Pair = tuple[NDArray[Any], Vector]
# Of a round's training: a plan with more is nobody's that a device could finish.
MOST_STEPS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a member is made of.

    Attributes:
        client: its number.
        population: it belongs to.
        identity: its signing key.
        coordinator: Ed25519 key of run documents, pinned.
        peers: the identities of others.
        vault: its sessions.
        ledger: what it spent, and its caps.
        floors: its owner's.
        trainer: of its records.
    """

    client: int
    population: str
    identity: Identity
    coordinator: bytes
    peers: Peers
    vault: Vault
    ledger: ClientLedger
    floors: Floors
    trainer: Trainer


class Member:
    """One device, leg by leg; not to be used by two threads at once.

    Args:
        parts: see there.
    """

    def __init__(self, parts: Parts) -> None:
        self._is = parts
        self._read = functools.lru_cache(maxsize=4)(self._document)

    def document(self, data: bytes) -> RunDocument:
        """A run document, verified.

        Raises:
            Declined: the pinned coordinator didn't sign it, it is for another population, or
                the run had another plan before.
        """
        return self._read(data)

    def unknown(self, kind: str, body: bytes) -> list[int]:
        """Clients that a leg is about and whose identities aren't pinned here yet.

        Raises:
            Declined: the bytes aren't this kind of leg.
        """
        if kind != "query.share":
            return []
        with declining("MALFORMED"):
            entries = unpack_roster(Roster.decode(body).entries)
        return self._is.peers.unknown(entry.client for entry in entries)

    def meet(self, entries: Iterable[Entry]) -> None:
        """Pins the identities of peers.

        Raises:
            Declined: one isn't attested, or isn't the one that is pinned.
        """
        with declining("PROTOCOL"):
            self._is.peers.pin(entries)

    def answer(self, kind: str, body: bytes, document: bytes, eligible: bool = True) -> bytes:
        """Answers a leg.

        Args:
            kind: of the leg, one of `tacit.privacy.secagg.messages.LEGS`.
            body: of the leg.
            document: the run document, signed.
            eligible: whether the owner's conditions hold; they have to where a session begins
                and where there is work to do.

        Raises:
            Declined: with the reason.
        """
        with failing():
            return self._answer(kind, body, document, eligible)

    def _answer(self, kind: str, body: bytes, document: bytes, eligible: bool) -> bytes:
        if kind not in LEGS:
            raise Declined("UNSUPPORTED", f"kind={kind!r} isn't a leg of a round")
        with declining("MALFORMED"):
            message = LEGS[kind].decode(body)
        about = self.document(document)
        if message.run != about.run:
            raise Declined("PLAN", "the run document is another run's")
        said = self._said(about, _session(message), kind, body)
        if said is not None:
            return said
        if isinstance(message, Request):
            return self._work(about, message, kind, body, eligible)
        if isinstance(message, Invitation):
            return self._advertise(about, message, eligible)
        masking = self._masking(about)
        with declining("PROTOCOL"):
            if isinstance(message, Roster):
                return masking.share(message, SystemSource()).encode()
            if isinstance(message, Survivors):
                return masking.confirm(message).encode()
            assert isinstance(message, Reveal)
            return masking.reveal(message).encode()

    def _document(self, data: bytes) -> RunDocument:
        with declining("UNSIGNED"):
            about = decode(data, self._is.coordinator)
        if about.population != self._is.population:
            raise Declined("PLAN", "the run document is for another population")
        with declining("PLAN"):
            self._is.peers.agree(about.run, about.plan.digest())
        return about

    def _said(self, about: RunDocument, session: str, kind: str, body: bytes) -> bytes | None:
        """What was answered to the very same leg."""
        if about.plan.aggregation == "secure":
            return self._masking(about).answered(session, kind, body)
        return self._is.vault.said(self._is.client, session, kind, hashlib.sha256(body).digest())

    def _advertise(self, about: RunDocument, invitation: Invitation, eligible: bool) -> bytes:
        """Enters a session under the device's own conditions."""
        if invitation.purpose not in ("train", "evaluate"):
            raise Declined("MALFORMED", "the invitation's purpose is neither train nor evaluate")
        self._agree(about, invitation.plan)
        masking = self._masking(about)
        if not eligible:
            raise Declined("INELIGIBLE", "the device's conditions don't hold now")
        self._fits(about, invitation.purpose)
        entry = _entry(about, invitation)
        with capped():
            self._is.ledger.project(entry)
        with declining("PROTOCOL"):
            return masking.advertise(invitation).encode()

    def _work(
        self, about: RunDocument, request: Request, kind: str, body: bytes, eligible: bool
    ) -> bytes:
        """Trains or evaluates, and lets the vector out once it is charged."""
        plan = about.plan
        self._agree(about, request.plan)
        if request.frozen != about.frozen:
            raise Declined("PLAN", "what isn't trained differs from the run document's")
        if kind == "train":
            with declining("PLAN"):
                terms.check_clip(plan, request.clip)
            with declining("FLOOR"):
                self._is.floors.check_clip(request.clip)
        if request.parameters.shape != (about.step.size,):
            size = request.parameters.size
            raise Declined("PLAN", f"parameters={size} aren't the graph's {about.step.size}")
        invitation = Invitation.to(request, kind)
        with declining("PROTOCOL"):
            masking = self._masking(about) if plan.aggregation == "secure" else None
            place = (plan, kind, request, self._is.client, masking, Randomness(None))
            delivery = Delivery(*place) if plan.rules is not None else None
        if not eligible:
            raise Declined("INELIGIBLE", "the device's conditions don't hold now")
        self._fits(about, kind)
        with capped():
            self._is.ledger.charge(_entry(about, invitation))
        vector = self._vector(about, request, kind)
        with declining("PROTOCOL"):
            answer = _reply(about, request, kind, vector, delivery).encode()
            if masking is None:
                # Where vectors are seen nothing else keeps a round to one of them.
                said = Said(kind, hashlib.sha256(body).digest(), answer)
                where = (request.run, kind, request.round, request.attempt)
                self._is.vault.open(self._is.client, where, invitation.session(), b"", said)
        return answer

    def _vector(self, about: RunDocument, request: Request, kind: str) -> tuple[Pair, float]:
        """Values, vote and the bound of the values, whatever happens to the records.

        It is charged: from here on a refusal would be a bit about records without noise. So a
        device that fails answers as one that has none, and only its own log says otherwise.
        """
        if kind == "train":
            try:
                made, records = self._is.trainer.train(about, request.parameters)
                return update.prepare(made, records, request.clip, about.plan), request.clip
            except Exception as error:  # noqa: BLE001 - whatever broke, it may not show
                _broke(error)
            made = steps.idle(about, request.parameters)
            return update.prepare(made, 0, request.clip, about.plan), request.clip
        try:
            counts = self._is.trainer.counts(about, request.parameters)
        except Exception as error:  # noqa: BLE001 - as above
            _broke(error)
            counts = steps.noised(about.plan, np.zeros(3))
        return (counts, np.zeros(0, dtype=np.float32)), Evaluation.SENSITIVITY

    def _agree(self, about: RunDocument, digest: str) -> None:
        """The request is under the document's plan, and that is one for this device."""
        plan = about.plan
        with declining("PLAN"):
            terms.check_plan(plan, digest)
        if plan.record is None:
            raise Declined("UNSUPPORTED", "privacy.record=none: devices train by DP-SGD only")
        if plan.aggregation == "shortcut":
            raise Declined("UNSUPPORTED", "aggregation=shortcut is a simulation's")
        if plan.record.steps > MOST_STEPS:
            text = f"steps={plan.record.steps} of a round are more than {MOST_STEPS}"
            raise Declined("UNSUPPORTED", text)
        with declining("FLOOR"):
            self._is.floors.check(plan)

    def _fits(self, about: RunDocument, purpose: str) -> None:
        """The document's graphs can be run here, on this device's records."""
        if purpose == "evaluate" and about.evaluation is None:
            raise Declined("UNSUPPORTED", "the run document has no evaluation")
        self._is.trainer.fits(about, purpose)

    def _masking(self, about: RunDocument) -> MaskingClient:
        rules = about.plan.rules
        if rules is None or about.plan.aggregation != "secure":
            raise Declined("PROTOCOL", "the plan has no secure aggregation")
        of = self._is
        return MaskingClient(of.client, of.identity, of.peers, rules, of.vault)


def _session(message: Message) -> str:
    """The session that a leg belongs to."""
    if isinstance(message, SessionMessage):
        return message.session
    if isinstance(message, Invitation):
        return message.session()
    assert isinstance(message, Request)
    purpose = "train" if isinstance(message, TrainRequest) else "evaluate"
    return Invitation.to(message, purpose).session()


def _entry(about: RunDocument, invitation: Invitation) -> Participation:
    place = (invitation.run, invitation.round, invitation.attempt, invitation.purpose)
    return Participation(*place, about.plan, invitation.session())


def _reply(
    about: RunDocument,
    request: Request,
    kind: str,
    made: tuple[Pair, float],
    delivery: Delivery | None,
) -> Message:
    """The form in which the vector leaves."""
    vector, bound = made
    lattice = about.plan.updates if kind == "train" else about.plan.counts
    if delivery is not None and lattice is not None:
        return delivery.reply(vector, bound, lattice)
    place = (request.run, request.round, request.attempt)
    if kind == "train":
        return TrainReply(*place, *vector)
    return EvaluateReply(*place, vector[0])


def _broke(error: Exception) -> None:
    """What failed after the charge, for the device's own log: its type and nothing else."""
    say("failed", logging.ERROR, cause=type(error).__name__)
