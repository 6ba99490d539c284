"""The Flower ClientApp: decodes a request, checks it, answers with a bounded vector.

``tacit.client.app:app`` runs on Flower's own engines, where the task is found by the name
in the configuration; `make_app` takes a task made in Python. Messages: ``train``,
``evaluate``, and for secure aggregation ``query.advertise``, ``query.share``,
``query.confirm`` and ``query.reveal``; plain ``query`` asks a node for its number.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor

from tacit.client import guard, update
from tacit.client.delivery import Delivery
from tacit.client.floors import Floors
from tacit.client.party import LocalParty, Party, folder_party
from tacit.client.trainer import Trainer
from tacit.configs import build, wire
from tacit.configs.spec import RunSpec
from tacit.privacy.errors import ConfigError, RoundError
from tacit.privacy.messages import (
    EvaluateReply,
    EvaluateRequest,
    Request,
    TrainReply,
    TrainRequest,
)
from tacit.privacy.messages import Message as Answer
from tacit.privacy.noise import Randomness
from tacit.privacy.secagg.client import MaskingClient
from tacit.privacy.secagg.messages import Invitation, Reveal, Roster, Survivors
from tacit.privacy.units import Evaluation
from tacit.tasks.task import Task, check, load, tensors
from tacit.tasks.task import plan as privacy_plan

MakeTrainer = Callable[[Task, RunSpec], Trainer]


def make_app(
    task: Task | None = None, party: Party | None = None, trainer: MakeTrainer | None = None
) -> ClientApp:
    """A ClientApp.

    Args:
        task: what is learned, or None for the task that its run config names.
        party: identities for secure aggregation; None reads them from the node's files.
        trainer: makes what trains ``task``; None takes `make_trainer`. An audit plants its
            canaries here: all that bounds, encodes and noises an update comes after it.
    """
    made = ClientApp()
    kept: dict[RunSpec, Trainer] = {}

    def member(context: Context) -> Member:
        spec = build.from_run_config(context.run_config)
        if task is None:
            return Member(named_trainer(spec), context, party)
        if spec not in kept:
            kept.clear()
            kept[spec] = (trainer or make_trainer)(check(task, spec), spec)
        return Member(kept[spec], context, party)

    @made.train()
    def train(message: Message, context: Context) -> Message:
        answer = member(context).train(wire.unpack(TrainRequest, message))
        return Message(wire.pack(answer), reply_to=message)

    @made.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        answer = member(context).evaluate(wire.unpack(EvaluateRequest, message))
        return Message(wire.pack(answer), reply_to=message)

    @made.query()
    def who(message: Message, context: Context) -> Message:
        """Which client a node is; ids of Flower's simulation change from run to run."""
        record = ConfigRecord({"client": number(context)})
        return Message(RecordDict({"tacit": record}), reply_to=message)

    _register_sessions(made, member)
    return made


def _register_sessions(made: ClientApp, member: Callable[[Context], Member]) -> None:
    """The exchanges of secure aggregation around the training itself."""

    @made.query("advertise")
    def advertise(message: Message, context: Context) -> Message:
        answer = member(context).advertise(wire.unpack(Invitation, message))
        return Message(wire.pack(answer), reply_to=message)

    @made.query("share")
    def share(message: Message, context: Context) -> Message:
        answer = member(context).share(wire.unpack(Roster, message))
        return Message(wire.pack(answer), reply_to=message)

    @made.query("confirm")
    def confirm(message: Message, context: Context) -> Message:
        answer = member(context).masking().confirm(wire.unpack(Survivors, message))
        return Message(wire.pack(answer), reply_to=message)

    @made.query("reveal")
    def reveal(message: Message, context: Context) -> Message:
        answer = member(context).masking().reveal(wire.unpack(Reveal, message))
        return Message(wire.pack(answer), reply_to=message)


class Member:
    """One client answering one message.

    Args:
        trainer: of the run; its plan is this client's own.
        context: of the node.
        party: see `make_app`.
    """

    def __init__(self, trainer: Trainer, context: Context, party: Party | None) -> None:
        self._own, self._context, self._party = trainer, context, party
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

    def train(self, request: TrainRequest) -> Answer:
        """Local training, and its update."""
        self._agree(request)
        guard.check_clip(self._plan, request.clip)
        self._floors.check_clip(request.clip)
        delivery = self._delivery("train", request)
        inputs, targets = self._data()
        labels = ("train", request.round, self._client)
        local = self._own.train(request.parameters, inputs, targets, self._randomness, *labels)
        vector = update.prepare(local, len(inputs), request.clip, self._plan)
        if delivery is not None and self._plan.updates is not None:
            return delivery.reply(vector, request.clip, self._plan.updates)
        return TrainReply(request.run, request.round, request.attempt, *vector)

    def evaluate(self, request: EvaluateRequest) -> Answer:
        """Clipped counts of a federated evaluation."""
        self._agree(request)
        delivery = self._delivery("evaluate", request)
        inputs, targets = self._data()
        source = self._randomness.source("evaluate", request.round, self._client)
        counts = self._own.counts(request.parameters, inputs, targets, source)
        if delivery is not None and self._plan.counts is not None:
            vector = (counts, np.zeros(0, dtype=np.float32))
            return delivery.reply(vector, Evaluation.SENSITIVITY, self._plan.counts)
        return EvaluateReply(request.run, request.round, request.attempt, counts)

    def advertise(self, invitation: Invitation) -> Answer:
        """Enters a session of secure aggregation, under this client's own plan."""
        guard.check_plan(self._plan, invitation.plan)
        self._floors.check(self._plan)
        return self.masking().advertise(invitation)

    def share(self, roster: Roster) -> Answer:
        """Splits this client's secrets of a session."""
        masking = self.masking()
        labels = masking.labels(roster.session)
        return masking.share(roster, self._randomness.source("shares", *labels, self._client))

    def masking(self) -> MaskingClient:
        """This client's side of secure aggregation.

        Raises:
            RoundError: its plan has none.
        """
        if self._plan.rules is None or self._plan.aggregation != "secure":
            raise RoundError("this client's plan has no secure aggregation")
        party = self._party or self._files()
        if party is None:
            raise ConfigError(
                "this node has no client-home, the folder of its key and directory",
                "set it with --node-config 'client-home=PATH', or use aggregation=plain",
            )
        return party.masking(self._client, self._plan.rules)

    @property
    def _floors(self) -> Floors:
        party = self._party or self._files()
        return party.floors if party is not None else Floors()

    def _files(self) -> Party | None:
        folder = _folder(self._context)
        return folder_party(folder) if folder is not None else None

    def _delivery(self, purpose: str, request: Request) -> Delivery | None:
        if self._plan.rules is None:
            return None
        masking = self.masking() if self._plan.aggregation == "secure" else None
        return Delivery(self._plan, purpose, request, self._client, masking, self._randomness)

    def _data(self) -> tuple[Tensor, Tensor]:
        return tensors(self._own.task.data(self._client), f"client {self._client}")

    def _agree(self, request: Request) -> None:
        guard.check_plan(self._plan, request.plan)
        self._floors.check(self._plan)
        if request.frozen != self._own.frozen:
            raise RoundError(
                "the coordinator's model differs from this client's in what isn't trained",
                "make buffers and frozen parameters in the task's model() without outside state",
            )


def make_trainer(task: Task, spec: RunSpec) -> Trainer:
    """A trainer under the plan that the task and the configuration make."""
    return Trainer(task, spec, privacy_plan(task, spec))


@functools.lru_cache(maxsize=2)
def named_trainer(spec: RunSpec) -> Trainer:
    """The trainer of a configuration that names its task; one a process.

    Ray ships a ClientApp to its workers with every message, so what is to be kept between
    messages can't be the app's own.
    """
    return make_trainer(load(spec), spec)


def number(context: Context) -> int:
    """The client's number, from the node's configuration."""
    found = context.node_config.get("partition-id")
    if found is None:
        raise RoundError(
            "this node has no partition-id", "start it with --node-config 'partition-id=K'"
        )
    if isinstance(found, bool) or not str(found).isdecimal():
        raise RoundError(f"this node's partition-id={found} isn't a client's number")
    return int(found)


def _folder(context: Context) -> Path | None:
    """Where this node's key, directory, floors and vault are.

    A node says so itself; only in Flower's simulation, where all nodes are one machine's, is
    it the folder that the coordinator keeps for them.
    """
    if context.node_config.get("client-home"):
        return Path(str(context.node_config["client-home"]))
    home = context.run_config.get("home")
    simulated = Path(str(home)) / "clients" if home else None
    return simulated if simulated is not None and simulated.is_dir() else None


app = make_app()
