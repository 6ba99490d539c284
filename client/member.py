"""One client answering one message: its own plan, its own limits, its own signature.

Guarantees: a request that was answered before gets the same bytes, from the client's vault,
before anything else is done; one that wasn't is checked against the client's own plan, floors
and caps first, and is charged in its own ledger before its vector leaves. A deployed client
whose vector is seen (``aggregation=plain``) answers each round and attempt once too.
A simulation's clients keep neither answers nor a ledger.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from flwr.app import Context, Message
from torch import Tensor

from tacit.client import guard, update
from tacit.client.delivery import Delivery
from tacit.client.floors import Floors
from tacit.client.ledger import Participation
from tacit.client.node import number, party_of
from tacit.client.party import LocalParty, Party
from tacit.client.refusing import Declined, because
from tacit.client.trainer import Trainer
from tacit.configs import wire
from tacit.privacy.errors import ConfigError, RoundError
from tacit.privacy.messages import (
    EvaluateReply,
    EvaluateRequest,
    Request,
    TrainReply,
    TrainRequest,
)
from tacit.privacy.messages import Message as Body
from tacit.privacy.noise import Randomness
from tacit.privacy.secagg.client import MaskingClient
from tacit.privacy.secagg.messages import (
    Invitation,
    Reveal,
    Roster,
    SessionMessage,
    Survivors,
)
from tacit.privacy.secagg.vault import Said
from tacit.privacy.units import Evaluation
from tacit.tasks.task import tensors

B = TypeVar("B", bound=Body)


class Member:
    """One client answering one message.

    Args:
        trainer: of the run; its plan is this client's own.
        context: of the node.
        party: see `tacit.client.app.make_app`.

    Raises:
        RoundError: from every method, when it refuses.
        MessageError: from every method, when a request isn't one.
    """

    def __init__(self, trainer: Trainer, context: Context, party: Party | None) -> None:
        self._own, self._context, self._given = trainer, context, party
        self._plan, self._spec = trainer.plan, trainer.spec
        self._client = number(context)
        if self._client >= self._spec.clients:
            raise RoundError(
                f"this node's partition-id={self._client} must be below "
                f"clients={self._spec.clients}"
            )
        if self._plan.aggregation == "shortcut" and not isinstance(party, LocalParty):
            raise RoundError(
                "this client's plan leaves out the masks of secure aggregation, as only "
                "simulations may",
                "set secure.protocol=full",
            )
        self._randomness = Randomness(self._spec.seed)

    # The messages

    def train(self, message: Message) -> Message:
        """Local training, and its update."""
        return self._reply(message, TrainRequest, _of_task("train"), self._train)

    def evaluate(self, message: Message) -> Message:
        """Clipped counts of a federated evaluation."""
        return self._reply(message, EvaluateRequest, _of_task("evaluate"), self._evaluate)

    def advertise(self, message: Message) -> Message:
        """Enters a session of secure aggregation, under this client's own plan."""
        return self._reply(message, Invitation, Invitation.session, self._advertise)

    def share(self, message: Message) -> Message:
        """Splits this client's secrets of a session."""
        return self._reply(message, Roster, _session, self._share)

    def confirm(self, message: Message) -> Message:
        """Signs whose vectors are in the sum."""
        return self._reply(message, Survivors, _session, lambda r: self._masking().confirm(r))

    def reveal(self, message: Message) -> Message:
        """Shares of its neighbours' secrets."""
        return self._reply(message, Reveal, _session, lambda r: self._masking().reveal(r))

    def _reply(
        self,
        message: Message,
        kind: type[B],
        session: Callable[[B], str],
        work: Callable[[B], Body],
    ) -> Message:
        """What was said to this very request before, or else what work makes of it; signed."""
        request = wire.unpack(kind, message)
        said = self._said(message, request, session)
        if said is None:
            try:
                said = work(request).encode()
            except RoundError:
                # Another process of this client may have been faster with the same request.
                said = self._said(message, request, session)
                if said is None:
                    raise
        identity = None
        if wire.nonce(message) is not None:
            identity = self._must().identity(self._client)
        return Message(wire.reply(said, message, self._client, identity), reply_to=message)

    def _said(self, message: Message, request: B, session: Callable[[B], str]) -> bytes | None:
        if self._party is None:
            return None
        vault = self._party.vault(self._client)
        if not vault.keeps:
            return None
        digest = hashlib.sha256(wire.body(message)).digest()
        kind = message.metadata.message_type
        return vault.said(self._client, session(request), kind, digest)

    # What they do

    def _train(self, request: TrainRequest) -> Body:
        self._agree(request, "train")
        with because("PLAN"):
            guard.check_clip(self._plan, request.clip)
        with because("FLOOR"):
            self._floors.check_clip(request.clip)
        delivery = self._delivery("train", request)
        inputs, targets = self._data()
        labels = ("train", request.round, self._client)
        local = self._own.train(request.parameters, inputs, targets, self._randomness, *labels)
        vector = update.prepare(local, len(inputs), request.clip, self._plan)
        self._charge("train", request)
        if delivery is not None and self._plan.updates is not None:
            made = delivery.reply(vector, request.clip, self._plan.updates)
        else:
            made = TrainReply(request.run, request.round, request.attempt, *vector)
        return self._once("train", request, made)

    def _evaluate(self, request: EvaluateRequest) -> Body:
        self._agree(request, "evaluate")
        delivery = self._delivery("evaluate", request)
        inputs, targets = self._data()
        source = self._randomness.source("evaluate", request.round, self._client)
        counts = self._own.counts(request.parameters, inputs, targets, source)
        self._charge("evaluate", request)
        if delivery is not None and self._plan.counts is not None:
            vector = (counts, np.zeros(0, dtype=np.float32))
            made = delivery.reply(vector, Evaluation.SENSITIVITY, self._plan.counts)
        else:
            made = EvaluateReply(request.run, request.round, request.attempt, counts)
        return self._once("evaluate", request, made)

    def _advertise(self, invitation: Invitation) -> Body:
        self._agree_on_plan(invitation.plan)
        self._project(invitation)
        return self._masking().advertise(invitation)

    def _share(self, roster: Roster) -> Body:
        masking = self._masking()
        labels = masking.labels(roster.session)
        return masking.share(roster, self._randomness.source("shares", *labels, self._client))

    def _agree(self, request: Request, purpose: str) -> None:
        self._agree_on_plan(request.plan)
        if request.frozen != self._own.frozen:
            raise Declined(
                "PLAN",
                "the coordinator's model differs from this client's in what isn't trained",
                "make buffers and frozen parameters in the task's model() without outside state",
            )
        if self._plan.aggregation != "secure":
            self._project_task(purpose, request)

    def _agree_on_plan(self, digest: str) -> None:
        with because("PLAN"):
            guard.check_plan(self._plan, digest)
        with because("FLOOR"):
            self._floors.check(self._plan)

    def _delivery(self, purpose: str, request: Request) -> Delivery | None:
        if self._plan.rules is None:
            return None
        masking = self._masking() if self._plan.aggregation == "secure" else None
        return Delivery(self._plan, purpose, request, self._client, masking, self._randomness)

    def _data(self) -> tuple[Tensor, Tensor]:
        return tensors(self._own.task.data(self._client), f"client {self._client}")

    # Its own ledger, and its promise to answer once where vectors are seen

    def _deployed(self) -> bool:
        return self._party is not None and self._party.deployed

    def _project_task(self, purpose: str, request: Request) -> None:
        if self._deployed():
            self._project(Invitation.to(request, purpose))

    def _project(self, invitation: Invitation) -> None:
        ledger = self._party.ledger(self._client) if self._party is not None else None
        if ledger is not None:
            ledger.project(self._participation(invitation))

    def _charge(self, purpose: str, request: Request) -> None:
        ledger = self._party.ledger(self._client) if self._party is not None else None
        if ledger is not None:
            ledger.charge(self._participation(Invitation.to(request, purpose)))

    def _participation(self, invitation: Invitation) -> Participation:
        place = (invitation.run, invitation.round, invitation.attempt, invitation.purpose)
        return Participation(*place, self._plan, invitation.session())

    def _once(self, purpose: str, request: Request, made: Body) -> Body:
        """Promises that this is the round's only answer; secure aggregation has done so."""
        if self._plan.aggregation != "secure" and self._deployed():
            place = (request.run, purpose, request.round, request.attempt)
            session = Invitation.to(request, purpose).session()
            said = Said(purpose, request.digest(), made.encode())
            self._must().vault(self._client).open(self._client, place, session, b"", said)
        return made

    # Who it is

    @cached_property
    def _party(self) -> Party | None:
        return party_of(self._context, self._given)

    def _must(self) -> Party:
        if self._party is None:
            raise ConfigError(
                "this node has no client-home, the folder of its key and directory",
                "set it with --node-config 'client-home=PATH', or use aggregation=plain",
            )
        return self._party

    def _masking(self) -> MaskingClient:
        if self._plan.rules is None or self._plan.aggregation != "secure":
            raise RoundError("this client's plan has no secure aggregation")
        return self._must().masking(self._client, self._plan.rules)

    @property
    def _floors(self) -> Floors:
        return self._party.floors if self._party is not None else Floors()


def _session(request: SessionMessage) -> str:
    return request.session


def _of_task(purpose: str) -> Callable[[Any], str]:
    """The session that a task belongs to."""
    return lambda request: Invitation.to(request, purpose).session()
