"""The Flower ClientApp: decodes a request, checks it, answers with a bounded vector.

``tacit.client.app:app`` runs on Flower's own engines, where the task is found by the name
in the configuration; `make_app` takes a task made in Python.
"""

from __future__ import annotations

import functools

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from tacit.client import guard, update
from tacit.client.trainer import Trainer
from tacit.configs import build, wire
from tacit.configs.spec import RunSpec
from tacit.privacy.errors import RoundError
from tacit.privacy.messages import EvaluateReply, EvaluateRequest, TrainReply, TrainRequest
from tacit.privacy.noise import Randomness
from tacit.tasks.task import Task, check, load, tensors


def make_app(task: Task | None = None) -> ClientApp:
    """A ClientApp for ``task``, or for the task its run config names."""
    made = ClientApp()
    kept: dict[RunSpec, Trainer] = {}

    def trainer(spec: RunSpec) -> Trainer:
        if task is None:
            return named_trainer(spec)
        if spec not in kept:
            kept.clear()
            kept[spec] = make_trainer(check(task, spec), spec)
        return kept[spec]

    @made.train()
    def train(message: Message, context: Context) -> Message:
        request = wire.unpack(TrainRequest, message)
        own = trainer(build.from_run_config(context.run_config))
        _agree(own, request.plan, request.frozen)
        guard.check_clip(own.plan, request.clip)
        client = _member(context, own.spec)
        inputs, targets = tensors(own.task.data(client), f"client {client}")
        randomness = Randomness(own.spec.seed)
        local = own.train(
            request.parameters, inputs, targets, randomness, "train", request.round, client
        )
        vector, vote = update.prepare(local, len(inputs), request.clip, own.plan)
        reply = TrainReply(request.run, request.round, request.attempt, vector, vote)
        return Message(wire.pack(reply), reply_to=message)

    @made.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        request = wire.unpack(EvaluateRequest, message)
        own = trainer(build.from_run_config(context.run_config))
        _agree(own, request.plan, request.frozen)
        client = _member(context, own.spec)
        inputs, targets = tensors(own.task.data(client), f"client {client}")
        source = Randomness(own.spec.seed).source("evaluate", request.round, client)
        counts = own.counts(request.parameters, inputs, targets, source)
        reply = EvaluateReply(request.run, request.round, request.attempt, counts)
        return Message(wire.pack(reply), reply_to=message)

    @made.query()
    def who(message: Message, context: Context) -> Message:
        """Which client a node is; ids of Flower's simulation change from run to run."""
        record = ConfigRecord({"client": number(context)})
        return Message(RecordDict({"tacit": record}), reply_to=message)

    return made


def make_trainer(task: Task, spec: RunSpec) -> Trainer:
    """A trainer under the plan that the task and the configuration make."""
    return Trainer(task, spec, build.privacy_plan(spec, task.examples_per_client))


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


def _member(context: Context, spec: RunSpec) -> int:
    client = number(context)
    if client >= spec.clients:
        raise RoundError(f"this node's partition-id={client} must be below clients={spec.clients}")
    return client


def _agree(own: Trainer, plan: str, frozen: str) -> None:
    guard.check_plan(own.plan, plan)
    if frozen != own.frozen:
        raise RoundError(
            "the coordinator's model differs from this client's in what isn't trained",
            "make buffers and frozen parameters in the task's model() without outside state",
        )


app = make_app()
